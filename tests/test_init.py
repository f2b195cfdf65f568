"""Initial weights have the distributions that their schemes name, and each kernel draws for itself."""

import math

import pytest
import torch

from lib import draws, init, networks

LINEAR = networks.build("mlp", (400,), 10, widths=(300, 200))
CONVOLUTIONAL = networks.build("resnet-20", (3, 32, 32), 10)


def expected_std(scheme, shape):
    receptive = math.prod(shape[2:])
    fan_in, fan_out = shape[1] * receptive, shape[0] * receptive
    return {
        "he": math.sqrt(2 / fan_in),
        "he-fan-out": math.sqrt(2 / fan_out) if len(shape) > 2 else 0.01,
        "glorot-normal": math.sqrt(2 / (fan_in + fan_out)),
        "glorot-uniform": math.sqrt(2 / (fan_in + fan_out)),  # the standard deviation of U(+-sqrt(6 / sum))
    }[scheme]


@pytest.mark.parametrize("scheme", init.SCHEMES)
@pytest.mark.parametrize("network", [LINEAR, CONVOLUTIONAL], ids=["linear", "convolutional"])
def test_moments(network, scheme):
    """Mean and variance of every kernel are those of the scheme, within five standard errors."""
    values = init.dense(network, scheme, seed=3)
    assert list(values) == [n for n, _ in network.named_parameters()]
    kurtosis = 1.8 if scheme == "glorot-uniform" else 3
    for name, value in values.items():
        if value.dim() < 2:
            continue
        std, n = expected_std(scheme, value.shape), value.numel()
        assert abs(value.mean()) < 5 * std / math.sqrt(n), name
        assert abs(value.var() / std**2 - 1) < 5 * math.sqrt((kurtosis - 1) / n), name


def test_glorot_uniform_is_bounded():
    """Its values fill the interval and do not leave it."""
    value = init.dense(LINEAR, "glorot-uniform", 0)["1.weight"]
    bound = math.sqrt(6 / (400 + 300))
    assert 0.999 * bound < value.abs().max() <= bound


def test_biases_and_batchnorm():
    """Biases and BatchNorm's shifts are 0, its scales 1."""
    values = init.dense(CONVOLUTIONAL, "he", 0)
    kinds = {n: networks.nn.BatchNorm2d for n, m in CONVOLUTIONAL.named_modules() if isinstance(m, networks.nn.BatchNorm2d)}
    flat = {n: v for n, v in values.items() if v.dim() == 1}
    assert len(flat) == 2 * len(kinds) + 1
    for name, value in flat.items():
        owner, _, kind = name.rpartition(".")
        assert (value == float(owner in kinds and kind == "weight")).all(), name


def test_draws_are_named():
    """The same seed and name give the same bits; another seed or name gives others."""
    first, again = (init.dense(LINEAR, "he", 5) for _ in range(2))
    assert all(torch.equal(first[n], again[n]) for n in first)
    for other in (init.dense(LINEAR, "he", 6), init.dense(LINEAR, "he", 5, "scratch")):
        assert not any(torch.equal(first[n], other[n]) for n in first if first[n].dim() > 1)


def test_a_kernel_does_not_depend_on_the_other_layers():
    """The first kernel is the same whatever comes after it, and equal kernels of one network differ."""
    wide, narrow = (init.dense(networks.build("mlp", (40,), 10, widths=w), "he", 5) for w in ((30, 30, 30), (30, 7)))
    assert torch.equal(wide["1.weight"], narrow["1.weight"])
    assert not torch.equal(wide["3.weight"], wide["5.weight"])


def test_unknown_scheme():
    """An unknown scheme is answered with the known ones."""
    with pytest.raises(ValueError, match="'hee' is unknown; there are he, he-fan-out, glorot-normal, glorot-uniform"):
        init.dense(LINEAR, "hee", 0)


def test_seeds_derive_from_every_part_of_the_name():
    """No two of many names share a generator, and the parts do not run into each other."""
    names = [
        (s, *n) for s in range(5) for n in [("init",), ("scratch",), ("order", 1), ("order", 11), ("order", 1, 1), ("sol_d", "order", 1)]
    ]
    seeds = {draws.derived_seed(*name) for name in names}
    assert len(seeds) == len(names)
    assert all(0 <= s < 2**63 for s in seeds)
