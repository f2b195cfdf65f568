"""The rules of Tables 1 and 5 on the printed numbers, and on others."""

import pandas as pd
import pytest
from support import QUICK, judged

from studies import ledger, rules
from studies.decide import NOT_TESTED, REFUTED, SUPPORTED, UNDECIDED, NotHere, decide
from studies.flow import methods

WHERE = {
    "table 1": {"dataset": "mnist", "network": "lenet-5"},
    "table 5": {"dataset": "mnist", "network": "lenet-300-100"},
    "vgg-16": {"dataset": "folder", "network": "vgg-16", "train_images": methods.IMAGES},
    "resnet-50": {"dataset": "folder", "network": "resnet-50", "train_images": methods.IMAGES},
}
MORE = {("restart", ""): 98.3, ("rigl-inverted", "neuron"): 95.0}  # no numbers in the tables


def made_up(where, changes=None):
    """The printed means, of six seeds and two epochs, or what is given instead."""
    printed = methods.PRINTED[
        "ImageNet" if "train_images" in WHERE[where] else "mnist", WHERE[where]["network"]
    ]
    means = {cell: mean for cell, (mean, _) in printed.items()} | MORE | (changes or {})
    rows = [
        {
            "key": f"{cell}{seed}",
            "row": cell[0],
            "form": cell[1],
            "seed": seed,
            "epoch": epoch,
            "diverged": False,
            "solution": "sol_d" if cell[0] in ("baseline", "small dense") else "sol_s",
            "test_accuracy": (mean + 0.01 * (seed - 2.5)) / 100 if epoch else 0.1,
        }
        for cell, mean in means.items()
        for seed in range(12)
        for epoch in (1, 0)
    ]
    return pd.DataFrame(rows).assign(**WHERE[where])


def test_the_tables_hold_against_themselves():
    """Every claim that a network's printed numbers speak of holds there, or is said not to."""
    found = {
        where: ledger.verdicts("flow_table1_methods", made_up(where), made=QUICK)
        .set_index("claim")["verdict"]
        .to_dict()
        for where in WHERE
    }
    tested = {where: {c for c, v in of.items() if v != NOT_TESTED} for where, of in found.items()}
    assert set.union(*tested.values()) == set(ledger.of_figure("flow_table1_methods"))
    both = {"table 1", "resnet-50"}
    for claim, of in {
        "flow-table1": {"table 1"},
        "flow-table5": {"table 5"},
        "flow-t5-scratch-gain": {"table 5"},
        "flow-t5-small-dense-poor": {"table 5"},
        "flow-t1-vgg-init": {"vgg-16"},
        "flow-t1-lottery-vgg-fails": {"vgg-16"},
        "flow-t1-resnet-init-neutral": {"resnet-50"},
        "flow-t1-lottery-near-baseline": both,
        "flow-t1-small-dense": both,
    }.items():
        assert {where for where in WHERE if claim in tested[where]} == of
        assert {found[where][claim] for where in of} == {SUPPORTED}


OTHERWISE = [  # claim, where, the accuracies that refute it
    ("flow-table1", "table 1", {("lottery", ""): 97.0}),
    ("flow-table5", "table 5", {("rigl", "neuron"): 95.0}),
    ("flow-t1-lenet-init-scratch", "table 1", {("scratch", "masked"): 99.0}),
    ("flow-t1-lenet-init-dst", "table 1", {("rigl", "masked"): 99.0}),
    ("flow-t1-vgg-init", "vgg-16", {("set", "masked"): 40.0}),
    ("flow-t1-resnet-init-neutral", "resnet-50", {("set", "masked"): 70.0}),
    ("flow-t1-lottery-vgg-fails", "vgg-16", {("lottery", ""): 50.0}),
    ("flow-t1-liu-matches-ours", "table 5", {("scratch", "layer"): 90.0}),
    ("flow-t1-dst-order", "table 1", {("rigl", "neuron"): 97.0}),
    ("flow-t1-dst-order", "table 1", {("set", "layer"): 96.0}),
    ("flow-t1-lottery-near-baseline", "table 1", {("lottery", ""): 95.0}),
    ("flow-t1-lottery-near-baseline", "resnet-50", {("lottery", ""): 74.0}),
    ("flow-t1-small-dense", "table 1", {("small dense", ""): 97.0}),
    ("flow-t1-small-dense", "resnet-50", {("small dense", ""): 70.0}),
    ("flow-inverted-accuracy", "table 1", {("rigl-inverted", "neuron"): 99.0}),
    ("flow-t5-scratch-gain", "table 5", {("scratch", "masked"): 97.0}),
    ("flow-t5-scratch-gain", "table 5", {("lottery", ""): 96.0}),
    ("flow-t5-scratch-gain", "table 5", {("rigl", "neuron"): 96.0}),
    ("flow-t5-set-neutral", "table 5", {("set", "layer"): 98.0}),
    ("flow-t5-small-dense-poor", "table 5", {("small dense", ""): 95.0}),
    ("flow-rewinding-limited", "table 1", {("restart", ""): 98.0}),
]


@pytest.mark.parametrize(("claim", "where", "changes"), OTHERWISE)
def test_another_number_refutes(claim, where, changes):
    assert judged(claim, made_up(where, changes)) == REFUTED


def test_liu_is_not_compared_where_the_study_prints_a_difference():
    """Scratch on LeNet-5 differs by a point in the study itself."""
    rule = ledger.RULES["flow-t1-liu-matches-ours"]
    assert [len(rules.rows(rule, made_up(where))) for where in ("table 1", "table 5")] == [2, 3]
    far = made_up("table 1", {("scratch", "layer"): 50.0, ("set", "layer"): 98.1})
    assert judged("flow-t1-liu-matches-ours", far) == SUPPORTED


def test_a_printed_mean_is_compared_within_its_standard_error():
    """Nine of Table 1's cells converged; a wide cell of Table 5 allows for its printed mean."""
    of_table_1 = rules.rows(ledger.RULES["flow-table1"], made_up("table 1"))
    assert len(of_table_1) == 9
    assert {effect.margin for effect in of_table_1} == {1.0}
    assert judged("flow-table1", made_up("table 1", {("set", "masked"): 10.0})) == SUPPORTED
    margins = [e.margin for e in rules.rows(ledger.RULES["flow-table5"], made_up("table 5"))]
    assert len(margins) == 12
    assert sorted(margins)[-2:] == pytest.approx([2 * 1.85 / 5**0.5, 2 * 4.0 / 5**0.5])
    assert sorted(margins)[:-2] == [0.5] * 10


def test_one_margin_both_ways():
    """RigL and SET apart by 0.3 points: too much to be alike, whoever is ahead."""
    behind = made_up("table 1", {("rigl", "neuron"): 97.86, ("rigl", "layer"): 97.47})
    assert judged("flow-t1-dst-order", behind) == REFUTED
    slight = made_up("table 1", {("scratch", "neuron"): 98.1, ("scratch", "layer"): 97.7})
    assert judged("flow-t1-dst-order", slight) == REFUTED


def test_runs_that_fail_are_counted():
    """Of runs of which none fails there is nothing to support; the note counts them."""
    rule = ledger.RULES["flow-t1-original-fails-sometimes"]
    effects = rules.rows(rule, made_up("table 1", {("rigl", "masked"): 30.0}))
    assert [effect.note for effect in effects] == [
        "0 of 12 seeds",
        "0 of 12 seeds",
        "12 of 12 seeds",
    ]
    assert [decide(effect)["verdict"] for effect in effects] == [UNDECIDED, UNDECIDED, SUPPORTED]
    (of_vgg,) = rules.rows(rule, made_up("vgg-16", {("rigl", "masked"): 5.0}))
    assert (of_vgg.note, decide(of_vgg)["verdict"]) == ("12 of 12 seeds", SUPPORTED)


def test_two_seeds_decide_no_equality():
    table = made_up("table 1")
    assert judged("flow-t1-lottery-near-baseline", table[table["seed"] < 2]) == UNDECIDED


def test_what_is_missing_is_named():
    table = made_up("table 1")
    with pytest.raises(NotHere, match=r"the table has no row set liu"):
        methods.accuracy("set", "layer")(table[table["form"] != "layer"])
    assert judged("flow-inverted-accuracy", table[table["row"] != "rigl-inverted"]) == NOT_TESTED


def test_claims_of_imagenet_need_imagenet():
    """Rules about ResNet-50 and VGG-16 speak of ImageNet's 1,281,167 images alone."""
    table, printed = made_up("vgg-16"), methods.PRINTED["ImageNet", "vgg-16"]
    assert methods.printed(table) == printed
    gains = rules.rows(ledger.RULES["flow-t1-vgg-init"], table)
    assert [round(decide(effect)["effect"], 6) for effect in gains] == [0, 0]
    for claim, other in (
        ("flow-t1-vgg-init", {"train_images": 48}),
        ("flow-t1-resnet-init-neutral", {}),
    ):
        with pytest.raises(NotHere, match=r"ImageNet: it needs that set and a GPU \(imagenet_\w+"):
            rules.rows(ledger.RULES[claim], table.assign(**other))
    assert not methods.printed(table.assign(train_images=48))
    with pytest.raises(NotHere, match="excepts ResNet-50"):
        rules.rows(ledger.RULES["flow-t1-lenet-init-scratch"], table.assign(network="resnet-50"))
