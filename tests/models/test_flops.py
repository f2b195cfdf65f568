"""Floating-point operations: against arithmetic on paper, against layer shapes, and against torch's
own counter.
"""

import pytest
import torch
from support import carry_out, layout_of, small
from torch.utils.flop_counter import FlopCounterMode

from lib.models import flops, networks
from lib.specs.run import Run, continued


def test_a_small_mlp_by_hand():
    """8x8 pixels, 16 hidden units, 10 classes: 2 for each of 64·16 + 16·10 weights.

    Biases and activations count nothing.
    """
    network = networks.build("mlp", (1, 8, 8), 10, widths=(16,))
    assert flops.uses(network, (1, 8, 8)) == {"1.weight": 1, "3.weight": 1}
    assert flops.forward(network, (1, 8, 8)) == 2 * (1024 + 160) == 2368


@pytest.mark.parametrize("pooling", ["max", "avg"])
def test_lenet_5_by_hand(pooling):
    """On 28x28: 5x5 kernels without padding leave 24x24, a pool 12x12, the next kernels 8x8, a pool
    4x4; then 256-120-84-10.
    """
    network = networks.build("lenet-5", (1, 28, 28), 10, pooling=pooling)
    first = 24 * 24 * 6 * (1 * 5 * 5)  # 86,400 products
    second = 8 * 8 * 16 * (6 * 5 * 5)  # 153,600
    linear = 256 * 120 + 120 * 84 + 84 * 10  # 41,640
    assert list(flops.uses(network, (1, 28, 28)).values()) == [576, 64, 1, 1, 1]
    assert flops.forward(network, (1, 28, 28)) == 2 * (first + second + linear) == 563_280


def side(before, kernel, stride, padding):
    """How many places a kernel has along a side.

    It starts every ``stride`` pixels as long as it fits.
    """
    return len(range(-padding, before + padding - kernel + 1, stride))


@pytest.mark.parametrize("shape", [(3, 16, 16), (1, 15, 9)], ids=str)
def test_a_narrow_resnet_20_from_its_shapes(shape):
    """Strides, padding and 1x1 shortcuts, layer by layer.

    Three stages of 4, 8 and 16 channels, the later two halving each side.
    """
    channels, height, width = shape
    expected = {"0.0.weight": height * width * 4 * channels * 9}
    channels = 4
    for stage, planes in enumerate((4, 8, 16)):
        for block in range(3):
            stride, name = 2 if stage and not block else 1, f"{stage + 1}.{block}"
            inputs = height, width
            height, width = side(height, 3, stride, 1), side(width, 3, stride, 1)
            expected[f"{name}.conv1.weight"] = height * width * planes * channels * 9
            expected[f"{name}.conv2.weight"] = height * width * planes * planes * 9
            if stride == 2:
                assert (height, width) == (side(inputs[0], 1, 2, 0), side(inputs[1], 1, 2, 0))
                expected[f"{name}.shortcut.0.weight"] = height * width * planes * channels
            channels = planes
    expected["6.weight"] = 16 * 10
    network = networks.build("resnet-20", shape, 10, width=0.25)
    sizes = {name: p.numel() for name, p in network.named_parameters()}
    assert {
        name: places * sizes[name] for name, places in flops.uses(network, shape).items()
    } == expected
    assert flops.forward(network, shape) == 2 * sum(expected.values())


@pytest.mark.parametrize(
    ("name", "shape", "options"),
    [
        ("mlp", (1, 8, 8), {}),
        ("lenet-5", (3, 17, 20), {}),
        ("resnet-20", (1, 15, 9), {"width": 0.25}),
        ("vgg-11", (3, 32, 32), {}),
    ],
    ids=lambda v: v if isinstance(v, str) else "",
)
def test_torchs_counter_agrees(name, shape, options):
    """For a forward pass exactly.

    For forward and backward up to the inputs' gradient of the first layer, which training skips.
    """
    meta = networks.build(name, shape, 10, **options)
    network = meta.to_empty(device="cpu")
    for p in network.parameters():
        torch.nn.init.zeros_(p)
    with FlopCounterMode(display=False) as forward:
        logits = network(torch.zeros(2, *shape))
    with FlopCounterMode(display=False) as backward:
        logits.sum().backward()
    ours = flops.forward(meta, shape)
    assert forward.get_total_flops() == 2 * ours
    first, places = next(iter(flops.uses(meta, shape).items()))
    skipped = 2 * places * meta.get_parameter(first).numel()
    assert (
        forward.get_total_flops() + backward.get_total_flops()
        == flops.training(ours, 2) - 2 * skipped
    )


def test_the_networks_of_imagenet_cost_what_the_literature_says():
    """4.09 and 15.3 thousand million products at 224x224, as torchvision says (its VGG-16 has 0.12
    more in hidden layers).
    """
    resnet = networks.build("resnet-50", (3, 224, 224), 1000)
    assert round(flops.forward(resnet, (3, 224, 224)) / 2e9, 2) == 4.09
    # VGG-16 layer by layer: sides 224, 112, 56, 28, 14
    stages = [
        (224, [(3, 64), (64, 64)]),
        (112, [(64, 128), (128, 128)]),
        (56, [(128, 256), (256, 256), (256, 256)]),
    ]
    stages += [(28, [(256, 512), (512, 512), (512, 512)]), (14, [(512, 512)] * 3)]
    products = (
        sum(
            side * side * 9 * inputs * outputs
            for side, layers in stages
            for inputs, outputs in layers
        )
        + 512 * 1000
    )
    assert round(products / 1e9, 1) == 15.3
    assert (
        flops.forward(networks.build("vgg-16", (3, 224, 224), 1000), (3, 224, 224)) == 2 * products
    )


def test_live_weights_alone_count():
    """A mask takes from each layer its pruned weights at every place where they were used.

    A mask of a bias takes nothing.
    """
    network = networks.build("lenet-5", (1, 28, 28), 10)
    live = {name: torch.ones(p.shape, dtype=torch.bool) for name, p in network.named_parameters()}
    assert flops.forward(network, (1, 28, 28), live) == flops.forward(network, (1, 28, 28))
    live["0.weight"].view(-1)[:100] = False
    live["3.weight"].view(-1)[:7] = False
    live["11.weight"][:] = False
    live["0.bias"][:] = False
    gone = 100 * 24 * 24 + 7 * 8 * 8 + 840
    assert flops.forward(network, (1, 28, 28), live) == 563_280 - 2 * gone
    assert (
        flops.forward(network, (1, 28, 28), {"11.weight": live["11.weight"]}) == 563_280 - 2 * 840
    )


def test_a_pruned_run_costs_its_live_weights(store):
    """The mask of a finished run, at sparsity 0.75 of the first layer of 64·16 weights.

    256 of them and 160 spared ones are left.
    """
    run = continued(Run.dense(small(epochs=1), seed=0), at=1, sparsity=0.75)
    carry_out([run], store)
    mask = layout_of(run).views(store.get(run.key).tensors["mask"])
    assert flops.forward(
        networks.build("mlp", (1, 8, 8), 10, widths=(16,)), (1, 8, 8), mask
    ) == 2 * (256 + 160)


def test_training_is_three_passes():
    """Forward, and backward to inputs and weights."""
    assert flops.training(1000.0, 50) == 150_000


def test_the_network_is_left_as_it_was():
    """Counting neither moves a network off the meta device, nor changes its mode, nor leaves hooks
    in it.
    """
    network = networks.build("resnet-20", (3, 16, 16), 10, width=0.25).train()
    flops.forward(network, (3, 16, 16))
    assert all(p.device.type == "meta" for p in network.parameters())
    assert all(module.training and not module._forward_hooks for module in network.modules())
