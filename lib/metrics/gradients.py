"""Per-example gradients from one forward and one backward pass, and the gradient of the mean loss.

Each layer's input a and output z are kept, and one ``autograd.grad`` in the outputs alone gives δ,
without any weight gradient. ``lib.metrics.layers`` has the formulas that lead from a and δ to the
numbers of each example. Masked MLPs and LeNet-5 on a CPU pass at the cost of their live weights
(``lib.sparse.passes``) where that is faster; the numbers are the same but for rounding. A network
that the formulas do not cover passes by ``GeneralPass``, and a warning says so, once.
Arguments (``options``) and errors: see ``lib.metrics.contract``; without a ``chunk``, 256 MB of
activations.
"""

import functools
import warnings
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn

from lib.metrics.contract import (
    Named,
    check,
    check_labels,
    check_named,
    leaves,
    masked,
    parameters,
)
from lib.metrics.passes import GeneralPass, Pass, examined
from lib.sparse.passes import Asked, LivePass, patterns_of

ACTIVATION_BYTES, CACHE_BYTES = 256 << 20, 16 << 20
LIVE = 320  # examples at a time by live weights; a multiple of 64 leaves the order of sums as it is


@functools.cache  # once for each reason
def _say(reason):
    warnings.warn(
        f"{reason}: no formula covers this network, and torch.func takes each example's gradient "
        "instead; the numbers are the same, at a higher cost",
        stacklevel=3,
    )


def passes(
    network: nn.Module, x: Tensor, chunk: int | None, copies: int = 1, mask: Named | None = None
) -> Iterator[tuple[slice, Pass | LivePass | GeneralPass]]:
    """Forward passes over all of ``x`` in chunks; ``copies`` δ of each layer are held at a time.

    With a ``mask`` they may be at the cost of the live weights (``lib.sparse.passes``): the
    formulas that their layers are then asked for must be under this mask.
    """
    reason, each = examined(network, x)
    if reason:
        _say(reason)
    if chunk is None:  # a few times the cache, but enough examples for efficient products
        held = (2 + copies) * each
        most = max(CACHE_BYTES // held, 128) if x.device.type == "cpu" else 2048
        chunk = min(most, ACTIVATION_BYTES // held)
    chunk = max(1, min(len(x), chunk))
    chunk = -(-len(x) // -(-len(x) // chunk))  # the same number of chunks, of even sizes
    patterns = None if mask is None or reason else patterns_of(network, x, mask, chunk)
    dense = GeneralPass if reason else Pass
    step = chunk if patterns is None else min(chunk, LIVE)
    for start in range(0, len(x), step):
        part = slice(start, start + step)
        yield (
            part,
            dense(network, channels_last(x[part]))
            if patterns is None
            else LivePass(network, x[part], patterns),
        )


def at_once(network: nn.Module, x: Tensor, cotangents: int) -> int:
    """How many of so many gradients in the logits to take back together: all, or one.

    All where 64 examples then still fit. Together they share what depends on the inputs of the
    layers alone; but fewer examples at a time cost large networks more.
    """
    fits = 64 * (2 + cotangents) * examined(network, x)[1] <= ACTIVATION_BYTES
    return cotangents if fits else 1


def channels_last(x: Tensor) -> Tensor:
    """Images [n, C, H, W] with channels last in memory, so that patches are runs in memory.

    By hand: PyTorch takes one channel as already in that order, and then computes in the other.
    """
    return x.permute(0, 2, 3, 1).contiguous().permute(0, 3, 1, 2) if x.dim() == 4 else x


def residual(logits: Tensor, labels: Tensor) -> Tensor:
    """Gradient of each example's cross-entropy in its logits, p - y [n, C].

    The entry of the label is minus the sum of the others: for a confident example p - 1 would lose
    most of its digits. Entries whose squares underflow are zero: they change no sum of squares, and
    numbers so small slow the processor.
    """
    p = torch.softmax(logits.detach(), -1)
    rest = flushed(p.scatter(1, labels.unsqueeze(1), 0.0))
    return rest.scatter(1, labels.unsqueeze(1), -rest.sum(1, keepdim=True))


def flushed(values: Tensor) -> Tensor:
    """``values`` with zeros where the square is below the smallest normal number."""
    return values.masked_fill(values.abs() < torch.finfo(values.dtype).tiny ** 0.5, 0.0)


def asked(
    network: nn.Module, which: str, mask: Named | None, direction: Named | None = None
) -> dict[str, Asked]:
    """What ``lib.metrics.layers`` is asked for, by layer: of the parameters that count.

    ``direction`` maps parameter names to tensors of their shapes and is masked here; what it does
    not name counts as zero.
    """
    check_named(network, direction or {}, "direction")
    ahead, found = masked(direction or {}, mask), dict[str, Asked]()
    for name in parameters(network, which, mask):
        layer, _, kind = name.rpartition(".")
        found.setdefault(layer, {})[kind] = (mask or {}).get(name), ahead.get(name)
    return found


def squares(
    taken: Pass | LivePass | GeneralPass,
    cotangents: list[Tensor],
    wanted: dict[str, Asked],
    together: int,
) -> Tensor:
    """Each example's squared gradient norm, [n], summed over ``cotangents``.

    So many of them go back ``together``.
    """
    groups = [cotangents[i : i + together] for i in range(0, len(cotangents), together)]
    found = [
        [
            own
            for name, layer, delta in taken.deltas(group, more=group is not groups[-1])
            if name in wanted
            for own, _ in layer.squares_and_dots(delta, wanted[name])
        ]
        for group in groups
    ]
    zeros = taken.logits.new_zeros(len(taken.logits))
    return sum((sum(each, zeros) for each in zip(*found, strict=True)), zeros)


def norms_and_dots(
    taken: Pass | LivePass | GeneralPass, cotangent: Tensor, wanted: Sequence[dict[str, Asked]]
) -> list[tuple[Tensor, Tensor]]:
    """(squared norms [n], dot products [n]) of each example's gradient, as each of them asks.

    Goodfellow 2015, arXiv:1510.01799. The dot products are those with the direction.
    """
    zeros = taken.logits.new_zeros(len(taken.logits))
    totals = [(zeros, zeros) for _ in wanted]
    for name, layer, delta in taken.deltas([cotangent]):
        for i, each in enumerate(wanted):
            if name in each:
                own, along = zip(*layer.squares_and_dots(delta, each[name]), strict=True)
                totals[i] = totals[i][0] + sum(own), totals[i][1] + sum(along)
    return totals


def mean_gradient(
    network: nn.Module, own: Named, x: Tensor, labels: Tensor, chunk: int, dtype=None
) -> Named:
    """Gradient of the mean cross-entropy in ``own`` (see ``leaves``), summed in ``dtype``."""
    total = {name: torch.zeros_like(p, dtype=dtype, requires_grad=False) for name, p in own.items()}
    for inputs, targets in zip(x.split(chunk), labels.split(chunk), strict=True):
        with torch.enable_grad():
            loss = summed_loss(network, own, inputs, targets) / len(x)
        pieces = torch.autograd.grad(loss, list(own.values()))
        for value, piece in zip(total.values(), pieces, strict=True):
            value += piece
    return total


def summed_loss(network: nn.Module, own: Named, x: Tensor, labels: Tensor | None) -> Tensor:
    """Cross-entropy summed over ``x`` as a function of ``own``; None: to the predictions' own."""
    logits = torch.func.functional_call(network, own, (x,))
    if labels is None:
        return nn.functional.cross_entropy(
            logits, torch.softmax(logits.detach(), -1), reduction="sum"
        )
    check_labels(labels, *logits.shape)
    return nn.functional.cross_entropy(logits, labels, reduction="sum")


def loss_gradient(network: nn.Module, x: Tensor, labels: Tensor, **options) -> Named:
    """Gradient of the mean cross-entropy over the examples, by parameter name.

    Zero where the mask has no weight; without a ``chunk`` 512 examples pass at a time.

    >>> network = nn.Linear(1, 2, bias=False).eval()
    >>> _ = nn.init.zeros_(network.weight)
    >>> loss_gradient(network, torch.ones(1, 1), torch.tensor([1]))["weight"]
    tensor([[ 0.5000],
            [-0.5000]])
    """
    mask, which, chunk = check(network, x, labels, **options)
    own = leaves(network, which, mask)
    return masked(mean_gradient(network, own, x, labels, chunk or 512), mask)


def flow(network: nn.Module, x: Tensor, labels: Tensor, **options) -> float:
    """Gradient flow: squared norm of the mean loss gradient over the live weights.

    Gradient-flow study, section 3.

    >>> network = nn.Linear(1, 2, bias=False).eval()
    >>> _ = nn.init.zeros_(network.weight)
    >>> flow(network, torch.ones(1, 1), torch.tensor([1]))
    0.5
    """
    gradient = loss_gradient(network, x, labels, **options)
    return sum(value.double().square().sum().item() for value in gradient.values())
