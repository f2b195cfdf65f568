"""What all figures share: colours, style, means with intervals, the axis of sparsities."""

import numpy as np
import pandas as pd
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


def summary(rows: pd.DataFrame, by: str, measure: str) -> pd.DataFrame:
    """Mean and half-width of the 95% t interval over seeds, by ``by``."""
    grouped = rows.groupby(by)[measure].agg(["mean", "std", "count"])
    t = stats.t.ppf(0.975, (grouped["count"] - 1).clip(lower=1))
    grouped["half"] = (t * grouped["std"] / np.sqrt(grouped["count"])).fillna(0.0)
    return grouped


def line(ax, x, summary, colour, label=None, style="-", marker="o"):
    """A mean with its band; points only on solid lines, and none at all with ``marker=None``."""
    ax.plot(
        x,
        summary["mean"],
        style,
        color=colour,
        label=label,
        marker=marker if style == "-" else None,
        markersize=3,
        linewidth=1.4,
    )
    ax.fill_between(
        x,
        summary["mean"] - summary["half"],
        summary["mean"] + summary["half"],
        color=colour,
        alpha=0.18,
        linewidth=0,
    )


def sparsity_axis(ax, sparsities):
    """Sparsities on an axis that is logarithmic in density: each halving of the live weights is one step."""
    places = -np.log2(1 - np.asarray(sparsities))
    ax.set_xticks(places, [f"{s:g}" for s in sparsities], rotation=60 if len(sparsities) > 5 else 0)
    ax.minorticks_off()
    ax.set_xlabel("sparsity (log scale of density)")


def place(sparsity):
    return -np.log2(1 - np.asarray(sparsity, dtype=float))
