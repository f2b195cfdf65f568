"""What is watched while a dense network trains, to tell when it may be pruned.

A monitor takes the network in eval mode, examples and a generator, after every epoch of the dense
run, and returns its columns. To add one, write the function and decorate it; every figure can then
watch it (setting ``watch``). The early-pruning study proposes Tr(F) and KL(uniform || p), and
leaves the rule itself to later work (sections 4.1 and 5): ``PeakRule`` is one.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass, field

import torch
from torch import nn

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


@dataclass
class PeakRule:
    """Says "now" when the highest value so far lies ``patience`` observations back.

    A value counts as higher only if it exceeds the highest by more than ``tolerance`` of it: what
    has all but stopped rising has turned. ``start`` observations are let pass first: right after
    the start of training the values jump. Raises ``ValueError`` for a patience below 1, or a
    negative tolerance or start.

    >>> rule = PeakRule(patience=2, start=0)
    >>> [rule.observe(value) for value in (1.0, 3.0, 2.0, 1.0)]
    [False, False, False, True]
    """

    patience: int = 2
    tolerance: float = 0.01
    start: int = 1
    highest: float = field(default=-math.inf, init=False)
    since: int = field(default=0, init=False)
    seen: int = field(default=0, init=False)

    def __post_init__(self):
        for name, least in (("patience", 1), ("tolerance", 0), ("start", 0)):
            if not getattr(self, name) >= least:
                raise ValueError(f"{name} is {getattr(self, name)}: it must be at least {least}")

    def observe(self, value: float) -> bool:
        """Take the value after an epoch; whether to prune now. One that is not finite is no rise."""
        self.seen += 1
        if self.seen <= self.start:
            return False
        margin = self.tolerance * abs(self.highest) if math.isfinite(self.highest) else 0.0
        self.since += 1
        if value > self.highest + margin:
            self.highest, self.since = value, 0
        return self.since >= self.patience


def decide(values: Iterable[float], rule: PeakRule) -> int | None:
    """The index at which ``rule`` first says "now", of values from epoch 0 on; None if never.

    Only values up to that index are looked at.

    >>> decide([0.0, 1.0, 3.0, 2.0, 1.0, 5.0], PeakRule(patience=2))
    4
    """
    return next((epoch for epoch, value in enumerate(values) if rule.observe(value)), None)
