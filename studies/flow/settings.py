"""One setting against another, all else equal: the gradient-flow study's appendix B.

The table has the columns ``setting``, what a comparison varies (a key of ``SETTINGS``); ``value``,
what it is; ``row`` and ``form``, the method and the start as in ``methods``; ``own``, whether the
value is that of the preset; and ``seed``. A run has a row with its final ``test_accuracy`` for each
setting that it takes part in, and with setting "init" also rows with ``flow``, ``step`` and
``steps`` as in ``gradients``. Of "mask updates" the value is the interval in steps;
``drop_fraction`` stands beside it.
"""

import numpy as np
import pandas as pd

from studies.flow.gradients import (
    FIRST_HALF,
    SCRATCH,
    STALLED,
    every,
    factors,
    joined,
    later,
    level,
    start,
)
from studies.flow.methods import OWN, named
from studies.quantities import Numbers, lift, mean, needed, numbers, of, pick
from studies.rules import MATCH, Rule, equal, given, matters, more, needs, only, says

SETTINGS = {  # setting -> the parameter that lists its values
    "weight decay": "weight_decays",
    "sparsity": "sparsities",
    "init": "inits",
    "layer densities": "scopes",
    "mask updates": "update_intervals",
    "training length": "longer",
}
STARK = 0.95  # the sparsity from which on tickets and scratch are said to differ
TIMES = 5  # as many steps, with which RigL is said to match pruning
# the defaults against VGG-16's: every 100 steps against every 500, drop 0.3 against 0.1
OFTEN, LARGE = 5, 3
DECAYED = [("baseline", ""), ("pruned", ""), SCRATCH, ("rigl", OWN)]
SCALED = [("baseline", ""), STALLED, SCRATCH]


def values(table: pd.DataFrame, setting: str) -> list:
    """The values that a setting takes in the table, in its order."""
    return list(dict.fromkeys(table.loc[table["setting"] == setting, "value"]))


def accuracy(setting: str, value, row: str, form: str = "", drop_fraction=None) -> Numbers:
    """Final test accuracy by seed, in points, of one method at one value of a setting.

    Raises ``NotHere`` if the table lacks it. The value may be a function of the table.
    """
    cell = {"setting": setting, "value": value, "row": row, "form": form}
    drop = {} if drop_fraction is None else {"drop_fraction": drop_fraction}
    missing = f"the table has no {named(row, form)} with {setting} {{}}: give it in "
    return needed(
        100 * pick("test_accuracy", "first", **cell, **drop),
        says(missing + SETTINGS[setting], lambda table: of(value, table)),
    )


def gains(setting: str, cells: list[tuple], first, second) -> Numbers:
    """By how much the value ``first`` is better than ``second``, by seed and cell."""
    return joined(
        *(accuracy(setting, first, *cell) - accuracy(setting, second, *cell) for cell in cells),
        names=[named(*cell) for cell in cells],
    )


each = lift(lambda found: ", ".join(f"{cell} {gain:+.2f}" for cell, gain in found.mean().items()))


# what matters, of the rows with accuracies: those with gradient flow have none
WEIGHS = Numbers(lambda table: matters()(table[table["test_accuracy"].notna()]))


def decay(table: pd.DataFrame) -> float:
    """The preset's own weight decay; 0 where the table has none."""
    return next(iter(values(table[table["own"]], "weight decay")), 0)


def contrast(table: pd.DataFrame) -> Rule:
    """Tickets are better than scratch by half a point at ``STARK``, and by less below."""
    grid, what = sorted(values(table, "sparsity")), f"lottery - {named(*SCRATCH)}"
    gap = {s: accuracy("sparsity", s, "lottery") - accuracy("sparsity", s, *SCRATCH) for s in grid}
    return [
        more(
            f"test accuracy: {what} - {MATCH}, at {STARK}",
            gap[STARK] - MATCH,
            "points",
            note=says("; ".join(f"{{:.2f}} at {s:g}" for s in grid), *gap.values()),
        ),
        *(
            more(f"{what}: at {STARK} - at {s:g}", gap[STARK] - gap[s], "points", margin=WEIGHS)
            for s in grid[: grid.index(STARK)]
        ),
    ]


def gentler(table: pd.DataFrame) -> Rule:
    """RigL is better with the rarest updates and the smallest drop fraction of the grid."""
    updates = table[table["setting"] == "mask updates"]
    grid = updates.groupby(["value", "drop_fraction"])["test_accuracy"].mean()
    rare, small, best = updates["value"].max(), updates["drop_fraction"].min(), grid.idxmax()
    usual = [g for g in grid.index if g[0] * OFTEN == rare and np.isclose(g[1], LARGE * small)]
    pairs = [(rare, small), *usual]
    found = [accuracy("mask updates", steps, "rigl", OWN, drop) for steps, drop in pairs]
    words = [f"every {steps} steps and {fraction:g}" for steps, fraction in pairs]
    return given(
        needs(
            lambda _: bool(usual),
            f"it compares updates every {rare} steps and a drop fraction of {small:g} with updates "
            f"{OFTEN} times as often and a fraction {LARGE} times as large: give both in "
            "update_intervals and drop_fractions",
        ),
        more(
            f"test accuracy of rigl: {' - '.join(words)}",
            found[0] - found[-1],
            "points",
            margin=WEIGHS,
            note=f"best mean of the grid: every {best[0]} steps, {best[1]:g}",
        ),
    )


@numbers
def under(table: pd.DataFrame, scheme: str, numbers: Numbers):
    """The numbers of the networks with one init whose gradient flow is recorded."""
    recorded = table.get("flow", pd.Series(np.nan, table.index)).notna()
    return numbers(
        only(
            lambda t: recorded & (t["setting"] == "init") & (t["value"] == scheme),
            f"the table has no gradient flow with init {scheme}: give it in inits, and flow_every",
        )(table)
    )


GLOROT, HE = (
    [under(scheme, numbers) for numbers in (start(*STALLED), level(SCRATCH, FIRST_HALF), every)]
    for scheme in ("glorot-uniform", "he")
)
PRUNED = accuracy("training length", 1, "pruned")
LONG = accuracy("training length", TIMES, "rigl", OWN)
GAIN = {
    "decay": gains("weight decay", DECAYED, decay, 0),
    "erk": gains("layer densities", [("rigl", OWN)], "erk", "layer"),
    "erk elsewhere": gains("layer densities", [SCRATCH, ("pruned", "")], "erk", "layer"),
    "glorot": gains("init", SCALED, "glorot-uniform", "he"),
}

RULES = {
    "flow-mnist-weight-decay-helps": given(
        needs(lambda table: decay(table) != 0 and 0 in values(table, "weight decay"),
              "it compares a weight decay above 0 with none: give weight_decay, and 0 among "
              "weight_decays"),
        more(says("test accuracy: weight decay {:g} - none, mean of 4 methods", decay),
             mean(GAIN["decay"]), "points", margin=WEIGHS, note=each(GAIN["decay"]))),
    "flow-95pct-contrast": given(
        needs(lambda table: STARK in sorted(values(table, "sparsity"))[1:],
              f"it compares a sparsity of {STARK} with lower ones: give both in sparsities"),
        contrast),
    "flow-rigl-matches-pruning-long": given(
        needs(lambda table: TIMES in values(table, "training length"),
              f"the study speaks of {TIMES} times the steps: give longer {TIMES}"),
        [more("test accuracy: pruned - rigl, as many steps",
              PRUNED - accuracy("training length", 1, "rigl", OWN), "points", margin=WEIGHS),
         more(f"test accuracy: rigl, {TIMES} times the steps - pruned + what matters",
              LONG - PRUNED + WEIGHS, "points",
              note=says("without it {:+.2f}", LONG - PRUNED))]),
    "flow-vgg-dst-gentler": given(
        needs(lambda table: "mask updates" in set(table["setting"]),
              "the table has no mask updates: give update_intervals and drop_fractions"), gentler),
    "flow-erk-better": more("test accuracy of rigl: erk - the same density in every layer",
                            mean(GAIN["erk"]), "points", margin=WEIGHS,
                            note=each(GAIN["erk elsewhere"])),
    "flow-fig7c-he": [later(f" of {named(*STALLED)}: glorot-uniform - he", GLOROT[0], HE[0],
                            GLOROT[2]),
                      factors(f"ln(flow of {named(*SCRATCH)}: he / glorot-uniform), {FIRST_HALF}",
                              HE[1] - GLOROT[1], "equal", "flow ")],
    "flow-glorot-slightly-better": equal(
        "test accuracy: glorot-uniform - he - 0.25, mean of 3 methods",
        mean(GAIN["glorot"]) - MATCH / 2, "points", margin=MATCH / 2,
        note=says("difference {:+.2f}: {}", mean(GAIN["glorot"]), each(GAIN["glorot"]))),
}  # fmt: skip
