"""The gradient-flow study: names and looks of its methods, and drawings too long for a notebook."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import FigureBase

from studies import figures

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
FORM_NAMES: dict[Any, str] = {  # of fresh weights; small dense and the like have no form
    "masked": "original (masked dense)",
    "layer": "Liu et al. (per layer)",
    "neuron": "the study's (per neuron)",
    "": "",
}
FORM_COLOURS: dict[Any, str] = {
    "masked": "#d55e00",
    "layer": "#009e73",
    "neuron": "#0072b2",
    "": "#4d4d4d",
}
ROWS = {  # networks of Figure 5 and Table 2 -> (colour, name), in the order in which they are shown
    "lottery": ("#0072b2", "lottery ticket"),
    "restart": ("#009e73", "prune restart"),
    "signs": ("#56b4e9", "ticket, signs alone"),
    "noise": ("#cc79a7", "ticket with noise"),
    "shuffled": ("#882255", "ticket, shuffled"),
    "scratch": ("#d55e00", "scratch"),
    "scratch_diff_init": ("#e69f00", "scratch (diff. init.)"),
    "pruned": ("#4d4d4d", "pruned independently"),
}


# -- Figure 5 --------------------------------------------------------------------------------------


def lottery(
    table: pd.DataFrame, places: pd.DataFrame, *, title: str, printed: Mapping | None = None
) -> FigureBase:
    """Figure 5: one seed's networks on a map, distances to the pruning solution, and the loss.

    ``table`` has a row per network; ``places`` those of the map: seed, row, moment ("start" or
    "end"), x and y, with the pruning solution as the row "solution". ``printed``: row -> distance
    of its start.
    """
    names = [
        f"(a) map by L2 distance, seed {places['seed'].iloc[0]:.0f}; open: at its start",
        "(b) distances of every seed, from start to end",
        "(c) loss on the line to the pruning solution",
        "(d) the same from the ends of the others",
    ]
    own = ("lottery", "scratch")  # the study's own paths
    with figures.panels(*names, columns=2, size=(5.1, 3.7), title=title, legend=5) as axes:
        _distances(axes[1], table, printed or {})
        axes[3].sharey(axes[2])
        for row, (colour, name) in ROWS.items():
            if row not in set(table["row"]):
                continue
            axes[0].plot([], [], "o-", color=colour, label=name)
            for moment, face in (("start", "white"), ("end", colour)):
                at = places[(places["row"] == row) & (places["moment"] == moment)]
                axes[0].scatter(
                    at["x"], at["y"], s=30, facecolor=face, edgecolor=colour, alpha=0.85
                )
                if row in own or moment == "end":
                    ax = axes[2] if row in own else axes[3]
                    _loss(ax, table[table["row"] == row], moment, colour)
        goal = places[places["row"] == "solution"]
        star: Any = {"color": "black", "edgecolor": "white", "linewidth": 0.6, "zorder": 4}
        axes[0].scatter(goal["x"], goal["y"], 150, marker="*", label="pruning solution", **star)
        axes[0].set_aspect("equal", adjustable="datalim")
        axes[2].plot([], [], "--", color="0.4", label="from its start")
        axes[2].plot([], [], "-o", color="0.4", markersize=3, label="from its end")
        for ax in axes[2:]:
            ax.set(xlabel="alpha (1: pruning solution)", ylabel="training loss (nats)", xlim=(0, 1))
        axes[2].set_ylim(bottom=0)
    return axes[0].figure


def _loss(ax, rows, moment, colour):
    """The loss on the line from a network to the pruning solution, mean over seeds."""
    losses = f"{moment}_losses"
    long = rows.dropna(subset=losses)[["seed", "alphas", losses]].explode(["alphas", losses])
    seeds = long.astype(float).groupby(["seed", "alphas"], as_index=False).mean()
    figures.band(ax, seeds, "alphas", losses, colour, style="--" if moment == "start" else "o-")


def _distances(ax, table, printed):
    """Distance to the pruning solution: open at the start, full at the end, every seed a dot."""
    shown = [row for row in ROWS if table.loc[table["row"] == row, "end_distance"].notna().any()]
    for place, row in enumerate(shown):
        colour, columns = ROWS[row][0], ["start_distance", "end_distance"]
        of = table[table["row"] == row].groupby("seed")[columns].mean()
        for column, face in zip(columns, ("white", colour), strict=True):
            at = np.full(len(of), place)
            ax.scatter(of[column], at, 25, facecolor=face, edgecolor=colour, alpha=0.8)
        if of["start_distance"].notna().all():
            start, end = ((mean, place + 0.28) for mean in of.mean())
            arrow = {"arrowstyle": "->", "color": colour, "linewidth": 1}
            ax.annotate("", end, start, arrowprops=arrow)
        if row in printed:
            figures.paper(ax, printed[row], place - 0.28, style="")
    ax.set_yticks(range(len(shown)), [ROWS[row][1] for row in shown])
    ax.set(ylim=(len(shown) - 0.5, -0.5), xlim=(0, None))
    words = "; black squares: printed, start" if printed else ""
    ax.set_xlabel(f"L2 distance to the pruning solution{words}")


# -- Figure 1 --------------------------------------------------------------------------------------


# -- appendix B ------------------------------------------------------------------------------------
