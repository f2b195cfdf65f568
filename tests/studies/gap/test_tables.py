"""The gap study's table: arms, costs, shares of the gap with their intervals, choices."""

import json

import numpy as np
import pandas as pd
import pytest
from support import carry_out, images_of, small
from support import gap_table as table

from lib.data import sets
from lib.runs.ledgers import ledgers
from lib.specs.run import Run, finetune, scratch
from studies.decide import fieller
from studies.gap.page import page
from studies.gap.plans import equal_epochs
from studies.gap.tables import on_validation, shares, table_of, with_fisher


def test_fieller_by_hand():
    """Both means 3, variances 1 and covariance 1/2 of three seeds: 2 r² - 3 r + 2 by t² = 4."""
    one, other = np.array([2.0, 3.0, 4.0]), np.array([3.0, 2.0, 4.0])
    level = 0.81649658  # at which t² is 4 with two degrees of freedom: p = t / sqrt(2 + t²)
    a = 9 - 4 / 3
    b = 9 - 4 / 3 * 0.5
    root = np.sqrt(b * b - a * a)
    assert fieller(one, other, level) == pytest.approx((1, (b - root) / a, (b + root) / a))


def test_fieller_covers_the_true_ratio():
    """In 95% of many draws of eight pairs that vary together, and on both sides alike."""
    stream = np.random.default_rng(3)
    covered, below, count = 0, 0, 4000
    for _ in range(count):
        other = stream.normal(2.0, 1.0, 8)
        one = 0.6 * 2.0 + 0.8 * (other - 2.0) + stream.normal(0.0, 0.5, 8)
        _, low, high = fieller(one, other)
        if np.isnan(low):  # unbounded: it holds the ratio
            covered += 1
        covered += low <= 0.6 <= high
        below += high < 0.6
    assert covered / count == pytest.approx(0.95, abs=0.011)
    assert below / count == pytest.approx(0.025, abs=0.008)


def test_fieller_without_a_gap():
    """Where the denominator may be 0 there is a ratio and no interval."""
    ratio, low, high = fieller(np.ones(4), np.array([-1.0, 2.0, -1.0, 2.0]))
    assert ratio == pytest.approx(2.0)
    assert np.isnan([low, high]).all()


def test_shares_of_a_known_gap():
    """Of four points Sol-F closes all, N three quarters, Sol-S nothing; without a gap no share."""
    found = shares(table(matched=3.0)).set_index("arm")
    assert found.loc["sol_f", ["share", "low", "high"]].tolist() == pytest.approx([1, 1, 1])
    assert found.loc["sol_s", "share"] == 0
    assert found.loc["scale", "share"] == pytest.approx(0.75, abs=0.02)
    assert found.loc["matched", "low"] < 0.75 < found.loc["matched", "high"]
    none = shares(table(sol_f=0.0)).set_index("arm")
    assert none.loc["scale", "lead"] == pytest.approx(3.0, abs=0.1)
    assert none[["share", "low", "high"]].isna().all(axis=None)


def test_the_page_has_a_line_an_arm(tmp_path):
    """What closed how much on clean labels, at what cost beside N's; dense networks have none."""
    place = tmp_path / "gap_causes" / "desktop-mnist"
    place.mkdir(parents=True)
    made = {"dataset": "mnist", "network": "lenet-300-100", "seeds": [3, 5]}
    (place / "manifest.json").write_text(json.dumps({"parameters": made}), encoding="utf-8")
    clean, noisy = table(matched=3.0), table(noise=0.3, matched=0.0)
    earlier = clean.assign(epoch=0, test_accuracy=0.1)
    costs = {"sparse_flops": 10.0, "total_flops": 40.0}
    both = pd.concat([clean, earlier, noisy.assign(key=noisy["key"] + "noisy")]).assign(**costs)
    both.loc[both["arm"] == "matched", "sparse_flops"] = 14.0
    both.to_csv(place / "by_epoch.csv.gz", index=False)
    alone = tmp_path / "gap_causes" / "mine"  # without the arms that others are compared with
    alone.mkdir()
    clean[clean["arm"] == "matched"].to_csv(alone / "by_epoch.csv.gz", index=False)
    text = page(tmp_path)
    assert "## [gap_causes/desktop-mnist](gap_causes/desktop-mnist)" in text
    assert "mnist, all images; lenet-300-100; seeds 3, 5." in text
    (line,) = (line for line in text.splitlines() if "units matched" in line)
    sparsity, arm, seeds, accuracy, share, *_, sparse, total = line[2:-2].split(" | ")
    assert (sparsity, arm, seeds, sparse, total) == (
        "0.95", "N, units matched to Init-F", "10", "1.4", "1",
    )  # fmt: skip
    ends = clean[clean["arm"] == "matched"]["test_accuracy"]
    assert float(accuracy) == pytest.approx(100 * ends.mean(), abs=0.006)
    assert share == "{:.2f} [{:.2f}, {:.2f}]".format(
        *shares(clean).set_index("arm").loc["matched", ["share", "low", "high"]]
    )
    assert "Sol-D" not in text
    assert "mine" not in text


def test_the_table_of_runs(store):
    """A row per arm, run and epoch, with what it cost, and the wrong labels that were chosen."""
    dense = [Run.dense(small(noise=0.4), seed=seed) for seed in (0, 1)]
    plain = [scratch(d, sparsity=0.8, form="neuron", keep=(1,)) for d in dense]
    rule = {"name": "top_fisher", "pool": 3}
    chosen = [scratch(d, sparsity=0.8, form="neuron", selection=rule) for d in dense]
    arms = {"dense": dense, "scale": plain, "top_fisher": chosen, "scale_tuned": plain}
    runs = dense + plain + chosen
    made = table_of(arms, carry_out(runs, store), store)
    assert made.groupby("arm").size().to_dict() == dict.fromkeys(arms, 8)
    costs = ledgers(runs, store).set_index("key")
    for column in ("steps", "sparse_flops", "total_flops"):
        assert (made[column] == made["key"].map(costs[column])).all()
    wrong = made.groupby("arm")["chosen_wrong"].first()
    facts = store.finished(chosen[0].key).info["chosen"]
    assert wrong["top_fisher"] == pytest.approx(np.mean([share for _, _, share, _ in facts]))
    assert 0.2 < wrong["top_fisher"] < 0.9
    assert np.isnan(wrong["scale"])
    traced = with_fisher(made, plain, store, at=(1,), examples=40, device="cpu")
    assert len(traced) == len(made)
    assert (traced["fisher"].notna() == (traced["key"].isin([r.key for r in plain])
            & (traced["epoch"] == 1))).all()  # fmt: skip


def test_what_is_best_on_held_out_examples(store):
    """A rate that learns is chosen before one that does not."""
    whole = sets.load("digits", train=150, test=80)
    tried = {}
    for lr in (1e-6, 0.1):
        dense = Run.dense(small(train_examples=100, lr=0.1, sparse_lr=lr, sparse_epochs=25), seed=0)
        tried[lr] = [finetune(dense, sparsity=0.5)]
        tried[lr, "scratch"] = [scratch(dense, sparsity=0.5)]
    carry_out([run for runs in tried.values() for run in runs], store)
    found = on_validation(tried, store, whole, 50)
    assert len(images_of(tried[0.1][0]).y_train) == 100
    assert found[[(0.1, "scratch")]].item() > found[[(1e-6, "scratch")]].item() + 20
    assert found.between(0, 100).all()


@pytest.mark.parametrize(("rule", "each"), [("hard_first", 1), ("low_fisher_first", 2)])
def test_epochs_of_equal_flops(rule, each, store):
    """The arm costs no more than plain training, and with one epoch more it would."""
    setup = small(epochs=10, sparse_epochs=10)
    passes = 4 * 0.5 * each
    short = equal_epochs(10, passes)
    few = small(epochs=10, sparse_epochs=short)
    dense = Run.dense(setup, seed=0)
    runs = [
        scratch(dense, sparsity=0.8),
        scratch(dense.under(few), sparsity=0.8, selection={"name": rule, "pool": 4, "until": 0.5}),
    ]
    carry_out(runs, store)
    plain, arm = ledgers(runs, store)["sparse_flops"]
    # batches and pools are whole: 150 examples in five batches of 32
    assert arm <= plain * 1.05
    assert arm * (short + 1) / short > plain * 0.95
