"""Lanczos' process, and the spectrum that it sees: density, quantiles, ends, distances."""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch

from lib.metrics.curvature import Curvature, require


@dataclass(frozen=True)
class Spectrum:
    """Ritz values and their weights, a float64 array per probe; a probe's weights add up to 1.

    ``live`` is the dimension.

    >>> seen = Spectrum.of([4.0, -1.0, 0.0, -3.0])
    >>> seen.smallest, seen.largest, seen.trace, seen.negative_share
    (-3.0, 4.0, 0.0, 0.5)
    """

    ritz: tuple[np.ndarray, ...]
    weights: tuple[np.ndarray, ...]
    live: int

    @classmethod
    def of(cls, eigenvalues) -> "Spectrum":
        """The spectrum of a matrix whose eigenvalues [n] are all known."""
        values = np.sort(np.asarray(eigenvalues, dtype=float))
        return cls((values,), (np.full(len(values), 1 / len(values)),), len(values))

    def _points(self):
        values = np.concatenate(self.ritz)
        order = np.argsort(values, kind="stable")
        return values[order], np.concatenate(self.weights)[order] / len(self.ritz)

    def density(self, grid, width: float) -> np.ndarray:
        """The density on ``grid`` [g], each value a Gaussian of standard deviation ``width``."""
        require(width > 0, f"width is {width}; it must be above 0")
        values, weights = self._points()
        z = (np.asarray(grid, dtype=float)[:, None] - values) / width
        return (weights * np.exp(-(z**2) / 2)).sum(1) / (width * math.sqrt(2 * math.pi))

    def quantile(self, q):
        """The eigenvalue below which the share ``q`` (numbers in [0, 1]) of the density lies.

        At a Ritz value the density has half of its weight behind it, as for the nodes of a
        quadrature; linear in between.
        """
        require(np.all(np.abs(np.asarray(q) - 0.5) <= 0.5), f"q is {q}; it must lie in [0, 1]")
        values, weights = self._points()
        return np.interp(q, np.cumsum(weights) - weights / 2, values)

    @property
    def largest(self) -> float:
        """The largest Ritz value: a lower bound of the largest eigenvalue."""
        return float(max(values.max() for values in self.ritz))

    @property
    def smallest(self) -> float:
        """The smallest Ritz value: an upper bound of the smallest eigenvalue."""
        return float(min(values.min() for values in self.ritz))

    @property
    def negative_share(self) -> float:
        """The share of negative eigenvalues in the sum of all |eigenvalues|; 0 where all are zero.

        Weighting by size makes it blind to the many eigenvalues that are zero up to rounding, whose
        sign is an accident.
        """
        values, weights = self._points()
        sizes = weights * np.abs(values)
        return float(sizes[values < 0].sum() / sizes.sum()) if sizes.sum() > 0 else 0.0

    @property
    def trace(self) -> float:
        """The dimension times the mean of the density: Tr(H) as these probes see it."""
        pairs = zip(self.ritz, self.weights, strict=True)
        return self.live * float(np.mean([v @ w for v, w in pairs]))


def lanczos(
    matrix: Curvature, generator: torch.Generator, steps: int
) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Lanczos' process from a Rademacher vector, with full reorthogonalisation: the Ritz values.

    At every fifth product and the last: the values, rising, their weights in the start vector, and
    bounds of their errors. The last is that of ``steps``, or where the space is exhausted: the Ritz
    values then are eigenvalues. [steps, live] numbers are kept.
    """
    from scipy.linalg import eigh_tridiagonal

    shape = (min(steps, matrix.size), matrix.size)
    basis = torch.empty(shape, dtype=matrix.dtype, device=matrix.device)
    start = matrix.signs(generator)
    basis[0] = start / start.norm()
    diagonal, beside, scale, done = list[float](), list[float](), 0.0, False
    while not done:
        j = len(diagonal)
        w = matrix @ basis[j]
        diagonal.append((w @ basis[j]).item())
        w.sub_(basis[j], alpha=diagonal[-1])
        if j:
            w.sub_(basis[j - 1], alpha=beside[-1])
        known = basis[: j + 1]
        torch.addmv(w, known.t(), torch.mv(known, w), alpha=-1, out=w)
        beside.append(w.norm().item())
        require(
            math.isfinite(beside[-1]),
            "a product with the Hessian is not finite: the loss overflows on these examples",
        )
        scale = max(scale, abs(diagonal[-1]), beside[-1])
        done = j + 1 == len(basis) or beside[-1] <= 20 * torch.finfo(basis.dtype).eps * scale
        if not done:
            torch.div(w, beside[-1], out=basis[j + 1])
        if done or (j + 1) % 5 == 0:
            values, vectors = eigh_tridiagonal(np.array(diagonal), np.array(beside[:-1]))
            yield values, vectors[0] ** 2, np.abs(beside[-1] * vectors[-1])
