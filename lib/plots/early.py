"""The early-pruning study's figures: accuracy against the pruning epoch with a signal on a second axis; schedules; the online rule."""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd

from lib.plots.common import STYLE, line, summary

PRUNED, BASELINE = "#0072b2", "#4d4d4d"
SIGNALS = {
    "fisher": ("Tr(F) of the dense network", "#d55e00"),
    "kl_uniform": ("KL(uniform || p) of the dense network, nats", "#b8860b"),
}


def periods(
    panels: dict, *, title: str, signal: str = "fisher", band: tuple[float, float] | None = None
):
    """A panel for each of ``panels`` (title -> ``claims.early.Panel``), in the study's form.

    Blue: test accuracy at the end of training against the epoch of pruning, mean and 95% interval over seeds. On the right axis the
    dense network's ``signal`` after every epoch. Dashed: the dense network's accuracy. The small triangles are each seed's best pruning
    epoch; ``band`` is the paper's best period in percent of training. The last point, pruned when training is over, is open, or told
    in words where it lies far below.
    """
    columns = 2 if len(panels) == 4 else min(3, len(panels))
    rows = -(-len(panels) // columns)
    with plt.rc_context(STYLE):
        figure, axes = plt.subplots(
            rows,
            columns,
            figsize=(3.9 * columns + 0.6, 3.0 * rows + 0.8),
            squeeze=False,
            layout="constrained",
        )
        for ax in axes.flat[len(panels) :]:
            ax.axis("off")
        for number, (ax, (name, panel)) in enumerate(zip(axes.flat, panels.items(), strict=False)):
            _period(
                ax,
                panel,
                signal,
                band,
                right=number % columns == columns - 1 or number == len(panels) - 1,
            )
            ax.set_title(name, loc="left", fontsize=9)
            ax.set_xlabel("pruned after epoch")
            if number % columns == 0:
                ax.set_ylabel("test accuracy after training, %")
        lines, labels = axes[0, 0].get_legend_handles_labels()
        label, colour = SIGNALS[signal]
        lines.append(plt.Line2D([], [], color=colour, linewidth=1.4))
        figure.legend(
            lines, [*labels, label + " (right axis)"], loc="outside lower center", ncols=3
        )
        figure.suptitle(title, fontsize=10)
        plt.close(figure)
    return figure


def _period(ax, panel, signal, band, right):
    long = panel.competing.melt(ignore_index=False, var_name="epoch", value_name="accuracy")
    means = summary(long, "epoch", "accuracy")
    colour = SIGNALS[signal][1]
    twin = ax.twinx()
    course = panel.signal(signal).melt(ignore_index=False, var_name="epoch", value_name=signal)
    drawn = summary(course, "epoch", signal)
    line(twin, drawn.index, drawn, colour, marker=None)
    twin.set_ylim(bottom=0)
    twin.tick_params(axis="y", colors=colour, labelsize=7)
    twin.grid(False)
    twin.spines["right"].set_visible(True)
    twin.spines["right"].set_color(colour)
    if right:
        twin.set_ylabel({"fisher": "Tr(F)", "kl_uniform": "KL, nats"}[signal], color=colour)
    if band:
        ax.axvspan(
            *(share * panel.epochs / 100 for share in band),
            color="black",
            alpha=0.07,
            linewidth=0,
            label="paper's best period",
        )
    ax.set_zorder(twin.get_zorder() + 1)
    ax.patch.set_visible(False)
    line(ax, means.index, means, PRUNED, "pruned on the way")
    last = panel.accuracy.columns[-1]
    low = min((means["mean"] - means["half"]).min(), panel.dense.mean())
    high = max((means["mean"] + means["half"]).max(), panel.dense.mean())
    ax.set_ylim(low - 0.14 * (high - low), high + 0.06 * (high - low))
    ax.set_xlim(-0.03 * panel.epochs, 1.03 * panel.epochs)
    if last == panel.epochs:
        end = panel.accuracy[last].mean()
        if end > low:
            ax.plot(last, end, "o", markerfacecolor="white", color=PRUNED, markersize=4)
        else:
            ax.text(
                last,
                low - 0.12 * (high - low),
                f"at the end: {end:.0f} ↓",
                color=PRUNED,
                fontsize=7,
                ha="right",
            )
    ax.axhline(panel.dense.mean(), color=BASELINE, linestyle="--", linewidth=1.2, label="dense")
    places = np.sort(panel.best * panel.epochs / 100)
    repeats = pd.Series(places).groupby(places).cumcount()
    ax.plot(
        places,
        low - (0.10 - 0.025 * repeats) * (high - low),
        "^",
        color="black",
        markersize=4,
        label="each seed's best epoch",
    )


def schedules(rates: pd.DataFrame, *, title: str):
    """Figure 7: the learning rate after each epoch, a line for each schedule; ``rates`` has epochs as index."""
    with plt.rc_context(STYLE):
        figure, ax = plt.subplots(figsize=(5, 2.8), layout="constrained")
        for name, style in zip(rates.columns, ("-", "--", ":", "-."), strict=False):
            ax.plot(rates.index, rates[name], style, color="black", label=name)
        ax.set(xlabel="epoch", ylabel="learning rate", title=title)
        ax.legend()
        plt.close(figure)
    return figure


def policies(table: pd.DataFrame, dense: float, *, title: str):
    """Accuracy against training cost for each way to choose the pruning epoch, mean and 95% interval over seeds.

    ``table`` has a row per seed and ``policy`` with ``accuracy`` in points and ``cost``, the FLOPs as a share of dense training;
    ``dense`` is the dense accuracy in points.
    """
    with plt.rc_context(STYLE):
        figure, ax = plt.subplots(figsize=(6.4, 3.6), layout="constrained")
        names = list(dict.fromkeys(table["policy"]))
        accuracy, cost = (
            summary(table, "policy", name).loc[names] for name in ("accuracy", "cost")
        )
        colours = plt.get_cmap("tab10")
        for number, name in enumerate(names):
            a, c = accuracy.loc[name], cost.loc[name]
            ax.errorbar(
                c["mean"],
                a["mean"],
                xerr=c["half"],
                yerr=a["half"],
                fmt="o",
                color=colours(number),
                label=name,
                capsize=2,
                markersize=5,
            )
        ax.axhline(dense, color=BASELINE, linestyle="--", linewidth=1.2, label="dense (cost 1)")
        ax.set(
            xlabel="training FLOPs / dense training FLOPs, watching included",
            ylabel="test accuracy, %",
            title=title,
        )
        ax.legend(loc="center left", bbox_to_anchor=(1.01, 0.5))
        plt.close(figure)
    return figure
