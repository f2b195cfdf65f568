"""Figure 3: the Fisher trace over training, on both sides of the border of the regimes; and one measure seed by seed."""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd

from lib.plots.common import COLOURS, LABELS, STYLE


def dynamics(
    table: pd.DataFrame, regimes: dict[str, list[float]], *, title: str, paper: dict | None = None
):
    """Figure 3: Tr(F) by epoch, a panel for each sparsity: Sol-F, Sol-S and Sol-D, a thin line for each seed, the median thick.

    ``table`` has a row per run and epoch with ``fisher``; ``regimes`` the sparsities of each (``claims.dynamics.regimes``);
    ``paper`` the curves of the ledger, sparsity -> {"epoch": [...], "fisher": [...]}, of Sol-S; they are drawn only if the runs
    are as long as the paper's. The axis of epochs is in square roots: the early course and the late level are both seen.
    """
    grid = sorted((s, name) for name, sparsities in regimes.items() for s in sparsities)
    columns = min(3, len(grid))
    rows = -(-len(grid) // columns)
    last = table["epoch"].max()
    with plt.rc_context(STYLE):
        shape = {"squeeze": False, "layout": "constrained", "sharex": True, "sharey": True}
        figure, axes = plt.subplots(
            rows, columns, figsize=(3.8 * columns + 0.4, 2.9 * rows + 0.7), **shape
        )
        for ax in axes.flat[len(grid) :]:
            ax.axis("off")
        for ax, (s, regime) in zip(axes.flat, grid, strict=False):
            for solution in ("sol_d", "sol_f", "sol_s"):
                _course(
                    ax,
                    table[
                        (table["solution"] == solution)
                        & ((solution == "sol_d") | np.isclose(table["sparsity"], s))
                    ],
                    solution,
                )
            curve = (paper or {}).get(s)
            if curve and last >= max(curve["epoch"]):
                ax.plot(
                    curve["epoch"],
                    curve["fisher"],
                    "s",
                    color="black",
                    markersize=3,
                    label="paper's Sol-S (read off its plot)",
                )
            ax.set_title(f"sparsity {s:g}: {regime} regime", loc="left", fontsize=9)
            ax.set_yscale("log")
            ax.set_xscale("function", functions=(lambda t: np.sqrt(np.clip(t, 0, None)), np.square))
            ax.set_xlim(left=0)
            ax.set_xticks([round(share * last) for share in (0, 0.025, 0.125, 0.25, 0.5, 1)])
        for ax in axes[-1]:
            ax.set_xlabel("epoch (axis in square roots)")
        for ax in axes[:, 0]:
            ax.set_ylabel("Tr(F)")
        lines, labels = axes[0, 0].get_legend_handles_labels()
        figure.legend(lines, labels, loc="outside lower center", ncols=4)
        figure.suptitle(title, fontsize=10)
        plt.close(figure)
    return figure


def _course(ax, rows, solution):
    wide = rows.pivot_table(index="epoch", columns="seed", values="fisher").clip(lower=1e-4)
    ax.plot(wide.index, wide, color=COLOURS[solution], alpha=0.35, linewidth=0.7)
    ax.plot(
        wide.index,
        wide.median(axis=1),
        color=COLOURS[solution],
        linewidth=1.8,
        label=LABELS[solution],
    )


def seeds(table: pd.DataFrame, measure: str, sparsity: float, *, label: str):
    """One measure by epoch, a line for each seed: Sol-F and Sol-S at one sparsity, and Sol-D."""
    with plt.rc_context(STYLE):
        figure, ax = plt.subplots(figsize=(6, 3.2), layout="constrained")
        for solution in ("sol_d", "sol_f", "sol_s"):
            rows = table[
                (table["solution"] == solution)
                & ((solution == "sol_d") | np.isclose(table["sparsity"], sparsity))
            ]
            for number, (_, group) in enumerate(rows.groupby("seed")):
                group = group.sort_values("epoch")
                ax.plot(
                    group["epoch"],
                    group[measure],
                    color=COLOURS[solution],
                    alpha=0.7,
                    label=None if number else LABELS[solution],
                )
        ax.set(xlabel="epoch", ylabel=label, yscale="log", title=f"sparsity {sparsity:g}")
        ax.legend()
        plt.close(figure)
    return figure
