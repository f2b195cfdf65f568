"""Figure 2: the procedure, as a drawing."""

import matplotlib.pyplot as plt
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch

from lib.plots.common import COLOURS, STYLE


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
                    (x - 0.31, y - 0.24),
                    0.62,
                    0.48,
                    boxstyle="round,pad=0,rounding_size=0.08",
                    fc=colour,
                    ec=colour,
                    alpha=0.15,
                )
            )
            ax.text(
                x,
                y + 0.06,
                name,
                ha="center",
                va="center",
                fontsize=11,
                color=colour,
                weight="bold",
            )
            ax.text(x, y - 0.13, text, ha="center", va="center", fontsize=7, color="0.25")
        for start, stop, text in arrows:
            (x0, y0), (x1, y1) = boxes[start][:2], boxes[stop][:2]
            down = x0 == x1
            begin, end = (
                ((x0, y0 - 0.26), (x1, y1 + 0.26)) if down else ((x0 + 0.32, y0), (x1 - 0.32, y1))
            )
            ax.add_patch(
                FancyArrowPatch(begin, end, arrowstyle="-|>", mutation_scale=12, color="0.35")
            )
            spot = (x0 + 0.05, (y0 + y1) / 2) if down else ((x0 + x1) / 2, y0 + 0.06)
            ax.text(
                *spot,
                text,
                ha="left" if down else "center",
                va="center" if down else "bottom",
                fontsize=8,
                color="0.25",
            )
        ax.set(xlim=(-0.45, 3.45), ylim=(-0.32, 1.32))
        ax.axis("off")
        plt.close(figure)
    return figure
