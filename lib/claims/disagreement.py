"""Decision rules of the price study's Figure 5, as code: a table of pairs of solutions in, rows of evidence out.

``pairs`` makes that table from the predictions of the networks. A rule that it cannot answer raises ``NotHere`` with what could.
"""

import numpy as np
import pandas as pd
from scipy import stats

from lib.claims import tables
from lib.claims.decisions import Effect, NotHere
from lib.claims.regimes import FITTED
from lib.claims.tables import name

TENTHS = 10
SAME_SKEW = 0.6  # rank correlation that counts as the same skew over the classes
HUMANS = {
    "baby": 2,
    "boy": 11,
    "girl": 35,
    "man": 46,
    "woman": 98,
}  # CIFAR-100's fine classes, in alphabetical order
JUDGES = ("sol_d", "sol_s")  # whose loss, in other seeds, says how difficult an example is
INFORMED = ("sol_d", "sol_f")  # whose Fisher information is measured


def pairs(measured: pd.DataFrame, labels: dict[str, np.ndarray]) -> pd.DataFrame:
    """A row per part ("train", "test"), sparsity and seed: how Sol-F and Sol-S of one seed disagree, and on what.

    ``measured`` has a row per run with, for each part, the lists ``{part}_predicted`` and ``{part}_loss`` by example, and
    ``train_fisher`` for Sol-D and Sol-F; ``labels`` has the true labels of each part, int64 [n]. The columns of the pair are those
    of its Sol-S, and:

    - ``rate`` its disagreement, ``examples`` and ``count`` [C] those and the disagreements of each true class;
    - ``dense_sol_f``, ``dense_sol_s``: disagreement of each with the seed's Sol-D;
    - ``only_sol_f``, ``only_sol_s``, ``neither``: shares of the examples on which they disagree and that one is right, or none;
    - on the training part, for m in Sol-D and Sol-F: ``class_fisher_m`` [C] mean traces, ``class_rho_m`` and ``example_rho_m`` their
      rank correlations with the disagreement, ``by_fisher_m`` [10] the disagreement in each tenth of the examples by Fisher trace;
    - on the training part, with two seeds or more, for j in Sol-D and Sol-S: ``hard_rho_m_j`` the rank correlation of Fisher trace and
      difficulty by the other seeds' j; ``harder_j`` the mean rank of difficulty (points) of the examples that Sol-F alone gets right,
      above that of the rest; ``by_difficulty_j`` [10] the share of them in each tenth of the examples by difficulty.

    A pair with a diverged network is left out.
    """
    measured = measured[~measured["diverged"]]
    dense = {
        run["seed"]: run for run in measured[measured["solution"] == "sol_d"].to_dict("records")
    }
    rows, classes = [], max(int(truth.max()) for truth in labels.values()) + 1
    for sparsity in tables.grid(measured):
        at = measured[np.isclose(measured["sparsity"], sparsity)]
        found = {
            s: {run["seed"]: run for run in at[at["solution"] == s].to_dict("records")}
            for s in ("sol_f", "sol_s")
        }
        found["sol_d"] = dense
        for seed in sorted(dense.keys() & found["sol_f"].keys() & found["sol_s"].keys()):
            own = {solution: runs[seed] for solution, runs in found.items()}
            shared = {
                column: own["sol_s"][column]
                for column in (
                    "key",
                    "solution",
                    "sparsity",
                    "seed",
                    "dataset",
                    "network",
                    "diverged",
                )
            }
            for part, truth in labels.items():
                row, differ, alone = _compared(
                    {s: np.asarray(run[f"{part}_predicted"]) for s, run in own.items()},
                    truth,
                    classes,
                )
                if part == "train":
                    fisher = {m: np.asarray(own[m]["train_fisher"], dtype=float) for m in INFORMED}
                    row |= _informed(fisher, differ, truth, row)
                    others = {
                        j: [r["train_loss"] for s, r in found[j].items() if s != seed]
                        for j in JUDGES
                    }
                    row |= _hard(
                        fisher,
                        alone,
                        {j: np.mean(losses, 0) for j, losses in others.items() if losses},
                    )
                rows.append({**shared, "part": part, **row})
    return pd.DataFrame(rows)


def _compared(predicted, truth, classes):
    """The columns of any part; where the two disagree and where Sol-F alone is right, bool [n]."""
    f, s, d = (predicted[solution] for solution in ("sol_f", "sol_s", "sol_d"))
    differ = f != s
    row = {
        "rate": differ.mean(),
        "examples": np.bincount(truth, minlength=classes),
        "count": np.bincount(truth[differ], minlength=classes),
        "dense_sol_f": (f != d).mean(),
        "dense_sol_s": (s != d).mean(),
        "only_sol_f": (differ & (f == truth)).mean(),
        "only_sol_s": (differ & (s == truth)).mean(),
        "neither": (differ & (f != truth) & (s != truth)).mean(),
        "accuracy_sol_s": (s == truth).mean(),
    }
    return row, differ, differ & (f == truth)


def _informed(fisher, differ, truth, counted):
    row, size = (
        {},
        np.where(counted["examples"], counted["examples"], np.nan),
    )  # a class without examples has no mean
    for m, trace in fisher.items():
        by_class = np.bincount(truth, trace, len(size)) / size
        row |= {
            f"class_fisher_{m}": by_class,
            f"class_rho_{m}": spearman(by_class, counted["count"] / size),
            f"example_rho_{m}": spearman(trace, differ),
            f"by_fisher_{m}": by_tenth(trace, differ),
        }
    return row


def _hard(fisher, alone, difficulty):
    row = {}
    for j, loss in difficulty.items():
        rank = 100 * (stats.rankdata(loss) - 0.5) / len(loss)
        row[f"harder_{j}"] = rank[alone].mean() - rank[~alone].mean() if alone.any() else np.nan
        row[f"by_difficulty_{j}"] = by_tenth(loss, alone)
        row |= {f"hard_rho_{m}_{j}": spearman(trace, loss) for m, trace in fisher.items()}
    return row


def spearman(a, b) -> float:
    """The rank correlation of two lists where both have a value; NaN where one of them is constant."""
    a, b = np.asarray(a, dtype=float), np.asarray(b, dtype=float)
    a, b = a[np.isfinite(a) & np.isfinite(b)], b[np.isfinite(a) & np.isfinite(b)]
    return (
        float(stats.spearmanr(a, b).statistic)
        if len(a) and np.ptp(a) > 0 and np.ptp(b) > 0
        else np.nan
    )


def by_tenth(order, holds) -> np.ndarray:
    """The share for which ``holds`` in each tenth of the examples, from the lowest to the highest in ``order``: [10]."""
    sorted_by = np.argsort(order, kind="stable")
    return np.array(
        [
            part.mean() if len(part) else np.nan
            for part in np.array_split(np.asarray(holds, dtype=float)[sorted_by], TENTHS)
        ]
    )


def _of(table, part, sparsity):
    rows = table[(table["part"] == part) & np.isclose(table["sparsity"], sparsity)]
    return rows.set_index("seed").sort_index()


def _grid(table):
    if table["seed"].nunique() < 2:
        raise NotHere("needs two seeds or more")
    return sorted(table["sparsity"].unique())


def class_rates(table: pd.DataFrame, part: str, sparsity: float) -> pd.DataFrame:
    """Disagreement rates: a row per seed, a column per true class."""
    rows = _of(table, part, sparsity)
    return pd.DataFrame(
        [
            row["count"] / np.where(row["examples"], row["examples"], np.nan)
            for _, row in rows.iterrows()
        ],
        index=rows.index,
    )


def price_disagreement_train_skew(table):
    effects = []
    for s in _grid(table):
        rows, rates = _of(table, "train", s), class_rates(table, "train", s)
        if not rows["rate"].any():
            raise NotHere(
                "Sol-F and Sol-S agree on every training example: higher sparsities would be needed"
            )
        leading = max(1, round(rates.shape[1] / 10))
        ratios = []
        for seed, row in rows.iterrows():
            chosen = rates.drop(index=seed).mean().nlargest(leading).index
            inside, size = (
                row["count"][chosen].sum(),
                row["examples"][chosen].sum() / row["examples"].sum(),
            )
            ratios.append(inside / row["count"].sum() / size if row["count"].any() else np.nan)
        humans = set(table["dataset"]) == {"cifar100"}
        note = "" if humans else "the part on human classes can be tested on cifar100 alone"
        what = f"share of the leading {leading} of {rates.shape[1]} classes over their share of the examples, - 2, at {s:g}"
        effects.append(Effect(what, np.array(ratios) - 2, "times", note=note))
        if humans:
            among = rates.rank(axis=1, ascending=False)[list(HUMANS.values())].le(15).sum(axis=1)
            effects.append(
                Effect(
                    f"human classes among the first 15 - 4.5, at {s:g}",
                    among.to_numpy() - 4.5,
                    "classes",
                )
            )
    return effects


def price_disagreement_test_skew(table):
    effects = []
    for s in _grid(table):
        train, test = class_rates(table, "train", s), class_rates(table, "test", s)
        rho = np.array([spearman(train.loc[seed], test.loc[seed]) for seed in train.index])
        what = f"Spearman(training, test disagreement by class) - {SAME_SKEW} at {s:g}"
        effects.append(Effect(what, rho - SAME_SKEW, "rho"))
    return effects


def price_disagreement_fisher_corr(table):
    effects = []
    for s in _grid(table):
        rows = _of(table, "train", s)
        for over in ("class", "example"):
            for m in INFORMED:
                what = f"Spearman(Fisher of {name(m)}, disagreement) by {over} at {s:g}"
                effects.append(Effect(what, rows[f"{over}_rho_{m}"].to_numpy(), "rho"))
    return effects


def price_per_example_fisher_hardness(table):
    effects = []
    for s in _grid(table):
        rows = _of(table, "train", s)
        for m in INFORMED:
            for j in JUDGES:
                what = f"Spearman(Fisher of {name(m)}, loss of the others' {name(j)}) at {s:g}"
                effects.append(Effect(what, rows[f"hard_rho_{m}_{j}"].to_numpy(), "rho"))
    return effects


def price_memorises_worse_natural(table):
    failing = [s for s in _grid(table) if _of(table, "train", s)["accuracy_sol_s"].mean() < FITTED]
    if not failing:
        raise NotHere(
            "Sol-S fits the training set at every sparsity here: higher ones would be needed"
        )
    effects = []
    for s in failing:
        rows = _of(table, "train", s)
        for j in JUDGES:
            what = f"rank by the others' {name(j)}: Sol-F alone right - the rest, at {s:g}"
            effects.append(Effect(what, rows[f"harder_{j}"].to_numpy(), "points"))
    return effects
