"""The two regimes of the gap between Sol-F and Sol-S: the price study's Figure 1."""

import numpy as np
import pandas as pd

from studies.decide import NotHere
from studies.quantities import Numbers, course, final_rows, known, pick, trend
from studies.rules import MATCH, above, each, equal, gap, given, more, name, own

PAIR = ("sol_f", "sol_s")
FITTED = 0.995  # training accuracy from which a solution counts as fitting its training set


def by_sparsity(measure: str, solution: str) -> Numbers:
    """A course over sparsities of a run's last epoch."""
    return course(measure, "sparsity", solution=solution)


def gaps(measure: str, scale: float = 100.0) -> Numbers:
    """Sol-F minus Sol-S over the sparsities, of the seeds that have all of them."""
    return known(scale * (by_sparsity(measure, "sol_f") - by_sparsity(measure, "sol_s")))


@Numbers
def boundary(table: pd.DataFrame) -> pd.Series:
    """By seed: the lowest sparsity from which on Sol-F fits the training set better.

    Better is by over half a point; NaN where there is no such sparsity.
    """
    places = {}
    for seed, row in gaps("train_accuracy")(final_rows(table)).iterrows():
        last_within = np.flatnonzero(~(row.to_numpy() > MATCH)).max(initial=-1)
        places[seed] = row.index[last_within + 1] if last_within + 1 < len(row) else np.nan
    return pd.Series(places, dtype=float)


def fits(table: pd.DataFrame, *solutions: str) -> pd.Series:
    """By sparsity: whether the mean training accuracies of all these solutions reach ``FITTED``."""
    ends = final_rows(table)
    means = ends.pivot_table(index="sparsity", columns="solution", values="train_accuracy")
    return means[list(solutions)].dropna().min(axis=1) >= FITTED


def both_fit(table: pd.DataFrame) -> list[float]:
    """The sparsities of the generalization regime."""
    fitted = fits(table, *PAIR)
    if not fitted.any():
        raise NotHere("no sparsity here at which both solutions fit the training set")
    return list(fitted.index[fitted])


def scratch_fails(table: pd.DataFrame) -> list[float]:
    """The sparsities of the optimization regime."""
    fitted = fits(table, "sol_s")
    if fitted.all():
        raise NotHere(
            "Sol-S fits the training set at every sparsity here: higher ones would be needed"
        )
    return list(fitted.index[~fitted])


RULES = {
    "price-gap-test-acc": each("sparsity", above("test_accuracy", *PAIR)),
    "price-acc-falls-with-sparsity": [
        more(
            f"-Spearman(sparsity, test accuracy) of {name(solution)}",
            -trend(by_sparsity("test_accuracy", solution)),
            "rho",
        )
        for solution in PAIR
    ],
    "price-dense-reference": given(
        own("cifar100", "resnet-32"),
        [
            equal(
                "Sol-D's test accuracy - 78.0",
                100 * (pick("test_accuracy", solution="sol_d") - 0.78),
                "points",
                margin=0.5,
            ),
            more(
                "Sol-D's training accuracy - 99.5",
                100 * (pick("train_accuracy", solution="sol_d") - FITTED),
                "points",
            ),
        ],
    ),
    "price-regime1-train-match": each(
        "sparsity",
        [
            equal("train gap", gap("train_accuracy", *PAIR), "points", margin=MATCH),
            above("test_accuracy", *PAIR, label="test gap"),
        ],
        places=both_fit,
    ),
    "price-regime2-train-gap": [
        each("sparsity", above(f"{on}_accuracy", *PAIR, label=f"{on} gap"), scratch_fails)
        for on in ("train", "test")
    ],
}
