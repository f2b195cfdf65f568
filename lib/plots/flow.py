"""The gradient-flow study's Figures 2, 3, 7, 8 and 9: gradient flow over training, its changes at mask updates, and accuracy against it."""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from lib.plots.common import STYLE
from lib.plots.methods import COLOURS as FORM_COLOURS
from lib.plots.methods import FORM_NAMES

METHODS = {  # row of the table -> (name, colour, line, marker)
    "scratch": ("scratch", "#d55e00", "-", "o"),
    "set": ("SET", "#009e73", "-", "s"),
    "rigl": ("RigL", "#0072b2", "-", "^"),
    "rigl-inverted": ("RigL inverted", "#cc79a7", "-", "v"),
    "small dense": ("small dense", "black", "--", "D"),
    "lottery": ("lottery ticket", "#b8860b", "-", "*"),
    "restart": ("prune restart", "#56b4e9", "-", "P"),
    "pruned": ("pruned while training", "#8c564b", "-", "X"),
    "baseline": ("dense baseline", "#7f7f7f", "-", "h"),
}
REFERENCE = "small dense"  # drawn in every panel


def flow(table: pd.DataFrame, *, title: str, learns: float | None = None):
    """Gradient flow by optimiser step: a panel for each initialisation, and one for what has none of its own; small dense in all.

    Medians over seeds, bands from the first to the third quartile. ``learns`` is the flow from which on learning counts as started,
    dotted. The axis of steps is in square roots: the start and the end are both seen.
    """
    forms = [form for form in FORM_NAMES if form and form in set(table["form"])]
    with plt.rc_context(STYLE):
        shape = {"squeeze": False, "sharex": True, "sharey": True, "layout": "constrained"}
        figure, axes = plt.subplots(
            -(-(len(forms) + 1) // 2),
            2,
            figsize=(9, 3.0 * -(-(len(forms) + 1) // 2) + 0.9),
            **shape,
        )
        for ax in axes.flat[len(forms) + 1 :]:
            ax.axis("off")
        drawn = {}
        for ax, form in zip(axes.flat, [*forms, ""], strict=False):
            for row, (name, colour, style, _) in METHODS.items():
                rows = table[
                    (table["row"] == row) & (table["form"] == ("" if row == REFERENCE else form))
                ]
                if not rows.empty:
                    drawn[name] = _median(
                        ax,
                        rows.assign(log=np.log(rows["flow"].clip(lower=1e-12))),
                        "log",
                        colour,
                        style,
                        np.exp,
                    )
            if learns:
                ax.axhline(learns, color="black", linestyle=":", linewidth=0.8)
            ax.set_title(
                FORM_NAMES[form] or "no fresh weights under a mask", loc="left", fontsize=9
            )
            ax.set_yscale("log")
            _steps(ax, table["steps"].iloc[0])
        _labels(axes, "gradient flow", "optimiser step (axis in square roots)", len(forms) + 1)
        if learns:
            drawn[f"learning starts: {learns:g}"] = plt.Line2D(
                [], [], color="black", linestyle=":", linewidth=0.8
            )
        figure.legend(drawn.values(), drawn.keys(), loc="outside lower center", ncols=5)
        figure.suptitle(title, fontsize=10)
        plt.close(figure)
    return figure


def mask_updates(table: pd.DataFrame, *, title: str):
    """Figures 3, 8 and 9b: what a mask update does to the gradient norm, a column for each initialisation.

    Above the difference after - before, as the study plots it; below the factor after / before, on a logarithmic axis. Medians over seeds,
    bands from the first to the third quartile; dashed: half of training.
    """
    rows = table.dropna(subset=["after"])
    before, after = (np.sqrt(rows[name].clip(lower=1e-12)) for name in ("before", "after"))
    rows = rows.assign(difference=after - before, factor=np.log(after / before))
    methods = [
        row for row in METHODS if row in set(rows["row"]) and row not in ("pruned", REFERENCE)
    ]
    forms = [form for form in FORM_NAMES if form and form in set(rows["form"])]
    with plt.rc_context(STYLE):
        size = (max(5.0, 3.2 * len(forms) + 0.8), 5.4)
        figure, axes = plt.subplots(
            2,
            len(forms),
            figsize=size,
            squeeze=False,
            sharex=True,
            sharey="row",
            layout="constrained",
        )
        drawn = {}
        for column, form in enumerate(forms):
            for row in methods:
                name, colour, style, _ = METHODS[row]
                part = rows[(rows["row"] == row) & (rows["form"] == form)]
                if not part.empty:
                    drawn[name] = _median(axes[0, column], part, "difference", colour, style)
                    _median(axes[1, column], part, "factor", colour, style, np.exp)
            axes[0, column].set_title(FORM_NAMES[form], loc="left", fontsize=9)
            for ax, neutral in zip(axes[:, column], (0, 1), strict=True):
                ax.axhline(neutral, color="black", linewidth=0.8)
                ax.axvline(rows["steps"].iloc[0] / 2, color="black", linestyle="--", linewidth=0.8)
            axes[1, column].set_yscale("log")
            _plain(axes[1, column].yaxis)
            axes[1, column].set_xlabel("optimiser step")
        drawn["half of training"] = plt.Line2D([], [], color="black", linestyle="--", linewidth=0.8)
        axes[0, 0].set_ylabel("change of the gradient norm")
        axes[1, 0].set_ylabel("gradient norm after / before")
        figure.legend(drawn.values(), drawn.keys(), loc="outside lower center", ncols=4)
        figure.suptitle(title, fontsize=10)
        plt.close(figure)
    return figure


def link(cells: dict, *, title: str):
    """Accuracy against early gradient flow: ``cells`` maps (method, form) to a table with ``flow`` and ``accuracy`` (%) by seed.

    Every seed a small dot, the geometric mean of flow and the mean accuracy a large one; colours are initialisations, markers methods.
    """
    with plt.rc_context(STYLE):
        figure, ax = plt.subplots(figsize=(7.2, 4.0), layout="constrained")
        for (row, form), points in cells.items():
            marker, colour = METHODS[row][3], FORM_COLOURS[form]
            ax.plot(
                points["flow"],
                points["accuracy"],
                marker,
                color=colour,
                markersize=3,
                alpha=0.35,
                markeredgewidth=0,
            )
            middle = np.exp(np.log(points["flow"]).mean()), points["accuracy"].mean()
            ax.plot(
                *middle,
                marker,
                color=colour,
                markersize=9 if marker == "*" else 7,
                markeredgecolor="white",
            )
        ax.set_xscale("log")
        _plain(ax.xaxis)
        ax.set(
            xlabel="gradient flow, geometric mean over the first half of training",
            ylabel="final test accuracy, %",
            title=title,
        )
        rows, forms = (
            dict.fromkeys(row for row, _ in cells),
            dict.fromkeys(form for _, form in cells),
        )
        handles = [
            plt.Line2D(
                [], [], color="0.4", linestyle="", marker=METHODS[row][3], label=METHODS[row][0]
            )
            for row in rows
        ]
        handles += [
            plt.Line2D(
                [],
                [],
                color=FORM_COLOURS[f],
                linestyle="",
                marker="o",
                label=FORM_NAMES[f] or "no form",
            )
            for f in forms
        ]
        ax.legend(handles=handles, loc="center left", bbox_to_anchor=(1.01, 0.5))
        plt.close(figure)
    return figure


def _median(ax, rows, measure, colour, style, scale=lambda values: values):
    """The median over seeds by step, ``scale``d, with a band from the first to the third quartile."""
    by_step = rows.groupby("step")[measure]
    middle, low, high = (scale(by_step.quantile(q)) for q in (0.5, 0.25, 0.75))
    ax.fill_between(middle.index, low, high, color=colour, alpha=0.15, linewidth=0)
    return ax.plot(middle.index, middle, style, color=colour, linewidth=1.3)[0]


def _steps(ax, last):
    """The axis of steps in square roots."""
    ax.set_xscale("function", functions=(lambda t: np.sqrt(np.clip(t, 0, None)), np.square))
    ax.set_xlim(0, last)
    digits = 1 - len(str(int(last // 40)))
    ax.set_xticks(
        sorted(
            {
                0,
                *(int(round(share * last, digits)) for share in (0.04, 0.12, 0.25, 0.5, 0.75)),
                int(last),
            }
        )
    )


def _plain(axis):
    """Numbers without powers of ten on a logarithmic axis, at 1, 2 and 5 of each decade."""
    axis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.set_minor_formatter(NullFormatter())


def _labels(axes, y, x, panels):
    for ax in axes[:, 0]:
        ax.set_ylabel(y)
    for number, ax in enumerate(axes.flat[:panels]):
        if number + axes.shape[1] >= panels:
            ax.set_xlabel(x)
            ax.tick_params(labelbottom=True)
