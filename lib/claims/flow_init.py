"""Decision rules for the gradient-flow study's Figure 1c and the variances of its section 3.1 and appendix A: starts, without training.

The table has a row per number. ``part`` says what was measured: "signal" (the output's standard deviation), "forward" and "backward"
(mean squares by layer), "full mask", "equal fan-in", "step", and "moved" (a step from biases off zero); ``value`` is the number.
``kind`` is that of the random masks (``lib.masks.random``), ``form`` and ``scheme`` are those of ``lib.init``.
"""

from itertools import pairwise

import numpy as np
import pandas as pd

from lib.claims.decisions import Effect, NotHere
from lib.claims.flow_methods import FORMS

CODE_MASKS = "bounded"  # those that the study's released code draws for Figure 1c
KEPT = (0.7, 1.4)  # of the dense network's signal
STEADY = 1.25  # from layer to layer
SAME = 1e-9


def values(table, part, **where):
    """The rows of one part, by the columns in ``where``; raises ``NotHere`` where the table lacks them."""
    rows = table[table["part"] == part]
    for column, wanted in where.items():
        rows = rows[rows[column] == wanted] if column in rows else rows[:0]
    if rows.empty:
        wanted = ", ".join(f"{column} {value}" for column, value in where.items())
        raise NotHere(
            f"the table has nothing of {part}{': ' if wanted else ''}{wanted}; the presets' own settings give it"
        )
    return rows


def by_seed(rows, column):
    """``value`` as a table: a row per seed, a column for each value of ``column``, rising."""
    return rows.pivot_table(index="seed", columns=column, values="value").sort_index(axis=1)


def ratio_of_means(numbers, reference):
    """One number per seed whose mean is mean(numbers) / mean(reference), and whose spread is that of this ratio, linearised.

    A mean of single ratios would be pulled up by chance, the more the wider they spread.
    """
    numbers, reference = np.asarray(numbers, dtype=float), np.asarray(reference, dtype=float)
    ratio = numbers.mean() / reference.mean()
    return ratio + (numbers - ratio * reference) / reference.mean()


def signals(table, *, kind, form, scheme):
    """Standard deviation of the output: a row per seed, a column per sparsity, the dense network as sparsity 0."""
    dense = by_seed(values(table, "signal", kind="", scheme=scheme), "sparsity")
    sparse = by_seed(values(table, "signal", kind=kind, form=form, scheme=scheme), "sparsity")
    return dense.join(sparse.drop(columns=0.0, errors="ignore"), how="inner")


def relative(table, *, kind, form, scheme):
    """The same in units of the dense network's: columns of numbers whose mean is the ratio of the means over seeds."""
    found = signals(table, kind=kind, form=form, scheme=scheme)
    return pd.DataFrame(
        {s: ratio_of_means(found[s], found[0.0]) for s in found if s > 0}, index=found.index
    )


def relative_signals(table):
    """``relative`` for every kind of mask, scheme and form of the table, as rows kind, scheme, form, sparsity, seed, value."""
    rows = table[(table["part"] == "signal") & (table["sparsity"] > 0)]
    found = []
    for kind, scheme, form in (
        rows[["kind", "scheme", "form"]].drop_duplicates().itertuples(index=False)
    ):
        wide = relative(table, kind=kind, form=form, scheme=scheme)
        found.append(
            wide.melt(ignore_index=False, var_name="sparsity")
            .reset_index()
            .assign(kind=kind, scheme=scheme, form=form)
        )
    return pd.concat(found, ignore_index=True)


def signal_effects(table, kind, scheme="he"):
    """The evidence on Figure 1c with masks of one kind: the masked dense signal falls, the others keep theirs."""
    original = signals(table, kind=kind, form="masked", scheme=scheme)
    if original.shape[1] < 3:
        raise NotHere("needs two sparsities at least")
    ranks = original.rank(axis=1).sub(original.rank(axis=1).mean(axis=1), axis=0)
    places = np.arange(original.shape[1]) - (original.shape[1] - 1) / 2
    fall = -(ranks @ places) / np.sqrt((ranks**2).sum(axis=1) * (places**2).sum())
    first, last = original.columns[1], original.columns[-1]
    note = (
        f"at {first:g}: {original[first].mean() / original[0.0].mean():.2g} of the dense signal, at {last:g}: "
        + (f"{original[last].mean() / original[0.0].mean():.2g}")
    )
    effects = [
        Effect(
            "original: -(rank correlation of the signal with sparsity)",
            fall.to_numpy(),
            "rank correlation",
            note=note,
        )
    ]
    middle, margin = sum(KEPT) / 2, (KEPT[1] - KEPT[0]) / 2
    for form in ("neuron", "layer"):
        for sparsity, ratios in relative(table, kind=kind, form=form, scheme=scheme).items():
            what = f"{FORMS[form]} at {sparsity:g}: signal / dense - {middle:g}"
            note = f"{ratios.mean():.3g} of the dense signal"
            effects.append(
                Effect(what, ratios.to_numpy() - middle, "ratio", "equal", margin, note=note)
            )
    return effects


def flow_fig1c_signal(table):
    return signal_effects(table, CODE_MASKS)


def flow_init_reduces_to_dense(table):
    rows, effects = values(table, "full mask"), []
    claimed = {
        "variance": ("largest relative difference of a sampling variance", SAME, "", 0.0),
        "draws": ("share of drawn weights that differ from the dense ones", SAME, "share", 0.0),
        "mean square": ("mean square of the drawn weights over their variance, - 1", 0.05, "", 1.0),
    }
    for scheme in rows["scheme"].unique():
        for quantity, (what, margin, unit, expected) in claimed.items():
            found = (
                values(rows, "full mask", scheme=scheme, quantity=quantity)
                .set_index("seed")["value"]
                .sort_index()
            )
            effects.append(
                Effect(f"{scheme}: {what}", found.to_numpy() - expected, unit, "equal", margin)
            )
    return effects


def steady_effects(table, part, *, kind, form="neuron"):
    """From each layer to the next: the logarithm of the ratio of the mean squares is 0 within ln 1.25."""
    rows = values(table, part, kind=kind, form=form)
    found, expected = by_seed(rows, "layer"), rows.groupby("layer")["expected"].mean()
    if (found <= 0).any(axis=None):
        raise NotHere("some layer has no signal at all: a lower sparsity, or wider layers")
    layers, effects = list(found), []
    if len(layers) < 3:
        raise NotHere("needs three layers at least: give more widths")
    for before, after in pairwise(layers):
        if part == "backward":
            before, after = after, before
        step = np.log(found[after] / found[before]).to_numpy()
        note = f"ratio {np.exp(step.mean()):.3f}, in closed form {expected[after] / expected[before]:.3f}"
        effects.append(
            Effect(
                f"ln(layer {after:g} / layer {before:g})",
                step,
                "ln",
                "equal",
                np.log(STEADY),
                note=note,
            )
        )
    return effects


def flow_init_forward_variance(table):
    return steady_effects(table, "forward", kind="uneven")


def flow_init_backward_variance(table):
    return steady_effects(table, "backward", kind="uneven")


def flow_liu_special_case(table):
    def numbers(kind, quantity):
        return (
            values(table, "equal fan-in", kind=kind, quantity=quantity)
            .set_index("seed")["value"]
            .sort_index()
            .to_numpy()
        )

    return [
        Effect(
            "equal fan-in: largest relative difference of a sampling variance",
            numbers("even", "variance"),
            "",
            "equal",
            SAME,
        ),
        Effect(
            "equal fan-in: largest difference of a drawn weight",
            numbers("even", "draws"),
            "SD",
            "equal",
            1e-5,
        ),
        Effect(
            "unequal fan-in: mean relative difference of the variances - 0.05",
            numbers("uneven", "mean difference") - 0.05,
        ),
    ]


def errors(table, part="step"):
    """Relative errors of the first and of the second order: two tables, a row per seed and a column per size of step, rising."""
    rows = values(table, part)
    found = {
        name: rows.assign(value=(rows[name] / rows["value"] - 1).abs())
        for name in ("first", "second")
    }
    return tuple(by_seed(wanted, "step") for wanted in found.values())


def step_effects(table, part="step"):
    """The evidence on the prediction of a step's change of the loss."""
    first, second = errors(table, part)
    if first.shape[1] < 2:
        raise NotHere("needs two sizes of step at least")
    effects = []
    for name, error in (("first", first), ("second", second)):
        small, large = error.columns[0], error.columns[-1]
        fall = np.log(error[large] / error[small]).to_numpy()
        note = f"{error[large].mean():.2g} at {large:.2g}, {error[small].mean():.2g} at {small:.2g}"
        effects += [
            Effect(
                f"{name} order: ln(error at the largest / at the smallest step)",
                fall,
                "ln",
                note=note,
            ),
            Effect(
                f"{name} order: 1% - error at the smallest step",
                1 - 100 * error[small].to_numpy(),
                "%",
            ),
        ]
    return effects + [
        Effect(
            f"step {step:.2g}: ln(error of the first / of the second order)",
            np.log(first[step] / second[step]).to_numpy(),
            "ln",
        )
        for step in first
    ]


def flow_descent_first_order(table):
    return step_effects(table)
