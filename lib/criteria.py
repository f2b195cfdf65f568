"""Scores for pruning: one function per criterion, and the weights with the lowest scores go.

A criterion takes the prunable weights (name -> tensor) and a generator, and returns scores of the same names and
shapes. To add one, write the function and decorate it; every figure can then name it.
"""

from collections.abc import Callable

import torch

Weights = dict[str, torch.Tensor]
CRITERIA: dict[str, Callable[[Weights, torch.Generator], Weights]] = {}


def criterion(function):
    """Register ``function`` under its own name."""
    CRITERIA[function.__name__] = function
    return function


@criterion
def magnitude(weights: Weights, generator: torch.Generator) -> Weights:
    """|w| (Zhu & Gupta 2017; the price study's section 2)."""
    return {name: weight.abs() for name, weight in weights.items()}


@criterion
def random(weights: Weights, generator: torch.Generator) -> Weights:
    """Uniform scores: every mask of the wanted size is equally likely."""
    return {name: torch.rand(weight.shape, generator=generator) for name, weight in weights.items()}
