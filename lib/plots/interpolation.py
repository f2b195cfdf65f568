"""Figure 8a: loss and accuracy on the straight lines between starts and solutions."""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd

from lib.plots.common import COLOURS, STYLE, summary

LINES = {
    ("init_s", "sol_f"): ("#009e73", "Init-S to Sol-F"),
    ("init_f", "sol_f"): (COLOURS["sol_f"], "Init-F to Sol-F"),
    ("init_s", "sol_s"): (COLOURS["sol_s"], "Init-S to Sol-S"),
}
KINDS = {
    "reestimated": ("-", "BatchNorm re-estimated"),
    "interpolated": (":", "BatchNorm interpolated"),
}


def interpolation(table: pd.DataFrame, *, title: str, paper: dict | None = None):
    """Figure 8a: training and test loss and accuracy on three lines, means over seeds with 95% intervals.

    ``table`` has a row per run, line, kind of statistics and alpha, of one sparsity. ``paper`` holds the printed curves by alpha.
    """
    panels = [
        ("train_loss", "(a) training loss (nats)"),
        ("test_loss", "(b) test loss (nats)"),
        ("train_accuracy", "(d) training accuracy"),
        ("test_accuracy", "(e) test accuracy"),
    ]
    kinds = [kind for kind in KINDS if (table["bn"] == kind).any()]
    with plt.rc_context(STYLE):
        figure, axes = plt.subplots(2, 3, figsize=(11, 6.2), layout="constrained", sharex=True)
        for ax, (measure, name) in zip(axes[:, :2].flat, panels, strict=True):
            for (start, solution), (colour, label) in LINES.items():
                for kind in kinds:
                    rows = table[
                        (table["start"] == start)
                        & (table["solution"] == solution)
                        & (table["bn"] == kind)
                    ]
                    _line(
                        ax,
                        rows,
                        measure,
                        colour,
                        KINDS[kind][0],
                        label if kind == "reestimated" else None,
                    )
            ax.set_title(name, loc="left")
            if measure.endswith("loss"):
                _keep_in_view(ax, table[table["bn"] == "reestimated"], measure)
        _paper(axes[0, 2], paper)
        _legend(axes[1, 2], axes[0, 0], kinds)
        for ax in (*axes[1, :2], axes[0, 2]):
            ax.set_xlabel("alpha (0: start, 1: solution)")
            ax.xaxis.set_tick_params(labelbottom=True)
        figure.suptitle(title, fontsize=10)
        plt.close(figure)
    return figure


def _line(ax, rows, measure, colour, style, label):
    if rows.empty:
        return
    rows = summary(rows, "alpha", measure)
    marker = "o" if style == "-" else None
    ax.plot(
        rows.index,
        rows["mean"],
        style,
        color=colour,
        label=label,
        marker=marker,
        markersize=3,
        linewidth=1.4,
    )
    if style == "-":  # one band a line is enough to look at
        ax.fill_between(
            rows.index,
            rows["mean"] - rows["half"],
            rows["mean"] + rows["half"],
            color=colour,
            alpha=0.18,
            linewidth=0,
        )


def _keep_in_view(ax, rows, measure):
    """Frozen statistics can send the loss to any height: the axis is that of the re-estimated lines."""
    top = rows.groupby(["start", "solution", "alpha"])[measure].mean().max()
    low, high = ax.get_ylim()
    if high > 2.5 * top:
        ax.set_ylim(min(0.0, low), 2.0 * top)
        ax.text(
            0.02,
            0.97,
            "dotted lines leave the panel",
            transform=ax.transAxes,
            ha="left",
            va="top",
            fontsize=7,
            color="0.35",
        )


def _paper(ax, paper):
    ax.set_title("(c) paper: CIFAR-100, ResNet-32x4", loc="left")
    for (start, solution), (colour, _) in LINES.items():
        curve = (paper or {}).get(f"{start}_to_{solution}")
        if curve:
            ax.plot(paper["alpha"], curve, color=colour, marker="s", markersize=3, linewidth=1.2)
    ax.set(ylim=(0, None), ylabel="loss (nats)")


def _legend(ax, source, kinds):
    lines, labels = source.get_legend_handles_labels()
    if len(kinds) > 1:
        lines += [
            source.plot([], [], KINDS[kind][0], color="0.3", linewidth=1.4)[0] for kind in kinds
        ]
        labels += [KINDS[kind][1] for kind in kinds]
    ax.axis("off")
    ax.legend(lines, labels, loc="upper left", fontsize=9)


def network_map(places: np.ndarray, networks: list[tuple[str, int]], *, title: str):
    """Networks in the plane (``places`` [m, 2], from distances): one point each, and the lines of Figure 8a.

    ``networks`` has the kind ("init_s", "init_f", "sol_f", "sol_s") and seed of each.
    """
    where = dict(zip(networks, places, strict=True))
    markers = {"init_s": "o", "init_f": "o", "sol_f": "s", "sol_s": "s"}
    colours = {"init_s": COLOURS["sol_s"], "init_f": COLOURS["sol_f"], **COLOURS}
    with plt.rc_context(STYLE):
        figure, ax = plt.subplots(figsize=(5.4, 4.2), layout="constrained")
        for (start, solution), (colour, label) in LINES.items():
            style = "-" if start[-1] == solution[-1] else "--"  # dashed: no training walked it
            for i, seed in enumerate(sorted({seed for _, seed in networks})):
                ends = np.stack([where[start, seed], where[solution, seed]])
                ax.plot(
                    *ends.T,
                    style,
                    color=colour,
                    linewidth=0.9,
                    alpha=0.7,
                    zorder=1,
                    label=None if i else label,
                )
        for kind, marker in markers.items():
            points = np.array([place for (name, _), place in where.items() if name == kind])
            face = "white" if kind.startswith("init") else colours[kind]
            ax.scatter(
                *points.T,
                marker=marker,
                s=26,
                facecolor=face,
                edgecolor=colours[kind],
                zorder=2,
                label=kind.replace("_", "-").title(),
            )
        ax.set_aspect("equal")
        ax.set_title(title, fontsize=10, loc="left")
        ax.legend(loc="center left", bbox_to_anchor=(1.0, 0.5))
        plt.close(figure)
    return figure
