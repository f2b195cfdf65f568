"""The rules on gradient flow, over training and at mask updates, on made-up tables."""

import numpy as np
import pandas as pd
import pytest
from support import QUICK, judged

from studies import ledger, rules
from studies.decide import NotHere, decide
from studies.flow import gradients, methods
from studies.quantities import Numbers

STEPS, EVERY, UPDATE, SEEDS = 12_000, 200, 500, 10
CELLS = [*gradients.CELLS, ("lottery", ""), ("small dense", "")]
# flow over the first half, over the second half, start of learning, accuracy: the study's story
STORY = {
    **{("scratch", form): (1.0, 0.5, 0, 96) for form in ("layer", "neuron")},
    **{("set", form): (1.1, 0.5, 0, 97) for form in ("layer", "neuron")},
    **{
        ("rigl", "layer"): (1.1, 1.0, 0, 98),
        ("rigl", "neuron"): (3.0, 2.0, 0, 98),
        ("rigl-inverted", "neuron"): (0.5, 0.5, 0, 92),
    },
    **{
        ("scratch", "masked"): (0.3, 0.5, 1000, 60),
        ("set", "masked"): (0.32, 0.5, 1000, 61),
        ("rigl", "masked"): (0.8, 1.0, 600, 80),
    },
    **{("lottery", ""): (1.0, 0.5, 0, 98), ("small dense", ""): (0.05, 0.05, 0, 99)},
}
# change of the norm at updates in the first and second half, before learning starts
CHANGES = {"rigl": (0.5, 0.2, 0.0), "set": (0.1, 0.05, 0.0), "rigl-inverted": (0.0, 0.0, 0.0)}


def made_up(changes=None, network="lenet-5", dataset="mnist", spread=0.05, **other):
    """Each cell's flow, start and accuracy, each method's changes: the story's, or what is given.

    ``other`` maps "scratch masked" and the like to another (first half, second half, start,
    accuracy).
    """
    stream, rows = np.random.default_rng(0), []
    changes = {**CHANGES, **(changes or {})}
    for row, form in CELLS:
        first, second, begins, accuracy = other.get(
            f"{row} {form}".strip().replace(" ", "_").replace("-", "_"), STORY[row, form]
        )
        for seed in range(SEEDS):
            own = float(np.exp(spread * stream.standard_normal()))
            run = {
                "key": f"{row}{form}{seed}",
                "row": row,
                "form": form,
                "seed": seed,
                "diverged": False,
                "steps": STEPS,
            }
            run |= {
                "dataset": dataset,
                "network": network,
                "test_accuracy": accuracy / 100 + 1e-4 * stream.standard_normal(),
            }

            def level(step, own=own, first=first, second=second, begins=begins):
                return own * (1e-5 if step < begins else first if step <= STEPS / 2 else second)

            for step in range(0, STEPS + 1, EVERY):
                rows.append({**run, "step": step, "flow": level(step), "flow_after": level(step)})
            for step in range(UPDATE, STEPS, UPDATE) if row in changes else ():
                early, late, asleep = changes[row]
                size = asleep if step < begins else early if step <= STEPS / 2 else late
                before = level(step)
                rows.append(
                    {
                        **run,
                        "step": step,
                        "before": before,
                        "after": (before**0.5 + own * size) ** 2,
                    }
                )
    return pd.DataFrame(rows)


RULES = [  # claim, what refutes it
    (
        "flow-fig2-scratch-stalls",
        {"scratch_masked": (0.3, 0.5, 0, 60), "scratch_neuron": (1.0, 0.5, 600, 96)},
    ),
    ("flow-fig2-scratch-stalls", {"scratch_masked": (0.3, 0.5, 4000, 60)}),
    ("flow-fig2-init-raises-flow", {"scratch_masked": (3.0, 0.5, 0, 60)}),
    ("flow-fig2-init-raises-flow", {"scratch_masked": (0.8, 0.5, 0, 60)}),  # alike
    (
        "flow-fig2-small-dense-gap",
        {"small_dense": (1.0, 0.5, 0, 99), "scratch_masked": (1.0, 0.5, 0, 60)},
    ),
    ("flow-fig2-rigl-improves", {"rigl_neuron": (0.5, 2.0, 0, 98)}),
    ("flow-fig2-rigl-improves", {"rigl_neuron": (1.3, 2.0, 0, 98)}),  # alike, as SET may be
    ("flow-fig2-lt-no-improvement", {"lottery": (2.0, 0.5, 0, 98)}),
    ("flow-t1-rigl-vs-small-dense", {"rigl_neuron": (3.0, 2.0, 0, 99.5)}),
    ("flow-t1-rigl-vs-small-dense", {"small_dense": (6.0, 6.0, 0, 99)}),
    ("flow-rigl-above-small-dense-flow", {"small_dense": (6.0, 6.0, 0, 99)}),
    (
        "flow-dst-generalisation-link",
        {
            "scratch_masked": (6.0, 0.5, 0, 60),
            "set_masked": (5.0, 0.5, 0, 61),
            "rigl_masked": (4.0, 1.0, 0, 80),
        },
    ),
    ("flow-fig7a-dst-starts-earlier", {"rigl_masked": (0.8, 1.0, 2000, 80)}),
    ("flow-fig7a-dst-starts-earlier", {"set_neuron": (3.0, 0.5, 0, 97)}),
    ("flow-fig7b-liu", {"rigl_layer": (3.0, 1.0, 0, 98)}),
    ("flow-fig7b-liu", {"set_masked": (3.0, 0.5, 0, 61)}),
    ("flow-fig3-rigl-update-raises", {"changes": {"rigl": (0.2, 0.5, 0.0)}}),
    ("flow-fig3-rigl-update-raises", {"changes": {"rigl": (-0.1, -0.2, 0.0)}}),
    ("flow-fig3-set-weaker", {"changes": {"set": (0.9, 0.5, 0.0)}}),
    ("flow-fig3-inverted-none", {"changes": {"rigl-inverted": (0.08, 0.08, 0.0)}}),
    ("flow-fig3-inverted-none", {"changes": {"set": (-0.2, -0.2, 0.0)}}),
    ("flow-fig8-original-delay", {"changes": {"rigl": (0.5, 0.2, 0.5)}}),
    ("flow-fig8-original-delay", {"changes": {"rigl": (-0.1, -0.1, 0.0)}}),
]


@pytest.mark.parametrize(
    ("claim", "other"), RULES, ids=[f"{claim}-{number}" for number, (claim, _) in enumerate(RULES)]
)
def test_rules(claim, other):
    """Each is supported by the study's story, and refuted where the story is another."""
    assert judged(claim, made_up()) == "supported"
    assert judged(claim, made_up(**other)) == "refuted"


MLP_RULES = [
    ("flow-fig9a-mlp-flow", {"scratch_masked": (3.0, 0.5, 0, 60)}),
    ("flow-fig9b-mlp-rigl", {"rigl_neuron": (3.0, 0.2, 0, 98)}),
    ("flow-fig9b-mlp-rigl", {"changes": {"rigl": (-0.1, -0.1, 0.0)}}),
]


@pytest.mark.parametrize(
    ("claim", "other"),
    MLP_RULES,
    ids=[f"{claim}-{number}" for number, (claim, _) in enumerate(MLP_RULES)],
)
def test_rules_of_the_fully_connected_network(claim, other):
    """Likewise there, and nowhere else."""
    where = {"network": "lenet-300-100"}
    assert judged(claim, made_up(**where)) == "supported"
    assert judged(claim, made_up(**where, **other)) == "refuted"
    assert judged(claim, made_up()) == "not tested here"


def imagenet(network, **other):
    """The story on ImageNet, with flow that triples at each fall of the learning rate."""
    table = made_up(network=network, dataset="folder", **other)
    falls = sum((table["step"] > share * STEPS).astype(int) for share in gradients.FALLS)
    return table.assign(train_images=methods.IMAGES, flow=table["flow"] * 3.0**falls)


@pytest.mark.parametrize("network", ["resnet-50", "vgg-16"])
def test_flow_jumps_where_the_rate_falls(network):
    claim = "flow-fig2-lr-drop-jump"
    assert judged(claim, imagenet(network)) == "supported"
    steady = made_up(network=network, dataset="folder").assign(train_images=methods.IMAGES)
    assert judged(claim, steady) == "refuted"
    assert judged(claim, imagenet(network).assign(train_images=48)) == "not tested here"


def test_the_gain_of_resnet_50_is_an_early_one():
    claim = "flow-fig2-resnet-early-only"
    assert judged(claim, imagenet("resnet-50")) == "supported"
    for other in ((3.0, 0.5, 0, 70), (0.3, 0.1, 1000, 70)):  # never there; still there later
        assert judged(claim, imagenet("resnet-50", scratch_masked=other)) == "refuted"
    assert judged(claim, imagenet("vgg-16")) == "not tested here"


def test_vgg_16_stalls_for_longer():
    late = imagenet("vgg-16", scratch_masked=(0.3, 0.5, 5000, 60))
    assert judged("flow-fig2-scratch-stalls", late) == "supported"
    assert judged("flow-fig2-scratch-stalls", imagenet("vgg-16")) == "refuted"


def test_what_cannot_be_tested_says_so():
    for claim in ("resnet-early-only", "lr-drop-jump"):
        assert judged(f"flow-fig2-{claim}", made_up()) == "not tested here"
    assert judged("flow-t1-rigl-vs-small-dense", made_up(network="mlp")) == "not tested here"
    awake = made_up(rigl_masked=(0.8, 1.0, 0, 80))
    assert judged("flow-fig8-original-delay", awake) == "not tested here"
    few = awake[(awake["step"] == 0) | (awake["step"] > 1000)]
    with pytest.raises(NotHere, match="give a smaller flow_every"):
        gradients.level(("scratch", "neuron"), gradients.FIRST_500)(few)
    with pytest.raises(NotHere, match=r"no flow of scratch \(liu\)"):
        gradients.flow("scratch", "layer")(awake[awake["form"] != "layer"])
    changes = Numbers(lambda _: pd.DataFrame({500: [0.1], 1000: [0.2]}))
    with pytest.raises(NotHere, match="both halves"):
        gradients.half(changes, gradients.SECOND_HALF)(awake)


def test_elsewhere_the_start_needs_no_number():
    """A stall of 4,000 steps refutes LeNet-5's number, and supports the direction elsewhere."""
    late = {"scratch_masked": (0.3, 0.5, 4000, 60)}
    assert judged("flow-fig2-scratch-stalls", made_up(**late)) == "refuted"
    assert (
        judged("flow-fig2-scratch-stalls", made_up(network="lenet-300-100", **late)) == "supported"
    )


def test_the_start_of_learning():
    """The first recorded step at the threshold, be it 0, and the last where it never comes."""
    table = made_up(spread=0.0, set_layer=(0.001, 0.001, 0, 90))
    found = [
        gradients.start(*cell)(table).unique().tolist()
        for cell in (("scratch", "masked"), ("lottery",), ("set", "layer"))
    ]
    assert found == [[1000], [0], [STEPS]]


def test_small_dense_lies_on_either_side_and_not_by_noise():
    """Where both are the same but for noise of a factor of two, few tables show a difference."""
    above = {"small_dense": (20.0, 20.0, 0, 99)}
    assert judged("flow-fig2-small-dense-gap", made_up(**above)) == "supported"
    stream, found = np.random.default_rng(0), 0
    table = made_up(spread=0.0, small_dense=(1.0, 0.5, 0, 99), scratch_masked=(1.0, 0.5, 0, 96))
    table = table[
        table["row"].isin(["small dense", "scratch"]) & table["step"].isin([0, 6000, STEPS])
    ]
    for _ in range(60):
        noise = {key: np.exp(0.7 * stream.standard_normal()) for key in table["key"].unique()}
        noisy = table.assign(flow=table["flow"] * table["key"].map(noise))
        effects = rules.rows(ledger.RULES["flow-fig2-small-dense-gap"], noisy)
        found += all(decide(effect)["verdict"] == "supported" for effect in effects)
    assert found <= 6


def test_flow_just_after_an_update_stands_in_the_notes():
    """Flow that is higher only where a step is recorded right behind an update is not higher."""
    table = made_up(rigl_neuron=(1.0, 0.5, 0, 98), spread=1e-3)
    at_updates = (table["row"] == "rigl") & (table["step"] % 1000 == 0)
    table.loc[at_updates, "flow_after"] *= 10
    found = ledger.evidence("flow_fig2_gradient_flow", table, made=QUICK)
    row = found[
        (found["claim"] == "flow-fig2-rigl-improves") & found["what"].str.contains("ours")
    ].iloc[0]
    assert abs(row["effect"]) < 0.01
    assert "recorded after the change" in row["note"]
