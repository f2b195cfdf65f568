"""Decision rules for the gradient-flow study's appendix B: one setting against another, all else equal.

The table has the columns ``setting``, what a comparison varies (a key of ``SETTINGS``); ``value``, what it is; ``row`` and ``form``, the
method and the start as in ``lib.claims.flow_methods``; ``own``, whether the value is that of the preset; and ``seed``. A run has a row
with its final ``test_accuracy`` for each setting that it takes part in, and with setting "init" also rows with ``flow``, ``step`` and
``steps`` as in ``lib.claims.flow_gradients``. Of "mask updates" the value is the interval in steps; ``drop_fraction`` stands beside it.
"""

import numpy as np
import pandas as pd

from lib.claims.decisions import Effect, NotHere
from lib.claims.flow_gradients import ALIKE, FIRST_HALF, OWN, level, name, start
from lib.claims.flow_methods import MATCH

SETTINGS = {  # setting -> the parameter that lists its values
    "weight decay": "weight_decays",
    "sparsity": "sparsities",
    "init": "inits",
    "layer densities": "scopes",
    "mask updates": "update_intervals",
    "training length": "longer",
}
SEEN = 0.1  # points: the spread of a sparse network's accuracy that the study prints for MNIST, 0.06 to 0.12 (Tables 1 and 5)
STARK = 0.95  # the sparsity from which on tickets and scratch are said to differ
TIMES = 5  # as many steps, with which RigL is said to match pruning
OFTEN, LARGE = (
    5,
    3,
)  # the defaults against VGG-16's: every 100 steps against every 500, and a drop fraction of 0.3 against 0.1
DECAYED = [("baseline", ""), ("pruned", ""), ("scratch", OWN), ("rigl", OWN)]
SCALED = [("baseline", ""), ("scratch", "masked"), ("scratch", OWN)]


# -- from the table to one number per seed -----------------------------------------------------------------------------


def values(table: pd.DataFrame, setting: str) -> list:
    """The values that a setting takes in the table, in its order."""
    return list(dict.fromkeys(table.loc[table["setting"] == setting, "value"]))


def accuracy(
    table: pd.DataFrame,
    setting: str,
    value,
    row: str,
    form: str = "",
    drop_fraction: float | None = None,
) -> pd.Series:
    """Final test accuracy by seed, in points, of one method at one value of a setting; raises ``NotHere`` if the table lacks it."""
    chosen = (
        (table["setting"] == setting)
        & (table["value"] == value)
        & (table["row"] == row)
        & (table["form"] == form)
    )
    if drop_fraction is not None:
        chosen &= table["drop_fraction"] == drop_fraction
    rows = table[chosen]
    if rows.empty:
        raise NotHere(
            f"the table has no {name(row, form)} with {setting} {value}: give it in {SETTINGS[setting]}"
        )
    return 100 * rows.groupby("seed")["test_accuracy"].first()


def _overall(table, setting, cells, first, second):
    """By how much the value ``first`` is better than ``second`` on average over the ``cells``, by seed; and each cell's mean, in words."""
    gains = {
        name(*cell): accuracy(table, setting, first, *cell)
        - accuracy(table, setting, second, *cell)
        for cell in cells
    }
    gains = pd.DataFrame(gains).dropna()
    return gains.mean(axis=1), ", ".join(
        f"{cell} {gain:+.2f}" for cell, gain in gains.mean().items()
    )


def _elsewhere(table, network):
    """What a verdict on another network than the study's is about."""
    here = ", ".join(sorted(set(table["network"] + " on " + table["dataset"])))
    return f"the study says it of {network} on ImageNet, here it is {here}"


# -- rules -------------------------------------------------------------------------------------------------------------


def flow_mnist_weight_decay_helps(table):
    decays = table[table["setting"] == "weight decay"]
    own = values(decays[decays["own"]], "weight decay")
    if not own or own[0] == 0 or 0 not in values(decays, "weight decay"):
        raise NotHere(
            "it compares a weight decay above 0 with none: give weight_decay, and 0 among weight_decays"
        )
    gain, each = _overall(table, "weight decay", DECAYED, own[0], 0)
    return [
        Effect(
            f"test accuracy: weight decay {own[0]:g} - none, mean of 4 methods",
            gain.to_numpy(),
            "points",
            margin=SEEN,
            note=each,
        )
    ]


def flow_95pct_contrast(table):
    grid = sorted(values(table, "sparsity"))
    if STARK not in grid or grid[0] == STARK:
        raise NotHere(f"it compares a sparsity of {STARK} with lower ones: give both in sparsities")
    gaps = {
        s: accuracy(table, "sparsity", s, "lottery")
        - accuracy(table, "sparsity", s, "scratch", OWN)
        for s in grid
    }
    stark = gaps[STARK].dropna()
    note = "; ".join(f"{gap.mean():.2f} at {s:g}" for s, gap in gaps.items())
    effects = [
        Effect(
            f"test accuracy: lottery - {name('scratch', OWN)} - 0.5, at {STARK}",
            stark.to_numpy() - MATCH,
            "points",
            note=note,
        )
    ]
    for s in grid[: grid.index(STARK)]:
        more = (gaps[STARK] - gaps[s]).dropna().to_numpy()
        effects.append(
            Effect(
                f"lottery - {name('scratch', OWN)}: at {STARK} - at {s:g}",
                more,
                "points",
                margin=MATCH,
            )
        )
    return effects


def flow_rigl_matches_pruning_long(table):
    if TIMES not in values(table, "training length"):
        raise NotHere(f"the study speaks of {TIMES} times the steps: give longer {TIMES}")
    pruned = accuracy(table, "training length", 1, "pruned")
    short, long = (accuracy(table, "training length", times, "rigl", OWN) for times in (1, TIMES))
    note = _elsewhere(table, "ResNet-50")
    return [
        Effect(
            "test accuracy: pruned - rigl, as many steps",
            (pruned - short).dropna().to_numpy(),
            "points",
            margin=MATCH,
            note=note,
        ),
        Effect(
            f"test accuracy: rigl, {TIMES} times the steps - pruned + 0.5",
            (long - pruned + MATCH).dropna().to_numpy(),
            "points",
        ),
    ]


def flow_vgg_dst_gentler(table):
    grid = (
        table[table["setting"] == "mask updates"]
        .groupby(["value", "drop_fraction"])["test_accuracy"]
        .mean()
    )
    if grid.empty:
        raise NotHere("the table has no mask updates: give update_intervals and drop_fractions")
    rare, small = max(grid.index.get_level_values(0)), min(grid.index.get_level_values(1))
    defaults = [
        (every, fraction)
        for every, fraction in grid.index
        if every * OFTEN == rare and np.isclose(fraction, LARGE * small)
    ]
    if not defaults:
        raise NotHere(
            f"it compares updates every {rare} steps and a drop fraction of {small:g} with updates {OFTEN} times as often and a fraction "
            f"{LARGE} times as large: give both in update_intervals and drop_fractions"
        )
    every, large = defaults[0]
    gentle, default = (
        accuracy(table, "mask updates", *pair)
        for pair in ((rare, "rigl", OWN, small), (every, "rigl", OWN, large))
    )
    best = grid.idxmax()
    note = (
        f"best mean of the grid: every {best[0]} steps, {best[1]:g}; {_elsewhere(table, 'VGG-16')}"
    )
    what = f"test accuracy of rigl: every {rare} steps and {small:g} - every {every} steps and {large:g}"
    return [Effect(what, (gentle - default).dropna().to_numpy(), "points", margin=MATCH, note=note)]


def flow_erk_better(table):
    gain, _ = _overall(table, "layer densities", [("rigl", OWN)], "erk", "layer")
    _, others = _overall(
        table, "layer densities", [("scratch", OWN), ("pruned", "")], "erk", "layer"
    )
    note = f"{others}; {_elsewhere(table, 'VGG-16')}"
    return [
        Effect(
            "test accuracy of rigl: erk - the same density in every layer",
            gain.to_numpy(),
            "points",
            margin=MATCH,
            note=note,
        )
    ]


def _flows(table, scheme):
    """The records of gradient flow with one init; raises ``NotHere`` if there are none."""
    rows = table[(table["setting"] == "init") & (table["value"] == scheme)]
    if rows.empty or "flow" not in rows or rows["flow"].isna().all():
        raise NotHere(
            f"the table has no gradient flow with init {scheme}: give it in inits, and flow_every"
        )
    return rows[rows["flow"].notna()]


def flow_fig7c_he(table):
    glorot, he = _flows(table, "glorot-uniform"), _flows(table, "he")
    starts = [start(flows, "scratch", "masked") for flows in (glorot, he)]
    half_step = float(np.diff(np.unique(glorot["step"])).min()) / 2
    medians = f"medians {starts[0].median():g} and {starts[1].median():g}"
    what = f"start of learning of {name('scratch', 'masked')}: glorot-uniform - he"
    ratio = (
        level(he, ("scratch", OWN), FIRST_HALF) - level(glorot, ("scratch", OWN), FIRST_HALF)
    ).dropna()
    return [
        Effect(
            what,
            (starts[0] - starts[1]).dropna().to_numpy(),
            "steps",
            resolution=half_step,
            note=medians,
        ),
        Effect(
            f"ln(flow of {name('scratch', OWN)}: he / glorot-uniform), {FIRST_HALF}",
            ratio.to_numpy(),
            "ln",
            "equal",
            ALIKE,
            note=f"flow × {np.exp(ratio.mean()):.3g}",
        ),
    ]


def flow_glorot_slightly_better(table):
    gain, each = _overall(table, "init", SCALED, "glorot-uniform", "he")
    note = f"difference {gain.mean():+.2f}: {each}"
    beyond = gain.to_numpy() - MATCH / 2
    return [
        Effect(
            "test accuracy: glorot-uniform - he - 0.25, mean of 3 methods",
            beyond,
            "points",
            "equal",
            MATCH / 2,
            note=note,
        )
    ]
