"""A network of one's own: any module that takes images and returns logits, checked at once.

It is made once on the CPU by its own constructor, and applied to two images. Then only its form is
kept, on the meta device; ``lib.models.initializers`` gives the numbers.
"""

import functools
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from lib.checks import refuse

NORMS = nn.modules.batchnorm._NormBase


def build(
    name: str, entry: Callable, shape: tuple[int, ...], classes: int, **options: Any
) -> nn.Module:
    """The module ``entry(shape, classes, **options)`` on the meta device.

    Raises ``ValueError``, naming the network, where it does not give logits [n, classes] for images
    [n, *shape] (channels-last, as they come while training), draws random numbers on its way, or
    holds what a flat row of weights cannot: tied, frozen or other than float32 parameters, buffers
    other than running statistics.
    """
    construct = functools.partial(entry, shape, classes, **options)
    try:
        with torch.random.fork_rng(devices=[]), torch.no_grad():
            network = construct()
            faults = _faults(network, shape, classes)
    except Exception as error:
        raise ValueError(
            f"network {name!r} cannot be made for {classes} classes and applied to two images of "
            f"shape {list(shape)}: {type(error).__name__}: {error}"
        ) from error
    refuse(faults, f"network {name!r} {'; it '.join(faults)}")
    network.construct = construct
    return network.to("meta")


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
