"""Label noise and memorization: the price study's Figure 6."""

import numpy as np
import pandas as pd

from studies.decide import NotHere
from studies.price.regimes import FITTED
from studies.quantities import (
    numbers,
    pick,
)
from studies.rules import (
    MATCH,
    above,
    chain,
    each,
    equal,
    gap,
    given,
    more,
    name,
    own,
)

MEMORISES = 0.25  # memorised share below which wrong labels are not learned (chance is 1 / classes)
SCRATCH_FIRST = ("sol_s", "sol_f", "sol_d")
DENSE_FIRST = ("sol_d", "sol_f", "sol_s")
PEAK = "peak of flipped_correct"


def noisy(table: pd.DataFrame) -> pd.DataFrame:
    """The runs on noisy labels."""
    found = table[table["noise"] > 0]
    if found.empty:
        raise NotHere("needs label noise above 0")
    return found


def unfitted_control(table: pd.DataFrame) -> pd.DataFrame:
    """The table, where it holds runs on clean labels that Sol-S does not fit."""
    clean = table[table["noise"] == 0]
    if clean.empty:
        raise NotHere("needs the control runs on clean labels")
    if pick("train_accuracy", solution="sol_s")(clean).mean() >= FITTED:
        higher = "the optimization regime lies higher"
        raise NotHere(f"Sol-S fits the clean training set at this sparsity: {higher}")
    return table


def half_step(table: pd.DataFrame) -> float:
    """Half the largest step between measured epochs: what a place among them cannot tell."""
    return np.diff(np.sort(table["epoch"].unique())).max() / 2


@numbers
def onset(table: pd.DataFrame, solution: str) -> pd.Series:
    """By seed: the first measured epoch from which on flipped examples are memorised.

    That is, more of them are memorised than correct. A run in which that never happens counts as
    one epoch past its end, which can only understate a later onset.
    """
    rows, places = table[table["solution"] == solution], {}
    for seed, run in rows.sort_values("epoch").groupby("seed"):
        correct = run["flipped_memorised"] <= run["flipped_correct"]
        still = run.loc[correct, "epoch"].max()
        later = run.loc[run["epoch"] > (still if still >= 0 else -1), "epoch"]
        places[seed] = later.min() if len(later) else run["epoch"].max() + 1
    return pd.Series(places, dtype=float)


def _later(later, sooner):
    """The effect that one solution memorises later than another."""

    def never(table):
        runs = int((onset(later)(table) > table["epoch"].max()).sum())
        return f"never in {runs} seeds of {name(later)}" if runs else ""

    what = f"onset: {name(later)} - {name(sooner)}"
    delay = onset(later) - onset(sooner)
    return more(what, delay, "epochs", resolution=half_step, note=never)


def memorising(table: pd.DataFrame) -> list[str]:
    """The solutions that learn wrong labels at all, so that there is a time at which they do."""
    share = {s: pick("flipped_memorised", solution=s)(table).mean() for s in DENSE_FIRST}
    found = [solution for solution, memorised in share.items() if not memorised < MEMORISES]
    if not found:
        raise NotHere("no solution here memorises a quarter of the wrong labels")
    return found


@numbers
def _half(table, measure):
    """The epoch, after 0, at which ``measure`` first has half of its final value, by seed."""
    places = {}
    for seed, run in table[table["epoch"] > 0].sort_values("epoch").groupby("seed"):
        places[seed] = run.loc[run[measure] >= run[measure].iloc[-1] / 2, "epoch"].min()
    return pd.Series(places, dtype=float)


RULES = {
    "price-noisy-test-order": given(
        noisy, chain("test_accuracy", *SCRATCH_FIRST, how="max", label="best test accuracy")
    ),
    "price-noisy-margins": given(
        noisy,
        own("cifar10", "resnet-32"),
        [
            equal(
                f"best test accuracy: Sol-S - {name(other)} - {printed}",
                gap("test_accuracy", "sol_s", other, "max") - printed,
                "points",
                margin=3.0,
            )
            for other, printed in (("sol_d", 12.5), ("sol_f", 10.5))
        ],
    ),
    "price-noisy-final-test": given(
        noisy,
        [
            above("test_accuracy", "sol_s", "sol_f"),
            more(
                "test_accuracy: Sol-F - Sol-D + 2 points",
                gap("test_accuracy", "sol_f", "sol_d") + 2.0,
                "points",
            ),
        ],
    ),
    "price-noisy-train-order": given(
        noisy, chain("train_accuracy", *DENSE_FIRST, how="max", label="best training accuracy")
    ),
    "price-noisy-losses": given(
        noisy,
        [
            chain("train_loss", *SCRATCH_FIRST, how="min"),
            chain("test_loss", *DENSE_FIRST, how="min"),
        ],
    ),
    "price-noisy-memorised-order": given(noisy, chain("flipped_memorised", *DENSE_FIRST)),
    "price-noisy-memorise-onset": given(
        noisy, [_later("sol_s", "sol_f"), _later("sol_f", "sol_d")]
    ),
    "price-noisy-correct-on-noisy": given(
        noisy,
        [
            above(
                "flipped_correct", "sol_s", "sol_f", "max", "peak of flipped_correct: Sol-S - Sol-F"
            ),
            above(
                "flipped_correct", "sol_s", "sol_d", "max", "peak of flipped_correct: Sol-S - Sol-D"
            ),
            chain("flipped_correct", *SCRATCH_FIRST),
        ],
    ),
    "price-noisy-clean-fit": given(
        noisy,
        [
            *(
                more(
                    f"clean_accuracy: {name(a)} - {name(b)} + 0.5 points",
                    gap("clean_accuracy", a, b) + MATCH,
                    "points",
                )
                for a, b in (("sol_d", "sol_f"), ("sol_f", "sol_s"))
            ),
            more(
                "clean_accuracy of Sol-S - 95",
                100 * (pick("clean_accuracy", solution="sol_s") - 0.95),
                "points",
            ),
        ],
    ),
    "price-noisy-part-losses": given(
        noisy,
        [
            *(
                more(
                    f"{name(solution)}: flipped_loss - clean_loss",
                    pick("flipped_loss", solution=solution) - pick("clean_loss", solution=solution),
                    "nats",
                )
                for solution in ("sol_f", "sol_s")
            ),
            chain("flipped_loss", *SCRATCH_FIRST),
        ],
    ),
    "price-memorization-hypothesis": given(
        unfitted_control,
        [
            given(
                noisy,
                chain("flipped_memorised", "sol_f", "sol_s", label="memorised under noise"),
            ),
            given(
                lambda table: table[table["noise"] == 0],
                chain(
                    "train_accuracy", "sol_f", "sol_s", label="training accuracy on clean labels"
                ),
            ),
        ],
    ),
    "price-memorisation-late": given(
        noisy,
        each(
            "solution",
            more(
                "{solution}: half memorised - half clean",
                _half("flipped_memorised") - _half("clean_accuracy"),
                "epochs",
                resolution=half_step,
            ),
            memorising,
            label=name,
        ),
    ),
}
