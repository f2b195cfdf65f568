"""The Hessian of the mean cross-entropy in the live weights: trace, spectrum, ends, all of it.

All rest on the operator ``Curvature``, and take its arguments as ``options`` (``mask``, ``which``,
``of``, ``chunk``); ``of="fisher"`` takes the Fisher matrix instead. Errors: see
``lib.metrics.contract``.
"""

import copy

import numpy as np
import torch
from torch import Generator, Tensor, nn

from lib.metrics import fisher
from lib.metrics.contract import NORMS, Named, check_labels, check_named, require, shares
from lib.metrics.curvature import GRAPH_BYTES, Curvature
from lib.metrics.estimate import Estimate, MeasureError
from lib.metrics.lanczos import Spectrum, lanczos
from lib.models import networks

DENSE_LIMIT = 6000  # live weights up to which ``exact`` makes the whole matrix
NEAR_ZERO = 1e-3  # of the largest |eigenvalue|: what is smaller is known with that accuracy
_LINEAR_IN_EACH_WEIGHT = {
    nn.Linear, nn.Conv2d, nn.ReLU, nn.MaxPool2d, nn.AvgPool2d, nn.AdaptiveAvgPool2d, nn.Flatten,
    nn.Identity, nn.Dropout, nn.BatchNorm1d, nn.BatchNorm2d, nn.Sequential, nn.ModuleList,
    networks.MLP, networks.LeNet5, networks.Shortcut, networks.Block, networks.ResNet,
    networks.VGG,
}  # fmt: skip


def identity_holds(network: nn.Module) -> tuple[bool, str]:
    """Whether Tr(H) = Tr(F) exactly, for any labels and mask; and if not, why.

    It holds where the logits are piecewise linear in each single weight: then the diagonal of their
    second derivatives vanishes almost everywhere, and of the Hessian's diagonal the Gauss-Newton
    part alone is left. A kind of module that is not known to keep this counts as breaking it.

    >>> identity_holds(nn.Sequential(nn.Linear(2, 2), nn.Tanh()))
    (False, "'1' is a Tanh, not known to be piecewise linear in each weight")
    """
    for name, module in network.named_modules():
        kind, norm = type(module), isinstance(module, NORMS)
        reasons = {
            "is a {}, not known to be piecewise linear in each weight": (
                kind not in _LINEAR_IN_EACH_WEIGHT
            ),
            "({}) is in train mode": module.training and (norm or isinstance(module, nn.Dropout)),
            "({}) keeps no running statistics, so that it is never in eval mode": (
                norm and module.running_mean is None
            ),
            "has forward hooks, which may change what it computes": (
                module._forward_hooks or module._forward_pre_hooks
            ),
        }
        said = [reason.format(kind.__name__) for reason, holds in reasons.items() if holds]
        if said:
            return False, f"{name or '(the network itself)'!r} {said[0]}"
    return (False, "two layers share a parameter") if shares(network) else (True, "")


def with_batch_statistics(network: nn.Module) -> nn.Module:
    """A copy whose BatchNorm normalises by the examples that pass together, as in train mode.

    It counts as in eval mode. Its Hessian is the one that a tool sees which leaves the network in
    train mode: that of a loss in which examples depend on one another, another one for each batch.
    Nothing in the copy changes as it is used. Raises ``MeasureError`` where there is no BatchNorm.

    >>> with_batch_statistics(nn.Sequential(nn.BatchNorm1d(2)))[0].running_mean is None
    True
    """
    copied = copy.deepcopy(network).eval()
    layers = [module for module in copied.modules() if isinstance(module, NORMS)]
    require(
        layers,
        "the network has no BatchNorm layer: its Hessian is the same in train and in eval mode",
    )
    for layer in layers:
        layer.running_mean = layer.running_var = None
    return copied


def hvp(network: nn.Module, x: Tensor, labels: Tensor | None, vector: Named, **options) -> Named:
    """H v for ``vector`` by parameter name (what it does not name: zero); zeros where none lives.

    For many products with one matrix, make a ``Curvature`` and keep it.

    >>> network = nn.Linear(1, 2, bias=False).eval()
    >>> _, v = nn.init.zeros_(network.weight), {"weight": torch.tensor([[1.0], [0.0]])}
    >>> hvp(network, torch.tensor([[2.0]]), torch.tensor([0]), v)["weight"].flatten()
    tensor([ 1., -1.])
    """
    matrix = Curvature(network, x, labels, **options)
    check_named(network, vector, "vector")
    return matrix.named(matrix @ matrix.flat(vector))


def hutchinson(
    network: nn.Module,
    x: Tensor,
    labels: Tensor | None,
    *,
    generator: Generator,
    probes: int = 30,
    **options,
) -> Estimate:
    """Tr(H) as the mean of vᵀHv over Rademacher ``probes`` v (Hutchinson 1990).

    The error is over probes, for these examples.

    >>> network = nn.Linear(1, 2).eval()
    >>> x, y, generator = torch.ones(4, 1), torch.zeros(4).long(), Generator().manual_seed(0)
    >>> hutchinson(network, x, y, generator=generator, probes=9).samples
    9
    """
    matrix = Curvature(network, x, labels, probes=probes, **options)
    draws = [matrix.signs(generator) for _ in range(probes)]
    return Estimate.of(torch.stack([(v @ (matrix @ v)).cpu() for v in draws]))


def trace(
    network: nn.Module,
    x: Tensor,
    labels: Tensor,
    *,
    generator: Generator | None = None,
    probes: int = 30,
    **options,
) -> Estimate:
    """Tr(H) of the mean loss: as the exact Tr(F) where ``identity_holds``, else by Hutchinson.

    Hutchinson needs a ``generator``; its error is over probes, the Fisher's over examples. Price
    study, Table 2.

    >>> network = nn.Linear(2, 2, bias=False).eval()
    >>> _ = nn.init.zeros_(network.weight)
    >>> trace(network, torch.tensor([[3.0, 4.0]]), torch.tensor([1])).value
    12.5
    """
    holds, reason = identity_holds(network)
    if holds:
        check_labels(labels, len(x))
        return Estimate.of(fisher.exact(network, x, **options))
    if generator is None:
        raise MeasureError(f"Hutchinson's estimator draws probes: give a generator; {reason}")
    return hutchinson(network, x, labels, generator=generator, probes=probes, **options)


def spectrum(
    network: nn.Module,
    x: Tensor,
    labels: Tensor | None,
    *,
    generator: Generator,
    steps: int = 40,
    probes: int = 1,
    **options,
) -> Spectrum:
    """The density of eigenvalues in the live subspace by stochastic Lanczos quadrature.

    Price study, Figure 4; Ghorbani et al. 2019. Each of the Rademacher ``probes`` takes ``steps``
    products and keeps ``steps`` vectors of the live size. A probe whose space is exhausted earlier
    has fewer Ritz values, which then are eigenvalues.

    >>> network = nn.Linear(1, 2, bias=False).eval()
    >>> _ = nn.init.zeros_(network.weight)
    >>> x, y, generator = torch.tensor([[2.0]]), torch.tensor([0]), Generator().manual_seed(0)
    >>> spectrum(network, x, y, generator=generator).largest <= 2
    True
    """
    matrix = Curvature(network, x, labels, steps=steps, probes=probes, **options)
    last = [list(lanczos(matrix, generator, steps))[-1] for _ in range(probes)]
    values, weights, _ = zip(*last, strict=True)
    return Spectrum(values, weights, matrix.size)


def extreme_eigenvalues(
    network: nn.Module,
    x: Tensor,
    labels: Tensor | None,
    *,
    generator: Generator,
    tolerance: float = 1e-2,
    steps: int = 300,
    **options,
) -> tuple[float, float]:
    """(smallest, largest) eigenvalue in the live subspace by Lanczos' process from one vector.

    By the bounds of the residuals each lies within ``tolerance`` of its own size of an eigenvalue;
    one smaller than ``NEAR_ZERO`` times the other, within ``tolerance`` of that: a Hessian without
    negative eigenvalues ends at zero. Raises ``MeasureError`` where ``steps`` do not suffice.

    >>> network = nn.Linear(1, 2, bias=False).eval()
    >>> _ = nn.init.zeros_(network.weight)
    >>> x, y, generator = torch.tensor([[2.0]]), torch.tensor([0]), Generator().manual_seed(1)
    >>> len(extreme_eigenvalues(network, x, y, generator=generator))
    2
    """
    require(tolerance > 0, f"tolerance is {tolerance}; it must be above 0")
    matrix = Curvature(network, x, labels, steps=steps, **options)
    for values, _, bounds in lanczos(matrix, generator, steps):
        low, high = float(values[0]), float(values[-1])
        sizes = np.maximum(np.abs([low, high]), NEAR_ZERO * max(abs(low), abs(high)))
        if (bounds[[0, -1]] <= tolerance * sizes).all():
            return low, high
    raise MeasureError(
        f"the two ends of the spectrum are not found within {tolerance:g} after {len(values)} "
        "steps; give more steps"
    )


def exact(network: nn.Module, x: Tensor, labels: Tensor | None, **options) -> Tensor:
    """The whole matrix over the live weights, [live, live], symmetric, in the network's dtype.

    Raises ``MeasureError`` above ``DENSE_LIMIT`` live weights.

    >>> network = nn.Linear(1, 2, bias=False).eval()
    >>> _ = nn.init.zeros_(network.weight)
    >>> exact(network, torch.tensor([[2.0]]), torch.tensor([0]))
    tensor([[ 1., -1.],
            [-1.,  1.]])
    """
    matrix = Curvature(network, x, labels, **options)
    require(
        matrix.size <= DENSE_LIMIT,
        f"{matrix.size} weights are live; the whole matrix is made for at most {DENSE_LIMIT}: use "
        "spectrum",
    )
    step = max(1, min(16, GRAPH_BYTES // (matrix.chunk * matrix.bytes_each)))
    whole = torch.cat([matrix.rows(i, i + step) for i in range(0, matrix.size, step)])
    return (whole + whole.t()) / 2
