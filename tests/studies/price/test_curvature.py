"""Rules on curvature, and on gradients' signal and noise, on tables whose truth is known."""

import numpy as np
import pandas as pd
import pytest
from support import QUICK, Verdicts, judged, verdict

from studies import ledger, rules
from studies.decide import NOT_TESTED, REFUTED, SUPPORTED

SEEDS = range(12)
SOLUTIONS = (("sol_d", 0.0), ("sol_f", 0.6), ("sol_s", 0.6), ("sol_f", 0.95), ("sol_s", 0.95))


def verdicts(figure, rows):
    return ledger.verdicts(figure, pd.DataFrame(rows), made=QUICK).set_index("claim")["verdict"]


def base(solution, sparsity, seed, **more):
    common = {
        "key": f"{solution}{sparsity}{seed}",
        "dataset": "digits",
        "network": "mlp",
        "noise": 0.3,
        "diverged": False,
    }
    return {**common, "solution": solution, "sparsity": sparsity, "seed": seed, **more}


def signals(quiet="sol_s", bump_at=15, falling=True, bumps=("1", "2"), reached=(0.93, 0.86)):
    """Two layers over 100 epochs: one solution is the quiet one, and scratch at 0.95 has a bump."""
    rows = []
    for solution, sparsity in SOLUTIONS:
        for seed in SEEDS:
            for epoch in (0, 5, 10, 15, 20, 30, 50, 100):
                scratch = solution == "sol_s" and sparsity == 0.95
                std = (0.5 if solution == quiet else 1.0) * (1 + 0.01 * seed)
                snr = np.exp(-epoch / 50 if falling else epoch / 50) * (1 + 0.01 * seed)
                ends = {"sol_d": 0.95, "sol_f": 0.94, "sol_s": reached[sparsity > 0.9]}
                accuracy = ends[solution] + 0.001 * seed
                for layer in ("1", "2"):
                    bump = 0.5 * (epoch == bump_at and layer in bumps)
                    mean = (0.1 + bump) if scratch else 1.0
                    extra = {
                        "epoch": epoch,
                        "layer": layer,
                        "mean": mean,
                        "std": std,
                        "snr": snr,
                        "test_accuracy": accuracy,
                    }
                    rows.append(base(solution, sparsity, seed, **extra))
    return rows


def test_signal_rules_find_what_is_there():
    found = verdicts("appendix_gradient_snr", signals())
    assert (found == SUPPORTED).all(), found


@pytest.mark.parametrize(
    ("change", "claim"),
    [
        ({"quiet": "sol_f"}, "price-snr-gen-regime-std"),
        ({"bump_at": 100}, "price-snr-opt-regime-hike"),
        ({"bumps": ("1",)}, "price-snr-opt-regime-hike"),
        ({"falling": False}, "price-snr-two-phases"),
    ],
)
def test_signal_rules_refute_the_opposite(change, claim):
    assert verdict(claim, pd.DataFrame(signals(**change)))["verdict"] == REFUTED


def test_signal_rules_need_the_start():
    rows = [row for row in signals() if row["epoch"] > 0]
    assert verdict("price-snr-two-phases", pd.DataFrame(rows))["verdict"] == NOT_TESTED


def test_scratch_networks_that_learned_too_little_are_no_evidence():
    """Six points below the paper's 87% at 0.95: what is said of 0.6 alone still counts."""
    found = verdicts("appendix_gradient_snr", signals(reached=(0.93, 0.80)))
    assert found.pop("price-snr-gen-regime-std") == SUPPORTED
    assert (found == NOT_TESTED).all()
    found = verdicts("appendix_gradient_snr", signals(reached=(0.89, 0.86)))
    assert (found == NOT_TESTED).all()


def test_layers_of_one_network_are_one_number():
    effects = rules.rows(ledger.RULES["price-snr-two-phases"], pd.DataFrame(signals()))
    assert [len(effect.values) for effect in effects] == [len(SEEDS)] * 3


def solutions(fisher=3.0, fit=(1.0, 1.0, 1.0, 1.0, 0.9), rising=1.0, follows=1.0, ratio=1.1):
    """Networks at five sparsities, Sol-S with ``fisher`` times Sol-F's curvature."""
    rows, grid = [], (0.6, 0.7, 0.8, 0.9, 0.95)
    for seed in SEEDS:
        for i, s in enumerate((0.0, *grid)):
            for solution in ("sol_d",) if s == 0 else ("sol_f", "sol_s"):
                scratch = solution == "sol_s"
                trace = (1 + 0.02 * seed) * (fisher if scratch else 1.0) * np.exp(rising * i)
                row = {"fisher": trace, "hessian": trace**follows, "jacobian": 3 * trace**follows}
                row |= {
                    "entropy": trace / 10,
                    "test_accuracy": 0.95 - 0.01 * follows * np.log(trace),
                }
                row |= {"train_accuracy": fit[i - 1] if scratch else 1.0, "epoch": 5}
                row |= {"largest": trace, "quantile_99": trace / 2, "largest_f": ratio * trace}
                row |= {"trace_h": trace, "trace_f": ratio * trace}
                row |= dict.fromkeys(("second_derivative", "divergence"), 0.001 * (1 + seed / 10))
                row |= dict.fromkeys(("expansion", "expansion_reversed"), 0.002 * (1 + seed / 10))
                rows.append(base(solution, s, seed, **row))
    return rows


def test_curvature_rules_find_what_is_there():
    found = verdicts("table2_curvature", solutions())
    assert (found == SUPPORTED).all()
    assert (verdicts("fig4_hessian_spectrum", solutions()) == SUPPORTED).all()


@pytest.mark.parametrize(
    ("change", "claim"),
    [
        ({"fisher": 0.5}, "price-table2-fisher"),
        ({"fisher": 1.5}, "price-table2-fisher"),  # more, but not several times
        ({"fisher": 0.5}, "price-table2-entropy"),
        ({"fisher": 0.5}, "price-poster-table"),
        ({"fisher": 0.5}, "price-curvature-gap-in-regime2"),
        ({"fisher": 0.5}, "price-hessian-spectrum"),
        ({"rising": -1.0}, "price-sharpness-sensitivity-grow"),
        ({"rising": -1.0}, "price-fisher-grows-with-sparsity"),
        ({"follows": -1.0}, "price-fisher-info-curse"),
        ({"ratio": 4.0}, "price-fisher-approximates-hessian"),
    ],
)
def test_curvature_rules_refute_the_opposite(change, claim):
    assert verdict(claim, pd.DataFrame(solutions(**change)))["verdict"] == REFUTED


@pytest.mark.parametrize(("traces", "expected"), [([1, 2, 3, 4, 5], SUPPORTED),
                                                  ([1, 2, 3, 5, 4], SUPPORTED),
                                                  ([1, 3, 2, 5, 4], REFUTED)])  # fmt: skip
def test_the_trace_grows_where_it_hardly_falls(traces, expected):
    """A rank correlation of 0.9 counts as growing, one of 0.8 does not."""
    rows = [base(solution, 0.5 + 0.1 * i, seed, fisher=fisher)
            for solution in ("sol_f", "sol_s") for seed in SEEDS
            for i, fisher in enumerate(traces)]  # fmt: skip
    assert judged("price-fisher-grows-with-sparsity", pd.DataFrame(rows)) == expected


def test_a_ratio_stands_beside_the_printed_one():
    effect, *_ = rules.rows(ledger.RULES["price-table2-fisher"], pd.DataFrame(solutions()))
    assert effect.what == "ln(Tr(F) of Sol-S / Sol-F) - ln 2 at 0.6"
    assert effect.note == "3 times; printed 3.13 to 4.56"
    assert effect.margin == 0
    effect, *_ = rules.rows(ledger.RULES["price-table2-jacobian"], pd.DataFrame(solutions()))
    assert effect.margin == pytest.approx(np.log(1.25) / 3)


def test_a_small_difference_of_curvature_does_not_matter():
    found = Verdicts(pd.DataFrame(solutions(fisher=1.02)))
    assert found["price-table2-hessian"] == found["price-table2-jacobian"] == REFUTED


def test_an_identity_that_fails_in_one_network_is_refuted():
    rows = [row | {"divergence": 0.1 if row["solution"] == "sol_s" else 0.0} for row in solutions()]
    assert verdict("price-fisher-identities", pd.DataFrame(rows))["verdict"] == REFUTED


def test_regimes_that_are_not_there_are_not_tested():
    fitted = Verdicts(pd.DataFrame(solutions(fit=[1.0] * 5)))
    assert fitted["price-curvature-gap-in-regime2"] == NOT_TESTED
    two = Verdicts(pd.DataFrame(solutions(fit=(1.0, 1.0, 0.9, 0.9, 0.9))))
    assert two["price-fisher-info-curse"] == NOT_TESTED
    assert two["price-table2-fisher"] == SUPPORTED
    unfit = [row | {"train_accuracy": 0.5} for row in solutions()]
    found = verdict("price-fisher-approximates-hessian", pd.DataFrame(unfit))
    assert found["verdict"] == NOT_TESTED
