"""On the way from a start to a solution: the price study's Figures 8 to 10.

Figure 8a's table of points has a row per line, kind of BatchNorm statistics and alpha: the columns
of its run (solution: where the line ends), start ("init_s", "init_f"), bn, alpha, classes, and loss
and accuracy on the training and on the test part. That of 8b to 10 has a row per finetuned run and
alpha, with the cosines of single examples' gradients with the way to Sol-F; "early" is its lowest
alpha (the paper's 0.3), "late" its highest (0.9).
"""

import functools

import numpy as np
import pandas as pd

from studies.quantities import Numbers, average, course, first, known, last, lift, ln, pick
from studies.rules import each, given, if_any, more, needs, own, says, where

EARLY = (0.4, 0.8)  # alphas between which the two lines are compared
COLUMNS = ("train_loss", "train_accuracy", "test_loss", "test_accuracy")

# -- Figure 8a -------------------------------------------------------------------------------------


def points(measured: pd.DataFrame) -> pd.DataFrame:
    """The table of points from a table with a row per run and, in ``lines``, its lines.

    These are a list of dicts of start, bn, alphas and a list for each measure. Runs without a
    measurement (they diverged) are left out.
    """
    rows = []
    for run in measured.dropna(subset="lines").to_dict("records"):
        for line in run.pop("lines"):
            for i, alpha in enumerate(line["alphas"]):
                here = {"start": line["start"], "bn": line["bn"], "alpha": alpha}
                rows.append({**run, **here, **{column: line[column][i] for column in COLUMNS}})
    return pd.DataFrame(rows)


def curves(start: str, measure: str = "train_loss", **cell) -> Numbers:
    """One measure on one kind of line, by seed and alpha.

    The lines end in Sol-F and have re-estimated BatchNorm statistics, unless ``cell`` says
    otherwise.
    """
    line = {"solution": "sol_f", "bn": "reestimated", **cell}
    return known(course(measure, "alpha", start=start, **line))


def bumps(start: str, measure: str = "train_loss", **cell) -> Numbers:
    """By seed: the largest rise of a measure above its lowest value so far on the line."""
    rises = lift(lambda wide: (wide - wide.cummin(axis=1)).max(axis=1))
    return rises(curves(start, measure, **cell))


LINE, OTHER, RISE = curves("init_s"), curves("init_f"), bumps("init_s")
# the rise of a loss that counts as none, in nats: 0.2 of 100 classes, where the paper's curve rises
# by 0.15
tolerance = Numbers(lambda table: 0.2 / np.log(100) * np.log(table["classes"].iloc[0]))
SEEN = says(
    "bump {:.3g} to {:.3g}; strictly monotone in {} of {} seeds",
    *(lift(of)(RISE) for of in (min, max, lambda rises: int((rises == 0).sum()), len)),
)
ALPHAS = [lift(lambda wide, i=i: wide.columns[i])(LINE) for i in (1, -1)]
inside = where(
    lambda part: EARLY[0] - 1e-9 <= part["alpha"].iloc[0] <= EARLY[1] + 1e-9,
    f"needs alphas from {EARLY[0]} to {EARLY[1]}",
    column="alpha",
    among=lambda table: OTHER(table).columns,
)

# -- Figures 8b to 10 ------------------------------------------------------------------------------


# a measure by seed, at the lowest and at the highest alpha
early = functools.partial(pick, alpha=lambda table: float(table["alpha"].min()))
late = functools.partial(pick, alpha=lambda table: float(table["alpha"].max()))


def at_ends(rule):
    """A rule at every sparsity, where the table holds the beginning and the end of the way."""
    both = needs(
        lambda table: table["alpha"].min() < 0.5 < table["alpha"].max(),
        "needs one of alphas below 0.5 and one above",
    )
    return given(both, each("sparsity", rule))


def distance(one, other) -> float:
    """Total variation distance of two histograms: half the sum of their shares' differences."""
    one, other = np.asarray(one, dtype=float), np.asarray(other, dtype=float)
    return float(np.abs(one / one.sum() - other / other.sum()).sum() / 2)


def chance(one, other, seed: int = 0, draws: int = 2000) -> float:
    """The distance that chance alone exceeds with a probability of 5%.

    That is, that of two draws of these sizes from one distribution, the mean of both: of so many
    pairs of ``draws``.
    """
    one, other = np.asarray(one, dtype=float), np.asarray(other, dtype=float)
    share = (one / one.sum() + other / other.sum()) / 2
    rng = np.random.default_rng(seed)
    a, b = (rng.multinomial(int(n.sum()), share, draws) / n.sum() for n in (one, other))
    return float(np.quantile(np.abs(a - b).sum(1) / 2, 0.95))


FOUND, BY_CHANCE = (
    lift(lambda one, other, of=of: one.combine(other, of))(early("top"), late("top"))
    for of in (distance, chance)
)
WIDER = ln(late("std") / early("std")) - np.log(2)
COMMONEST = lift(lambda tops: tops.map(lambda top: max(top) * len(top) / sum(top)))(early("top"))

RULES = {
    "price-interp-monotone": each("sparsity", given(
        needs(lambda table: LINE(table).shape[1] >= 5, "needs five alphas or more"),
        [more(says("{:.3g} - bump of the training loss", tolerance), tolerance - RISE, "nats",
              note=SEEN),
         if_any(own("cifar100", "resnet-32"), [
             more(says("training loss at alpha {:g} - 4,{{sparsity}}", ALPHAS[0]),
                  lift(lambda wide: wide.iloc[:, 1])(LINE) - 4, "nats"),
             more(says("0.1 - training loss at alpha {:g},{{sparsity}}", ALPHAS[1]),
                  0.1 - last(LINE), "nats")])])),
    "price-interp-init-f-faster": each("sparsity", each(
        "alpha", more("training loss from Init-S - from Init-F{alpha}", first(LINE) - first(OTHER),
                      "nats", margin=0.23 / 3 / 0.2 * tolerance), inside, ", alpha {:g}")),
    "price-cos-near-init-zero": at_ends([
        more("early{sparsity}: 0.3 - |mean| / SD", 0.3 - abs(early("mean")) / early("std"),
             "SD of examples",
             note=says("mean {:.2g}, standard deviation {:.2g}", early("mean"), early("std"))),
        more("mean, late - |early|", late("mean") - abs(early("mean")), "cosine"),
    ]),
    "price-cos-late-positive": at_ends([
        more("late mean / SD", late("mean") / late("std"), "SD of examples", margin=0.11,
             note=says("{:.0%} of the examples above 0", late("above_zero"))),
        more("ln(SD late / early) - ln 2", WIDER, "ln",
             note=says("{:.2f} times as wide", lift(np.exp)(average(WIDER)) * 2)),
    ]),
    "price-cos-class-distribution-differs": at_ends(
        more("distance of the class distributions - chance", FOUND - BY_CHANCE, "share",
             note=says("total variation {:.2f}, by chance below {:.2f}", FOUND, BY_CHANCE))),
    "price-cos-class-skew": at_ends(
        more("early{sparsity}: commonest class / uniform - 3", COMMONEST - 3, "uniform shares",
             note=says("the commonest class has {:.1f} times its uniform share", COMMONEST))),
}  # fmt: skip
