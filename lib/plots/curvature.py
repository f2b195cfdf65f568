"""Table 2 as a figure: Fisher and Hessian trace, Jacobian norm and entropy against sparsity."""

import matplotlib.pyplot as plt
import pandas as pd

from lib.plots.common import COLOURS, LABELS, STYLE, line, place, sparsity_axis, summary

PANELS = [
    ("fisher", "(a) Tr(F)"),
    ("hessian", "(b) Tr(H), by Hutchinson"),
    ("jacobian", "(c) mean ‖∂ logits / ∂ x‖²"),
    ("entropy", "(d) entropy (nats)"),
]


def curvature(table: pd.DataFrame, *, title: str, paper: dict | None = None):
    """Table 2: each measure against sparsity for Sol-F and Sol-S with Sol-D's level, and the paper's printed numbers below.

    ``table`` has a row per run with ``fisher``, ``hessian``, ``jacobian``, ``entropy``; ``paper`` maps a measure to {"sparsity": [...],
    "sol_f": [...], "sol_s": [...]}. Bands are 95% intervals over seeds.
    """
    height = 2 if paper else 1
    with plt.rc_context(STYLE):
        figure, axes = plt.subplots(
            height, 4, figsize=(12.5, 3.1 * height + 0.4), squeeze=False, layout="constrained"
        )
        grid = sorted(table.loc[table["solution"] == "sol_f", "sparsity"].unique())
        for ax, (measure, name) in zip(axes[0], PANELS, strict=True):
            for solution in ("sol_f", "sol_s"):
                rows = summary(table[table["solution"] == solution], "sparsity", measure)
                line(ax, place(rows.index), rows, COLOURS[solution], LABELS[solution])
            level = table.loc[table["solution"] == "sol_d", measure].mean()
            ax.axhline(level, color=COLOURS["sol_d"], linewidth=0.9, label=LABELS["sol_d"])
            sparsity_axis(ax, grid)
            ax.set_title(name, loc="left")
            if table[measure].min() > 0:
                ax.set_yscale("log")
        lines, labels = axes[0, 0].get_legend_handles_labels()
        figure.legend(lines, labels, loc="outside lower center", ncols=3)
        axes[0, 0].set_ylabel("ours")
        if paper:
            axes[1, 0].set_ylabel("paper: CIFAR-100,\nResNet-32x4 (its Table 2)")
            for ax, (measure, _) in zip(axes[1], PANELS, strict=True):
                curve = paper[measure]
                for solution in ("sol_f", "sol_s"):
                    ax.plot(
                        place(curve["sparsity"]),
                        curve[solution],
                        color=COLOURS[solution],
                        marker="s",
                        markersize=3,
                        linewidth=1.2,
                    )
                sparsity_axis(ax, curve["sparsity"])
                ax.set_yscale("log")
        figure.suptitle(title, fontsize=10)
        plt.close(figure)
    return figure


def scatter(table: pd.DataFrame, across: str, up: str):
    """One measure against another, a point for each network; the size of a point grows with sparsity."""
    with plt.rc_context(STYLE):
        figure, ax = plt.subplots(figsize=(6, 3.4), layout="constrained")
        for solution, rows in table.groupby("solution"):
            ax.scatter(
                rows[across],
                rows[up],
                s=12 + 60 * rows["sparsity"] ** 4,
                color=COLOURS[solution],
                alpha=0.7,
                label=LABELS[solution],
            )
        for scale, measure in ((ax.set_xscale, across), (ax.set_yscale, up)):
            if not measure.endswith("accuracy") and table[measure].min() > 0:
                scale("log")
        ax.set(xlabel=across.replace("_", " "), ylabel=up.replace("_", " "))
        ax.legend()
        plt.close(figure)
    return figure
