"""Figure 5: on which classes and examples Sol-F and Sol-S disagree, and how that goes with Fisher information."""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from scipy import stats

from lib.plots.common import COLOURS, LABELS, STYLE

PARTS = {"train": ("#009e73", "training"), "test": ("#cc79a7", "test")}


def disagreement(pairs: pd.DataFrame, *, title: str):
    """Figure 5: disagreement by class, who is right, and its relation to Fisher information and difficulty.

    ``pairs`` has a row per part and seed of one sparsity (``lib.claims.disagreement.pairs``). Means over seeds, 95% intervals.
    """
    train = pairs[pairs["part"] == "train"]
    with plt.rc_context(STYLE):
        figure, axes = plt.subplots(2, 3, figsize=(11, 6.4), layout="constrained")
        _classes(axes[0, 0], pairs)
        _right(axes[0, 1], pairs)
        _dense(axes[0, 2], pairs)
        _fisher_by_class(axes[1, 0], train)
        _tenths(axes[1, 1], train, "by_fisher_", "Fisher of ")
        axes[1, 1].set_title("(e) disagreement by example (training)", loc="left")
        axes[1, 1].set(xlabel="tenth of the examples by Fisher trace", ylabel="% of examples")
        _tenths(axes[1, 2], train, "by_difficulty_", "judged by others' ")
        axes[1, 2].set_title("(f) Sol-F right, Sol-S wrong (training)", loc="left")
        axes[1, 2].set(xlabel="tenth of the examples by difficulty", ylabel="% of examples")
        figure.suptitle(title, fontsize=10)
        plt.close(figure)
    return figure


def _mean_and_half(values):
    """Mean and half-width of the 95% interval over the rows of ``values`` [seeds, ...]."""
    values = np.asarray(values, dtype=float)
    if len(values) < 2:
        return values.mean(0), np.zeros(values.shape[1:])
    half = stats.t.ppf(0.975, len(values) - 1) * values.std(0, ddof=1) / np.sqrt(len(values))
    return values.mean(0), half


def _rates(rows):
    return 100 * np.stack(
        [count / examples for count, examples in zip(rows["count"], rows["examples"], strict=True)]
    )


def _classes(ax, pairs):
    """Disagreement by true class, the classes in the order of the training part."""
    mean, _ = _mean_and_half(_rates(pairs[pairs["part"] == "train"]))
    order = np.argsort(-mean, kind="stable")
    many = len(order) > 20
    for i, (part, (colour, label)) in enumerate(PARTS.items()):
        rows = pairs[pairs["part"] == part]
        mean, half = _mean_and_half(_rates(rows))
        x = np.arange(len(order))
        if many:
            ax.plot(x, mean[order], color=colour, linewidth=1.2, label=label)
        else:
            ax.bar(
                x + 0.4 * i - 0.2,
                mean[order],
                0.4,
                yerr=half[order],
                color=colour,
                label=label,
                error_kw={"elinewidth": 0.8, "ecolor": "0.3"},
            )
        ax.axhline(100 * rows["rate"].mean(), color=colour, linewidth=0.9, linestyle="--")
    if not many:
        ax.set_xticks(range(len(order)), order)
        ax.grid(axis="x", visible=False)
    ax.set_ylim(
        0, 1.25 * min(100, ax.get_ylim()[1])
    )  # intervals of few seeds reach beyond what a share can be; above it, the legend
    ax.set(
        xlabel="true class" if not many else "true class, by training disagreement",
        ylabel="% of a class",
    )
    ax.set_title("(a) Sol-F and Sol-S disagree, by class", loc="left")
    ax.legend(title="dashed: all classes", title_fontsize=7)


def _right(ax, pairs):
    """Who is right where they disagree."""
    kinds = [
        ("only_sol_f", COLOURS["sol_f"], "Sol-F alone right"),
        ("only_sol_s", COLOURS["sol_s"], "Sol-S alone right"),
        ("neither", "0.75", "both wrong"),
    ]
    bottom = np.zeros(len(PARTS))
    for column, colour, label in kinds:
        heights = np.array(
            [100 * pairs.loc[pairs["part"] == part, column].mean() for part in PARTS]
        )
        ax.bar(range(len(PARTS)), heights, 0.55, bottom=bottom, color=colour, label=label)
        bottom += heights
    ax.set_xticks(range(len(PARTS)), [label for _, label in PARTS.values()])
    ax.grid(axis="x", visible=False)
    ax.set(ylabel="% of examples", xlim=(-0.6, 1.6), ylim=(0, 1.45 * bottom.max() + 1e-9))
    ax.set_title("(b) who is right where they disagree", loc="left")
    ax.legend(loc="upper left")


def _dense(ax, pairs):
    """Disagreement with the dense network, beside that between the two."""
    kinds = [
        ("dense_sol_f", COLOURS["sol_f"], "Sol-F and Sol-D"),
        ("dense_sol_s", COLOURS["sol_s"], "Sol-S and Sol-D"),
        ("rate", "0.5", "Sol-F and Sol-S"),
    ]
    for i, (column, colour, label) in enumerate(kinds):
        found = [
            _mean_and_half(100 * pairs.loc[pairs["part"] == part, column].to_numpy())
            for part in PARTS
        ]
        mean, half = np.array(found).T
        ax.bar(
            np.arange(len(PARTS)) + 0.27 * (i - 1),
            mean,
            0.27,
            yerr=half,
            color=colour,
            label=label,
            error_kw={"elinewidth": 0.8, "ecolor": "0.3"},
        )
    ax.set_xticks(range(len(PARTS)), [label for _, label in PARTS.values()])
    ax.grid(axis="x", visible=False)
    ax.set_ylim(0, 1.4 * ax.get_ylim()[1])
    ax.set_ylabel("% of examples")
    ax.set_title("(c) and with the dense network", loc="left")
    ax.legend(loc="upper left")


def _fisher_by_class(ax, train):
    """Each class: its mean Fisher trace (relative to the mean over classes) and its disagreement."""
    rates, _ = _mean_and_half(_rates(train))
    for m in ("sol_d", "sol_f"):
        traces = np.stack([row / np.nanmean(row) for row in train[f"class_fisher_{m}"]])
        mean, _ = _mean_and_half(traces)
        rho = train[f"class_rho_{m}"].mean()
        ax.plot(
            mean,
            rates,
            "o",
            color=COLOURS[m],
            markersize=4,
            label=f"{LABELS[m].split(' ')[0]} (rho {rho:.2f})",
        )
        if m == "sol_d" and len(mean) <= 20:
            for number, place in enumerate(zip(mean, rates, strict=True)):
                ax.annotate(
                    str(number),
                    place,
                    xytext=(3, 3),
                    textcoords="offset points",
                    fontsize=7,
                    color="0.35",
                )
    ax.set_ylim(bottom=0)
    ax.set(xlabel="Fisher trace of a class / mean over classes", ylabel="% of a class")
    ax.set_title("(d) disagreement by class (training)", loc="left")
    ax.legend()


def _tenths(ax, train, prefix, says):
    x = np.arange(1, 11)
    for column in (c for c in train.columns if c.startswith(prefix)):
        solution = column.removeprefix(prefix)
        mean, half = _mean_and_half(100 * np.stack(train[column].to_list()))
        label = says + LABELS[solution].split(" ")[0]
        ax.plot(
            x, mean, color=COLOURS[solution], marker="o", markersize=3, linewidth=1.4, label=label
        )
        ax.fill_between(
            x, mean - half, mean + half, color=COLOURS[solution], alpha=0.18, linewidth=0
        )
    ax.set_xticks(x)
    ax.set_ylim(0, min(100, ax.get_ylim()[1]))
    ax.legend(loc="upper left")
