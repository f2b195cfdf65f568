"""Learning rates over training."""

import math

import torch

from lib.runs import Recipe


def rates(recipe: Recipe, epoch: int, steps: int) -> torch.Tensor:
    """The rate of each of the ``steps`` steps of ``epoch`` (counted from 0), float64 [steps].

    ``step`` multiplies by gamma at each milestone and ``exponential`` every epoch; ``cosine`` and ``linear`` fall to
    0 at the last step, step by step. No rate falls below ``lr_floor``. Warm-up rises linearly over its epochs, to the
    rate that the schedule has there.
    """
    position = epoch + torch.arange(steps, dtype=torch.float64) / steps  # in epochs
    done = position / max(recipe.epochs, 1)
    factor = {
        "constant": lambda: torch.ones_like(position),
        "step": lambda: torch.full_like(position, recipe.gamma ** sum(epoch >= m for m in recipe.milestones)),
        "exponential": lambda: torch.full_like(position, recipe.gamma**epoch),
        "cosine": lambda: (1 + torch.cos(math.pi * done)) / 2,
        "linear": lambda: 1 - done,
    }[recipe.schedule]()
    rate = (recipe.lr * factor).clamp_min(recipe.lr_floor)
    if recipe.warmup_epochs:
        rate = rate * ((position + 1 / steps) / recipe.warmup_epochs).clamp_max(1.0)
    return rate
