"""Decision rules of the price study's Figure 6, as code: a table of runs in, rows of evidence out.

A rule that the table cannot answer raises ``NotHere`` with what could.
"""

from itertools import pairwise

import numpy as np
import pandas as pd

from lib.claims import tables
from lib.claims.decisions import Effect, NotHere
from lib.claims.regimes import FITTED
from lib.claims.tables import name

MEMORISES = 0.25  # memorised share below which a solution has not learned its wrong labels (chance is 1 / classes)


def _noisy(table):
    noisy = table[table["noise"] > 0]
    if noisy.empty:
        raise NotHere("needs label noise above 0")
    return noisy


def _chain(table, measure, solutions, how="final", label=None):
    """The first is above the second, the second above the third."""
    of = label or f"{'' if how == 'final' else how + ' '}{measure}"
    return [
        tables.direction(table, measure, a, b, how=how, label=f"{of}: {name(a)} - {name(b)}")
        for a, b in pairwise(solutions)
    ]


def price_noisy_test_order(table):
    return _chain(
        _noisy(table), "test_accuracy", ("sol_s", "sol_f", "sol_d"), "max", "best test accuracy"
    )


def price_noisy_margins(table):
    tables.own_setting(_noisy(table), "cifar10", "resnet-32")
    effects = []
    for other, margin in (("sol_d", 12.5), ("sol_f", 10.5)):
        gap = tables.difference(_noisy(table), "test_accuracy", "sol_s", other, how="max") - margin
        effects.append(
            Effect(
                f"best test accuracy: Sol-S - {name(other)} - {margin}", gap, "points", "equal", 3.0
            )
        )
    return effects


def price_noisy_final_test(table):
    noisy = _noisy(table)
    behind = tables.difference(noisy, "test_accuracy", "sol_f", "sol_d") + 2.0
    return [
        tables.direction(noisy, "test_accuracy", "sol_s", "sol_f"),
        Effect("test_accuracy: Sol-F - Sol-D + 2 points", behind, "points"),
    ]


def price_noisy_train_order(table):
    return _chain(
        _noisy(table),
        "train_accuracy",
        ("sol_d", "sol_f", "sol_s"),
        "max",
        "best training accuracy",
    )


def price_noisy_losses(table):
    noisy = _noisy(table)
    return _chain(noisy, "train_loss", ("sol_s", "sol_f", "sol_d"), "min") + _chain(
        noisy, "test_loss", ("sol_d", "sol_f", "sol_s"), "min"
    )


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
        note = f"never in {never} seeds of {name(later)}" if never else ""
        effects.append(
            Effect(
                f"onset: {name(later)} - {name(sooner)}",
                gap,
                "epochs",
                resolution=step / 2,
                note=note,
            )
        )
    return effects


def price_noisy_correct_on_noisy(table):
    noisy = _noisy(table)
    peaks = [
        tables.direction(
            noisy,
            "flipped_correct",
            "sol_s",
            other,
            how="max",
            label=f"peak of flipped_correct: Sol-S - {name(other)}",
        )
        for other in ("sol_f", "sol_d")
    ]
    return peaks + _chain(noisy, "flipped_correct", ("sol_s", "sol_f", "sol_d"))


def price_noisy_clean_fit(table):
    noisy, effects = _noisy(table), []
    for a, b in (("sol_d", "sol_f"), ("sol_f", "sol_s")):
        gap = tables.difference(noisy, "clean_accuracy", a, b) + 100 * tables.MARGIN
        effects.append(Effect(f"clean_accuracy: {name(a)} - {name(b)} + 0.5 points", gap, "points"))
    least = 100 * (tables.at(noisy, "sol_s", "clean_accuracy").to_numpy() - 0.95)
    return [*effects, Effect("clean_accuracy of Sol-S - 95", least, "points")]


def price_noisy_part_losses(table):
    noisy, effects = _noisy(table), []
    for solution in ("sol_f", "sol_s"):
        gap = tables.at(noisy, solution, "flipped_loss") - tables.at(noisy, solution, "clean_loss")
        effects.append(
            Effect(f"{name(solution)}: flipped_loss - clean_loss", gap.to_numpy(), "nats")
        )
    return effects + _chain(noisy, "flipped_loss", ("sol_s", "sol_f", "sol_d"))


def price_memorization_hypothesis(table):
    clean = table[table["noise"] == 0]
    if clean.empty:
        raise NotHere("needs the control runs on clean labels")
    if tables.at(clean, "sol_s", "train_accuracy").mean() >= FITTED:
        raise NotHere(
            "Sol-S fits the clean training set at this sparsity: the optimization regime lies higher"
        )
    return [
        tables.direction(
            _noisy(table),
            "flipped_memorised",
            "sol_f",
            "sol_s",
            label="memorised under noise: Sol-F - Sol-S",
        ),
        tables.direction(
            clean,
            "train_accuracy",
            "sol_f",
            "sol_s",
            label="training accuracy on clean labels: Sol-F - Sol-S",
        ),
    ]


def price_memorisation_late(table):
    noisy, effects = _noisy(table), []
    step = np.diff(np.sort(noisy["epoch"].unique())).max()
    for solution in ("sol_d", "sol_f", "sol_s"):
        if tables.at(noisy, solution, "flipped_memorised").mean() < MEMORISES:
            continue  # it has not learned the wrong labels at all, so there is no time at which it did
        lag = {}
        for seed, run in (
            noisy[(noisy["solution"] == solution) & (noisy["epoch"] > 0)]
            .sort_values("epoch")
            .groupby("seed")
        ):
            half = [
                run.loc[run[m] >= run[m].iloc[-1] / 2, "epoch"].min()
                for m in ("flipped_memorised", "clean_accuracy")
            ]
            lag[seed] = half[0] - half[1]
        values = np.array(list(lag.values()), dtype=float)
        effects.append(
            Effect(
                f"{name(solution)}: half memorised - half clean",
                values,
                "epochs",
                resolution=step / 2,
            )
        )
    if not effects:
        raise NotHere("no solution here memorises a quarter of the wrong labels")
    return effects
