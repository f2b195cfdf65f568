"""Workshop Figure 11: mean and standard deviation of minibatch gradients, layer by layer."""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd

from lib.plots.common import COLOURS, LABELS, STYLE, summary

MOST = 6  # layers shown side by side; of deeper networks, evenly spaced ones


def signal(table: pd.DataFrame, *, title: str):
    """Norms of the mean (solid) and of the standard deviation (dashed) of the gradient by epoch: a column per layer, a row per sparsity.

    ``table`` has a row per run, kept epoch and layer, with ``mean`` and ``std``. Their distance on the logarithmic axis is the
    logarithm of the signal-to-noise ratio. Bands are 95% intervals over seeds; the axis of epochs is that of their square root.
    """
    layers = list(table["layer"].unique())
    layers = [
        layers[i]
        for i in sorted({round(i) for i in np.linspace(0, len(layers) - 1, min(MOST, len(layers)))})
    ]
    grid = sorted(table.loc[table["solution"] == "sol_f", "sparsity"].unique())
    with plt.rc_context(STYLE):
        size = (max(8.5, 1.2 + 2.1 * len(layers)), 2.5 * len(grid) + 0.9)
        figure, axes = plt.subplots(
            len(grid),
            len(layers),
            figsize=size,
            squeeze=False,
            sharex=True,
            sharey="row",
            layout="constrained",
        )
        for row, sparsity in zip(axes, grid, strict=True):
            shown = table[(table["solution"] == "sol_d") | np.isclose(table["sparsity"], sparsity)]
            for ax, layer in zip(row, layers, strict=True):
                for solution in ("sol_d", "sol_f", "sol_s"):
                    rows = shown[(shown["layer"] == layer) & (shown["solution"] == solution)]
                    for measure, style in (("mean", "-"), ("std", "--")):
                        _band(ax, rows, measure, style, COLOURS[solution])
                ax.set_yscale("log")
                ax.set_xscale(
                    "function", functions=(lambda x: np.sqrt(np.maximum(x, 0)), np.square)
                )
                ax.set_xlim(left=0)
            row[0].set_ylabel(f"sparsity {sparsity:g}\nnorm of the gradient")
        last = table["epoch"].max()
        for ax, layer in zip(axes[0], layers, strict=True):
            ax.set_title(f"layer {layer}", loc="left")
        for ax in axes[-1]:
            ax.set_xticks([round(share * last) for share in (0, 0.05, 0.25, 1)])
            ax.set_xlabel("epoch")
        lines = [plt.Line2D([], [], color=COLOURS[s]) for s in COLOURS] + [
            plt.Line2D([], [], color="0.3", linestyle=s) for s in ("-", "--")
        ]
        names = [LABELS[s] for s in COLOURS] + [
            "norm of the mean",
            "norm of the standard deviation",
        ]
        figure.legend(lines, names, loc="outside lower center", ncols=5 if len(layers) > 4 else 3)
        figure.suptitle(title, fontsize=10)
        plt.close(figure)
    return figure


def _band(ax, rows, measure, style, colour):
    """Geometric mean over seeds with its interval: the axis is logarithmic."""
    logs = summary(rows.assign(log=np.log(rows[measure].where(rows[measure] > 0))), "epoch", "log")
    ax.plot(logs.index, np.exp(logs["mean"]), style, color=colour, linewidth=1.3)
    low, high = np.exp(logs["mean"] - logs["half"]), np.exp(logs["mean"] + logs["half"])
    ax.fill_between(logs.index, low, high, color=colour, alpha=0.15, linewidth=0)
