"""Figure 6: label noise by epoch; and one measure by epoch from any table of runs."""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd

from lib.plots.common import COLOURS, LABELS, STYLE, line, summary


def noise(table: pd.DataFrame, *, title: str):
    """Figure 6: loss and accuracy under label noise by epoch, and what becomes of the mislabelled examples.

    ``table`` has a row per run and measured epoch (``carry_out``), of runs with label noise. Bands as in Figure 1.
    """
    panels = [
        ("(a) training accuracy, given labels", [("train_accuracy", "-")]),
        ("(b) test accuracy, clean labels", [("test_accuracy", "-")]),
        ("(c) accuracy on the clean part", [("clean_accuracy", "-")]),
        ("(d) training loss, given labels (nats)", [("train_loss", "-")]),
        ("(e) test loss, clean labels (nats)", [("test_loss", "-")]),
        ("(f) the mislabelled part", [("flipped_correct", "-"), ("flipped_memorised", "--")]),
    ]
    with plt.rc_context(STYLE):
        figure, axes = plt.subplots(2, 3, figsize=(11, 6.2), layout="constrained", sharex=True)
        for ax, (name, measures) in zip(axes.flat, panels, strict=True):
            for measure, style in measures:
                for solution in ("sol_d", "sol_f", "sol_s"):
                    rows = summary(table[table["solution"] == solution], "epoch", measure)
                    label = LABELS[solution] if style == "-" else None
                    line(ax, rows.index, rows, COLOURS[solution], label, style, marker=None)
            ax.set_title(name, loc="left")
        for ax in axes[1]:
            ax.set_xlabel("epoch")
        axes[0, 0].legend(loc="lower right")
        kinds = [
            axes[1, 2].plot([], [], style, color="0.3", linewidth=1.2)[0] for style in ("-", "--")
        ]
        axes[1, 2].legend(
            kinds, ["correct (true label)", "memorised (given label)"], loc="upper right", ncols=2
        )
        axes[1, 2].set_ylim(top=1.2)  # room for the legend above the curves
        figure.suptitle(title, fontsize=10)
        plt.close(figure)
    return figure


def curves(table: pd.DataFrame, measure: str, sparsity: float):
    """One measure by epoch for the three solutions at one sparsity: a closer look at a finished table."""
    with plt.rc_context(STYLE):
        figure, ax = plt.subplots(figsize=(6, 3.2), layout="constrained")
        for solution in ("sol_d", "sol_f", "sol_s"):
            rows = table[
                (table["solution"] == solution)
                & ((solution == "sol_d") | np.isclose(table["sparsity"], sparsity))
            ]
            rows = summary(rows, "epoch", measure)
            line(ax, rows.index, rows, COLOURS[solution], LABELS[solution])
        ax.set(xlabel="epoch", ylabel=measure.replace("_", " "), title=f"sparsity {sparsity:g}")
        ax.legend()
        plt.close(figure)
    return figure
