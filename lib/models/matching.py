"""Hidden units of two networks of one architecture brought into one order.

A network's function does not change when the units of a hidden layer change places; weights, masks
and starts of two networks can be compared only in a common order. For MLPs and LeNet-5, whose
layers follow one another.
"""

from itertools import pairwise

import numpy as np
import torch
from torch import nn

from lib import rng
from lib.checks import refuse
from lib.models import networks

Named = dict[str, torch.Tensor]


def hidden(network: nn.Module) -> list[tuple[str, str]]:
    """(kernel whose outputs they are, kernel that they feed) of each layer of hidden units.

    Raises ``ValueError`` for a network whose layers do not simply follow one another.

    >>> hidden(networks.build("mlp", (4,), 2, widths=(3,)))
    [('1.weight', '3.weight')]
    """
    refuse(
        type(network) not in (networks.MLP, networks.LeNet5),
        f"units of a {type(network).__name__} cannot be matched: MLPs and LeNet-5 can",
    )
    return list(pairwise(networks.kernels(network)))


def permuted(network: nn.Module, values: Named, order: list[torch.Tensor]) -> Named:
    """``values`` by parameter name (weights, or a mask) with their units in another ``order``.

    ``order`` has for each hidden layer an int64 permutation: unit i becomes what unit order[i] was.
    """
    changed = dict(values)
    for (into, out), places in zip(hidden(network), order, strict=True):
        bias = into.removesuffix("weight") + "bias"
        for name in (into, bias):
            if name in changed:
                changed[name] = changed[name][places]
        fed = changed[out]
        each = fed.unflatten(1, (len(places), -1))  # of a channel, all its places in the image
        changed[out] = each[:, places].flatten(1, 2)
    return changed


def matched(network: nn.Module, mine: Named, other: Named, seed: int) -> list[torch.Tensor]:
    """The order in which units of ``mine`` fit ``other`` best, for ``permuted``.

    Weight matching (Ainsworth et al. 2023, Algorithm 1): one layer at a time is assigned so that
    the inner product of all weights and biases is highest, until none changes. Layers take turns in
    an order of ``seed``; the result is a local optimum where there are several hidden layers.
    """
    from scipy.optimize import linear_sum_assignment

    layers = hidden(network)
    order = [torch.arange(mine[into].shape[0]) for into, _ in layers]
    changed, stream = True, rng.generator(seed, "matching")
    while changed:
        changed = False
        for i in torch.randperm(len(layers), generator=stream).tolist():
            own = [torch.arange(len(p)) if j == i else p for j, p in enumerate(order)]
            now = permuted(network, mine, own)
            likeness = _likeness(layers[i], other, now)
            found = torch.from_numpy(linear_sum_assignment(likeness, maximize=True)[1])
            units = np.arange(len(found))
            gain = likeness[units, found].sum() - likeness[units, order[i]].sum()
            if gain > 1e-9 * abs(likeness).max():
                order[i], changed = found, True
    return order


def _likeness(layer, other, mine):
    """Inner products of all weights of each unit of ``other`` with those of each of ``mine``."""
    into, out = layer
    units, bias = len(mine[into]), into.removesuffix("weight") + "bias"

    def rows(values):
        fed = values[out].unflatten(1, (units, -1)).transpose(0, 1)
        parts = [values[into], fed, *([values[bias]] if bias in values else [])]
        return torch.cat([part.reshape(units, -1).double() for part in parts], 1)

    return (rows(other) @ rows(mine).t()).numpy()
