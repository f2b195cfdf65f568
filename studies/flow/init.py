"""Starts without training: the gradient-flow study's Figure 1c, and the variances of section 3.1.

The table has a row per number. ``part`` says what was measured: "signal" (the output's standard
deviation), "forward" and "backward" (mean squares by layer), "full mask", "equal fan-in", "step",
and "moved" (a step from biases off zero); ``value`` is the number. ``kind`` is that of the random
masks, ``form`` and ``scheme`` are those of the initialisers.
"""

import numpy as np
import pandas as pd

from studies.flow.methods import FORMS
from studies.quantities import (
    course,
    factor,
    first,
    last,
    lift,
    ln,
    needed,
    numbers,
    part,
    place,
)
from studies.rules import Rule, along, equal, fact, given, more, needs, rises, says

CODE_MASKS = "bounded"  # those that the study's released code draws for Figure 1c
KEPT = (0.7, 1.4)  # of the dense network's signal
STEADY = 1.25  # from layer to layer
SAME = 1e-9


def measured(what: str, along: str = "part", **where):
    """The numbers of one part, by seed and by the column ``along``."""
    wanted = ", ".join(f"{column} {value}" for column, value in where.items())
    return needed(
        course("value", along, part=what, **where),
        f"the table has nothing of {what}{': ' if wanted else ''}{wanted}; "
        "the presets' own settings give it",
    )


def ratio_of_means(numbers: pd.Series, reference: pd.Series) -> pd.Series:
    """One number per seed with the mean mean(numbers) / mean(reference).

    Their spread is that of this ratio, linearised. A mean of single ratios would be pulled up by
    chance, the more the wider they spread.

    >>> ratio_of_means(pd.Series([1.0, 3.0]), pd.Series([2.0, 2.0])).tolist()
    [0.5, 1.5]
    """
    ratio = numbers.mean() / reference.mean()
    return ratio + (numbers - ratio * reference) / reference.mean()


@numbers
def signals(table: pd.DataFrame, kind: str, form: str, scheme: str = "he") -> pd.DataFrame:
    """Standard deviation of the output by seed and sparsity, the dense network as sparsity 0."""
    dense = measured("signal", "sparsity", kind="", scheme=scheme)(table)
    sparse = measured("signal", "sparsity", kind=kind, form=form, scheme=scheme)(table)
    return dense.join(sparse.drop(columns=0.0, errors="ignore"), how="inner")


@lift
def relative(found: pd.DataFrame) -> pd.DataFrame:
    """Signals in units of the dense network's: their mean is the ratio of the means over seeds."""
    return found.drop(columns=0.0).apply(ratio_of_means, reference=found[0.0])


def relative_signals(table: pd.DataFrame) -> pd.DataFrame:
    """All signals in units of the dense network's: kind, scheme, form, sparsity, seed, value."""
    starts = part(table, part="signal").query("sparsity > 0")[["kind", "scheme", "form"]]
    return pd.concat(
        [
            relative(signals(**cell))(table)
            .melt(ignore_index=False, var_name="sparsity")
            .reset_index()
            .assign(**cell)
            for cell in starts.drop_duplicates().to_dict("records")
        ],
        ignore_index=True,
    )


def unchanged(kind: str, form: str, scheme: str) -> Rule:
    """A form of fresh weights keeps the dense signal at every sparsity."""
    middle, margin = sum(KEPT) / 2, (KEPT[1] - KEPT[0]) / 2
    return along(
        relative(signals(kind, form, scheme)),
        lambda sparsity, ratios: equal(
            f"{FORMS[form]} at {sparsity:g}: signal / dense - {middle:g}",
            ratios - middle,
            "ratio",
            margin=margin,
            note=says("{:.3g} of the dense signal", ratios),
        ),
    )


def kept(kind: str, scheme: str = "he") -> Rule:
    """Figure 1c with masks of one kind: the masked dense signal falls, the others keep theirs."""
    original = signals(kind, "masked", scheme)
    left = relative(original)
    return [
        rises(
            "original: -(rank correlation of the signal with sparsity)",
            -original,
            note=says(
                "at {:g}: {:.2g} of the dense signal, at {:g}: {:.2g}",
                *(place(left, 0), first(left), place(left, -1), last(left)),
            ),
        ),
        unchanged(kind, "neuron", scheme),
        unchanged(kind, "layer", scheme),
    ]


def steady(what: str, step: int, kind: str = "uneven", form: str = "neuron") -> Rule:
    """From a layer to the one ``step`` after it mean squares are alike, within ``STEADY``."""
    found = measured(what, "layer", kind=kind, form=form)
    expected = course("expected", "layer", part=what, kind=kind, form=form)
    return given(
        needs(
            lambda table: (found(table) > 0).all(axis=None),
            "some layer has no signal at all: a lower sparsity, or wider layers",
        ),
        needs(
            lambda table: found(table).shape[1] >= 3,
            "needs three layers at least: give more widths",
        ),
        along(
            lift(lambda wide: np.log(wide / wide.shift(step, axis=1)).dropna(axis=1))(found),
            lambda layer, logs: equal(
                f"ln(layer {layer:g} / layer {layer - step:g})",
                logs,
                "ln",
                margin=np.log(STEADY),
                note=says(
                    "ratio {:.3f}, in closed form {:.3f}",
                    factor(logs),
                    lift(lambda of: of[layer].mean() / of[layer - step].mean())(expected),
                ),
            ),
        ),
    )


def error(order: str, what: str = "step"):
    """Relative error of a prediction of the loss's change, "first" or "second" order.

    By seed and size of the step, rising.
    """
    return abs(course(order, "step", part=what) / measured(what, "step") - 1)


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
                    note=says(
                        "{:.2g} at {:.2g}, {:.2g} at {:.2g}",
                        *(last(of), place(of, -1), first(of), place(of, 0)),
                    ),
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


def once(what: str, **where):
    """The numbers of one part, by seed."""
    return first(measured(what, **where))


VARIANCE = "largest relative difference of a sampling variance"
FULL = {  # what is measured under a full mask: words, what it should be, tolerance
    "variance": (VARIANCE, 0.0, SAME),
    "draws": ("share of drawn weights that differ from the dense ones", 0.0, SAME),
    "mean square": ("mean square of the drawn weights over their variance, - 1", 1.0, 0.05),
}

RULES = {
    "flow-fig1c-signal": kept(CODE_MASKS),
    "flow-init-reduces-to-dense": given(
        needs(lambda table: (table["part"] == "full mask").any(),
              "the table has nothing of full mask; the presets' own settings give it"),
        lambda table: [fact(f"{scheme}: {words}",
                            once("full mask", scheme=scheme, quantity=name) - expected, tolerance)
                       for scheme in part(table, part="full mask")["scheme"].unique()
                       for name, (words, expected, tolerance) in FULL.items()]),
    "flow-init-forward-variance": steady("forward", 1),
    "flow-init-backward-variance": steady("backward", -1),
    "flow-liu-special-case": [
        fact(f"equal fan-in: {VARIANCE}", once("equal fan-in", kind="even", quantity="variance"),
             SAME),
        fact("equal fan-in: largest difference of a drawn weight",
             once("equal fan-in", kind="even", quantity="draws"), 1e-5, "SD"),
        fact("unequal fan-in: mean relative difference of the variances - 0.05",
             once("equal fan-in", kind="uneven", quantity="mean difference") - 0.05)],
    "flow-descent-first-order": predicted(),
}  # fmt: skip
