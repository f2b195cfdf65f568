"""Where Sol-F and Sol-S of one seed disagree, and on what: the price study's Figure 5.

``pairs`` makes the table of pairs of solutions from the predictions of the networks.
"""

import numpy as np
import pandas as pd
from scipy import stats

from studies.decide import NotHere
from studies.price.regimes import FITTED, HIGHER
from studies.quantities import Numbers, average, lift, numbers, pick, sparsities
from studies.rules import counted, each, given, if_any, more, name, needs, says, where

TENTHS = 10
SAME_SKEW = 0.6  # rank correlation that counts as the same skew over the classes
WEAK = 0.1  # rank correlation below which one quantity hardly tells of the other
# CIFAR-100's fine classes, in alphabetical order
HUMANS = {"baby": 2, "boy": 11, "girl": 35, "man": 46, "woman": 98}
JUDGES = ("sol_d", "sol_s")  # whose loss, in other seeds, says how difficult an example is
INFORMED = ("sol_d", "sol_f")  # whose Fisher information is measured
SHARED = ("key", "solution", "sparsity", "seed", "dataset", "network", "diverged")


def pairs(measured: pd.DataFrame, labels: dict[str, np.ndarray]) -> pd.DataFrame:
    """A row per part ("train", "test"), sparsity and seed: how Sol-F and Sol-S disagree, on what.

    ``measured`` has a row per run with, for each part, the lists ``{part}_predicted`` and
    ``{part}_loss`` by example, and ``train_fisher`` for Sol-D and Sol-F; ``labels`` has the true
    labels of each part, int64 [n]. The columns of the pair are those of its Sol-S, and:

    - ``rate`` its disagreement, ``examples`` and ``count`` [C] those and the disagreements of each
      true class;
    - ``dense_sol_f``, ``dense_sol_s``: disagreement of each with the seed's Sol-D;
    - ``only_sol_f``, ``only_sol_s``, ``neither``: shares of the examples on which they disagree and
      that one is right, or none;
    - on the training part, for m in Sol-D and Sol-F: ``class_fisher_m`` [C] mean traces,
      ``class_rho_m`` and ``example_rho_m`` their rank correlations with the disagreement,
      ``by_fisher_m`` [10] the disagreement in each tenth of the examples by Fisher trace;
    - on the training part, with two seeds or more, for j in Sol-D and Sol-S: ``hard_rho_m_j`` the
      rank correlation of Fisher trace and difficulty by the other seeds' j; ``harder_j`` the mean
      rank of difficulty (points) of the examples that Sol-F alone gets right, above that of the
      rest; ``by_difficulty_j`` [10] the share of them in each tenth of the examples by difficulty.

    A pair with a diverged network is left out.
    """
    measured = measured[~measured["diverged"]]
    dense = _by_seed(measured, "sol_d")
    rows, classes = [], max(int(truth.max()) for truth in labels.values()) + 1
    for sparsity in sparsities(measured):
        at = measured[np.isclose(measured["sparsity"], sparsity)]
        found = {s: _by_seed(at, s) for s in ("sol_f", "sol_s")} | {"sol_d": dense}
        for seed in sorted(dense.keys() & found["sol_f"].keys() & found["sol_s"].keys()):
            own = {solution: runs[seed] for solution, runs in found.items()}
            shared = {column: own["sol_s"][column] for column in SHARED}
            for part, truth in labels.items():
                predicted = {s: np.asarray(run[f"{part}_predicted"]) for s, run in own.items()}
                row, differ, alone = _compared(predicted, truth, classes)
                if part == "train":
                    fisher = {m: np.asarray(own[m]["train_fisher"], dtype=float) for m in INFORMED}
                    row |= _informed(fisher, differ, truth, row)
                    row |= _hard(fisher, alone, _difficulty(found, seed))
                rows.append({**shared, "part": part, **row})
    return pd.DataFrame(rows)


def _by_seed(measured, solution):
    runs = measured[measured["solution"] == solution].to_dict("records")
    return {run["seed"]: run for run in runs}


def _difficulty(found, seed):
    """By judge: the mean loss of each example over the other seeds, where there are any."""
    others = {j: [r["train_loss"] for s, r in found[j].items() if s != seed] for j in JUDGES}
    return {j: np.mean(losses, 0) for j, losses in others.items() if losses}


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
    size = np.where(counted["examples"], counted["examples"], np.nan)  # none, no mean
    row: dict = {}
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
    """The rank correlation of two lists where both have a value; NaN where one is constant."""
    a, b = np.asarray(a, dtype=float), np.asarray(b, dtype=float)
    a, b = a[np.isfinite(a) & np.isfinite(b)], b[np.isfinite(a) & np.isfinite(b)]
    varies = len(a) and np.ptp(a) > 0 and np.ptp(b) > 0
    return float(stats.spearmanr(a, b).statistic) if varies else np.nan


def by_tenth(order, holds) -> np.ndarray:
    """The share for which ``holds`` in each tenth of the examples, rising in ``order``: [10]."""
    rising = np.asarray(holds, dtype=float)[np.argsort(order, kind="stable")]
    parts = np.array_split(rising, TENTHS)
    return np.array([part.mean() if len(part) else np.nan for part in parts])


@numbers
def class_rates(table: pd.DataFrame, **cell) -> pd.DataFrame:
    """Disagreement rates: a row per seed, a column per true class."""
    counts, sizes = (np.stack(pick(c, **cell)(table).to_list()) for c in ("count", "examples"))
    seeds = pick("rate", **cell)(table).index
    return pd.DataFrame(counts / np.where(sizes, sizes, np.nan), index=seeds)


failing = where(average(pick("accuracy_sol_s", part="train")) < FITTED, HIGHER)
RATES = class_rates(part="train")
LEADING = lift(lambda rates: max(1, round(rates.shape[1] / 10)))(RATES)
NO_PEOPLE = "the part on human classes can be tested on cifar100 alone"


def at_each(rule, places=sparsities):
    """The rule at every sparsity, where there are two seeds or more."""
    two = needs(lambda table: table["seed"].nunique() >= 2, "needs two seeds or more")
    return given(two, each("sparsity", rule, places))


@Numbers
def _skew(table):
    """By seed: the share of the disagreements in the classes that lead in the other seeds.

    In units of these classes' share of the examples.
    """
    found, rates, ratios = table[table["part"] == "train"].set_index("seed"), RATES(table), {}
    if not found["rate"].any():
        here = "Sol-F and Sol-S agree on every training example"
        raise NotHere(f"{here}: higher sparsities would be needed")
    for seed, row in found.sort_index().iterrows():
        chosen = rates.drop(index=seed).mean().nlargest(LEADING(table)).index
        inside, size = (row[column][chosen].sum() for column in ("count", "examples"))
        share = inside / row["count"].sum() if row["count"].any() else np.nan
        ratios[seed] = share / (size / row["examples"].sum())
    return pd.Series(ratios)


@lift
def _same_order(one, other):
    """Spearman's rho over the classes that both have, by seed."""
    return pd.Series({seed: spearman(one.loc[seed], other.loc[seed]) for seed in one.index})


def _has_people(table):
    return set(table["dataset"]) == {"cifar100"}


RULES = {
    "price-disagreement-train-skew": at_each([
        more(says("share of the leading {} of {} classes over their share of the examples, - 2,"
                  "{{sparsity}}", LEADING, lift(lambda rates: rates.shape[1])(RATES)),
             _skew - 2, "times", note=lambda table: "" if _has_people(table) else NO_PEOPLE),
        if_any(needs(_has_people, NO_PEOPLE),
               counted("all human classes are among the first 15",
                       lift(lambda rates: rates.rank(axis=1, ascending=False)[[*HUMANS.values()]]
                            .le(15).all(axis=1))(RATES))),
    ]),
    "price-disagreement-test-skew": at_each(
        counted(f"Spearman(training, test disagreement by class) above {SAME_SKEW}",
                _same_order(RATES, class_rates(part="test")) > SAME_SKEW)),
    "price-disagreement-fisher-corr": at_each([
        more(f"Spearman(Fisher of {name(m)}, disagreement) by {over}",
             pick(f"{over}_rho_{m}", part="train"), "rho", margin=size)
        for over, size in (("class", WEAK), ("example", 0.0)) for m in INFORMED
    ]),
    "price-per-example-fisher-hardness": at_each([
        more(f"Spearman(Fisher of {name(m)}, loss of the others' {name(j)})",
             pick(f"hard_rho_{m}_{j}", part="train"), "rho", margin=WEAK)
        for m in INFORMED for j in JUDGES
    ]),
    "price-memorises-worse-natural": at_each([
        more(f"rank by the others' {name(j)}: Sol-F alone right - the rest,{{sparsity}}",
             pick(f"harder_{j}", part="train"), "points", margin=5.0) for j in JUDGES
    ], failing),
}  # fmt: skip
