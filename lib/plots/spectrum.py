"""Figure 4: the spectrum of the loss Hessian."""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd

from lib.plots.common import COLOURS, LABELS, STYLE, summary

PAIR = ("sol_f", "sol_s")


def spectrum(
    densities: pd.DataFrame, measured: pd.DataFrame, *, title: str, exact: dict | None = None
):
    """Figure 4: densities of eigenvalues above; below, what decides the claim, seed by seed.

    ``densities`` has columns solution, sparsity, seed, eigenvalue, density; ``measured`` a row per network with ``largest`` and
    ``quantile_99``. ``exact``, for one network of each solution: solution -> (grid, density by Lanczos, density of all eigenvalues).
    Lines are means over seeds, bands the range of the seeds.
    """
    grid = sorted(densities["sparsity"].unique())
    ends = list(dict.fromkeys((grid[0], grid[-1])))
    with plt.rc_context(STYLE):
        upper = len(ends) + bool(exact)
        figure = plt.figure(figsize=(11, 6.4), layout="constrained")
        above, below = figure.subfigures(2, 1, height_ratios=(1.15, 1))
        axes = above.subplots(1, upper, squeeze=False)[0]
        for letter, ax, sparsity in zip("ab", axes, ends, strict=False):
            _densities(ax, densities[np.isclose(densities["sparsity"], sparsity)])
            ax.set_title(f"({letter}) density at sparsity {sparsity:g}", loc="left")
        if exact:
            _exact(axes[-1], exact)
            axes[-1].set_title(f"({'abc'[len(ends)]}) one seed: Lanczos and the truth", loc="left")
        axes[0].set_ylabel("density of eigenvalues (log scale)")
        axes[0].legend(loc="upper right")
        pairs = below.subplots(1, 2, squeeze=False)[0]
        for number, (ax, measure, words) in enumerate(
            zip(
                pairs,
                ("largest", "quantile_99"),
                ("largest eigenvalue", "99% quantile of the spectrum"),
                strict=True,
            )
        ):
            _pairs(ax, measured, measure, grid)
            ax.set_title(f"({'abcde'[upper + number]}) {words}, a line per seed", loc="left")
        figure.suptitle(title, fontsize=10)
        plt.close(figure)
    return figure


def _densities(ax, rows):
    floor = rows["density"].max() * 1e-6
    for solution in PAIR:
        own = (
            rows[rows["solution"] == solution]
            .pivot_table(index="eigenvalue", columns="seed", values="density")
            .clip(lower=floor)
        )
        ax.plot(
            own.index,
            own.mean(axis=1),
            color=COLOURS[solution],
            linewidth=1.4,
            label=LABELS[solution],
        )
        ax.fill_between(
            own.index,
            own.min(axis=1),
            own.max(axis=1),
            color=COLOURS[solution],
            alpha=0.15,
            linewidth=0,
        )
    ax.set_yscale("log")
    ax.set_ylim(floor * 1.5, rows["density"].max() * 3)
    ax.set_xlabel("eigenvalue")


def _exact(ax, exact):
    top = max(both.max() for _, *curves in exact.values() for both in curves)
    for solution, (grid, lanczos, whole) in exact.items():
        ax.plot(
            grid, np.maximum(whole, top * 1e-6), color=COLOURS[solution], linewidth=3, alpha=0.3
        )
        ax.plot(grid, np.maximum(lanczos, top * 1e-6), "--", color=COLOURS[solution], linewidth=1.1)
    kinds = [
        ax.plot([], [], "-", color="0.3", linewidth=3, alpha=0.3)[0],
        ax.plot([], [], "--", color="0.3", linewidth=1.1)[0],
    ]
    ax.legend(kinds, ["all eigenvalues", "Lanczos"], loc="upper right")
    ax.set_yscale("log")
    ax.set_ylim(top * 1.5e-6, top * 3)
    ax.set_xlabel("eigenvalue")


def _pairs(ax, measured, measure, grid):
    """Sol-F and Sol-S of a seed joined by a line; means with intervals beside."""
    for place, sparsity in enumerate(grid):
        rows = measured[np.isclose(measured["sparsity"], sparsity)]
        wide = rows.pivot_table(index="seed", columns="solution", values=measure)[
            list(PAIR)
        ].dropna()
        x = np.array([place - 0.15, place + 0.15])
        ax.plot(x, wide.to_numpy().T, color="0.6", linewidth=0.8, zorder=1)
        for offset, solution in zip((-0.15, 0.15), PAIR, strict=True):
            ax.scatter(
                np.full(len(wide), place + offset),
                wide[solution],
                s=14,
                color=COLOURS[solution],
                zorder=2,
            )
            line = summary(rows[rows["solution"] == solution], "sparsity", measure)
            side = np.array([place + 1.7 * offset])
            ax.errorbar(
                side,
                line["mean"],
                line["half"],
                fmt="D",
                color=COLOURS[solution],
                markersize=4,
                capsize=3,
            )
    ax.set_xticks(range(len(grid)), [f"{s:g}" for s in grid])
    ax.set_xlim(-0.6, len(grid) - 0.4)
    ax.set_xlabel("sparsity (diamonds: means with 95% intervals)")
    if (measured[measure] > 0).all():
        ax.set_ylim(bottom=0)
