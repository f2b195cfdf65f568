"""Decision rules of the price study's Figure 1, as code: a table of runs in, rows of evidence out.

A rule that the table cannot answer raises ``NotHere`` with what could.
"""

import numpy as np
import pandas as pd

from lib.claims import tables
from lib.claims.decisions import Effect, NotHere

FITTED = 0.995  # training accuracy from which a solution counts as fitting its training set


def boundary(table: pd.DataFrame) -> pd.Series:
    """By seed: the lowest sparsity from which on Sol-F fits the training set better by over half a point; NaN if none."""
    gaps = _gap_curves(table, "train_accuracy")
    places = {}
    for seed, row in gaps.iterrows():
        beyond = row.to_numpy() > 100 * tables.MARGIN
        last_within = np.flatnonzero(~beyond).max(initial=-1)
        places[seed] = row.index[last_within + 1] if last_within + 1 < len(row) else np.nan
    return pd.Series(places, dtype=float)


def _gap_curves(table, measure):
    """Sol-F minus Sol-S: a row per seed, a column per sparsity."""
    last = tables.final(table)
    wide = last[last["solution"] != "sol_d"].pivot_table(
        index="seed", columns=["solution", "sparsity"], values=measure
    )
    return ((wide["sol_f"] - wide["sol_s"]) * tables.scale(measure)).dropna()


def price_gap_test_acc(table):
    return [
        tables.direction(table, "test_accuracy", "sol_f", "sol_s", s) for s in tables.grid(table)
    ]


def price_gap_widens_then_closes(table):
    gaps = _gap_curves(table, "test_accuracy")
    if gaps.shape[1] < 4:
        raise NotHere("needs four sparsities or more")
    inner = gaps.iloc[:, 1:-1]
    rise, fall = [], []
    for seed in (
        gaps.index
    ):  # the place of the peak comes from the other seeds, so that it is not picked for this one
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
        last = tables.final(table)
        wide = last[last["solution"] == solution].pivot_table(
            index="seed", columns="sparsity", values="test_accuracy"
        )
        if wide.shape[1] < 3:
            raise NotHere("needs three sparsities or more")
        ranks = wide.rank(axis=1)
        order = pd.Series(wide.columns, index=wide.columns).rank()
        rho = ranks.apply(lambda row, order=order: row.corr(order), axis=1)
        effects.append(
            Effect(
                f"-Spearman(sparsity, test accuracy) of {tables.name(solution)}",
                -rho.to_numpy(),
                "rho",
            )
        )
    return effects


def price_dense_reference(table):
    tables.own_setting(table, "cifar100", "resnet-32")
    accuracy = tables.at(table, "sol_d", "test_accuracy").to_numpy()
    fit = tables.at(table, "sol_d", "train_accuracy").to_numpy()
    return [
        Effect(
            "Sol-D's test accuracy - 78.0",
            100 * (accuracy - 0.78),
            "points",
            claim="equal",
            margin=0.5,
        ),
        Effect("Sol-D's training accuracy - 99.5", 100 * (fit - FITTED), "points"),
    ]


def price_regime1_train_match(table):
    last = tables.final(table)
    means = last[last["solution"] != "sol_d"].pivot_table(
        index="sparsity", columns="solution", values="train_accuracy"
    )
    regime = [s for s in means.index if means.loc[s].min() >= FITTED]
    if not regime:
        raise NotHere("no sparsity here at which both solutions fit the training set")
    effects = []
    for s in regime:
        gap = tables.difference(table, "train_accuracy", "sol_f", "sol_s", s)
        effects.append(
            Effect(f"train gap at {s:g}", gap, "points", claim="equal", margin=100 * tables.MARGIN)
        )
        effects.append(
            tables.direction(table, "test_accuracy", "sol_f", "sol_s", s, label="test gap")
        )
    return effects


def price_regime2_train_gap(table):
    last = tables.final(table)
    scratch = last[last["solution"] == "sol_s"].groupby("sparsity")["train_accuracy"].mean()
    regime = [s for s in scratch.index if scratch[s] < FITTED]
    if not regime:
        raise NotHere(
            "Sol-S fits the training set at every sparsity here: higher ones would be needed"
        )
    effects = [
        tables.direction(table, "train_accuracy", "sol_f", "sol_s", s, label="train gap")
        for s in regime
    ]
    return effects + [
        tables.direction(table, "test_accuracy", "sol_f", "sol_s", s, label="test gap")
        for s in regime
    ]


def price_regime_boundary(table):
    grid, places = np.array(tables.grid(table)), boundary(table)
    if len(grid) < 3:
        raise NotHere("needs three sparsities or more")
    step = np.diff(grid).max() / 2
    note = (
        f"boundary {places.mean():.3f} (seeds {places.min():g} to {places.max():g})"
        if places.notna().any()
        else "no seed has one"
    )
    places = places.fillna(grid[-1] + 2 * step)  # beyond the grid
    effects = [
        Effect("boundary - lowest sparsity", (places - grid[0]).to_numpy(), "sparsity", note=note),
        Effect("highest sparsity - boundary", (grid[-1] - places).to_numpy(), "sparsity"),
    ]
    if set(table["dataset"]) == {"cifar100"} and set(table["network"]) == {"resnet-32"}:
        effects.append(
            Effect(
                "boundary - 0.93",
                (places - 0.93).to_numpy(),
                "sparsity",
                "equal",
                0.03,
                resolution=0.0,
            )
        )
    return effects


def price_loss_test_gap(table):
    return [tables.direction(table, "test_loss", "sol_s", "sol_f", s) for s in tables.grid(table)]


def price_loss_train_gap(table):
    return [tables.direction(table, "train_loss", "sol_s", "sol_f", s) for s in tables.grid(table)]


def price_entropy_gap(table):
    grid = tables.grid(table)
    effects = [tables.direction(table, "train_entropy", "sol_s", "sol_f", s) for s in grid]
    if len(grid) > 1:
        gaps = -_gap_curves(table, "train_entropy")
        effects.append(
            Effect(
                "entropy gap: highest - lowest sparsity",
                (gaps.iloc[:, -1] - gaps.iloc[:, 0]).to_numpy(),
                "nats",
            )
        )
    return effects


def price_entropy_transition(table):
    places = boundary(table)
    grid = np.array(tables.grid(table))
    if places.isna().all() or not grid[0] < places.mean() < grid[-1]:
        raise NotHere("the two regimes have no border inside the sparsities here")
    border = grid[np.abs(grid - places.median()).argmin()]
    last, effects = tables.final(table), []
    for solution in ("sol_f", "sol_s"):
        wide = last[last["solution"] == solution].pivot_table(
            index="seed", columns="sparsity", values="train_entropy"
        )
        flat, steep = np.log(wide[border] / wide[grid[0]]), np.log(wide[grid[-1]] / wide[border])
        effects += [
            Effect(
                f"{tables.name(solution)}: ln 2 - ln(entropy at {border:g} / at {grid[0]:g})",
                np.log(2) - flat.to_numpy(),
                "ln",
            ),
            Effect(
                f"{tables.name(solution)}: ln(entropy at {grid[-1]:g} / at {border:g}) - ln 3",
                steep.to_numpy() - np.log(3),
                "ln",
            ),
        ]
    return effects


def price_capacity_control(table):
    last = tables.final(table)
    wide = last[last["solution"] != "sol_d"].pivot_table(
        index=["seed", "sparsity"], columns="solution", values="mask", aggfunc="first"
    )
    same = (wide["sol_f"] == wide["sol_s"]).groupby("seed").mean().to_numpy()
    return [
        Effect(
            "share of pairs with different masks",
            1 - same,
            "share",
            claim="equal",
            margin=1e-9,
            note="an identity, by seed",
        )
    ]
