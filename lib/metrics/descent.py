"""What one small step against the gradient does to the loss, and what Taylor's series says."""

import copy
from dataclasses import dataclass

import torch
from torch import nn

from lib.metrics.curvature import Curvature
from lib.metrics.geometry import evaluate
from lib.metrics.gradients import loss_gradient


@dataclass(frozen=True)
class Step:
    """A step of ``size``: the loss's ``change``, and its prediction to first and second order."""

    size: float
    change: float
    first: float
    second: float


def steps(
    network: nn.Module, x: torch.Tensor, labels: torch.Tensor, sizes, **options
) -> list[Step]:
    """L(θ - ε g) - L(θ) of the mean cross-entropy for each ε of ``sizes``, and what predicts it.

    That is -ε g·g, and -ε g·g + ε² g·Hg / 2; g is the gradient in the live weights (gradient-flow
    study, Eqs. 27 and 28). Use float64: a small change of the loss is a difference of numbers that
    are nearly equal. Arguments (``options``) and errors: see ``lib.metrics.contract``.

    >>> network = nn.Linear(1, 2, bias=False).double().eval()
    >>> _ = nn.init.zeros_(network.weight)
    >>> (step,) = steps(network, torch.ones(1, 1).double(), torch.tensor([0]), [0.1])
    >>> step.first, round(step.second, 6), round(step.change, 4)
    (-0.05, -0.04875, -0.0488)
    """
    gradient = loss_gradient(network, x, labels, **options)
    hessian = Curvature(network, x, labels, **options)
    flat = hessian.flat(gradient)
    slope, bend = (flat @ flat).item(), (flat @ (hessian @ flat)).item()
    before, found = evaluate(network, x, labels)[0], []
    for size in sizes:
        moved = copy.deepcopy(network)
        for name, value in gradient.items():
            moved.get_parameter(name).data.sub_(size * value)
        change = evaluate(moved, x, labels)[0] - before
        found.append(Step(size, change, -size * slope, -size * slope + size**2 * bend / 2))
    return found
