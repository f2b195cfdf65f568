"""The two regimes of the gap between Sol-F and Sol-S: the price study's Figure 1."""

import numpy as np
import pandas as pd

from studies.decide import Effect, NotHere
from studies.quantities import (
    Numbers,
    at_others_best,
    course,
    final_rows,
    first,
    known,
    last,
    lift,
    ln,
    pick,
    sparsities,
    trend,
)
from studies.rules import (
    MATCH,
    above,
    each,
    equal,
    gap,
    given,
    if_any,
    is_own,
    more,
    name,
    needs,
    own,
    says,
)

PAIR = ("sol_f", "sol_s")
FITTED = 0.995  # training accuracy from which a solution counts as fitting its training set


def by_sparsity(measure: str, solution: str) -> Numbers:
    """A course over sparsities."""
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
    for seed, row in gaps("train_accuracy")(table).iterrows():
        last_within = np.flatnonzero(~(row.to_numpy() > MATCH)).max(initial=-1)
        places[seed] = row.index[last_within + 1] if last_within + 1 < len(row) else np.nan
    return pd.Series(places, dtype=float)


def _fitted(table, *solutions):
    """By sparsity: whether the mean training accuracies of all these solutions reach FITTED."""
    ends = final_rows(table)
    means = ends.pivot_table(index="sparsity", columns="solution", values="train_accuracy")
    return means[list(solutions)].dropna(how="all").min(axis=1) >= FITTED


def both_fit(table: pd.DataFrame) -> list[float]:
    """The sparsities of the generalization regime: both solutions fit the training set."""
    fitted = _fitted(table[table["solution"] != "sol_d"], *PAIR)
    if not fitted.any():
        raise NotHere("no sparsity here at which both solutions fit the training set")
    return list(fitted.index[fitted])


def scratch_fails(table: pd.DataFrame) -> list[float]:
    """The sparsities of the optimization regime: Sol-S does not fit the training set."""
    fitted = _fitted(table, "sol_s")
    if fitted.all():
        lacking = "higher ones would be needed"
        raise NotHere(f"Sol-S fits the training set at every sparsity here: {lacking}")
    return list(fitted.index[~fitted])


def lowest(table: pd.DataFrame) -> float:
    """The lowest sparsity."""
    return sparsities(table)[0]


def furthest(table: pd.DataFrame) -> float:
    """The highest sparsity."""
    return sparsities(table)[-1]


def several(least: int, words: str):
    """The condition of so many sparsities."""
    return needs(lambda table: len(sparsities(table)) >= least, f"needs {words} sparsities or more")


@lift
def _inner_peak(course):
    """Each seed's value at the inner place where the other seeds have their peak."""
    if course.shape[1] < 4:
        raise NotHere("needs four sparsities or more")
    return at_others_best(course.iloc[:, 1:-1])


def _border_inside(table):
    """The border lies above the lowest and below the highest sparsity."""
    grid, places = np.array(sparsities(table)), boundary(table)
    note = "no seed has one"
    if places.notna().any():
        note = f"boundary {places.mean():.3f} (seeds {places.min():g} to {places.max():g})"
    places = places.fillna(grid[-1] + np.diff(grid).max())  # beyond the grid
    yield Effect("boundary - lowest sparsity", places - grid[0], "sparsity", note=note)
    yield Effect("highest sparsity - boundary", grid[-1] - places, "sparsity")
    if is_own(table, "cifar100", "resnet-32"):
        yield Effect("boundary - 0.93", places - 0.93, "sparsity", "equal", 0.03)


def border(table: pd.DataFrame) -> float:
    """The sparsity of the grid that is nearest to the median border of the seeds."""
    places, grid = boundary(table), np.array(sparsities(table))
    if places.isna().all() or not grid[0] < places.mean() < grid[-1]:
        raise NotHere("the two regimes have no border inside the sparsities here")
    return grid[np.abs(grid - places.median()).argmin()]


def _entropy_transition(solution):
    """The entropy less than doubles up to the border, and more than trebles beyond it."""
    low, middle, high = (
        pick("train_entropy", solution=solution, sparsity=place)
        for place in (lowest, border, furthest)
    )
    flat = f"{name(solution)}: ln 2 - ln(entropy at {{:g}} / at {{:g}})"
    steep = f"{name(solution)}: ln(entropy at {{:g}} / at {{:g}}) - ln 3"
    return [
        more(says(flat, border, lowest), np.log(2) - ln(middle / low), "ln"),
        more(says(steep, furthest, border), ln(high / middle) - np.log(3), "ln"),
    ]


@Numbers
def _different_masks(table):
    """The share of pairs whose masks differ, by seed."""
    pairs = table[table["solution"].isin(PAIR)].pivot_table(
        index=["seed", "sparsity"], columns="solution", values="mask", aggfunc="first"
    )
    return 1 - (pairs["sol_f"] == pairs["sol_s"]).groupby("seed").mean()


RULES = {
    "price-gap-test-acc": each("sparsity", above("test_accuracy", *PAIR)),
    "price-gap-widens-then-closes": [
        more(
            f"test gap: inner peak - {end} sparsity",
            _inner_peak(gaps("test_accuracy")) - at(gaps("test_accuracy")),
            "points",
        )
        for end, at in (("lowest", first), ("highest", last))
    ],
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
    "price-regime-boundary": given(several(3, "three"), _border_inside),
    "price-loss-test-gap": each("sparsity", above("test_loss", "sol_s", "sol_f")),
    "price-loss-train-gap": each("sparsity", above("train_loss", "sol_s", "sol_f")),
    "price-entropy-gap": [
        each("sparsity", above("train_entropy", "sol_s", "sol_f")),
        if_any(
            several(2, "two"),
            more(
                "entropy gap: highest - lowest sparsity",
                first(gaps("train_entropy", 1.0)) - last(gaps("train_entropy", 1.0)),
                "nats",
            ),
        ),
    ],
    "price-entropy-transition": [_entropy_transition(solution) for solution in PAIR],
    "price-capacity-control": equal(
        "share of pairs with different masks",
        _different_masks,
        "share",
        margin=1e-9,
        note="an identity, by seed",
    ),
}
