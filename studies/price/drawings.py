"""Drawings of the price study that are too long for their notebooks."""

from typing import Any

import numpy as np
from matplotlib.figure import FigureBase

from studies import figures
from studies.figures import COLOURS


def procedure() -> FigureBase:
    """Figure 2: how the solutions come about. A drawing, no data."""
    boxes = {
        "Init-D": (0, 1, "sol_d", "random, dense"),
        "Sol-D": (1, 1, "sol_d", "trained, dense"),
        "Init-F": (2, 1, "sol_f", "Sol-D under the mask"),
        "Sol-F": (3, 1, "sol_f", "finetuned"),
        "Init-S": (2, 0, "sol_s", "fresh weights, same mask"),
        "Sol-S": (3, 0, "sol_s", "trained from scratch"),
    }
    arrows = {
        ("Init-D", "Sol-D"): "train",
        ("Sol-D", "Init-F"): "prune",
        ("Init-F", "Sol-F"): "train",
        ("Init-F", "Init-S"): "draw anew",
        ("Init-S", "Sol-S"): "train",
    }
    with figures.panels("", size=(8.7, 2.9)) as (ax,):
        for name, (x, y, solution, words) in boxes.items():
            colour = COLOURS[solution]
            ax.bar(x, 0.48, 0.62, y - 0.24, color=colour, alpha=0.15)
            ax.text(
                x, y + 0.06, name, ha="center", va="center", fontsize=11, color=colour, weight=700
            )
            ax.text(x, y - 0.13, words, ha="center", va="center", fontsize=7, color="0.25")
        for (start, end), words in arrows.items():
            (x0, y0), (x1, y1) = boxes[start][:2], boxes[end][:2]
            reach = np.array([0.31, 0] if y0 == y1 else [0, -0.24])
            start_at, end_at = np.array([x0, y0]) + reach, np.array([x1, y1]) - reach
            ax.annotate("", end_at, start_at, arrowprops={"arrowstyle": "-|>", "color": "0.35"})
            above, beside = {"ha": "center", "va": "bottom"}, {"ha": "left", "va": "center"}
            where: Any = above if y0 == y1 else beside
            ax.text(
                (x0 + x1) / 2, (y0 + y1) / 2 + 0.03, f" {words}", fontsize=8, color="0.25", **where
            )
        ax.axis("off")
    return ax.figure
