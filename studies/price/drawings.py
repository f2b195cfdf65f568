"""Drawings of the price study that are too long for their notebooks."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.figure import FigureBase
from matplotlib.ticker import MaxNLocator

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


def shade_regimes(ax: Axes, grid: Sequence[float], borders: pd.Series) -> None:
    """Shade the two regimes on both sides of the seeds' mean border; nothing where no seed has one.

    ``borders`` has each seed's first sparsity of the optimization regime; the border lies half-way
    between it and the sparsity before it in ``grid``, on the axis of ``figures.sparsity_axis``.
    """
    found = [list(grid).index(sparsity) for sparsity in borders.dropna()]
    if not found:
        return
    at = figures.place(grid)
    border = np.mean([(at[max(i - 1, 0)] + at[i]) / 2 for i in found])
    left, border, right = 1 - 2.0 ** -np.array([at[0] - 0.3, border, at[-1] + 0.3])
    ax.axvspan(left, border, color="#cc79a7", alpha=0.1, linewidth=0, label="generalization regime")
    ax.axvspan(border, right, color="#009e73", alpha=0.1, linewidth=0, label="optimization regime")
    ax.axvline(border, color="0.4", linewidth=0.8, linestyle=":")
    ax.set_xlim(left, right)


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


def cosine(table: pd.DataFrame, *, title: str) -> FigureBase:
    """Figures 8b, 8c, 9 and 10: distribution of the cosines, and the classes of the 5% highest.

    ``table`` has a row per finetuned run and ``alpha`` of one sparsity, with ``quantiles`` and
    ``top``, the counts by class. A thin line for each seed, a thick one for the mean of their
    quantiles.
    """
    alphas = sorted(table["alpha"].unique())
    names = ["(a) density of the examples", "(b) share of examples below"]
    names.append("(c) classes of the 5% of the examples with the highest cosine")
    with figures.panels(
        *names, title=title, columns=2, size=(5.4, 3.1), legend=len(alphas)
    ) as axes:
        density, below, classes = axes
        shares = {}
        for alpha, colour in zip(
            alphas, colormaps["viridis"](np.linspace(0.15, 0.75, len(alphas))), strict=True
        ):
            rows = table[table["alpha"] == alpha]
            quantiles = np.stack(rows["quantiles"].to_list())
            levels = np.linspace(0, 1, quantiles.shape[1])
            for q, thin in [*((q, True) for q in quantiles), (quantiles.mean(0), False)]:
                line = {
                    "color": colour,
                    "linewidth": 0.5 if thin else 1.6,
                    "alpha": 0.4 if thin else 1,
                }
                below.plot(q, levels, **line)
                edges = q[::10]  # a histogram with bins of equal weight
                heights = 1 / (len(edges) - 1) / np.maximum(np.diff(edges), 1e-12)
                density.plot((edges[1:] + edges[:-1]) / 2, heights, **line)
            top = np.stack(rows["top"].to_list()).astype(float)
            shares[alpha] = colour, top / top.sum(1, keepdims=True) * top.shape[1]
        ends = np.stack(table["quantiles"].to_list())[:, [1, -2]]  # the central 99%
        left, right = min(ends.min(), 0.0), max(ends.max(), 0.0)
        margin = 0.03 * (right - left)
        for ax in (density, below):
            ax.axvline(0, color="0.5", linewidth=0.8, linestyle=":")
            ax.set(xlim=(left - margin, right + margin))
            ax.set_xlabel("cosine of an example's negative gradient with the way to Sol-F")
            ax.xaxis.set_major_locator(MaxNLocator(7))
        density.set_ylim(bottom=0)
        _most_aligned(classes, shares)
    return density.figure


def _most_aligned(ax, shares):
    """Each class's share of the most aligned examples, in units of the uniform share."""
    ax.set_subplotspec(ax.get_gridspec()[1, :])  # as wide as the two above
    order = np.argsort(-next(iter(shares.values()))[1].mean(0), kind="stable")
    if len(order) > MANY:
        order = np.concatenate([order[: MANY - 6], order[-6:]])  # as the paper's Figure 10 does
    width = 0.8 / len(shares)
    for number, (alpha, (colour, found)) in enumerate(shares.items()):
        shift = (number - (len(shares) - 1) / 2) * width
        figures.bars(
            ax, found[:, order], colour, f"$\\alpha$ = {alpha:g}", width=width, shift=shift
        )
    for height, style, words in ((1, "-", "uniform"), (3, "--", "3 times uniform")):
        ax.axhline(height, color="0.3", linewidth=0.8, linestyle=style)
        ax.text(len(order) - 0.45, height, words, va="bottom", ha="right", fontsize=7)
    ax.set_xticks(range(len(order)), order)
    ax.set(xlabel="class", ylabel="share / uniform share", xlim=(-0.6, len(order) - 0.4))
    ax.set_ylim(bottom=0)


def pairs(ax: Axes, measured: pd.DataFrame, measure: str) -> None:
    """Sol-F and Sol-S of a seed joined by a line; means with 95% intervals beside them."""
    solutions = ["sol_f", "sol_s"]
    grid = sorted(measured["sparsity"].unique())
    for place, sparsity in enumerate(grid):
        rows = measured[measured["sparsity"] == sparsity]
        wide = rows.pivot_table(index="seed", columns="solution", values=measure)[
            solutions
        ].dropna()
        ax.plot([place - 0.15, place + 0.15], wide.T, color="0.6", linewidth=0.8, zorder=1)
        found = figures.summary(rows, "solution", measure)
        for solution, away in zip(solutions, (-0.15, 0.15), strict=True):
            colour, mean = COLOURS[solution], found.loc[solution]
            ax.scatter(np.full(len(wide), place + away), wide[solution], 14, color=colour, zorder=2)
            half = mean["high"] - mean["middle"]
            ax.errorbar(
                place + 1.7 * away,
                mean["middle"],
                half,
                fmt="D",
                color=colour,
                markersize=4,
                capsize=3,
            )
    ax.set_xticks(range(len(grid)), [f"{s:g}" for s in grid])
    ax.set(xlabel="sparsity (diamonds: means with 95% intervals)", xlim=(-0.6, len(grid) - 0.4))
    if (measured[measure] > 0).all():
        ax.set_ylim(bottom=0)
