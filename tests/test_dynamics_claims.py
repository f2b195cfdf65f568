"""Rules on gradients' signal and noise, on cosines and on the Fisher trace under noise, on tables whose truth is known."""

import numpy as np
import pandas as pd
import pytest

from lib import claims
from lib.claims import cosine
from lib.claims.decisions import NOT_TESTED, REFUTED, SUPPORTED

SEEDS = range(5)
SOLUTIONS = (("sol_d", 0.0), ("sol_f", 0.6), ("sol_s", 0.6), ("sol_f", 0.95), ("sol_s", 0.95))


def verdicts(figure, rows):
    return claims.verdicts(figure, pd.DataFrame(rows), preset="quick").set_index("claim")["verdict"]


def base(solution, sparsity, seed, **more):
    common = {
        "key": f"{solution}{sparsity}{seed}",
        "dataset": "digits",
        "network": "mlp",
        "noise": 0.3,
        "diverged": False,
    }
    return {**common, "solution": solution, "sparsity": sparsity, "seed": seed, **more}


def signals(quiet="sol_s", bump_at=15, falling=True):
    """Two layers over 100 epochs: one solution is the quiet one, and scratch at 0.95 has a bump."""
    rows = []
    for solution, sparsity in SOLUTIONS:
        for seed in SEEDS:
            for epoch in (0, 5, 10, 15, 20, 30, 50, 100):
                scratch = solution == "sol_s" and sparsity == 0.95
                mean = (0.1 + 0.5 * (epoch == bump_at)) if scratch else 1.0
                std = (0.5 if solution == quiet else 1.0) * (1 + 0.01 * seed)
                snr = np.exp(-epoch / 50 if falling else epoch / 50) * (1 + 0.01 * seed)
                accuracy = {"sol_d": 0.95, "sol_f": 0.94, "sol_s": 0.9}[solution] + 0.001 * seed
                for layer in ("1", "2"):
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
        ({"falling": False}, "price-snr-two-phases"),
    ],
)
def test_signal_rules_refute_the_opposite(change, claim):
    assert verdicts("appendix_gradient_snr", signals(**change))[claim] == REFUTED


def test_signal_rules_need_the_start():
    rows = [row for row in signals() if row["epoch"] > 0]
    assert verdicts("appendix_gradient_snr", rows)["price-snr-two-phases"] == NOT_TESTED


def traces(collapse=True):
    """Sol-D peaks at the first fall, epoch 40, and collapses (or not); Sol-S rises; flipped is above clean in both."""
    rows = []
    for solution in ("sol_d", "sol_f", "sol_s"):
        for seed in SEEDS:
            for epoch in (0, 10, 20, 30, 50, 100):
                rise = 100.0 + 50 * min(epoch, 40)
                clean = (
                    rise / (50 if collapse else 1) ** (epoch > 40)
                    if solution == "sol_d"
                    else 50.0 + epoch
                )
                clean *= 1 + 0.01 * seed
                rows.append(
                    base(
                        solution,
                        0.0,
                        seed,
                        epoch=epoch,
                        clean=clean,
                        flipped=1.2 * clean,
                        first_fall=40.0,
                    )
                )
    return rows


def test_fisher_rules():
    assert (verdicts("fig7_noise_fisher", traces()) == SUPPORTED).all()
    assert (
        verdicts("fig7_noise_fisher", traces(collapse=False))["price-noisy-fisher-scratch-rises"]
        == REFUTED
    )
    constant = [row | {"first_fall": np.nan} for row in traces()]
    assert (verdicts("fig7_noise_fisher", constant) == NOT_TESTED).all()


def aligned(shift=0.0, second=(10, 10, 10, 70)):
    """Early cosines around ``shift``, late ones wide and positive; the classes of the most aligned ones given."""
    rows = []
    for seed in SEEDS:
        early = {
            "alpha": 0.3,
            "mean": shift + 1e-4 * seed,
            "std": 0.01,
            "above_zero": 0.5,
            "top": [90, 5, 3, 2],
        }
        late = {
            "alpha": 0.9,
            "mean": 0.05 + 1e-3 * seed,
            "std": 0.04,
            "above_zero": 0.9,
            "top": list(second),
        }
        rows += [base("sol_f", 0.9, seed, **early), base("sol_f", 0.9, seed, **late)]
    return rows


def test_cosine_rules():
    assert (verdicts("fig8_cosine", aligned()) == SUPPORTED).all()
    assert verdicts("fig8_cosine", aligned(shift=0.02))["price-cos-near-init-zero"] == REFUTED
    assert (
        verdicts("fig8_cosine", aligned(second=(90, 5, 3, 2)))[
            "price-cos-class-distribution-differs"
        ]
        == REFUTED
    )
    assert (
        verdicts("fig8_cosine", [row for row in aligned() if row["alpha"] > 0.5]) == NOT_TESTED
    ).all()


def test_chance_is_the_95_percent_quantile_of_two_samples_of_one_distribution():
    rng, share = np.random.default_rng(1), np.array([0.4, 0.3, 0.2, 0.1])
    pairs = rng.multinomial(200, share, size=(300, 2)).astype(float)
    beyond = np.mean([cosine.distance(a, b) > cosine.chance(a, b) for a, b in pairs])
    assert 0.02 < beyond < 0.09
    assert cosine.distance(np.array([1.0, 0.0]), np.array([0.0, 4.0])) == 1
