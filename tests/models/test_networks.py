"""Architectures have the sizes that the literature gives, compute what torchvision's do, and draw
nothing.
"""

import random

import numpy as np
import pytest
import torch
import torchvision
from support import carry_out, family, small
from torch import nn

from lib.models import initializers, networks


def size(network):
    return sum(p.numel() for p in network.parameters())


KNOWN = [  # counted by hand, or given in the literature
    ("lenet-300-100", (1, 28, 28), 10, {}, 266_610),
    ("lenet-5", (1, 28, 28), 10, {}, 44_426),
    ("lenet-5", (3, 32, 32), 10, {}, 62_006),
    # the gradient-flow study's small dense networks: 78 + 228 + 1,323 + 560 + 210, and 6,280 + 72 +
    # 90
    ("lenet-5", (1, 28, 28), 10, {"widths": (3, 3, 27, 20)}, 2_399),
    ("mlp", (1, 28, 28), 10, {"widths": (8, 8)}, 6_442),
    (
        "mlp",
        (12,),
        2,
        {"widths": (64, 32, 32, 18, 18, 6, 6)},
        832 + 2080 + 1056 + 594 + 342 + 114 + 42 + 14,
    ),
    ("mlp", (1, 8, 8), 10, {"widths": ()}, 650),
    # stem 464, stages of one block more each: 4,672 + 18,560 + 73,984, projections 576 + 2,176,
    # linear 650
    ("resnet-20", (3, 32, 32), 10, {}, 272_474),
    ("resnet-32", (3, 32, 32), 10, {}, 272_474 + 2 * 97_216),
    ("resnet-44", (3, 32, 32), 10, {}, 272_474 + 4 * 97_216),
    ("resnet-56", (3, 32, 32), 10, {}, 272_474 + 6 * 97_216),
    ("vgg-11", (3, 32, 32), 10, {}, 9_217_728 + 5_504 + 5_130),  # convolutions, BatchNorm, linear
    ("resnet-50", (3, 224, 224), 1000, {}, 25_557_032),
    (
        "vgg-16",
        (3, 224, 224),
        1000,
        {},
        14_714_688 - 4_224 + 512_000,
    ),  # torchvision's features less their biases, linear
]


@pytest.mark.parametrize(("name", "shape", "classes", "options", "count"), KNOWN)
def test_parameter_counts(name, shape, classes, options, count):
    """The number of parameters is the known one."""
    assert size(networks.build(name, shape, classes, **options)) == count


def test_width_multiplies_the_channels():
    """ResNet-32 with width 4 has planes of 64, 128 and 256; width 0.25 has 4, 8 and 16."""
    for width, planes in ((4, [64, 128, 256]), (0.25, [4, 8, 16])):
        network = networks.build("resnet-32", (3, 32, 32), 100, width=width)
        found = [m.out_channels for m in network.modules() if isinstance(m, nn.Conv2d)]
        assert sorted(set(found)) == planes
        assert network[-1].in_features == planes[-1]


@pytest.mark.parametrize("widths", [(3, 5, 27, 20), [3, 5, 27, 20], None])
def test_four_widths_are_those_of_lenet(widths):
    """They reach its convolutions and hidden layers; None leaves it its own."""
    network = networks.build("lenet-5", (1, 28, 28), 10, widths=widths)
    found = [network.get_parameter(name).shape[0] for name in networks.kernels(network)]
    assert found == [*(widths or (6, 16, 120, 84)), 10]


@pytest.mark.parametrize(
    ("name", "options", "says"),
    [
        ("resnet-20", {"widths": (8,)}, r"widths is \(8,\): network 'resnet-20' takes width"),
        ("mlp", {"width": 2.0}, "width is 2.0: network 'mlp' takes widths, activation"),
        ("lenet-300-100", {"widths": (8,)}, "network 'lenet-300-100' takes activation"),
        ("vgg-11", {"colour": 1}, "colour is 1: network 'vgg-11' takes no options"),
        ("lenet-5", {"widths": (8, 8)}, r"widths is \(8, 8\): network 'lenet-5' takes four, of"),
    ],
)
def test_an_option_that_a_network_does_not_take_is_refused(name, options, says):
    """By name and value, with what it does take; None is the same as not given."""
    with pytest.raises(ValueError, match=says):
        networks.build(name, (3, 32, 32), 10, **options)
    networks.build(name, (3, 32, 32), 10, **dict.fromkeys(networks.options(name)))


def filled(network, seed=0):
    """``network`` off the meta device, with random numbers everywhere, BatchNorm's statistics
    included.
    """
    network = network.to_empty(device="cpu")
    rng = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for p in network.parameters():
            p.copy_(torch.randn(p.shape, generator=rng) * (2 / max(1, p[0].numel())) ** 0.5)
        for name, b in network.named_buffers():
            b.copy_(
                torch.rand(b.shape, generator=rng) + 0.5
                if b.is_floating_point()
                else torch.zeros_like(b)
            )
            assert b.shape or name.endswith("num_batches_tracked")
    return network


def copied(source, target):
    """``target`` with the parameters and statistics of ``source``, matched by their order."""
    for kind in ("parameters", "buffers"):
        for ours, theirs in zip(getattr(source, kind)(), getattr(target, kind)(), strict=True):
            theirs.data.copy_(ours.data)
    return target


@pytest.mark.parametrize("training", [False, True])
def test_resnet18_is_torchvisions_with_a_cifar_stem(training):
    """With the stem and classifier replaced and the weights copied, torchvision's ResNet-18 gives
    the same output.
    """
    theirs = torchvision.models.resnet18(num_classes=100)
    theirs.conv1, theirs.maxpool = nn.Conv2d(3, 64, 3, padding=1, bias=False), nn.Identity()
    ours = filled(networks.build("resnet-18", (3, 32, 32), 100)).train(training)
    assert size(ours) == size(theirs)
    copied(ours, theirs).train(training)
    x = torch.rand(4, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        torch.testing.assert_close(ours(x), theirs(x), rtol=1e-4, atol=1e-4)


def test_vgg11_is_torchvisions_features_with_one_linear_layer():
    """With its convolution biases at zero, torchvision's VGG-11 with BatchNorm gives the same
    features.
    """
    theirs = torchvision.models.vgg11_bn().features
    for module in theirs:
        if isinstance(module, nn.Conv2d):
            module.bias = None
    ours = filled(networks.build("vgg-11", (3, 32, 32), 10)).eval()
    theirs = copied(
        nn.Sequential(*[m for m in ours if not isinstance(m, nn.Linear)]), theirs
    ).eval()
    x = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        torch.testing.assert_close(ours(x), ours[-1](theirs(x).flatten(1)), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("training", [False, True])
def test_resnet50_is_torchvisions(training):
    """The same shapes in the same order, and with the weights copied the same output."""
    ours, theirs = networks.build("resnet-50", (3, 64, 64), 1000), torchvision.models.resnet50()
    assert [value.shape for value in ours.state_dict().values()] == [
        value.shape for value in theirs.state_dict().values()
    ]
    copied(filled(ours).train(training), theirs).train(training)
    x = torch.rand(3, 3, 64, 64, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        a, b = ours(x), theirs(x)
    torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4 * float(b.abs().max()))


def test_vgg16_is_torchvisions_features_with_one_linear_layer():
    """With its biases at zero, torchvision's VGG-16 gives the same features.

    Their mean over all places goes through one linear layer.
    """
    theirs = torchvision.models.vgg16().features
    for module in theirs:
        if isinstance(module, nn.Conv2d):
            module.bias = None
    ours = filled(networks.build("vgg-16", (3, 64, 64), 10)).eval()
    theirs = copied(
        nn.Sequential(*[m for m in ours if not isinstance(m, nn.Linear)]), theirs
    ).eval()
    x = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        torch.testing.assert_close(
            ours(x), theirs(x).mean((2, 3)) @ ours[-1].weight.T, rtol=1e-4, atol=1e-5
        )


def test_lenet5_by_hand():
    """LeNet-5's layers written out give the same output, for both kinds of pooling and of
    activation.
    """
    x = torch.rand(3, 1, 28, 28, generator=torch.Generator().manual_seed(1))
    for pooling, pool in (("max", nn.functional.max_pool2d), ("avg", nn.functional.avg_pool2d)):
        for activation, act in (("relu", torch.relu), ("tanh", torch.tanh)):
            network = filled(
                networks.build("lenet-5", (1, 28, 28), 10, activation=activation, pooling=pooling)
            )
            w = list(network.parameters())
            with torch.no_grad():
                h = pool(act(nn.functional.conv2d(x, w[0], w[1])), 2)
                h = pool(act(nn.functional.conv2d(h, w[2], w[3])), 2).flatten(1)
                h = act(act(h @ w[4].T + w[5]) @ w[6].T + w[7]) @ w[8].T + w[9]
                torch.testing.assert_close(network(x), h)


def test_prunable_names():
    """Kernels of convolutions and linear layers in order of depth; never biases or BatchNorm.

    First and last if spared.
    """
    mlp = networks.build("mlp", (12,), 2, widths=(5, 4))
    assert networks.prunable(mlp) == ["1.weight", "3.weight", "5.weight"]
    assert networks.prunable(mlp, ("last",)) == ["1.weight", "3.weight"]
    assert networks.prunable(mlp, ("first", "last")) == ["3.weight"]
    resnet = networks.build("resnet-20", (3, 32, 32), 10)
    names = networks.prunable(resnet)
    shapes = {n: p.shape for n, p in resnet.named_parameters()}
    assert len(names) == 1 + 18 + 2 + 1  # stem, two in each of nine blocks, two projections, linear
    assert names[0] == "0.0.weight"
    assert shapes[names[0]] == (16, 3, 3, 3)
    assert shapes[names[-1]] == (10, 64)
    assert set(shapes) - set(names) == {n for n, s in shapes.items() if len(s) == 1}


@pytest.mark.parametrize("keep_dense", [("first",), ("last",), ("first", "last")])
def test_nothing_left_to_prune_is_refused(keep_dense):
    """A network of one layer whose only layer is spared cannot be pruned."""
    with pytest.raises(ValueError, match="leaves no layer"):
        networks.prunable(networks.build("mlp", (12,), 2, widths=()), keep_dense)


@pytest.mark.parametrize(
    ("name", "shape", "says"),
    [
        ("lenet-5", (1, 15, 28), "'lenet-5' needs images .* of at least 16x16"),
        ("vgg-11", (3, 16, 16), "'vgg-11' needs images .* of at least 32x32"),
        ("vgg-16", (3, 31, 40), "'vgg-16' needs images .* of at least 32x32"),
        ("resnet-20", (12,), "'resnet-20' needs images"),
        ("resnet-21", (3, 32, 32), "network is 'resnet-21': allowed are mlp, lenet-300-100"),
    ],
)
def test_inputs_that_do_not_fit_are_refused(name, shape, says):
    """The error names the network and what it needs."""
    with pytest.raises(ValueError, match=says):
        networks.build(name, shape, 10)


def test_smallest_inputs_pass():
    """The smallest sizes that the errors name do work."""
    for name, shape in (
        ("lenet-5", (1, 16, 16)),
        ("vgg-11", (3, 32, 32)),
        ("resnet-20", (1, 8, 8)),
        ("vgg-16", (3, 32, 32)),
    ):
        network = filled(networks.build(name, shape, 10)).eval()
        assert network(torch.zeros(2, *shape)).shape == (2, 10)


@pytest.mark.parametrize(
    "options",
    [
        {"noise": 0.3},
        {"network": "resnet-20", "width": 0.25, "augment": True, "train_examples": 40},
    ],
)
def test_nothing_draws_from_a_global_generator(options, store):
    """Building, initialising and training runs leaves torch's, numpy's and Python's global states
    alone.
    """
    before = torch.get_rng_state(), np.random.get_state()[1].tolist(), random.getstate()  # noqa: NPY002
    initializers.dense(networks.build("resnet-20", (3, 32, 32), 10), "he", 0)
    table = carry_out(
        family(small(epochs=1, sparse_epochs=1, criterion="random", **options), seeds=(0,)), store
    )
    assert len(table) == 6
    assert torch.equal(torch.get_rng_state(), before[0])
    assert np.random.get_state()[1].tolist() == before[1]  # noqa: NPY002
    assert random.getstate() == before[2]


def test_a_global_seed_changes_nothing(tmp_path):
    """Training under another global seed gives the same table."""
    from lib.runs.store import Store

    runs = family(small(epochs=1, sparse_epochs=1), seeds=(0,))
    tables = []
    state = torch.get_rng_state()
    for seed in (1, 2):
        torch.manual_seed(seed)
        tables.append(carry_out(runs, Store(tmp_path / str(seed))))
    torch.set_rng_state(state)
    assert tables[0].equals(tables[1])
