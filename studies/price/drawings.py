"""Drawings of the price study that are too long for their notebooks."""

from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import FigureBase

from studies import figures
from studies.figures import COLOURS, LABELS

PARTS = {"train": ("#009e73", "training"), "test": ("#cc79a7", "test")}
MANY = 20  # classes; of more, the ones with the most and the fewest examples are shown


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
            arrow = {"arrowstyle": "-|>", "color": "0.35"}
            ax.annotate(
                "", np.array([x1, y1]) - reach, np.array([x0, y0]) + reach, arrowprops=arrow
            )
            beside: Any = {"ha": "center", "va": "bottom"}
            if y0 != y1:
                beside = {"ha": "left", "va": "center"}
            ax.text(
                (x0 + x1) / 2, (y0 + y1) / 2 + 0.03, f" {words}", fontsize=8, color="0.25", **beside
            )
        ax.axis("off")
    return ax.figure


def disagreement(pairs: pd.DataFrame, *, title: str) -> FigureBase:
    """Figure 5: on which classes and examples Sol-F and Sol-S disagree; Fisher's part in it.

    ``pairs`` has a row per part and seed of one sparsity. Means over seeds, 95% intervals.
    """
    names = [
        "(a) Sol-F and Sol-S disagree, by class",
        "(b) who is right where they disagree",
        "(c) and with the dense network",
        "(d) disagreement by class (training)",
        "(e) disagreement by example (training)",
        "(f) Sol-F right, Sol-S wrong (training)",
    ]
    train = pairs[pairs["part"] == "train"]
    with figures.panels(*names, title=title, size=(3.6, 3.1), ylabel="% of examples") as axes:
        _by_class(axes[0], pairs)
        _by_part(axes[1], axes[2], pairs)
        _fisher_by_class(axes[3], train)
        for ax, what, of, says in (
            (axes[4], "fisher", "Fisher trace", "Fisher of"),
            (axes[5], "difficulty", "difficulty", "judged by others'"),
        ):
            for solution in (s for s in COLOURS if f"by_{what}_{s}" in train):
                values = 100 * np.stack(train[f"by_{what}_{solution}"].to_list())
                tenths = pd.DataFrame(values, columns=range(1, 11)).melt(var_name="tenth")
                label = f"{says} {LABELS[solution].split(' ')[0]}"
                figures.band(ax, tenths, "tenth", "value", COLOURS[solution], label, "o-")
            ax.set_xticks(range(1, 11))
            ax.set(xlabel=f"tenth of the examples by {of}", ylim=(0, min(100, ax.get_ylim()[1])))
        for ax in axes:
            ax.legend(loc="best" if ax in (axes[0], axes[3]) else "upper left")
    return axes[0].figure


def _rates(rows):
    """Percent of each class, [seeds, classes]."""
    return 100 * np.stack(
        [count / all_ for count, all_ in zip(rows["count"], rows["examples"], strict=True)]
    )


def _by_class(ax, pairs):
    """Disagreement by true class, in the order of the training part; dashed: over all classes."""
    order = np.argsort(-_rates(pairs[pairs["part"] == "train"]).mean(0), kind="stable")
    for number, (part, (colour, label)) in enumerate(PARTS.items()):
        rows = pairs[pairs["part"] == part]
        rates = _rates(rows)[:, order]
        if len(order) > MANY:
            ax.plot(rates.mean(0), color=colour, linewidth=1.2, label=label)
        else:
            figures.bars(ax, rates, colour, label, width=0.4, shift=0.4 * number - 0.2)
        ax.axhline(100 * rows["rate"].mean(), color=colour, linewidth=0.9, linestyle="--")
    ax.plot([], [], "--", color="0.3", linewidth=0.9, label="all classes")
    ax.set(xlabel="true class", ylabel="% of a class")
    if len(order) > MANY:
        ax.set_xlabel("true class, by training disagreement")
    else:
        ax.set_xticks(range(len(order)), order)
        ax.grid(axis="x", visible=False)
    # intervals of few seeds reach beyond what a share can be; the legend stands above
    ax.set_ylim(0, 1.25 * min(100, ax.get_ylim()[1]))


def _by_part(right, dense, pairs):
    """Who is right where the two disagree; and the disagreement of each with the dense network."""
    below = np.zeros(len(PARTS))
    for column, colour, label in (
        ("only_sol_f", COLOURS["sol_f"], "Sol-F alone right"),
        ("only_sol_s", COLOURS["sol_s"], "Sol-S alone right"),
        ("neither", "0.75", "both wrong"),
    ):
        heights = 100 * pairs.groupby("part")[column].mean()[list(PARTS)]
        right.bar(range(len(PARTS)), heights, 0.55, bottom=below, color=colour, label=label)
        below += heights.to_numpy()
    for number, (column, colour, label) in enumerate(
        (
            ("dense_sol_f", COLOURS["sol_f"], "Sol-F and Sol-D"),
            ("dense_sol_s", COLOURS["sol_s"], "Sol-S and Sol-D"),
            ("rate", "0.5", "Sol-F and Sol-S"),
        )
    ):
        by_seed = 100 * pairs.pivot_table(index="seed", columns="part", values=column)[list(PARTS)]
        figures.bars(dense, by_seed, colour, label, width=0.27, shift=0.27 * (number - 1))
    for ax in (right, dense):
        ax.set_xticks(range(len(PARTS)), [label for _, label in PARTS.values()])
        ax.grid(axis="x", visible=False)
        ax.set(xlim=(-0.6, 1.6), ylim=(0, 1.4 * ax.get_ylim()[1]))


def _fisher_by_class(ax, train):
    """Each class: its Fisher trace, relative to the mean over classes, and its disagreement."""
    rates = _rates(train).mean(0)
    for solution in ("sol_d", "sol_f"):
        traces = np.mean(
            [row / np.nanmean(row) for row in train[f"class_fisher_{solution}"]], axis=0
        )
        rho = train[f"class_rho_{solution}"].mean()
        label = f"{LABELS[solution].split(' ')[0]} (rho {rho:.2f})"
        ax.plot(traces, rates, "o", color=COLOURS[solution], markersize=4, label=label)
        for number, at in enumerate(zip(traces, rates, strict=True)):
            if solution == "sol_d" and len(rates) <= MANY:
                away = {
                    "xytext": (3, 3),
                    "textcoords": "offset points",
                    "fontsize": 7,
                    "color": "0.35",
                }
                ax.annotate(str(number), at, **away)
    ax.set(xlabel="Fisher trace of a class / mean over classes", ylabel="% of a class")
    ax.set_ylim(bottom=0)
