"""The Hessian of the mean cross-entropy in the live weights: products, trace, spectrum, largest eigenvalues, the whole matrix.

All rest on the operator of ``lib.metrics.curvature``; ``of="fisher"`` takes the Fisher matrix instead. Arguments (``mask``,
``which``, ``chunk``) and errors as in ``lib.metrics.gradients``.
"""

import copy
import time

import numpy as np
import torch
from torch import nn

from lib.metrics import fisher
from lib.metrics.curvature import GRAPH_BYTES, Curvature
from lib.metrics.estimate import Estimate
from lib.metrics.gradients import check
from lib.metrics.lanczos import Lanczos, Spectrum, until
from lib.metrics.layers import MeasureError, Named
from lib.models import networks

__all__ = [
    "Curvature", "MeasureError", "Spectrum",
    "exact", "exact_seconds", "extreme_eigenvalues", "hutchinson", "hvp", "identity_holds", "largest_eigenvalues", "spectrum", "trace",
    "with_batch_statistics",
]  # fmt: skip

DENSE_LIMIT = 6000  # live weights up to which ``exact`` makes the whole matrix
_LINEAR_IN_EACH_WEIGHT = {
    nn.Linear, nn.Conv2d, nn.ReLU, nn.MaxPool2d, nn.AvgPool2d, nn.AdaptiveAvgPool2d, nn.Flatten, nn.Identity,
    nn.Dropout, nn.BatchNorm1d, nn.BatchNorm2d, nn.Sequential, nn.ModuleList,
    networks.MLP, networks.LeNet5, networks.BasicBlock, networks.Bottleneck,
    networks.ResNet, networks.VGG,
}  # fmt: skip


def identity_holds(network: nn.Module) -> tuple[bool, str]:
    """Whether Tr(H) = Tr(F) exactly, for any labels and mask; and if not, why.

    It holds where the logits are piecewise linear in each single weight: then the diagonal of their second derivatives vanishes
    almost everywhere, and of the Hessian's diagonal the Gauss-Newton part alone is left. A kind of module that is not known
    to keep this counts as breaking it.
    """
    for name, module in network.named_modules():
        kind, place = type(module), name or "(the network itself)"
        if kind not in _LINEAR_IN_EACH_WEIGHT:
            return (
                False,
                f"{place!r} is a {kind.__name__}, not known to be piecewise linear in each weight",
            )
        if module.training and isinstance(module, (nn.modules.batchnorm._BatchNorm, nn.Dropout)):
            return False, f"{place!r} ({kind.__name__}) is in train mode"
        if isinstance(module, nn.modules.batchnorm._BatchNorm) and module.running_mean is None:
            return (
                False,
                f"{place!r} ({kind.__name__}) keeps no running statistics, so that it is never in eval mode",
            )
        if module._forward_hooks or module._forward_pre_hooks:
            return False, f"{place!r} has forward hooks, which may change what it computes"
    if len(list(network.parameters())) < len(
        list(network.named_parameters(remove_duplicate=False))
    ):
        return False, "two layers share a parameter"
    return True, ""


def with_batch_statistics(network: nn.Module) -> nn.Module:
    """A copy whose BatchNorm layers normalise by the examples that pass together, as in train mode, and which counts as in eval mode.

    Its Hessian is the one that a tool sees which leaves the network in train mode: that of a loss in which examples depend on one
    another, another one for each batch. Nothing in the copy changes as it is used. Raises ``MeasureError`` where there is no BatchNorm.
    """
    copied = copy.deepcopy(network).eval()
    layers = [
        module for module in copied.modules() if isinstance(module, nn.modules.batchnorm._BatchNorm)
    ]
    if not layers:
        raise MeasureError(
            "the network has no BatchNorm layer: its Hessian is the same in train and in eval mode"
        )
    for layer in layers:
        layer.running_mean = layer.running_var = None
    return copied


def hvp(
    network, x, labels, vector: Named, *, mask=None, which="all", of="hessian", chunk=None
) -> Named:
    """H v for ``vector`` by parameter name (a parameter that it does not name: zero), with zeros where no weight lives.

    For many products with one matrix, make a ``Curvature`` and keep it.
    """
    matrix = Curvature(network, x, labels, mask=mask, which=which, of=of, chunk=chunk)
    for name, value in vector.items():
        if name in matrix.parameters and value.shape != matrix.parameters[name].shape:
            raise MeasureError(
                f"the vector of {name!r} has shape {tuple(value.shape)}; it must be {tuple(matrix.parameters[name].shape)}"
            )
        if name not in matrix.parameters and name not in dict(network.named_parameters()):
            raise MeasureError(f"the vector names {name!r}, and the network has no such parameter")
    return matrix.named(matrix @ matrix.flat(vector))


def hutchinson(
    network,
    x,
    labels,
    *,
    generator: torch.Generator,
    probes=30,
    mask=None,
    which="all",
    of="hessian",
    chunk=None,
) -> Estimate:
    """Tr(H) as the mean of vᵀHv over Rademacher ``probes`` v (Hutchinson 1990); the error is over probes, for these examples."""
    if probes < 1:
        raise MeasureError(f"probes is {probes}; it must be at least 1")
    matrix = Curvature(network, x, labels, mask=mask, which=which, of=of, chunk=chunk)
    draws = [matrix.signs(generator) for _ in range(probes)]
    return Estimate.of(torch.stack([(v @ (matrix @ v)).cpu() for v in draws]))


def trace(
    network,
    x,
    labels,
    *,
    method="auto",
    generator=None,
    probes=30,
    mask=None,
    which="all",
    chunk=None,
) -> Estimate:
    """Tr(H) of the mean loss: exactly, as the Fisher trace, where the two are the same (``identity_holds``), else by Hutchinson.

    ``method`` may insist on ``"fisher"`` or ``"hutchinson"`` (needs a ``generator``). The Fisher's error is over examples,
    Hutchinson's over probes. Price study, Table 2.
    """
    if method not in ("auto", "fisher", "hutchinson"):
        raise MeasureError(f"method is {method!r}; allowed are auto, fisher, hutchinson")
    holds, reason = identity_holds(network)
    if method == "fisher" and not holds:
        raise MeasureError(f"Tr(H) is not Tr(F) here: {reason}; use method='hutchinson'")
    if holds and method != "hutchinson":
        check(network, x, labels, mask, which)
        return Estimate.of(fisher.exact(network, x, mask=mask, which=which, chunk=chunk))
    if generator is None:
        raise MeasureError(
            "Hutchinson's estimator draws probes: give a generator"
            + (f" ({reason})" if reason else "")
        )
    return hutchinson(
        network, x, labels, generator=generator, probes=probes, mask=mask, which=which, chunk=chunk
    )


def spectrum(
    network,
    x,
    labels,
    *,
    generator: torch.Generator,
    steps=40,
    probes=1,
    mask=None,
    which="all",
    of="hessian",
    chunk=None,
) -> Spectrum:
    """The density of eigenvalues in the live subspace by stochastic Lanczos quadrature (price study, Figure 4; Ghorbani et al. 2019).

    Each of the Rademacher ``probes`` takes ``steps`` products and keeps ``steps`` vectors of the live size. A probe whose space is
    exhausted earlier has fewer Ritz values, which then are eigenvalues.
    """
    if steps < 1 or probes < 1:
        raise MeasureError(f"steps and probes are {steps} and {probes}; both must be at least 1")
    matrix = Curvature(network, x, labels, mask=mask, which=which, of=of, chunk=chunk)
    found = []
    for _ in range(probes):
        process = Lanczos(matrix, matrix.signs(generator), steps)
        while not process.done:
            process.step()
        found.append(process.ritz()[:2])
    return Spectrum(
        tuple(values for values, _ in found), tuple(weights for _, weights in found), matrix.size
    )


def largest_eigenvalues(
    network,
    x,
    labels,
    *,
    generator: torch.Generator,
    count=1,
    tolerance=1e-3,
    steps=200,
    mask=None,
    which="all",
    of="hessian",
    chunk=None,
) -> np.ndarray:
    """The ``count`` largest eigenvalues, falling, each within ``tolerance`` of itself; distinct ones where some are equal.

    Raises ``MeasureError`` where ``steps`` products do not suffice.
    """
    matrix = Curvature(network, x, labels, mask=mask, which=which, of=of, chunk=chunk)
    if not 1 <= count <= min(steps, matrix.size):
        raise MeasureError(
            f"count is {count}; with {matrix.size} live weights and {steps} steps it lies in 1 to {min(steps, matrix.size)}"
        )

    def found(values, errors):
        values, errors = values[::-1][:count], errors[::-1][:count]
        return (
            values.copy()
            if len(values) == count and (errors <= tolerance * np.abs(values)).all()
            else None
        )

    return until(
        matrix, generator, steps, found, f"{count} eigenvalues are not found within {tolerance:g}"
    )


NEAR_ZERO = 1e-3  # of the largest |eigenvalue|: what lies below it is told apart from zero only with that accuracy


def extreme_eigenvalues(
    network,
    x,
    labels,
    *,
    generator: torch.Generator,
    tolerance=1e-2,
    steps=300,
    mask=None,
    which="all",
    of="hessian",
    chunk=None,
) -> tuple[float, float]:
    """(smallest, largest) eigenvalue in the live subspace by Lanczos' process from one Rademacher vector.

    By the bounds of the residuals each lies within ``tolerance`` of its own size of an eigenvalue; one smaller than ``NEAR_ZERO`` times the
    other, within ``tolerance`` of that: a Hessian without negative eigenvalues ends at zero. Raises ``MeasureError`` where ``steps``
    products do not suffice.
    """
    if not tolerance > 0 or steps < 1:
        raise MeasureError(
            f"tolerance and steps are {tolerance} and {steps}; the one must be above 0, the other at least 1"
        )
    matrix = Curvature(network, x, labels, mask=mask, which=which, of=of, chunk=chunk)

    def found(values, errors):
        ends, bounds = values[[0, -1]], errors[[0, -1]]
        sizes = np.maximum(np.abs(ends), NEAR_ZERO * np.abs(ends).max())
        return (float(ends[0]), float(ends[1])) if (bounds <= tolerance * sizes).all() else None

    return until(
        matrix,
        generator,
        steps,
        found,
        f"the two ends of the spectrum are not found within {tolerance:g}",
    )


def exact(network, x, labels, *, mask=None, which="all", of="hessian", chunk=None) -> torch.Tensor:
    """The whole matrix over the live weights, [live, live], symmetric; in the dtype of the network.

    Raises ``MeasureError`` above ``DENSE_LIMIT`` live weights. ``exact_seconds`` says beforehand about how long it takes.
    """
    matrix, step = _whole(network, x, labels, mask, which, of, chunk)
    whole = torch.cat(
        [
            matrix.rows(start, min(start + step, matrix.size))
            for start in range(0, matrix.size, step)
        ]
    )
    return (whole + whole.t()) / 2


def exact_seconds(network, x, labels, *, mask=None, which="all", of="hessian", chunk=None) -> float:
    """About how long ``exact`` with the same arguments would take here, in seconds: its second batch of rows, timed."""
    matrix, step = _whole(network, x, labels, mask, which, of, chunk)
    matrix.rows(0, min(step, matrix.size))  # the first one builds the graphs
    begin = time.perf_counter()
    matrix.rows(0, min(step, matrix.size)).sum().item()  # a number from a GPU waits for it
    return (time.perf_counter() - begin) * matrix.size / min(step, matrix.size)


def _whole(network, x, labels, mask, which, of, chunk):
    """The operator, and how many rows of it to take at a time."""
    matrix = Curvature(network, x, labels, mask=mask, which=which, of=of, chunk=chunk)
    if matrix.size > DENSE_LIMIT:
        raise MeasureError(
            f"{matrix.size} weights are live; the whole matrix is made for at most {DENSE_LIMIT}: use spectrum"
        )
    return matrix, max(1, min(16, GRAPH_BYTES // (matrix.chunk * matrix.bytes_each)))
