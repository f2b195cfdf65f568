"""The gradient-flow study's Tables 1 and 5 as a picture: test accuracy of every method and initialisation, ours beside the printed."""

import matplotlib.pyplot as plt
import numpy as np

from lib.plots.common import STYLE

COLOURS = {"": "#4d4d4d", "masked": "#d55e00", "layer": "#009e73", "neuron": "#0072b2"}
FORM_NAMES = {
    "": "",
    "masked": "original (masked dense)",
    "layer": "Liu et al. (per layer)",
    "neuron": "the study's (per neuron)",
}


def methods(cells: dict, printed: dict, *, title: str):
    """A row for each of ``cells``, (method, form) -> accuracies [seeds] in percent: every seed a dot, the mean a bar.

    ``printed`` maps some of the cells to the study's (mean, standard deviation): black squares with bars of one standard deviation.
    """
    with plt.rc_context(STYLE):
        figure, ax = plt.subplots(figsize=(7.4, 0.34 * len(cells) + 1.6), layout="constrained")
        for place, ((_, form), values) in enumerate(cells.items()):
            values = np.asarray(values, dtype=float)
            ax.plot(
                values,
                np.full(len(values), place),
                "o",
                color=COLOURS[form],
                alpha=0.5,
                markersize=4,
                markeredgewidth=0,
            )
            ax.plot(
                [values.mean()] * 2, [place - 0.28, place + 0.28], color=COLOURS[form], linewidth=2
            )
        left = max(0, min(np.quantile(np.asarray(v, dtype=float), 0.2) for v in cells.values()) - 2)
        for place, (cell, values) in enumerate(cells.items()):
            outside = [
                value for value in values if value < left
            ]  # said at the edge: they would squeeze all others together
            if outside:
                label = "◂ " + ", ".join(f"{value:.1f}" for value in sorted(outside))
                ax.annotate(
                    label,
                    (left, place),
                    (3, 0),
                    textcoords="offset points",
                    va="center",
                    fontsize=7,
                    color=COLOURS[cell[1]],
                )
            if cell in printed:
                mean, spread = printed[cell]
                if mean < left:
                    label = f"◂ printed {mean:g} ± {spread:g}"
                    ax.annotate(
                        label,
                        (left, place + 0.3),
                        (3, 0),
                        textcoords="offset points",
                        va="center",
                        fontsize=7,
                    )
                else:
                    ax.errorbar(
                        mean,
                        place + 0.3,
                        xerr=spread,
                        fmt="s",
                        color="black",
                        markersize=3,
                        linewidth=0.8,
                    )
        ax.set_xlim(left, 100)
        ax.set_yticks(range(len(cells)), [method for method, _ in cells])
        ax.invert_yaxis()
        ax.set(xlabel="test accuracy, %", title=title)
        handles = [
            plt.Line2D([], [], color=COLOURS[form], marker="o", label=name)
            for form, name in FORM_NAMES.items()
            if form
        ]
        if any(cell in printed for cell in cells):
            handles.append(
                plt.Line2D(
                    [],
                    [],
                    color="black",
                    marker="s",
                    linestyle="",
                    markersize=3,
                    label="printed, with one SD",
                )
            )
        figure.legend(handles=handles, loc="outside lower center", ncols=4)
        plt.close(figure)
    return figure
