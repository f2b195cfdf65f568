"""Figure 7: the Fisher trace on the clean and on the mislabelled part of a noisy training set, over training."""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.ticker import NullFormatter

from lib.plots.common import COLOURS, LABELS, STYLE, summary

PARTS = (("clean", "-"), ("flipped", "--"))


def noise_fisher(table: pd.DataFrame, *, title: str, paper: dict | None = None):
    """Tr(F) by epoch for the three solutions, clean and flipped, their ratio, and the paper's curves of Sol-D and Sol-S below ours.

    ``table`` has a row per run and kept epoch with ``clean``, ``flipped`` and ``first_fall``; ``paper`` holds the ledger's curves.
    Geometric means over seeds with 95% intervals.
    """
    height = 2 if paper else 1
    with plt.rc_context(STYLE):
        figure, axes = plt.subplots(
            height,
            4 if not paper else 3,
            figsize=(11, 3.0 * height + 0.6),
            squeeze=False,
            layout="constrained",
        )
        for ax, solution, letter in zip(axes[0], ("sol_d", "sol_f", "sol_s"), "abc", strict=False):
            rows = table[table["solution"] == solution]
            for part, style in PARTS:
                _band(ax, rows, rows[part], style, COLOURS[solution])
            ax.set_title(f"({letter}) {LABELS[solution]}", loc="left")
        _same_height(axes[0, :3])
        ratio = axes[1, 1] if paper else axes[0, 3]
        for solution, colour in COLOURS.items():
            rows = table[table["solution"] == solution]
            _band(ratio, rows, rows["flipped"] / rows["clean"], "-", colour, LABELS[solution])
        ratio.axhline(1, color="0.4", linewidth=0.8)
        ratio.set_title(f"({'e' if paper else 'd'}) ours: flipped / clean", loc="left")
        ratio.legend(loc="upper left")
        ratio.set_yscale("log")
        ratio.yaxis.set_major_formatter("{x:g}")
        ratio.yaxis.set_minor_formatter(NullFormatter())
        ratio.set_yticks(
            [
                tick
                for tick in (0.5, 1, 2, 3, 5, 10, 20, 50)
                if ratio.get_ylim()[0] <= tick <= ratio.get_ylim()[1]
            ]
        )
        for ax in (*axes[0, :3], ratio):
            ax.set_xlabel("epoch")
            ax.axvline(table["first_fall"].iloc[0], color="0.6", linewidth=0.8, linestyle=":")
        axes[0, 0].set_ylabel("ours: Tr(F)")
        if paper:
            for ax, solution, letter in ((axes[1, 0], "sol_d", "d"), (axes[1, 2], "sol_s", "f")):
                for part, style in PARTS:
                    ax.plot(
                        paper["epoch"],
                        paper[solution][part],
                        style,
                        color=COLOURS[solution],
                        marker="s",
                        markersize=3,
                        linewidth=1.2,
                    )
                ax.axvline(40, color="0.6", linewidth=0.8, linestyle=":")
                ax.set_xlabel("epoch")
                ax.set_title(f"({letter}) paper: {LABELS[solution]}", loc="left")
            _same_height(axes[1, ::2])
            axes[1, 0].set_ylabel("paper: CIFAR-10, ResNet-32x4\n(read off its plot)")
        lines = [plt.Line2D([], [], color="0.3", linestyle=style) for _, style in PARTS] + [
            plt.Line2D([], [], color="0.6", linestyle=":")
        ]
        names = [
            "clean part of the training set",
            "flipped part (given label wrong)",
            "first fall of the learning rate",
        ]
        figure.legend(lines, names, loc="outside lower center", ncols=3)
        figure.suptitle(title, fontsize=10)
        plt.close(figure)
    return figure


def _same_height(axes):
    """One logarithmic axis for all of ``axes``, as high as the highest of them."""
    for ax in axes:
        ax.set_yscale("log")
    low, high = (f(ax.get_ylim()[i] for ax in axes) for i, f in enumerate((min, max)))
    for ax in axes:
        ax.set_ylim(low, high)


def _band(ax, rows, values, style, colour, label=None):
    """Geometric mean over seeds with its interval."""
    logs = summary(rows.assign(log=np.log(values.where(values > 0))), "epoch", "log")
    ax.plot(logs.index, np.exp(logs["mean"]), style, color=colour, linewidth=1.4, label=label)
    low, high = np.exp(logs["mean"] - logs["half"]), np.exp(logs["mean"] + logs["half"])
    ax.fill_between(logs.index, low, high, color=colour, alpha=0.15, linewidth=0)
