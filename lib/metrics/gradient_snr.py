"""Signal and noise of minibatch gradients by layer: does a step follow the mean, or its batch?

Of the gradients g_b of all minibatches, a layer's signal is the norm of their mean over b, its
noise the norm of their standard deviation weight by weight, and its signal-to-noise ratio signal /
noise (Shwartz-Ziv & Tishby 2017; price study, workshop Figure 11 and appendix C). Two running
numbers per weight are all that is held: no list of gradients.
"""

import math
from dataclasses import dataclass

import torch
from torch import Generator, Tensor, nn

from lib.metrics.contract import check, leaves, require
from lib.metrics.gradients import mean_gradient


@dataclass(frozen=True)
class Signal:
    """One layer: norms of the mean and of the standard deviation of its gradient over batches."""

    mean: float
    std: float
    batches: int

    @property
    def snr(self) -> float:
        """mean / std; infinite or NaN where the batches do not differ at all."""
        return self.mean / self.std if self.std else self.mean * math.inf


def by_layer(
    network: nn.Module,
    x: Tensor,
    labels: Tensor,
    batch_size: int,
    *,
    generator: Generator | None = None,
    **options,
) -> dict[str, Signal]:
    """The ``Signal`` of each layer, in order of depth, over minibatches of ``batch_size`` of ``x``.

    The gradient is that of a minibatch's mean cross-entropy. The batches are disjoint and all of
    one size: what is left over at the end goes unused. ``generator`` deals the examples out to
    them; without one they follow the order of ``x``. A layer holds its weights and biases (or
    BatchNorm's scale and shift); one without live weights is left out. The standard deviation is
    the sample's (n - 1). ``chunk`` examples of a batch pass at a time (None: all of them). Errors:
    see ``lib.metrics.contract``; also fewer than two batches, and a gradient that is not finite.

    >>> network = nn.Sequential(nn.Linear(1, 2, bias=False)).eval()
    >>> _ = nn.init.zeros_(network[0].weight)
    >>> x, labels = torch.tensor([[1.0], [3.0]]), torch.tensor([0, 0])
    >>> round(by_layer(network, x, labels, batch_size=1)["0"].snr, 4)
    1.4142
    """
    mask, which, chunk = check(network, x, labels, **options)
    count = len(x) // batch_size if isinstance(batch_size, int) and batch_size > 0 else 0
    require(
        count >= 2,
        f"batch_size is {batch_size!r}: two whole minibatches are needed at least, and there are "
        f"{len(x)} examples",
    )
    own = leaves(network, which, mask)
    order = torch.randperm(len(x), generator=generator) if generator else torch.arange(len(x))
    mean, squares = (
        {name: torch.zeros_like(p, dtype=torch.float64) for name, p in own.items()}
        for _ in range(2)
    )
    for step, members in enumerate(order[: count * batch_size].to(x.device).split(batch_size), 1):
        batch = (x[members], labels[members])
        found = mean_gradient(network, own, *batch, chunk or batch_size, torch.float64)
        # Welford's update, with the squares of deviations: sums of squares would cancel
        for name, gradient in found.items():
            deviation = gradient - mean[name]
            mean[name] += deviation / step
            squares[name] += deviation * (gradient - mean[name])
    layers: dict[str, list[tuple[float, float]]] = {}
    for name in own:
        live = (mask or {}).get(name, ...)
        signal = mean[name][live].square().sum().item()
        noise = squares[name][live].sum().item() / (count - 1)
        require(
            math.isfinite(signal + noise),
            f"the gradient of {name!r} is not finite on some minibatch",
        )
        layers.setdefault(name.rpartition(".")[0], []).append((signal, noise))
    return {
        layer: Signal(sum(s for s, _ in both) ** 0.5, sum(n for _, n in both) ** 0.5, count)
        for layer, both in layers.items()
    }
