"""Random masks."""

import numpy as np
import pytest
import torch
from support import of_notebook

from lib import rng
from lib.models import networks

random_mask = of_notebook("flow_fig1_init", "random_mask")
DEEP = networks.build("mlp", (60,), 60, widths=(60,) * 4)


LENET = networks.build("lenet-5", (3, 16, 16), 10)


def kernels(network):
    return {name: p.shape for name, p in network.named_parameters() if p.dim() > 1}


@pytest.mark.parametrize("kind", ["uniform", "bounded", "uneven"])
@pytest.mark.parametrize("sparsity", [0.0, 0.37, 0.8, 0.98])
def test_random_masks_are_exact_in_each_layer(kind, sparsity):
    mask = random_mask(kernels(LENET), sparsity, kind, rng.generator(0, "mask"))
    assert list(mask) == list(kernels(LENET))
    for name, live in mask.items():
        assert live.shape == kernels(LENET)[name]
        assert int((~live).sum()) == round(sparsity * live.numel())


def test_even_masks_give_every_neuron_as_many_inputs():
    for live in random_mask(kernels(LENET), 0.9, "even", rng.generator(0, "mask")).values():
        inputs = live[0].numel()
        assert set(live.flatten(1).sum(1).tolist()) == {inputs - round(0.9 * inputs)}


def test_masks_follow_their_generator():
    first, again, other = (
        random_mask(kernels(DEEP), 0.9, "uneven", rng.generator(seed, "mask")) for seed in (0, 0, 1)
    )
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not any(torch.equal(first[name], other[name]) for name in first)
    with pytest.raises(
        ValueError, match="'odd' is unknown; there are uniform, bounded, uneven, even"
    ):
        random_mask(kernels(DEEP), 0.9, "odd", rng.generator(0, "mask"))


def test_bounded_masks_are_those_of_the_study():
    """Zeros in proportion to min(1, t / k) for output neuron k, with t such that their mean is
    the sparsity; as its code draws them."""
    outputs, inputs, sparsity = 20, 5000, 0.9
    live = random_mask({"w": (outputs, inputs)}, sparsity, "bounded", rng.generator(0, "mask"))["w"]
    levels = np.linspace(0, outputs, 200_001)
    shares = np.minimum(1, levels[:, None] / np.arange(1, outputs + 1))
    expected = shares[np.searchsorted(shares.mean(1), sparsity)]
    found = 1 - live.double().mean(1).numpy()
    assert np.abs(found - expected).max() < 5 * np.sqrt(0.25 / inputs)
    assert (found[expected == 1] == 1).all()
    # the study's own drawing: uniform numbers up to k in output channel k, the lowest go
    stream = np.random.default_rng(0)
    drawn = stream.uniform(high=np.arange(1, outputs + 1), size=(inputs, outputs))
    theirs = (drawn <= np.sort(drawn.flatten())[int(sparsity * drawn.size)]).mean(0)
    assert np.abs(found - theirs).max() < 5 * np.sqrt(0.5 / inputs)


def test_uneven_masks_have_unequal_neurons_without_idle_ones():
    live = random_mask({"w": (200, 200)}, 0.9, "uneven", rng.generator(0, "mask"))["w"]
    for fans in (live.sum(1), live.sum(0)):
        assert fans.min() > 0
        assert fans.max() > 3 * fans.min()
    uniform = random_mask({"w": (200, 200)}, 0.9, "uniform", rng.generator(0, "mask"))["w"]
    assert live.sum(1).double().std() > 1.5 * uniform.sum(1).double().std()
