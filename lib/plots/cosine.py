"""Figures 8b, 8c, 9 and 10: how the gradients of single examples align with the way to Sol-F."""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.ticker import MaxNLocator
from scipy import stats

from lib.plots.common import STYLE

MANY = 20  # classes; of more, the ones with the most and the fewest examples are shown


def cosine(table: pd.DataFrame, *, title: str):
    """Density and cumulative distribution of the cosines, and the classes of the 5% highest, for each alpha of one sparsity.

    ``table`` has a row per finetuned run and ``alpha`` (``lib.metrics.alignment``). A thin line per seed, a thick one for the mean
    of their quantiles; class counts as multiples of the uniform share, with 95% intervals over seeds.
    """
    alphas = sorted(table["alpha"].unique())
    colours = dict(
        zip(alphas, plt.get_cmap("viridis")(np.linspace(0.15, 0.75, len(alphas))), strict=True)
    )
    with plt.rc_context(STYLE):
        figure = plt.figure(figsize=(11, 6.6), layout="constrained")
        above, below = figure.subfigures(2, 1)
        density, cumulative = above.subplots(1, 2)
        ends = np.array([np.asarray(q)[[1, -2]] for q in table["quantiles"]])  # the central 99%
        left, right = min(ends.min(), 0.0), max(ends.max(), 0.0)
        for alpha in alphas:
            quantiles = np.stack(
                [np.asarray(q) for q in table.loc[table["alpha"] == alpha, "quantiles"]]
            )
            levels = np.linspace(0, 1, quantiles.shape[1])
            for q in quantiles:
                cumulative.plot(q, levels, color=colours[alpha], linewidth=0.5, alpha=0.4)
                density.plot(*_density(q), color=colours[alpha], linewidth=0.5, alpha=0.4)
            middle = quantiles.mean(0)
            density.plot(*_density(middle), color=colours[alpha], linewidth=1.6)
            cumulative.plot(
                middle, levels, color=colours[alpha], linewidth=1.6, label=f"$\\alpha$ = {alpha:g}"
            )
        for ax in (density, cumulative):
            ax.axvline(0, color="0.5", linewidth=0.8, linestyle=":")
            ax.set(
                xlim=(left - 0.03 * (right - left), right + 0.03 * (right - left)),
                xlabel="cosine of an example's negative gradient with the way to Sol-F",
            )
            ax.xaxis.set_major_locator(MaxNLocator(7))
        density.set_ylim(bottom=0)
        density.set_title("(a) density of the examples", loc="left")
        cumulative.set_title("(b) share of examples below", loc="left")
        cumulative.legend(loc="upper left")
        _classes(below.subplots(1, 1), table, alphas, colours)
        figure.suptitle(title, fontsize=10)
        plt.close(figure)
    return figure


def _density(quantiles):
    """(places, density) between every tenth quantile: a histogram with bins of equal weight."""
    edges = quantiles[::10]
    widths = np.maximum(np.diff(edges), 1e-12)
    return (edges[1:] + edges[:-1]) / 2, 1 / (len(edges) - 1) / widths


def _classes(ax, table, alphas, colours):
    """Share of each class among the most aligned examples in units of the uniform share, by the first alpha's order."""
    shares = {}
    for alpha in alphas:
        counts = np.stack(
            [np.asarray(top, dtype=float) for top in table.loc[table["alpha"] == alpha, "top"]]
        )
        shares[alpha] = counts / counts.sum(1, keepdims=True) * counts.shape[1]
    order = np.argsort(-shares[alphas[0]].mean(0), kind="stable")
    if len(order) > MANY:
        order = np.concatenate([order[: MANY - 6], order[-6:]])  # as the paper's Figure 10 does
    width = 0.8 / len(alphas)
    for number, alpha in enumerate(alphas):
        chosen = shares[alpha][:, order]
        seeds = len(chosen)
        half = (
            stats.t.ppf(0.975, seeds - 1) * chosen.std(0, ddof=1) / np.sqrt(seeds)
            if seeds > 1
            else np.zeros(len(order))
        )
        places = np.arange(len(order)) + (number - (len(alphas) - 1) / 2) * width
        ax.bar(
            places,
            chosen.mean(0),
            width,
            yerr=half,
            color=colours[alpha],
            error_kw={"elinewidth": 0.8},
            label=f"$\\alpha$ = {alpha:g}",
        )
    ax.axhline(1, color="0.3", linewidth=0.8)
    ax.axhline(3, color="0.3", linewidth=0.8, linestyle="--")
    ax.text(len(order) - 0.45, 1, "uniform", va="bottom", ha="right", fontsize=7)
    ax.text(len(order) - 0.45, 3, "3 times uniform", va="bottom", ha="right", fontsize=7)
    ax.set_xticks(range(len(order)), [f"{c}" for c in order])
    ax.set(xlabel="class", ylabel="share / uniform share", xlim=(-0.6, len(order) - 0.4))
    ax.set_ylim(bottom=0)
    ax.set_title("(c) classes of the 5% of the examples with the highest cosine", loc="left")
    ax.legend(loc="upper right", ncols=len(alphas), bbox_to_anchor=(1, 1.16))
