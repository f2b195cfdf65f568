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

from studies.decide import NotHere
from studies.flow.gradients import ALIKE, FIRST_HALF, SCRATCH, STALLED, every, joined, level, start
from studies.flow.methods import OWN, named
from studies.quantities import factor, lift, mean, median, needed, part, pick
from studies.quantities import numbers as quantity
from studies.rules import MATCH, Rule, equal, given, more, needs, says

SETTINGS = {  # setting -> the parameter that lists its values
    "weight decay": "weight_decays",
    "sparsity": "sparsities",
    "init": "inits",
    "layer densities": "scopes",
    "mask updates": "update_intervals",
    "training length": "longer",
}
# points: the spread of a sparse network's accuracy that the study prints for MNIST, 0.06 to 0.12
SEEN = 0.1
STARK = 0.95  # the sparsity from which on tickets and scratch are said to differ
TIMES = 5  # as many steps, with which RigL is said to match pruning
# the defaults against VGG-16's: every 100 steps against every 500, drop 0.3 against 0.1
OFTEN, LARGE = 5, 3
DECAYED = [("baseline", ""), ("pruned", ""), SCRATCH, ("rigl", OWN)]
SCALED = [("baseline", ""), STALLED, SCRATCH]


def values(table: pd.DataFrame, setting: str) -> list:
    """The values that a setting takes in the table, in its order."""
    return list(dict.fromkeys(table.loc[table["setting"] == setting, "value"]))


def accuracy(setting: str, value, row: str, form: str = "", drop_fraction: float | None = None):
    """Final test accuracy by seed, in points, of one method at one value of a setting.

    Raises ``NotHere`` if the table lacks it.
    """
    cell = {"setting": setting, "value": value, "row": row, "form": form}
    if drop_fraction is not None:
        cell["drop_fraction"] = drop_fraction
    missing = f"{named(row, form)} with {setting} {value}: give it in {SETTINGS[setting]}"
    return needed(100 * pick("test_accuracy", "first", **cell), f"the table has no {missing}")


def gains(setting: str, cells: list[tuple], first, second):
    """By how much the value ``first`` is better than ``second``, by seed and cell."""
    better = (accuracy(setting, first, *cell) - accuracy(setting, second, *cell) for cell in cells)
    return joined(*better, names=[named(*cell) for cell in cells])


each = lift(lambda found: ", ".join(f"{cell} {gain:+.2f}" for cell, gain in found.mean().items()))


def elsewhere(network: str):
    """What a verdict on another network than the study's is about."""

    def words(table):
        here = ", ".join(sorted(set(table["network"] + " on " + table["dataset"])))
        return f"the study says it of {network} on ImageNet, here it is {here}"

    return words


def decay_helps(table: pd.DataFrame) -> Rule:
    """The preset's weight decay is better than none, on average over four methods."""
    decays = table[table["setting"] == "weight decay"]
    own = values(decays[decays["own"]], "weight decay")
    if not own or own[0] == 0 or 0 not in values(decays, "weight decay"):
        raise NotHere(
            "it compares a weight decay above 0 with none: give weight_decay, and 0 among "
            "weight_decays"
        )
    found = gains("weight decay", DECAYED, own[0], 0)
    what = f"test accuracy: weight decay {own[0]:g} - none, mean of 4 methods"
    return more(what, mean(found), "points", margin=SEEN, note=each(found))


def contrast(table: pd.DataFrame) -> Rule:
    """Tickets are better than scratch by half a point at ``STARK``, and by less below."""
    grid = sorted(values(table, "sparsity"))
    if STARK not in grid or grid[0] == STARK:
        raise NotHere(f"it compares a sparsity of {STARK} with lower ones: give both in sparsities")
    gap = {s: accuracy("sparsity", s, "lottery") - accuracy("sparsity", s, *SCRATCH) for s in grid}
    what, note = f"lottery - {named(*SCRATCH)}", "; ".join(f"{{:.2f}} at {s:g}" for s in grid)
    return [
        more(
            f"test accuracy: {what} - {MATCH}, at {STARK}",
            gap[STARK] - MATCH,
            "points",
            note=says(note, *gap.values()),
        ),
        *(
            more(f"{what}: at {STARK} - at {s:g}", gap[STARK] - gap[s], "points", margin=MATCH)
            for s in grid[: grid.index(STARK)]
        ),
    ]


def gentler(table: pd.DataFrame) -> Rule:
    """RigL is better with the rarest updates and the smallest drop fraction of the grid."""
    updates = table[table["setting"] == "mask updates"]
    grid = updates.groupby(["value", "drop_fraction"])["test_accuracy"].mean()
    if grid.empty:
        raise NotHere("the table has no mask updates: give update_intervals and drop_fractions")
    rare, small = (pick(grid.index.get_level_values(i)) for i, pick in enumerate((max, min)))
    usual = [g for g in grid.index if g[0] * OFTEN == rare and np.isclose(g[1], LARGE * small)]
    if not usual:
        raise NotHere(
            f"it compares updates every {rare} steps and a drop fraction of {small:g} with updates "
            f"{OFTEN} times as often and a fraction {LARGE} times as large: give both in "
            "update_intervals and drop_fractions"
        )
    pairs, best = [(rare, small), usual[0]], grid.idxmax()
    words = " - ".join(f"every {steps} steps and {fraction:g}" for steps, fraction in pairs)
    gentle, default = (accuracy("mask updates", s, "rigl", OWN, f) for s, f in pairs)
    note = says(
        f"best mean of the grid: every {best[0]} steps, {best[1]:g}; {{}}", elsewhere("VGG-16")
    )
    what = f"test accuracy of rigl: {words}"
    return more(what, gentle - default, "points", margin=MATCH, note=note)


@quantity
def under(table: pd.DataFrame, scheme: str, numbers):
    """The numbers of the networks with one init whose gradient flow is recorded."""
    rows = part(table, setting="init", value=scheme)
    recorded = rows[rows["flow"].notna()] if "flow" in rows else rows[:0]
    if recorded.empty:
        raise NotHere(
            f"the table has no gradient flow with init {scheme}: give it in inits, and flow_every"
        )
    return numbers(recorded)


PRUNED = accuracy("training length", 1, "pruned")
GLOROT = gains("init", SCALED, "glorot-uniform", "he")
STARTS = [under(scheme, start(*STALLED)) for scheme in ("glorot-uniform", "he")]
FLOW = level(SCRATCH, FIRST_HALF)
HIGHER = under("he", FLOW) - under("glorot-uniform", FLOW)

RULES = {
    "flow-mnist-weight-decay-helps": decay_helps,
    "flow-95pct-contrast": contrast,
    "flow-rigl-matches-pruning-long": given(
        needs(
            lambda table: TIMES in values(table, "training length"),
            f"the study speaks of {TIMES} times the steps: give longer {TIMES}",
        ),
        [
            more(
                "test accuracy: pruned - rigl, as many steps",
                PRUNED - accuracy("training length", 1, "rigl", OWN),
                "points",
                margin=MATCH,
                note=elsewhere("ResNet-50"),
            ),
            more(
                f"test accuracy: rigl, {TIMES} times the steps - pruned + {MATCH}",
                accuracy("training length", TIMES, "rigl", OWN) - PRUNED + MATCH,
                "points",
            ),
        ],
    ),
    "flow-vgg-dst-gentler": gentler,
    "flow-erk-better": more(
        "test accuracy of rigl: erk - the same density in every layer",
        mean(gains("layer densities", [("rigl", OWN)], "erk", "layer")),
        "points",
        margin=MATCH,
        note=says(
            "{}; {}",
            each(gains("layer densities", [SCRATCH, ("pruned", "")], "erk", "layer")),
            elsewhere("VGG-16"),
        ),
    ),
    "flow-fig7c-he": [
        more(
            f"start of learning of {named(*STALLED)}: glorot-uniform - he",
            STARTS[0] - STARTS[1],
            "steps",
            resolution=under("glorot-uniform", every) / 2,
            note=says("medians {:g} and {:g}", *map(median, STARTS)),
        ),
        equal(
            f"ln(flow of {named(*SCRATCH)}: he / glorot-uniform), {FIRST_HALF}",
            HIGHER,
            "ln",
            margin=ALIKE,
            note=says("flow × {:.3g}", factor(HIGHER)),
        ),
    ],
    "flow-glorot-slightly-better": equal(
        "test accuracy: glorot-uniform - he - 0.25, mean of 3 methods",
        mean(GLOROT) - MATCH / 2,
        "points",
        margin=MATCH / 2,
        note=says("difference {:+.2f}: {}", mean(GLOROT), each(GLOROT)),
    ),
}
