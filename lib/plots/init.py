"""Figure 1c of the gradient-flow study, and the variances behind it: what a start does to signals, gradients and a first step."""

import matplotlib.pyplot as plt
import numpy as np

from lib.plots.common import STYLE, line, place, sparsity_axis, summary
from lib.plots.methods import COLOURS, FORM_NAMES

KIND_NAMES = {
    "bounded": "the code's masks",
    "uniform": "plain random masks",
    "uneven": "unequal neurons",
    "even": "equal fan-in",
}
ORDERS = {"first": ("#cc79a7", "step: first order"), "second": ("#4d4d4d", "step: second order")}
PARTS = {
    "step": ("-", "step: from biases of zero"),
    "moved": ("--", "step: from biases moved off zero"),
}


def initialisation(signals, layers, steps, *, title: str, kept: tuple[float, float], steady: float):
    """A panel for each kind of mask and part: output signals by sparsity, mean squares by layer, errors of a step's prediction.

    ``signals`` has kind, scheme, form, sparsity, seed and ``value`` in units of the dense network's; ``layers`` part, kind, form, layer,
    ``value`` and ``expected``; ``steps`` part ("step", or "moved": from biases off zero), order, step and ``value``, a relative error.
    Lines are means over seeds with 95% intervals. Grey is what the decision rules allow: ``kept`` of the signal; a factor of
    ``steady`` up or down from one layer to the next, drawn around the first where the rules speak of it.
    """
    panels = [("signal", kind) for kind in signals["kind"].unique()]
    panels += [
        pair
        for pair in layers[["part", "kind"]].drop_duplicates().itertuples(index=False, name=None)
    ]
    rows = -(-(len(panels) + 2) // 4)
    with plt.rc_context(STYLE):
        figure, axes = plt.subplots(
            rows, 4, figsize=(13, 3.0 * rows + 0.3), layout="constrained", squeeze=False
        )
        for letter, (part, kind), ax in zip("abcdefghijklmnop", panels, axes.flat, strict=False):
            name = {"signal": "output", "forward": "pre-activations", "backward": "gradients"}[part]
            ax.set_title(f"({letter}) {name}: {KIND_NAMES[kind]}", loc="left")
            if part == "signal":
                _signals(ax, signals[signals["kind"] == kind], kept)
            else:
                _layers(
                    ax, layers[(layers["part"] == part) & (layers["kind"] == kind)], part, steady
                )
        last, *rest = axes.flat[len(panels) :]
        last.set_title(f"({'abcdefghijklmnop'[len(panels)]}) one step: its prediction", loc="left")
        _steps(last, steps)
        for ax in rest:
            ax.axis("off")
        rest[0].legend(handles=_handles(signals["scheme"].unique()), loc="center left")
        figure.suptitle(title, fontsize=10)
        plt.close(figure)
    return figure


def _signals(ax, rows, kept):
    schemes = list(rows["scheme"].unique())
    for scheme in schemes:
        for form, each in rows[rows["scheme"] == scheme].groupby("form"):
            found = summary(each, "sparsity", "value")
            if scheme == schemes[0]:
                found["half"] = np.minimum(
                    found["half"], 0.999 * found["mean"]
                )  # the axis is logarithmic
                line(ax, place(found.index), found, COLOURS[form])
            else:
                ax.plot(place(found.index), found["mean"], "--", color=COLOURS[form], linewidth=1.1)
    ax.axhspan(*kept, color="0.5", alpha=0.15, linewidth=0)
    ax.set_yscale("log")
    sparsity_axis(ax, sorted(rows["sparsity"].unique()))
    ax.tick_params(axis="x", rotation=60)
    ax.set_ylabel("standard deviation / dense")


def _layers(ax, rows, part, steady):
    for form, each in rows.groupby("form"):
        wide = (
            {"linewidth": 4, "alpha": 0.45} if form == "layer" else {"linewidth": 1.4}
        )  # the per-neuron form may lie upon it
        _band(ax, each, "layer", COLOURS[form], **wide)
        expected = each.groupby("layer")["expected"].mean()
        ax.plot(expected.index, expected, ":", color="black", linewidth=1.2, zorder=3)
    numbers = np.array(sorted(rows["layer"].unique()))
    if (rows["kind"] == "uneven").all():
        first, away = (
            (numbers[0], numbers - numbers[0])
            if part == "forward"
            else (numbers[-1], numbers[-1] - numbers)
        )
        middle = rows.loc[(rows["form"] == "neuron") & (rows["layer"] == first), "expected"].mean()
        ax.fill_between(
            numbers,
            middle / steady**away,
            middle * steady**away,
            color="0.5",
            alpha=0.15,
            linewidth=0,
        )
    ax.set_yscale("log")
    ax.set_xticks(numbers[:: -(-len(numbers) // 8)])
    ax.set(xlabel="layer", ylabel="mean square")


def _steps(ax, steps):
    for (part, order), rows in steps.groupby(["part", "order"]):
        _band(ax, rows, "step", ORDERS[order][0], linewidth=1.4, linestyle=PARTS[part][0])
    ax.set(xscale="log", yscale="log", xlabel="size of the step", ylabel="relative error")


def _band(ax, rows, by, colour, **style):
    """Geometric mean over seeds with its interval: the axis is logarithmic."""
    found = summary(rows.assign(value=np.log(rows["value"].where(rows["value"] > 0))), by, "value")
    ax.plot(found.index, np.exp(found["mean"]), color=colour, marker="o", markersize=3, **style)
    low, high = np.exp(found["mean"] - found["half"]), np.exp(found["mean"] + found["half"])
    ax.fill_between(found.index, low, high, color=colour, alpha=0.18, linewidth=0)


def _handles(schemes):
    entries = [
        plt.Line2D([], [], color=COLOURS[form], marker="o", markersize=3, label=name)
        for form, name in FORM_NAMES.items()
        if form
    ]
    if len(schemes) > 1:
        entries += [
            plt.Line2D([], [], color="0.3", linestyle=s, label=f"scheme {n}")
            for s, n in zip(("-", "--"), schemes, strict=False)
        ]
    entries.append(plt.Line2D([], [], color="black", linestyle=":", label="closed form"))
    entries.append(
        plt.Rectangle(
            (0, 0), 1, 1, color="0.5", alpha=0.15, linewidth=0, label="what the rules allow"
        )
    )
    entries += [
        plt.Line2D([], [], color=colour, marker="o", markersize=3, label=name)
        for colour, name in ORDERS.values()
    ]
    return entries + [
        plt.Line2D([], [], color="0.3", linestyle=style, label=name)
        for style, name in PARTS.values()
    ]
