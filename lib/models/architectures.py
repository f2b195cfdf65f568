"""The architectures: modules without numbers, registered by name.

Each is an ``nn.Module`` class, or a function that gives a module, under ``@network``: called with
the shape of an image, the number of classes, and those of the options ``widths``, ``width``,
``activation`` and ``pooling`` that it takes.
"""

from functools import reduce
from itertools import pairwise
from math import prod

from torch import nn

from lib.checks import refuse
from lib.registry import network

ACTIVATIONS = {"relu": nn.ReLU, "tanh": nn.Tanh}
POOLS = {"max": nn.MaxPool2d, "avg": nn.AvgPool2d}
PLANES = (64, 128, 256, 512)  # of the networks for ImageNet, and of ResNet-18
Shape = tuple[int, ...]


@network(name="mlp")
class MLP(nn.Sequential):
    """Fully connected network on flattened inputs; ``widths`` are those of the hidden layers."""

    def __init__(
        self, shape: Shape, classes: int, *, widths: Shape = (100, 100), activation: str = "relu"
    ):
        layers: list[nn.Module] = [nn.Flatten()]
        for fan_in, fan_out in pairwise((prod(shape), *widths, classes)):
            layers += [nn.Linear(fan_in, fan_out), ACTIVATIONS[activation]()]
        super().__init__(*layers[:-1])  # no activation after the logits
        self.widths, self.activation = tuple(widths), activation


@network(name="lenet-300-100")
def lenet_300_100(shape: Shape, classes: int, *, activation: str = "relu") -> MLP:
    """Two hidden layers of 300 and 100 units (LeCun et al. 1998)."""
    return MLP(shape, classes, widths=(300, 100), activation=activation)


@network(name="lenet-5")
class LeNet5(nn.Sequential):
    """Two 5x5 convolutions, each with a 2x2 pool, then two hidden layers (LeCun et al. 1998).

    ``widths`` are the channels of the convolutions and the units of the hidden layers. ``pooling``
    is ``"max"`` (gradient-flow study) or ``"avg"`` (price study, Figure 11).
    """

    def __init__(
        self, shape: Shape, classes: int, *, widths: Shape = (6, 16, 120, 84),
        activation: str = "relu", pooling: str = "max",
    ):  # fmt: skip
        channels, *sides = _image("lenet-5", shape, 16)
        refuse(
            len(widths) != 4,
            f"widths is {tuple(widths)}: network 'lenet-5' takes four, of two convolutions and two "
            "hidden layers",
        )
        conv1, conv2, hidden1, hidden2 = widths
        places = prod(((side - 4) // 2 - 4) // 2 for side in sides)
        act, pool = ACTIVATIONS[activation], POOLS[pooling]
        # max-pooling before the activation: the same values and gradients at a quarter of the work
        smaller = (lambda: (pool(2), act())) if pooling == "max" else (lambda: (act(), pool(2)))
        super().__init__(
            nn.Conv2d(channels, conv1, 5), *smaller(), nn.Conv2d(conv1, conv2, 5), *smaller(),
            nn.Flatten(), nn.Linear(conv2 * places, hidden1), act(),
            nn.Linear(hidden1, hidden2), act(), nn.Linear(hidden2, classes),
        )  # fmt: skip


class Shortcut(nn.Sequential):
    """The identity; where the shape changes, a 1x1 convolution with BatchNorm (He et al. 2016).

    Of few channels every ``stride``-th pixel is taken before the convolution: the same numbers, but
    the strided one writes beyond its memory on a CPU where images come channels-last and have fewer
    channels than a vector register (https://github.com/uxlfoundation/oneDNN/issues/6035).
    """

    def __init__(self, channels: int, planes: int, stride: int):
        super().__init__()
        self.step = stride if channels < 16 else 1
        if stride != 1 or channels != planes:
            self.append(_convolution(channels, planes, 1, stride // self.step))
            self.append(nn.BatchNorm2d(planes))

    def forward(self, x):
        return super().forward(x[..., :: self.step, :: self.step] if self.step > 1 else x)


class Block(nn.Sequential):
    """Two 3x3 convolutions with BatchNorm around a shortcut (He et al. 2016).

    A bottleneck (``deep``) has three: 1x1, 3x3 with the stride, 1x1 to four times the planes.
    """

    def __init__(self, channels: int, planes: int, stride: int, deep: bool = False):
        super().__init__()
        three = [(planes, 1, 1), (planes, 3, stride), (4 * planes, 1, 1)]
        layers = three if deep else [(planes, 3, stride), (planes, 3, 1)]
        inputs = channels
        for k, (outputs, side, step) in enumerate(layers, 1):
            self.add_module(f"conv{k}", _convolution(inputs, outputs, side, step))
            self.add_module(f"bn{k}", nn.BatchNorm2d(outputs))
            self.add_module(f"relu{k}", nn.ReLU())
            inputs = outputs
        self.shortcut = Shortcut(channels, inputs, stride)

    def forward(self, x):
        *path, relu, shortcut = self
        return relu(reduce(lambda out, layer: layer(out), path, x) + shortcut(x))


class ResNet(nn.Sequential):
    """Residual network with ``blocks[i]`` blocks of ``planes[i]`` in stage i (He et al. 2016).

    Its stem is a 3x3 convolution; that of a ``deep`` one, for ImageNet, a 7x7 one and a pool, which
    each halve the sides.
    """

    def __init__(self, channels: int, classes: int, blocks: Shape, planes: Shape, deep: bool):
        side, stride = (7, 2) if deep else (3, 1)
        stem = nn.Sequential(
            _convolution(channels, planes[0], side, stride), nn.BatchNorm2d(planes[0]), nn.ReLU(),
            *([nn.MaxPool2d(3, 2, padding=1)] if deep else []),
        )  # fmt: skip
        stages, width = [], planes[0]
        for stage, (plane, count) in enumerate(zip(planes, blocks, strict=True)):
            first = Block(width, plane, 2 if stage else 1, deep)
            width = 4 * plane if deep else plane
            rest = (Block(width, plane, 1, deep) for _ in range(1, count))
            stages.append(nn.Sequential(first, *rest))
        super().__init__(
            stem, *stages, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, classes)
        )


def _resnet(name, blocks, planes, deep=False):
    @network(name=name)
    def resnet(shape: Shape, classes: int, *, width: float = 1.0) -> ResNet:
        return ResNet(_image(name, shape)[0], classes, blocks, _scaled(planes, width), deep)


_resnet("resnet-18", (2, 2, 2, 2), PLANES)
for blocks in (3, 5, 7, 9):
    _resnet(f"resnet-{6 * blocks + 2}", (blocks,) * 3, (16, 32, 64))
_resnet("resnet-50", (3, 4, 6, 3), PLANES, deep=True)


class VGG(nn.Sequential):
    """3x3 convolutions in five stages that each end in a 2x2 pool (Simonyan & Zisserman 2015).

    Then the mean over all places and one linear layer; ``normed`` by BatchNorm, or without a bias.
    """

    def __init__(self, channels: int, classes: int, counts: Shape, planes: Shape, normed: bool):
        layers: list[nn.Module] = []
        for plane, count in zip((*planes, planes[-1]), counts, strict=True):
            for inputs in (channels, *[plane] * (count - 1)):
                norm = [nn.BatchNorm2d(plane)] if normed else []
                layers += [_convolution(inputs, plane, 3), *norm, nn.ReLU()]
            layers.append(nn.MaxPool2d(2))
            channels = plane
        head = nn.Linear(channels, classes, bias=normed)
        super().__init__(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), head)


@network(name="vgg-11")
def vgg_11(shape: Shape, classes: int) -> VGG:
    """Plan A with BatchNorm."""
    return VGG(_image("vgg-11", shape, 32)[0], classes, (1, 1, 2, 2, 2), PLANES, normed=True)


@network(name="vgg-16")
def vgg_16(shape: Shape, classes: int, *, width: float = 1.0) -> VGG:
    """Plan D as the gradient-flow study's code has it: neither BatchNorm nor any bias."""
    planes = _scaled(PLANES, width)
    return VGG(_image("vgg-16", shape, 32)[0], classes, (2, 2, 3, 3, 3), planes, normed=False)


def _image(name, shape, least=1):
    """``shape``, if it is that of an image with sides of at least ``least`` pixels."""
    refuse(
        len(shape) != 3 or min(shape[1:]) < least,
        f"network {name!r} needs images [C, H, W] of at least {least}x{least} pixels, and not "
        f"inputs of shape {tuple(shape)}",
    )
    return shape


def _convolution(inputs, outputs, side, stride=1):
    return nn.Conv2d(inputs, outputs, side, stride, padding=side // 2, bias=False)


def _scaled(widths, factor):
    return tuple(max(1, round(width * factor)) for width in widths)
