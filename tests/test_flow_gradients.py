"""Gradient flow: what is recorded against networks trained by hand, its tables, and the rules on made-up tables."""

import numpy as np
import pandas as pd
import pytest
import torch
from lib.claims import flow_gradients
from lib.claims.decisions import NotHere, decide
from lib.claims.flow_gradients import SPARSE
from support import carry_out, images_of, layout_of, small

from lib import claims, rng
from lib.metrics import gradients
from lib.models import initializers
from lib.runs import results
from lib.runs.store import Store
from lib.specs.parts import MaskUpdate
from lib.specs.run import Run, gradually_pruned, scratch
from lib.training.cohort import build

# -- what is recorded --------------------------------------------------------------------------------------------------

FLOW = {
    "flow_every": 2,
    "flow_examples": 40,
    "held": 60,
}  # 150 digits in batches of 32 are 5 steps an epoch


def trained_by_hand(run, until):
    """The network of a run after ``until`` optimiser steps: one module, autograd, momentum written out. Its mask is that of its start."""
    images, recipe = images_of(run), run.recipe
    network = build(run.network, images.shape, images.classes).to_empty(device="cpu").eval()
    for name, value in initializers.dense(network, run.network.init, run.seed).items():
        network.get_parameter(name).data.copy_(value)
    velocity = {name: torch.zeros_like(p) for name, p in network.named_parameters()}
    step = 0
    for epoch in range(recipe.epochs):
        order = torch.randperm(
            len(images.y_train), generator=rng.generator(run.seed, run.solution, "order", epoch)
        )
        for batch in order.split(recipe.batch_size):
            if step == until:
                return network
            network.zero_grad()
            torch.nn.functional.cross_entropy(
                network(images.x_train[batch]), images.y_train[batch]
            ).backward()
            with torch.no_grad():
                for name, p in network.named_parameters():
                    velocity[name] = recipe.momentum * velocity[name] + p.grad
                    p -= recipe.lr * velocity[name]
            step += 1
    return network


def test_recorded_flow_is_that_of_a_network_trained_by_hand(tmp_path):
    """At every recorded step, on the examples behind the first ``held``; the table has a row for each."""
    run, store = Run.dense(small(**FLOW), seed=3), Store(tmp_path)
    carry_out([run], store)
    table, images = results.flows([run], store), images_of(run)
    assert list(table["step"]) == [0, 2, 4, 6, 8, 10, 12, 14]
    for step, found in zip(table["step"], table["flow"], strict=True):
        expected = gradients.flow(
            trained_by_hand(run, step), images.x_train[60:100], images.y_train[60:100]
        )
        assert found == pytest.approx(expected, rel=1e-4), step
    assert (table["flow"] == table["flow_after"]).all()


def test_flow_around_a_mask_update(tmp_path):
    """Before it that of the network as trained, after it that of the new mask; a step recorded at an update has both."""
    setup, store = small(**FLOW, keep_dense=[]), Store(tmp_path)
    parent = gradually_pruned(
        setup,
        seed=1,
        sparsity=0.8,
        mask_update=MaskUpdate(method="gradual", every=5, start=0, end=10),
    )
    run = scratch(
        parent,
        sparsity=0.8,
        mask_update=MaskUpdate(method="rigl", every=6, end=15, fraction=0.3, held=60),
    )
    carry_out([run], store)
    flows, updates = results.flows([run, parent], store), results.mask_updates([run, parent], store)
    assert updates.groupby("key")["step"].apply(list).to_dict() == {
        run.key: [6, 12],
        parent.key: [5, 10],
    }
    own = flows[flows["key"] == run.key].set_index("step")
    around = updates[updates["key"] == run.key].set_index("step")
    assert list(around.index) == [6, 12]
    assert list(own.loc[around.index, "flow"]) == list(around["before"])
    assert list(own.loc[around.index, "flow_after"]) == list(around["after"])
    apart = own.drop(index=around.index)
    assert (apart["flow"] == apart["flow_after"]).all()
    assert (around["before"] != around["after"]).all()


def test_flow_counts_live_weights_alone(tmp_path):
    """At the start of a sparse run: the gradient of its masked network, where the mask lives."""
    setup, store = small(**FLOW), Store(tmp_path)
    run = scratch(Run.dense(setup, seed=0), sparsity=0.9)
    carry_out([run], store)
    images, layout = images_of(run), layout_of(run)
    mask = layout.views(store.get(run.key).tensors["mask"])
    network = build(run.network, images.shape, images.classes).to_empty(device="cpu").eval()
    weights, _ = initializers.sparse(
        network, {n: m for n, m in mask.items() if m.dim() > 1}, "he", 0, "scratch", form="masked"
    )
    for name, value in weights.items():
        network.get_parameter(name).data.copy_(value)
    expected = gradients.flow(network, images.x_train[60:100], images.y_train[60:100], mask=mask)
    assert results.flows([run], store)["flow"].iloc[0] == pytest.approx(expected, rel=1e-4)


def test_tables_of_runs_that_are_not_there(store):
    run = Run.dense(small(**FLOW), seed=0)
    for table in (results.flows, results.mask_updates):
        with pytest.raises(KeyError, match="is not in the store"):
            table([run], store)


# -- rules on made-up tables -------------------------------------------------------------------------------------------

STEPS, EVERY, UPDATE, SEEDS = 12_000, 200, 500, 6
CELLS = [*SPARSE, ("lottery", ""), ("small dense", "")]
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
    """A table in which each cell's flow, start and accuracy, and each method's changes, are those of the story or what is given instead.

    ``other`` maps "scratch masked" and the like to another (first half, second half, start, accuracy).
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


def verdict(claim, table):
    found = claims.verdicts(claims.ledger()[claim]["figure"], table, preset="quick")
    return found.set_index("claim").loc[claim, "verdict"]


RULES = [  # claim, what refutes it
    (
        "flow-fig2-scratch-stalls",
        {"scratch_masked": (0.3, 0.5, 0, 60), "scratch_neuron": (1.0, 0.5, 600, 96)},
    ),
    ("flow-fig2-scratch-stalls", {"scratch_masked": (0.3, 0.5, 4000, 60)}),
    ("flow-fig2-init-raises-flow", {"scratch_masked": (3.0, 0.5, 0, 60)}),
    (
        "flow-fig2-small-dense-gap",
        {"small_dense": (1.0, 0.5, 0, 99), "scratch_masked": (1.0, 0.5, 0, 60)},
    ),
    ("flow-fig2-rigl-improves", {"rigl_neuron": (0.5, 2.0, 0, 98)}),
    ("flow-fig2-lt-no-improvement", {"lottery": (2.0, 0.5, 0, 98)}),
    ("flow-t1-rigl-vs-small-dense", {"rigl_neuron": (3.0, 2.0, 0, 99.5)}),
    ("flow-t1-rigl-vs-small-dense", {"small_dense": (6.0, 6.0, 0, 99)}),
    ("flow-rigl-above-small-dense-flow", {"small_dense": (6.0, 6.0, 0, 99)}),
    (
        "flow-dst-generalisation-link",
        {"rigl_neuron": (0.1, 2.0, 0, 98), "rigl_inverted_neuron": (6.0, 0.5, 0, 92)},
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
    assert verdict(claim, made_up()) == "supported"
    assert verdict(claim, made_up(**other)) == "refuted"


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
    assert verdict(claim, made_up(**where)) == "supported"
    assert verdict(claim, made_up(**where, **other)) == "refuted"
    assert verdict(claim, made_up()) == "not tested here"


def test_what_cannot_be_tested_says_so():
    for claim in ("resnet-early-only", "lr-drop-jump"):
        assert verdict(f"flow-fig2-{claim}", made_up()) == "not tested here"
    assert verdict("flow-t1-rigl-vs-small-dense", made_up(network="mlp")) == "not tested here"
    awake = made_up(rigl_masked=(0.8, 1.0, 0, 80))
    assert verdict("flow-fig8-original-delay", awake) == "not tested here"
    few = awake[(awake["step"] == 0) | (awake["step"] > 1000)]
    with pytest.raises(NotHere, match="give a smaller flow_every"):
        flow_gradients.level(few, ("scratch", "neuron"), flow_gradients.FIRST_500)
    with pytest.raises(NotHere, match=r"no flow of scratch \(liu\)"):
        flow_gradients.courses(awake[awake["form"] != "layer"], "scratch", "layer")
    with pytest.raises(NotHere, match="both halves"):
        flow_gradients.half(pd.DataFrame({500: [0.1], 1000: [0.2]}), awake)


def test_elsewhere_the_start_needs_no_number():
    """A stall of 4,000 steps refutes the number of LeNet-5, and supports the direction in another network."""
    late = {"scratch_masked": (0.3, 0.5, 4000, 60)}
    assert verdict("flow-fig2-scratch-stalls", made_up(**late)) == "refuted"
    assert (
        verdict("flow-fig2-scratch-stalls", made_up(network="lenet-300-100", **late)) == "supported"
    )


def test_the_start_of_learning():
    """The first recorded step at the threshold, 0 where it begins there, and the last step where it never comes."""
    table = made_up(spread=0.0, set_layer=(0.001, 0.001, 0, 90))
    found = [
        flow_gradients.start(table, *cell).unique().tolist()
        for cell in (("scratch", "masked"), ("lottery",), ("set", "layer"))
    ]
    assert found == [[1000], [0], [STEPS]]


def test_the_side_on_which_small_dense_lies_is_not_chosen_by_its_own_noise():
    """Where both are the same but for noise of a factor of two, no difference is found in more than the level's share of tables."""
    stream, found = np.random.default_rng(0), 0
    table = made_up(spread=0.0, small_dense=(1.0, 0.5, 0, 99), scratch_masked=(1.0, 0.5, 0, 96))
    table = table[
        table["row"].isin(["small dense", "scratch"]) & table["step"].isin([0, 6000, STEPS])
    ]
    for _ in range(60):
        noise = {key: np.exp(0.7 * stream.standard_normal()) for key in table["key"].unique()}
        effects = flow_gradients.flow_fig2_small_dense_gap(
            table.assign(flow=table["flow"] * table["key"].map(noise))
        )
        found += all(decide(effect)["verdict"] == "supported" for effect in effects)
    assert found <= 6


def test_flow_just_after_an_update_stands_in_the_notes():
    """A network whose flow is higher only where a step is recorded right behind an update does not count as higher."""
    table = made_up(rigl_neuron=(1.0, 0.5, 0, 98), spread=1e-3)
    at_updates = (table["row"] == "rigl") & (table["step"] % 1000 == 0)
    table.loc[at_updates, "flow_after"] *= 10
    found = claims.evidence("flow_fig2_gradient_flow", table, preset="quick")
    row = found[
        (found["claim"] == "flow-fig2-rigl-improves") & found["what"].str.contains("ours")
    ].iloc[0]
    assert abs(row["effect"]) < 0.01
    assert "recorded after the change" in row["note"]
