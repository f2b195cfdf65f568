"""The gradient-flow study: names and looks of its methods, and drawings too long for a notebook."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
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


def signals(ax: Axes, rows: pd.DataFrame, *, kept: tuple[float, float]) -> None:
    """The output's standard deviation by sparsity, in units of the dense network's.

    ``rows`` has scheme, form, sparsity, seed and ``value``. A second scheme is dashed, without its
    band. Grey is ``kept``, what the decision rules allow.
    """
    for number, (scheme, of_scheme) in enumerate(rows.groupby("scheme", sort=False)):
        ax.plot([], [], "--" if number else "-", color="0.3", label=f"scheme {scheme}")
        for form, each in of_scheme.groupby("form"):
            style, fill = ("--", 0) if number else ("o-", 0.18)
            look = (FORM_COLOURS[form], FORM_NAMES[form], style)
            figures.band(ax, each, "sparsity", "value", *look, fill=fill)
    ax.axhspan(*kept, color="0.5", alpha=0.15, linewidth=0, label="what the rules allow")
    low = rows.groupby(["scheme", "form", "sparsity"])["value"].mean()
    ax.set(yscale="log", ylabel="standard deviation / dense", ylim=(0.5 * low[low > 0].min(), None))
    figures.sparsity_axis(ax, sorted(rows["sparsity"].unique()))
    ax.tick_params(axis="x", rotation=60)


def layers(ax: Axes, rows: pd.DataFrame, part: str, *, steady: float) -> None:
    """Mean squares by layer, with their closed form dotted.

    ``rows`` has kind, form, layer, seed, ``value`` and ``expected``; ``part`` is "forward" or
    "backward". Grey is what the decision rules allow where they speak of it: a factor of ``steady``
    up or down from one layer to the next.
    """
    for form, each in rows.groupby("form"):
        wide: Any = (
            {"linewidth": 4, "alpha": 0.45} if form == "layer" else {}
        )  # that per neuron may lie upon it
        figures.band(ax, each, "layer", "value", FORM_COLOURS[form], None, "o-", log=True, **wide)
        expected = each.groupby("layer")["expected"].mean()
        line: Any = {"color": "black", "linewidth": 1.2, "zorder": 3}
        ax.plot(expected.index, expected, ":", label="closed form", **line)
    numbers = np.sort(rows["layer"].unique())
    if (rows["kind"] == "uneven").all():
        first = numbers[0] if part == "forward" else numbers[-1]
        at_first = (rows["form"] == "neuron") & (rows["layer"] == first)
        middle, reach = rows.loc[at_first, "expected"].mean(), steady ** np.abs(numbers - first)
        ax.fill_between(
            numbers, middle / reach, middle * reach, color="0.5", alpha=0.15, linewidth=0
        )
    ax.set(yscale="log", xlabel="layer", ylabel="mean square")
    ax.set_xticks(numbers[:: -(-len(numbers) // 8)])


# -- appendix B ------------------------------------------------------------------------------------

SETTINGS = {  # setting -> what its axis says
    "weight decay": "weight decay",
    "sparsity": "sparsity, without weight decay (log scale of density)",
    "init": "scale of the fresh weights",
    "layer densities": "densities of the layers",
    "mask updates": "optimiser steps between two mask updates",
    "training length": "times as many optimiser steps",
}
VALUES = {"glorot-uniform": "Glorot", "he": "He", "layer": "all the same", "erk": "ERK"}
FRACTIONS = ("#56b4e9", "#0072b2", "#4d4d4d", "#cc79a7")  # of weights that an update drops


def setting(ax: Axes, rows: pd.DataFrame, name: str) -> None:
    """Final test accuracy against one setting, ``name``.

    ``rows`` has a row per run: ``value``, ``own`` (the preset's value), ``row``, ``form``,
    ``drop_fraction`` and ``accuracy`` in percent. Every seed is a dot; means are joined, and named
    at their right end. Runs far below the others stand as numbers at the bottom.
    """
    at = _values_axis(ax, rows, name)
    _series(ax, rows.assign(at=rows["value"].map(at).astype(float)), name == "mask updates")


def _values_axis(ax, rows, setting):
    """The axis of a setting's values, with room for names on the right; where each stands."""
    values = list(dict.fromkeys(rows["value"]))
    values = values if isinstance(values[0], str) else sorted(values)
    at = figures.place(values) if setting == "sparsity" else np.arange(len(values))
    own = set(rows.loc[rows["own"], "value"])
    ticks = [VALUES.get(v, v) if isinstance(v, str) else f"{v:g}" for v in values]
    if len(own) < len(values):
        ticks = [t + "\n(preset)" if v in own else t for t, v in zip(ticks, values, strict=True)]
    reach = np.ptp(at) or 1.0
    ax.set_xticks(at, ticks)
    ax.set(xlabel=SETTINGS[setting], xlim=(min(at) - 0.15 * reach, max(at) + 0.62 * reach))
    ax.grid(axis="x", visible=False)
    return dict(zip(values, at, strict=True))


def _series(ax, rows, by_fraction):
    """A line for each method, or for each drop fraction where mask updates vary."""
    series = list(rows.groupby("drop_fraction" if by_fraction else ["row", "form"], sort=False))
    ticks = sorted(rows["at"].unique())
    reach = np.ptp(ticks) or 1.0
    top = rows["accuracy"].max()
    bottom = min(part.groupby("value")["accuracy"].quantile(0.2).min() for _, part in series)
    bottom -= 0.12 * max(top - bottom, 0.5)
    ends, missed = {}, dict.fromkeys(ticks, 0)
    for number, (key, part) in enumerate(series):
        if by_fraction:
            look = (f"drop {key:g}", FRACTIONS[number % len(FRACTIONS)], "-", METHODS["rigl"][3])
        else:
            look = _look(key, {form for (_, form), _ in series if form})
        name, colour, style, marker = look
        # side by side: dots of different methods would hide each other
        shift = 0.03 * reach * (number - (len(series) - 1) / 2)
        star = 1.7 if marker == "*" else 1.0
        seen = part[part["accuracy"] >= bottom]
        dots = {"alpha": 0.45, "markersize": 3.5 * star, "markeredgewidth": 0}
        ax.plot(seen["at"] + shift, seen["accuracy"], marker, color=colour, **dots)
        means = part.groupby("at")["accuracy"].mean()
        if len(means) == 1 < len(ticks):
            ax.hlines(means.iloc[0], ticks[0], ticks[-1], color=colour, linestyle=":", linewidth=1)
        line = {"linewidth": 1.3, "markersize": 6 * star, "markeredgecolor": "white"}
        ax.plot(means.index + shift, means, style, color=colour, marker=marker, **line)
        ends[name] = (means.iloc[-1], colour)
        for at, lost in part[part["accuracy"] < bottom].groupby("at")["accuracy"]:
            words = "\n".join(f"{value:.1f}" for value in sorted(lost, reverse=True)) + "\n▾"
            text = {"textcoords": "offset points", "ha": "center", "fontsize": 6.5, "color": colour}
            ax.annotate(words, (at + shift, bottom), (0, 1 + 8 * missed[at]), va="bottom", **text)
            missed[at] += len(lost) + 1  # what two methods miss there stands one above the other
    ax.set_ylim(bottom, top + 0.05 * (top - bottom))
    right = ticks[-1] + 0.06 * reach * (1 + len(series) / 4)
    heights = apart([height for height, _ in ends.values()], 0.075 * (top - bottom), bottom, top)
    for (name, (_, colour)), height in zip(ends.items(), heights, strict=True):
        ax.text(right, height, name, color=colour, fontsize=7.5, va="center", clip_on=False)


def _look(cell, forms):
    """Name, colour, line and marker of a method, told apart by ``form`` where it has several."""
    row, form = cell
    name, colour, style, marker = METHODS[row]
    if len(forms) < 2 or not form:
        return name, colour, style, marker
    if form == "masked":
        return f"{name}, original", colour, "--", "X"
    return f"{name}, ours", colour, style, marker


def apart(heights: Sequence[float], gap: float, bottom: float, top: float) -> np.ndarray:
    """The heights, moved where one would lie closer than ``gap`` to the next, as far as they fit.

    >>> apart([9.9, 10.0, 2.0], gap=0.5, bottom=0.0, top=10.0).tolist()
    [9.5, 10.0, 2.0]
    """
    order = np.argsort(heights, kind="stable")
    moved, last = np.array(heights, dtype=float), bottom - gap / 2
    for k in order:
        last = moved[k] = max(moved[k], last + gap)
    last = top + gap
    for k in order[::-1]:
        last = moved[k] = min(moved[k], last - gap)
    return moved
