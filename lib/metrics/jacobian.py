"""The Jacobian of the logits in the input: how sensitive a network is to what it sees."""

import torch
from torch import Tensor, nn

from lib.metrics.contract import check
from lib.metrics.estimate import Estimate
from lib.metrics.gradients import channels_last, passes
from lib.metrics.passes import examined
from lib.models.networks import MLP
from lib.sparse.passes import LivePass, patterns_of


def _rows(logits, target):
    """The gradient in ``target`` of each logit, one class after the other."""
    for c in range(logits.shape[1]):
        more = c < logits.shape[1] - 1
        yield torch.autograd.grad(logits[:, c].sum(), target, retain_graph=more)[0]


def exact(network: nn.Module, x: Tensor, *, chunk: int | None = None) -> Tensor:
    """Each example's ‖∂ logits / ∂ x‖²_F exactly, [n]: a backward pass to the input for each class.

    Price study, Table 2; Novak et al. 2018. Where most weights are zero these passes are at the
    cost of the others. Else, where the first layer is linear, with weights W, they stop at its
    output: ‖δ W‖² = δ (W Wᵀ) δᵀ spares its large product. Errors: see ``lib.metrics.contract``.

    >>> network = nn.Linear(2, 2, bias=False).eval()
    >>> _ = nn.init.ones_(network.weight)
    >>> exact(network, torch.zeros(1, 2))
    tensor([4.])
    """
    check(network, x, chunk=chunk)
    patterns = patterns_of(network, x, None, min(len(x), chunk or 128))
    if patterns is not None:
        return torch.cat(
            [LivePass(network, part, patterns).jacobian_squares() for part in x.split(chunk or 128)]
        )
    found = []
    reason, _ = examined(network, x)
    first = network[1] if isinstance(network, MLP) and not reason else None
    if isinstance(first, nn.Linear) and first.in_features > first.out_features:
        gram = first.weight.detach() @ first.weight.detach().t()
        for _, taken in passes(network, x, chunk):
            delta = torch.cat([*_rows(taken.logits, taken.outputs[0])])  # type: ignore[union-attr]
            found.append((delta @ gram).mul_(delta).sum(1).view(-1, len(taken.logits)).sum(0))
        return torch.cat(found)
    frozen = {name: p.detach() for name, p in network.named_parameters()}
    # a ResNet's activations of more examples leave the cache
    for part in x.split(chunk or (64 if x.device.type == "cpu" else 1024)):
        part = channels_last(part).detach().requires_grad_()
        with torch.enable_grad():
            logits = torch.func.functional_call(network, frozen, (part,))
        found.append(sum(g.flatten(1).square().sum(1) for g in _rows(logits, part)))
    return torch.cat(found)


def norm(network: nn.Module, x: Tensor, *, chunk: int | None = None) -> Estimate:
    """Mean squared Frobenius norm of the Jacobian over the examples (``exact`` for each).

    The error is over examples.

    >>> network = nn.Linear(2, 2, bias=False).eval()
    >>> _ = nn.init.ones_(network.weight)
    >>> print(norm(network, torch.zeros(2, 2)))
    4 ± 0 (n = 2)
    """
    return Estimate.of(exact(network, x, chunk=chunk))
