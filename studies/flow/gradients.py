"""Gradient flow over training and at mask updates: the gradient-flow study's Figures 2, 3, 7 to 9b.

The table has a row per run and recorded step: ``row`` and ``form`` as in ``methods``, ``step`` of
``steps``, ``flow`` of the network as its optimiser steps left it, ``flow_after`` where the mask
changed at that very step, and the run's final ``test_accuracy``. Rows of mask updates have
``before`` and ``after`` in place of ``flow``. Flow is a squared norm; its ratios are decided on
their logarithms, averaged over the recorded steps of a window of training. The change at an update
is that of the norm itself. One factor tells flows apart, both ways: within ``ALIKE`` they count as
alike, and what is said to be higher must be so by more. Claims about ImageNet need the column
``train_images``, which tells it from other folders.
"""

import numpy as np
import pandas as pd

from studies.decide import NotHere
from studies.flow.methods import (
    FORMS, GPU, LENET, MLP, OWN, RESNET, SMALL, SPARSE, VGG, about, accuracy, named,
)  # fmt: skip
from studies.quantities import (
    Numbers, agreement, course, factor, lift, mean, median, needed, root,
)  # fmt: skip
from studies.rules import Rule, beyond, equal, given, if_any, matters, more, needs, says

# a norm of 0.1: ten times what chance imbalance among 1,000 examples' classes leaves in the last
# biases
LEARNS = 0.01
ALIKE = np.log(1.5)  # flows within a factor of 1.5, norms within 1.22
FALLS = tuple(epoch / 102 for epoch in (30, 70, 90))  # of the rate on ImageNet: shares of training
WINDOWS = {  # name -> (above this share of training, up to that one)
    "at the start": (-1.0, 0.0),
    "first 500 of 11,719 steps": (0.0, 500 / 11_719),
    "first half": (0.0, 0.5),
    "second half": (0.5, 1.0),
    "whole training": (0.0, 1.0),
}
START, FIRST_500, FIRST_HALF, SECOND_HALF, WHOLE = WINDOWS
CELLS = [*((method, form) for method in SPARSE for form in FORMS), ("rigl-inverted", OWN)]
STALLED, SCRATCH, RIGL = ("scratch", "masked"), ("scratch", OWN), ("rigl", OWN)


def flow(row: str, form: str = "", *, measure: str = "flow") -> Numbers:
    """``measure`` of one cell by seed and step; raises ``NotHere`` if the table lacks it."""
    return needed(
        course(measure, "step", row=row, form=form),
        f"the table has no {measure} of {named(row, form)}: give flow_every, and the form among "
        "forms",
    )


@lift
def within(wide: pd.DataFrame, steps: int, window: str, otherwise: str) -> pd.DataFrame:
    """The steps of a course in a window of training; ``NotHere`` if there are none."""
    low, high = (share * steps for share in WINDOWS[window])
    inside = wide.loc[:, (wide.columns > low) & (wide.columns <= high)]
    if inside.empty:
        raise NotHere(otherwise)
    return inside


STEPS = Numbers(lambda table: table["steps"].iloc[0])
logs = lift(lambda flow: np.log(flow.clip(lower=1e-12)))


def level(cell: tuple, window: str, measure: str = "flow") -> Numbers:
    """ln of gradient flow by seed, averaged over the recorded steps of a window of training."""
    missing = f"no recorded step in this window ({window}): give a smaller flow_every"
    return mean(logs(within(flow(*cell, measure=measure), STEPS, window, missing)))


def start(row: str, form: str = "") -> Numbers:
    """When learning starts, by seed: the first recorded step with a gradient flow of ``LEARNS``.

    The last step where there is none.
    """
    first = lift(lambda awake, end: awake.idxmax(axis=1).where(awake.any(axis=1), end))
    return first(flow(row, form) >= LEARNS, STEPS)


@Numbers
def every(table: pd.DataFrame) -> float:
    """The steps from one record to the next."""
    return float(min(np.diff(np.unique(table.loc[table["flow"].notna(), "step"])), default=0.0))


joined = lift(lambda *parts, names: pd.concat(parts, axis=1, keys=names))


def correlation(cells: list[tuple], window: str = FIRST_HALF) -> Numbers:
    """Spearman's rho between flow in a window and final accuracy over the cells, one per seed."""
    return agreement(
        joined(*(level(cell, window) for cell in cells), names=cells),
        joined(*(accuracy(*cell, how="first") for cell in cells), names=cells),
    )


def over(first: tuple, second: tuple, window: str, measure: str = "flow") -> Numbers:
    """ln(flow of one cell / that of another) in a window, by seed."""
    return level(first, window, measure) - level(second, window, measure)


@lift
def _factors(gain: pd.Series, after: pd.Series) -> str:
    recorded = f"; × {np.exp(after.mean()):.3g} where steps at which a mask changes are recorded"
    unlike = "" if np.allclose(gain, after) else f"{recorded} after the change"
    return f"flow × {np.exp(gain.mean()):.3g}{unlike}"


def higher(first: tuple, second: tuple, window: str, claim: str = "positive") -> Rule:
    """The flow of one cell is above that of another in a window, or alike."""
    gain, after = (over(first, second, window, measure) for measure in ("flow", "flow_after"))
    what = f"ln(flow of {named(*first)} / {named(*second)}), {window}"
    return more(what, gain, "ln", claim, margin=ALIKE, note=_factors(gain, after))


def factors(what: str, logs: Numbers, claim: str = "positive", of: str = "") -> Rule:
    """A claim on logarithms by seed, with the factor that they mean."""
    return more(what, logs, "ln", claim, margin=ALIKE, note=says(of + "× {:.3g}", factor(logs)))


def later(what: str, one: Numbers, other: Numbers, step: Numbers = every) -> Rule:
    """Learning starts later in one than in the other; a place carries half a recording step."""
    return more(
        f"start of learning{what}",
        one - other,
        "steps",
        resolution=step / 2,
        note=says("medians {:g} and {:g}", median(one), median(other)),
    )


def apart(form: str) -> Rule:
    """Small dense and scratch differ in flow, to whichever side: the test is two-sided."""
    gap, small = over(("small dense",), ("scratch", form), WHOLE), "flow of small dense"
    return factors(
        f"|ln({small} / {named('scratch', form)})|, {WHOLE}, positive on the side of its mean",
        lift(lambda found: found * np.sign(found.mean()))(gap),
        of=small + " / scratch's, or its inverse, ",
    )


@lift
def jump(wide: pd.DataFrame, steps: int, share: float) -> pd.Series:
    """ln of the flow first recorded after a share of training over that last recorded before."""
    since = wide.columns > share * steps
    return np.log(wide.loc[:, since].iloc[:, 0] / wide.loc[:, ~since].iloc[:, -1])


def no_more(window: str) -> Rule:
    """The flow of tickets is less than 1.21 times scratch's."""
    gain = over(("lottery",), SCRATCH, window)
    what = f"ln 1.21 - ln(flow of lottery / {named(*SCRATCH)}), {window}"
    return more(what, np.log(1.21) - gain, "ln", note=says("flow × {:.3g}", factor(gain)))


# -- at mask updates -------------------------------------------------------------------------------


def change(row: str, form: str = OWN) -> Numbers:
    """Change of the gradient norm at each mask update, by seed and step."""
    before, after = (flow(row, form, measure=moment) for moment in ("before", "after"))
    return root(after) - root(before)


def half(changes: Numbers, window: str = FIRST_HALF) -> Numbers:
    """Mean change in the first or the second half of training, by seed."""
    otherwise = "needs mask updates in both halves of training: give a smaller update_every"
    return mean(within(changes, STEPS, window, otherwise))


@lift
def around(changes: pd.DataFrame, began: pd.Series, asleep: bool) -> pd.Series:
    """Mean change at the updates before learning starts (``asleep``), or from there on, by seed."""
    sleeps = changes.columns.to_numpy() < began.to_numpy()[:, None]
    return changes.where(sleeps == asleep).mean(axis=1)


def times(row: str):
    """How the norm changes on average, as a factor, in words."""
    gain = mean(logs(flow(row, OWN, measure="after")) - logs(flow(row, OWN, measure="before")))
    return says(f"{row}: norm × {{:.3g}}", factor(0.5 * gain))


MEAN = "mean change of the gradient norm"
RANDOM, INVERTED, GREEDY = (mean(change(row)) for row in ("set", "rigl-inverted", "rigl"))
HALVES = [half(change("rigl"), window) for window in (FIRST_HALF, SECOND_HALF)]
DELAYED, BEGAN = change("rigl", "masked"), start("rigl", "masked")
ASLEEP, AWAKE = (around(DELAYED, BEGAN, asleep=asleep) for asleep in (True, False))
ABOVE = mean(flow(*RIGL) > flow(*SMALL))

RULES = {
    "flow-fig2-scratch-stalls": [
        later(f": {named(*STALLED)} - {named(*SCRATCH)}", start(*STALLED), start(*SCRATCH)),
        *(if_any(condition, equal(f"start of learning of {named(*STALLED)} - {printed}",
                                  start(*STALLED) - printed, "steps", margin=margin,
                                  resolution=every / 2,
                                  note=says("median {:g}", median(start(*STALLED)))))
          for condition, printed, margin in ((LENET, 1000, 600), (VGG, 5000, 2500)))],
    "flow-fig2-init-raises-flow": [higher(SCRATCH, STALLED, window)
                                   for window in (START, FIRST_500)],
    "flow-fig2-resnet-early-only": given(RESNET, [higher(SCRATCH, STALLED, FIRST_500),
                                                  higher(SCRATCH, STALLED, SECOND_HALF, "equal")]),
    "flow-fig2-lr-drop-jump": given(
        about(("ImageNet", "vgg-16"), ("ImageNet", "resnet-50"), tested=GPU),
        [factors(f"ln(flow of {named(*cell)} after / before the fall at {share:.0%} of training)",
                 jump(flow(*cell), STEPS, share=share))
         for cell in (SCRATCH, RIGL, SMALL) for share in FALLS]),
    "flow-fig2-small-dense-gap": [apart("masked"), apart(OWN)],
    "flow-fig2-rigl-improves": [higher(("rigl", form), ("scratch", form), FIRST_HALF)
                                for form in ("masked", OWN)],
    "flow-fig2-lt-no-improvement": [no_more(START), no_more(FIRST_500)],
    "flow-t1-rigl-vs-small-dense": given(LENET, [
        beyond(f"test accuracy: small dense - {named(*RIGL)}", accuracy(*SMALL, how="first"),
               accuracy(*RIGL, how="first"), "points", margin=matters(0.08)),
        higher(RIGL, SMALL, WHOLE)]),
    "flow-rigl-above-small-dense-flow": more(
        "share of steps at which RigL (ours) is above small dense - 1/2", ABOVE - 0.5, "share",
        note=says("above at {:.0f}% of the recorded steps", 100 * ABOVE)),
    "flow-dst-generalisation-link": more(
        f"Spearman(flow in the first half, test accuracy) over {len(CELLS)} methods and "
        "initialisations", correlation(CELLS), "rho", kind="trend",
        note=says("over the four methods from the study's start alone {:.2f}",
                  correlation([cell for cell in CELLS if cell[1] == OWN]))),
    "flow-fig7a-dst-starts-earlier": [
        later(f": {named(*STALLED)} - rigl (original)", start(*STALLED), BEGAN),
        *(higher((method, form), ("scratch", form), FIRST_HALF, claim) for form in ("masked", OWN)
          for method, claim in (("rigl", "positive"), ("set", "equal")))],
    "flow-fig7b-liu": [
        *(higher((method, "layer"), (method, "masked"), FIRST_500) for method in SPARSE),
        higher(("rigl", "layer"), ("scratch", "layer"), FIRST_HALF, "equal")],
    "flow-fig9a-mlp-flow": given(MLP, higher(SCRATCH, STALLED, FIRST_500)),
    "flow-fig3-rigl-update-raises": [
        more("median change of the gradient norm at an update: rigl (ours)",
             lift(lambda changes: changes.median(axis=1))(change("rigl")), "norm"),
        more("mean change, first half - second half: rigl (ours)", HALVES[0] - HALVES[1], "norm",
             note=says("{:.3g} and {:.3g}; {}", *HALVES, times("rigl")))],
    "flow-fig3-set-weaker": more(f"{MEAN}: rigl - set (ours)", GREEDY - RANDOM, "norm",
                                 note=says("{}, {}", times("rigl"), times("set"))),
    "flow-fig3-inverted-none": [
        more("a tenth of rigl's mean change - rigl-inverted's (ours)", 0.1 * GREEDY - INVERTED,
             "norm", note=says("{:.3g} and {:.3g}; {}", GREEDY, INVERTED, times("rigl-inverted"))),
        beyond(f"{MEAN}: set - rigl-inverted (ours)", RANDOM, INVERTED, "norm")],
    "flow-fig8-original-delay": given(
        needs(lambda table: ASLEEP(table).notna().any(),
              says("learning starts before the first mask update, at step {}, in every run",
                   lift(min)(DELAYED))),
        [more(f"{MEAN} once learning has started: rigl (original)", AWAKE, "norm"),
         more("a tenth of it - |mean change before that|", 0.1 * AWAKE - abs(ASLEEP), "norm",
              note=says("learning starts at step {:g} (median); change before {:.3g}, after {:.3g}",
                        median(BEGAN), ASLEEP, AWAKE))]),
    "flow-fig9b-mlp-rigl": given(MLP, [*(higher(RIGL, SCRATCH, window)
                                         for window in (FIRST_HALF, SECOND_HALF)),
                                       more(f"{MEAN} at an update: rigl (ours)", GREEDY, "norm")]),
}  # fmt: skip
