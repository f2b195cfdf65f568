"""Hidden units of two networks of one architecture brought into one order.

A network's function does not change when the units of a hidden layer change places; weights, masks
and starts of two networks can be compared only in a common order. For MLPs and LeNet-5, whose
layers follow one another.
"""

from itertools import pairwise

import torch
from torch import nn

from lib import rng
from lib.checks import refuse
from lib.models import networks

Named = dict[str, torch.Tensor]
MOST = 100  # rounds of weight matching; a few are enough


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
        changed[into], changed[bias] = changed[into][places], changed[bias][places]
        # of a channel, all its places in the image
        changed[out] = changed[out].unflatten(1, (len(places), -1))[:, places].flatten(1, 2)
    return changed


def matched(network: nn.Module, mine: Named, other: Named, seed: int) -> list[torch.Tensor]:
    """The order in which units of ``mine`` fit ``other`` best, for ``permuted``.

    Weight matching (Ainsworth et al. 2023, Algorithm 1): one layer at a time is assigned so that
    the inner product of all weights and biases is highest, until none changes. Layers take turns in
    an order of ``seed``; the result is a local optimum where there are several hidden layers.
    """
    from scipy.optimize import linear_sum_assignment

    layers = hidden(network)
    order = [torch.arange(len(mine[into])) for into, _ in layers]
    before, stream = [torch.zeros(0)], rng.generator(seed, "matching")
    for _ in range(MOST):
        if all(map(torch.equal, before, order)):
            break
        before = list(order)
        for i in torch.randperm(len(layers), generator=stream).tolist():
            order[i] = torch.arange(len(order[i]))
            now = permuted(network, mine, order)
            likeness = _rows(other, *layers[i]) @ _rows(now, *layers[i]).t()
            order[i] = torch.from_numpy(linear_sum_assignment(likeness, maximize=True)[1])
    return order


def _rows(values, into, out):
    """All weights of each unit between two kernels: those that lead to it, its bias, and those that
    it feeds, float64 [units, n]."""
    units, bias = len(values[into]), values[into.removesuffix("weight") + "bias"]
    fed = values[out].unflatten(1, (units, -1)).transpose(0, 1)
    return torch.cat([part.reshape(units, -1).double() for part in (values[into], bias, fed)], 1)
