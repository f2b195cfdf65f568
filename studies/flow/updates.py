"""Gradient flow at mask updates: the gradient-flow study's Figures 3, 8 and 9b.

The table is that of ``gradients``. The change at an update is that of the gradient's norm.
"""

import numpy as np
import pandas as pd

from studies.decide import NotHere
from studies.flow.gradients import FIRST_HALF, RIGL, SCRATCH, SECOND_HALF, flow, higher, start
from studies.flow.methods import MLP, OWN
from studies.quantities import Numbers, at_least, factor, lift, ln, mean, median
from studies.quantities import numbers as quantity
from studies.rules import Rule, given, more, needs, says

sqrt = lift(np.sqrt)
CHANGE = "mean change of the gradient norm"


def change(row: str, form: str = OWN) -> Numbers:
    """Change of the gradient norm at each mask update, by seed and step."""
    return sqrt(flow(row, form, "after")) - sqrt(flow(row, form, "before"))


@quantity
def half(table: pd.DataFrame, changes: Numbers, second: bool = False) -> pd.Series:
    """Mean change in the first or the second half of training, by seed."""
    wide = changes(table)
    late = wide.columns > table["steps"].iloc[0] / 2
    if late.all() or not late.any():
        raise NotHere("needs mask updates in both halves of training: give a smaller update_every")
    return wide.loc[:, late == second].mean(axis=1)


@lift
def around(changes: pd.DataFrame, began: pd.Series, asleep: bool) -> pd.Series:
    """Mean change at the updates before learning starts (``asleep``), or from there on, by seed."""
    sleeps = changes.columns.to_numpy() < began.to_numpy()[:, None]
    return changes.where(sleeps == asleep).mean(axis=1)


def times(row: str) -> Numbers:
    """How the norm changes on average, as a factor."""
    after, before = (ln(at_least(flow(row, OWN, moment), 1e-12)) for moment in ("after", "before"))
    return factor(0.5 * mean(after - before))


def stronger(what: str, first: Numbers, second: Numbers, note="") -> Rule:
    """The mean change is larger in one than in another."""
    return more(what, first - second, "norm", note=note)


RANDOM, INVERTED, GREEDY = (mean(change(row)) for row in ("set", "rigl-inverted", "rigl"))
EARLY, LATE = half(change("rigl")), half(change("rigl"), second=True)
DELAYED, BEGAN = change("rigl", "masked"), start("rigl", "masked")
ASLEEP, AWAKE = around(DELAYED, BEGAN, asleep=True), around(DELAYED, BEGAN, asleep=False)
FIRST_UPDATE = lift(lambda changes: changes.columns[0])(DELAYED)

RULES = {
    "flow-fig3-rigl-update-raises": [
        more(
            "median change of the gradient norm at an update: rigl (ours)",
            lift(lambda changes: changes.median(axis=1))(change("rigl")),
            "norm",
        ),
        stronger(
            "mean change, first half - second half: rigl (ours)",
            EARLY,
            LATE,
            says("{:.3g} and {:.3g}; rigl: norm × {:.3g}", EARLY, LATE, times("rigl")),
        ),
    ],
    "flow-fig3-set-weaker": stronger(
        f"{CHANGE}: rigl - set (ours)",
        GREEDY,
        RANDOM,
        says("rigl: norm × {:.3g}, set: norm × {:.3g}", times("rigl"), times("set")),
    ),
    "flow-fig3-inverted-none": [
        stronger(
            "a tenth of rigl's mean change - rigl-inverted's (ours)",
            0.1 * GREEDY,
            INVERTED,
            says(
                "{:.3g} and {:.3g}; rigl-inverted: norm × {:.3g}",
                GREEDY,
                INVERTED,
                times("rigl-inverted"),
            ),
        ),
        stronger(f"{CHANGE}: set - rigl-inverted (ours)", RANDOM, INVERTED),
    ],
    "flow-fig8-original-delay": given(
        needs(
            lambda table: ASLEEP(table).notna().any(),
            says(
                "learning starts before the first mask update, at step {}, in every run",
                FIRST_UPDATE,
            ),
        ),
        [
            more(f"{CHANGE} once learning has started: rigl (original)", AWAKE, "norm"),
            stronger(
                "a tenth of it - |mean change before that|",
                0.1 * AWAKE,
                abs(ASLEEP),
                says(
                    "learning starts at step {:g} (median); change before {:.3g}, after {:.3g}",
                    median(BEGAN),
                    ASLEEP,
                    AWAKE,
                ),
            ),
        ],
    ),
    "flow-fig9b-mlp-rigl": given(
        MLP,
        [
            *(higher(RIGL, SCRATCH, window) for window in (FIRST_HALF, SECOND_HALF)),
            more(f"{CHANGE} at an update: rigl (ours)", GREEDY, "norm"),
        ],
    ),
}
