"""Losses on the lines from a start to a solution: the price study's Figure 8a.

The table of points has a row per line, kind of BatchNorm statistics and alpha: the columns of its
run (solution: where the line ends), start ("init_s", "init_f"), bn, alpha, classes, and loss and
accuracy on the training and on the test part.
"""

import numpy as np
import pandas as pd

from studies.decide import NotHere
from studies.quantities import Numbers, course, first, known, last, lift
from studies.rules import each, given, if_any, more, needs, own, says

TOLERANCE = 0.2 / np.log(100)  # of ln(classes): 0.2 nats where the paper's curve rises by 0.15
EARLY = (0.4, 0.8)  # alphas between which the two lines are compared
COLUMNS = ("train_loss", "train_accuracy", "test_loss", "test_accuracy")


def points(measured: pd.DataFrame) -> pd.DataFrame:
    """The table of points from a table with a row per run and, in ``lines``, its lines.

    These are a list of dicts of start, bn, alphas and a list for each measure. Runs without a
    measurement (they diverged) are left out.
    """
    rows = []
    for run in measured.dropna(subset="lines").to_dict("records"):
        for line in run.pop("lines"):
            for i, alpha in enumerate(line["alphas"]):
                values = {column: line[column][i] for column in COLUMNS}
                rows.append(
                    {**run, "start": line["start"], "bn": line["bn"], "alpha": alpha, **values}
                )
    return pd.DataFrame(rows)


def curves(start: str, measure: str = "train_loss", **cell) -> Numbers:
    """One measure on one kind of line, by seed and alpha.

    The lines end in Sol-F and have re-estimated BatchNorm statistics, unless ``cell`` says
    otherwise.
    """
    line = {"solution": "sol_f", "bn": "reestimated", **cell}
    return known(course(measure, "alpha", start=start, **line))


bump = lift(lambda wide: (wide - wide.cummin(axis=1)).max(axis=1))


def bumps(start: str, measure: str = "train_loss", **cell) -> Numbers:
    """By seed: the largest rise of a measure above its lowest value so far on the line."""
    return bump(curves(start, measure, **cell))


def tolerance(table: pd.DataFrame) -> float:
    """The rise of a loss that counts as none, in nats."""
    return TOLERANCE * np.log(table["classes"].dropna().iloc[0])


def inside(table: pd.DataFrame) -> list[float]:
    """The alphas at which the two lines are compared."""
    alphas = np.sort(table.loc[table["start"] == "init_f", "alpha"].unique())
    found = [a for a in alphas if EARLY[0] - 1e-9 <= a <= EARLY[1] + 1e-9]
    if not found:
        raise NotHere(f"needs alphas from {EARLY[0]} to {EARLY[1]}")
    return found


def _alpha(place):
    """The line's alpha at a place, for words."""
    return lift(lambda wide: wide.columns[place])(LINE)


LINE = curves("init_s")
RISE = bumps("init_s")
STRICTLY = lift(lambda rises: f"{int((rises == 0).sum())} of {len(rises)}")(RISE)

RULES = {
    "price-interp-monotone": each(
        "sparsity",
        given(
            needs(lambda table: LINE(table).shape[1] >= 5, "needs five alphas or more"),
            [
                more(
                    says("{:.3g} - bump of the training loss", tolerance),
                    Numbers(tolerance) - RISE,
                    "nats",
                    note=says(
                        "bump {:.3g} to {:.3g}; strictly monotone in {} seeds",
                        lift(min)(RISE),
                        lift(max)(RISE),
                        STRICTLY,
                    ),
                ),
                if_any(
                    own("cifar100", "resnet-32"),
                    [
                        more(
                            says("training loss at alpha {:g} - 4,{{sparsity}}", _alpha(1)),
                            lift(lambda wide: wide.iloc[:, 1])(LINE) - 4,
                            "nats",
                        ),
                        more(
                            says("0.1 - training loss at alpha {:g},{{sparsity}}", _alpha(-1)),
                            0.1 - last(LINE),
                            "nats",
                        ),
                    ],
                ),
            ],
        ),
    ),
    "price-interp-init-f-faster": each(
        "sparsity",
        each(
            "alpha",
            more(
                "training loss from Init-S - from Init-F{alpha}",
                first(curves("init_s")) - first(curves("init_f")),
                "nats",
            ),
            inside,
            ", alpha {:g}",
        ),
    ),
}
