"""Decision rules of the price study's Figures 8b to 10, as code: cosines of single examples' gradients with the way to Sol-F.

The table has a row per finetuned run and ``alpha`` with the numbers of ``lib.metrics.alignment``. "Early" is the
lowest alpha of the table (the paper's 0.3), "late" the highest (0.9).
"""

import numpy as np

from lib.claims import tables
from lib.claims.decisions import Effect, NotHere

DRAWS = 2000  # of pairs of histograms, for the distance that chance alone makes


def _pairs(table):
    """(label, early rows, late rows) for each sparsity, both indexed by seed."""
    alphas = sorted(table["alpha"].unique())
    if len(alphas) < 2 or alphas[0] >= 0.5 or alphas[-1] <= 0.5:
        raise NotHere("needs one of alphas below 0.5 and one above")
    for sparsity in tables.grid(table):
        rows = table[np.isclose(table["sparsity"], sparsity)]
        early, late = (
            rows[rows["alpha"] == alpha].set_index("seed").sort_index()
            for alpha in (alphas[0], alphas[-1])
        )
        label = f" at {sparsity:g}" if len(tables.grid(table)) > 1 else ""
        yield label, early, late


def price_cos_near_init_zero(table):
    effects = []
    for label, early, late in _pairs(table):
        note = f"mean {early['mean'].mean():.2g}, standard deviation {early['std'].mean():.2g}"
        effects += [
            Effect(
                f"early{label}: 0.3 - |mean| / SD",
                (0.3 - early["mean"].abs() / early["std"]).to_numpy(),
                "SD of examples",
                note=note,
            ),
            Effect(
                f"mean, late - |early|{label}",
                (late["mean"] - early["mean"].abs()).to_numpy(),
                "cosine",
            ),
        ]
    return effects


def price_cos_late_positive(table):
    effects = []
    for label, early, late in _pairs(table):
        wider = np.log(late["std"] / early["std"]).to_numpy() - np.log(2)
        effects += [
            Effect(
                f"late mean{label}",
                late["mean"].to_numpy(),
                "cosine",
                note=f"{late['above_zero'].mean():.0%} of the examples above 0",
            ),
            Effect(
                f"ln(SD late / early) - ln 2{label}",
                wider,
                "ln",
                note=f"{np.exp(wider.mean()) * 2:.2f} times as wide",
            ),
        ]
    return effects


def distance(first: np.ndarray, second: np.ndarray) -> float:
    """Total variation distance of two histograms: half the sum of absolute differences of their shares."""
    return float(np.abs(first / first.sum() - second / second.sum()).sum() / 2)


def chance(first: np.ndarray, second: np.ndarray, seed: int = 0) -> float:
    """The distance that two draws of these sizes from one distribution, the mean of both, exceed with a probability of 5%."""
    share = (first / first.sum() + second / second.sum()) / 2
    rng = np.random.default_rng(seed)
    a, b = (
        rng.multinomial(int(counts.sum()), share, DRAWS) / counts.sum()
        for counts in (first, second)
    )
    return float(np.quantile(np.abs(a - b).sum(1) / 2, 0.95))


def price_cos_class_distribution_differs(table):
    effects = []
    for label, early, late in _pairs(table):
        found, excess = [], []
        for first, second in zip(early["top"], late["top"], strict=True):
            first, second = np.asarray(first, dtype=float), np.asarray(second, dtype=float)
            found.append(distance(first, second))
            excess.append(found[-1] - chance(first, second))
        note = f"total variation {np.mean(found):.2f}, by chance below {np.mean(found) - np.mean(excess):.2f}"
        effects.append(
            Effect(
                f"distance of the class distributions - chance{label}",
                np.array(excess),
                "share",
                note=note,
            )
        )
    return effects


def price_cos_class_skew(table):
    effects = []
    for label, early, _ in _pairs(table):
        most = np.array([max(top) * len(top) / sum(top) for top in early["top"]])
        note = f"the commonest class has {most.mean():.1f} times its uniform share"
        effects.append(
            Effect(
                f"early{label}: commonest class / uniform - 3",
                most - 3,
                "uniform shares",
                note=note,
            )
        )
    return effects
