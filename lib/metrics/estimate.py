"""What an estimator returns, and what it raises where there is nothing to return."""

import math
from dataclasses import dataclass

import torch


class MeasureError(ValueError):
    """What cannot be measured; the message names what is wrong and what is allowed."""


def require(holds: object, message: str) -> None:
    """Raise ``MeasureError`` with the ``message`` unless it ``holds``."""
    if not holds:
        raise MeasureError(message)


@dataclass(frozen=True)
class Estimate:
    """``value`` with its standard error ``error`` from ``samples`` samples.

    What was sampled, the estimator's docstring says.

    >>> print(Estimate.of(torch.tensor([1.0, 3.0])))
    2 ± 1 (n = 2)
    """

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
