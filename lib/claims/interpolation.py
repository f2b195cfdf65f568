"""Decision rules of the price study's Figure 8a, as code: a table of points on lines in, rows of evidence out.

The table has a row per line, kind of BatchNorm statistics and alpha: the columns of its run (solution: where the line ends),
start ("init_s", "init_f"), bn, alpha, classes, and loss and accuracy on the training and on the test part.
A rule that the table cannot answer raises ``NotHere`` with what could.
"""

import numpy as np
import pandas as pd

from lib.claims import tables
from lib.claims.decisions import Effect, NotHere

TOLERANCE = 0.2 / np.log(
    100
)  # of ln(classes): 0.2 nats where the paper's curve, of 100 classes, rises by 0.15
EARLY = (0.4, 0.8)  # alphas between which the two lines are compared
COLUMNS = ("train_loss", "train_accuracy", "test_loss", "test_accuracy")


def points(measured: pd.DataFrame) -> pd.DataFrame:
    """The table of points from a table with a row per run and, in ``lines``, its lines: a list of dicts of start, bn, alphas
    and a list for each measure. Runs without a measurement (they diverged) are left out."""
    rows = []
    for run in measured.dropna(subset="lines").to_dict("records"):
        lines = run.pop("lines")
        for line in lines:
            for i, alpha in enumerate(line["alphas"]):
                rows.append(
                    {
                        **run,
                        "start": line["start"],
                        "bn": line["bn"],
                        "alpha": alpha,
                        **{c: line[c][i] for c in COLUMNS},
                    }
                )
    return pd.DataFrame(rows)


def curves(
    table: pd.DataFrame,
    start: str,
    solution: str,
    sparsity: float,
    measure="train_loss",
    bn="reestimated",
) -> pd.DataFrame:
    """One measure on one kind of line: a row per seed, a column per alpha, rising."""
    rows = table[(table["start"] == start) & (table["solution"] == solution) & (table["bn"] == bn)]
    rows = rows[np.isclose(rows["sparsity"], sparsity)]
    return rows.pivot_table(index="seed", columns="alpha", values=measure).dropna()


def bumps(
    table: pd.DataFrame,
    start: str,
    solution: str,
    sparsity: float,
    measure="train_loss",
    bn="reestimated",
) -> pd.Series:
    """By seed: the largest rise of ``measure`` above its lowest value so far on the line, in its own unit."""
    wide = curves(table, start, solution, sparsity, measure, bn)
    return (wide - wide.cummin(axis=1)).max(axis=1)


def price_interp_monotone(table):
    effects = []
    for s in tables.grid(table):
        rises = bumps(table, "init_s", "sol_f", s)
        if curves(table, "init_s", "sol_f", s).shape[1] < 5:
            raise NotHere("needs five alphas or more")
        tolerance = TOLERANCE * np.log(table["classes"].iloc[0])
        note = f"bump {rises.min():.3g} to {rises.max():.3g}; strictly monotone in {int((rises == 0).sum())} of {len(rises)} seeds"
        effects.append(
            Effect(
                f"{tolerance:.3g} - bump of the training loss at {s:g}",
                tolerance - rises.to_numpy(),
                "nats",
                note=note,
            )
        )
        if set(table["dataset"]) == {"cifar100"} and set(table["network"]) == {"resnet-32"}:
            wide = curves(table, "init_s", "sol_f", s)
            effects.append(
                Effect(
                    f"training loss at alpha {wide.columns[1]:g} - 4, at {s:g}",
                    wide.iloc[:, 1].to_numpy() - 4,
                    "nats",
                )
            )
            effects.append(
                Effect(
                    f"0.1 - training loss at alpha {wide.columns[-1]:g}, at {s:g}",
                    0.1 - wide.iloc[:, -1].to_numpy(),
                    "nats",
                )
            )
    return effects


def price_interp_init_f_faster(table):
    effects = []
    for s in tables.grid(table):
        gap = (curves(table, "init_s", "sol_f", s) - curves(table, "init_f", "sol_f", s)).dropna()
        inside = [alpha for alpha in gap.columns if EARLY[0] - 1e-9 <= alpha <= EARLY[1] + 1e-9]
        if not inside:
            raise NotHere(f"needs alphas from {EARLY[0]} to {EARLY[1]}")
        effects += [
            Effect(
                f"training loss from Init-S - from Init-F, alpha {a:g} at {s:g}",
                gap[a].to_numpy(),
                "nats",
            )
            for a in inside
        ]
    return effects
