"""The drawing of the early-pruning study: accuracy by pruning epoch, with a monitor beside it."""

from collections.abc import Mapping
from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import FigureBase

from studies import figures

PRUNED, BASELINE = "#0072b2", "#4d4d4d"
MONITORS = {  # what the second axis and the legend say of each, and its colour
    "fisher": ("Tr(F)", "Tr(F)", "#d55e00"),
    "kl_uniform": ("KL, nats", "KL(uniform || p)", "#b8860b"),
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
    seeds; dashed: that of the dense network. On the right axis the dense network's ``signal`` after
    every epoch. Triangles are each seed's best epoch; ``band`` is the paper's best period in
    percent of training. The last point, pruned when training is over, is open, or told in words
    where it lies far below.
    """
    beside, words, colour = MONITORS[signal]
    many = len(panels)
    labels = {"xlabel": "pruned after epoch", "ylabel": "test accuracy after training, %"}
    shape = {"columns": 2 if many == 4 else 3, "size": (3.9, 3.0) if many > 1 else (5.8, 3.4)}
    with figures.panels(
        *panels, title=title, legend=3 if many > 1 else 2, **labels, **shape
    ) as axes:
        for ax, panel in zip(axes, panels.values(), strict=True):
            if band:
                period = [share * panel.epochs / 100 for share in band]
                ax.axvspan(
                    *period, color="black", alpha=0.07, linewidth=0, label="paper's best period"
                )
            _accuracies(ax, panel)
            course = panel.signal(signal).melt(var_name="epoch", value_name="signal")
            twin = _right_axis(ax, colour)
            figures.band(twin, course, "epoch", "signal", colour)
            twin.set_ylim(bottom=0)
            if ax.get_subplotspec().is_last_col() or ax is axes[-1]:
                twin.set_ylabel(beside, color=colour)
        twin.plot([], [], color=colour, label=f"{words} of the dense network (right axis)")
    return axes[0].figure


def _right_axis(ax: Axes, colour: str) -> Axes:
    """A second vertical axis in its own colour, behind the first."""
    twin = ax.twinx()
    twin.tick_params(axis="y", colors=colour, labelsize=7)
    twin.grid(False)
    twin.spines["right"].set(visible=True, color=colour)
    ax.set_zorder(twin.get_zorder() + 1)
    ax.patch.set_visible(False)
    return twin


def _accuracies(ax, panel):
    """Accuracy by epoch of pruning, the dense level, and each seed's best epoch."""
    long = panel.competing.melt(var_name="epoch", value_name="accuracy")
    found = figures.band(ax, long, "epoch", "accuracy", PRUNED, "pruned on the way", "o-")
    dense, last = panel.dense.mean(), panel.accuracy.columns[-1]
    low, high = min(found["low"].min(), dense), max(found["high"].max(), dense)
    unit = high - low
    ax.set_ylim(low - 0.14 * unit, high + 0.06 * unit)
    ax.set_xlim(-0.03 * panel.epochs, 1.03 * panel.epochs)
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
