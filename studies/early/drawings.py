"""The drawing of the early-pruning study: accuracy by pruning epoch, with a monitor beside it."""

from collections.abc import Mapping
from typing import Any

import pandas as pd
from matplotlib.figure import FigureBase

from studies import figures

PRUNED, BASELINE = "#0072b2", "#4d4d4d"
MONITORS = {  # what the second axis and the legend say of each, and its colour
    "fisher": ("Tr(F)", "Tr(F)", "#d55e00"),
    "kl_uniform": ("KL, nats", "KL(uniform || p)", "#cc79a7"),
}


def periods(
    panels: Mapping[str, Any],
    *,
    title: str,
    signal: str = "fisher",
    band: tuple[float, float] | None = None,
) -> FigureBase:
    """A panel for each of ``panels`` (name -> accuracies of one variant), in the study's form.

    Blue: test accuracy at the end of training by epoch of pruning, mean and 95% interval over
    seeds; dashed: that of the dense network. On the right axis, dash-dotted, the dense network's
    ``signal`` after every epoch. Triangles are each seed's best epoch; ``band`` is the paper's best
    period in percent of training. The last point, pruned when training is over, is open, or told in
    words where it lies far below.
    """
    alone = len(panels) == 1
    shape: dict[str, Any] = {
        "columns": 2 if len(panels) == 4 else 3,
        "size": (5.8, 3.4) if alone else (3.9, 3.0),
        "legend": 2 if len(panels) < 3 else 3,
        "xlabel": "pruned after epoch",
        "ylabel": "test accuracy after training, %",
    }
    with figures.panels(*panels, title=title, **shape) as axes:
        for ax, panel in zip(axes, panels.values(), strict=True):
            if band:
                start, end = (share * panel.epochs / 100 for share in band)
                words = "paper's best period"
                ax.axvspan(start, end, color="black", alpha=0.07, linewidth=0, label=words)
            _accuracies(ax, panel)
            _monitor(ax, panel, signal, last=ax is axes[-1])
    return axes[0].figure


def _monitor(ax, panel, signal, last):
    """The dense network's monitor on a second axis, behind the first and in its own colour."""
    short, words, colour = MONITORS[signal]
    twin = ax.twinx()
    figures.band(
        twin, panel.signal(signal).melt(var_name="epoch"), "epoch", "value", colour, style="-."
    )
    twin.set_ylim(bottom=0)
    twin.tick_params(axis="y", colors=colour, labelsize=7)
    twin.grid(False)
    twin.spines["right"].set(visible=True, color=colour)
    ax.set_zorder(twin.get_zorder() + 1)
    ax.patch.set_visible(False)
    if last or ax.get_subplotspec().is_last_col():
        twin.set_ylabel(short, color=colour)
    if last:
        twin.plot([], [], "-.", color=colour, label=f"{words} of the dense network (right axis)")


def _accuracies(ax, panel):
    """Accuracy by epoch of pruning, the dense level, and each seed's best epoch."""
    long = panel.competing.melt(var_name="epoch", value_name="accuracy")
    found = figures.band(ax, long, "epoch", "accuracy", PRUNED, "pruned on the way", "o-")
    dense, last = panel.dense.mean(), panel.accuracy.columns[-1]
    low, high = min(found["low"].min(), dense), max(found["high"].max(), dense)
    unit = high - low
    ax.set(
        xlim=(-0.03 * panel.epochs, 1.03 * panel.epochs),
        ylim=(low - 0.14 * unit, high + 0.06 * unit),
    )
    if last == panel.epochs:
        end = panel.accuracy[last].mean()
        if end > low:
            ax.plot(last, end, "o", markerfacecolor="white", color=PRUNED, markersize=4)
        else:
            words = f"at the end: {end:.0f} ↓"
            ax.text(last, low - 0.12 * unit, words, color=PRUNED, fontsize=7, ha="right")
    ax.axhline(dense, color=BASELINE, linestyle="--", linewidth=1.2, label="dense")
    best = pd.Series(sorted(panel.best * panel.epochs / 100))
    heights = low - (0.10 - 0.025 * best.groupby(best).cumcount()) * unit  # equal ones are piled up
    ax.plot(best, heights, "^", color="black", markersize=4, label="each seed's best epoch")
