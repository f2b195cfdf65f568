"""Learning rates over training."""

import math

import torch

from lib.specs.parts import Continuation, Recipe


def rates(
    recipe: Recipe, epoch: float, steps: int, continuation: Continuation | None = None
) -> torch.Tensor:
    """The rate of each of the ``steps`` steps of ``epoch`` (counted from 0), float64 [steps].

    ``step`` multiplies by gamma at each milestone and ``exponential`` every epoch; ``cosine`` and
    ``linear`` fall to 0 at the last step, step by step. No rate falls below ``lr_floor``. Warm-up
    rises linearly over its epochs, to the rate that the schedule has there. With a ``continuation``
    it is the rate of a run pruned at its epoch ``at``: see there.
    """
    if continuation is not None:
        return _continued(recipe, epoch, steps, continuation)
    position = epoch + torch.arange(steps, dtype=torch.float64) / steps  # in epochs
    done = position / max(recipe.epochs, 1)
    falls = sum(epoch >= milestone for milestone in recipe.milestones)
    factor = {
        "constant": lambda: torch.ones_like(position),
        "step": lambda: torch.full_like(position, recipe.gamma**falls),
        "exponential": lambda: torch.full_like(position, recipe.gamma ** int(epoch)),
        "cosine": lambda: (1 + torch.cos(math.pi * done)) / 2,
        "linear": lambda: 1 - done,
    }[recipe.schedule]()
    rate = (recipe.lr * factor).clamp_min(recipe.lr_floor)
    if recipe.warmup_epochs:
        rate = rate * ((position + 1 / steps) / recipe.warmup_epochs).clamp_max(1.0)
    return rate


def step_of(moment: float, steps: int) -> int:
    """How many of the ``steps`` of its epoch are taken at a moment: of 2.25, a quarter of them."""
    return round(moment % 1 * steps)


def _continued(recipe, epoch, steps, c):
    """max(floor, LR(at)) as the highest rate of what is left; early-pruning study, section 3."""
    usual = rates(recipe, epoch, steps)
    if c.reading == "each-step":
        return usual.clamp_min(c.floor)
    # a low rate on the way up is no decay
    reached = rates(recipe.model_copy(update={"warmup_epochs": 0.0}), c.at, 1).item()
    highest = max(c.floor, reached)
    if c.reading == "restart":
        left = {
            "epochs": recipe.epochs - c.at, "lr": highest,
            "milestones": tuple(m - c.at for m in recipe.milestones if m > c.at),
            "warmup_epochs": max(recipe.warmup_epochs - c.at, 0.0),
        }  # fmt: skip
        return rates(recipe.model_copy(update=left), epoch - c.at, steps)
    return usual * (highest / reached) if highest > reached > 0 else usual
