"""Floating-point operations of a network, counted from its layers.

Counted are the products and sums of convolutions and linear layers: 2 for each weight at each place
where it is used. Biases, normalisation, activations, pooling and whatever no such layer does (the
products of attention) are left out; a backward pass counts as two forward ones (Evci et al. 2020).
"""

import copy
import functools

import torch
from torch import nn

from lib.models import networks


def uses(network: nn.Module, shape: tuple[int, ...]) -> dict[str, int]:
    """At how many places each kernel is used in a forward pass of one example, by name, in order.

    1 for a linear layer on a flat input, the number of output positions for a convolution. Counted
    on one example that really passes: on the meta device, or with torch's own counter, the first
    pass imports the compiler, which takes two seconds and 100 MB.
    """
    found: dict[str, int] = {}

    def count(name, module, inputs, output):
        found[name] = found.get(name, 0) + output.numel() // module.weight.shape[0]

    zeros = {n: torch.zeros(t.shape, dtype=t.dtype) for n, t in network.state_dict().items()}
    network = copy.deepcopy(network).eval()
    network.load_state_dict(zeros, assign=True)
    for name in networks.kernels(network):
        network.get_submodule(name.rpartition(".")[0]).register_forward_hook(
            functools.partial(count, name)
        )
    network(torch.zeros(1, *shape))
    return found


def forward(
    network: nn.Module, shape: tuple[int, ...], mask: dict[str, torch.Tensor] | None = None
) -> float:
    """FLOPs of a forward pass of one example; with a ``mask`` by name, only live weights count.

    >>> forward(networks.build("mlp", (64,), 10, widths=(16,)), (64,))
    2368.0
    """
    live = {name: p.numel() for name, p in network.named_parameters()}
    live |= {name: int(m.sum()) for name, m in (mask or {}).items()}
    return float(sum(2 * places * live[name] for name, places in uses(network, shape).items()))


def training(forward_flops: float, examples: float) -> float:
    """FLOPs of training on so many examples: forward, and backward to inputs and to weights."""
    return 3.0 * forward_flops * examples
