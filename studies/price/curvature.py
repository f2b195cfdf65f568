"""Curvature, sensitivity and noise of gradients: the price study's Table 2, Figure 4 and poster.

The tables have a row per run with what the notebook measures on its network: for Table 2 ``fisher``
(exact Tr(F)), ``hessian`` (an independent estimate of Tr(H)), ``jacobian`` (mean squared norm) and
``entropy``; for Figure 4 ends and quantiles of the spectra, their traces, and the relative errors
of the Fisher matrix's identities. That of the workshop version's Figure 11 has a row per run,
kept epoch and layer, with the norms ``mean`` and ``std`` of minibatch gradients and their ratio
``snr``. Ratios are decided on their logarithms.
"""

import numpy as np
import pandas as pd

from studies.decide import NotHere
from studies.price.regimes import FITTED, PAIR, both_fit, furthest, higher, lowest, scratch_fails
from studies.quantities import (
    agreement, average, course, final_rows, first, highest, last, lift, ln, mean, numbers, pick,
    reduction, sparsities,
)  # fmt: skip
from studies.quantities import lowest as least
from studies.rules import (
    above, counted, each, equal, fact, given, if_any, more, name, needs, only, rises, says,
    where,
)  # fmt: skip

BUMP = (0.05, 0.20)  # the paper's window for the bump, in shares of training: epochs 10 to 40
# the lowest and the highest ratio of Sol-S to Sol-F that Table 2, and that the poster, prints
TABLE2 = {"hessian": (2.47, 3.65), "jacobian": (1.25, 1.49), "entropy": (1.5, 1.75)}
POSTER = {"fisher": (3.61, 4.97), "hessian": (2.15, 14.5), "jacobian": (1.03, 1.47)}
DENSE = {"fisher": (10.1, 81.3), "hessian": (10.9, 145), "jacobian": (1.22, 1.91)}  # Sol-F to Sol-D

# -- Table 2 and Figure 4 --------------------------------------------------------------------------


def _both_fit(table):
    """The sparse solutions where both fit; three sparsities at least, in every seed."""
    here = np.isclose(table["sparsity"].to_numpy()[:, None], both_fit(table)).any(axis=1)
    found = table[here & (table["solution"] != "sol_d")]
    if found.groupby("seed").size().min() < 5:
        raise NotHere("needs three sparsities or more at which both solutions fit the training set")
    return found


def _with_fisher(measure):
    """One rank correlation per seed over the solutions and sparsities."""
    return agreement(*(course(m, ["solution", "sparsity"]) for m in ("fisher", measure)))


def _alike(solution, f, h, words):
    """A quantity of F is within a factor of two of H's, where the solution fits."""
    fit = average(pick("train_accuracy", solution=solution))
    quotient = pick(f, solution=solution) / pick(h, solution=solution)
    # an estimate of Tr(H) below 0 is no value
    log2 = lift(lambda values: np.log2(values.where(values > 0)))(quotient)
    rule = equal(f"{name(solution)}: log2 of {words}", log2, "log2", margin=1.0)
    return if_any(needs(fit >= FITTED, "not fitted"), rule)


# -- workshop Figure 11 ----------------------------------------------------------------------------

TWO = needs(lambda table: len(sparsities(table)) > 1, "needs two sparsities, one in each regime")
LEARNED = needs(  # at most 5 points below where the paper's Sol-S ends, at 0.6 and at 0.95
    lift(lambda ends: (ends.mean() >= np.interp(ends.columns, [0.6, 0.95], [0.904, 0.82])).all())(
        course("test_accuracy", "sparsity", solution="sol_s")
    ),
    "Sol-S ends over 5 points below the paper's (95.4% at 0.6, 87.0% at 0.95): it learned too "
    "little",
)


@numbers
def kept(table, measure: str, **cell) -> pd.DataFrame:
    """A measure of one layer over the kept epochs, which must hold the start and two later ones."""
    wide = course(measure, **cell)(table)
    if wide.empty or wide.columns[0] != 0 or wide.shape[1] < 3:
        raise NotHere("needs the start, epoch 0, and two later epochs among keep_epochs")
    return wide


@numbers
def by_layer(table, quantity, measure: str, solution: str) -> pd.DataFrame:
    """A quantity of one measure's course over the kept epochs, by seed and layer."""
    layers = table.loc[table["solution"] == solution, "layer"].unique()
    courses = {layer: kept(measure, solution=solution, layer=layer) for layer in layers}
    return pd.DataFrame({layer: quantity(found)(table) for layer, found in courses.items()})


late = lift(lambda wide: np.log(wide.loc[:, wide.columns >= 0.75 * wide.columns[-1]]))
D, F, S = (by_layer(lambda noise: mean(late(noise)), "std", s) for s in ("sol_d", *PAIR))
TIMES = lift(lambda gap: np.exp(gap.mean(axis=None)))(S - F)
STARTS = [by_layer(first, "mean", solution) for solution in ("sol_d", "sol_s")]
PLACES = by_layer(reduction(lambda wide: wide.idxmax(axis=1) / wide.columns[-1]), "mean", "sol_s")


@lift
def _half_step(wide):
    """Half the largest step between epochs in the window of the bump, as a share of training."""
    end = wide.columns[-1]
    return max(np.diff(wide.columns[wide.columns <= BUMP[1] * end]), default=end) / 2 / end


def _placed(what, values):
    return more(what, values, "training", resolution=_half_step(kept("mean", solution="sol_s")),
                note=says("bumps at {:.2f} of training",
                          lift(lambda places: places.mean(axis=None))(PLACES)))  # fmt: skip


def _noisier(where, solution):
    """The signal-to-noise ratio falls from the start to the end, in every layer."""
    return more(f"{where}: ln(SNR at the start / at the end), least of the layers", least(
        by_layer(lambda snr: ln(first(snr) / last(snr)), "snr", solution)), "ln")  # fmt: skip


RULES = {
    "price-table2-fisher": each(
        "sparsity", higher("fisher", printed=(3.13, 4.56), times=2), both_fit),
    **{f"price-table2-{measure}": each("sparsity", higher(measure, printed=printed), both_fit)
       for measure, printed in TABLE2.items()},
    "price-fisher-grows-with-sparsity": [
        rises(f"Tr(F) of {name(solution)} with sparsity",
              course("fisher", "sparsity", solution=solution), least_rho=0.9) for solution in PAIR],
    "price-sharpness-sensitivity-grow": [
        rises(f"{words} of {name(solution)} with sparsity",
              course(measure, "sparsity", solution=solution), least_rho=0.6)
        for measure, words in (("hessian", "Tr(H)"), ("jacobian", "Jacobian")) for solution in PAIR
    ],
    "price-poster-table": each("sparsity", [
        [higher(measure, printed=POSTER[measure]),
         higher(measure, "sol_f", "sol_d", printed=DENSE[measure])] for measure in POSTER
    ]),
    "price-curvature-gap-in-regime2": each("sparsity", [
        higher(measure, printed=POSTER[measure]) for measure in ("hessian", "jacobian")
    ], scratch_fails),
    "price-fisher-info-curse": given(_both_fit, [
        more("Spearman(Tr(F), Tr(H))", _with_fisher("hessian"), "rho"),
        more("Spearman(Tr(F), Jacobian)", _with_fisher("jacobian"), "rho"),
        more("-Spearman(Tr(F), test accuracy)", -_with_fisher("test_accuracy"), "rho"),
    ]),
    "price-hessian-spectrum": each("sparsity", [
        more(f"{words}: Sol-S - Sol-F",
             pick(measure, solution="sol_s") - pick(measure, solution="sol_f"))
        for measure, words in (("largest", "largest eigenvalue"), ("quantile_99", "99% quantile"))
    ]),
    "price-fisher-approximates-hessian": each(
        "sparsity",
        [_alike(solution, *pair) for solution in PAIR for pair in (
            ("trace_f", "trace_h", "Tr(F) / Tr(H)"),
            ("largest_f", "largest", "largest eigenvalue of F / of H"),
        )],
        where(lift(lambda ends: ends[[*PAIR]].mean().max() >= FITTED)(
              course("train_accuracy", "solution")),
              "no solution here fits 99.5% of its training labels")),
    "price-fisher-identities": given(
        final_rows, only(lambda table: table["solution"] != "sol_d", "needs sparse solutions"),
        [fact(f"relative error: {words}", pick(words.replace(" ", "_"), "max"), 0.02)
         for words in ("second derivative", "divergence", "expansion", "expansion reversed")]),
    "price-snr-lenet-accuracies": given(
        TWO, LEARNED, each("sparsity", above("test_accuracy", *PAIR, printed=1.17))),
    "price-snr-gen-regime-std": given(TWO, each(
        "sparsity",
        given(LEARNED, counted("Sol-S is below both in over half of the layers",
                               mean((S < F) & (S < D)) > 0.5,
                               note=says("Sol-S's is {:.2f} times Sol-F's, mean over layers",
                                         TIMES))),
        lambda table: [lowest(table)])),
    "price-snr-opt-regime-hike": given(TWO, LEARNED, each("sparsity", [
        more("ln(mean gradient at the start, Sol-D / Sol-S), least of the layers",
             least(ln(STARTS[0] / STARTS[1])), "ln"),
        more("ln(bump / start) - ln 3, least of the layers",
             least(ln(by_layer(highest, "mean", "sol_s") / STARTS[1])) - np.log(3), "ln"),
        _placed(f"place of the earliest layer's bump - {BUMP[0]:g}", least(PLACES) - BUMP[0]),
        _placed(f"{BUMP[1]:g} - place of the latest layer's bump", BUMP[1] - highest(PLACES)),
    ], lambda table: [furthest(table)])),
    "price-snr-two-phases": given(TWO, LEARNED, [
        _noisier("Sol-D", "sol_d"), each("sparsity", _noisier("Sol-S{sparsity}", "sol_s"))]),
}  # fmt: skip
