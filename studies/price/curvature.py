"""Curvature and sensitivity at the solutions: the price study's Table 2, Figure 4 and poster.

The table has a row per run with what the notebook measures on its network: for Table 2 ``fisher``
(exact Tr(F)), ``hessian`` (an independent estimate of Tr(H)), ``jacobian`` (mean squared norm) and
``entropy``; for Figure 4 ends and quantiles of the spectra, their traces, and the relative errors of
the Fisher matrix's ``IDENTITIES``. Ratios are decided on their logarithms, since traces spread over
decades.
"""

import numpy as np

from studies.decide import NotHere
from studies.price.regimes import FITTED, PAIR, both_fit, scratch_fails
from studies.quantities import agreement, at_least, course, final_rows, lift, pick, trend
from studies.rules import (
    Rule,
    each,
    equal,
    given,
    if_any,
    more,
    name,
    needs,
    ratio,
    rows,
)

NAMES = {
    "fisher": "Tr(F)",
    "hessian": "Tr(H)",
    "jacobian": "Jacobian",
    "entropy": "entropy",
    "test_accuracy": "test accuracy",
}
IDENTITIES = ("second_derivative", "divergence", "expansion", "expansion_reversed")


def higher(measure: str, more_of: str = "sol_s", less_of: str = "sol_f") -> Rule:
    """One solution has more of a measure than another, on the logarithm of the ratio."""
    found = [at_least(pick(measure, solution=solution), 1e-12) for solution in (more_of, less_of)]
    return ratio(f"{NAMES[measure]} of {name(more_of)} / {name(less_of)}", *found)


def grows(measure: str, solution: str) -> Rule:
    """A measure of one solution rises with sparsity."""
    rho = trend(course(measure, "sparsity", solution=solution))
    return more(f"Spearman(sparsity, {NAMES[measure]}) of {name(solution)} - 0", rho, "rho")


def first_regime(table):
    """The sparse solutions where both fit; two sparsities at least, in every seed."""
    here = np.isclose(table["sparsity"].to_numpy()[:, None], both_fit(table)).any(axis=1)
    found = table[here & (table["solution"] != "sol_d")]
    if found.groupby("seed").size().min() < 4:
        raise NotHere("needs two sparsities or more at which both solutions fit the training set")
    return found


def _follows_fisher(measure, sign):
    """One rank correlation per seed over the solutions of the first regime."""
    fisher, other = (course(m, ["solution", "sparsity"]) for m in ("fisher", measure))
    what = f"{'-' if sign < 0 else ''}Spearman(Tr(F), {NAMES[measure]})"
    return more(what, sign * agreement(fisher, other), "rho")


@lift
def _log2(quotient):
    return np.log2(quotient.where(quotient > 0))  # an estimate of Tr(H) below 0 is no value


def _alike(solution):
    """Within a factor of two, where the solution fits its training set."""
    fitted = needs(
        lambda table: pick("train_accuracy", solution=solution)(table).mean() >= FITTED, ""
    )
    pairs = (
        ("trace_f", "trace_h", "Tr(F) / Tr(H)"),
        ("largest_f", "largest", "largest eigenvalue of F / of H"),
    )
    return if_any(
        fitted,
        [
            equal(
                f"{name(solution)}: log2 of {words}",
                _log2(pick(f, solution=solution) / pick(h, solution=solution)),
                "log2",
                margin=1.0,
            )
            for f, h, words in pairs
        ],
    )


def _fisher_approximates_hessian(table):
    found = rows(each("sparsity", [_alike(solution) for solution in PAIR]), table)
    if not found:
        raise NotHere("no solution here fits 99.5% of its training labels")
    return found


RULES = {
    **{
        f"price-table2-{measure}": each("sparsity", higher(measure), both_fit)
        for measure in ("fisher", "hessian", "jacobian", "entropy")
    },
    "price-fisher-grows-with-sparsity": [grows("fisher", solution) for solution in PAIR],
    "price-sharpness-sensitivity-grow": [
        grows(measure, solution) for measure in ("hessian", "jacobian") for solution in PAIR
    ],
    "price-poster-table": each(
        "sparsity",
        [
            [higher(measure), higher(measure, "sol_f", "sol_d")]
            for measure in ("fisher", "hessian", "jacobian")
        ],
    ),
    "price-curvature-gap-in-regime2": each(
        "sparsity", [higher("hessian"), higher("jacobian")], scratch_fails
    ),
    "price-fisher-info-curse": given(
        first_regime,
        [
            _follows_fisher("hessian", 1),
            _follows_fisher("jacobian", 1),
            _follows_fisher("test_accuracy", -1),
        ],
    ),
    "price-hessian-spectrum": each(
        "sparsity",
        [
            more(
                f"{words}: Sol-S - Sol-F",
                pick(measure, solution="sol_s") - pick(measure, solution="sol_f"),
            )
            for measure, words in (
                ("largest", "largest eigenvalue"),
                ("quantile_99", "99% quantile"),
            )
        ],
    ),
    "price-fisher-approximates-hessian": _fisher_approximates_hessian,
    "price-fisher-identities": given(
        lambda table: final_rows(table[table["solution"] != "sol_d"]),
        [
            more(
                f"0.02 - relative error: {identity.replace('_', ' ')}", 0.02 - pick(identity, "max")
            )
            for identity in IDENTITIES
        ],
    ),
}
