"""What a stochastic estimator returns: a value, its standard error, and how many samples stand behind it."""

import math
from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class Estimate:
    """``value`` with its standard error ``error`` from ``samples`` samples; what was sampled, the estimator's docstring says."""

    value: float
    error: float
    samples: int

    @classmethod
    def of(cls, values: torch.Tensor) -> "Estimate":
        """The mean of independent ``values`` [n]; with one value the error is infinite."""
        values = values.detach().double().flatten()
        error = values.std().item() / math.sqrt(len(values)) if len(values) > 1 else math.inf
        return cls(values.mean().item(), error, len(values))

    def __str__(self):
        return f"{self.value:.4g} ± {self.error:.2g} (n = {self.samples})"
