"""Lanczos' process on the Hessian, and the spectrum that it sees: density, quantiles, ends, and how two of them differ."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch

from lib.metrics.curvature import Curvature
from lib.metrics.layers import MeasureError


@dataclass(frozen=True)
class Spectrum:
    """Ritz values and their weights, a float64 array per probe; the weights of a probe add up to 1. ``live`` is the dimension."""

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
        """The density of eigenvalues on ``grid`` [g], each Ritz value broadened to a Gaussian of standard deviation ``width``."""
        if not width > 0:
            raise MeasureError(f"width is {width}; it must be above 0")
        values, weights = self._points()
        z = (np.asarray(grid, dtype=float)[:, None] - values) / width
        return (weights * np.exp(-(z**2) / 2)).sum(1) / (width * math.sqrt(2 * math.pi))

    def quantile(self, q):
        """The eigenvalue below which the share ``q`` (a number or an array, in [0, 1]) of the density lies.

        At a Ritz value the density has half of its weight behind it, as for the nodes of a quadrature; linear in between.
        """
        if not ((np.asarray(q) >= 0) & (np.asarray(q) <= 1)).all():
            raise MeasureError(f"q is {q}; it must lie in [0, 1]")
        values, weights = self._points()
        return np.interp(q, np.cumsum(weights) - weights / 2, values)

    @property
    def largest(self) -> float:
        """The largest Ritz value: a lower bound of the largest eigenvalue, and near it after some tens of steps."""
        return max(float(values.max()) for values in self.ritz)

    @property
    def smallest(self) -> float:
        """The smallest Ritz value: an upper bound of the smallest eigenvalue."""
        return min(float(values.min()) for values in self.ritz)

    @property
    def negative_share(self) -> float:
        """The share of negative eigenvalues in the sum of all |eigenvalues|, in [0, 1]; 0 for a matrix of zeros.

        Weighting by size makes it blind to the many eigenvalues that are zero up to rounding, whose sign is an accident.
        """
        values, weights = self._points()
        sizes = weights * np.abs(values)
        return float(sizes[values < 0].sum() / sizes.sum()) if sizes.sum() > 0 else 0.0

    def distance(self, other: "Spectrum") -> float:
        """The Wasserstein-1 distance of the two densities, in the unit of an eigenvalue.

        Between all eigenvalues of two matrices of one size it is the mean difference of the k-th smallest of both.
        """
        from scipy.stats import wasserstein_distance

        (values, weights), (others, their_weights) = self._points(), other._points()
        return float(wasserstein_distance(values, others, weights, their_weights))

    @property
    def trace(self) -> float:
        """The dimension times the mean of the density: Tr(H) as these probes see it."""
        return self.live * float(
            np.mean(
                [values @ weights for values, weights in zip(self.ritz, self.weights, strict=True)]
            )
        )


class Lanczos:
    """Lanczos' process from a start vector, with full reorthogonalisation: the whole basis is kept, [steps, size].

    ``done`` after so many steps, or earlier where the space is ``exhausted``: then the Ritz values are eigenvalues.
    """

    def __init__(self, matrix: Curvature, start: torch.Tensor, steps: int):
        self.matrix, self.scale = matrix, 0.0
        self.basis = torch.empty(
            min(steps, matrix.size), matrix.size, dtype=matrix.dtype, device=matrix.device
        )
        self.basis[0] = start / start.norm()
        self.diagonal, self.beside, self.done, self.exhausted = [], [], False, False

    def step(self):
        """One product; afterwards ``done`` says whether the space is exhausted."""
        j, basis = len(self.diagonal), self.basis
        w = self.matrix @ basis[j]
        self.diagonal.append((w @ basis[j]).item())
        w.sub_(basis[j], alpha=self.diagonal[-1])
        if j:
            w.sub_(basis[j - 1], alpha=self.beside[-1])
        known = basis[: j + 1]
        torch.addmv(w, known.t(), torch.mv(known, w), alpha=-1, out=w)
        length = w.norm().item()
        if not math.isfinite(length):
            raise MeasureError(
                "a product with the Hessian is not finite: the loss overflows on these examples"
            )
        self.scale = max(self.scale, abs(self.diagonal[-1]), length)
        self.exhausted = (
            j + 1 == self.matrix.size or length <= 20 * torch.finfo(basis.dtype).eps * self.scale
        )
        self.done = self.exhausted or j + 1 == len(basis)
        self.beside.append(length)
        if not self.done:
            torch.div(w, length, out=basis[j + 1])

    def ritz(self):
        """Ritz values (rising), their weights in the start vector, and bounds of their errors."""
        from scipy.linalg import eigh_tridiagonal

        values, vectors = eigh_tridiagonal(np.array(self.diagonal), np.array(self.beside[:-1]))
        return values, vectors[0] ** 2, np.abs(self.beside[-1] * vectors[-1])


def until(matrix: Curvature, generator: torch.Generator, steps: int, found: Callable, failure: str):
    """Take up to ``steps`` Lanczos steps until ``found(Ritz values, bounds of their errors)`` is not None, and return it.

    It is asked at every fifth step and the last, with the values rising. Raises ``MeasureError`` with ``failure`` where it never answers.
    """
    process = Lanczos(matrix, matrix.signs(generator), steps)
    while True:
        process.step()
        taken = len(process.diagonal)
        if process.done or taken % 5 == 0:
            values, _, errors = process.ritz()
            result = found(values, errors)
            if result is not None:
                return result
        if process.done:
            raise MeasureError(f"{failure} after {taken} steps; give more steps")
