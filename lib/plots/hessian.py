"""The gradient-flow study's Figures 10 and 11: the spectrum of the loss Hessian around mask updates, and along training."""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd

from lib.plots.common import STYLE, summary
from lib.plots.flow import METHODS

MOMENTS = {  # (name, colour, width of the line): what lies before shows beneath what lies after, where both are the same
    "before": ("before the update", "#9a9a9a", 3.2),
    "after": ("just after it", "#d55e00", 1.2),
}
RANGES = {"whole": "whole spectrum", "negative": "its negative side"}


def hessian_updates(densities: pd.DataFrame, *, title: str):
    """Figure 10: a column for each method, the density before and after an update; above whole, below the negative side alone.

    ``densities`` has columns row, moment ("before", "after"), part ("whole", "negative"), seed, eigenvalue and density, on one grid of
    eigenvalues in each part. Lines are means over seeds, bands the range of the seeds; vertical axes are logarithmic.
    """
    rows = [row for row in METHODS if row in set(densities["row"])]
    with plt.rc_context(STYLE):
        size = (max(5.0, 3.2 * len(rows) + 0.8), 5.6)
        figure, axes = plt.subplots(
            2,
            len(rows),
            figsize=size,
            squeeze=False,
            sharex="row",
            sharey="row",
            layout="constrained",
        )
        for line, (part, words) in zip(axes, RANGES.items(), strict=True):
            chosen = densities[densities["part"] == part]
            for ax, row in zip(line, rows, strict=True):
                _densities(
                    ax, chosen[chosen["row"] == row], "moment", MOMENTS, chosen["density"].max()
                )
                ax.set_xlabel("eigenvalue")
                if part == "whole":
                    ax.set_title(METHODS[row][0], loc="left")
            line[0].set_ylabel(f"density, {words}")
        figure.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside lower center", ncols=2)
        figure.suptitle(title, fontsize=10)
        plt.close(figure)
    return figure


def hessian_training(along: pd.DataFrame, densities: pd.DataFrame, *, title: str, step: int):
    """Figure 11: the ends of the spectrum along training by method, its negative share (ours), and its density at one ``step``.

    ``along`` has columns row, seed, step, size (of the largest negative eigenvalue), largest and negative_share; ``densities`` row, seed,
    eigenvalue and density. Points are means over seeds with 95% t intervals, of the logarithms in the first two panels.
    """
    styles = {
        row: (name, colour, 1.3)
        for row, (name, colour, *_) in METHODS.items()
        if row in set(along["row"])
    }
    panels = {
        "size": "(a) size of the largest negative eigenvalue",
        "largest": "(b) largest eigenvalue",
        "negative_share": "(c) share of negative eigenvalues in the nuclear norm",
    }
    with plt.rc_context(STYLE):
        figure, axes = plt.subplots(2, 2, figsize=(9.5, 6.6), layout="constrained")
        for ax, (measure, words) in zip(axes.flat, panels.items(), strict=False):
            _courses(ax, along, measure, styles, logarithmic=measure != "negative_share")
            ax.set_title(words, loc="left", fontsize=9)
        _densities(axes[1, 1], densities, "row", styles, densities["density"].max(), band=False)
        axes[1, 1].set(xlabel="eigenvalue", ylabel="density")
        axes[1, 1].set_title(f"(d) density at step {step:,}", loc="left", fontsize=9)
        figure.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside lower center", ncols=6)
        figure.suptitle(title, fontsize=10)
        plt.close(figure)
    return figure


def _densities(ax, rows, by, styles, highest, band=True):
    """Mean densities over seeds, a line for each value of the column ``by``; five decades of the vertical axis."""
    for value, (name, colour, width) in styles.items():
        own = (
            rows[rows[by] == value]
            .pivot_table(index="eigenvalue", columns="seed", values="density")
            .clip(lower=highest * 1e-6)
        )
        ax.plot(own.index, own.mean(axis=1), color=colour, linewidth=width, label=name)
        if band:
            ax.fill_between(
                own.index, own.min(axis=1), own.max(axis=1), color=colour, alpha=0.15, linewidth=0
            )
    ax.set_yscale("log")
    ax.set_ylim(highest * 1e-5, highest * 2)


def _courses(ax, along, measure, styles, logarithmic):
    """Means with intervals by step, the methods beside each other."""
    steps = sorted(along["step"].unique())
    for number, (row, (name, colour, _)) in enumerate(styles.items()):
        rows = along[along["row"] == row]
        line = summary(
            rows.assign(shown=np.log(rows[measure]) if logarithmic else rows[measure]),
            "step",
            "shown",
        )
        low, middle, high = line["mean"] - line["half"], line["mean"], line["mean"] + line["half"]
        if logarithmic:
            low, middle, high = np.exp(low), np.exp(middle), np.exp(high)
        places = np.array([steps.index(step) for step in line.index]) + 0.11 * (
            number - (len(styles) - 1) / 2
        )
        ax.errorbar(
            places,
            middle,
            (middle - low, high - middle),
            fmt="o-",
            color=colour,
            markersize=3.5,
            linewidth=0.7,
            capsize=2,
            label=name,
        )
    ax.set_xticks(range(len(steps)), [f"{step:,}" for step in steps])
    ax.set_xlabel("optimiser step")
    if logarithmic:
        ax.set_yscale("log")
    else:
        ax.set_ylim(bottom=0)
