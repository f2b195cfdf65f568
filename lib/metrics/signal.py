"""Signal and noise of minibatch gradients by layer: does a step follow the mean gradient, or the chance of its batch?

Of the gradients g_b of all minibatches, a layer's signal is the norm of their mean over b, its noise the norm of their
standard deviation weight by weight, and its signal-to-noise ratio signal / noise (Shwartz-Ziv & Tishby 2017; price study,
workshop Figure 11 and appendix C). Two running numbers per weight are all that is held: no list of gradients.
"""

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn

from lib.metrics.gradients import MeasureError, check, parameters


@dataclass(frozen=True)
class Signal:
    """One layer: norms of the mean and of the standard deviation of its gradient over ``batches`` minibatches."""

    mean: float
    std: float
    batches: int

    @property
    def snr(self) -> float:
        """The mean's norm over that of the standard deviation; infinite or NaN where the batches do not differ at all."""
        if self.std:
            return self.mean / self.std
        return float("inf") if self.mean else float("nan")


def by_layer(
    network: nn.Module,
    x: torch.Tensor,
    labels: torch.Tensor,
    batch_size: int,
    *,
    mask: dict[str, torch.Tensor] | None = None,
    which: str = "all",
    generator: torch.Generator | None = None,
    chunk: int | None = None,
) -> dict[str, Signal]:
    """The ``Signal`` of each layer of ``network`` (in eval mode), in order of depth, over minibatches of ``batch_size`` of ``x``.

    The gradient is that of a minibatch's mean cross-entropy. The batches are disjoint and all of one size: what is left
    over at the end goes unused. ``generator`` deals the examples out to them; without one they follow the order of ``x``.
    Only live weights count: those that ``mask`` does not prune; a layer without any is left out. A layer holds its weights
    and biases (or BatchNorm's scale and shift); with ``which="weights"`` the weights of convolutions and linear layers
    alone. The standard deviation is the sample's (n - 1). ``chunk`` examples of a batch pass at a time (None: all of them).
    Raises ``MeasureError`` for what cannot be measured, fewer than two batches, or a gradient that is not finite.
    """
    check(network, x, labels, mask, which=which)
    whole = isinstance(batch_size, int) and batch_size > 0
    count = len(x) // batch_size if whole else 0
    if count < 2:
        raise MeasureError(
            f"batch_size is {batch_size!r}: two whole minibatches are needed at least, and there are {len(x)} examples"
        )
    if chunk is not None and chunk < 1:
        raise MeasureError(f"chunk is {chunk}; it must be at least 1")
    counted = parameters(network, which, mask)
    order = (
        torch.arange(len(x)) if generator is None else torch.randperm(len(x), generator=generator)
    )
    mean = {
        name: torch.zeros_like(p, dtype=torch.float64, requires_grad=False)
        for name, p in counted.items()
    }
    squares = {
        name: torch.zeros_like(value) for name, value in mean.items()
    }  # of the deviations from the mean
    needs = [value.requires_grad for value in counted.values()]
    for value in counted.values():
        value.requires_grad_()
    try:
        for step in range(count):
            members = order[step * batch_size : (step + 1) * batch_size].to(x.device)
            gradients = _gradient(network, x, labels, members.split(chunk or batch_size), counted)
            for (
                name,
                gradient,
            ) in gradients.items():  # Welford's update: exact where sums of squares would cancel
                deviation = gradient - mean[name]
                mean[name] += deviation / (step + 1)
                squares[name] += deviation * (gradient - mean[name])
    finally:
        for value, need in zip(counted.values(), needs, strict=True):
            value.requires_grad_(need)
    return _summary(mean, squares, mask or {}, count)


def _gradient(network, x, labels, parts, counted):
    """The gradient of the mean cross-entropy over the examples of ``parts`` together, by parameter name, float64."""
    total, size = {}, sum(len(part) for part in parts)
    for part in parts:
        with torch.enable_grad():
            logits = network(x[part])
            if labels[part].max() >= logits.shape[1]:
                raise MeasureError(
                    f"labels hold {int(labels.max())}; the network has {logits.shape[1]} classes, 0 to {logits.shape[1] - 1}"
                )
            loss = F.cross_entropy(logits, labels[part], reduction="sum") / size
        for name, piece in zip(
            counted, torch.autograd.grad(loss, list(counted.values())), strict=True
        ):
            total[name] = total[name] + piece if name in total else piece.double()
    return total


def _summary(mean, squares, mask, count):
    """Sums over the live weights of each layer."""
    sums = {}
    for name in mean:
        if name in mask:
            live = mask[name].to(mean[name].device)
            mean[name], squares[name] = mean[name][live], squares[name][live]
        signal, noise = mean[name].square().sum().item(), squares[name].sum().item() / (count - 1)
        if not math.isfinite(signal + noise):
            raise MeasureError(f"the gradient of {name!r} is not finite on some minibatch")
        layer = name.rpartition(".")[0]
        before = sums.get(layer, (0.0, 0.0))
        sums[layer] = (before[0] + signal, before[1] + noise)
    return {
        layer: Signal(signal**0.5, noise**0.5, count) for layer, (signal, noise) in sums.items()
    }
