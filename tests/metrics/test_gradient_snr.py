"""Signal and noise of minibatch gradients against all gradients stacked, in float64, with and
without masks.
"""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from lib import rng
from lib.metrics import gradient_snr
from lib.metrics.estimate import MeasureError


def small_network(dtype=torch.float64):
    """A convolution, a BatchNorm with statistics of its own, and two linear layers."""
    stream = rng.generator(0, "network")
    network = nn.Sequential(
        nn.Conv2d(1, 3, 3, padding=1), nn.BatchNorm2d(3), nn.ReLU(), nn.AvgPool2d(2), nn.Flatten(),
        nn.Linear(27, 8), nn.ReLU(), nn.Linear(8, 4),
    )  # fmt: skip
    with torch.no_grad():
        for value in (*network.parameters(), *network.buffers()):
            if value.is_floating_point():
                value.copy_(torch.rand(value.shape, generator=stream) - 0.3)
        network[1].running_var.abs_()
    return network.to(dtype).eval()


def examples(n=50, dtype=torch.float64):
    stream = rng.generator(1, "examples")
    return torch.rand(n, 1, 6, 6, generator=stream).to(dtype), torch.randint(
        4, (n,), generator=stream
    )


def some_mask(network, density=0.4):
    stream = rng.generator(2, "mask")
    return {
        n: torch.rand(p.shape, generator=stream) < density
        for n, p in network.named_parameters()
        if p.dim() > 1 and n != "7.weight"
    }


def stacked(network, x, labels, size, mask, which, order=None):
    """The same numbers from every gradient of every batch, held at once."""
    order = torch.arange(len(x)) if order is None else order
    batches = [order[i * size : (i + 1) * size] for i in range(len(x) // size)]
    names = [
        n
        for n, p in network.named_parameters()
        if which == "all" or (n.endswith("weight") and p.dim() > 1)
    ]
    rows = {name: [] for name in names}
    for batch in batches:
        gradients = torch.autograd.grad(
            F.cross_entropy(network(x[batch]), labels[batch]),
            [network.get_parameter(n) for n in names],
        )
        for name, gradient in zip(names, gradients, strict=True):
            rows[name].append(
                gradient[
                    (mask or {}).get(name, torch.ones_like(gradient, dtype=torch.bool))
                ].flatten()
            )
    layers = {}
    for name in names:
        layers.setdefault(name.rpartition(".")[0], []).append(torch.stack(rows[name]))
    together = {layer: torch.cat(parts, 1) for layer, parts in layers.items()}
    return {
        layer: (rows.mean(0).norm().item(), rows.std(0).norm().item())
        for layer, rows in together.items()
    }


@pytest.mark.parametrize("which", ["all", "weights"])
@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("chunk", [None, 3])
def test_against_all_gradients_stacked(which, masked, chunk):
    """50 examples in batches of 8: six batches, the last two unused; chunks do not matter."""
    network, (x, labels) = small_network(), examples()
    mask = some_mask(network) if masked else None
    found = gradient_snr.by_layer(network, x, labels, 8, mask=mask, which=which, chunk=chunk)
    expected = stacked(network, x, labels, 8, mask, which)
    assert list(found) == list(expected)
    for layer, (mean, std) in expected.items():
        assert found[layer].mean == pytest.approx(mean, rel=1e-12), layer
        assert found[layer].std == pytest.approx(std, rel=1e-12), layer
        assert found[layer].snr == pytest.approx(mean / std, rel=1e-12)
        assert found[layer].batches == 6


def test_float32_networks_agree_to_single_precision():
    (x, labels), network = examples(dtype=torch.float32), small_network(torch.float32)
    found, expected = (
        gradient_snr.by_layer(network, x, labels, 10),
        stacked(small_network(), x.double(), labels, 10, None, "all"),
    )
    for layer, (mean, std) in expected.items():
        assert (found[layer].mean, found[layer].std) == pytest.approx((mean, std), rel=1e-5)


def test_deviations_far_below_the_mean_survive():
    """Copies of one batch but for a millionth: a difference of squares would lose this noise, the
    running one does not.
    """
    network, (x, labels) = small_network(), examples(10)
    many = torch.cat([x * (1 + 1e-7 * step) for step in range(5)])
    found = gradient_snr.by_layer(network, many, labels.repeat(5), 10)
    for layer, (mean, std) in stacked(network, many, labels.repeat(5), 10, None, "all").items():
        assert found[layer].mean == pytest.approx(mean, rel=1e-12)
        assert found[layer].std == pytest.approx(std, rel=1e-5)
        assert found[layer].snr > 1e5


def test_the_generator_deals_the_examples_out():
    network, (x, labels) = small_network(), examples()
    found = gradient_snr.by_layer(network, x, labels, 8, generator=rng.generator(3, "batches"))
    order = torch.randperm(len(x), generator=rng.generator(3, "batches"))
    for layer, (mean, std) in stacked(network, x, labels, 8, None, "all", order).items():
        assert (found[layer].mean, found[layer].std) == pytest.approx((mean, std), rel=1e-12)


def test_one_batch_again_and_again_is_all_signal():
    network, (x, labels) = small_network(), examples(8)
    found = gradient_snr.by_layer(network, x.repeat(3, 1, 1, 1), labels.repeat(3), 8)
    assert all(layer.std == 0 and layer.snr == math.inf for layer in found.values())


def test_a_layer_without_live_weights_is_left_out():
    network, (x, labels) = small_network(), examples()
    mask = {"5.weight": torch.zeros(8, 27, dtype=torch.bool)}
    assert list(gradient_snr.by_layer(network, x, labels, 8, mask=mask, which="weights")) == [
        "0",
        "7",
    ]
    assert list(gradient_snr.by_layer(network, x, labels, 8, mask=mask)) == [
        "0",
        "1",
        "5",
        "7",
    ]  # its biases live


def test_a_gradient_of_zero_has_no_ratio():
    network, (x, labels) = small_network(), examples()
    with torch.no_grad():
        network[5].weight.zero_()
        network[5].bias.fill_(-1.0)  # no unit of this layer is ever active
    found = gradient_snr.by_layer(network, x, labels, 8)["5"]
    assert found.mean == found.std == 0
    assert math.isnan(found.snr)


def test_the_networks_gradients_and_weights_are_left_alone():
    network, (x, labels) = small_network(), examples()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    gradient_snr.by_layer(network, x, labels, 8)
    assert all(torch.equal(before[name], value) for name, value in network.state_dict().items())
    assert all(p.grad is None and p.requires_grad for p in network.parameters())


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda g: g | {"batch_size": 26}, "two whole minibatches"),
        (lambda g: g | {"batch_size": 0}, "batch_size is 0"),
        (lambda g: g | {"batch_size": 2.5}, "batch_size is 2.5"),
        (lambda g: g | {"chunk": 0}, "chunk is 0"),
        (lambda g: g | {"x": g["x"][:0], "labels": g["labels"][:0]}, "no examples|0 examples"),
        (lambda g: g | {"labels": g["labels"][:7]}, "labels"),
        (lambda g: g | {"labels": g["labels"] + 4}, "labels hold [4-7]; the network has 4 classes"),
        (lambda g: g | {"network": g["network"].train()}, "train"),
        (lambda g: g | {"mask": {"5.weight": torch.ones(3, 3, dtype=torch.bool)}}, "5.weight"),
        (lambda g: g | {"mask": {"9.weight": torch.ones(3, 3, dtype=torch.bool)}}, "9.weight"),
        (lambda g: g | {"x": g["x"] * math.inf}, "not finite"),
    ],
)
def test_bad_input_is_refused(spoil, said):
    x, labels = examples()
    given = spoil({"network": small_network(), "x": x, "labels": labels, "batch_size": 8})
    with pytest.raises(MeasureError, match=said):
        gradient_snr.by_layer(**given)
