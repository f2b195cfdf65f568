"""Decisions: exact intervals by hand and against scipy, verdicts on values whose truth is known."""

from itertools import product

import numpy as np
import pytest
from scipy import stats

from benchmarks import verdicts as machine
from studies.decide import (
    NEGLIGIBLE,
    NOT_TESTED,
    REFUTED,
    SUPPORTED,
    UNDECIDED,
    Effect,
    clopper_pearson,
    combine,
    counts_needed,
    decide,
    seeds_needed,
    sign_flip,
)  # fmt: skip

CLEAR = np.array([1.0, 1.1, 0.9, 1.02, 1.05, 0.97])
SMALL = np.array([0.10, 0.11, 0.09, 0.10, 0.12, 0.08])
ROUND_0 = np.array([0.1, -0.1, 0.05, 0.02, -0.05, -0.01])


def p_value(values, at):
    """The one-sided p of the sign-flip test of "the mean is at most ``at``", by all signs."""
    off = values - at
    means = [np.mean(off * signs) for signs in product((1, -1), repeat=len(off))]
    return np.mean([mean >= off.mean() - 1e-12 for mean in means])


@pytest.mark.parametrize("seeds", [6, 8])
def test_the_interval_is_what_the_sign_flip_test_does_not_reject(seeds):
    values = np.random.default_rng(0).normal(0.3, 1.0, seeds)
    for level in (0.95, 0.90):
        ((low, high),) = sign_flip(values, level)
        assert p_value(values, low - 1e-6) <= (1 - level) / 2 < p_value(values, low + 1e-6)
        assert p_value(-values, -high - 1e-6) <= (1 - level) / 2 < p_value(-values, -high + 1e-6)


def test_six_seeds_are_the_first_that_decide():
    assert sign_flip(CLEAR, 0.95) == [(0.9, 1.1)]
    assert sign_flip(CLEAR[:5], 0.95)[0] == (-np.inf, np.inf)
    row = decide(Effect("few, and all agree", CLEAR[:5]))
    assert row["verdict"] == UNDECIDED
    assert row["note"] == "only 5 seeds, 5 of them above; about 6 seeds would decide it"
    assert decide(Effect("one", CLEAR[:1]))["note"] == "only 1 seeds, 1 of them above"


def test_many_seeds_draw_their_subsets():
    """9,999 subsets, the same each time; close to the t interval where values are normal."""
    values = np.random.default_rng(1).standard_normal(20)
    row = decide(Effect("", values))
    assert row == decide(Effect("", values))
    expected = stats.ttest_1samp(values, 0).confidence_interval(0.95)
    assert (row["t_low"], row["t_high"]) == pytest.approx((expected.low, expected.high))
    assert (row["low"], row["high"]) == pytest.approx((expected.low, expected.high), abs=0.1)


def test_seeds_needed_is_the_smallest_number_that_decides():
    n = seeds_needed(0.5, 1.0)
    half = {m: stats.t.ppf(0.975, m - 1) / np.sqrt(m) for m in (n - 1, n)}
    assert half[n] < 0.5 <= half[n - 1]
    assert seeds_needed(1e-6, 1.0) == np.inf
    assert seeds_needed(10.0, 1.0) == 6
    assert seeds_needed(10.0, 1.0, 1 - 0.05 / 12) == 9  # 2/512 is the first below 0.05/12


@pytest.mark.parametrize(
    ("effect", "verdict"),
    [
        (Effect("clear", CLEAR), SUPPORTED),
        (Effect("other side", -CLEAR), REFUTED),
        (Effect("wide", np.array([1.0, -1.0, 0.5, 2.0, -0.7, 0.3])), UNDECIDED),
        (Effect("too small to matter", ROUND_0, margin=0.5), NEGLIGIBLE),
        (Effect("small, but certain", SMALL, margin=0.5), NEGLIGIBLE),
        (Effect("small, but nothing said", SMALL), SUPPORTED),
        (Effect("equal", ROUND_0, claim="equal", margin=0.5), SUPPORTED),
        (Effect("not equal", CLEAR, claim="equal", margin=0.5), REFUTED),
        (Effect("perhaps equal", 20 * ROUND_0, claim="equal", margin=0.5), UNDECIDED),
        (Effect("a place", CLEAR, resolution=0.5, kind="place"), SUPPORTED),
        (Effect("grid too coarse", CLEAR, resolution=2.0, kind="place"), UNDECIDED),
        (Effect("few, and they differ", np.array([1.0, -2.0, 3.0])), UNDECIDED),
        (Effect("no value at all", np.array([np.nan] * 6)), UNDECIDED),
        (Effect("5 of 6", np.array([1, 1, 1, 1, 1, 0]), kind="count"), UNDECIDED),
        (Effect("6 of 6", np.ones(6), kind="count"), SUPPORTED),
        (Effect("0 of 6", np.zeros(6), kind="count"), REFUTED),
        (Effect("4 of 6 over 0.1", np.array([1, 1, 1, 1, 0, 0]), kind="count", chance=0.1),
         SUPPORTED),
        (Effect("it holds", np.array([0.01]), claim="equal", margin=0.03, kind="fact"), SUPPORTED),
        (Effect("one of two", np.array([0.01, -0.04]), claim="equal", margin=0.03, kind="fact"),
         REFUTED),
        (Effect("above", np.array([0.1]), kind="fact"), SUPPORTED),
        (Effect("nil", np.array([0.0]), kind="fact"), REFUTED),
    ],
)  # fmt: skip
def test_decisions(effect, verdict):
    row = decide(effect)
    assert row["verdict"] == verdict, row
    assert row["kind"] == effect.kind


def test_a_count_has_clopper_and_pearsons_interval():
    expected = stats.binomtest(5, 6).proportion_ci(0.95, "exact")
    assert clopper_pearson(np.array([1, 1, 1, 1, 1, 0]), 0.95) == [tuple(expected)]
    assert clopper_pearson(np.ones(0), 0.95, 0.90) == [(0.0, 1.0)] * 2
    row = decide(Effect("", np.array([1, 1, 1, 1, 1, 0]), kind="count"))
    assert (row["effect"], row["low"], row["high"]) == pytest.approx((5 / 6, *expected))


def test_counts_needed_is_the_smallest_number_whose_exact_interval_decides():
    """For no seed of fourteen against one in twenty: 72 without one, not one more than 14."""
    n = int(counts_needed(0.0, 0.05, 0.95, 0.95, 15))
    high = {m: stats.binomtest(0, m).proportion_ci(0.95, "exact").high for m in (n - 1, n)}
    assert high[n] < 0.05 <= high[n - 1]
    none = decide(Effect("fails", np.zeros(14), kind="count", chance=0.05))
    assert none["note"] == f"about {n} seeds would decide it"
    assert counts_needed(0.75, 0.5, 0.95, 0.95, 9) == 17  # 13 of 17: from 0.501
    assert counts_needed(0.5, 0.5, 0.95, 0.95, 9) == np.inf


def test_a_fact_has_no_seeds_and_no_interval():
    row = decide(Effect("", np.array([0.01]), kind="fact"))
    assert row["seeds"] == 0
    assert np.isnan([row["low"], row["high"], row["t_low"], row["in_sd"]]).all()


def test_a_spread_of_rounding_is_no_standard_deviation():
    places = np.array([0.1 + 0.2, *[0.3] * 5])
    assert np.isnan(decide(Effect("at", places, kind="place", resolution=0.05))["in_sd"])


@pytest.mark.parametrize(
    ("value", "how", "verdict"),
    [
        (0.0, {}, REFUTED), (2.0, {}, SUPPORTED), (-2.0, {}, REFUTED),
        (0.3, {"margin": 0.5}, REFUTED), (0.3, {"margin": 0.5, "claim": "equal"}, SUPPORTED),
    ],
)  # fmt: skip
def test_identical_values_are_a_count_and_no_variance_of_nil(value, how, verdict):
    row = decide(Effect("", np.full(6, value), "points", **how))
    assert (row["kind"], row["verdict"]) == ("count", verdict)
    assert row["high"] - row["low"] > 0.4
    assert row["note"].startswith(f"{value:.3g} in every seed: counted")
    assert decide(Effect("", np.full(5, value), **how))["verdict"] == UNDECIDED


def test_a_claim_of_many_rows_is_refuted_at_its_share_of_the_level():
    """Support needs no correction; a refutation does, and says how many seeds it takes."""
    assert decide(Effect("", CLEAR), among=12)["verdict"] == SUPPORTED
    row = decide(Effect("", -CLEAR), among=12)
    assert row["verdict"] == UNDECIDED
    assert row["note"] == (
        "refuted by itself, undecided among 12 rows; about 9 seeds would decide it"
    )
    assert decide(Effect("", -np.tile(CLEAR, 2)[:9]), among=12)["verdict"] == REFUTED
    assert decide(Effect("", SMALL, margin=0.5), among=5)["verdict"] == UNDECIDED


def test_slack_is_the_distance_to_the_border_that_decides():
    for effect, expected in (
        (Effect("", CLEAR), 0.9 / 0.2),
        (Effect("", -CLEAR), 0.9 / 0.2),
        (Effect("", CLEAR, claim="equal", margin=0.5), (0.9 - 0.5) / 0.2),
        (Effect("", CLEAR, resolution=0.5, kind="place"), 0.4 / 1.2),
    ):
        assert decide(effect)["slack"] == pytest.approx(expected)
    wide = decide(Effect("", np.array([1.0, -1.0, 0.5, 2.0, -0.7, 0.3])))
    assert wide["slack"] == pytest.approx(-1 / 3)
    ((low, high),) = sign_flip(ROUND_0, 0.90)
    inside = decide(Effect("", ROUND_0, claim="equal", margin=0.5))["slack"]
    assert inside == pytest.approx(min(0.5 - high, low + 0.5) / (high - low))


def test_combination_of_rows():
    assert combine([SUPPORTED, SUPPORTED]) == SUPPORTED
    assert combine([SUPPORTED, UNDECIDED, REFUTED]) == REFUTED
    assert combine([SUPPORTED, NEGLIGIBLE]) == REFUTED
    assert combine([SUPPORTED, UNDECIDED]) == UNDECIDED
    assert combine([SUPPORTED, NOT_TESTED]) == SUPPORTED
    assert combine([NOT_TESTED]) == NOT_TESTED


def test_the_whole_machine_is_rarely_wrong():
    """Of rows and of claims: P(supported | 0) and P(refuted or negligible | m) are at most 5%."""
    table = machine.simulated(rows=3000)
    noise = 3 * np.sqrt(0.05 * 0.95 / table["claims"])  # three standard errors
    wrong = table[REFUTED] + table[NEGLIGIBLE]
    assert (table[SUPPORTED] <= 0.05 + noise)[table["mean"] <= 0].all()
    assert (wrong <= 0.05 + noise)[table["mean"] >= 1].all()
    at_20 = table[(table["seeds"] == 20) & (table["spread"] == 0.5)].set_index(["mean", "rows"])
    assert (at_20.loc[2.0, SUPPORTED] > 0.99).all()
    assert (at_20.loc[-1.0, REFUTED] > 0.95).all()
    assert "| 2 m | 0.5 m | 20 | 30 | 100.0 | 0.0 | 0.0 | 0.0 |" in machine.report(table)
