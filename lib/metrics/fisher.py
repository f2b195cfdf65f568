"""The Fisher information: its trace with sampled labels or exactly, by example, class and layer, and its diagonal.

Always the true Fisher, F = E_x E_{y ~ p(y|x)} [g gᵀ] with g the gradient of log p(y|x) (price study, equation 2.3): the labels come
from the network itself. What takes them from the data is called ``empirical``. Arguments and errors: see ``lib.metrics.gradients``.
"""

import torch

from lib.metrics.estimate import Estimate
from lib.metrics.gradients import (
    at_once,
    check,
    flushed,
    parameters,
    passes,
    per_example,
    residual,
    squares,
)
from lib.metrics.layers import MeasureError, Named

__all__ = [
    "MeasureError",
    "by_class",
    "by_layer",
    "columns",
    "diagonal",
    "empirical",
    "exact",
    "sampled",
    "trace",
]


def sample_labels(logits: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """A label for each example from the network's own distribution, int64 [n], drawn on the CPU; any label where its logits overflow."""
    p = torch.softmax(logits.detach().double(), -1).cpu().nan_to_num(1.0)
    return torch.multinomial(p, 1, generator=generator).squeeze(1).to(logits.device)


def columns(logits: torch.Tensor) -> list[torch.Tensor]:
    """C - 1 gradients [n, C] in the logits whose outer products add up to diag(p) - p pᵀ, the Fisher matrix of the logits.

    Its Cholesky factor: with q_k = Σ_{i>k} p_i, S_kk = √(p_k q_k / q_{k-1}) and S_jk = -(p_j / q_k) S_kk for j > k.
    """
    p = torch.softmax(logits.detach(), -1)
    beyond = (
        p.flip(1).cumsum(1).flip(1)
    )  # beyond[:, k] = q_{k-1}, summed from the end: no digits are lost where p_k is near 1
    found = []
    for k in range(p.shape[1] - 1):
        q = beyond[:, k + 1]
        pivot = (p[:, k] * q / beyond[:, k].clamp_min(torch.finfo(p.dtype).tiny)).sqrt()
        column = torch.zeros_like(p)
        column[:, k] = pivot
        column[:, k + 1 :] = -p[:, k + 1 :] * (
            pivot / q.clamp_min(torch.finfo(p.dtype).tiny)
        ).unsqueeze(1)
        found.append(flushed(column))
    return found


def sampled(
    network, x, *, generator: torch.Generator, mask=None, which="all", draws: int = 1, chunk=None
) -> torch.Tensor:
    """Each example's squared gradient norm for ``draws`` labels sampled from the network, their mean: [n].

    The labels are sampled within the same forward pass; each draw costs a backward pass to the layers' outputs.
    """
    check(network, x, None, mask, which)
    if draws < 1:
        raise MeasureError(f"draws is {draws}; it must be at least 1")
    found = []
    for _, taken in passes(network, x, chunk, draws, mask):
        labels = [sample_labels(taken.logits, generator) for _ in range(draws)]
        found.append(
            sum(squares(taken, [residual(taken.logits, y) for y in labels], mask, which).values())
            / draws
        )
    return torch.cat(found)


def trace(
    network, x, *, generator: torch.Generator, mask=None, which="all", draws: int = 1, chunk=None
) -> Estimate:
    """Tr(F): mean over the examples of the squared gradient norm at sampled labels (price study, equation 2.3, Figures 3, 7).

    The error is over examples and labels together: that of the trace over the population that the examples are drawn from.
    """
    return Estimate.of(
        sampled(network, x, generator=generator, mask=mask, which=which, draws=draws, chunk=chunk)
    )


def exact(network, x, *, mask=None, which="all", chunk=None) -> torch.Tensor:
    """Each example's Fisher trace exactly, the expectation over all labels: [n]. C - 1 backward passes to the layers' outputs."""
    return sum(_exact(network, x, mask, which, chunk).values())


def _exact(network, x, mask, which, chunk):
    check(network, x, None, mask, which)
    classes = network(x[:1]).shape[1]
    found = {}
    together = at_once(network, x, classes - 1)
    for _, taken in passes(network, x, chunk, together, mask):
        for name, values in squares(taken, columns(taken.logits), mask, which, together).items():
            found.setdefault(name, []).append(values)
    return {name: torch.cat(pieces) for name, pieces in found.items()}


def by_layer(network, x, *, mask=None, which="all", chunk=None) -> dict[str, Estimate]:
    """The exact trace by layer; the errors are over examples. The layers add up to the whole."""
    layers = {}
    for name, values in _exact(network, x, mask, which, chunk).items():
        layer = name.rpartition(".")[0]
        layers[layer] = layers.get(layer, 0.0) + values
    return {layer: Estimate.of(values) for layer, values in layers.items()}


def by_class(values: torch.Tensor, labels: torch.Tensor, classes: int) -> dict[int, Estimate]:
    """The mean of per-example ``values`` [n] (of ``exact`` or ``sampled``) over the examples of each class that has any."""
    return {c: Estimate.of(values[labels == c]) for c in range(classes) if (labels == c).any()}


def empirical(network, x, labels, *, mask=None, which="all", chunk=None) -> Estimate:
    """Trace of the *empirical* Fisher: mean squared gradient norm at the given labels. Not the Fisher (Kunstner et al. 2019)."""
    return Estimate.of(per_example(network, x, labels, mask=mask, which=which, chunk=chunk)[0])


def diagonal(
    network,
    x,
    *,
    generator: torch.Generator | None = None,
    mask=None,
    which="all",
    draws: int = 1,
    chunk=None,
) -> Named:
    """F's diagonal by parameter name, a mean over the examples: what Fisher pruning scores weights by (Theis et al. 2018).

    With a ``generator`` from ``draws`` sampled labels an example, without one exactly (C - 1 backward passes). Zero where the
    mask has no weight.
    """
    check(network, x, None, mask, which)
    counted = parameters(network, which, mask)
    copies = draws if generator else network(x[:1]).shape[1] - 1
    total = {name: torch.zeros_like(value, requires_grad=False) for name, value in counted.items()}
    for _, taken in passes(network, x, chunk, copies, mask):
        if generator:
            cotangents = [
                residual(taken.logits, sample_labels(taken.logits, generator)) / draws**0.5
                for _ in range(draws)
            ]
        else:
            cotangents = columns(taken.logits)
        for name, layer, delta in taken.deltas(cotangents):
            for kind, values in layer.diagonal(delta, which).items():
                full = f"{name}.{kind}" if name else kind
                if full in total:
                    total[full] += values / len(x)
    return {
        name: value * mask[name] if mask and name in mask else value
        for name, value in total.items()
    }
