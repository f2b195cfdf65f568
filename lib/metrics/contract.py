"""What every estimator asks of its arguments, checked in one place.

A network in eval mode with its pruned weights at zero, examples x [n, ...], labels int64 [n], and,
as ``options``,

``mask``   parameter name -> bool, True where the weight lives; what it does not name lives wholly
``which``  ``"all"``: weights and biases of convolutions and linear layers, BatchNorm's scale and
           shift; ``"weights"``: those of convolutions and linear layers alone, as the price study
``chunk``  examples at a time; None: as many as fit, see each estimator

What cannot be measured raises ``MeasureError``.
"""

import torch
from torch import Tensor, nn

from lib.metrics.estimate import require
from lib.metrics.layers import KINDS
from lib.models.networks import kernels
from lib.sparse.patterns import Named

WHICH = ("all", "weights")
NORMS, DROPOUTS = nn.modules.batchnorm._BatchNorm, nn.modules.dropout._DropoutNd


def check(
    network: nn.Module, x: Tensor, labels: Tensor | None = None, *, mask: Named | None = None,
    which: str = "all", chunk: int | None = None, **counts: int | None,
) -> tuple[Named | None, str, int | None]:  # fmt: skip
    """(mask, which, chunk); ``MeasureError`` for what no estimator can measure.

    That is: train mode; weights that are not finite; a mask of unknown names or other shapes; no
    examples; labels of another number, or negative; an unknown ``which``; ``chunk`` or another of
    ``counts`` below 1.
    """
    for name, count in {"chunk": chunk, **counts}.items():
        require(count is None or count >= 1, f"{name} is {count}; it must be at least 1")
    require(
        not network.training
        and not any(m.training for m in network.modules() if isinstance(m, (NORMS, DROPOUTS))),
        "the network, or a part of it, is in train mode, where BatchNorm and dropout make examples "
        "depend on one another: call .eval()",
    )
    for name, p in network.named_parameters():  # the sum is the fast question; it may overflow
        require(
            abs(p.detach().sum().item()) < torch.inf or p.detach().isfinite().all(),
            f"parameter {name!r} holds values that are not finite: the run has diverged",
        )
    check_named(network, mask or {}, "mask", torch.bool)
    require(len(x), "x holds no examples")
    if labels is not None:
        check_labels(labels, len(x))
    return mask, which, chunk


def beyond(network: nn.Module) -> str:
    """Why the formulas cannot cover a network, as far as its modules tell; "" where they may.

    >>> beyond(nn.Sequential(nn.Linear(2, 4), nn.GroupNorm(2, 4)))
    "layer '1' is a GroupNorm"
    """
    for name, module in network.named_modules():
        held = {kind for kind, p in module._parameters.items() if p is not None}
        layer = f"layer {name or '(the network itself)'!r}"
        if held and type(module) not in KINDS:
            return f"{layer} is a {type(module).__name__}"
        if held - {"weight", "bias"} or (
            held and (module._forward_hooks or module._forward_pre_hooks)
        ):
            return f"{layer} has hooks, or its weights in another form"
    return "two layers share a parameter" if shares(network) else ""


def shares(network: nn.Module) -> bool:
    """Whether two layers share a parameter."""
    every = [p for _, p in network.named_parameters(remove_duplicate=False)]
    return len(set(every)) < len(every)


def check_named(network: nn.Module, values: Named, what: str, dtype=None) -> None:
    """Raise ``MeasureError`` unless ``values`` have names and shapes of parameters."""
    shapes = {n: tuple(p.shape) for n, p in network.named_parameters()} if values else {}
    for name, value in values.items():
        require(
            name in shapes,
            f"the {what} names {name!r}, and the network has no such parameter; it has "
            f"{', '.join(shapes)}",
        )
        require(
            tuple(value.shape) == shapes[name] and dtype in (None, value.dtype),
            f"the {what} of {name!r} is {value.dtype} {tuple(value.shape)}; it must be "
            f"{dtype or ''} {shapes[name]}",
        )


def check_labels(labels: Tensor, count: int, classes: int | None = None) -> None:
    """Raise ``MeasureError`` unless there is a label for each example, in 0 to ``classes`` - 1."""
    require(
        labels.shape == (count,) and labels.dtype == torch.int64,
        f"labels are {labels.dtype} {tuple(labels.shape)}; for {count} examples they must be "
        f"int64 ({count},)",
    )
    require(count, "no examples: the mean of an empty set is not defined")
    low, high = (int(end) for end in labels.aminmax())
    known = (
        f"the network has {classes} classes, 0 to {classes - 1}" if classes else "0 is the first"
    )
    require(
        low >= 0 and high < (classes or high + 1), f"labels hold {min(low, 0) or high}; {known}"
    )


def parameters(network: nn.Module, which: str = "all", mask: Named | None = None) -> Named:
    """The parameters that count, by name; those in which no weight lives are left out."""
    require(which in WHICH, f"which is {which!r}; allowed are {', '.join(WHICH)}")
    named, live = dict(network.named_parameters()), mask or {}
    return {
        name: named[name]
        for name in (kernels(network) if which == "weights" else named)
        if name in named  # and not another name of a shared one
        and (name not in live or live[name].view(torch.uint8).any())  # bytes: ten times as fast
    }


def leaves(network: nn.Module, which: str, mask: Named | None) -> Named:
    """``parameters`` anew, on the same memory: the network's own keep their ``requires_grad``."""
    return {n: p.detach().requires_grad_() for n, p in parameters(network, which, mask).items()}


def masked(values: Named, mask: Named | None) -> Named:
    """``values`` without a graph that they may carry, and zeros where the mask has no weight."""
    return {
        n: v.detach() * mask[n] if mask and n in mask else v.detach() for n, v in values.items()
    }
