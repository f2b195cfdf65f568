"""Decisions: intervals against scipy, verdicts on values whose truth is known."""

import numpy as np
import pytest
from scipy import stats

from studies.decide import (
    REFUTED,
    SUPPORTED,
    UNDECIDED,
    Effect,
    combine,
    decide,
    interval,
    seeds_needed,
)


def test_interval_is_the_t_interval():
    values = np.array([0.1, 0.4, 0.35, 0.2, 0.3])
    expected = stats.ttest_1samp(values, 0).confidence_interval(0.95)
    assert interval(values) == pytest.approx((expected.low, expected.high))


def test_seeds_needed_is_the_smallest_number_that_decides():
    n = seeds_needed(0.5, 1.0)
    half = {m: stats.t.ppf(0.975, m - 1) / np.sqrt(m) for m in (n - 1, n)}
    assert half[n] < 0.5 <= half[n - 1]
    assert seeds_needed(1e-6, 1.0) is None


@pytest.mark.parametrize(
    ("effect", "verdict"),
    [
        (Effect("clear", np.array([1.0, 1.1, 0.9, 1.0, 1.05])), SUPPORTED),
        (Effect("other side", -np.array([1.0, 1.1, 0.9, 1.0, 1.05])), REFUTED),
        (Effect("wide", np.array([1.0, -1.0, 0.5, 2.0, -0.7])), UNDECIDED),
        (
            Effect("too small to matter", np.array([0.1, -0.1, 0.05, 0.0, -0.05]), margin=0.5),
            REFUTED,
        ),
        (
            Effect("small but certain", np.array([0.10, 0.11, 0.09, 0.10, 0.10]), margin=0.5),
            SUPPORTED,
        ),
        (Effect("exactly nothing", np.zeros(5)), REFUTED),
        (
            Effect("equal", np.array([0.1, -0.1, 0.05, 0.0, -0.05]), claim="equal", margin=0.5),
            SUPPORTED,
        ),
        (
            Effect("not equal", np.array([1.0, 1.1, 0.9, 1.0, 1.05]), claim="equal", margin=0.5),
            REFUTED,
        ),
        (
            Effect(
                "perhaps equal", np.array([0.9, -0.9, 0.6, 0.1, -0.3]), claim="equal", margin=0.5
            ),
            UNDECIDED,
        ),
        (Effect("grid too coarse", np.array([1.0, 1.0, 1.0, 1.0, 1.2]), resolution=2.0), UNDECIDED),
        (Effect("few, but all agree", np.array([1.0, 2.0, 3.0])), SUPPORTED),
        (Effect("few, and they differ", np.array([1.0, -2.0, 3.0])), UNDECIDED),
        (Effect("no value at all", np.array([np.nan] * 5)), UNDECIDED),
    ],
)
def test_decisions(effect, verdict):
    row = decide(effect)
    assert row["verdict"] == verdict, row
    if verdict == UNDECIDED and len(effect.values) == 5 and np.isfinite(effect.values).all():
        assert "seeds would decide it" in row["note"]


def test_a_verdict_from_few_seeds_says_so():
    assert "only 3 seeds" in decide(Effect("", np.array([1.0, 2.0, 3.0])))["note"]


def test_combination_over_sparsities():
    assert combine([SUPPORTED, SUPPORTED]) == SUPPORTED
    assert combine([SUPPORTED, UNDECIDED, REFUTED]) == REFUTED
    assert combine([SUPPORTED, UNDECIDED]) == UNDECIDED


def test_five_percent_of_true_nothings_are_called_something():
    """The decision keeps its level: under no difference, about 5% of 5-seed tables get a side."""
    rng = np.random.default_rng(1)
    sides = [
        decide(Effect("", rng.standard_normal(5)))["verdict"] != UNDECIDED for _ in range(2000)
    ]
    assert np.mean(sides) == pytest.approx(0.05, abs=0.02)
