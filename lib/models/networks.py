"""The papers' architectures by name, and which of their weights may be pruned.

Every network is a plain ``torch.nn.Module`` built on the meta device: it has shapes but no numbers, and draws
nothing from a global generator. ``lib.models.initializers`` gives the numbers, ``lib.training.cohort`` the memory.
"""

from bisect import bisect_left
from itertools import pairwise
from math import prod

import torch
from torch import nn

from lib import registry

NAMES = (
    "mlp", "lenet-300-100", "lenet-5",
    "resnet-18", "resnet-20", "resnet-32", "resnet-44", "resnet-56", "resnet-50", "vgg-11", "vgg-16",
)  # fmt: skip
ACTIVATIONS = {"relu": nn.ReLU, "tanh": nn.Tanh}
LENET_WIDTHS = (6, 16, 120, 84)
PLANES = (64, 128, 256, 512)  # of the networks for ImageNet, and of ResNet-18


class MLP(nn.Sequential):
    """Fully connected network on flattened inputs; ``widths`` are those of the hidden layers."""

    def __init__(
        self, inputs: int, widths: tuple[int, ...], classes: int, activation: str = "relu"
    ):
        sizes = (inputs, *widths, classes)
        layers = [nn.Flatten()]
        for fan_in, fan_out in pairwise(sizes):
            layers += [nn.Linear(fan_in, fan_out), ACTIVATIONS[activation]()]
        super().__init__(*layers[:-1])  # no activation after the logits
        self.activation = activation


class LeNet5(nn.Sequential):
    """Two 5x5 convolutions without padding, each with a 2x2 pool, then two hidden layers (LeCun et al. 1998, with ReLU).

    ``pooling`` is ``"max"`` (gradient-flow study) or ``"avg"`` (price study, Figure 11); ``widths`` are the channels of the
    convolutions and the units of the hidden layers.
    """

    def __init__(
        self,
        shape: tuple[int, ...],
        classes: int,
        activation: str = "relu",
        pooling: str = "max",
        widths=LENET_WIDTHS,
    ):
        channels, *sides = shape
        conv1, conv2, hidden1, hidden2 = widths
        sides = [((side - 4) // 2 - 4) // 2 for side in sides]
        if min(sides) < 1:
            raise ValueError(
                f"network 'lenet-5' needs images of at least 16x16 pixels, not {tuple(shape)}"
            )
        act, pool = ACTIVATIONS[activation], {"max": nn.MaxPool2d, "avg": nn.AvgPool2d}[pooling]
        # max-pooling before the activation: the same values and gradients, with a quarter of the activations
        reduce = (lambda: (pool(2), act())) if pooling == "max" else (lambda: (act(), pool(2)))
        super().__init__(
            nn.Conv2d(channels, conv1, 5), *reduce(),
            nn.Conv2d(conv1, conv2, 5), *reduce(),
            nn.Flatten(),
            nn.Linear(conv2 * prod(sides), hidden1), act(),
            nn.Linear(hidden1, hidden2), act(),
            nn.Linear(hidden2, classes),
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
            self.append(nn.Conv2d(channels, planes, 1, stride // self.step, bias=False))
            self.append(nn.BatchNorm2d(planes))

    def forward(self, x):
        return super().forward(x[..., :: self.step, :: self.step] if self.step > 1 else x)


class BasicBlock(nn.Module):
    """Two 3x3 convolutions around a shortcut; a 1x1 convolution where the shape changes (He et al. 2016)."""

    def __init__(self, channels: int, planes: int, stride: int):
        super().__init__()
        self.conv1 = nn.Conv2d(channels, planes, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(planes)
        self.conv2 = nn.Conv2d(planes, planes, 3, 1, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(planes)
        self.shortcut = Shortcut(channels, planes, stride)
        self.relu = nn.ReLU()

    def forward(self, x):
        out = self.relu(self.bn1(self.conv1(x)))
        return self.relu(self.bn2(self.conv2(out)) + self.shortcut(x))


class ResNet(nn.Sequential):
    """Residual network with a 3x3 stem for small images, ``blocks`` basic blocks in each of the ``planes`` stages."""

    def __init__(self, channels: int, blocks: int, planes: tuple[int, ...], classes: int):
        stem = nn.Sequential(
            nn.Conv2d(channels, planes[0], 3, padding=1, bias=False),
            nn.BatchNorm2d(planes[0]),
            nn.ReLU(),
        )
        stages, width = [], planes[0]
        for stage, plane in enumerate(planes):
            strides = [1 if stage == 0 else 2] + [1] * (blocks - 1)
            stages.append(
                nn.Sequential(
                    *(
                        BasicBlock(w, plane, s)
                        for w, s in zip([width] + [plane] * (blocks - 1), strides, strict=True)
                    )
                )
            )
            width = plane
        super().__init__(
            stem, *stages, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, classes)
        )


class VGG11(nn.Sequential):
    """VGG's plan A with BatchNorm, one linear layer and a CIFAR-sized input (Simonyan & Zisserman 2015)."""

    def __init__(self, shape: tuple[int, ...], classes: int):
        channels, *sides = shape
        if min(sides) < 32:
            raise ValueError(
                f"network 'vgg-11' needs images of at least 32x32 pixels, not {tuple(shape)}"
            )
        layers = []
        for item in (64, "pool", 128, "pool", 256, 256, "pool", 512, 512, "pool", 512, 512, "pool"):
            if item == "pool":
                layers.append(nn.MaxPool2d(2))
            else:
                layers += [
                    nn.Conv2d(channels, item, 3, padding=1, bias=False),
                    nn.BatchNorm2d(item),
                    nn.ReLU(),
                ]
                channels = item
        super().__init__(
            *layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, classes)
        )


class Bottleneck(nn.Module):
    """A 1x1, a 3x3 and a 1x1 convolution to four times the channels around a shortcut, with the stride in the 3x3 one (He et al. 2016)."""

    def __init__(self, channels: int, planes: int, stride: int):
        super().__init__()
        self.conv1 = nn.Conv2d(channels, planes, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(planes)
        self.conv2 = nn.Conv2d(planes, planes, 3, stride, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(planes)
        self.conv3 = nn.Conv2d(planes, 4 * planes, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(4 * planes)
        self.shortcut = Shortcut(channels, 4 * planes, stride)
        self.relu = nn.ReLU()

    def forward(self, x):
        out = self.relu(self.bn1(self.conv1(x)))
        out = self.relu(self.bn2(self.conv2(out)))
        return self.relu(self.bn3(self.conv3(out)) + self.shortcut(x))


class ResNet50(nn.Sequential):
    """ResNet-50 in its ImageNet form: a 7x7 stem and a pool, each halving the sides, and 3, 4, 6 and 3 bottlenecks (He et al. 2016)."""

    def __init__(self, channels: int, planes: tuple[int, ...], classes: int):
        stem = nn.Sequential(
            nn.Conv2d(channels, planes[0], 7, 2, padding=3, bias=False),
            nn.BatchNorm2d(planes[0]),
            nn.ReLU(),
            nn.MaxPool2d(3, 2, padding=1),
        )
        stages, width = [], planes[0]
        for stage, (plane, blocks) in enumerate(zip(planes, (3, 4, 6, 3), strict=True)):
            first = Bottleneck(width, plane, 1 if stage == 0 else 2)
            width = 4 * plane
            stages.append(
                nn.Sequential(first, *(Bottleneck(width, plane, 1) for _ in range(blocks - 1)))
            )
        super().__init__(
            stem, *stages, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, classes)
        )


class VGG16(nn.Sequential):
    """VGG's plan D without hidden linear layers, as the gradient-flow study's code has it: neither BatchNorm nor any bias.

    Thirteen 3x3 convolutions in five stages, each stage followed by a 2x2 pool, then the mean over all places and one linear layer
    (there a 1x1 convolution, which is the same).
    """

    def __init__(self, shape: tuple[int, ...], planes: tuple[int, ...], classes: int):
        channels, *sides = shape
        if min(sides) < 32:
            raise ValueError(
                f"network 'vgg-16' needs images of at least 32x32 pixels, not {tuple(shape)}"
            )
        layers = []
        for plane, count in zip((*planes, planes[-1]), (2, 2, 3, 3, 3), strict=True):
            for _ in range(count):
                layers += [nn.Conv2d(channels, plane, 3, padding=1, bias=False), nn.ReLU()]
                channels = plane
            layers.append(nn.MaxPool2d(2))
        super().__init__(
            *layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, classes, bias=False)
        )


def build(
    name, shape, classes, *, widths=(100, 100), width=1.0, activation="relu", pooling="max"
) -> nn.Module:
    """The network ``name`` for inputs of ``shape`` ([C, H, W] or [D]) and ``classes`` outputs, on the meta device.

    ``widths`` are an MLP's hidden layers; four of them are those of LeNet-5, and any other number leaves it its own;
    ``width`` multiplies the channels of a ResNet or VGG-16 (the price study's ResNet-32 has ``width=4``). Raises ``ValueError`` for an
    unknown name, or where the input is too small or of another rank than the network needs.
    """
    if name not in NAMES:
        raise ValueError(f"network {name!r} is unknown; there are {', '.join(NAMES)}")
    if not name.startswith(("mlp", "lenet-300")) and len(shape) != 3:
        raise ValueError(
            f"network {name!r} needs images [C, H, W], not inputs of shape {tuple(shape)}"
        )
    with torch.device("meta"):
        if name == "mlp":
            return MLP(prod(shape), tuple(widths), classes, activation)
        if name == "lenet-300-100":
            return MLP(prod(shape), (300, 100), classes, activation)
        if name == "lenet-5":
            return LeNet5(
                shape,
                classes,
                activation,
                pooling,
                tuple(widths) if len(widths) == 4 else LENET_WIDTHS,
            )
        if name == "vgg-11":
            return VGG11(shape, classes)
        planes = tuple(max(1, round(p * width)) for p in _planes(name))
        if name == "vgg-16":
            return VGG16(shape, planes, classes)
        if name == "resnet-50":
            return ResNet50(shape[0], planes, classes)
        depth = int(name.split("-")[1])
        return ResNet(shape[0], 2 if depth == 18 else (depth - 2) // 6, planes, classes)


def _planes(name):
    """The channels of the stages of a network that has a ``width``."""
    return PLANES if name in ("resnet-18", "resnet-50", "vgg-16") else (16, 32, 64)


def prunable(network: nn.Module, keep_dense: tuple[str, ...] = ()) -> list[str]:
    """Names of the weights that pruning may zero: convolution and linear kernels, in order of depth.

    ``keep_dense`` may hold ``"first"`` and ``"last"`` to spare those layers. Biases and BatchNorm are never pruned.
    Raises ``ValueError`` if nothing is left to prune.
    """
    kinds = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.Linear)
    names = [
        f"{name}.weight" for name, module in network.named_modules() if isinstance(module, kinds)
    ]
    names = names["first" in keep_dense : len(names) - ("last" in keep_dense)]
    if not names:
        raise ValueError(f"keep_dense={tuple(keep_dense)} leaves no layer of this network to prune")
    return names


def small_dense(name, shape, classes, live: int, *, widths=(100, 100)) -> tuple[dict, int]:
    """(what to give ``build``, its number of parameters) for the dense network of ``name``'s kind with about ``live`` parameters.

    The *small dense* baseline (gradient-flow study, Table 1): all widths times one factor up to 1, each rounded and at least 1; of
    the networks that this gives, the one whose size is nearest to ``live``, on ties the smaller. ``live`` counts all that lives
    in the sparse network, biases and BatchNorm too. MLPs and LeNet-5 get ``widths``, the others ``width``; ``widths`` as in ``build``.
    Raises ``ValueError`` where no network of the kind is so small or so large, or none has a width to change.
    """
    scaled = name.startswith("resnet") or name == "vgg-16"
    if scaled:
        full, kind = _planes(name), name
    elif name == "lenet-5":
        full, kind = tuple(widths) if len(widths) == 4 else LENET_WIDTHS, name
    elif name in ("mlp", "lenet-300-100"):
        full, kind = (300, 100) if name == "lenet-300-100" else tuple(widths), "mlp"
    else:
        raise ValueError(f"network {name!r} has no width that could be changed")

    def made(factor):
        scale = (
            {"width": factor}
            if scaled
            else {"widths": tuple(max(1, round(w * factor)) for w in full)}
        )
        options = {"name": kind, **scale}
        return options, sum(
            p.numel() for p in build(shape=shape, classes=classes, **options).parameters()
        )

    # some width changes at each (k + 1/2) / w; the factors halfway between two changes give every network once
    changes = sorted({(k + 0.5) / w for w in full for k in range(1, w)})
    factors = [(a + b) / 2 for a, b in pairwise([0.0, *changes])] + [1.0]
    place = bisect_left(factors, live, key=lambda factor: made(factor)[1])
    smallest, largest = made(factors[0])[1], made(1.0)[1]
    if not smallest <= live <= largest:
        raise ValueError(
            f"no {name!r} has about {live} parameters: with all widths from 1 to their own it has {smallest} to {largest}"
        )
    return min(
        (made(factor) for factor in factors[max(place - 1, 0) : place + 1]),
        key=lambda found: abs(found[1] - live),
    )


OPTIONS = {"mlp": ("widths", "activation"), "lenet-300-100": ("activation",)}
OPTIONS |= {"lenet-5": ("activation", "pooling", "widths"), "vgg-11": ()}


def options(name: str) -> tuple[str, ...]:
    """The options that the network ``name`` takes."""
    return OPTIONS.get(name, ("width",))


registry.network._entries.update(dict.fromkeys(NAMES))
