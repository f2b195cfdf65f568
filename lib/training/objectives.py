"""What is added to the loss, or done to it: penalties, and sharpness-aware steps.

An objective takes a ``Step`` and its weight, and returns a scalar whose gradient in the live
weights is added to that of the loss. A penalty is one line::

    @objective
    def l1(step, weight):
        return weight * sum(w.abs().sum() for w in step.weights.values())

Gradients of penalties are exact, by double backward. Where the weight is 0, nothing is done: these
steps have the bits of plain training.
"""

from collections.abc import Iterable

import torch
import torch.nn.functional as F
from torch import nn

from lib.masks.masks import Named
from lib.metrics import fisher, passes
from lib.models.networks import MLP
from lib.registry import objective

# Forward passes of an example that a step costs beyond the plain one: a backward pass is two, a
# double backward through forward and backward six; to the inputs alone one, and two.
PASSES = {
    "sam": lambda classes: 3,
    "jacobian": lambda classes: 5,
    "jacobian_exact": lambda classes: 2 + 3 * classes,
}
OTHERS = 9


class Step:
    """What an objective sees of one member's step: inputs x [B, ...] and labels y int64 [B].

    ``weights`` are leaves by name that share the member's memory, ``mask`` tells which live, and
    ``gradient`` is the loss's in the live ones. Gradients in ``weights`` through ``logits`` are
    masked too: they pass the mask on their way.
    """

    def __init__(
        self, network: nn.Module, mask: Named, x: torch.Tensor, y: torch.Tensor, gradient: Named,
        smoothing: float, generator: torch.Generator,
    ):  # fmt: skip
        self.network, self.mask, self.x, self.y = network, mask, x, y
        self.smoothing, self.generator = smoothing, generator
        self.weights = {n: p.detach().requires_grad_() for n, p in network.named_parameters()}
        self.gradient = {name: g * mask[name] for name, g in gradient.items()}

    def logits(self, x: torch.Tensor, weights: Named | None = None) -> torch.Tensor:
        """[B, C], as training sees them: BatchNorm by the batch, its statistics left alone."""
        state = {name: buffer.clone() for name, buffer in self.network.named_buffers()}
        state |= {n: w * self.mask[n] for n, w in (weights or self.weights).items()}
        return torch.func.functional_call(self.network.train(), state, (x,))


def squared(values: Iterable[torch.Tensor]) -> torch.Tensor:
    """The sum of all their squares."""
    return torch.stack([value.square().sum() for value in values]).sum()


@objective
def fisher_batch(step: Step, weight: float) -> torch.Tensor:
    """‖mean gradient of log p(y|x), y sampled from the model‖² (Jastrzebski et al. 2021)."""
    logits = step.logits(step.x)
    labels = fisher.drawn(logits, step.generator)
    mean = F.cross_entropy(logits, labels)
    slopes = torch.autograd.grad(mean, list(step.weights.values()), create_graph=True)
    return weight * squared(slopes)


@objective
def fisher_examples(step: Step, weight: float) -> torch.Tensor:
    """Tr(F): the mean of each example's own squared norm, y sampled; BatchNorm in eval mode.

    As sampled gradients have mean 0, this is B times ``fisher_batch`` in expectation, with less
    noise. In one pass for MLPs (see ``lib.metrics.layers``); for others by each example's gradient.
    """
    network = step.network.eval()
    with torch.no_grad():
        labels = fisher.drawn(network(step.x), step.generator)

    def loss(weights, x, y):
        state = {name: w * step.mask[name] for name, w in weights.items()}
        logits = torch.func.functional_call(network, state, (x,))
        return F.cross_entropy(logits, y, reduction="sum")

    if type(network) is MLP:
        return weight * _of_linear(step, lambda x: loss(step.weights, x, labels)) / len(labels)
    each = torch.func.vmap(torch.func.grad(loss), (None, 0, 0))
    found = each(step.weights, step.x.unsqueeze(1), labels.unsqueeze(1))
    return weight * squared(found.values()) / len(labels)


def _of_linear(step, loss):
    """Sum of the examples' squared norms: of each layer Σ_o δ_o² (M a² + m)_o, with m the bias's
    mask."""
    names = {m: n for n, m in step.network.named_modules() if type(m) is nn.Linear}
    kept: dict[str, tuple[torch.Tensor, torch.Tensor]] = {}

    def keep(module, inputs, output):
        kept[names[module]] = inputs[0], output

    total = passes.hooked(loss, step.x, dict.fromkeys(names, keep))
    deltas = torch.autograd.grad(total, [z for _, z in kept.values()], create_graph=True)
    squares = []
    for (name, (a, _)), delta in zip(kept.items(), deltas, strict=True):
        live, bias = (step.mask[f"{name}.{kind}"].to(a.dtype) for kind in ("weight", "bias"))
        squares.append((delta.square() * (a.square() @ live.t() + bias)).sum())
    return torch.stack(squares).sum()


@objective
def jacobian(step: Step, weight: float) -> torch.Tensor:
    """Mean ‖∂ logits / ∂ x‖²_F by one random unit vector v an example: C ‖vᵀ J‖² (Hoffman 2019)."""
    x = step.x.detach().requires_grad_()
    logits = step.logits(x)
    v = torch.randn(logits.shape, generator=step.generator).to(logits)
    along = (logits * v / v.norm(dim=1, keepdim=True)).sum()
    slope = torch.autograd.grad(along, x, create_graph=True)[0]
    return weight * logits.shape[1] * squared([slope]) / len(x)


@objective
def jacobian_exact(step: Step, weight: float) -> torch.Tensor:
    """The same exactly, by a backward pass for each class."""
    x = step.x.detach().requires_grad_()
    logits = step.logits(x)
    slopes = [torch.autograd.grad(z.sum(), x, create_graph=True)[0] for z in logits.unbind(1)]
    return weight * squared(slopes) / len(x)


@objective
def sam(step: Step, weight: float) -> torch.Tensor:
    """The loss's gradient at θ + weight · g / ‖g‖ in place of g, that at θ (Foret et al. 2021).

    Two passes: g is there already.
    """
    size = squared(step.gradient.values()).sqrt().clamp_min(1e-12)
    ahead = {n: w + weight / size * step.gradient[n] for n, w in step.weights.items()}
    loss = F.cross_entropy(step.logits(step.x, ahead), step.y, label_smoothing=step.smoothing)
    return loss - torch.stack([(step.gradient[n] * w).sum() for n, w in step.weights.items()]).sum()
