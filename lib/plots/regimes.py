"""Figure 1: the two regimes."""

import matplotlib.pyplot as plt
import pandas as pd

from lib.plots.common import COLOURS, LABELS, STYLE, line, place, sparsity_axis, summary


def regimes(final: pd.DataFrame, borders: pd.Series, *, title: str, paper: dict | None = None):
    """Figure 1: accuracy, loss and training entropy against sparsity, and the paper's own curves below.

    ``final`` has one row per run (``sweep.final``); ``borders`` the border of the regimes by seed, NaN where there
    is none (``claims.regimes.boundary``); ``paper`` the curves of the ledger. Bands are 95% intervals over seeds.
    """
    panels = [
        ("(a) accuracy", ("test_accuracy", "train_accuracy")),
        ("(b) cross-entropy (nats)", ("test_loss", "train_loss")),
        ("(c) training prediction entropy (nats)", ("train_entropy",)),
    ]
    height = 2 if paper else 1
    with plt.rc_context(STYLE):
        figure, axes = plt.subplots(
            height, 3, figsize=(11, 3.5 * height + 0.4), squeeze=False, layout="constrained"
        )
        grid = sorted(final.loc[final["solution"] == "sol_f", "sparsity"].unique())
        for ax, (name, measures) in zip(axes[0], panels, strict=True):
            _regime_shading(ax, grid, borders)
            for measure, style in zip(
                measures, ("-", "--") if len(measures) == 2 else ("-",), strict=True
            ):
                for solution in ("sol_f", "sol_s"):
                    rows = summary(final[final["solution"] == solution], "sparsity", measure)
                    part = "test" if measure.startswith("test") else "training"
                    line(
                        ax,
                        place(rows.index),
                        rows,
                        COLOURS[solution],
                        f"{LABELS[solution]}, {part}",
                        style,
                    )
                level = final.loc[final["solution"] == "sol_d", measure].mean()
                ax.axhline(
                    level,
                    color=COLOURS["sol_d"],
                    linestyle=style,
                    linewidth=0.9,
                    label=f"{LABELS['sol_d']}, {part}",
                )
            sparsity_axis(ax, grid)
            ax.set_title(name, loc="left")
        lines, labels = axes[
            0, 0
        ].get_legend_handles_labels()  # below the panels, where no curve can run into it
        figure.legend(lines, labels, loc="outside lower center", ncols=4)
        axes[0, 0].set_ylabel("ours")
        if paper:
            _paper_regimes(axes[1], panels, paper)
        figure.suptitle(title, fontsize=10)
        plt.close(figure)
    return figure


def _regime_shading(ax, grid, borders):
    """Shade the two regimes on both sides of the seeds' mean border."""
    found = borders.dropna()
    if found.empty:
        return
    previous = {s: grid[max(i - 1, 0)] for i, s in enumerate(grid)}
    border = (
        place([previous[s] for s in found]) / 2 + place(found) / 2
    )  # half-way between the grid points it separates
    left, right = place(grid[0]) - 0.3, place(grid[-1]) + 0.3
    ax.set_xlim(left, right)
    ax.axvspan(
        left, border.mean(), color="#cc79a7", alpha=0.1, linewidth=0, label="generalization regime"
    )
    ax.axvspan(
        border.mean(), right, color="#009e73", alpha=0.1, linewidth=0, label="optimization regime"
    )
    ax.axvline(border.mean(), color="0.4", linewidth=0.8, linestyle=":")


def _paper_regimes(axes, panels, paper):
    x = place(paper["sparsity"])
    for ax, (_, measures) in zip(axes, panels, strict=True):
        for measure, style in zip(
            measures, ("-", "--") if len(measures) == 2 else ("-",), strict=True
        ):
            curve = paper[measure]
            for solution in ("sol_f", "sol_s"):
                ax.plot(
                    x,
                    curve[solution],
                    style,
                    color=COLOURS[solution],
                    marker="s",
                    markersize=3,
                    linewidth=1.2,
                )
            ax.axhline(curve["sol_d"], color=COLOURS["sol_d"], linestyle=style, linewidth=0.9)
        ax.axvline((place(0.94) + place(0.95)) / 2, color="0.4", linewidth=0.8, linestyle=":")
        sparsity_axis(ax, paper["sparsity"])
    axes[2].set_ylim(bottom=0)
    axes[0].set_ylabel("paper: CIFAR-100, ResNet-32x4\n(read off its plot)")
