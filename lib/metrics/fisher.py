"""The Fisher information: its trace with sampled labels or exactly, by example, and its diagonal.

Always the true Fisher, F = E_x E_{y ~ p(y|x)} [g gᵀ] with g the gradient of log p(y|x) (price
study, equation 2.3): the labels come from the network itself, not from the data (Kunstner et al.
2019). Arguments and errors: see ``lib.metrics.contract``.
"""

from typing import Unpack

import torch
from torch import nn

from lib.metrics.contract import Options, check, joined, masked, parameters
from lib.metrics.estimate import Estimate
from lib.metrics.gradients import at_once, flushed, passes, residual, squares
from lib.sparse.patterns import Named


def sample_labels(logits: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """A label for each example from the network's own distribution, int64 [n].

    Drawn on the CPU; any label where the logits overflow.
    """
    p = torch.softmax(logits.detach().double(), -1).cpu().nan_to_num(1.0)
    return torch.multinomial(p, 1, generator=generator).squeeze(1).to(logits.device)


def columns(logits: torch.Tensor) -> list[torch.Tensor]:
    """C - 1 gradients [n, C] in the logits whose outer products add up to diag(p) - p pᵀ.

    That is the Fisher matrix of the logits, and these its Cholesky factor: with q_k = Σ_{i>k} p_i,
    S_kk = √(p_k q_k / q_{k-1}) and S_jk = -(p_j / q_k) S_kk for j > k.

    >>> columns(torch.zeros(1, 2))
    [tensor([[ 0.5000, -0.5000]])]
    """
    p = torch.softmax(logits.detach(), -1)
    tiny = torch.finfo(p.dtype).tiny
    # beyond[:, k] = q_{k-1}, summed from the end: no digits are lost where p_k is near 1
    beyond = p.flip(1).cumsum(1).flip(1)
    found = []
    for k in range(p.shape[1] - 1):
        q = beyond[:, k + 1]
        pivot = (p[:, k] * q / beyond[:, k].clamp_min(tiny)).sqrt()
        column = torch.zeros_like(p)
        column[:, k] = pivot
        column[:, k + 1 :] = -p[:, k + 1 :] * (pivot / q.clamp_min(tiny)).unsqueeze(1)
        found.append(flushed(column))
    return found


def sampled(
    network: nn.Module,
    x: torch.Tensor,
    *,
    generator: torch.Generator,
    mask: Named | None = None,
    which: str = "all",
    draws: int = 1,
    chunk: int | None = None,
) -> torch.Tensor:
    """Each example's squared gradient norm for ``draws`` labels of the network's, their mean: [n].

    The labels are sampled within the same forward pass; each draw costs a backward pass to the
    layers' outputs.

    >>> network = nn.Linear(2, 2, bias=False).eval()
    >>> _ = nn.init.zeros_(network.weight)
    >>> sampled(network, torch.tensor([[3.0, 4.0]]), generator=torch.Generator())
    tensor([12.5000])
    """
    check(network, x, None, mask, which, draws=draws, chunk=chunk)
    found = []
    for _, taken in passes(network, x, chunk, draws, mask):
        labels = [sample_labels(taken.logits, generator) for _ in range(draws)]
        cotangents = [residual(taken.logits, y) for y in labels]
        found.append(sum(squares(taken, cotangents, mask, which).values()) / draws)
    return torch.cat(found)


def trace(
    network: nn.Module,
    x: torch.Tensor,
    *,
    generator: torch.Generator,
    draws: int = 1,
    **options: Unpack[Options],
) -> Estimate:
    """Tr(F): mean over the examples of ``sampled`` (price study, equation 2.3, Figures 3, 7).

    The error is over examples and labels together: that of the trace over the population that the
    examples are drawn from.

    >>> network = nn.Linear(2, 2, bias=False).eval()
    >>> _ = nn.init.zeros_(network.weight)
    >>> print(trace(network, torch.tensor([[3.0, 4.0], [0.0, 1.0]]), generator=torch.Generator()))
    6.5 ± 6 (n = 2)
    """
    return Estimate.of(sampled(network, x, generator=generator, draws=draws, **options))


def exact(
    network: nn.Module,
    x: torch.Tensor,
    *,
    mask: Named | None = None,
    which: str = "all",
    chunk: int | None = None,
) -> torch.Tensor:
    """Each example's Fisher trace exactly, the expectation over all labels: [n].

    It takes C - 1 backward passes to the layers' outputs (``columns``).

    >>> network = nn.Linear(2, 2, bias=False).eval()
    >>> _ = nn.init.zeros_(network.weight)
    >>> exact(network, torch.tensor([[3.0, 4.0]]))
    tensor([12.5000])
    """
    check(network, x, None, mask, which, chunk=chunk)
    together = at_once(network, x, network(x[:1]).shape[1] - 1)
    found = [
        sum(squares(taken, columns(taken.logits), mask, which, together).values())
        for _, taken in passes(network, x, chunk, together, mask)
    ]
    return torch.cat(found)


def diagonal(
    network: nn.Module,
    x: torch.Tensor,
    *,
    generator: torch.Generator | None = None,
    mask: Named | None = None,
    which: str = "all",
    draws: int = 1,
    chunk: int | None = None,
) -> Named:
    """F's diagonal by parameter name, a mean over the examples (Theis et al. 2018).

    With a ``generator`` from ``draws`` sampled labels an example, without one exactly (C - 1
    backward passes). Zero where the mask has no weight; the sum over a layer is its part of Tr(F).

    >>> network = nn.Linear(2, 2, bias=False).eval()
    >>> _ = nn.init.zeros_(network.weight)
    >>> diagonal(network, torch.tensor([[3.0, 4.0]]))["weight"]
    tensor([[2.2500, 4.0000],
            [2.2500, 4.0000]])
    """
    check(network, x, None, mask, which, draws=draws, chunk=chunk)
    counted = parameters(network, which, mask)
    copies = draws if generator else network(x[:1]).shape[1] - 1
    total = {name: torch.zeros_like(value, requires_grad=False) for name, value in counted.items()}
    for _, taken in passes(network, x, chunk, copies, mask):
        if generator:
            labels = [sample_labels(taken.logits, generator) for _ in range(draws)]
            cotangents = [residual(taken.logits, y) / draws**0.5 for y in labels]
        else:
            cotangents = columns(taken.logits)
        for name, layer, delta in taken.deltas(cotangents):
            for kind, values in layer.diagonal(delta).items():
                if joined(name, kind) in total:
                    total[joined(name, kind)] += values / len(x)
    return masked(total, mask)
