"""Per-example gradients from one forward and one backward pass: squared norms and dot products.

Each layer's input a and output z are kept, and one ``autograd.grad`` in the outputs alone gives δ, without any weight
gradient. ``lib.metrics.layers`` has the formulas that lead from a and δ to the numbers of each example (Goodfellow 2015,
arXiv:1510.01799, for linear layers without a mask). Masked MLPs and LeNet-5 on a CPU pass at the cost of their live weights
(``lib.metrics.live_pass``) where that is faster; the numbers are the same but for rounding.

All functions take a network in eval mode with its pruned weights at zero, inputs x [n, ...], labels int64 [n], and:
``mask`` (parameter name -> bool tensor, True where the weight lives; parameters that it does not name live), ``which``
(``"all"``: weights and biases of convolutions and linear layers, BatchNorm's scale and shift; ``"weights"``: the weights of
convolutions and linear layers alone, as the price study's code does), ``chunk`` (examples at a time; None: as many as fit
into about 256 MB of activations). They raise ``MeasureError`` for what cannot be measured, see ``check``.
"""

import weakref
from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import nn

from lib.metrics.layers import KINDS, MeasureError, Named
from lib.sparse.live_pass import LivePass
from lib.sparse.live_patterns import patterns_of

__all__ = ["MeasureError", "check", "flow", "loss_gradient", "parameters", "per_example"]

WHICH = ("all", "weights")
ACTIVATION_BYTES, CACHE_BYTES = 256 << 20, 16 << 20
_activations = (
    weakref.WeakKeyDictionary()
)  # network -> input shape -> bytes of its layers' outputs for one example


def check(
    network: nn.Module, x, labels=None, mask: Named | None = None, which: str = "all"
) -> None:
    """Raise ``MeasureError`` for what no estimator here can measure.

    That is: a layer with parameters that no formula covers, or parameters shared between layers; train mode; weights that are
    not finite; a mask of unknown names or other shapes; no examples; labels of another number, or negative; an unknown ``which``.
    """
    if which not in WHICH:
        raise MeasureError(f"which is {which!r}; allowed are {', '.join(WHICH)}")
    if network.training or any(
        m.training
        for m in network.modules()
        if isinstance(m, (nn.modules.batchnorm._BatchNorm, nn.Dropout))
    ):
        raise MeasureError(
            "the network is in train mode, where BatchNorm and dropout make examples depend on one another: call .eval()"
        )
    named = dict(network.named_parameters())
    for name, module in network.named_modules():
        if (
            module._parameters
            and any(p is not None for p in module._parameters.values())
            and type(module) not in KINDS
        ):
            raise MeasureError(
                f"layer {name or '(the network itself)'!r} is a {type(module).__name__}: no formula covers it; there are formulas for "
                f"{', '.join(kind.__name__ for kind in KINDS)}"
            )
    if len(named) < len(list(network.named_parameters(remove_duplicate=False))):
        raise MeasureError(
            "two layers share a parameter: the formulas need each parameter to be used in one layer"
        )
    for name, value in named.items():
        value = value.detach()
        if (
            not value.sum().isfinite() and not value.isfinite().all()
        ):  # the sum is the fast question; it may also overflow
            raise MeasureError(
                f"parameter {name!r} holds values that are not finite: the run has diverged"
            )
    for name, live in (mask or {}).items():
        if name not in named:
            raise MeasureError(
                f"the mask names {name!r}, and the network has no such parameter; it has {', '.join(named)}"
            )
        if live.shape != named[name].shape or live.dtype != torch.bool:
            raise MeasureError(
                f"the mask of {name!r} is {live.dtype} {tuple(live.shape)}; it must be bool {tuple(named[name].shape)}"
            )
    if not len(x):
        raise MeasureError("x holds no examples")
    if labels is not None:
        if labels.shape != x.shape[:1] or labels.dtype != torch.int64:
            raise MeasureError(
                f"labels are {labels.dtype} {tuple(labels.shape)}; for {len(x)} examples they must be int64 ({len(x)},)"
            )
        if labels.min() < 0:
            raise MeasureError(f"labels hold {int(labels.min())}; they start at 0")


def parameters(
    network: nn.Module, which: str = "all", mask: Named | None = None
) -> dict[str, nn.Parameter]:
    """The parameters that count, by name; those in which no weight lives are left out."""
    named = dict(network.named_parameters())
    kept, dead = (
        {},
        {name for name, live in (mask or {}).items() if not live.view(torch.uint8).any()},
    )  # as bytes: ten times as fast
    for prefix, module in network.named_modules():
        for kind, value in module._parameters.items():
            name = f"{prefix}.{kind}" if prefix else kind
            counts = which == "all" or (
                kind == "weight" and isinstance(module, (nn.Linear, nn.Conv2d))
            )
            if value is not None and counts and name not in dead:
                kept[name] = named[name]
    return kept


class Pass:
    """One forward pass of ``x`` that keeps what the formulas need; ``deltas`` then goes back as often as wanted."""

    def __init__(self, network: nn.Module, x: torch.Tensor):
        self.layers, outputs, versions, hooks = {}, [], [], []

        def keep(name, module):
            def hook(_, inputs, output):
                if name in self.layers:
                    raise MeasureError(
                        f"layer {name!r} is used more than once in a pass: the formulas need each parameter in one place"
                    )
                if not output.requires_grad:  # the first layer of a frozen network
                    output.requires_grad_()
                self.layers[name] = KINDS[type(module)](module, inputs[0].detach())
                outputs.append(output)
                versions.append(output._version)

            return hook

        for name, module in network.named_modules():
            if type(module) in KINDS:
                hooks.append(module.register_forward_hook(keep(name, module)))
        try:
            with torch.enable_grad():
                self.logits = network(x)
        finally:
            for hook in hooks:
                hook.remove()
        for name, output, version in zip(self.layers, outputs, versions, strict=True):
            if output._version != version:
                raise MeasureError(
                    f"the output of layer {name!r} is changed in place (an activation with inplace=True?)"
                )
        self.outputs = outputs

    def deltas(
        self, cotangents: list[torch.Tensor], more: bool = False
    ) -> Iterator[tuple[str, object, torch.Tensor]]:
        """(name, layer, δ [k, n, ...]) of each layer for ``cotangents``, k gradients [n, C] in the logits; ``more`` if others follow."""
        last = len(cotangents) - 1
        found = [
            torch.autograd.grad(self.logits, self.outputs, c, retain_graph=more or i < last)
            for i, c in enumerate(cotangents)
        ]
        for number, (name, layer) in enumerate(self.layers.items()):
            yield (
                name,
                layer,
                torch.stack([deltas[number] for deltas in found])
                if last
                else found[0][number].unsqueeze(0),
            )


def passes(
    network: nn.Module,
    x: torch.Tensor,
    chunk: int | None,
    copies: int = 1,
    mask: Named | None = None,
) -> Iterator[tuple[slice, Pass | LivePass]]:
    """Forward passes over all of ``x`` in chunks; ``copies`` is how many δ of each layer will be held at a time.

    With a ``mask`` they may be at the cost of the live weights (``lib.metrics.live_pass``): the formulas that their layers are then
    asked for must be under this mask.
    """
    if chunk is not None and chunk < 1:
        raise MeasureError(f"chunk is {chunk}; it must be at least 1")
    if chunk is None:
        held = (2 + copies) * _outputs_bytes(network, x)
        if (
            x.device.type == "cpu"
        ):  # a few times the cache, but enough examples for efficient products
            chunk = min(max(CACHE_BYTES // held, 128), ACTIVATION_BYTES // held)
        else:
            chunk = min(2048, ACTIVATION_BYTES // held)
    chunk = max(1, min(len(x), chunk))
    chunk = -(-len(x) // -(-len(x) // chunk))  # the same number of chunks, of even sizes
    patterns = None if mask is None else patterns_of(network, x, mask, chunk)
    for start in range(0, len(x), chunk):
        part = slice(start, start + chunk)
        yield (
            part,
            Pass(network, channels_last(x[part]))
            if patterns is None
            else LivePass(network, x[part], patterns),
        )


def _outputs_bytes(network, x):
    """The memory that the outputs of all layers take for one example."""
    sizes = _activations.setdefault(network, {})
    if x.shape[1:] not in sizes:
        sizes[x.shape[1:]] = sum(
            output.numel() * output.element_size() for output in Pass(network, x[:1]).outputs
        )
    return sizes[x.shape[1:]]


def at_once(network: nn.Module, x: torch.Tensor, cotangents: int) -> int:
    """How many of so many gradients in the logits to take back together: all, where 64 examples then still fit, else one.

    Together they share what depends on the inputs of the layers alone; but fewer examples at a time cost large networks more.
    """
    return (
        cotangents if 64 * (2 + cotangents) * _outputs_bytes(network, x) <= ACTIVATION_BYTES else 1
    )


def channels_last(x: torch.Tensor) -> torch.Tensor:
    """Images [n, C, H, W] with channels last in memory: faster convolutions on a CPU, and their patches are runs in memory.

    By hand, because PyTorch takes one channel as already in that order and then computes in the other.
    """
    return x.permute(0, 2, 3, 1).contiguous().permute(0, 3, 1, 2) if x.dim() == 4 else x


def residual(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Gradient of each example's cross-entropy in its logits, p - y [n, C].

    The entry of the label is minus the sum of the others: for a confident example p - 1 would lose most of its digits.
    Entries whose squares underflow are zero: they change no sum of squares, and numbers so small slow the processor.
    """
    p = torch.softmax(logits.detach(), -1)
    rest = flushed(p.scatter(1, labels.unsqueeze(1), 0.0))
    return rest.scatter(1, labels.unsqueeze(1), -rest.sum(1, keepdim=True))


def flushed(values: torch.Tensor) -> torch.Tensor:
    """``values`` with zeros where the square is below the smallest normal number."""
    return values.masked_fill(values.abs() < torch.finfo(values.dtype).tiny ** 0.5, 0.0)


def squares(
    taken: Pass,
    cotangents: list[torch.Tensor],
    mask: Named | None,
    which: str,
    together: int | None = None,
) -> Named:
    """By parameter name, each example's squared gradient norm over live weights, summed over the ``cotangents``: [n].

    So many go back ``together``; None: all.
    """
    found, together = {}, together or len(cotangents)
    for start in range(0, len(cotangents), together):
        stop = start + together
        for name, layer, delta in taken.deltas(cotangents[start:stop], more=stop < len(cotangents)):
            for kind, values in layer.squares(delta, local(mask, name), which).items():
                full = f"{name}.{kind}" if name else kind
                found[full] = found[full] + values if full in found else values
    return found


def local(mask, name):
    """The part of a dict by parameter name that belongs to the layer ``name``."""
    prefix = f"{name}." if name else ""
    return {kind: (mask or {}).get(prefix + kind) for kind in ("weight", "bias")}


def per_example(
    network, x, labels, *, mask=None, which="all", direction: Named | None = None, chunk=None
):
    """(squared norms [n], dot products [n]) of each example's loss gradient over the live weights.

    ``direction`` maps parameter names to tensors of their shapes and is masked here; parameters that it does not name count
    as zero. Without it the dot products are None. Price study, Figure 8 (with the sign of the gradient, not of its negative).
    """
    check(network, x, labels, mask, which)
    if direction is not None:
        direction = counted_direction(network, direction, mask, which)
    norms, dots = [], []
    for part, taken in passes(network, x, chunk, mask=mask):
        check_labels(labels, taken.logits)
        total = dot = 0.0
        for name, layer, delta in taken.deltas([residual(taken.logits, labels[part])]):
            norm, along = layer.squares_and_dots(
                delta, local(mask, name), local(direction, name), which
            )
            total, dot = total + sum(norm.values()), dot + along
        norms.append(total)
        dots.append(dot)
    return torch.cat(norms), torch.cat(dots) if direction is not None else None


def counted_direction(network, direction: Named, mask: Named | None, which: str) -> Named:
    """The part of ``direction`` that counts, masked; raises ``MeasureError`` for names or shapes that the network does not have."""
    named, counted = dict(network.named_parameters()), parameters(network, which, mask)
    for name, value in direction.items():
        if name not in named:
            raise MeasureError(
                f"the direction names {name!r}, and the network has no such parameter"
            )
        if value.shape != named[name].shape:
            raise MeasureError(
                f"the direction of {name!r} has shape {tuple(value.shape)}; it must be {tuple(named[name].shape)}"
            )
    return masked({name: value for name, value in direction.items() if name in counted}, mask)


def masked(values: Named, mask: Named | None) -> Named:
    """``values`` with zeros where the mask has no weight."""
    return {
        name: value * mask[name] if mask and name in mask else value
        for name, value in values.items()
    }


def loss_gradient(network, x, labels, *, mask=None, which="all", chunk=None) -> Named:
    """Gradient of the mean cross-entropy over the examples, by parameter name, zero where the mask has no weight."""
    check(network, x, labels, mask, which)
    counted = parameters(network, which, mask)
    total = {name: torch.zeros_like(value) for name, value in counted.items()}
    needs = [value.requires_grad for value in counted.values()]
    for value in counted.values():
        value.requires_grad_()
    try:
        for start in range(0, len(x), chunk or 512):
            part = slice(start, start + (chunk or 512))
            with torch.enable_grad():
                logits = network(x[part])
                check_labels(labels, logits)
                loss = F.cross_entropy(logits, labels[part], reduction="sum") / len(x)
            for name, piece in zip(
                total, torch.autograd.grad(loss, list(counted.values())), strict=True
            ):
                total[name] += piece
    finally:
        for value, need in zip(counted.values(), needs, strict=True):
            value.requires_grad_(need)
    return masked(total, mask)


def flow(network, x, labels, *, mask=None, which="all", chunk=None) -> float:
    """Gradient flow: squared norm of the mean loss gradient over the live weights (gradient-flow study, section 3)."""
    gradient = loss_gradient(network, x, labels, mask=mask, which=which, chunk=chunk)
    return sum(value.double().square().sum().item() for value in gradient.values())


def check_labels(labels, logits) -> None:
    """Raise ``MeasureError`` if the labels name a class that the network does not have."""
    if labels.max() >= logits.shape[1]:
        raise MeasureError(
            f"labels hold {int(labels.max())}; the network has {logits.shape[1]} classes, 0 to {logits.shape[1] - 1}"
        )
