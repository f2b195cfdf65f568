"""Figure 3: the Fisher trace over training, on both sides of the border of the regimes."""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd

from lib.plots.common import COLOURS, LABELS, STYLE, summary


def dynamics(table: pd.DataFrame, regimes: dict[str, list[float]], *, title: str, paper: dict | None = None):
    """Figure 3: Tr(F) by epoch, a panel for each regime, Sol-F solid and Sol-S dashed, a colour for each sparsity.

    ``table`` has a row per run and epoch with ``fisher``; ``regimes`` the sparsities of each (``claims.dynamics.regimes``);
    ``paper`` the curves of the ledger, sparsity -> {"epoch": [...], "fisher": [...]}, of Sol-S. Geometric means over seeds with 95%
    intervals. The axis of epochs is in square roots: the early course and the late level are both seen.
    """
    panels = [(name, grid) for name, grid in regimes.items() if grid]
    count = len(panels) + bool(paper)
    everything = sorted(s for grid in regimes.values() for s in grid)
    shades = dict(zip(everything, plt.colormaps["viridis"](np.linspace(0.05, 0.85, len(everything))), strict=True))
    with plt.rc_context(STYLE):
        figure, axes = plt.subplots(1, count, figsize=(4.2 * count + 0.6, 4.4), squeeze=False, layout="constrained", sharey=True)
        for ax, (name, grid) in zip(axes[0], panels, strict=False):
            _curve(ax, table[table["solution"] == "sol_d"], COLOURS["sol_d"], "-", "Sol-D (dense)")
            for s in grid:
                for solution, style, kind in (("sol_f", "-", "Sol-F"), ("sol_s", "--", "Sol-S")):
                    rows = table[(table["solution"] == solution) & np.isclose(table["sparsity"], s)]
                    _curve(ax, rows, shades[s], style, f"{kind}, {s:g}")
            ax.set_title(f"{name} regime", loc="left")
        if paper:
            ax = axes[0, -1]
            for s, curve in paper.items():
                colour = COLOURS["sol_d"] if s == 0 else shades.get(s, "0.7")
                label = f"Sol-S, {s:g}" if s else "Sol-D (dense)"
                ax.plot(curve["epoch"], curve["fisher"], "--", color=colour, linewidth=1.3, marker="s", markersize=2.5, label=label)
            ax.set_title("paper: scratch (read off its plot)", loc="left")
        for ax in axes[0]:
            ax.set_yscale("log")
            ax.set_xscale("function", functions=(lambda t: np.sqrt(np.clip(t, 0, None)), np.square))
            ax.set_xlim(left=0)
            last = max(line.get_xdata()[-1] for line in ax.lines)
            ax.set_xticks([round(share * last) for share in (0, 0.025, 0.125, 0.25, 0.5, 1)])
            ax.set_xlabel("epoch (axis in square roots)")
            ax.legend(ncols=2, fontsize=7, loc="upper center", bbox_to_anchor=(0.5, -0.18))
        axes[0, 0].set_ylabel("Tr(F)")
        figure.suptitle(title, fontsize=10)
        plt.close(figure)
    return figure


def _curve(ax, rows, colour, style, label):
    rows = rows.assign(log=np.log(rows["fisher"].clip(lower=1e-12)))
    means = summary(rows, "epoch", "log")
    ax.plot(means.index, np.exp(means["mean"]), style, color=colour, linewidth=1.4, label=label)
    ax.fill_between(
        means.index, np.exp(means["mean"] - means["half"]), np.exp(means["mean"] + means["half"]), color=colour, alpha=0.12, linewidth=0
    )


def seeds(table: pd.DataFrame, measure: str, sparsity: float, *, label: str):
    """One measure by epoch, a line for each seed: Sol-F and Sol-S at one sparsity, and Sol-D."""
    with plt.rc_context(STYLE):
        figure, ax = plt.subplots(figsize=(6, 3.2), layout="constrained")
        for solution in ("sol_d", "sol_f", "sol_s"):
            rows = table[(table["solution"] == solution) & ((solution == "sol_d") | np.isclose(table["sparsity"], sparsity))]
            for number, (_, group) in enumerate(rows.groupby("seed")):
                group = group.sort_values("epoch")
                ax.plot(group["epoch"], group[measure], color=COLOURS[solution], alpha=0.7, label=None if number else LABELS[solution])
        ax.set(xlabel="epoch", ylabel=label, yscale="log", title=f"sparsity {sparsity:g}")
        ax.legend()
        plt.close(figure)
    return figure
