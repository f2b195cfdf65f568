"""The Fisher information: its trace with sampled labels or exactly, by example, and its diagonal.

Always the true Fisher, F = E_x E_{y ~ p(y|x)} [g gᵀ] with g the gradient of log p(y|x) (price
study, equation 2.3): the labels come from the network itself, not from the data (Kunstner et al.
2019). Arguments (``options``) and errors: see ``lib.metrics.contract``.
"""

import torch
from torch import Generator, Tensor, nn

from lib.metrics.contract import Named, check, masked, parameters
from lib.metrics.estimate import Estimate
from lib.metrics.gradients import asked, at_once, flushed, passes, residual, squares


def drawn(logits: Tensor, generator: Generator) -> Tensor:
    """A label for each example from the network's own distribution, int64 [n], drawn on the CPU.

    Any label where the logits overflow.
    """
    p = torch.softmax(logits.detach().double(), -1).cpu().nan_to_num(1.0)
    return torch.multinomial(p, 1, generator=generator).squeeze(1).to(logits.device)


def _sampled(logits, generator, draws):
    """Gradients in the logits for so many labels of the network's own."""
    return [residual(logits, drawn(logits, generator)) for _ in range(draws)]


def _columns(logits):
    """C - 1 gradients [n, C] in the logits whose outer products add up to diag(p) - p pᵀ.

    That is the Fisher matrix of the logits, and these its Cholesky factor: with q_k = Σ_{i>k} p_i,
    S_kk = √(p_k q_k / q_{k-1}) and S_jk = -(p_j / q_k) S_kk for j > k.
    """
    p = torch.softmax(logits.detach(), -1)
    # beyond[:, k] = q_{k-1}, summed from the end: no digits are lost where p_k is near 1
    beyond, tiny = p.flip(1).cumsum(1).flip(1), torch.finfo(p.dtype).tiny
    before, q = beyond[:, :-1].clamp_min(tiny), beyond[:, 1:]
    own = (p[:, :-1] * q / before).sqrt()
    others = p.unsqueeze(1) * (own / q.clamp_min(tiny)).unsqueeze(2)  # [n, k, j]
    columns = others.triu(1).neg_()
    columns.diagonal(dim1=1, dim2=2).copy_(own)
    return list(flushed(columns.transpose(0, 1).contiguous()))


def _summed(network, x, terms, together, cotangents_of):
    """Each example's squared gradient norm, [n], summed over ``cotangents_of`` (logits, part).

    ``terms`` are those of ``check``.
    """
    mask, which, chunk = terms
    wanted = asked(network, which, mask)
    found = [
        squares(taken, cotangents_of(taken.logits, part), wanted, together)
        for part, taken in passes(network, x, chunk, together, mask)
    ]
    return torch.cat(found)


def sampled(
    network: nn.Module, x: Tensor, *, generator: Generator, draws: int = 1, **options
) -> Tensor:
    """Each example's squared gradient norm for ``draws`` labels of the network's, their mean: [n].

    The labels are sampled within the same forward pass; each draw costs a backward pass to the
    layers' outputs.

    >>> network = nn.Linear(2, 2, bias=False).eval()
    >>> _ = nn.init.zeros_(network.weight)
    >>> sampled(network, torch.tensor([[3.0, 4.0]]), generator=Generator())
    tensor([12.5000])
    """
    total = _summed(
        network, x, check(network, x, draws=draws, **options), draws,
        lambda logits, _: _sampled(logits, generator, draws),
    )  # fmt: skip
    return total / draws


def empirical(network: nn.Module, x: Tensor, labels: Tensor, **options) -> Tensor:
    """Each example's squared loss gradient for the ``labels`` given, [n]: the *empirical* Fisher.

    It is another quantity than ``sampled`` (Kunstner et al. 2019), and costs as much.

    >>> network = nn.Linear(2, 2, bias=False).eval()
    >>> _ = nn.init.zeros_(network.weight)
    >>> empirical(network, torch.tensor([[3.0, 4.0]]), torch.tensor([1]))
    tensor([12.5000])
    """
    return _summed(
        network, x, check(network, x, labels, **options), 1,
        lambda logits, part: [residual(logits, labels[part])],
    )  # fmt: skip


def trace(network: nn.Module, x: Tensor, *, generator: Generator, **options) -> Estimate:
    """Tr(F): mean over the examples of ``sampled`` (price study, equation 2.3, Figures 3, 7).

    The error is over examples and labels together: that of the trace over the population that the
    examples are drawn from. ``options`` may hold ``draws``.

    >>> network = nn.Linear(2, 2, bias=False).eval()
    >>> _ = nn.init.zeros_(network.weight)
    >>> print(trace(network, torch.tensor([[3.0, 4.0], [0.0, 1.0]]), generator=Generator()))
    6.5 ± 6 (n = 2)
    """
    return Estimate.of(sampled(network, x, generator=generator, **options))


def exact(network: nn.Module, x: Tensor, **options) -> Tensor:
    """Each example's Fisher trace exactly, the expectation over all labels: [n].

    It takes C - 1 backward passes to the layers' outputs.

    >>> network = nn.Linear(2, 2, bias=False).eval()
    >>> _ = nn.init.zeros_(network.weight)
    >>> exact(network, torch.tensor([[3.0, 4.0]]))
    tensor([12.5000])
    """
    terms = check(network, x, **options)
    together = at_once(network, x, network(x[:2]).shape[1] - 1)
    return _summed(network, x, terms, together, lambda logits, _: _columns(logits))


def diagonal(
    network: nn.Module, x: Tensor, *, generator: Generator | None = None, draws: int = 1, **options
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
    mask, which, chunk = check(network, x, draws=draws, **options)
    copies = draws if generator else network(x[:2]).shape[1] - 1
    total = {n: torch.zeros_like(p.detach()) for n, p in parameters(network, which, mask).items()}
    for _, taken in passes(network, x, chunk, copies):
        cotangents = (
            _columns(taken.logits)
            if generator is None
            else [c / draws**0.5 for c in _sampled(taken.logits, generator, draws)]
        )
        for name, layer, delta in taken.deltas(cotangents):
            for kind, values in layer.diagonal(delta).items():
                full = f"{name}.{kind}".lstrip(".")
                if full in total:
                    total[full] += values / len(x)
    return masked(total, mask)
