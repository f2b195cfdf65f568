"""Decision rules of the price study's Figure 4 and of its statements on the Fisher matrix: a table of runs in, rows of evidence out.

The table has the columns of ``carry_out`` and those that the notebook measures on each network. A rule that the table cannot answer
raises ``NotHere`` with what could.
"""

import numpy as np

from lib.claims import tables
from lib.claims.decisions import Effect, NotHere
from lib.claims.regimes import FITTED
from lib.claims.tables import name

TOLERANCE = 0.02  # relative error up to which an identity counts as seen
IDENTITIES = ("second_derivative", "divergence", "expansion", "expansion_reversed")


def price_hessian_spectrum(table):
    effects = []
    for sparsity in tables.grid(table):
        for measure, words in (("largest", "largest eigenvalue"), ("quantile_99", "99% quantile")):
            gap = tables.at(table, "sol_s", measure, sparsity) - tables.at(
                table, "sol_f", measure, sparsity
            )
            effects.append(
                Effect(f"{words}: Sol-S - Sol-F at {sparsity:g}", gap.dropna().to_numpy())
            )
    return effects


def price_fisher_approximates_hessian(table):
    effects = []
    for sparsity in tables.grid(table):
        for solution in ("sol_f", "sol_s"):
            if tables.at(table, solution, "train_accuracy", sparsity).mean() < FITTED:
                continue
            for f, h, words in (
                ("trace_f", "trace_h", "Tr(F) / Tr(H)"),
                ("largest_f", "largest", "largest eigenvalue of F / of H"),
            ):
                ratio = tables.at(table, solution, f, sparsity) / tables.at(
                    table, solution, h, sparsity
                )
                values = np.log2(
                    ratio.where(ratio > 0)
                ).to_numpy()  # an estimate of Tr(H) below 0 is no value
                effects.append(
                    Effect(
                        f"{name(solution)}: log2 of {words} at {sparsity:g}",
                        values,
                        "log2",
                        "equal",
                        1.0,
                    )
                )
    if not effects:
        raise NotHere("no solution here fits 99.5% of its training labels")
    return effects


def price_fisher_identities(table):
    last = tables.final(table)
    worst = last[last["solution"] != "sol_d"].groupby("seed")[list(IDENTITIES)].max()
    return [
        Effect(
            f"0.02 - relative error: {identity.replace('_', ' ')}",
            TOLERANCE - worst[identity].to_numpy(),
        )
        for identity in IDENTITIES
    ]
