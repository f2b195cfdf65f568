"""Networks by name, on the meta device, and which of their weights may be pruned.

They have shapes but no numbers, and draw nothing: ``lib.models.initializers`` gives the numbers,
``lib.training.cohort`` the memory. The project's own are in ``lib.models.architectures``; any
module of one's own that takes images and returns logits is checked by ``lib.models.own``::

    @network
    def linear(shape, classes):
        return nn.Sequential(nn.Flatten(), nn.Linear(math.prod(shape), classes))
"""

import inspect
from typing import Any

import torch
from torch import nn

from lib.checks import refuse
from lib.models import own
from lib.models.architectures import ACTIVATIONS, MLP, VGG, Block, LeNet5, ResNet, Shape, Shortcut
from lib.registry import network

__all__ = [
    "ACTIVATIONS", "MLP", "VGG", "Block", "LeNet5", "ResNet", "Shortcut",
    "build", "kernels", "options", "prunable",
]  # fmt: skip

KERNELS = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.Linear)


def options(name: str) -> dict[str, Any]:
    """What the network ``name`` can be given beside image shape and classes, and the defaults.

    >>> options("lenet-5"), options("vgg-11")
    ({'widths': (6, 16, 120, 84), 'activation': 'relu', 'pooling': 'max'}, {})
    """
    taken = list(inspect.signature(network[name]).parameters.values())[2:]
    return {p.name: p.default for p in taken if p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)}


def build(name: str, shape: Shape, classes: int, **given: Any) -> nn.Module:
    """The network ``name`` for images of ``shape`` ([C, H, W] or [D]), on the meta device.

    ``given`` are options; those that are None are the network's own. ``widths`` are the hidden
    layers of an MLP and the four of LeNet-5; ``width`` multiplies the channels of a ResNet or
    VGG-16 (the price study's ResNet-32 has ``width=4``). Raises ``ValueError`` for an unknown name,
    an option that it does not take, images that do not fit, and what ``own.build`` refuses.

    >>> network = build("mlp", (1, 8, 8), 10, widths=(16,))
    >>> {name: tuple(p.shape) for name, p in network.named_parameters()}
    {'1.weight': (16, 64), '1.bias': (16,), '3.weight': (10, 16), '3.bias': (10,)}
    """
    given = {option: value for option, value in given.items() if value is not None}
    taken = options(name)
    wrong = ", ".join(f"{o} is {value!r}" for o, value in given.items() if o not in taken)
    refuse(wrong, f"{wrong}: network {name!r} takes {', '.join(taken) or 'no options'}")
    entry, shape = network[name], tuple(shape)
    if not entry.__module__.startswith("lib."):
        return own.build(name, entry, shape, classes, **given)
    with torch.device("meta"):
        return entry(shape, classes, **given)


def kernels(network: nn.Module) -> list[str]:
    """Names of the weights of convolutions and linear layers, in order of depth.

    Other parameters are none, whatever their shape: embeddings, the stacked projections of
    ``nn.MultiheadAttention``, weights under a parametrization.
    """
    kinds = {n: m for n, m in network.named_modules() if isinstance(m, KERNELS)}
    return [f"{n}.weight".lstrip(".") for n, m in kinds.items() if "weight" in m._parameters]


def prunable(network: nn.Module, keep_dense: tuple[str, ...] = ()) -> list[str]:
    """Names of the weights that pruning may zero: the ``kernels``, and nothing else.

    ``keep_dense`` may hold ``"first"`` and ``"last"`` to spare those layers. Raises ``ValueError``
    if nothing is left to prune.
    """
    names = kernels(network)
    names = names["first" in keep_dense : len(names) - ("last" in keep_dense)]
    refuse(not names, f"keep_dense={tuple(keep_dense)} leaves no layer of this network to prune")
    return names
