"""The rules that compare one setting with another, on made-up tables."""

import numpy as np
import pandas as pd
import pytest
from support import QUICK, verdict

from studies import ledger, rules
from studies.decide import NotHere
from studies.flow import settings

FIGURE = "flow_appendix_settings"
STEPS, SEEDS = 12_000, 10
# the study's story: (setting, value, row, form[, drop fraction]) -> final accuracy in percent
STORY = {
    **{("weight decay", 2e-4, *cell): 98.0 for cell in settings.DECAYED},
    **{("weight decay", 0.0, *cell): 97.5 for cell in settings.DECAYED},
    **{("sparsity", s, "lottery", ""): 98.0 for s in (0.8, 0.9, 0.95)},
    **{
        ("sparsity", s, "scratch", "neuron"): accuracy
        for s, accuracy in ((0.8, 97.9), (0.9, 97.8), (0.95, 96.0))
    },
    **{("init", "glorot-uniform", *cell): 98.0 for cell in settings.SCALED},
    **{("init", "he", *cell): 97.8 for cell in settings.SCALED},
    **{
        ("layer densities", "layer", *cell): 97.0
        for cell in (("pruned", ""), ("scratch", "neuron"), ("rigl", "neuron"))
    },
    **{
        ("layer densities", "erk", *cell): 98.0
        for cell in (("pruned", ""), ("scratch", "neuron"), ("rigl", "neuron"))
    },
    **{
        ("mask updates", every, "rigl", "neuron", drop): 97.0
        for every in (50, 100, 500)
        for drop in (0.1, 0.3, 0.5)
    },
    ("mask updates", 500, "rigl", "neuron", 0.1): 98.0,
    **{("training length", 1, "pruned", ""): 98.0, ("training length", 1, "rigl", "neuron"): 97.0},
    ("training length", 5, "rigl", "neuron"): 97.95,
}
# gradient flow once learning has started, and the step at which it does
FLOWS = {
    **{("glorot-uniform", "masked"): (0.5, 1000), ("he", "masked"): (0.5, 400)},
    **{("glorot-uniform", "neuron"): (0.6, 0), ("he", "neuron"): (0.7, 0)},
}


def made_up(accuracies=None, flows=None, own=2e-4):
    """A table of the story, or of what is given instead."""
    rng, rows = np.random.default_rng(0), []
    common = {"dataset": "mnist", "network": "lenet-300-100", "diverged": False}
    for (setting, value, row, form, *drop), accuracy in {**STORY, **(accuracies or {})}.items():
        for seed in range(SEEDS):
            cell = {
                "key": f"{setting}{value}{row}{form}{drop}{seed}",
                "setting": setting,
                "value": value,
                "row": row,
                "form": form,
                "solution": "sol_d" if row == "baseline" else "sol_s",
            }
            noisy = accuracy / 100 + 1e-4 * rng.standard_normal()
            rows.append(
                {**common, **cell, "seed": seed, "own": value == own, "test_accuracy": noisy}
            )
            if drop:
                rows[-1]["drop_fraction"] = drop[0]
    for (scheme, form), (flow, begins) in {**FLOWS, **(flows or {})}.items():
        for seed in range(SEEDS):
            cell = {
                "key": f"init{scheme}scratch{form}[]{seed}",
                "setting": "init",
                "value": scheme,
                "row": "scratch",
                "form": form,
                "solution": "sol_s",
            }
            for step in range(0, STEPS + 1, 200):
                level = (flow if step >= begins else 1e-5) * float(
                    np.exp(0.05 * rng.standard_normal())
                )
                rows.append(
                    {
                        **common,
                        **cell,
                        "seed": seed,
                        "own": False,
                        "step": step,
                        "steps": STEPS,
                        "flow": level,
                    }
                )
    return pd.DataFrame(rows)


def test_the_studys_story_is_supported():
    found = ledger.verdicts(FIGURE, made_up(), made=QUICK)
    assert set(found["claim"]) == set(ledger.of_figure(FIGURE))
    assert len(found) == 7
    assert (found["verdict"] == "supported").all(), found[["claim", "verdict"]]


DECAY = {("weight decay", 0.0, *cell): 98.3 for cell in settings.DECAYED}
REFUTED = [  # claim, accuracies or flows that refute it
    ("flow-mnist-weight-decay-helps", DECAY, {}),
    ("flow-mnist-weight-decay-helps", dict.fromkeys(DECAY, 98.0), {}),  # no gain that could be seen
    (
        "flow-95pct-contrast",
        {("sparsity", 0.95, "scratch", "neuron"): 97.7},
        {},
    ),  # 0.3 points are not stark
    ("flow-95pct-contrast", {("sparsity", 0.9, "scratch", "neuron"): 95.0}, {}),  # starker below
    (
        "flow-rigl-matches-pruning-long",
        {("training length", 1, "rigl", "neuron"): 98.1},
        {},
    ),  # it matches at once
    (
        "flow-rigl-matches-pruning-long",
        {("training length", 5, "rigl", "neuron"): 97.0},
        {},
    ),  # it never does
    (
        "flow-rigl-matches-pruning-long",
        {("training length", times, "rigl", "neuron"): 97.9 for times in (1, 5)},
        {},
    ),  # the same difference cannot be a lack at first and a match at last
    ("flow-vgg-dst-gentler", {("mask updates", 100, "rigl", "neuron", 0.3): 98.9}, {}),
    (
        "flow-vgg-dst-gentler",
        {("mask updates", 100, "rigl", "neuron", 0.3): 98.0},
        {},
    ),  # no difference
    ("flow-erk-better", {("layer densities", "erk", "rigl", "neuron"): 96.0}, {}),
    ("flow-fig7c-he", {}, {("he", "masked"): (0.5, 2000)}),
    ("flow-fig7c-he", {}, {("he", "neuron"): (2.0, 0)}),  # the study's start is not alike
    (
        "flow-glorot-slightly-better",
        {("init", "he", *cell): 98.3 for cell in settings.SCALED},
        {},
    ),
    (
        "flow-glorot-slightly-better",
        {("init", "he", *cell): 97.2 for cell in settings.SCALED},
        {},
    ),  # by more than a little
]


@pytest.mark.parametrize(
    ("claim", "accuracies", "flows"),
    REFUTED,
    ids=[f"{case[0]}-{number}" for number, case in enumerate(REFUTED)],
)
def test_another_story_is_refuted(claim, accuracies, flows):
    assert verdict(claim, made_up(accuracies, flows))["verdict"] == "refuted"


def test_the_resolution_of_the_start_of_learning():
    """A start that is earlier by less than half a recording step on some seeds decides nothing."""
    table = made_up(flows={("he", "masked"): (0.5, 1000)})
    row = verdict("flow-fig7c-he", table)
    assert (row["verdict"], row["effect"], row["low"], row["high"]) == (
        "undecided",
        0.0,
        -100.0,
        100.0,
    )


def test_averages_over_methods_are_those_of_a_plain_loop():
    """Weight decay counts by its mean over four methods, by seed; the note gives each one's."""
    table = made_up({("weight decay", 2e-4, "baseline", ""): 99.0})
    (effect,) = rules.rows(ledger.RULES["flow-mnist-weight-decay-helps"], table)
    rows, found = table[table["setting"] == "weight decay"], list(effect.values)
    for seed in range(SEEDS):
        gains = []
        for row, form in settings.DECAYED:
            chosen = rows[(rows["row"] == row) & (rows["form"] == form) & (rows["seed"] == seed)]
            with_decay, without = (
                chosen.loc[chosen["value"] == value, "test_accuracy"].item()
                for value in (2e-4, 0.0)
            )
            gains.append(100 * (with_decay - without))
        assert found[seed] == pytest.approx(sum(gains) / 4)
    assert effect.note.startswith("baseline +1.49")


def test_the_pairs_of_the_grid():
    """The rarest updates, smallest fraction against five times as often, three times as large."""
    table = made_up()
    table = table[(table["setting"] != "mask updates") | (table["value"] != 50)]
    rule = ledger.RULES["flow-vgg-dst-gentler"]
    effect = rules.rows(rule, table)[0]
    assert effect.what.endswith("every 500 steps and 0.1 - every 100 steps and 0.3")
    assert "best mean of the grid: every 500 steps, 0.1" in effect.note
    with pytest.raises(
        NotHere, match=r"every 500 steps and a drop fraction of 0\.1 with updates 5 times as often"
    ):
        rules.rows(rule, table[(table["setting"] != "mask updates") | (table["value"] != 100)])


def test_claims_about_imagenet_are_not_decided_by_other_networks():
    made = {**QUICK, "preset": "desktop", "dataset": "mnist", "network": "lenet-300-100"}
    found = ledger.verdicts(FIGURE, made_up(), made=made).set_index("claim")
    for claim, network in (
        ("flow-rigl-matches-pruning-long", "ResNet-50"),
        ("flow-vgg-dst-gentler", "VGG-16"),
        ("flow-erk-better", "VGG-16"),
    ):
        entry = ledger.ledger()[claim]
        assert f"{network} and ImageNet" in entry["says"]
        assert entry["names"]
        assert found.loc[claim, "evidence"] == "analogue"


def test_what_matters_is_a_tenth_of_the_dense_error():
    """Rows with gradient flow, which have no accuracy, do not hide those that have."""
    table = made_up()
    dense = table.loc[table["row"] == "baseline", "test_accuracy"].mean()
    later = table.assign(epoch=np.where(table["test_accuracy"].notna(), 30, np.nan))
    assert settings.WEIGHS(later) == pytest.approx(10 * (1 - dense))


MISSING = [  # claim, what the table lacks, what the reason names
    (
        "flow-mnist-weight-decay-helps",
        lambda t: (t["setting"] == "weight decay") & (t["value"] == 0),
        "0 among weight_decays",
    ),
    ("flow-mnist-weight-decay-helps", lambda t: t["row"] == "rigl", "rigl .*weight_decays"),
    ("flow-95pct-contrast", lambda t: t["value"] == 0.95, "give both in sparsities"),
    ("flow-95pct-contrast", lambda t: t["value"].isin([0.8, 0.9]), "give both in sparsities"),
    ("flow-rigl-matches-pruning-long", lambda t: t["value"] == 5, "give longer 5"),
    (
        "flow-vgg-dst-gentler",
        lambda t: t["setting"] == "mask updates",
        "give update_intervals and drop_fractions",
    ),
    ("flow-erk-better", lambda t: t["value"] == "erk", "scopes"),
    ("flow-fig7c-he", lambda t: t["value"] == "he", "inits"),
    ("flow-fig7c-he", lambda t: (t["setting"] == "init") & t["flow"].notna(), "flow_every"),
    ("flow-glorot-slightly-better", lambda t: t["value"] == "he", "inits"),
]


@pytest.mark.parametrize(
    ("claim", "lacking", "named"),
    MISSING,
    ids=[f"{case[0]}-{number}" for number, case in enumerate(MISSING)],
)
def test_what_is_missing_is_named(claim, lacking, named):
    """Without its runs a claim is not tested; the reason names the parameter that brings them."""
    table = made_up()
    rest = table[~lacking(table)]
    assert verdict(claim, rest)["verdict"] == "not tested here"
    with pytest.raises(NotHere, match=named):
        rules.rows(ledger.RULES[claim], rest)
