"""The Hessian around mask updates and along training: the gradient-flow study's Figures 10 and 11.

The table has a row per measured state: ``row``, the method as in ``methods``; ``step``; ``moment``,
which is "along" (training), or "before", "after" and "settled" for an update at that step;
``smallest`` and ``largest``, the ends of the spectrum; along training also ``negative_share``, and
after an update ``change``, the relative distance of the whole spectra. Eigenvalues are told apart
by one factor, both ways, as gradient flows are.
"""

import numpy as np

from studies.flow.gradients import ALIKE, factors
from studies.flow.methods import SPARSE
from studies.quantities import Numbers, at_least, course, factor, known, lift, ln, mean, needed
from studies.rules import Rule, beyond, more, says

NEAR_ZERO = 1e-3  # of the largest eigenvalue: a negative one below that is not told apart from zero
NAMES = {"set": "SET", "rigl": "RigL", "baseline": "dense baseline"}


def spectrum(row: str, moment: str, measure: str) -> Numbers:
    """``measure`` of one method at one kind of moment, by seed and step."""
    return needed(
        course(measure, "step", row=row, moment=moment),
        f"the table has no {measure} of {NAMES.get(row, row)}, {moment}",
    )


def largest(row: str, moment: str = "along") -> Numbers:
    """ln of the largest eigenvalue, by seed and step."""
    return ln(spectrum(row, moment, "largest"))


def negative(row: str, moment: str = "along") -> Numbers:
    """ln of the size of the largest negative eigenvalue; at least ``NEAR_ZERO`` of the largest."""
    floor = NEAR_ZERO * spectrum(row, moment, "largest")
    return ln(at_least(-spectrum(row, moment, "smallest"), floor))


WORDS = {largest: "largest eigenvalue", negative: "|largest negative eigenvalue|"}


def change(of, row: str, first: str = "before", second: str = "after") -> Numbers:
    """The mean change of a logarithm between two moments around updates, by seed."""
    return known(mean(of(row, second) - of(row, first)))


def over(of, first: str, second: str, claim: str = "positive") -> Rule:
    """An eigenvalue of one method is above that of another along training, or alike."""
    return factors(
        f"ln({WORDS[of]}: {NAMES.get(first, first)} / {NAMES.get(second, second)}), along training",
        known(mean(of(first) - of(second))),
        claim,
    )


DENSE, SCRATCH = (mean(spectrum(row, "along", "negative_share")) for row in ("baseline", "scratch"))
GREEDY, RANDOM = (spectrum(row, "after", "change") for row in ("rigl", "set"))
CHANGE = known(mean(ln(GREEDY / RANDOM)))

RULES = {
    "flow-hessian-rigl-negative": [
        factors(f"ln({WORDS[negative]} after / before an update): {label}", gain)
        for label, gain in (("RigL", change(negative, "rigl")),
                            ("RigL - SET", change(negative, "rigl") - change(negative, "set")))],
    "flow-hessian-rigl-positive-transient": [
        factors(f"ln({WORDS[largest]} {words}): RigL", change(largest, "rigl", *moments), claim)
        for words, moments, claim in (
            ("after / before an update", ("before", "after"), "positive"),
            ("after an update / some steps later", ("settled", "after"), "positive"),
            ("some steps later / before the update", ("before", "settled"), "equal"))],
    "flow-hessian-set-limited": more(
        "ln(change of the spectrum at an update: RigL / SET)", CHANGE, "ln", margin=ALIKE,
        note=says("× {:.3g}; {:.3g} and {:.3g} of the mean size of an eigenvalue", factor(CHANGE),
                  *(lift(np.nanmean)(found) for found in (GREEDY, RANDOM)))),
    "flow-hessian-dense-negative-mass": [
        beyond("negative share of the spectrum: dense baseline - scratch, along training", DENSE,
               SCRATCH, note="{:.3g} and {:.3g}"),
        *(over(largest, row, "scratch", "equal")
          for row in ("baseline", "set", "rigl"))],
    "flow-hessian-largest-negative": [over(negative, *pair)
                                      for pair in (*(("baseline", row) for row in SPARSE),
                                                   ("rigl", "scratch"))],
    "flow-hessian-small-dense-conditioning": [
        *(over(largest, row, "small dense") for row in SPARSE),
        *(over(negative, "small dense", row) for row in SPARSE)],
}  # fmt: skip
