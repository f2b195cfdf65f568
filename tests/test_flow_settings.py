"""The rules that compare one setting with another, on made-up tables."""

import numpy as np
import pandas as pd
import pytest
from lib.claims import flow_settings
from lib.claims.decisions import NotHere
from lib.plots.settings import _apart

from lib import claims, plots
from lib.specs.fields import ParameterError
from studies import presets
from studies.presets import settings, setup_of

FIGURE = "flow_appendix_settings"
STEPS, SEEDS = 12_000, 6
# final accuracy in percent, (setting, value, row, form[, drop fraction]) -> accuracy: the study's story
STORY = {
    **{("weight decay", 2e-4, *cell): 98.0 for cell in flow_settings.DECAYED},
    **{("weight decay", 0.0, *cell): 97.5 for cell in flow_settings.DECAYED},
    **{("sparsity", s, "lottery", ""): 98.0 for s in (0.8, 0.9, 0.95)},
    **{
        ("sparsity", s, "scratch", "neuron"): accuracy
        for s, accuracy in ((0.8, 97.9), (0.9, 97.8), (0.95, 96.0))
    },
    **{("init", "glorot-uniform", *cell): 98.0 for cell in flow_settings.SCALED},
    **{("init", "he", *cell): 97.8 for cell in flow_settings.SCALED},
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
    ("training length", 5, "rigl", "neuron"): 97.8,
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


def verdict(claim, table):
    return claims.verdicts(FIGURE, table, preset="quick").set_index("claim").loc[claim]


def test_the_studys_story_is_supported():
    found = claims.verdicts(FIGURE, made_up(), preset="quick")
    assert set(found["claim"]) == set(claims.of_figure(FIGURE))
    assert len(found) == 7
    assert (found["verdict"] == "supported").all(), found[["claim", "verdict"]]


DECAY = {("weight decay", 0.0, *cell): 98.3 for cell in flow_settings.DECAYED}
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
        {("init", "he", *cell): 98.3 for cell in flow_settings.SCALED},
        {},
    ),
    (
        "flow-glorot-slightly-better",
        {("init", "he", *cell): 97.2 for cell in flow_settings.SCALED},
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
    """Weight decay counts by its mean over four methods, one number per seed; the note gives each method's."""
    table = made_up({("weight decay", 2e-4, "baseline", ""): 99.0})
    (effect,) = flow_settings.flow_mnist_weight_decay_helps(table)
    rows, found = table[table["setting"] == "weight decay"], list(effect.values)
    for seed in range(SEEDS):
        gains = []
        for row, form in flow_settings.DECAYED:
            chosen = rows[(rows["row"] == row) & (rows["form"] == form) & (rows["seed"] == seed)]
            with_decay, without = (
                chosen.loc[chosen["value"] == value, "test_accuracy"].item()
                for value in (2e-4, 0.0)
            )
            gains.append(100 * (with_decay - without))
        assert found[seed] == pytest.approx(sum(gains) / 4)
    assert effect.note.startswith("baseline +1.5")


def test_the_pairs_of_the_grid():
    """The rarest updates with the smallest fraction against updates five times as often with three times the fraction."""
    table = made_up()
    table = table[(table["setting"] != "mask updates") | (table["value"] != 50)]
    effect = flow_settings.flow_vgg_dst_gentler(table)[0]
    assert effect.what.endswith("every 500 steps and 0.1 - every 100 steps and 0.3")
    assert "best mean of the grid: every 500 steps, 0.1" in effect.note
    with pytest.raises(
        NotHere, match=r"every 500 steps and a drop fraction of 0\.1 with updates 5 times as often"
    ):
        flow_settings.flow_vgg_dst_gentler(
            table[(table["setting"] != "mask updates") | (table["value"] != 100)]
        )


def test_claims_about_imagenet_say_what_they_were_tested_on():
    table = made_up()
    for claim, network in (
        ("rigl-matches-pruning-long", "ResNet-50"),
        ("vgg-dst-gentler", "VGG-16"),
        ("erk-better", "VGG-16"),
    ):
        found = (
            claims.evidence(FIGURE, table, preset="quick")
            .set_index("claim")
            .loc[[f"flow-{claim}"], "note"]
            .iloc[0]
        )
        assert (
            f"the study says it of {network} on ImageNet, here it is lenet-300-100 on mnist"
            in found
        )
        assert f"{network} on ImageNet" in claims.ledger()[f"flow-{claim}"]["says"]


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
    """Without its runs a claim is not tested, and the reason names the parameter that would bring them."""
    table = made_up()
    rest = table[~lacking(table)]
    assert verdict(claim, rest)["verdict"] == "not tested here"
    with pytest.raises(NotHere, match=named):
        claims.RULES[claim](rest)


# -- the figure's presets and parameters -------------------------------------------------------------------------------


@pytest.mark.parametrize("preset", presets.PRESETS)
def test_the_presets_own_setting_is_that_of_table_1(preset):
    """The same setup, seeds, mask updates and pruning: its runs have the keys of that notebook's."""
    own, table_1 = settings(FIGURE, preset), settings("flow_table1_methods", preset)
    assert setup_of(own, "fingerprint") == setup_of(table_1, "fingerprint")
    moments = (
        "prune_start",
        "prune_end",
        "prune_every",
        "update_every",
        "update_end",
        "drop_fraction",
        "drop_schedule",
        "growth_gradient",
    )
    for name in ("seeds", "sparsity", *moments, "held", "train_examples"):
        assert getattr(own, name) == getattr(table_1, name), name
    assert own.weight_decay in own.weight_decays
    assert 0 in own.weight_decays
    assert 0.95 in own.sparsities


WRONG = [  # parameter, value, words of the error
    (
        "update_intervals",
        [80, 2000],
        r"update_intervals is \[80, 2000\]: each must be less than the 960 steps that 30 epochs are",
    ),
    ("update_intervals", [0], r"update_intervals\[0\] is 0: .*greater than or equal to 1"),
    ("update_intervals", "[80, 80]", "update_intervals is .*: each value may stand once"),
    ("drop_fractions", [0.1, 1.5], r"drop_fractions\[1\] is 1.5: .*less than or equal to 1"),
    ("drop_fractions", [-0.1], r"drop_fractions\[0\] is -0.1: .*greater than or equal to 0"),
    ("drop_fractions", [0.1, 0.1], "drop_fractions is .*: each value may stand once"),
    ("drop_fractions", [], "drop_fractions is .*at least 1"),
    ("longer", 1, "longer is 1: .*greater than or equal to 2"),
    ("longer", True, "longer is True: it should be a number"),
    ("longer", 2.5, "longer is 2.5: .*integer"),
]


@pytest.mark.parametrize(
    ("name", "value", "said"), WRONG, ids=[f"{name}-{value}" for name, value, _ in WRONG]
)
def test_wrong_lists_of_settings(name, value, said):
    with pytest.raises(ParameterError, match=said):
        settings(FIGURE, "quick", **{name: value})


def test_intervals_follow_the_length_of_a_run():
    """A shorter run, or fewer examples, takes shorter intervals; a number stands for a list of one."""
    assert settings(FIGURE, "desktop", update_intervals="[50, 400]", epochs=1).update_intervals == (
        50,
        400,
    )
    with pytest.raises(
        ParameterError, match=r"update_intervals is \[50, 100, 500\]: .*469 steps that 1 epochs are"
    ):
        settings(FIGURE, "desktop", epochs=1)
    with pytest.raises(
        ParameterError, match=r"update_intervals is \[300\]: .* the 100 steps that 10 epochs are"
    ):
        settings(FIGURE, "quick", train_examples=320, update_intervals=300, epochs=10)


@pytest.mark.parametrize("name", ["update_intervals", "drop_fractions", "longer"])
def test_only_this_figure_has_them(name):
    with pytest.raises(ParameterError, match=f"'{name}' .* does not exist here"):
        settings("flow_table1_methods", "quick", **{name: 5})


# -- the figures -------------------------------------------------------------------------------------------------------


def test_the_panels():
    """A panel for each setting of the table; a run far below the others is told in numbers."""
    table = made_up({("weight decay", 0.0, "scratch", "neuron"): 97.0})
    lost = (
        (table["setting"] == "weight decay")
        & (table["row"] == "scratch")
        & (table["seed"] == 0)
        & (table["value"] == 0)
    )
    table["accuracy"] = 100 * table["test_accuracy"].mask(lost, 0.5)
    figure = plots.settings(table[table["accuracy"].notna()], title="made up")
    drawn = [ax for ax in figure.axes if ax.get_title(loc="left")]
    names = ["initialisation" if name == "init" else name for name in flow_settings.SETTINGS]
    assert [ax.get_title(loc="left") for ax in drawn] == [
        f"({letter}) {name}" for letter, name in zip("abcdef", names, strict=True)
    ]
    assert "50.0" in " ".join(text.get_text() for text in drawn[0].texts)
    assert drawn[0].get_ylim()[0] > 90
    assert {"drop 0.1", "drop 0.3", "drop 0.5"} <= {text.get_text() for text in drawn[4].texts}
    curves = plots.flow_by_init(table[table["step"].notna()], title="made up", learns=0.01)
    assert [line.get_ydata()[-1] for line in curves.axes[1].lines[:2]] == pytest.approx(
        [0.6, 0.7], rel=0.1
    )


def test_labels_stay_apart_and_inside():
    """At least the gap between neighbours, in the order of their heights, and inside the panel."""
    found = _apart([9.9, 10.0, 9.95, 2.0], gap=0.5, bottom=0.0, top=10.0)
    assert found.tolist() == [9.0, 10.0, 9.5, 2.0]
    assert _apart([0.0, 0.1], gap=0.5, bottom=0.0, top=10.0).tolist() == [0.25, 0.75]
