"""Gradient flow over training: the gradient-flow study's Figures 2, 7 and 9a.

The table has a row per run and recorded step: ``row`` and ``form`` as in ``methods``, ``step`` of
``steps``, ``flow`` of the network as its optimiser steps left it, ``flow_after`` where the mask
changed at that very step, and the run's final ``test_accuracy``. Rows of mask updates have
``before`` and ``after`` in place of ``flow``. Flow is a squared norm; its ratios are decided on
their logarithms, averaged over the recorded steps of a window of training.
"""

import functools

import numpy as np
import pandas as pd

from studies.decide import NotHere
from studies.flow.methods import FORMS, LENET, MLP, OWN, SPARSE, accuracy, data_of, named
from studies.quantities import Numbers, agreement, course, factor, lift, mean, median, needed
from studies.quantities import numbers as quantity
from studies.rules import MATCH, Rule, equal, given, if_any, more, needs, says

# a norm of 0.1: ten times what chance imbalance among 1,000 examples' classes leaves in the last
# biases
LEARNS = 0.01
EARLY = 500 / 11_719  # of training: the first 500 of the study's steps
ALIKE = np.log(1.5)  # flows within a factor of 1.5, norms within 1.22
DIFFERENT = np.log(1.25)
WINDOWS = {  # name -> (above this share of training, up to that one)
    "at the start": (-1.0, 0.0),
    "first 500 of 11,719 steps": (0.0, EARLY),
    "first half": (0.0, 0.5),
    "second half": (0.5, 1.0),
    "whole training": (0.0, 1.0),
}
START, FIRST_500, FIRST_HALF, SECOND_HALF, WHOLE = WINDOWS
METHODS = [(method, OWN) for method in ("scratch", "set", "rigl", "rigl-inverted")]
CELLS = [*((method, form) for method in SPARSE for form in FORMS), ("rigl-inverted", OWN)]


def flow(row: str, form: str = "", measure: str = "flow") -> Numbers:
    """``measure`` of one cell by seed and step; raises ``NotHere`` if the table lacks it."""
    missing = f"no {measure} of {named(row, form)}: give flow_every, and the form among forms"
    return needed(course(measure, "step", row=row, form=form), f"the table has {missing}")


@quantity
def level(table: pd.DataFrame, cell: tuple, window: str, measure: str = "flow") -> pd.Series:
    """ln of gradient flow by seed, averaged over the recorded steps of a window of training."""
    wide = flow(*cell, measure=measure)(table)
    low, high = (share * table["steps"].iloc[0] for share in WINDOWS[window])
    inside = wide.loc[:, (wide.columns > low) & (wide.columns <= high)]
    if inside.empty:
        raise NotHere(f"no recorded step in this window ({window}): give a smaller flow_every")
    return np.log(inside.clip(lower=1e-12)).mean(axis=1)


@quantity
def start(table: pd.DataFrame, row: str, form: str = "") -> pd.Series:
    """When learning starts, by seed: the first recorded step with a gradient flow of ``LEARNS``.

    The last step where there is none.
    """
    awake = flow(row, form)(table) >= LEARNS
    return awake.idxmax(axis=1).where(awake.any(axis=1), table["steps"].iloc[0])


@Numbers
def every(table: pd.DataFrame) -> float:
    """The steps from one record to the next."""
    steps = np.unique(table.loc[table["flow"].notna(), "step"])
    return float(np.diff(steps).min()) if len(steps) > 1 else 0.0


ends = functools.partial(accuracy, how="first")  # the table has a run's accuracy at every step
joined = lift(lambda *parts, names: pd.concat(parts, axis=1, keys=names))


def correlation(cells: list[tuple], window: str = FIRST_HALF) -> Numbers:
    """Spearman's rho between flow in a window and final accuracy over the cells, one per seed."""
    flows = joined(*(level(cell, window) for cell in cells), names=cells)
    return agreement(flows, joined(*(ends(*cell) for cell in cells), names=cells))


def over(first: tuple, second: tuple, window: str, measure: str = "flow") -> Numbers:
    """ln(flow of one cell / that of another) in a window, by seed."""
    return level(first, window, measure) - level(second, window, measure)


def higher(first: tuple, second: tuple, window: str, claim: str = "positive", **how) -> Rule:
    """The flow of one cell is above that of another in a window."""
    gain, after = (over(first, second, window, measure) for measure in ("flow", "flow_after"))
    plain = says("flow × {:.3g}", factor(gain))
    recorded = "{}; × {:.3g} where steps at which a mask changes are recorded after the change"

    def note(table):
        alike = np.allclose(gain(table), after(table))
        return plain(table) if alike else says(recorded, plain, factor(after))(table)

    what = f"ln(flow of {named(*first)} / {named(*second)}), {window}"
    return more(what, gain, "ln", claim, note=note, **how)


def later(first: tuple, second: tuple) -> Rule:
    """Learning starts later in one cell than in another; a place carries half a recording step."""
    begun = [start(*first), start(*second)]
    note = says("medians {:g} and {:g}", *map(median, begun))
    what = f"start of learning: {named(*first)} - {named(*second)}"
    return more(what, begun[0] - begun[1], "steps", resolution=every / 2, note=note)


def apart(form: str) -> Rule:
    """Small dense and scratch differ in flow; on which side is taken from the other seeds."""
    gap = over(("small dense",), ("scratch", form), WHOLE)
    return more(
        f"|ln(flow of small dense / {named('scratch', form)})|, {WHOLE}, "
        "its sign from the other seeds",
        lift(lambda found: found * np.sign(found.sum() - found))(gap),
        "ln",
        margin=DIFFERENT,
        note=says("flow of small dense × {:.3g}", factor(gap)),
    )


def no_more(window: str) -> Rule:
    """The flow of tickets is less than 1.21 times scratch's."""
    gain = over(("lottery",), ("scratch", OWN), window)
    what = f"ln 1.21 - ln(flow of lottery / {named('scratch', OWN)}), {window}"
    return more(what, np.log(1.21) - gain, "ln", note=says("flow × {:.3g}", factor(gain)))


def untested(what: str) -> Rule:
    """The rule of a claim that no preset tests."""
    return needs(lambda table: False, f"{what}: it needs that set and a GPU")


STALLED = ("scratch", "masked")
SCRATCH, RIGL = ("scratch", OWN), ("rigl", OWN)
ABOVE = mean(flow(*RIGL) > flow("small dense"))

RULES = {
    "flow-fig2-scratch-stalls": [
        later(STALLED, SCRATCH),
        if_any(
            LENET,
            equal(
                "start of learning of scratch (original) - 1000",
                start(*STALLED) - 1000,
                "steps",
                margin=600,
                resolution=every / 2,
                note=says("median {:g}", median(start(*STALLED))),
            ),
        ),
    ],
    "flow-fig2-init-raises-flow": [
        higher(SCRATCH, STALLED, window) for window in (START, FIRST_500)
    ],
    "flow-fig2-resnet-early-only": untested("ResNet-50 on ImageNet"),
    "flow-fig2-lr-drop-jump": untested(
        "VGG-16 and ResNet-50 on ImageNet, whose learning rate falls in steps"
    ),
    "flow-fig2-small-dense-gap": [apart("masked"), apart(OWN)],
    "flow-fig2-rigl-improves": [
        higher(("rigl", form), ("scratch", form), FIRST_HALF) for form in ("masked", OWN)
    ],
    "flow-fig2-lt-no-improvement": [no_more(START), no_more(FIRST_500)],
    "flow-t1-rigl-vs-small-dense": given(
        needs(
            lambda table: data_of(table) == "mnist" and "lenet-5" in set(table["network"]),
            "a claim about LeNet-5 on MNIST: preset paper tests it",
        ),
        [
            more(
                f"test accuracy: small dense - {named(*RIGL)}",
                ends("small dense") - ends(*RIGL),
                "points",
                margin=MATCH,
            ),
            higher(RIGL, ("small dense",), WHOLE),
        ],
    ),
    "flow-rigl-above-small-dense-flow": more(
        "share of steps at which RigL (ours) is above small dense - 1/2",
        ABOVE - 0.5,
        "share",
        note=says("above at {:.0f}% of the recorded steps", 100 * ABOVE),
    ),
    "flow-dst-generalisation-link": [
        more(
            f"Spearman(flow in the first half, test accuracy) over {label}",
            correlation(cells),
            "rho",
        )
        for label, cells in (
            ("four methods (ours)", METHODS),
            (f"{len(CELLS)} methods and initialisations", CELLS),
        )
    ],
    "flow-fig7a-dst-starts-earlier": [
        later(STALLED, ("rigl", "masked")),
        *(
            higher((method, form), ("scratch", form), FIRST_HALF, **how)
            for form in ("masked", OWN)
            for method, how in (("rigl", {}), ("set", {"claim": "equal", "margin": ALIKE}))
        ),
    ],
    "flow-fig7b-liu": [
        *(higher((method, "layer"), (method, "masked"), FIRST_500) for method in SPARSE),
        higher(("rigl", "layer"), ("scratch", "layer"), FIRST_HALF, "equal", margin=ALIKE),
    ],
    "flow-fig9a-mlp-flow": given(MLP, higher(SCRATCH, STALLED, FIRST_500)),
}
