"""Training steps at the cost of the live weights: an engine of masked MLPs and LeNet-5 on a CPU.

Every layer is a sparse matrix (``lib.sparse.patterns``). Losses, gradients and logits are those of
the dense passes but for the order of summation.
"""

from collections.abc import Callable, Iterable
from functools import partial

import numpy as np
import torch
from torch import nn

from lib.models.networks import MLP, LeNet5
from lib.sparse.patterns import Named, Pattern, Patterns, Shape, children

# Seconds per entry, example and pass in sparse and in dense products, and per layer in calls. They
# choose between sums in two orders: with another one, the FORMAT of ``lib.specs.run`` must rise.
SPARSE, CALLS = 1 / 15e9, 60e-6
DENSE: dict[type, float] = {MLP: 1 / 58e9, LeNet5: 1 / 17e9}
Back = Callable[[torch.Tensor], torch.Tensor]
Step = Callable[[torch.Tensor], tuple[torch.Tensor, Back]]


def pays(network: nn.Module, mask: Named, shape: Shape, batch: int) -> bool:
    """Whether a member with this ``mask`` trains faster so, in steps of ``batch`` examples.

    With few live weights, in a network that is known here, where MKL is; ``shape`` is that of an
    input. The answer depends on nothing else: a run has the same passes in any cohort.

    >>> from lib.models import networks
    >>> network = networks.build("lenet-300-100", (784,), 10)
    >>> live = {n: torch.arange(p.numel()).view(p.shape) % 50 == 0
    ...         for n, p in network.named_parameters()}
    >>> pays(network, live, (784,), 128), pays(network, live, (784,), 1)
    (True, False)
    """
    if type(network) not in DENSE or not torch.backends.mkl.is_available():
        return False
    found = [
        (uses, mask[f"{name}.weight"]) for name, _, _, uses in children(network, shape) if uses
    ]
    live = sum(uses * int(np.count_nonzero(kernel.numpy())) for uses, kernel in found)
    dense = sum(uses * kernel.numel() for uses, kernel in found)
    sparse = 3 * batch * live * SPARSE + CALLS * len(found)
    return sparse < 3 * batch * dense * DENSE[type(network)]


# -- what stands behind a layer: from x (whose memory it may take) to (output, its backward pass) --


def _rectifier(x):
    out = x.relu_()
    return out, lambda delta: torch.ops.aten.threshold_backward(delta, out, 0)


def _hyperbolic_tangent(x):
    out = x.tanh()  # not in place: a max-pool before it compares with what it was given
    return out, lambda delta: delta * (1 - out * out)


def _largest_of_four(x):
    """A 2x2 max-pool of four blocks; of equal values the first gets the gradient, as in PyTorch."""
    blocks = x.unflatten(0, (4, -1))
    largest = blocks.amax(0)

    def back(delta):
        # a ReLU behind may have changed ``largest`` in place, where no gradient comes back alone;
        # all in floats and in place: marks of another type are converted, at thrice the time
        free = torch.ones_like(delta)
        for block in blocks:
            torch.ge(block, largest, out=block).mul_(free)
            free.sub_(block)
            block.mul_(delta)
        return blocks.flatten(0, 1)

    return largest, back


def _mean_of_four(x):
    return x.unflatten(0, (4, -1)).mean(0), lambda delta: (delta / 4).repeat(4, 1)


BEHIND: dict[type, Step] = {
    nn.ReLU: _rectifier,
    nn.Tanh: _hyperbolic_tangent,
    nn.MaxPool2d: _largest_of_four,
    nn.AvgPool2d: _mean_of_four,
}


def through(steps: Iterable[Step], x: torch.Tensor) -> tuple[torch.Tensor, list[Back]]:
    """(output of ``steps`` one after the other, their backward passes, the last first)."""
    backs: list[Back] = []
    for step in steps:
        x, back = step(x)
        backs.insert(0, back)
    return x, backs


class _Layer:
    """A layer of one member: its weights, and the places for its gradients, are the member's."""

    def __init__(self, pattern: Pattern, weights: Named, gradients: Named, first: bool):
        weight, bias = f"{pattern.name}.weight", f"{pattern.name}.bias"
        self.pattern, self.first = pattern, first
        self.weight, self.bias = weights[weight].flatten(), weights[bias]
        self.gradient, self.bias_gradient = gradients[weight].flatten(), gradients[bias]
        self.matrix = pattern.matrix.of(self.weight)
        self.transposed = pattern.transposed.of(self.weight)
        self.ones = pattern.ones(self.weight.dtype)
        # a live weight has as many entries as there are output places
        self.by_weight = torch.argsort(pattern.matrix.entries, stable=True)

    def __call__(self, x):
        """Outputs [rows, B] of the inputs x [columns, B], and the backward pass."""
        torch.index_select(self.weight, 0, self.pattern.matrix.entries, out=self.matrix.values())
        return self.pattern.outputs(self.matrix, self.bias, x), partial(self._back, x)

    def _back(self, x, delta):
        """Fill the gradients; return the inputs' gradient, but for the ``first`` layer."""
        pattern = self.pattern
        found = torch.sparse.sampled_addmm(self.ones, delta, x.t(), beta=0.0).values()
        if pattern.blocks > 1:
            found = found.index_select(0, self.by_weight).view(pattern.reads.shape).sum(1)
        self.gradient.index_copy_(0, pattern.live, found)
        each = delta.view(pattern.blocks, pattern.channels, -1)
        torch.sum(each, (0, 2), out=self.bias_gradient)
        if self.first:
            return None
        torch.index_select(self.weight, 0, pattern.transposed.entries, out=self.transposed.values())
        return self.transposed @ delta


def _gradients(steps, x, y):
    """Fill the gradients of the mean cross-entropy on x [inputs, B] with labels y; return it."""
    logits, backs = through(steps, x)
    log_p = torch.log_softmax(logits, 0)
    loss = log_p.gather(0, y.unsqueeze(0)).mean().neg_()
    delta = log_p.exp_().scatter_(0, y.unsqueeze(0), -1.0, reduce="add").div_(len(y))
    for back in backs:
        delta = back(delta)
    return loss


class LiveOnly:
    """The engine (see ``lib.training.engines``) of a cohort whose members have few live weights.

    They go one after the other. ``shape`` is that of an input.
    """

    def __init__(self, group, network: nn.Module, shape: Shape):
        self.group, self.network, self.shape = group, network, shape
        self.steps: list[list[Step]] = [[] for _ in range(len(group))]
        for k in range(len(group)):
            self.changed(k)

    def changed(self, k: int) -> None:
        """Make the matrices of member ``k`` again: its mask has changed."""
        rows = (self.group.mask[k], self.group.weights[k], self.group.gradients[k])
        rows[2].zero_()  # gradients are written for live weights alone
        mask, weights, gradients = map(self.group.layout.views, rows)
        steps = self.steps[k] = []
        for pattern in Patterns(self.network, mask, self.shape).layers:
            steps.append(_Layer(pattern, weights, gradients, first=not steps))
            steps += (BEHIND[kind] for kind in pattern.behind)

    @torch.inference_mode()
    def gradients(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        """Fill the members' gradients for a batch of each, x [c, B, ...], y [c, B]; losses [c]."""
        columns = x.flatten(2).transpose(1, 2).contiguous()
        return torch.stack([_gradients(*each) for each in zip(self.steps, columns, y, strict=True)])

    @torch.inference_mode()
    def logits(self, x: torch.Tensor) -> torch.Tensor:
        """Every member's logits [c, n, C] for the same x [n, ...]."""
        x = x.flatten(1).t().contiguous()
        return torch.stack([through(steps, x)[0].t() for steps in self.steps])
