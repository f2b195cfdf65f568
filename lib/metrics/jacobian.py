"""The Jacobian of the logits in the input: how sensitive a network is to what it sees (Novak et al. 2018)."""

import torch

from lib.metrics.estimate import Estimate
from lib.metrics.gradients import channels_last, check, passes
from lib.metrics.layers import KINDS, MeasureError
from lib.models.networks import MLP
from lib.sparse.live_pass import LivePass
from lib.sparse.live_patterns import patterns_of

__all__ = ["MeasureError", "exact", "norm", "projected"]


def _pull(network, x, chunk):
    """(logits, x) of each chunk, with a graph from x to the logits and none to the weights."""
    chunk = chunk or (
        64 if x.device.type == "cpu" else 1024
    )  # a ResNet's activations of more examples leave the cache
    needs = [p.requires_grad for p in network.parameters()]
    for p in network.parameters():
        p.requires_grad_(False)
    try:
        for start in range(0, len(x), chunk):
            part = channels_last(x[start : start + chunk]).detach().requires_grad_()
            with torch.enable_grad():
                logits = network(part)
            yield logits, part
    finally:
        for p, need in zip(network.parameters(), needs, strict=True):
            p.requires_grad_(need)


def exact(network, x, *, chunk=None) -> torch.Tensor:
    """Each example's ‖∂ logits / ∂ x‖²_F exactly, [n]: a backward pass to the input for each class (price study, Table 2).

    Where most weights are zero these passes are at the cost of the others. Else, where the first layer is linear, with weights W,
    they stop at its output: ‖δ W‖² = δ (W Wᵀ) δᵀ spares its large product.
    """
    check(network, x)
    patterns = patterns_of(network, x, None, min(len(x), chunk or 128))
    if patterns is not None:
        return torch.cat(
            [LivePass(network, part, patterns).jacobian_squares() for part in x.split(chunk or 128)]
        )
    first = next((m for m in network.modules() if type(m) in KINDS), None)
    if isinstance(network, MLP) and first.in_features > first.out_features:
        return _behind_linear(network, x, chunk, first.weight.detach())
    found = []
    for logits, part in _pull(network, x, chunk):
        total = 0.0
        for c in range(logits.shape[1]):
            (g,) = torch.autograd.grad(
                logits[:, c].sum(), part, retain_graph=c < logits.shape[1] - 1
            )
            total = total + g.flatten(1).square().sum(1)
        found.append(total)
    return torch.cat(found)


def _behind_linear(network, x, chunk, weight):
    gram, found = weight @ weight.t(), []
    for _, taken in passes(network, x, chunk):
        count, classes = taken.logits.shape
        units = torch.eye(classes, dtype=x.dtype, device=x.device)
        z = taken.outputs[0]
        deltas = [
            torch.autograd.grad(taken.logits, z, u.expand(count, -1), retain_graph=c < classes - 1)[
                0
            ]
            for c, u in enumerate(units)
        ]
        delta = torch.cat(deltas)
        found.append((delta @ gram).mul_(delta).sum(1).view(classes, count).sum(0))
    return torch.cat(found)


def norm(network, x, *, chunk=None) -> Estimate:
    """Mean squared Frobenius norm of the Jacobian over the examples, exactly for each; the error is over examples."""
    return Estimate.of(exact(network, x, chunk=chunk))


def projected(network, x, *, generator: torch.Generator, draws: int = 1, chunk=None) -> Estimate:
    """The same from ``draws`` random directions in the logits: E ‖vᵀJ‖² = ‖J‖²_F for v with identity covariance (Hoffman et al. 2019).

    One backward pass a draw instead of one a class; the error is over examples and directions together.
    """
    check(network, x)
    found = []
    for logits, part in _pull(network, x, chunk):
        total = 0.0
        for draw in range(draws):
            v = torch.randn(logits.shape, generator=generator, dtype=logits.dtype).to(logits.device)
            (g,) = torch.autograd.grad(logits, part, v, retain_graph=draw < draws - 1)
            total = total + g.flatten(1).square().sum(1) / draws
        found.append(total)
    return Estimate.of(torch.cat(found))
