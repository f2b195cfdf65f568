"""Networks by name, on the meta device, and which of their weights may be pruned.

They have shapes but no numbers, and draw nothing: ``lib.models.initializers`` gives the numbers,
``lib.training.cohort`` the memory. The project's own are in ``lib.models.architectures``; any
module of one's own will do that takes images and returns logits::

    @network
    def linear(shape, classes):
        return nn.Sequential(nn.Flatten(), nn.Linear(math.prod(shape), classes))

It is made once on the CPU by its own constructor, and applied to two images.
"""

import functools
import inspect
from typing import Any

import torch
from torch import nn

from lib.checks import refuse
from lib.models.architectures import ACTIVATIONS, MLP, VGG, Block, LeNet5, ResNet, Shape, Shortcut
from lib.registry import network

__all__ = [
    "ACTIVATIONS", "MLP", "VGG", "Block", "LeNet5", "ResNet", "Shortcut",
    "build", "constructed", "kernels", "options", "prunable",
]  # fmt: skip

KERNELS = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.Linear)
NORMS = nn.modules.batchnorm._NormBase


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
    an option that it does not take, images that do not fit, and one of your own that does not give
    logits [n, classes] for images [n, *shape] (channels-last, as they come while training), draws
    random numbers on its way, or holds what a flat row of weights cannot: tied, frozen or other
    than float32 parameters, buffers other than running statistics.

    >>> network = build("mlp", (1, 8, 8), 10, widths=(16,))
    >>> {name: tuple(p.shape) for name, p in network.named_parameters()}
    {'1.weight': (16, 64), '1.bias': (16,), '3.weight': (10, 16), '3.bias': (10,)}
    """
    given = {option: value for option, value in given.items() if value is not None}
    taken = options(name)
    wrong = ", ".join(f"{o} is {value!r}" for o, value in given.items() if o not in taken)
    refuse(wrong, f"{wrong}: network {name!r} takes {', '.join(taken) or 'no options'}")
    entry, shape = network[name], tuple(shape)
    construct = functools.partial(entry, shape, classes, **given)
    if entry.__module__.startswith("lib."):
        with torch.device("meta"):
            return construct()
    try:
        with torch.random.fork_rng(devices=[]), torch.no_grad():
            made = construct()
            faults = _faults(made, shape, classes)
    except Exception as error:
        raise ValueError(
            f"network {name!r} cannot be made for {classes} classes and applied to two images of "
            f"shape {list(shape)}: {type(error).__name__}: {error}"
        ) from error
    refuse(faults, f"network {name!r} {'; it '.join(faults)}")
    made.construct = construct
    return made.to("meta")


def constructed(network: nn.Module, seed: int) -> dict[str, torch.Tensor]:
    """What the constructor of ``network`` gives its parameters under ``seed``, by parameter name.

    None for the project's own networks, which have no numbers. The constructor draws from torch's
    global CPU generator, which is afterwards as it was.
    """
    construct: Any = getattr(network, "construct", None)
    if construct is None:
        return {}
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        return {name: p.detach() for name, p in construct().named_parameters()}


def _faults(network, shape, classes):
    """What keeps ``network`` from being trained here, in words."""
    if not isinstance(network, nn.Module):
        return [f"is a {type(network).__name__}: it must be, or give, a torch.nn.Module"]
    parameters = dict(network.named_parameters())
    names = {name for name, _ in network.named_parameters(remove_duplicate=False)}
    buffers = {name: name.rpartition(".")[0] for name, _ in network.named_buffers()}
    images, before = torch.zeros(2, *shape), torch.get_rng_state()
    logits = network(images.to(memory_format=torch.channels_last) if len(shape) == 3 else images)
    found = getattr(logits, "shape", type(logits).__name__)
    faults = {
        "shares parameters between modules, which must each have their own": (
            names - parameters.keys()
        ),
        "holds parameters that are frozen or not float32": [
            n for n, p in parameters.items() if not p.requires_grad or p.dtype != torch.float32
        ],
        "holds buffers other than running statistics (make them in forward, or attributes)": [
            n for n, of in buffers.items() if not isinstance(network.get_submodule(of), NORMS)
        ],
        "has running statistics without a momentum": [
            n for n, m in network.named_modules() if isinstance(m, NORMS) and m.momentum is None
        ],
        "draws random numbers that no seed of a run reaches": (
            [] if torch.equal(before, torch.get_rng_state()) else ["in its forward pass (dropout?)"]
        ),
        f"must return logits [n, {classes}] for n images of shape {list(shape)}": (
            [] if found == (2, classes) else [f"for n = 2 it returns {found}"]
        ),
    }
    return [f"{text}: {', '.join(sorted(names))}" for text, names in faults.items() if names]


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
