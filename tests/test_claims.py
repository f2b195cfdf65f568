"""Decisions: intervals against scipy, verdicts on tables whose truth is known, the ledger and its rules in step."""

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from lib import claims
from lib.claims import noise, regimes
from lib.claims.decisions import (
    NOT_TESTED,
    REFUTED,
    SUPPORTED,
    UNDECIDED,
    Effect,
    combine,
    decide,
    interval,
    seeds_needed,
)

SEEDS = range(6)


def table(
    gap_test=0.02,
    gap_train=lambda s: 0.0 if s < 0.95 else 0.03,
    sparsities=(0.8, 0.9, 0.95, 0.98),
    spread=1e-3,
    fit=1.0,
):
    """A table of finished runs in which Sol-F beats Sol-S by known gaps, with a little noise by seed."""
    rng, rows = np.random.default_rng(0), []
    for seed in SEEDS:
        base = {
            "seed": seed,
            "dataset": "digits",
            "network": "mlp",
            "noise": 0.0,
            "epoch": 10,
            "diverged": False,
        }
        for s in sparsities:
            for solution, sign in (("sol_f", 0), ("sol_s", 1)):
                rows.append(
                    {
                        **base,
                        "key": f"{solution}{seed}{s}",
                        "solution": solution,
                        "sparsity": s,
                        "mask": f"m{seed}{s}",
                        "train_accuracy": fit - sign * gap_train(s),
                        "test_accuracy": 0.95
                        - sign * gap_test
                        - 0.05 * s
                        + spread * rng.standard_normal(),
                        "train_loss": 0.01 + sign * 0.02,
                        "test_loss": 0.2 + sign * 0.05 + spread * rng.standard_normal(),
                        "train_entropy": 0.02 + 0.03 * sign + 0.1 * (s > 0.95) * (1 + sign),
                    }
                )
        rows.append(
            {
                **rows[-1],
                "key": f"d{seed}",
                "solution": "sol_d",
                "sparsity": 0.0,
                "mask": "",
                "test_accuracy": 0.97,
            }
        )
    return pd.DataFrame(rows)


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


def test_every_ledger_entry_has_a_rule_and_every_rule_an_entry():
    assert set(claims.RULES) == set(claims.ledger())
    for name, entry in claims.ledger().items():
        assert {"figure", "source", "says", "rule"} <= set(entry), name


def test_known_gaps_are_found():
    verdicts = claims.verdicts("fig1_regimes", table(), preset="quick").set_index("claim")[
        "verdict"
    ]
    for claim in (
        "gap-test-acc",
        "regime1-train-match",
        "regime2-train-gap",
        "regime-boundary",
        "loss-test-gap",
        "capacity-control",
    ):
        assert verdicts[f"price-{claim}"] == SUPPORTED, claim
    assert verdicts["price-dense-reference"] == NOT_TESTED
    assert (regimes.boundary(table()) == 0.95).all()


def test_a_gap_of_the_other_sign_is_refuted():
    verdicts = claims.verdicts("fig1_regimes", table(gap_test=-0.02), preset="quick").set_index(
        "claim"
    )["verdict"]
    assert verdicts["price-gap-test-acc"] == REFUTED
    assert verdicts["price-regime1-train-match"] == REFUTED


def test_different_masks_are_noticed():
    broken = table()
    broken.loc[(broken["solution"] == "sol_s") & (broken["seed"] == 0), "mask"] = "another"
    verdicts = claims.verdicts("fig1_regimes", broken, preset="quick").set_index("claim")["verdict"]
    assert verdicts["price-capacity-control"] != SUPPORTED


def test_no_border_where_training_never_separates():
    flat = table(gap_train=lambda s: 0.0)
    assert regimes.boundary(flat).isna().all()
    verdicts = claims.verdicts("fig1_regimes", flat, preset="quick").set_index("claim")["verdict"]
    assert verdicts["price-regime-boundary"] == REFUTED
    assert verdicts["price-regime2-train-gap"] == NOT_TESTED


def test_diverged_runs_do_not_vote():
    bad = table()
    bad.loc[bad["seed"] == 0, "diverged"] = True
    bad.loc[bad["seed"] == 0, "test_accuracy"] = 0.0
    row = (
        claims.verdicts("fig1_regimes", bad, preset="quick")
        .set_index("claim")
        .loc["price-gap-test-acc"]
    )
    assert row["seeds"] == len(SEEDS) - 1


def noisy_run(solution, seed, memorised, correct):
    """One run under noise whose memorised and correct shares go linearly to the given ends."""
    epochs = np.arange(0, 11)
    share = epochs / 10
    return pd.DataFrame(
        {
            "key": f"{solution}{seed}",
            "solution": solution,
            "seed": seed,
            "sparsity": 0.0 if solution == "sol_d" else 0.9,
            "dataset": "digits",
            "network": "mlp",
            "noise": 0.3,
            "diverged": False,
            "epoch": epochs,
            "flipped_memorised": memorised * share,
            "flipped_correct": 0.9 + (correct - 0.9) * share,
        }
    )


def test_onset_is_the_epoch_from_which_memorised_stays_above_correct():
    run = noisy_run("sol_d", 0, memorised=1.0, correct=0.0)
    assert noise.onset(run, "sol_d")[0] == 5  # 0.1 t > 0.9 - 0.09 t from t = 5 on
    run.loc[run["epoch"] == 0, "flipped_memorised"] = (
        1.0  # an early crossing that does not last is no onset
    )
    assert noise.onset(run, "sol_d")[0] == 5
    never = noisy_run("sol_s", 0, memorised=0.2, correct=0.8)
    assert noise.onset(never, "sol_s")[0] == 11
    always = run.assign(flipped_correct=0.0, flipped_memorised=1.0)
    assert noise.onset(always, "sol_d")[0] == 0


def test_scoreboard_is_generated_from_the_tables(tmp_path):
    import json

    from lib.claims.__main__ import scoreboard

    folder = tmp_path / "fig1_regimes" / "quick-digits"
    folder.mkdir(parents=True)
    claims.verdicts("fig1_regimes", table(), preset="quick").to_csv(
        folder / "verdicts.csv", index=False
    )
    made = {
        "parameters": {
            "preset": "quick",
            "dataset": "digits",
            "network": "mlp",
            "seeds": list(SEEDS),
        }
    }
    (folder / "manifest.json").write_text(json.dumps(made))
    text = scoreboard(tmp_path)
    assert "price-gap-test-acc" in text
    assert "✔ supported" in text
    assert "would come out wrong by chance" in text
