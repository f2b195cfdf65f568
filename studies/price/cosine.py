"""Cosines of single examples' gradients with the way to Sol-F: the price study's Figures 8b to 10.

The table has a row per finetuned run and ``alpha`` with the numbers of the alignment of gradients.
"Early" is the lowest alpha of the table (the paper's 0.3), "late" the highest (0.9).
"""

import numpy as np
import pandas as pd

from studies.quantities import Numbers, lift, ln, pick
from studies.rules import each, given, more, needs, says

DRAWS = 2000  # of pairs of histograms, for the distance that chance alone makes

early_and_late = needs(
    lambda table: table["alpha"].min() < 0.5 < table["alpha"].max(),
    "needs one of alphas below 0.5 and one above",
)


def early(measure: str) -> Numbers:
    """A measure at the lowest alpha, by seed."""
    return pick(measure, alpha=lambda table: float(table["alpha"].min()))


def late(measure: str) -> Numbers:
    """A measure at the highest alpha, by seed."""
    return pick(measure, alpha=lambda table: float(table["alpha"].max()))


def distance(one: np.ndarray, other: np.ndarray) -> float:
    """Total variation distance of two histograms: half the sum of their shares' differences."""
    one, other = np.asarray(one, dtype=float), np.asarray(other, dtype=float)
    return float(np.abs(one / one.sum() - other / other.sum()).sum() / 2)


def chance(one: np.ndarray, other: np.ndarray, seed: int = 0) -> float:
    """The distance that chance alone exceeds with a probability of 5%.

    That is, that of two draws of these sizes from one distribution, the mean of both.
    """
    one, other = np.asarray(one, dtype=float), np.asarray(other, dtype=float)
    share = (one / one.sum() + other / other.sum()) / 2
    rng = np.random.default_rng(seed)
    a, b = (rng.multinomial(int(n.sum()), share, DRAWS) / n.sum() for n in (one, other))
    return float(np.quantile(np.abs(a - b).sum(1) / 2, 0.95))


@lift
def _of_pairs(ones, others, function):
    """A function of two histograms, by seed."""
    found = [function(*pair) for pair in zip(ones, others, strict=True)]
    return pd.Series(found, index=ones.index, dtype=float)


OFF_ZERO = abs(early("mean"))
WIDER = ln(late("std") / early("std")) - np.log(2)
TOPS = (early("top"), late("top"))
FOUND, BY_CHANCE = _of_pairs(*TOPS, function=distance), _of_pairs(*TOPS, function=chance)
COMMONEST = lift(lambda tops: tops.map(lambda top: max(top) * len(top) / sum(top)))(early("top"))

RULES = {
    "price-cos-near-init-zero": given(
        early_and_late,
        each(
            "sparsity",
            [
                more(
                    "early{sparsity}: 0.3 - |mean| / SD",
                    0.3 - OFF_ZERO / early("std"),
                    "SD of examples",
                    note=says(
                        "mean {:.2g}, standard deviation {:.2g}", early("mean"), early("std")
                    ),
                ),
                more("mean, late - |early|", late("mean") - OFF_ZERO, "cosine"),
            ],
        ),
    ),
    "price-cos-late-positive": given(
        early_and_late,
        each(
            "sparsity",
            [
                more(
                    "late mean",
                    late("mean"),
                    "cosine",
                    note=says("{:.0%} of the examples above 0", late("above_zero")),
                ),
                more(
                    "ln(SD late / early) - ln 2",
                    WIDER,
                    "ln",
                    note=says(
                        "{:.2f} times as wide", lift(lambda wider: np.exp(wider.mean()) * 2)(WIDER)
                    ),
                ),
            ],
        ),
    ),
    "price-cos-class-distribution-differs": given(
        early_and_late,
        each(
            "sparsity",
            more(
                "distance of the class distributions - chance",
                FOUND - BY_CHANCE,
                "share",
                note=says("total variation {:.2f}, by chance below {:.2f}", FOUND, BY_CHANCE),
            ),
        ),
    ),
    "price-cos-class-skew": given(
        early_and_late,
        each(
            "sparsity",
            more(
                "early{sparsity}: commonest class / uniform - 3",
                COMMONEST - 3,
                "uniform shares",
                note=says("the commonest class has {:.1f} times its uniform share", COMMONEST),
            ),
        ),
    ),
}
