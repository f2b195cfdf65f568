"""Figures from tables alone: one function per figure, each takes a table and returns a matplotlib figure."""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch
from scipy import stats

COLOURS = {"sol_d": "#4d4d4d", "sol_f": "#0072b2", "sol_s": "#d55e00"}
LABELS = {"sol_d": "Sol-D (dense)", "sol_f": "Sol-F (finetuned)", "sol_s": "Sol-S (scratch)"}
STYLE = {
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.alpha": 0.25,
    "legend.frameon": False,
    "legend.fontsize": 8,
    "figure.dpi": 110,
    "savefig.bbox": "tight",
}


def _summary(rows: pd.DataFrame, by: str, measure: str) -> pd.DataFrame:
    """Mean and half-width of the 95% t interval over seeds, by ``by``."""
    grouped = rows.groupby(by)[measure].agg(["mean", "std", "count"])
    t = stats.t.ppf(0.975, (grouped["count"] - 1).clip(lower=1))
    grouped["half"] = (t * grouped["std"] / np.sqrt(grouped["count"])).fillna(0.0)
    return grouped


def _line(ax, x, summary, colour, label=None, style="-"):
    ax.plot(x, summary["mean"], style, color=colour, label=label, marker="o" if style == "-" else None, markersize=3, linewidth=1.4)
    ax.fill_between(x, summary["mean"] - summary["half"], summary["mean"] + summary["half"], color=colour, alpha=0.18, linewidth=0)


def _sparsity_axis(ax, sparsities):
    """Sparsities on an axis that is logarithmic in density: each halving of the live weights is one step."""
    places = -np.log2(1 - np.asarray(sparsities))
    ax.set_xticks(places, [f"{s:g}" for s in sparsities], rotation=60 if len(sparsities) > 5 else 0)
    ax.minorticks_off()
    ax.set_xlabel("sparsity (log scale of density)")


def _place(sparsity):
    return -np.log2(1 - np.asarray(sparsity, dtype=float))


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
    rows = 2 if paper else 1
    with plt.rc_context(STYLE):
        figure, axes = plt.subplots(rows, 3, figsize=(11, 3.5 * rows + 0.4), squeeze=False, layout="constrained")
        grid = sorted(final.loc[final["solution"] == "sol_f", "sparsity"].unique())
        for ax, (name, measures) in zip(axes[0], panels, strict=True):
            _regime_shading(ax, grid, borders)
            for measure, style in zip(measures, ("-", "--") if len(measures) == 2 else ("-",), strict=True):
                for solution in ("sol_f", "sol_s"):
                    summary = _summary(final[final["solution"] == solution], "sparsity", measure)
                    part = "test" if measure.startswith("test") else "training"
                    _line(ax, _place(summary.index), summary, COLOURS[solution], f"{LABELS[solution]}, {part}", style)
                level = final.loc[final["solution"] == "sol_d", measure].mean()
                ax.axhline(level, color=COLOURS["sol_d"], linestyle=style, linewidth=0.9, label=f"{LABELS['sol_d']}, {part}")
            _sparsity_axis(ax, grid)
            ax.set_title(name, loc="left")
        lines, labels = axes[0, 0].get_legend_handles_labels()  # below the panels, where no curve can run into it
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
    border = _place([previous[s] for s in found]) / 2 + _place(found) / 2  # half-way between the grid points it separates
    left, right = _place(grid[0]) - 0.3, _place(grid[-1]) + 0.3
    ax.set_xlim(left, right)
    ax.axvspan(left, border.mean(), color="#cc79a7", alpha=0.1, linewidth=0, label="generalization regime")
    ax.axvspan(border.mean(), right, color="#009e73", alpha=0.1, linewidth=0, label="optimization regime")
    ax.axvline(border.mean(), color="0.4", linewidth=0.8, linestyle=":")


def _paper_regimes(axes, panels, paper):
    x = _place(paper["sparsity"])
    for ax, (_, measures) in zip(axes, panels, strict=True):
        for measure, style in zip(measures, ("-", "--") if len(measures) == 2 else ("-",), strict=True):
            curve = paper[measure]
            for solution in ("sol_f", "sol_s"):
                ax.plot(x, curve[solution], style, color=COLOURS[solution], marker="s", markersize=3, linewidth=1.2)
            ax.axhline(curve["sol_d"], color=COLOURS["sol_d"], linestyle=style, linewidth=0.9)
        ax.axvline((_place(0.94) + _place(0.95)) / 2, color="0.4", linewidth=0.8, linestyle=":")
        _sparsity_axis(ax, paper["sparsity"])
    axes[2].set_ylim(bottom=0)
    axes[0].set_ylabel("paper: CIFAR-100, ResNet-32x4\n(read off its plot)")


def noise(table: pd.DataFrame, *, title: str):
    """Figure 6: loss and accuracy under label noise by epoch, and what becomes of the mislabelled examples.

    ``table`` has a row per run and measured epoch (``carry_out``), of runs with label noise. Bands as in Figure 1.
    """
    panels = [
        ("(a) training accuracy, given labels", [("train_accuracy", "-")]),
        ("(b) test accuracy, clean labels", [("test_accuracy", "-")]),
        ("(c) accuracy on the clean part", [("clean_accuracy", "-")]),
        ("(d) training loss, given labels (nats)", [("train_loss", "-")]),
        ("(e) test loss, clean labels (nats)", [("test_loss", "-")]),
        ("(f) the mislabelled part", [("flipped_correct", "-"), ("flipped_memorised", "--")]),
    ]
    with plt.rc_context(STYLE):
        figure, axes = plt.subplots(2, 3, figsize=(11, 6.2), layout="constrained", sharex=True)
        for ax, (name, measures) in zip(axes.flat, panels, strict=True):
            for measure, style in measures:
                for solution in ("sol_d", "sol_f", "sol_s"):
                    summary = _summary(table[table["solution"] == solution], "epoch", measure)
                    label = LABELS[solution] if style == "-" else None
                    ax.plot(summary.index, summary["mean"], style, color=COLOURS[solution], label=label, linewidth=1.4)
                    low, high = summary["mean"] - summary["half"], summary["mean"] + summary["half"]
                    ax.fill_between(summary.index, low, high, color=COLOURS[solution], alpha=0.18, linewidth=0)
            ax.set_title(name, loc="left")
        for ax in axes[1]:
            ax.set_xlabel("epoch")
        axes[0, 0].legend(loc="lower right")
        kinds = [axes[1, 2].plot([], [], style, color="0.3", linewidth=1.2)[0] for style in ("-", "--")]
        axes[1, 2].legend(kinds, ["correct (true label)", "memorised (given label)"], loc="upper right", ncols=2)
        axes[1, 2].set_ylim(top=1.2)  # room for the legend above the curves
        figure.suptitle(title, fontsize=10)
        plt.close(figure)
    return figure


def curves(table: pd.DataFrame, measure: str, sparsity: float):
    """One measure by epoch for the three solutions at one sparsity: a closer look at a finished table."""
    with plt.rc_context(STYLE):
        figure, ax = plt.subplots(figsize=(6, 3.2), layout="constrained")
        for solution in ("sol_d", "sol_f", "sol_s"):
            rows = table[(table["solution"] == solution) & ((solution == "sol_d") | np.isclose(table["sparsity"], sparsity))]
            summary = _summary(rows, "epoch", measure)
            _line(ax, summary.index, summary, COLOURS[solution], LABELS[solution])
        ax.set(xlabel="epoch", ylabel=measure.replace("_", " "), title=f"sparsity {sparsity:g}")
        ax.legend()
        plt.close(figure)
    return figure


def procedure():
    """Figure 2: how the solutions come about. A drawing, no data."""
    boxes = {
        "Init-D": (0.0, 1.0, "sol_d", "random, dense"),
        "Sol-D": (1.0, 1.0, "sol_d", "trained, dense"),
        "Init-F": (2.0, 1.0, "sol_f", "Sol-D under the mask"),
        "Sol-F": (3.0, 1.0, "sol_f", "finetuned"),
        "Init-S": (2.0, 0.0, "sol_s", "fresh weights, same mask"),
        "Sol-S": (3.0, 0.0, "sol_s", "trained from scratch"),
    }
    arrows = [
        ("Init-D", "Sol-D", "train"),
        ("Sol-D", "Init-F", "prune"),
        ("Init-F", "Sol-F", "train"),
        ("Init-F", "Init-S", "draw anew"),
        ("Init-S", "Sol-S", "train"),
    ]
    with plt.rc_context({**STYLE, "axes.grid": False}):
        figure, ax = plt.subplots(figsize=(9, 2.9), layout="constrained")
        for name, (x, y, solution, text) in boxes.items():
            colour = COLOURS[solution]
            ax.add_patch(
                FancyBboxPatch(
                    (x - 0.31, y - 0.24), 0.62, 0.48, boxstyle="round,pad=0,rounding_size=0.08", fc=colour, ec=colour, alpha=0.15
                )
            )
            ax.text(x, y + 0.06, name, ha="center", va="center", fontsize=11, color=colour, weight="bold")
            ax.text(x, y - 0.13, text, ha="center", va="center", fontsize=7, color="0.25")
        for start, stop, text in arrows:
            (x0, y0), (x1, y1) = boxes[start][:2], boxes[stop][:2]
            down = x0 == x1
            begin, end = ((x0, y0 - 0.26), (x1, y1 + 0.26)) if down else ((x0 + 0.32, y0), (x1 - 0.32, y1))
            ax.add_patch(FancyArrowPatch(begin, end, arrowstyle="-|>", mutation_scale=12, color="0.35"))
            place = (x0 + 0.05, (y0 + y1) / 2) if down else ((x0 + x1) / 2, y0 + 0.06)
            ax.text(*place, text, ha="left" if down else "center", va="center" if down else "bottom", fontsize=8, color="0.25")
        ax.set(xlim=(-0.45, 3.45), ylim=(-0.32, 1.32))
        ax.axis("off")
        plt.close(figure)
    return figure
