"""Decision rules of the price study (Figures 1 and 6), as code: a table of runs in, rows of evidence out.

Differences are paired over seeds. A rule that the table cannot answer raises ``NotHere`` with what could. Accuracy
margins are half a point (0.005): differences below it are smaller than the spread that the study itself plots.
"""

from itertools import pairwise

import numpy as np
import pandas as pd

from lib.claims.decisions import Effect, NotHere

MARGIN = 0.005
MEMORISES = 0.25  # memorised share below which a solution has not learned its wrong labels (chance is 1 / classes)
FITTED = 0.995  # training accuracy from which a solution counts as fitting its training set


# -- from the table to one number per seed ---------------------------------------------------------------------------


def _final(table):
    return table.sort_values("epoch").groupby("key", sort=False).tail(1)


def _at(table, solution, measure, sparsity=None, how="final"):
    """One number per seed: ``measure`` of ``solution`` at its final epoch, or its max or min over epochs."""
    rows = table[table["solution"] == solution]
    if sparsity is not None:
        rows = rows[np.isclose(rows["sparsity"], sparsity)]
    if how == "final":
        return _final(rows).set_index("seed")[measure].sort_index()
    return rows.groupby("seed")[measure].agg(how).sort_index()


def _difference(table, measure, first, second, sparsity=None, how="final"):
    """``first`` minus ``second`` by seed. Accuracies and shares are in points."""
    a = _at(table, first, measure, None if first == "sol_d" else sparsity, how)
    b = _at(table, second, measure, None if second == "sol_d" else sparsity, how)
    return (a - b).dropna().to_numpy() * _scale(measure)


def _scale(measure):
    return 1.0 if measure.endswith(("_loss", "_entropy")) else 100.0


def _unit(measure):
    return "nats" if measure.endswith(("_loss", "_entropy")) else "points"


def _direction(table, measure, first, second, sparsity=None, how="final", label=None):
    what = label or f"{measure}: {_name(first)} - {_name(second)}"
    if sparsity is not None:
        what += f" at {sparsity:g}"
    scale = 100.0 if _scale(measure) == 100.0 else 1.0
    margin = MARGIN * scale if scale == 100.0 else 0.0
    return Effect(what, _difference(table, measure, first, second, sparsity, how), _unit(measure), margin=margin)


def _name(solution):
    return solution.replace("_", "-").title()


def _grid(table):
    return sorted(table.loc[table["solution"] == "sol_f", "sparsity"].unique())


def _own_setting(table, dataset, network):
    if set(table["dataset"]) != {dataset} or set(table["network"]) != {network}:
        raise NotHere(f"a number of {dataset} with {network}: preset paper can test it")


# -- Figure 1 --------------------------------------------------------------------------------------------------------


def boundary(table: pd.DataFrame) -> pd.Series:
    """By seed: the lowest sparsity from which on Sol-F fits the training set better by over half a point; NaN if none."""
    gaps = _gap_curves(table, "train_accuracy")
    places = {}
    for seed, row in gaps.iterrows():
        beyond = row.to_numpy() > 100 * MARGIN
        last_within = np.flatnonzero(~beyond).max(initial=-1)
        places[seed] = row.index[last_within + 1] if last_within + 1 < len(row) else np.nan
    return pd.Series(places, dtype=float)


def _gap_curves(table, measure):
    """Sol-F minus Sol-S: a row per seed, a column per sparsity."""
    last = _final(table)
    wide = last[last["solution"] != "sol_d"].pivot_table(index="seed", columns=["solution", "sparsity"], values=measure)
    return ((wide["sol_f"] - wide["sol_s"]) * _scale(measure)).dropna()


def price_gap_test_acc(table):
    return [_direction(table, "test_accuracy", "sol_f", "sol_s", s) for s in _grid(table)]


def price_gap_widens_then_closes(table):
    gaps = _gap_curves(table, "test_accuracy")
    if gaps.shape[1] < 4:
        raise NotHere("needs four sparsities or more")
    inner = gaps.iloc[:, 1:-1]
    rise, fall = [], []
    for seed in gaps.index:  # the place of the peak comes from the other seeds, so that it is not picked for this one
        peak = inner.drop(index=seed).mean().idxmax()
        rise.append(gaps.loc[seed, peak] - gaps.loc[seed].iloc[0])
        fall.append(gaps.loc[seed, peak] - gaps.loc[seed].iloc[-1])
    return [
        Effect("test gap: inner peak - lowest sparsity", np.array(rise), "points"),
        Effect("test gap: inner peak - highest sparsity", np.array(fall), "points"),
    ]


def price_acc_falls_with_sparsity(table):
    effects = []
    for solution in ("sol_f", "sol_s"):
        last = _final(table)
        wide = last[last["solution"] == solution].pivot_table(index="seed", columns="sparsity", values="test_accuracy")
        if wide.shape[1] < 3:
            raise NotHere("needs three sparsities or more")
        ranks = wide.rank(axis=1)
        order = pd.Series(wide.columns, index=wide.columns).rank()
        rho = ranks.apply(lambda row, order=order: row.corr(order), axis=1)
        effects.append(Effect(f"-Spearman(sparsity, test accuracy) of {_name(solution)}", -rho.to_numpy(), "rho"))
    return effects


def price_dense_reference(table):
    _own_setting(table, "cifar100", "resnet-32")
    accuracy = _at(table, "sol_d", "test_accuracy").to_numpy()
    fit = _at(table, "sol_d", "train_accuracy").to_numpy()
    return [
        Effect("Sol-D's test accuracy - 78.0", 100 * (accuracy - 0.78), "points", claim="equal", margin=0.5),
        Effect("Sol-D's training accuracy - 99.5", 100 * (fit - FITTED), "points"),
    ]


def price_regime1_train_match(table):
    last = _final(table)
    means = last[last["solution"] != "sol_d"].pivot_table(index="sparsity", columns="solution", values="train_accuracy")
    regime = [s for s in means.index if means.loc[s].min() >= FITTED]
    if not regime:
        raise NotHere("no sparsity here at which both solutions fit the training set")
    effects = []
    for s in regime:
        gap = _difference(table, "train_accuracy", "sol_f", "sol_s", s)
        effects.append(Effect(f"train gap at {s:g}", gap, "points", claim="equal", margin=100 * MARGIN))
        effects.append(_direction(table, "test_accuracy", "sol_f", "sol_s", s, label="test gap"))
    return effects


def price_regime2_train_gap(table):
    last = _final(table)
    scratch = last[last["solution"] == "sol_s"].groupby("sparsity")["train_accuracy"].mean()
    regime = [s for s in scratch.index if scratch[s] < FITTED]
    if not regime:
        raise NotHere("Sol-S fits the training set at every sparsity here: higher ones would be needed")
    effects = [_direction(table, "train_accuracy", "sol_f", "sol_s", s, label="train gap") for s in regime]
    return effects + [_direction(table, "test_accuracy", "sol_f", "sol_s", s, label="test gap") for s in regime]


def price_regime_boundary(table):
    grid, places = np.array(_grid(table)), boundary(table)
    if len(grid) < 3:
        raise NotHere("needs three sparsities or more")
    step = np.diff(grid).max() / 2
    note = f"boundary {places.mean():.3f} (seeds {places.min():g} to {places.max():g})" if places.notna().any() else "no seed has one"
    places = places.fillna(grid[-1] + 2 * step)  # beyond the grid
    effects = [
        Effect("boundary - lowest sparsity", (places - grid[0]).to_numpy(), "sparsity", note=note),
        Effect("highest sparsity - boundary", (grid[-1] - places).to_numpy(), "sparsity"),
    ]
    if set(table["dataset"]) == {"cifar100"} and set(table["network"]) == {"resnet-32"}:
        effects.append(Effect("boundary - 0.93", (places - 0.93).to_numpy(), "sparsity", "equal", 0.03, resolution=0.0))
    return effects


def price_loss_test_gap(table):
    return [_direction(table, "test_loss", "sol_s", "sol_f", s) for s in _grid(table)]


def price_loss_train_gap(table):
    return [_direction(table, "train_loss", "sol_s", "sol_f", s) for s in _grid(table)]


def price_entropy_gap(table):
    grid = _grid(table)
    effects = [_direction(table, "train_entropy", "sol_s", "sol_f", s) for s in grid]
    if len(grid) > 1:
        gaps = -_gap_curves(table, "train_entropy")
        effects.append(Effect("entropy gap: highest - lowest sparsity", (gaps.iloc[:, -1] - gaps.iloc[:, 0]).to_numpy(), "nats"))
    return effects


def price_entropy_transition(table):
    places = boundary(table)
    grid = np.array(_grid(table))
    if places.isna().all() or not grid[0] < places.mean() < grid[-1]:
        raise NotHere("the two regimes have no border inside the sparsities here")
    border = grid[np.abs(grid - places.median()).argmin()]
    last, effects = _final(table), []
    for solution in ("sol_f", "sol_s"):
        wide = last[last["solution"] == solution].pivot_table(index="seed", columns="sparsity", values="train_entropy")
        flat, steep = np.log(wide[border] / wide[grid[0]]), np.log(wide[grid[-1]] / wide[border])
        effects += [
            Effect(f"{_name(solution)}: ln 2 - ln(entropy at {border:g} / at {grid[0]:g})", np.log(2) - flat.to_numpy(), "ln"),
            Effect(f"{_name(solution)}: ln(entropy at {grid[-1]:g} / at {border:g}) - ln 3", steep.to_numpy() - np.log(3), "ln"),
        ]
    return effects


def price_capacity_control(table):
    last = _final(table)
    wide = last[last["solution"] != "sol_d"].pivot_table(index=["seed", "sparsity"], columns="solution", values="mask", aggfunc="first")
    same = (wide["sol_f"] == wide["sol_s"]).groupby("seed").mean().to_numpy()
    return [Effect("share of pairs with different masks", 1 - same, "share", claim="equal", margin=1e-9, note="an identity, by seed")]


# -- Figure 6 --------------------------------------------------------------------------------------------------------


def _noisy(table):
    noisy = table[table["noise"] > 0]
    if noisy.empty:
        raise NotHere("needs label noise above 0")
    return noisy


def _chain(table, measure, solutions, how="final", label=None):
    """The first is above the second, the second above the third."""
    name = label or f"{'' if how == 'final' else how + ' '}{measure}"
    return [_direction(table, measure, a, b, how=how, label=f"{name}: {_name(a)} - {_name(b)}") for a, b in pairwise(solutions)]


def price_noisy_test_order(table):
    return _chain(_noisy(table), "test_accuracy", ("sol_s", "sol_f", "sol_d"), "max", "best test accuracy")


def price_noisy_margins(table):
    _own_setting(_noisy(table), "cifar10", "resnet-32")
    effects = []
    for other, margin in (("sol_d", 12.5), ("sol_f", 10.5)):
        gap = _difference(_noisy(table), "test_accuracy", "sol_s", other, how="max") - margin
        effects.append(Effect(f"best test accuracy: Sol-S - {_name(other)} - {margin}", gap, "points", "equal", 3.0))
    return effects


def price_noisy_final_test(table):
    noisy = _noisy(table)
    behind = _difference(noisy, "test_accuracy", "sol_f", "sol_d") + 2.0
    return [
        _direction(noisy, "test_accuracy", "sol_s", "sol_f"),
        Effect("test_accuracy: Sol-F - Sol-D + 2 points", behind, "points"),
    ]


def price_noisy_train_order(table):
    return _chain(_noisy(table), "train_accuracy", ("sol_d", "sol_f", "sol_s"), "max", "best training accuracy")


def price_noisy_losses(table):
    noisy = _noisy(table)
    return _chain(noisy, "train_loss", ("sol_s", "sol_f", "sol_d"), "min") + _chain(noisy, "test_loss", ("sol_d", "sol_f", "sol_s"), "min")


def price_noisy_memorised_order(table):
    return _chain(_noisy(table), "flipped_memorised", ("sol_d", "sol_f", "sol_s"))


def onset(table: pd.DataFrame, solution: str) -> pd.Series:
    """By seed: the first measured epoch from which on more flipped examples are memorised than correct.

    A run in which that never happens counts as one epoch past its end, which can only understate a later onset.
    """
    rows = table[table["solution"] == solution]
    places = {}
    for seed, run in rows.sort_values("epoch").groupby("seed"):
        still_correct = run.loc[run["flipped_memorised"] <= run["flipped_correct"], "epoch"].max()
        later = run.loc[run["epoch"] > (still_correct if still_correct >= 0 else -1), "epoch"]
        places[seed] = later.min() if len(later) else run["epoch"].max() + 1
    return pd.Series(places, dtype=float)


def price_noisy_memorise_onset(table):
    noisy, effects = _noisy(table), []
    step = np.diff(np.sort(noisy["epoch"].unique())).max()
    for later, sooner in (("sol_s", "sol_f"), ("sol_f", "sol_d")):
        gap = (onset(noisy, later) - onset(noisy, sooner)).dropna().to_numpy()
        never = int((onset(noisy, later) > noisy["epoch"].max()).sum())
        note = f"never in {never} seeds of {_name(later)}" if never else ""
        effects.append(Effect(f"onset: {_name(later)} - {_name(sooner)}", gap, "epochs", resolution=step / 2, note=note))
    return effects


def price_noisy_correct_on_noisy(table):
    noisy = _noisy(table)
    peaks = [
        _direction(noisy, "flipped_correct", "sol_s", other, how="max", label=f"peak of flipped_correct: Sol-S - {_name(other)}")
        for other in ("sol_f", "sol_d")
    ]
    return peaks + _chain(noisy, "flipped_correct", ("sol_s", "sol_f", "sol_d"))


def price_noisy_clean_fit(table):
    noisy, effects = _noisy(table), []
    for a, b in (("sol_d", "sol_f"), ("sol_f", "sol_s")):
        gap = _difference(noisy, "clean_accuracy", a, b) + 100 * MARGIN
        effects.append(Effect(f"clean_accuracy: {_name(a)} - {_name(b)} + 0.5 points", gap, "points"))
    least = 100 * (_at(noisy, "sol_s", "clean_accuracy").to_numpy() - 0.95)
    return [*effects, Effect("clean_accuracy of Sol-S - 95", least, "points")]


def price_noisy_part_losses(table):
    noisy, effects = _noisy(table), []
    for solution in ("sol_f", "sol_s"):
        gap = _at(noisy, solution, "flipped_loss") - _at(noisy, solution, "clean_loss")
        effects.append(Effect(f"{_name(solution)}: flipped_loss - clean_loss", gap.to_numpy(), "nats"))
    return effects + _chain(noisy, "flipped_loss", ("sol_s", "sol_f", "sol_d"))


def price_memorization_hypothesis(table):
    clean = table[table["noise"] == 0]
    if clean.empty:
        raise NotHere("needs the control runs on clean labels")
    return [
        _direction(_noisy(table), "flipped_memorised", "sol_f", "sol_s", label="memorised under noise: Sol-F - Sol-S"),
        _direction(clean, "train_accuracy", "sol_f", "sol_s", label="training accuracy on clean labels: Sol-F - Sol-S"),
    ]


def price_memorisation_late(table):
    noisy, effects = _noisy(table), []
    step = np.diff(np.sort(noisy["epoch"].unique())).max()
    for solution in ("sol_d", "sol_f", "sol_s"):
        if _at(noisy, solution, "flipped_memorised").mean() < MEMORISES:
            continue  # it has not learned the wrong labels at all, so there is no time at which it did
        lag = {}
        for seed, run in noisy[(noisy["solution"] == solution) & (noisy["epoch"] > 0)].sort_values("epoch").groupby("seed"):
            half = [run.loc[run[m] >= run[m].iloc[-1] / 2, "epoch"].min() for m in ("flipped_memorised", "clean_accuracy")]
            lag[seed] = half[0] - half[1]
        values = np.array(list(lag.values()), dtype=float)
        effects.append(Effect(f"{_name(solution)}: epoch of half the memorised - of half the clean", values, "epochs", resolution=step / 2))
    if not effects:
        raise NotHere("no solution here memorises a quarter of the wrong labels")
    return effects
