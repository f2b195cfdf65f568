"""The rules of the gradient-flow study's section 4.3 on tables whose truth is known."""

import numpy as np
import pandas as pd
import pytest
from support import QUICK, judged, verdict

from studies import ledger
from studies.decide import NOT_TESTED, REFUTED, SUPPORTED, UNDECIDED
from studies.flow import lottery, methods

SEEDS, REPLICAS = range(12), range(3)
ALPHAS = [0.0, 0.2, 0.5, 0.8, 1.0]


def run_columns(row, seed, replica, dataset="digits", network="mlp"):
    return {
        **{
            "key": f"{row}{seed}{replica}",
            "solution": "sol_d" if row == "dense" else "sol_s",
            "sparsity": 0.98,
            "seed": seed,
            "diverged": False,
            "epochs": 30,
        },
        **{
            "dataset": dataset,
            "network": network,
            "row": row,
            "replica": replica,
            "classes": 10,
            "every": 1,
        },
    }


def line(start, rise, jitter):
    """Losses from ``start`` down to 0.1, with a hump of ``rise`` above the higher end."""
    ends = np.linspace(start, 0.1, len(ALPHAS))
    ends[2] = max(start, 0.1) + rise if rise else ends[2]
    return (ends + jitter * np.array([1, 1, 1, 1, 0])).tolist()


def networks(where=None, **changes):
    """Tickets as the study has them: near, connected and fast; ``changes`` by row and column."""
    truth = {
        "dense": {"test_accuracy": 0.98, "reached": 3},
        "pruned": {"test_accuracy": 0.97, "reached": 6, "end_distance": 12.0, "rise": 1.5},
        "lottery": {
            "test_accuracy": 0.97,
            "reached": 3,
            "start_distance": 13.6,
            "end_distance": 3.0,
            "end_on_map": 3.0,
            "start": 2.0,
        },
        "restart": {"test_accuracy": 0.97, "reached": 1, "end_distance": 2.0},
        "scratch": {
            **{
                "test_accuracy": 0.93,
                "reached": 20,
                "start_distance": 17.5,
                "end_distance": 15.0,
                "end_on_map": 14.0,
            },
            **{"start": 2.3, "rise": 1.5},
        },
        "signs": {"test_accuracy": 0.969, "reached": 5, "end_distance": 5.0},
        "shuffled": {"test_accuracy": 0.93, "reached": 20, "end_distance": 15.0, "rise": 1.0},
        **({"rewound": changes["rewound"]} if "rewound" in changes else {}),
    }
    rows = []
    for row, values in truth.items():
        values = {**values, **changes.get(row, {})}
        for seed in SEEDS:
            for replica in REPLICAS:
                jitter = 0.01 * (seed - 2.5) + 0.001 * replica
                found = {
                    name: value * (1 + jitter / 10)
                    for name, value in values.items()
                    if name not in ("start", "rise")
                }
                if "start" in values:
                    found["start_losses"] = line(values["start"], 0, jitter)
                if row != "dense":
                    found["end_losses"] = line(0.2, values.get("rise", 0), jitter)
                rows.append(
                    {**run_columns(row, seed, replica, **(where or {})), "alphas": ALPHAS, **found}
                )
    return pd.DataFrame(rows)


RESNET = {"dataset": "folder", "network": "resnet-50"}
PRINTED = {  # of ResNet-50
    "lottery": {"test_accuracy": 0.5},
    "rewound": {"test_accuracy": 0.757, "start_distance": 150.0, "end_distance": 39.35},
    "scratch": {"start_distance": 200.0, "end_distance": 215.98},
}


def imagenet(**changes):
    """Networks with the printed numbers of ResNet-50 on ImageNet."""
    changed = {row: {**PRINTED.get(row, {}), **changes.get(row, {})} for row in PRINTED}
    return networks(RESNET, **changed).assign(train_images=methods.IMAGES)


IMAGENET = {"flow-fig5-lt-closer-init-resnet", "flow-fig5-lt-closer-final-resnet"}


def test_figure_5_as_the_study_has_it():
    """Everything is supported but what needs ImageNet, and half of a claim does."""
    found = ledger.verdicts("flow_fig5_lottery", networks(), made=QUICK).set_index("claim")[
        "verdict"
    ]
    assert set(found.index[found == NOT_TESTED]) == IMAGENET
    assert found.pop("flow-lt-k0-works-mnist-not-large") == UNDECIDED
    assert set(found.drop(list(IMAGENET))) == {SUPPORTED}


def test_claims_of_resnet_50_on_the_printed_numbers():
    for claim in IMAGENET:
        assert judged(claim, imagenet()) == SUPPORTED
        assert judged(claim, imagenet().assign(train_images=48)) == NOT_TESTED
    near = imagenet(scratch={"start_distance": 100.0, "end_distance": 100.0})
    assert {judged(claim, near) for claim in IMAGENET} == {REFUTED}


def test_both_halves_of_going_back_to_the_start():
    """A half alone refutes the claim and does not support it."""
    claim, small = "flow-lt-k0-works-mnist-not-large", networks()
    assert judged(claim, pd.concat([small, imagenet()])) == SUPPORTED
    assert judged(claim, imagenet()) == UNDECIDED
    works = imagenet(lottery={"test_accuracy": 0.757})
    assert judged(claim, works) == REFUTED
    assert judged(claim, pd.concat([small, works])) == REFUTED
    assert judged(claim, small[small["row"] != "lottery"]) == NOT_TESTED
    rows = ledger.evidence("flow_fig5_lottery", small, made=QUICK)
    missing = rows[(rows["claim"] == claim) & (rows["seeds"] == 0)]
    assert missing["note"].tolist() == ["the table has no ResNet-50"]


@pytest.mark.parametrize(
    ("claim", "changes"),
    [
        ("flow-fig5-lt-closer-init", {"lottery": {"start_distance": 18.0}}),
        ("flow-fig5-lt-closer-final-lenet", {"lottery": {"end_distance": 6.0}}),
        ("flow-fig5-mds", {"lottery": {"end_on_map": 15.0}}),
        ("flow-fig5-path-init", {"lottery": {"start": 2.6}}),
        ("flow-lt-init-loss", {"lottery": {"start": 2.6}}),
        ("flow-lt-init-loss", {"lottery": {"start": 2.295}}),  # better by next to nothing
        ("flow-fig5-barrier-scratch", {"scratch": {"rise": 0}}),
        ("flow-fig5-no-barrier-lt", {"lottery": {"rise": 0.5}}),
        (
            "flow-fig5-no-barrier-lt",
            {"scratch": {"rise": 0.1}, "lottery": {"rise": 0.05}},
        ),  # below the tolerance, not below a tenth
        ("flow-fig9c-mlp-interp", {"lottery": {"rise": 2.0}}),
        ("flow-perturbation-robust", {"signs": {"test_accuracy": 0.95}}),
        ("flow-perturbation-robust", {"shuffled": {"test_accuracy": 0.965}}),
        ("flow-lt-k0-works-mnist-not-large", {"lottery": {"test_accuracy": 0.9}}),
        ("flow-lt-faster-convergence", {"lottery": {"reached": 25}}),
        (
            "flow-lt-faster-convergence",
            {"dense": {"reached": 1}, "lottery": {"reached": 6}},
        ),  # faster than scratch, slower than dense
    ],
)
def test_figure_5_the_other_way_round(claim, changes):
    assert verdict(claim, networks(**changes))["verdict"] == REFUTED


def test_a_barrier_rises_above_the_higher_end():
    assert lottery.rise([0.3, 0.5, 0.1]) == pytest.approx(0.2)
    assert lottery.rise([0.3, 0.2, 0.1]) == 0


def test_a_perturbation_that_leaves_the_basin():
    """It may be as bad as it likes, but not good; and where none stays, nothing is tested."""
    row = verdict("flow-perturbation-robust", networks(shuffled={"test_accuracy": 0.1}))
    assert row["verdict"] == SUPPORTED
    assert row["rows"] == 2
    gone = verdict("flow-perturbation-robust", networks(signs={"rise": 1.0}))
    assert gone["verdict"] == NOT_TESTED
    assert "no perturbed ticket stays" in gone["note"]


def test_convergence_needs_epochs():
    """Every one of them, and fifteen."""
    for coarse in ({"every": 2}, {"epochs": 14}):
        few = networks().assign(**coarse)
        assert verdict("flow-lt-faster-convergence", few)["verdict"] == NOT_TESTED


def test_the_printed_distances_are_tested_on_the_studys_own_network_alone():
    own = {"dataset": "mnist", "network": "lenet-5"}
    assert verdict("flow-fig5-lt-closer-init", networks(own))["rows"] == 3
    assert verdict("flow-fig5-lt-closer-init", networks(own))["verdict"] == SUPPORTED
    far = networks(own, scratch={"start_distance": 30.0})
    assert verdict("flow-fig5-lt-closer-init", far)["verdict"] == REFUTED
    assert verdict("flow-fig5-lt-closer-init", networks({"dataset": "mnist"}))["rows"] == 1
    assert verdict("flow-fig9c-mlp-interp", networks(own))["verdict"] == NOT_TESTED


def test_the_epoch_at_which_scratchs_accuracy_is_reached():
    """Of the seed's worst; who never gets there comes after the last epoch, 0 does not count."""
    courses = {
        "a": ("scratch", [0.1, 0.5, 0.8]),
        "b": ("scratch", [0.1, 0.6, 0.7]),
        "c": ("lottery", [0.9, 0.75, 0.9]),
        "d": ("x", [0.1, 0.2, 0.3]),
    }
    rows = {key: row for key, (row, _) in courses.items()}
    table = pd.DataFrame(
        [
            {"key": key, "seed": 0, "epoch": epoch, "epochs": 2, "test_accuracy": accuracy}
            for key, (_, course) in courses.items()
            for epoch, accuracy in enumerate(course)
        ]
    )
    assert lottery.reached(table, rows).to_dict() == {"a": 2, "b": 2, "c": 1, "d": 3}


# -- Tables 2 and 6 --------------------------------------------------------------------------------


def functions(dataset="digits", network="mlp", members=3, **changes):
    """Groups with the printed numbers, one row a seed; ``changes`` by row and measure."""
    rows = []
    for row, cells in lottery.PRINTED.items():
        for seed in SEEDS:
            found = {
                m: mean * (0.01 if m in ("accuracy", "ensemble") else 1)
                for m, (mean, _) in cells.items()
            }
            found = {**found, "js": found["js_all"] / 10, **changes.get(row, {})}
            found = {name: value * (1 + 1e-4 * (seed - 2.5)) for name, value in found.items()}
            rows.append(
                {**run_columns(row, seed, 0, dataset, network), "members": members, **found}
            )
    return pd.DataFrame(rows)


def test_table_2_as_the_study_has_it():
    found = ledger.verdicts("flow_table2_functions", functions(), made=QUICK).set_index("claim")[
        "verdict"
    ]
    assert found.pop("flow-table2") == NOT_TESTED
    assert set(found) == {SUPPORTED}
    own = functions("mnist", "lenet-5", 5)
    assert verdict("flow-table2", own)["verdict"] == SUPPORTED
    assert verdict("flow-table2", own)["rows"] == 20
    three = verdict("flow-table2", functions("mnist", "lenet-5", 3))
    assert three["verdict"] == NOT_TESTED


@pytest.mark.parametrize(
    ("claim", "changes"),
    [
        ("flow-t2-lt-low-disagreement", {"lottery": {"disagreement_pruned": 0.02}}),
        ("flow-t2-lt-pairwise-lower", {"lottery": {"disagreement": 0.02}}),
        ("flow-t2-restart-similar", {"restart": {"disagreement_pruned": 0.02}}),
        ("flow-t2-fixed-init-not-cause", {"lottery": {"disagreement": 0.01}}),
        ("flow-t2-diff-init-ensemble", {"scratch_diff_init": {"ensemble": 0.97}}),
        ("flow-t2-diff-init-ensemble", {"scratch_diff_init": {"disagreement": 0.02}}),
        ("flow-t2-ensemble-gain", {"pruned": {"ensemble": 0.983}}),
        ("flow-table6", {"restart": {"kl": 0.08}}),
        ("flow-table6", {"scratch": {"disagreement_pruned": 0.01}}),
        ("flow-t6-kl-jsd-order", {"lottery": {"js_pruned": 0.02}}),
        ("flow-t6-kl-jsd-order", {"scratch": {"kl_pruned": 0.01}}),
    ],
)
def test_table_2_the_other_way_round(claim, changes):
    assert verdict(claim, functions(**changes))["verdict"] == REFUTED


@pytest.mark.parametrize("measure", ["accuracy", "ensemble", "disagreement", "disagreement_pruned"])
def test_a_cell_far_from_the_printed_one_refutes_the_table(measure):
    own = functions(
        "mnist",
        "lenet-5",
        5,
        lottery={measure: 0.9 if measure in ("accuracy", "ensemble") else 0.05},
    )
    row = verdict("flow-table2", own)
    assert row["verdict"] == REFUTED
    assert row["what"] == f"lottery, {measure}: ours - printed"


def test_few_seeds_decide_nothing_that_wavers():
    table = functions()
    some = table[table["seed"] < 3].copy()
    some.loc[(some["row"] == "lottery") & (some["seed"] == 1), "disagreement_pruned"] = 0.05
    assert verdict("flow-t2-lt-low-disagreement", some)["verdict"] == UNDECIDED


def test_what_the_table_lacks_is_not_tested():
    table, others = functions(), networks()
    assert verdict("flow-table6", table[table["row"] != "pruned"])["verdict"] == NOT_TESTED
    for claim in ("flow-fig5-mds", "flow-fig5-path-init", "flow-fig5-no-barrier-lt"):
        assert verdict(claim, others[others["row"] != "lottery"])["verdict"] == NOT_TESTED
