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

    Blue: test accuracy at the end of training by moment of pruning, in percent of training (in
    square roots, for much happens at the start), mean and 95% interval over seeds; dashed: that of
    the dense network. On the right axis, dash-dotted, the dense network's ``signal`` at every look.
    Triangles are each seed's best epoch; ``band`` is the paper's best
    period in percent of training. The last point, pruned when training is over, is open, or told in
    words where it lies far below.
    """
    shape: dict[str, Any] = {
        "columns": 2 if len(panels) == 4 else 3,
        "size": (5.8, 3.4) if len(panels) == 1 else (3.9, 3.0),
        "legend": 2 if len(panels) < 3 else 3,
        "xlabel": "pruned after, % of training",
        "ylabel": "test accuracy after training, %",
    }
    with figures.panels(*panels, title=title, **shape) as axes:
        for ax, panel in zip(axes, panels.values(), strict=True):
            if band:
                ax.axvspan(*band, color="black", alpha=0.07, lw=0, label="paper's best period")
            _accuracies(ax, panel)
            _monitor(ax, panel, signal, last=ax is axes[-1])
            figures.root_axis(ax, 100)
    return axes[0].figure


def _monitor(ax, panel, signal, last):
    """The dense network's monitor on a second axis, behind the first and in its own colour."""
    short, words, colour = MONITORS[signal]
    twin = ax.twinx()
    figures.band(twin, _shares(panel, panel.signal(signal)), "at", "value", colour, style="-.")
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


def _shares(panel, course):
    """A course in rows: ``at``, in percent of training, and ``value``."""
    return course.set_axis(100 * course.columns / panel.epochs, axis=1).melt(var_name="at")


def _accuracies(ax, panel):
    """Accuracy by epoch of pruning, the dense level, and each seed's best epoch."""
    long = _shares(panel, panel.competing)
    found = figures.band(ax, long, "at", "value", PRUNED, "pruned on the way", "o-", clip_on=False)
    dense, last = panel.dense.mean(), panel.accuracy.columns[-1]
    low, high = min(found["low"].min(), dense), max(found["high"].max(), dense)
    unit = high - low
    ax.set_ylim(low - 0.14 * unit, high + 0.06 * unit)
    if last == panel.epochs:
        end = panel.accuracy[last].mean()
        if end > low:
            ax.plot(100, end, "o", markerfacecolor="white", color=PRUNED, markersize=4)
        else:
            words = f"at the end: {end:.0f} ↓"
            ax.text(100, low - 0.12 * unit, words, color=PRUNED, fontsize=7, ha="right")
    ax.axhline(dense, color=BASELINE, linestyle="--", linewidth=1.2, label="dense")
    best = pd.Series(sorted(panel.best))
    heights = low - (0.10 - 0.025 * best.groupby(best).cumcount()) * unit  # equal ones are piled up
    ax.plot(best, heights, "^", color="black", markersize=4, label="each seed's best epoch")
