"""The gradient-flow study's section 4.3: where tickets lie (Figures 5 and 9c), and what they compute (Tables 2 and 6)."""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd

from lib.plots.common import STYLE, line, summary

ROWS = {  # colour and name, in the order in which they are shown
    "lottery": ("#0072b2", "lottery ticket"),
    "restart": ("#009e73", "prune restart"),
    "signs": ("#56b4e9", "ticket, signs alone"),
    "noise": ("#cc79a7", "ticket with noise"),
    "shuffled": ("#882255", "ticket, shuffled"),
    "scratch": ("#d55e00", "scratch"),
    "scratch_diff_init": ("#e69f00", "scratch (diff. init.)"),
    "pruned": ("#4d4d4d", "pruned independently"),
}
PATHS = ("lottery", "scratch")  # the study's own


def lottery(table: pd.DataFrame, places: pd.DataFrame, *, title: str, printed: dict | None = None):
    """Figure 5: (a) a map of one seed's networks, (b) distances to the pruning solution, (c) and (d) the loss on the lines to it.

    ``table`` has a row per network, see ``lib.claims.flow_lottery``; ``places`` those of the map: seed, row, moment ("start" or "end"), x
    and y, with the pruning solution as the row "solution". ``printed``: row -> the printed distance of its start.
    """
    with plt.rc_context(STYLE):
        figure, axes = plt.subplots(2, 2, figsize=(10.5, 8), layout="constrained")
        _map(axes[0, 0], places)
        _distances(axes[0, 1], table, printed or {})
        starts = [row for row in ROWS if row in PATHS]
        _lines(
            axes[1, 0], table, [(row, "start") for row in starts] + [(row, "end") for row in starts]
        )
        axes[1, 0].set_title("(c) loss on the line to the pruning solution", loc="left")
        axes[1, 0].plot([], [], "--", color="0.4", label="from its start")
        axes[1, 0].plot([], [], "-o", color="0.4", markersize=3, label="from its end")
        axes[1, 0].legend(loc="upper right")
        _lines(axes[1, 1], table, [(row, "end") for row in ROWS if row not in PATHS])
        axes[1, 1].set_title("(d) the same from the ends of the others", loc="left")
        top = max(ax.get_ylim()[1] for ax in axes[1])
        for ax in axes[1]:
            ax.set_ylim(0, top)
        handles = [
            plt.Line2D([], [], color=colour, marker="o", label=name)
            for row, (colour, name) in ROWS.items()
            if row in set(table["row"])
        ]
        handles.append(
            plt.Line2D(
                [],
                [],
                color="black",
                marker="*",
                markersize=10,
                linestyle="",
                label="pruning solution",
            )
        )
        figure.legend(handles=handles, loc="outside lower center", ncols=5)
        figure.suptitle(title, fontsize=10)
        plt.close(figure)
    return figure


def _map(ax, places):
    kinds = [row for row in ROWS if (places["row"] == row).any()]
    for row in kinds:
        colour, _ = ROWS[row]
        own = places[places["row"] == row]
        for moment, face in (("start", "white"), ("end", colour)):
            points = own[own["moment"] == moment]
            ax.scatter(
                points["x"],
                points["y"],
                marker="o",
                s=30,
                facecolor=face,
                edgecolor=colour,
                alpha=0.85,
            )
    goal = places[places["row"] == "solution"]
    ax.scatter(
        goal["x"],
        goal["y"],
        marker="*",
        s=150,
        facecolor="black",
        edgecolor="white",
        linewidth=0.6,
        zorder=4,
    )
    ax.set_aspect("equal", adjustable="datalim")
    ax.set_title(
        f"(a) map by L2 distance, seed {int(places['seed'].iloc[0])}; open: at its start",
        loc="left",
    )


def _distances(ax, table, printed):
    shown = [row for row in ROWS if table.loc[table["row"] == row, "end_distance"].notna().any()]
    for place, row in enumerate(shown):
        colour, _ = ROWS[row]
        of = table[table["row"] == row].groupby("seed")[["start_distance", "end_distance"]].mean()
        for column, face in (("start_distance", "white"), ("end_distance", colour)):
            values = of[column].dropna()
            ax.plot(
                values,
                np.full(len(values), place),
                "o",
                markersize=5,
                markerfacecolor=face,
                markeredgecolor=colour,
                alpha=0.8,
            )
        if of["start_distance"].notna().all():
            ax.annotate(
                "", (of["end_distance"].mean(), place + 0.28), (of["start_distance"].mean(), place + 0.28),
                arrowprops={"arrowstyle": "->", "color": colour, "linewidth": 1},
            )  # fmt: skip
        if row in printed:
            ax.plot(printed[row], place - 0.28, "s", color="black", markersize=4)
    ax.set_yticks(range(len(shown)), [ROWS[row][1] for row in shown])
    ax.set_ylim(len(shown) - 0.5, -0.5)
    ax.set_xlim(0, None)
    ax.set_xlabel(
        "L2 distance to the pruning solution"
        + ("; black squares: printed, start" if printed else "")
    )
    ax.set_title("(b) distances of every seed, from start to end", loc="left")


def _lines(ax, table, chosen):
    for row, moment in chosen:
        rows = table[(table["row"] == row)].dropna(subset=f"{moment}_losses")
        if rows.empty:
            continue
        long = (
            rows[["seed", "alphas", f"{moment}_losses"]]
            .explode(["alphas", f"{moment}_losses"])
            .astype(float)
        )
        seeds = long.groupby(["seed", "alphas"], as_index=False).mean()
        found = summary(seeds, "alphas", f"{moment}_losses")
        line(ax, found.index, found, ROWS[row][0], style="--" if moment == "start" else "-")
    ax.set(xlabel="alpha (1: pruning solution)", ylabel="training loss (nats)", xlim=(0, 1))


COLUMNS = {  # measure: (title, scale); the upper row is about groups, the lower about the pruning solution
    "accuracy": ("test accuracy, %", 100), "disagreement": ("disagreement in pairs, %", 100),
    "kl": ("KL in pairs, nats", 1), "js": ("Jensen-Shannon in pairs, nats", 1),
    "ensemble": ("accuracy of the ensemble, %", 100), "disagreement_pruned": ("disagreement with the pruned, %", 100),
    "kl_pruned": ("KL, with the pruned, nats", 1), "js_pruned": ("Jensen-Shannon, with the pruned", 1),
}  # fmt: skip


def functions(table: pd.DataFrame, printed: dict, *, title: str):
    """Tables 2 and 6 as a picture: a panel per measure, a line per group of networks, a dot per seed, the mean a bar.

    ``table`` has a row per seed and group (``row``); ``printed``: row -> measure -> (mean, standard deviation or None), black squares.
    """
    shown = [row for row in ROWS if (table["row"] == row).any()]
    with plt.rc_context(STYLE):
        figure, axes = plt.subplots(
            2, 4, figsize=(11.5, 0.5 * len(shown) + 3), layout="constrained", sharey=True
        )
        for ax, (measure, (name, scale)) in zip(axes.flat, COLUMNS.items(), strict=True):
            for place, row in enumerate(shown):
                colour, _ = ROWS[row]
                values = scale * table.loc[table["row"] == row, measure].dropna().to_numpy()
                ax.plot(
                    values,
                    np.full(len(values), place),
                    "o",
                    color=colour,
                    alpha=0.5,
                    markersize=4,
                    markeredgewidth=0,
                )
                ax.plot(
                    [values.mean()] * 2, [place - 0.22, place + 0.22], color=colour, linewidth=2
                )
                mean, spread = printed.get(row, {}).get(measure, (None, None))
                if mean is not None:
                    factor = scale if measure.startswith("disagreement") else 1
                    ax.errorbar(
                        factor * mean,
                        place + 0.32,
                        xerr=factor * (spread or 0),
                        fmt="s",
                        color="black",
                        markersize=3,
                        linewidth=0.8,
                    )
            ax.set_title(name, loc="left", fontsize=9)
            ax.locator_params(axis="x", nbins=4)
            if measure not in ("accuracy", "ensemble"):
                ax.set_xlim(0, None)
        axes[1, 0].sharex(axes[0, 0])
        axes[0, 0].autoscale(axis="x")
        axes[0, 0].set_yticks(range(len(shown)), [ROWS[row][1] for row in shown])
        axes[0, 0].set_ylim(len(shown) - 0.4, -0.6)
        note = "; black: printed, with one SD" if printed else ""
        figure.suptitle(f"{title}{note}", fontsize=10)
        plt.close(figure)
    return figure
