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
from studies.price.regimes import FITTED, PAIR, both_fit, furthest, lowest, scratch_fails
from studies.quantities import (
    agreement, at_least, average, course, final_rows, first, highest, last, lift, ln, mean, numbers,
    pick, reduction, sparsities, trend,
)  # fmt: skip
from studies.rules import (
    Rule, above, counted, each, equal, given, if_any, more, name, needs, only, ratio, rises, rows,
    says,
)  # fmt: skip

NAMES = {"fisher": "Tr(F)", "hessian": "Tr(H)", "jacobian": "Jacobian", "entropy": "entropy"}
BUMP = (0.05, 0.20)  # the paper's window for the bump, in shares of training: epochs 10 to 40

# -- Table 2 and Figure 4 --------------------------------------------------------------------------


def higher(measure: str, more_of: str = "sol_s", less_of: str = "sol_f") -> Rule:
    """One solution has more of a measure than another, on the logarithm of the ratio."""
    found = [at_least(pick(measure, solution=solution), 1e-12) for solution in (more_of, less_of)]
    return ratio(f"{NAMES[measure]} of {name(more_of)} / {name(less_of)}", found[0], found[1])


def grows(measure: str, solution: str) -> Rule:
    """A measure of one solution rises with sparsity."""
    rho = trend(course(measure, "sparsity", solution=solution))
    return more(f"Spearman(sparsity, {NAMES[measure]}) of {name(solution)} - 0", rho, "rho")


def _both_fit(table):
    """The sparse solutions where both fit; two sparsities at least, in every seed."""
    here = np.isclose(table["sparsity"].to_numpy()[:, None], both_fit(table)).any(axis=1)
    found = table[here & (table["solution"] != "sol_d")]
    if found.groupby("seed").size().min() < 4:
        raise NotHere("needs two sparsities or more at which both solutions fit the training set")
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
    return if_any(needs(~(fit < FITTED), "not fitted"), rule)


def _approximates(table):
    pairs = [("trace_f", "trace_h", "Tr(F) / Tr(H)"),
             ("largest_f", "largest", "largest eigenvalue of F / of H")]  # fmt: skip
    found = rows(each("sparsity", [_alike(s, *pair) for s in PAIR for pair in pairs]), table)
    if not found:
        raise NotHere("no solution here fits 99.5% of its training labels")
    return found


# -- workshop Figure 11 ----------------------------------------------------------------------------

TWO = needs(lambda table: len(sparsities(table)) > 1, "needs two sparsities, one in each regime")


def layers(solution: str):
    """The layers of a solution in order of depth."""
    return lambda table: table.loc[table["solution"] == solution, "layer"].unique()


@numbers
def kept(table, measure: str, **cell) -> pd.DataFrame:
    """A measure of one layer over the kept epochs, which must hold the start and two later ones."""
    wide = course(measure, **cell)(table)
    if wide.empty or wide.columns[0] != 0 or wide.shape[1] < 3:
        raise NotHere("needs the start, epoch 0, and two later epochs among keep_epochs")
    return wide


@numbers
def _late_noise(table, solution):
    """The mean logarithm of the noise in the last quarter of training, by seed and layer."""
    late = lift(lambda wide: np.log(wide.loc[:, wide.columns >= 0.75 * wide.columns[-1]]))
    found = {k: late(kept("std", solution=solution, layer=k)) for k in layers(solution)(table)}
    return pd.DataFrame({layer: noise(table).mean(axis=1) for layer, noise in found.items()})


D, F, S = (_late_noise(solution) for solution in ("sol_d", *PAIR))
TIMES = lift(lambda gap: np.exp(gap.mean(axis=None)))(S - F)
SCRATCH = kept("mean", solution="sol_s")
PLACE = reduction(lambda wide: wide.idxmax(axis=1) / wide.columns[-1])(SCRATCH)


@lift
def _half_step(wide):
    """Half the largest step between epochs in the window of the bump, as a share of training."""
    end = wide.columns[-1]
    return max(np.diff(wide.columns[wide.columns <= BUMP[1] * end]), default=end) / 2 / end


@lift
def _bump(places):
    if (places < 1).all():
        return f"bump at {places.mean():.2f} of training"
    return "some seed has its maximum at the end"


def _placed(what, values):
    half = _half_step(SCRATCH)
    return more(f"{{layer}}: {what}", values, "training", resolution=half, note=_bump(PLACE))


def _noisier(where, solution):
    """The signal-to-noise ratio falls from the start to the end, in every layer."""
    snr = kept("snr", solution=solution)
    what = f"{where}, {{layer}}: ln(SNR at the start / at the end)"
    return each("layer", more(what, ln(first(snr) / last(snr)), "ln"), layers(solution), "{}")


RULES = {
    "price-table2-fisher": each("sparsity", higher("fisher"), both_fit),
    "price-table2-hessian": each("sparsity", higher("hessian"), both_fit),
    "price-table2-jacobian": each("sparsity", higher("jacobian"), both_fit),
    "price-table2-entropy": each("sparsity", higher("entropy"), both_fit),
    "price-fisher-grows-with-sparsity": [
        rises(f"Tr(F) of {name(solution)} with sparsity",
              course("fisher", "sparsity", solution=solution), least_rho=0.9) for solution in PAIR],
    "price-sharpness-sensitivity-grow": [
        grows(measure, solution) for measure in ("hessian", "jacobian") for solution in PAIR],
    "price-poster-table": each("sparsity", [
        [higher(measure), higher(measure, "sol_f", "sol_d")]
        for measure in ("fisher", "hessian", "jacobian")
    ]),
    "price-curvature-gap-in-regime2": each(
        "sparsity", [higher("hessian"), higher("jacobian")], scratch_fails),
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
    "price-fisher-approximates-hessian": _approximates,
    "price-fisher-identities": given(
        final_rows, only(lambda table: table["solution"] != "sol_d", "needs sparse solutions"),
        [more(f"0.02 - relative error: {words}", 0.02 - pick(words.replace(" ", "_"), "max"))
         for words in ("second derivative", "divergence", "expansion", "expansion reversed")]),
    "price-snr-lenet-accuracies": each("sparsity", above("test_accuracy", *PAIR)),
    "price-snr-gen-regime-std": given(TWO, each(
        "sparsity", counted("Sol-S is below both in over half of the layers",
                            mean((S < F) & (S < D)) > 0.5,
                            note=says("Sol-S's is {:.2f} times Sol-F's, mean over layers", TIMES)),
        lambda table: [lowest(table)])),
    "price-snr-opt-regime-hike": given(TWO, each("sparsity", each("layer", [
        more("{layer}: ln(mean gradient at the start, Sol-D / Sol-S)",
             ln(first(kept("mean", solution="sol_d")) / first(SCRATCH)), "ln"),
        more("{layer}: ln(bump / start) - ln 3",
             ln(highest(SCRATCH) / first(SCRATCH)) - np.log(3), "ln"),
        _placed(f"place of the bump - {BUMP[0]:g}", PLACE - BUMP[0]),
        _placed(f"{BUMP[1]:g} - place of the bump", BUMP[1] - PLACE),
    ], layers("sol_s"), "{}"), lambda table: [furthest(table)], "")),
    "price-snr-two-phases": [_noisier("Sol-D", "sol_d"),
                             each("sparsity", _noisier("Sol-S{sparsity}", "sol_s"))],
}  # fmt: skip
