"""The small dense network of flow_table1_methods: the one whose size is nearest."""

import math

import pytest
import torch
from support import of_notebook
from torch import nn

from lib.models import networks
from lib.registry import network

small_dense = of_notebook("flow_table1_methods", "small_dense")
SHAPE, CLASSES = (3, 8, 8), 5


def size(network):
    return sum(p.numel() for p in network.parameters())


@pytest.mark.parametrize(
    ("name", "shape", "options", "full"),
    [
        ("lenet-5", (1, 16, 16), {}, (6, 16, 120, 84)),
        ("lenet-5", (1, 16, 16), {"widths": (4, 3, 9, 5)}, (4, 3, 9, 5)),
        ("mlp", (30,), {"widths": (12, 7, 20)}, (12, 7, 20)),
        ("resnet-20", (3, 8, 8), {}, None),
    ],
)
def test_small_dense_is_the_nearest(name, shape, options, full):
    """Among the networks of a fine grid of factors none is nearer to the size asked for.

    The answer builds what it says.
    """
    grid = [(k + 0.5) / 2000 for k in range(2000)]
    if full is None:
        grid = grid[:: len(grid) // 100]
        sizes = [size(networks.build(name, shape, 10, width=factor)) for factor in grid]
    else:
        widths = dict.fromkeys(tuple(max(1, round(w * factor)) for w in full) for factor in grid)
        sizes = [size(networks.build(name, shape, 10, widths=w)) for w in widths]
    largest = size(networks.build(name, shape, 10, **options))
    for live in (*torch.linspace(min(sizes), largest, 25).int().tolist(), sizes[len(sizes) // 3]):
        given, found = small_dense(name, shape, 10, live, **options)
        assert size(networks.build(shape=shape, classes=10, **given)) == found
        assert abs(found - live) <= min(abs(s - live) for s in (*sizes, largest))
    assert small_dense(name, shape, 10, largest, **options)[1] == largest


def test_small_dense_of_other_kinds():
    """LeNet-300-100's is an MLP; sizes out of reach and networks without a width are refused."""
    assert small_dense("lenet-300-100", (1, 28, 28), 10, 266_610) == (
        {"name": "mlp", "widths": (300, 100)},
        266_610,
    )
    with pytest.raises(
        ValueError, match=r"no 'mlp' has about 500000 parameters: .* it has 807 to 266610"
    ):
        small_dense("mlp", (1, 28, 28), 10, 500_000, widths=(300, 100))
    with pytest.raises(ValueError, match="no 'lenet-5' has about 20 parameters"):
        small_dense("lenet-5", (1, 28, 28), 10, 20)
    with pytest.raises(ValueError, match="'vgg-11' has no width that could be changed"):
        small_dense("vgg-11", (3, 32, 32), 10, 1000)


@pytest.mark.parametrize("name", ["resnet-50", "vgg-16"])
def test_small_dense_of_imagenets_networks(name):
    """A fifth of the parameters: the nearest of all widths, and a network that builds."""
    shape, classes = (3, 32, 32), 20
    live = size(networks.build(name, shape, classes)) // 5
    given, found = small_dense(name, shape, classes, live)
    assert size(networks.build(shape=shape, classes=classes, **given)) == found
    for factor in torch.linspace(0.4, 0.5, 21).tolist():
        assert abs(found - live) <= abs(
            size(networks.build(name, shape, classes, width=factor)) - live
        )


def test_small_dense_of_ones_own():
    """It works from the options that are declared; a network without any cannot be made smaller."""

    def slim(shape, classes, *, width=1.0):
        hidden = max(1, round(40 * width))
        layers = nn.Flatten(), nn.Linear(math.prod(shape), hidden), nn.Linear(hidden, classes)
        return nn.Sequential(*layers)

    def plain(shape, classes):
        return nn.Sequential(nn.Flatten(), nn.Linear(192, classes))

    network(slim, version="1")
    given, found = small_dense("slim", SHAPE, CLASSES, 2000)
    network.forget("slim")
    assert found == 10 * (192 + 1 + CLASSES) + CLASSES  # 1,985; with 11 units 2,183
    assert round(40 * given["width"]) == 10
    network(plain, version="1")
    with pytest.raises(ValueError, match="'plain' has no width that could be changed"):
        small_dense("plain", SHAPE, CLASSES, 100)
    network.forget("plain")
