"""The gradient-flow study's appendix B as pictures: accuracy against one setting at a time; gradient flow from Glorot's and He's scale."""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd

from lib.plots.common import STYLE, place
from lib.plots.flow import METHODS, _labels, _median, _steps
from lib.plots.methods import FORM_NAMES

AXES = {  # setting -> what its axis says
    "weight decay": "weight decay",
    "sparsity": "sparsity, without weight decay (log scale of density)",
    "init": "scale of the fresh weights",
    "layer densities": "densities of the layers",
    "mask updates": "optimiser steps between two mask updates",
    "training length": "times as many optimiser steps",
}
WORDS = {
    "init": "initialisation",
    "glorot-uniform": "Glorot",
    "he": "He",
    "layer": "all the same",
    "erk": "ERK",
}
FRACTIONS = ("#56b4e9", "#0072b2", "#4d4d4d", "#cc79a7")
INITS = {"glorot-uniform": "#0072b2", "he": "#d55e00"}


def settings(table: pd.DataFrame, *, title: str):
    """Final test accuracy against one setting at a time, a panel for each ``setting`` of the table.

    ``table`` has a row per run and setting: ``setting``, ``value``, ``own`` (the preset's value), ``row``, ``form``, ``drop_fraction`` and
    ``accuracy`` in percent. Every seed is a dot; means are joined, and labelled at their right end. Runs far below the others stand
    as numbers at the bottom.
    """
    found = [setting for setting in AXES if setting in set(table["setting"])]
    columns = min(3, len(found))
    with plt.rc_context(STYLE):
        rows = -(-len(found) // columns)
        figure, axes = plt.subplots(
            rows,
            columns,
            figsize=(4.2 * columns, 3.1 * rows + 0.3),
            squeeze=False,
            layout="constrained",
        )
        for ax in axes.flat[len(found) :]:
            ax.axis("off")
        for number, (ax, setting) in enumerate(zip(axes.flat, found, strict=False)):
            _panel(ax, table[table["setting"] == setting], setting)
            ax.set_title(
                f"({'abcdef'[number]}) {WORDS.get(setting, setting)}", loc="left", fontsize=9
            )
            if number % columns == 0:
                ax.set_ylabel("final test accuracy, %")
        figure.suptitle(title, fontsize=10)
        plt.close(figure)
    return figure


def flow_by_init(table: pd.DataFrame, *, title: str, learns: float):
    """Figure 7c: gradient flow of scratch by optimiser step with either scale of the fresh weights, a panel for each form of them.

    ``table`` has ``value`` (the scheme), ``form``, ``seed``, ``step`` of ``steps``, and ``flow``. Medians over seeds, bands from the first
    to the third quartile; ``learns``, dotted, is the flow from which on learning counts as started.
    """
    forms = [form for form in FORM_NAMES if form and form in set(table["form"])]
    with plt.rc_context(STYLE):
        shape = {"squeeze": False, "sharex": True, "sharey": True, "layout": "constrained"}
        figure, axes = plt.subplots(1, len(forms), figsize=(4.5 * len(forms), 3.3), **shape)
        drawn = {}
        for ax, form in zip(axes[0], forms, strict=True):
            for scheme, rows in table[table["form"] == form].groupby("value", sort=False):
                logs = rows.assign(log=np.log(rows["flow"].clip(lower=1e-12)))
                drawn[WORDS.get(scheme, scheme)] = _median(
                    ax, logs, "log", INITS.get(scheme, "#009e73"), "-", np.exp
                )
            ax.axhline(learns, color="black", linestyle=":", linewidth=0.8)
            ax.set_title(f"scratch, {FORM_NAMES[form]}", loc="left", fontsize=9)
            ax.set_yscale("log")
            _steps(ax, table["steps"].iloc[0])
        _labels(axes, "gradient flow", "optimiser step (axis in square roots)", len(forms))
        drawn[f"learning starts: {learns:g}"] = plt.Line2D(
            [], [], color="black", linestyle=":", linewidth=0.8
        )
        figure.legend(drawn.values(), drawn.keys(), loc="outside lower center", ncols=4)
        figure.suptitle(title, fontsize=10)
        plt.close(figure)
    return figure


def _panel(ax, rows, setting):
    """One setting: its values along the axis, a line for each method, or for each drop fraction where mask updates vary."""
    by_fraction = setting == "mask updates"
    series = list(rows.groupby("drop_fraction" if by_fraction else ["row", "form"], sort=False))
    values = list(dict.fromkeys(rows["value"]))
    values = values if isinstance(values[0], str) else sorted(values)
    places = dict(
        zip(values, place(values) if setting == "sparsity" else np.arange(len(values)), strict=True)
    )
    reach = max(places.values()) - min(places.values()) or 1.0
    bottom = min(
        group["accuracy"].quantile(0.2) for _, part in series for _, group in part.groupby("value")
    )
    top = rows["accuracy"].max()
    bottom -= 0.12 * max(top - bottom, 0.5)
    ends, outside = [], {}
    for number, (key, part) in enumerate(series):
        name, colour, style, marker = _look(
            key,
            number,
            by_fraction,
            {form for (_, form), _ in series} if not by_fraction else set(),
        )
        large, small = (10, 6) if marker == "*" else (6, 3.5)
        shift = (
            0.03 * reach * (number - (len(series) - 1) / 2)
        )  # side by side: dots of different methods would hide each other
        x = part["value"].map(places).astype(float) + shift
        seen = part["accuracy"] >= bottom
        ax.plot(
            x[seen],
            part.loc[seen, "accuracy"],
            marker,
            color=colour,
            alpha=0.45,
            markersize=small,
            markeredgewidth=0,
        )
        means = part.groupby(x)["accuracy"].mean()
        if len(means) == 1 < len(places):
            ax.hlines(
                means.iloc[0],
                min(places.values()),
                max(places.values()),
                color=colour,
                linestyle=":",
                linewidth=1,
            )
        ax.plot(
            means.index,
            means,
            style,
            color=colour,
            linewidth=1.3,
            marker=marker,
            markersize=large,
            markeredgecolor="white",
        )
        ends.append((means.iloc[-1], name, colour))
        for where, value in zip(x[~seen], part.loc[~seen, "accuracy"], strict=True):
            outside.setdefault((where, colour), []).append(value)
    ax.set_ylim(bottom, top + 0.05 * (top - bottom))
    lines = dict.fromkeys(
        places.values(), 0
    )  # of text at each value: what two methods miss there stands one above the other
    for (where, colour), missed in outside.items():
        words = "\n".join(f"{value:.1f}" for value in sorted(missed, reverse=True)) + "\n▾"
        nearest = min(places.values(), key=lambda tick: abs(tick - where))
        lift = 1 + 8 * lines[nearest]
        lines[nearest] += len(missed) + 1
        ax.annotate(
            words,
            (where, bottom),
            (0, lift),
            textcoords="offset points",
            ha="center",
            va="bottom",
            fontsize=6.5,
            color=colour,
        )
    right = max(places.values()) + 0.06 * reach * (1 + len(series) / 4)
    heights = _apart([end[0] for end in ends], 0.075 * (top - bottom), bottom, top)
    for (_, name, colour), height in zip(ends, heights, strict=True):
        ax.text(right, height, name, color=colour, fontsize=7.5, va="center", clip_on=False)
    ax.set_xlim(min(places.values()) - 0.15 * reach, max(places.values()) + 0.62 * reach)
    own = set(rows.loc[rows["own"], "value"])
    ticks = [
        f"{WORDS.get(value, value)}" if isinstance(value, str) else f"{value:g}" for value in values
    ]
    marked = [
        f"{tick}\n(preset)" if value in own and len(own) < len(values) else tick
        for tick, value in zip(ticks, values, strict=True)
    ]
    ax.set_xticks(list(places.values()), marked)
    ax.set_xlabel(AXES[setting])
    ax.grid(axis="x", visible=False)


def _look(key, number, by_fraction, forms):
    """Name, colour, line and marker of a series."""
    if by_fraction:
        return f"drop {key:g}", FRACTIONS[number % len(FRACTIONS)], "-", METHODS["rigl"][3]
    row, form = key
    name, colour, style, marker = METHODS[row]
    if len(forms - {""}) > 1 and form:  # the same method from two starts
        masked = form == "masked"
        return (
            f"{name}, {'original' if masked else 'ours'}",
            colour,
            "--" if masked else style,
            "X" if masked else marker,
        )
    return name, colour, style, marker


def _apart(heights, gap, bottom, top):
    """The heights, moved where they would lie closer than ``gap`` to a neighbour, inside ``bottom`` and ``top`` as far as they fit."""
    order = np.argsort(heights, kind="stable")
    moved, last = np.array(heights, dtype=float), bottom - gap / 2
    for k in order:
        last = moved[k] = max(moved[k], last + gap)
    last = top + gap
    for k in order[::-1]:
        last = moved[k] = min(moved[k], last - gap)
    return moved
