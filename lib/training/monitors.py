"""What is watched while a dense network trains, to tell when it may be pruned.

A monitor takes the network in eval mode, examples and a generator, after every epoch of the dense
run, and returns its columns. To add one, write the function and decorate it; every figure can then
watch it (setting ``watch``). The early-pruning study proposes Tr(F) and KL(uniform || p), and
leaves the rule itself to later work (sections 4.1 and 5): ``pruning_epoch`` is one.
"""

import math
from collections.abc import Iterable
from itertools import islice

import torch
from torch import nn

from lib.masks.masks import refuse
from lib.metrics import fisher as fishers
from lib.metrics import predictions
from lib.registry import monitor

CHUNK = 500  # examples at a time in a forward pass


@monitor
def fisher(network: nn.Module, x: torch.Tensor, generator: torch.Generator) -> dict[str, float]:
    """Tr(F) by one sampled label an example (early-pruning study, equation 4), and its error."""
    estimate = fishers.trace(network, x, generator=generator)
    return {"fisher": estimate.value, "fisher_error": estimate.error}


@monitor
def kl_uniform(network: nn.Module, x: torch.Tensor, generator: torch.Generator) -> dict[str, float]:
    """Mean KL(uniform || p) in nats (early-pruning study, equation 5): forward passes alone."""
    with torch.no_grad():
        values = torch.cat([predictions.kl_uniform(network(part)) for part in x.split(CHUNK)])
    return {"kl_uniform": values.double().mean().item()}


def pruning_epoch(
    values: Iterable[float], *, patience: int = 2, tolerance: float = 0.01, start: int = 1
) -> int | None:
    """When to prune: the epoch at which the highest of ``values`` so far lies ``patience`` back.

    ``values`` come by epoch, from 0 on, and none is looked at behind the answer; None if they end
    before. A value counts as higher only if it exceeds the highest by more than ``tolerance`` of
    it: what has all but stopped rising has turned. One that is not finite is no rise. ``start``
    values are let pass first: right after the start of training they jump. Raises ``ValueError``
    for a patience below 1, or a negative tolerance or start.

    >>> pruning_epoch([0.0, 1.0, 3.0, 2.0, 1.0, 5.0])
    4
    """
    refuse(not patience >= 1, f"patience is {patience}: it must be at least 1")
    refuse(not tolerance >= 0, f"tolerance is {tolerance}: it must be at least 0")
    refuse(not start >= 0, f"start is {start}: it must be at least 0")
    highest, since = -math.inf, 0
    for epoch, value in islice(enumerate(values), start, None):
        margin = tolerance * abs(highest) if math.isfinite(highest) else 0.0
        higher = value > highest + margin
        highest, since = (value, 0) if higher else (highest, since + 1)
        if since >= patience:
            return epoch
    return None
