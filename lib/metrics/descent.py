"""What one small step against the gradient does to the loss, and what the first two orders of Taylor's series say that it does."""

import copy
from dataclasses import dataclass

import torch
from torch import nn

from lib.metrics.curvature import Curvature
from lib.metrics.geometry import evaluate
from lib.metrics.gradients import loss_gradient
from lib.metrics.layers import Named


@dataclass(frozen=True)
class Step:
    """A step of ``size``: the ``change`` of the loss, and its prediction to ``first`` and to ``second`` order."""

    size: float
    change: float
    first: float
    second: float


def steps(
    network: nn.Module,
    x: torch.Tensor,
    labels: torch.Tensor,
    sizes,
    *,
    mask: Named | None = None,
    chunk=None,
) -> list[Step]:
    """L(θ - ε g) - L(θ) of the mean cross-entropy for each ε of ``sizes``, with -ε g·g and -ε g·g + ε² g·Hg / 2.

    g is the gradient in the live weights and in the biases (gradient-flow study, Eqs. 27 and 28). Use float64: a small change of
    the loss is a difference of numbers that are nearly equal. Arguments and errors as in ``lib.metrics.gradients``.
    """
    gradient = loss_gradient(network, x, labels, mask=mask, chunk=chunk)
    hessian = Curvature(network, x, labels, mask=mask, chunk=chunk)
    flat = hessian.flat(gradient)
    slope, bend = (flat @ flat).item(), (flat @ (hessian @ flat)).item()
    before, found = evaluate(network, x, labels)[0], []
    for size in sizes:
        moved = copy.deepcopy(network)
        with torch.no_grad():
            for name, value in moved.named_parameters():
                if name in gradient:
                    value -= size * gradient[name]
        change = evaluate(moved, x, labels)[0] - before
        found.append(Step(size, change, -size * slope, -size * slope + size**2 * bend / 2))
    return found
