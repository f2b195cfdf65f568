"""Kinds of evidence, preconditions, and diverged runs."""

import numpy as np
import pandas as pd
import pytest

from studies import evidence, ledger, presets
from studies.decide import NotHere

DIGITS = {"preset": "quick", "dataset": "digits", "network": "mlp"}


def made(figure, preset, **given):
    return presets.settings(figure, preset, **given).model_dump(mode="json")


@pytest.mark.parametrize(
    ("claim", "preset", "given", "expected"),
    [
        ("price-gap-test-acc", "paper", {}, "own"),
        ("price-gap-test-acc", "paper", {"seeds": 2, "measure_every": 10}, "own"),
        ("price-gap-test-acc", "paper", {"epochs": 20}, "near"),
        ("price-gap-test-acc", "paper", {"dataset": "cifar10"}, "analogue"),
        ("price-gap-test-acc", "desktop", {"dataset": "cifar10"}, "analogue"),
        ("price-gap-test-acc", "desktop", {}, "analogue"),
        ("price-gap-test-acc", "quick", {}, "toy"),
        ("price-noisy-test-order", "paper", {"network": "resnet-20"}, "near"),
        ("price-capacity-control", "quick", {}, "own"),  # an identity: any network will do
        ("price-fisher-mlp-traces", "desktop", {}, "own"),  # the study's own 12-bit setting
        ("price-fisher-mlp-traces", "quick", {}, "near"),
        ("early-fig1-vgg11-cifar10", "paper", {"network": "vgg-11"}, "own"),
        ("early-fig1-vgg11-cifar10", "paper", {}, "analogue"),
        ("early-model-size", "desktop", {}, "analogue"),
        ("early-model-size", "paper", {}, "own"),
        ("early-model-size", "desktop", {"dataset": "cifar10"}, "near"),
        ("flow-table5", "desktop", {}, "own"),
        ("flow-table5", "paper", {}, "analogue"),
        ("flow-table1", "paper", {}, "own"),
        ("flow-t1-vgg-init", "paper", {}, "analogue"),
        ("flow-t1-vgg-init", "imagenet_vgg16", {}, "own"),
        ("flow-erk-better", "desktop", {}, "analogue"),
    ],
)  # fmt: skip
def test_kinds_of_evidence(claim, preset, given, expected):
    entry = ledger.ledger()[claim]
    kind, apart = evidence.kind(entry, made(entry["figure"], preset, **given))
    assert kind == expected, apart
    assert (apart == "") == (expected == "own")


def test_near_says_how():
    entry = ledger.ledger()["price-gap-test-acc"]
    said = made("fig1_regimes", "paper", epochs=20, train_examples=1500, network="resnet-20")
    assert evidence.kind(entry, said) == (
        "near",
        "resnet-20, train examples 1500 for all, epochs 20 for 200",
    )
    assert evidence.kind(entry, DIGITS) == ("toy", "mlp on digits")


def test_what_is_said_of_a_claim_can_be_looked_up():
    for name, entry in ledger.ledger().items():
        about = entry.get("about", {})
        assert about == "any" or set(about) <= {"data", "network", "preset"}, name
        if entry["figure"] in presets.catalogue():  # else its notebook is still to be written
            evidence.kind(entry, DIGITS)
        assert set(entry) & {"names", "untrained"} == {
            flag for flag in ("names", "untrained") if entry.get(flag) is True
        }


def table(dense=(1.0, 0.97), sparse=0.9, low=0.9, **columns):
    """Two seeds; sparse networks at 0.8 end at ``sparse``, Sol-S at 0.95 ends at ``low``."""
    ends = {("sol_d", 0.0): dense[1], ("sol_f", 0.95): sparse, ("sol_s", 0.95): low}
    ends |= {(solution, 0.8): sparse for solution in ("sol_f", "sol_s")}
    rows = [
        {"key": f"{solution}{sparsity}{seed}", "seed": seed, "solution": solution, "epoch": epoch,
         "sparsity": sparsity, "dataset": "digits", "network": "mlp", "noise": 0.0,
         "diverged": False, "train_accuracy": dense[0] if epoch else 0.1, "train_loss": 0.1,
         "test_accuracy": end if epoch else 0.99}
        for (solution, sparsity), end in ends.items() for seed in (0, 1) for epoch in (0, 5)
    ]  # fmt: skip
    return pd.DataFrame(rows).assign(**columns)


def test_networks_that_trained_are_all_kept():
    kept, left_out = evidence.trained(table(), {}, DIGITS)
    assert kept.equals(table())
    assert left_out == []


@pytest.mark.parametrize("dense", [(1.0, 0.4), (0.8, 0.97)])
def test_dense_networks_that_did_not_train_prove_nothing(dense):
    with pytest.raises(NotHere, match=r"the dense networks \(mlp\) end at"):
        evidence.trained(table(dense), {}, DIGITS)
    assert len(evidence.trained(table(dense), {"untrained": True}, DIGITS)[0]) == len(table())
    assert len(evidence.trained(table(dense), {"floor": [0.7, 0.3]}, DIGITS)[0]) == len(table())
    noisy = evidence.trained(table(dense, noise=0.3), {}, DIGITS)
    assert len(noisy[0]) == len(table())


def test_the_best_of_the_dense_settings_counts():
    both = pd.concat([table(weight_decay=0.1), table((0.5, 0.4), weight_decay=9.0)])
    both["key"] += both["weight_decay"].astype(str)
    assert len(evidence.trained(both, {}, DIGITS)[0]) == len(both)


def test_a_sparsity_at_chance_is_left_out_and_told():
    kept, left_out = evidence.trained(table(low=0.15), {}, DIGITS)
    assert set(kept["sparsity"]) == {0.0, 0.8}
    assert left_out == ["at 0.95 sol_s mlp ends at 15.0%, chance is 10.0%"]
    with pytest.raises(NotHere, match=r"at 0\.8 sol_f mlp ends .* at 0\.8 sol_s"):
        evidence.trained(table(sparse=0.1, low=0.1), {}, DIGITS)


def test_fewer_examples_have_a_floor_of_their_own():
    ends = table((1.0, 0.65), dataset="cifar10", network="resnet-20")
    few = {**DIGITS, "train_examples": 4000}
    assert len(evidence.trained(ends, {}, few)[0]) == len(ends)
    with pytest.raises(NotHere, match=r"below 99\.0% and 90\.0%: untrained"):
        evidence.trained(ends, {}, DIGITS)


def test_a_diverged_run_is_at_chance():
    runs = table()
    runs.loc[runs["key"] == "sol_s0.951", "diverged"] = True
    counted = evidence.at_chance(runs).set_index("key")
    lost = counted.loc["sol_s0.951"]
    assert set(lost["test_accuracy"]) == set(lost["train_accuracy"]) == {0.1}
    assert lost["train_loss"].tolist() == pytest.approx([np.log(10)] * 2)
    assert set(counted.loc["sol_s0.950", "test_accuracy"]) == {0.9, 0.99}


def test_what_can_be_shown():
    """Rows with every measure; where there are none a sentence that says why, and no traceback."""
    table = pd.DataFrame(
        {"key": ["a", "a", "b"], "diverged": [False, False, True], "loss": [1.0, np.nan, np.nan]}
    )
    assert evidence.shown(table, "loss").index.tolist() == [0]
    assert evidence.lost(table) == ["1 of 2 runs diverged"]
    assert evidence.lost(table[:2]) == evidence.lost(None) == []
    with pytest.raises(NotHere) as ended:
        evidence.shown(table, "loss", "fisher", why="noise is 0")
    sentence = (
        "The notebook ends here: no run has loss and fisher; noise is 0; 1 of 2 runs diverged."
    )
    assert str(ended.value) == sentence
    assert ended.value._render_traceback_() == [sentence]
