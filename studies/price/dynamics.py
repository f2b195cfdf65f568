"""The Fisher trace over training: the price study's Figure 3, Table 1, Figures 11 and 12.

The table has a row per run and kept epoch, with ``fisher`` (Tr(F) on training examples) and
``train_accuracy``, ``test_accuracy`` of the run's end. Ratios are decided on their logarithms.
"""

from itertools import pairwise

import numpy as np
import pandas as pd

from studies.decide import NotHere
from studies.quantities import (
    Numbers,
    at_least,
    course,
    final_rows,
    first,
    highest,
    last,
    ln,
    mean,
    sparsities,
    trend,
)
from studies.rules import each, given, more, needs, ratio

# of Sol-S: the lowest training accuracy that the study itself counts to the generalization regime
FITTED = 0.97

bits = needs(
    lambda table: set(table["dataset"]) == {"bits12"},
    "a claim on the 12-bit task: presets quick and desktop with their own data can test it",
)


def regimes(table: pd.DataFrame) -> dict[str, list[float]]:
    """The sparsities of each regime, by Sol-S's median final training accuracy over the seeds."""
    ends = final_rows(table[table["solution"] == "sol_s"])
    fits = ends.groupby("sparsity")["train_accuracy"].median() >= FITTED
    return {"generalization": list(fits.index[fits]), "optimization": list(fits.index[~fits])}


def _regime(name, otherwise):
    """The sparsities of one regime; if there is none, ``otherwise`` says why."""

    def places(table):
        found = regimes(table)[name]
        if not found:
            raise NotHere(otherwise)
        return found

    return places


def curves(solution: str, **cell) -> Numbers:
    """Tr(F) by seed and epoch."""
    return at_least(course("fisher", solution=solution, **cell), 1e-12)


def _orders(table):
    """Final Tr(F) rises with sparsity, from the dense network on."""
    grid = [0.0, *sparsities(table)]
    ends = {s: last(curves("sol_s" if s else "sol_d", sparsity=s)) for s in grid}
    return [
        ratio(f"final Tr(F) at {high:g} / at {low or 'dense'}", ends[high], ends[low])
        for low, high in pairwise(grid)
        if high != 0.85  # the paper orders 0.80 and 0.85 against 0.75 only, not against each other
    ]


DENSE, FINETUNED, SCRATCH = (curves(solution) for solution in ("sol_d", "sol_f", "sol_s"))
ENDS_ABOVE = ratio("final Tr(F) of Sol-S / Sol-F", last(SCRATCH), last(FINETUNED))

RULES = {
    "price-fisher-dynamics-gen": each(
        "sparsity",
        [
            more(
                "Sol-S{sparsity}: ln(peak / final) - ln 1.2",
                ln(highest(SCRATCH) / last(SCRATCH)) - np.log(1.2),
                "ln",
            ),
            ENDS_ABOVE,
        ],
        _regime(
            "generalization",
            "no sparsity here at which Sol-S fits its training set: lower ones would be needed",
        ),
    ),
    "price-fisher-dynamics-opt": each(
        "sparsity",
        more(
            "Sol-S{sparsity}: ln(final / peak) - ln 0.8",
            ln(last(SCRATCH) / highest(SCRATCH)) - np.log(0.8),
            "ln",
        ),
        _regime(
            "optimization",
            "Sol-S fits its training set at every sparsity here: higher ones would be needed",
        ),
    ),
    "price-fisher-scratch-above-finetune": each(
        "sparsity",
        [
            ratio("mean Tr(F) over training of Sol-S / Sol-F", mean(SCRATCH), mean(FINETUNED)),
            ENDS_ABOVE,
        ],
    ),
    "price-fisher-mlp-traces": given(bits, _orders),
    "price-mlp-accuracies": given(
        bits,
        lambda table: table[table["solution"] != "sol_f"],
        [
            more(
                f"-Spearman(sparsity, {measure}) of Sol-D and Sol-S",
                -trend(course(measure, "sparsity"), 2),
                "rho",
            )
            for measure in ("train_accuracy", "test_accuracy")
        ],
    ),
    "price-fisher-bell-shape": [
        more(f"dense: ln 0.5 - ln({words} / peak)", ln(0.5 * highest(DENSE) / at(DENSE)), "ln")
        for words, at in (("Tr(F) at the start", first), ("final Tr(F)", last))
    ],
}
