"""Gradient flow recorded while training."""

import pytest
import torch
from support import carry_out, images_of, layout_of, small

from lib import rng
from lib.metrics import gradients
from lib.models import initializers
from lib.runs import results
from lib.runs.store import Store
from lib.specs.parts import MaskUpdate
from lib.specs.run import Run, gradually_pruned, scratch
from lib.training.cohort import network_of

FLOW = {
    "flow_every": 2,
    "flow_examples": 40,
    "held": 60,
}  # 150 digits in batches of 32 are 5 steps an epoch


def trained_by_hand(run, until):
    """The network of a run after ``until`` optimiser steps: one module, autograd, momentum
    written out. Its mask is that of its start."""
    images, recipe = images_of(run), run.recipe
    network = network_of(run, images).to_empty(device="cpu").eval()
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
    """At every recorded step, on the examples behind the first ``held``; the table has a row
    for each."""
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
    """Before it that of the network as trained, after it that of the new mask; a step recorded
    at an update has both."""
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
    network = network_of(run, images).to_empty(device="cpu").eval()
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
