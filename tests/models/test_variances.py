"""Variances of fresh weights, in closed form and counted."""

import numpy as np
import pytest
import torch
from support import of_notebook

from lib import rng
from lib.models import initializers, networks

random_mask = of_notebook("flow_fig1_init", "random_mask")
LENET = networks.build("lenet-5", (3, 16, 16), 10)


def kernels(network):
    return {name: p.shape for name, p in network.named_parameters() if p.dim() > 1}


@pytest.mark.parametrize("form", initializers.FORMS)
@pytest.mark.parametrize("scheme", ["he", "glorot-normal", "glorot-uniform"])
def test_variances_are_those_of_the_draws(scheme, form):
    """Mean square of each neuron's weights over many draws against the closed form: within five
    standard errors."""
    network = networks.build("mlp", (20,), 8, widths=())
    mask = random_mask(kernels(network), 0.5, "uneven", rng.generator(1, "mask"))
    found = initializers.variances(network, mask, scheme, form=form)["1.weight"]
    draw = torch.stack(
        [
            initializers.sparse(network, mask, scheme, seed, form=form)[0]["1.weight"]
            for seed in range(2000)
        ]
    )
    live = mask["1.weight"]
    assert (found[~live] == 0).all()
    error = (draw.double().square().mean(0) / found - 1)[live]
    assert error.abs().max() < 5 * np.sqrt(2 / 2000)


@pytest.mark.parametrize("fan", initializers.FANS)
def test_variances_counted_with_numpy(fan):
    """Eq. 2 of the study for a convolution, from the mask alone."""
    mask = random_mask(kernels(LENET), 0.8, "bounded", rng.generator(2, "mask"))
    found = initializers.variances(LENET, mask, "he", fan=fan)
    for name, live in mask.items():
        alive = live.numpy().reshape(*live.shape[:2], -1)
        fan_in, fan_out = (np.maximum(alive.sum(axes), 1) for axes in ((1, 2), (0, 2)))
        units = {
            "in": fan_in[:, None] + 0 * fan_out,
            "out": fan_out + 0 * fan_in[:, None],
            "average": (fan_in[:, None] + fan_out) / 2,
        }[fan]
        np.testing.assert_allclose(
            found[name].numpy().reshape(alive.shape), alive * (2 / units)[..., None], rtol=1e-12
        )


def test_variances_under_a_full_mask_and_without_one():
    for name, value in initializers.variances(LENET, {}, "he").items():
        assert (value == 2 / kernels(LENET)[name][1:].numel()).all()
    with pytest.raises(ValueError, match="'odd' is unknown"):
        initializers.variances(LENET, {}, "he", form="odd")
