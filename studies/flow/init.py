"""Starts without training: the gradient-flow study's Figure 1c, and the variances of section 3.1.

The table has a row per number. ``part`` says what was measured: "signal" (the output's standard
deviation), "forward" and "backward" (mean squares by layer), "full mask", "equal fan-in", "step",
and "moved" (a step from biases off zero); ``value`` is the number. ``kind`` is that of the random
masks, ``form`` and ``scheme`` are those of the initialisers.
"""

from itertools import pairwise

import numpy as np
import pandas as pd

from studies.decide import NotHere
from studies.flow.methods import FORMS
from studies.quantities import Numbers, course, first, last, lift, ln, needed, part, pick, trend
from studies.quantities import numbers as quantity
from studies.rules import Rule, along, each, equal, given, more, needs, says

CODE_MASKS = "bounded"  # those that the study's released code draws for Figure 1c
KEPT = (0.7, 1.4)  # of the dense network's signal
STEADY = 1.25  # from layer to layer
SAME = 1e-9


def numbers(what: str, places: str = "", **where) -> Numbers:
    """The numbers of one part by seed, and by the column ``places`` if one is given."""
    wanted = ", ".join(f"{column} {value}" for column, value in where.items())
    missing = f"the table has nothing of {what}{': ' if wanted else ''}{wanted}"
    of = course("value", places, part=what, **where) if places else pick("value", part=what, **where)
    return needed(of, f"{missing}; the presets' own settings give it")


def ratio_of_means(numbers, reference) -> np.ndarray:
    """One number per seed with the mean mean(numbers) / mean(reference).

    Their spread is that of this ratio, linearised. A mean of single ratios would be pulled up by
    chance, the more the wider they spread.

    >>> ratio_of_means([1.0, 3.0], [2.0, 2.0])
    array([0.5, 1.5])
    """
    ratio, scale = np.mean(numbers) / np.mean(reference), np.mean(reference)
    return ratio + (np.asarray(numbers) - ratio * np.asarray(reference)) / scale


@quantity
def signals(table: pd.DataFrame, kind: str, form: str, scheme: str = "he") -> pd.DataFrame:
    """Standard deviation of the output by seed and sparsity, the dense network as sparsity 0."""
    dense = numbers("signal", "sparsity", kind="", scheme=scheme)(table)
    sparse = numbers("signal", "sparsity", kind=kind, form=form, scheme=scheme)(table)
    return dense.join(sparse.drop(columns=0.0, errors="ignore"), how="inner")


@lift
def relative(found: pd.DataFrame) -> pd.DataFrame:
    """Signals in units of the dense network's: their mean is the ratio of the means over seeds."""
    return found.drop(columns=0.0).apply(lambda s: ratio_of_means(s, found[0.0]))


def relative_signals(table: pd.DataFrame) -> pd.DataFrame:
    """``relative`` of all kinds, schemes and forms: rows kind, scheme, form, sparsity, seed, value."""
    starts = part(table, part="signal").query("sparsity > 0")[["kind", "scheme", "form"]]
    cells = starts.drop_duplicates().to_dict("records")
    wide = [relative(signals(**cell))(table) for cell in cells]
    long = [w.melt(ignore_index=False, var_name="sparsity").reset_index() for w in wide]
    return pd.concat([r.assign(**c) for r, c in zip(long, cells, strict=True)], ignore_index=True)


@lift
def _ends(found: pd.DataFrame) -> str:
    kept = found.mean() / found[0.0].mean()
    low, high = kept.index[[1, -1]]
    return f"at {low:g}: {kept[low]:.2g} of the dense signal, at {high:g}: {kept[high]:.2g}"


def kept(kind: str, scheme: str = "he") -> Rule:
    """Figure 1c with masks of one kind: the masked dense signal falls, the others keep theirs."""
    original, middle = signals(kind, "masked", scheme), sum(KEPT) / 2
    fall = -trend(original, otherwise="needs two sparsities at least")
    what = "original: -(rank correlation of the signal with sparsity)"
    return [
        more(what, fall, "rank correlation", note=_ends(original)),
        *(
            along(
                relative(signals(kind, form, scheme)),
                lambda sparsity, ratios, form=form: equal(
                    f"{FORMS[form]} at {sparsity:g}: signal / dense - {middle:g}",
                    ratios - middle,
                    "ratio",
                    margin=(KEPT[1] - KEPT[0]) / 2,
                    note=says("{:.3g} of the dense signal", ratios),
                ),
            )
            for form in ("neuron", "layer")
        ),
    ]


def steady(what: str, kind: str = "uneven", form: str = "neuron") -> Rule:
    """From each layer to the next the mean squares' ratio is 1, within a factor of ``STEADY``."""

    def rule(table):
        found = numbers(what, "layer", kind=kind, form=form)(table)
        expected = part(table, part=what, kind=kind, form=form).groupby("layer")["expected"].mean()
        if (found <= 0).any(axis=None):
            raise NotHere("some layer has no signal at all: a lower sparsity, or wider layers")
        if found.shape[1] < 3:
            raise NotHere("needs three layers at least: give more widths")
        for pair in pairwise(found):
            before, after = pair if what == "forward" else pair[::-1]
            step = np.log(found[after] / found[before])
            closed = f"in closed form {expected[after] / expected[before]:.3f}"
            yield equal(
                f"ln(layer {after:g} / layer {before:g})",
                lambda _, step=step: step,
                "ln",
                margin=np.log(STEADY),
                note=f"ratio {np.exp(step.mean()):.3f}, {closed}",
            )

    return rule


def error(order: str, what: str = "step") -> Numbers:
    """Relative error of a prediction of the loss's change, "first" or "second" order.

    By seed and size of the step, rising.
    """
    return abs(course(order, "step", part=what) / numbers(what, "step") - 1)


@lift
def _errors(found: pd.DataFrame) -> str:
    small, large = found.columns[[0, -1]]
    means = found.mean()
    return f"{means[large]:.2g} at {large:.2g}, {means[small]:.2g} at {small:.2g}"


def predicted(what: str = "step") -> Rule:
    """The first order predicts a step's change of the loss, the second order better."""
    found = {order: error(order, what) for order in ("first", "second")}
    return given(
        needs(lambda t: found["first"](t).shape[1] >= 2, "needs two sizes of step at least"),
        [
            [
                more(
                    f"{order} order: ln(error at the largest / at the smallest step)",
                    ln(last(of) / first(of)),
                    "ln",
                    note=_errors(of),
                ),
                more(f"{order} order: 1% - error at the smallest step", 1 - 100 * first(of), "%"),
            ]
            for order, of in found.items()
        ]
        + [
            along(
                ln(found["first"] / found["second"]),
                lambda step, logs: more(
                    f"step {step:.2g}: ln(error of the first / of the second order)", logs, "ln"
                ),
            )
        ],
    )


def schemes(table: pd.DataFrame) -> np.ndarray:
    """The schemes that were drawn under a full mask; raises ``NotHere`` if none was."""
    numbers("full mask")(table)
    return part(table, part="full mask")["scheme"].unique()


VARIANCE = "largest relative difference of a sampling variance"

RULES = {
    "flow-fig1c-signal": kept(CODE_MASKS),
    "flow-init-reduces-to-dense": each(
        "scheme",
        [
            equal(
                f"{{scheme}}: {what}",
                numbers("full mask", quantity=quantity) - expected,
                unit,
                margin=margin,
            )
            for quantity, what, unit, expected, margin in (
                ("variance", VARIANCE, "", 0, SAME),
                ("draws", "share of drawn weights that differ from the dense ones", "share", 0, SAME),
                (
                    "mean square",
                    "mean square of the drawn weights over their variance, - 1",
                    "",
                    1,
                    0.05,
                ),
            )
        ],
        schemes,
        "{}",
    ),
    "flow-init-forward-variance": steady("forward"),
    "flow-init-backward-variance": steady("backward"),
    "flow-liu-special-case": [
        equal(
            f"equal fan-in: {VARIANCE}",
            numbers("equal fan-in", kind="even", quantity="variance"),
            margin=SAME,
        ),
        equal(
            "equal fan-in: largest difference of a drawn weight",
            numbers("equal fan-in", kind="even", quantity="draws"),
            "SD",
            margin=1e-5,
        ),
        more(
            "unequal fan-in: mean relative difference of the variances - 0.05",
            numbers("equal fan-in", kind="uneven", quantity="mean difference") - 0.05,
        ),
    ],
    "flow-descent-first-order": predicted(),
}
