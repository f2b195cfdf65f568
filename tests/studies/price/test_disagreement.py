"""The rules of Figure 5 on pairs of networks whose truth is known."""

import numpy as np
import pandas as pd
import pytest
from scipy import stats
from support import QUICK, verdict

from studies import ledger, rules
from studies.decide import NOT_TESTED, REFUTED, SUPPORTED, UNDECIDED
from studies.price import disagreement

SEEDS = range(12)


def run_columns(solution, seed, dataset="digits", network="mlp", sparsity=0.9):
    sparsity = 0.0 if solution == "sol_d" else sparsity
    return {
        **{
            "key": f"{solution}{seed}{sparsity}",
            "solution": solution,
            "sparsity": sparsity,
            "seed": seed,
        },
        **{"dataset": dataset, "network": network, "diverged": False},
    }


def networks(skew=True, informative=True, spread=0.3, dataset="digits", classes=10, each=60):
    """Measured networks, and the labels.

    Sol-S errs on the hardest examples (of class 3 alone if ``skew``), and Fisher traces follow
    their difficulty if ``informative``.
    """
    truth = np.tile(np.arange(classes), each)
    base = np.random.default_rng(1)
    difficulty = {part: base.random(len(truth)) for part in ("train", "test")}
    rows = []
    for seed in SEEDS:
        rng = np.random.default_rng(seed)
        for solution in ("sol_d", "sol_f", "sol_s"):
            row = run_columns(solution, seed, dataset=dataset, sparsity=0.97)
            for part, hard in difficulty.items():
                loss = hard + spread * rng.random(len(truth))
                predicted = truth.copy()
                if solution == "sol_s":
                    failing = (loss > 0.9) & ((truth == 3) | (not skew))
                    predicted[failing] = (truth[failing] + 1) % classes
                row |= {f"{part}_predicted": predicted.tolist(), f"{part}_loss": loss.tolist()}
            if solution != "sol_s":
                trace = difficulty["train"] if informative else np.zeros(len(truth))
                row["train_fisher"] = (trace + spread * rng.random(len(truth))).tolist()
            rows.append(row)
    return pd.DataFrame(rows), {"train": truth, "test": truth}


@pytest.fixture(scope="module")
def skewed():
    return disagreement.pairs(*networks())


def test_pairs_count_by_class(skewed):
    measured, labels = networks()
    row = skewed[(skewed["part"] == "test") & (skewed["seed"] == 2)].iloc[0]
    chosen = {
        run["solution"]: np.array(run["test_predicted"])
        for run in measured[measured["seed"] == 2].to_dict("records")
    }
    differ = chosen["sol_f"] != chosen["sol_s"]
    assert row["rate"] == differ.mean()
    assert row["count"].tolist() == [int(differ[labels["test"] == c].sum()) for c in range(10)]
    assert row["only_sol_f"] == row["rate"]
    assert row["dense_sol_f"] == 0
    assert len(skewed) == 2 * len(SEEDS)


def test_pairs_correlate_as_scipy_does_with_other_seeds_alone(skewed):
    measured, _ = networks()
    row = skewed[(skewed["part"] == "train") & (skewed["seed"] == 1)].iloc[0]
    fisher = measured[(measured["solution"] == "sol_d") & (measured["seed"] == 1)][
        "train_fisher"
    ].iloc[0]
    others = measured[(measured["solution"] == "sol_s") & (measured["seed"] != 1)][
        "train_loss"
    ].to_list()
    assert row["hard_rho_sol_d_sol_s"] == pytest.approx(
        stats.spearmanr(fisher, np.mean(others, 0)).statistic
    )
    differ = np.zeros(600, dtype=bool)
    own = measured[(measured["solution"] == "sol_s") & (measured["seed"] == 1)][
        "train_predicted"
    ].iloc[0]
    differ[np.array(own) != np.tile(np.arange(10), 60)] = True
    assert row["example_rho_sol_d"] == pytest.approx(stats.spearmanr(fisher, differ).statistic)
    ranks = stats.rankdata(np.mean(others, 0))
    assert row["harder_sol_s"] == pytest.approx((ranks[differ].mean() - ranks[~differ].mean()) / 6)


def test_a_diverged_network_takes_its_pair_along():
    measured, labels = networks()
    measured.loc[(measured["solution"] == "sol_f") & (measured["seed"] == 4), "diverged"] = True
    pairs = disagreement.pairs(measured, labels)
    assert sorted(pairs["seed"].unique()) == [seed for seed in SEEDS if seed != 4]


@pytest.mark.parametrize(
    ("how", "claim", "expected"),
    [
        ({}, "price-disagreement-train-skew", SUPPORTED),
        ({"skew": False, "spread": 3.0}, "price-disagreement-train-skew", REFUTED),
        ({"skew": False}, "price-disagreement-fisher-corr", SUPPORTED),
        ({"skew": False, "informative": False}, "price-disagreement-fisher-corr", UNDECIDED),
        ({}, "price-per-example-fisher-hardness", SUPPORTED),
        ({"informative": False}, "price-per-example-fisher-hardness", REFUTED),
        ({}, "price-disagreement-test-skew", SUPPORTED),
        ({"skew": False, "spread": 3.0}, "price-disagreement-test-skew", REFUTED),
        ({}, "price-memorises-worse-natural", SUPPORTED),
    ],
)
def test_verdicts_where_the_truth_is_known(how, claim, expected):
    assert verdict(claim, disagreement.pairs(*networks(**how)))["verdict"] == expected


def test_human_classes_are_tested_on_cifar100_alone():
    def evidence(dataset, classes):
        pairs = disagreement.pairs(*networks(dataset=dataset, classes=classes, each=20))
        rows = ledger.evidence("fig5_disagreement", pairs, made=QUICK)
        return rows[rows["claim"] == "price-disagreement-train-skew"]

    assert "cifar100 alone" in evidence("digits", 10)["note"].iloc[0]
    own = evidence("cifar100", 100)
    assert len(own) == 2
    assert own["what"].str.contains("human classes").sum() == 1


def test_what_the_table_cannot_say_is_not_tested(skewed):
    alone = skewed[skewed["seed"] == 0]
    assert verdict("price-disagreement-test-skew", alone)["verdict"] == NOT_TESTED
    fitted = skewed.assign(accuracy_sol_s=1.0)
    assert verdict("price-memorises-worse-natural", fitted)["verdict"] == NOT_TESTED


def test_classes_that_lead_come_from_the_other_seeds(skewed):
    """All disagreements are in class 3, a tenth of the examples: ten times its share."""
    (effect,) = rules.rows(ledger.RULES["price-disagreement-train-skew"], skewed)
    assert list(effect.values) == pytest.approx([10 - 2] * len(SEEDS))
    assert effect.what.startswith("share of the leading 1 of 10 classes")
    rates = disagreement.class_rates(part="train", sparsity=0.97)(skewed)
    assert list(rates.columns[rates.any()]) == [3]
