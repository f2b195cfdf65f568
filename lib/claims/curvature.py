"""Decision rules for curvature and sensitivity at the solutions: Table 2 of the price study and the table of its poster.

The table has a row per run: ``fisher`` (exact Tr(F)), ``hessian`` (an independent estimate of Tr(H)), ``jacobian`` (mean squared
norm), ``entropy``, ``train_accuracy`` and ``test_accuracy``. Ratios are decided on their logarithms, since traces spread over decades.
"""

import numpy as np
import pandas as pd

from lib.claims import tables
from lib.claims.decisions import Effect, NotHere
from lib.claims.regimes import FITTED

NAMES = {"fisher": "Tr(F)", "hessian": "Tr(H)", "jacobian": "Jacobian", "entropy": "entropy"}


def by_seed(table, measure, solution, sparsity=None) -> pd.Series:
    """One number per seed."""
    rows = table[table["solution"] == solution]
    if sparsity is not None:
        rows = rows[np.isclose(rows["sparsity"], sparsity)]
    return rows.set_index("seed")[measure].sort_index()


def ratio(table, measure, first, second, sparsity) -> Effect:
    """The effect "``first`` is above ``second``" on the logarithm of the ratio."""
    above = by_seed(table, measure, first, None if first == "sol_d" else sparsity)
    below = by_seed(table, measure, second, None if second == "sol_d" else sparsity)
    values = np.log(above.clip(lower=1e-12) / below.clip(lower=1e-12)).dropna().to_numpy()
    return Effect(
        f"ln({NAMES[measure]} of {tables.name(first)} / {tables.name(second)}) at {sparsity:g}",
        values,
        "ln",
    )


def _fitted(table) -> dict[str, list[float]]:
    """Sparsities at which both solutions fit the training set, and those at which Sol-S does not."""
    means = table[table["solution"] != "sol_d"].pivot_table(
        index="sparsity", columns="solution", values="train_accuracy"
    )
    return {
        "first": [s for s in means.index if means.loc[s].min() >= FITTED],
        "second": [s for s in means.index if means.loc[s, "sol_s"] < FITTED],
    }


def _first(table):
    grid = _fitted(table)["first"]
    if not grid:
        raise NotHere("no sparsity here at which both solutions fit the training set")
    return grid


def price_table2_fisher(table):
    return [ratio(table, "fisher", "sol_s", "sol_f", s) for s in _first(table)]


def price_table2_hessian(table):
    return [ratio(table, "hessian", "sol_s", "sol_f", s) for s in _first(table)]


def price_table2_jacobian(table):
    return [ratio(table, "jacobian", "sol_s", "sol_f", s) for s in _first(table)]


def price_table2_entropy(table):
    return [ratio(table, "entropy", "sol_s", "sol_f", s) for s in _first(table)]


def _trend(table, measure, solution, above):
    rows = table[(table["solution"] == solution)]
    wide = rows.pivot_table(index="seed", columns="sparsity", values=measure)
    if wide.shape[1] < 3:
        raise NotHere("needs three sparsities or more")
    order = pd.Series(wide.columns, index=wide.columns).rank()
    rho = wide.rank(axis=1).apply(lambda row: row.corr(order), axis=1)
    return Effect(
        f"Spearman(sparsity, {NAMES[measure]}) of {tables.name(solution)} - {above:g}",
        rho.to_numpy() - above,
        "rho",
    )


def price_fisher_grows_with_sparsity(table):
    return [_trend(table, "fisher", solution, 0.0) for solution in ("sol_f", "sol_s")]


def price_sharpness_sensitivity_grow(table):
    return [
        _trend(table, measure, solution, 0.0)
        for measure in ("hessian", "jacobian")
        for solution in ("sol_f", "sol_s")
    ]


def price_poster_table(table):
    effects = []
    for s in tables.grid(table):
        for measure in ("fisher", "hessian", "jacobian"):
            effects += [
                ratio(table, measure, "sol_s", "sol_f", s),
                ratio(table, measure, "sol_f", "sol_d", s),
            ]
    return effects


def price_curvature_gap_in_regime2(table):
    grid = _fitted(table)["second"]
    if not grid:
        raise NotHere(
            "Sol-S fits the training set at every sparsity here: higher ones would be needed"
        )
    return [
        ratio(table, measure, "sol_s", "sol_f", s)
        for s in grid
        for measure in ("hessian", "jacobian")
    ]


def price_fisher_info_curse(table):
    """One rank correlation per seed over the solutions of its first regime."""
    grid = _first(table)
    rows = table[
        (table["solution"] != "sol_d")
        & table["sparsity"].map(lambda s: any(np.isclose(s, g) for g in grid))
    ]
    if rows.groupby("seed").size().min() < 4:
        raise NotHere("needs two sparsities or more at which both solutions fit the training set")
    effects = []
    for measure, sign in (("hessian", 1), ("jacobian", 1), ("test_accuracy", -1)):
        rho = [
            sign * group["fisher"].corr(group[measure], method="spearman")
            for _, group in rows.groupby("seed")
        ]
        effects.append(
            Effect(
                f"{'-' if sign < 0 else ''}Spearman(Tr(F), {NAMES.get(measure, 'test accuracy')})",
                np.array(rho),
                "rho",
            )
        )
    return effects
