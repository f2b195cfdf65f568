"""The few primitives of every drawing: panels, bands and lines over seeds, the paper's own, axes.

A drawing takes finished tables. It stands in its notebook, where a reader can change it, and only
where it is too long for that in ``studies/<study>/drawings.py``. Whatever is drawn says with
``label=`` what it is, and ``panels`` gathers the labels in one legend.
"""

import io
import textwrap
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter
from numpy.typing import ArrayLike
from PIL import Image
from scipy.special import stdtrit

COLOURS = {"sol_d": "#4d4d4d", "sol_f": "#0072b2", "sol_s": "#d55e00"}
MARKERS = {"sol_d": "D", "sol_f": "o", "sol_s": "^"}  # so that colour is never the only sign
HATCHES = ("", "////", "....")  # of the bars of one axis, for the same reason
LABELS = {"sol_d": "Sol-D (dense)", "sol_f": "Sol-F (finetuned)", "sol_s": "Sol-S (scratch)"}
STYLE: dict[Any, Any] = {
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.titlelocation": "left",
    "axes.titlesize": 9.5,
    "figure.titlesize": 10,
    "grid.alpha": 0.25,
    "legend.frameon": False,
    "legend.fontsize": 8,
    "figure.dpi": 110,
}
Band = Callable[
    [Any], tuple[pd.Series, pd.Series, pd.Series]
]  # values grouped -> middle, low, high


class Picture(Figure):
    """A figure that a notebook shows, and keeps, as the file that ``png`` makes of it."""

    def _ipython_display_(self) -> None:
        from IPython.display import Image, display

        display(Image(png(self)))


@contextmanager
def panels(
    *titles: str,
    title: str = "",
    columns: int = 3,
    size: tuple[float, float] = (3.7, 3.1),
    xlabel: str = "",
    ylabel: str | Sequence[str] = "",
    legend: int = 0,
    **shape: Any,
) -> Iterator[list[Axes]]:
    """Axes in rows of ``columns``, one for each of ``titles``, in the project's style.

    ``xlabel`` stands under the lowest panel of each column, ``ylabel`` beside the first of each row
    (a list has one for each row). ``legend``: in how many columns all labels of all panels are told
    below the figure; 0 for no legend. ``size`` is one panel's in inches, and ``shape`` goes to
    ``plt.subplots`` (``sharex``, ``sharey``). The figure is ``axes[0].figure``.

    >>> with panels("accuracy", "loss", title="two measures", legend=1) as (left, right):
    ...     _ = left.plot([0, 1], [0.1, 0.9], label="one seed")
    >>> left.figure.get_suptitle(), right.get_title(loc="left")
    ('two measures', 'loss')
    """
    columns = min(columns, len(titles))
    rows = -(-len(titles) // columns)
    title = textwrap.fill(title, int(12 * (size[0] * columns + 0.3)))
    margin = 0.2 * len(title.splitlines()) + 0.15 * bool(title) + 0.45 * bool(legend)
    with plt.rc_context(STYLE):
        figure, grid = plt.subplots(
            rows,
            columns,
            figsize=(size[0] * columns + 0.3, size[1] * rows + margin),
            squeeze=False,
            layout="constrained",
            FigureClass=Picture,
            **shape,
        )
        plt.close(
            figure
        )  # pyplot forgets it, so that a notebook shows it once; it can still be drawn
        for number, ax in enumerate(grid.flat):
            if number >= len(titles):
                ax.axis("off")
                continue
            ax.set_title(titles[number])
            if number % columns == 0:
                ax.set_ylabel(ylabel if isinstance(ylabel, str) else ylabel[number // columns])
            if number + columns >= len(titles):
                ax.set_xlabel(xlabel)
                ax.tick_params(labelbottom=True)
        figure.suptitle(title)
        yield list(grid.flat[: len(titles)])
        if legend:
            told: dict[str, Any] = {}
            for ax in figure.axes:
                for handle, label in zip(*ax.get_legend_handles_labels(), strict=True):
                    told.setdefault(label, handle)
            figure.legend(told.values(), told.keys(), loc="outside lower center", ncols=legend)


def interval(groups):
    """Mean and 95% t interval; of a single value, the value alone."""
    mean, count = groups.mean(), groups.count()
    t = stdtrit((count - 1).clip(lower=1), 0.975)
    half = (t * groups.std() / np.sqrt(count)).fillna(0.0)
    return mean, mean - half, mean + half


def quartiles(groups):
    """Median, first and third quartile."""
    return groups.median(), groups.quantile(0.25), groups.quantile(0.75)


def extremes(groups):
    """Mean, lowest and highest value."""
    return groups.mean(), groups.min(), groups.max()


def summary(
    rows: pd.DataFrame, by: str, measure: str, of: Band = interval, log: bool = False
) -> pd.DataFrame:
    """``middle``, ``low`` and ``high`` of a measure over seeds, by the column ``by``.

    With ``log`` those of the logarithms, taken back: geometric means, for logarithmic axes.
    """
    values = np.log(rows[measure].where(rows[measure] > 0)) if log else rows[measure]
    groups = rows[[by]].assign(_shown=values).groupby(by)["_shown"]
    found = pd.concat(of(groups), axis=1, keys=["middle", "low", "high"])
    return found.transform(np.exp) if log else found


def band(
    ax: Axes,
    rows: pd.DataFrame,
    by: str,
    measure: str,
    colour: str,
    label: str | None = None,
    style: str = "-",
    *,
    of: Band = interval,
    log: bool = False,
    fill: float = 0.18,
    **line: Any,
) -> pd.DataFrame:
    """A mean with its 95% band over seeds along ``by``, or what ``of`` says; returns them."""
    found = summary(rows, by, measure, of, log)
    if len(found):
        line = {"linewidth": 1.4, "markersize": 3, **line}
        ax.plot(found.index, found["middle"], style, color=colour, label=label, **line)
    if fill:
        ax.fill_between(
            found.index, found["low"], found["high"], color=colour, alpha=fill, linewidth=0
        )
    return found


def seeds(
    ax: Axes,
    rows: pd.DataFrame,
    by: str,
    measure: str,
    colour: str,
    label: str | None = None,
    **line,
) -> pd.DataFrame:
    """A thin line for each seed along ``by``; returns the values, a column for each seed."""
    wide = rows.pivot_table(index=by, columns="seed", values=measure)
    lines = ax.plot(wide.index, wide, color=colour, **{"linewidth": 1.0, "alpha": 0.7, **line})
    for first in lines[:1]:
        first.set_label(label)
    return wide


def density(
    ax: Axes,
    rows: pd.DataFrame,
    colour: str,
    label: str | None = None,
    *,
    highest: float,
    fill: float = 0.15,
    **line: Any,
) -> None:
    """Mean ``density`` over seeds by ``eigenvalue``, and its range; logarithmic to ``highest``."""
    shown = rows.assign(density=rows["density"].clip(lower=1e-6 * highest))
    band(ax, shown, "eigenvalue", "density", colour, label, of=extremes, fill=fill, **line)
    ax.set(yscale="log", ylim=(1.5e-6 * highest, 2 * highest), xlabel="eigenvalue")


def dots(ax: Axes, values: ArrayLike, place: float, colour: str, marker: str = "o") -> None:
    """Every seed a dot on the line of height ``place``, their mean a bar across it."""
    values = np.asarray(values, dtype=float)
    ax.plot(
        values, np.full(len(values), place), marker, color=colour, alpha=0.5,
        markersize=8 if marker == "*" else 5, markeredgewidth=0,
    )  # fmt: skip
    ax.plot([values.mean()] * 2, [place - 0.25, place + 0.25], color=colour, linewidth=2)


def bars(
    ax: Axes, values: ArrayLike, colour: str, label: str, *, width: float, shift: float = 0.0
) -> None:
    """A bar for each column of ``values`` [seeds, columns]: means with 95% intervals. The series of
    one axis are told apart by their hatches too."""
    found = summary(pd.DataFrame(np.asarray(values, dtype=float)).melt(), "variable", "value")
    at = np.arange(len(found)) + shift
    hatch = HATCHES[len(ax.containers) // 2 % len(HATCHES)]  # a series: bars, and their intervals
    ax.bar(at, found["middle"], width, color=colour, label=label, hatch=hatch, edgecolor="white")
    ax.errorbar(
        at, found["middle"], found["high"] - found["middle"], fmt="none", ecolor="0.3",
        elinewidth=0.8,
    )  # fmt: skip


def paper(
    ax: Axes, x: ArrayLike, y: ArrayLike, colour: str = "black", style: str = "-", **line: Any
) -> None:
    """The paper's own numbers: open squares, or the ``marker`` of a solution, joined but for
    ``style=""``; ``xerr`` is their spread."""
    line = {
        "marker": "s", "markersize": 4, "markerfacecolor": "white", "linewidth": 1.2,
        "elinewidth": 0.8, **line,
    }  # fmt: skip
    ax.errorbar(x, y, color=colour, linestyle=style, **line)


def sparsity_axis(ax: Axes, sparsities: Sequence[float]) -> None:
    """An axis logarithmic in density: each halving of the live weights is one step."""
    ax.set_xscale("function", functions=(place, lambda at: 1 - 2.0 ** -np.asarray(at)))
    ax.autoscale_view(scaley=False)  # margins that were computed before are of another scale
    steep = 60 if len(sparsities) > 5 else 0
    ax.set_xticks(sparsities, [f"{s:g}" for s in sparsities], rotation=steep)
    ax.set_xlabel("sparsity (log scale of density)")


def place(sparsity: ArrayLike) -> np.ndarray:
    """Where a sparsity stands on its axis: how often the live weights were halved.

    >>> place([0.0, 0.5, 0.75]).tolist()
    [0.0, 1.0, 2.0]
    """
    return 0.0 - np.log2(np.clip(1 - np.asarray(sparsity, dtype=float), 1e-12, None))


def root_axis(
    ax: Axes, last: float, shares: Sequence[float] = (0.04, 0.12, 0.25, 0.5, 0.75)
) -> None:
    """An axis of epochs or steps up to ``last`` in square roots: both start and end are seen."""
    ax.set_xscale("function", functions=(lambda t: np.sqrt(np.clip(t, 0, None)), np.square))
    ax.set_xlim(0, last)
    digits = 1 - len(str(int(last // 40)))
    ax.set_xticks(sorted({0, *(int(round(share * last, digits)) for share in shares), int(last)}))


def plain(axis: Axis) -> None:
    """Numbers without powers of ten on a logarithmic axis, at 1, 2 and 5 of each decade."""
    axis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.set_minor_formatter(NullFormatter())


def png(figure: Figure) -> bytes:
    """The figure as a PNG with a palette of 256 colours: a third as large, and plots have few.

    The palette is that of the least largest error, so that a few faint marks keep their colour,
    moved to the means of what it stands for, so that bands do.
    """
    drawn, small = io.BytesIO(), io.BytesIO()
    figure.savefig(drawn, format="png", bbox_inches="tight")
    image = Image.open(drawn).convert("RGB")
    image.quantize(256, Image.Quantize.MAXCOVERAGE, kmeans=1, dither=Image.Dither.NONE).save(
        small, "PNG", optimize=True
    )
    return small.getvalue()
