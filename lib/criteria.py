"""Scores for pruning: one function per criterion, and the weights with the lowest scores go.

A criterion takes the prunable weights (name -> tensor), a generator and the ``Task`` they serve, and returns scores of the
same names and shapes. To add one, write the function and decorate it; every figure can then name it.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import nn

from lib.metrics import fisher as fishers

Weights = dict[str, torch.Tensor]


@dataclass(frozen=True)
class Task:
    """What a criterion may look at beside the weights: the network as it stands, and training examples with their given labels.

    ``build`` makes the network when one asks for it (magnitude does not): a module in eval mode on the device of ``x``.
    """

    build: Callable[[], nn.Module]
    x: torch.Tensor
    y: torch.Tensor

    @cached_property
    def network(self) -> nn.Module:
        """The network with its weights and BatchNorm statistics, in eval mode."""
        return self.build()


CRITERIA: dict[str, Callable[[Weights, torch.Generator, Task], Weights]] = {}


def criterion(function):
    """Register ``function`` under its own name."""
    CRITERIA[function.__name__] = function
    return function


@criterion
def magnitude(weights: Weights, generator: torch.Generator, task: Task) -> Weights:
    """|w| (Zhu & Gupta 2017; the price study's section 2)."""
    return {name: weight.abs() for name, weight in weights.items()}


@criterion
def random(weights: Weights, generator: torch.Generator, task: Task) -> Weights:
    """Uniform scores: every mask of the wanted size is equally likely."""
    return {name: torch.rand(weight.shape, generator=generator) for name, weight in weights.items()}


@criterion
def fisher(weights: Weights, generator: torch.Generator, task: Task) -> Weights:
    """F_ii, each weight's own Fisher information, from one sampled label an example (early-pruning study, section 4.2).

    The study names the criterion without a formula: this is the diagonal of its equation 2, estimated like its equation 4.
    """
    found = fishers.diagonal(task.network, task.x, generator=generator)
    return {name: found[name].cpu() for name in weights}


@criterion
def fisher_loss(weights: Weights, generator: torch.Generator, task: Task) -> Weights:
    """½ w² F_ii: how much removing the weight alone changes the prediction, to second order (LeCun et al. 1990; Theis et al. 2018)."""
    return {name: weights[name].square() * score / 2 for name, score in fisher(weights, generator, task).items()}
