"""The rules of Figures 5 and 8a on tables whose truth is known."""

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from lib import claims
from lib.claims import NOT_TESTED, disagreement, interpolation
from lib.claims.decisions import REFUTED, SUPPORTED, UNDECIDED
from lib.metrics import geometry

ALPHAS = [0.0, 0.2, 0.4, 0.5, 0.6, 0.8, 1.0]
SEEDS = range(6)


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


def lines(rise=0.0, lead=0.5, alphas=ALPHAS, **where):
    """Measured lines on which the loss first rises by ``rise``, with Init-F ahead by ``lead`` in the middle."""
    rows = []
    for seed in SEEDS:
        falling = 2.3 * (1 - np.array(alphas)) + 0.001 * seed
        falling[1] = falling[0] + rise * (1 + 0.01 * seed)
        both = {
            "init_s": falling,
            "init_f": falling - lead * np.array(alphas) * (1 - np.array(alphas)),
        }
        found = []
        for start, loss in both.items():
            measures = {c: loss.tolist() for c in interpolation.COLUMNS}
            found.append({"start": start, "bn": "reestimated", "alphas": list(alphas), **measures})
        rows.append({**run_columns("sol_f", seed, **where), "lines": found, "classes": 10})
        rows.append({**run_columns("sol_s", seed, **where), "lines": found[:1], "classes": 10})
    return interpolation.points(pd.DataFrame(rows))


def verdict(figure, table, claim):
    return claims.verdicts(figure, table, preset="quick").set_index("claim").loc[claim]


@pytest.mark.parametrize(
    ("rise", "expected"), [(0.0, SUPPORTED), (0.05, SUPPORTED), (0.3, REFUTED)]
)
def test_almost_monotone_has_a_tolerance(rise, expected):
    row = verdict("fig8_interpolation", lines(rise), "price-interp-monotone")
    assert row["verdict"] == expected
    assert f"strictly monotone in {6 if rise == 0 else 0} of 6" in row["note"]


def test_bumps_are_those_of_geometry():
    table = lines(0.3)
    found = interpolation.bumps(table, "init_s", "sol_f", 0.9)
    curves = interpolation.curves(table, "init_s", "sol_f", 0.9)
    assert list(found) == [geometry.bump(row.index, row) for _, row in curves.iterrows()]


@pytest.mark.parametrize(("lead", "expected"), [(0.5, SUPPORTED), (-0.5, REFUTED)])
def test_which_line_falls_first(lead, expected):
    assert (
        verdict("fig8_interpolation", lines(lead=lead), "price-interp-init-f-faster")["verdict"]
        == expected
    )


def test_too_few_alphas_are_not_tested():
    table = lines(alphas=[0.0, 0.1, 1.0])
    for claim in ("price-interp-monotone", "price-interp-init-f-faster"):
        assert verdict("fig8_interpolation", table, claim)["verdict"] == NOT_TESTED


def test_the_papers_own_ends_are_tested_on_its_own_data_alone():
    own = claims.evidence(
        "fig8_interpolation", lines(dataset="cifar100", network="resnet-32"), preset="paper"
    )
    assert own["what"].str.contains("- 4, at 0.9").sum() == 1
    assert (
        not claims.evidence("fig8_interpolation", lines(), preset="quick")["what"]
        .str.contains("- 4, at")
        .any()
    )


def test_a_diverged_run_has_no_lines():
    measured = pd.DataFrame(
        [{**run_columns("sol_f", 0), "diverged": True, "lines": np.nan, "classes": np.nan}]
    )
    assert interpolation.points(measured).empty


# -- pairs -------------------------------------------------------------------------------------------------------------


def networks(skew=True, informative=True, spread=0.3, dataset="digits", classes=10, each=60):
    """Measured networks: Sol-S errs on the hardest examples (of class 3 alone if ``skew``), and Fisher traces follow
    their difficulty if ``informative``; and the labels."""
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
    assert sorted(pairs["seed"].unique()) == [0, 1, 2, 3, 5]


@pytest.mark.parametrize(
    ("how", "claim", "expected"),
    [
        ({}, "price-disagreement-train-skew", SUPPORTED),
        ({"skew": False, "spread": 3.0}, "price-disagreement-train-skew", REFUTED),
        ({"skew": False}, "price-disagreement-fisher-corr", SUPPORTED),
        ({"skew": False, "informative": False}, "price-disagreement-fisher-corr", UNDECIDED),
        ({}, "price-per-example-fisher-hardness", SUPPORTED),
        ({"informative": False}, "price-per-example-fisher-hardness", UNDECIDED),
        ({}, "price-memorises-worse-natural", SUPPORTED),
    ],
)
def test_verdicts_where_the_truth_is_known(how, claim, expected):
    assert (
        verdict("fig5_disagreement", disagreement.pairs(*networks(**how)), claim)["verdict"]
        == expected
    )


def test_human_classes_are_tested_on_cifar100_alone():
    def evidence(dataset, classes):
        pairs = disagreement.pairs(*networks(dataset=dataset, classes=classes, each=20))
        rows = claims.evidence("fig5_disagreement", pairs, preset="quick")
        return rows[rows["claim"] == "price-disagreement-train-skew"]

    assert "cifar100 alone" in evidence("digits", 10)["note"].iloc[0]
    own = evidence("cifar100", 100)
    assert len(own) == 2
    assert own["what"].str.contains("human classes").sum() == 1


def test_what_the_table_cannot_say_is_not_tested(skewed):
    alone = skewed[skewed["seed"] == 0]
    assert (
        verdict("fig5_disagreement", alone, "price-disagreement-test-skew")["verdict"] == NOT_TESTED
    )
    fitted = skewed.assign(accuracy_sol_s=1.0)
    assert (
        verdict("fig5_disagreement", fitted, "price-memorises-worse-natural")["verdict"]
        == NOT_TESTED
    )
