"""Forward and backward passes at the cost of the live weights: every layer is a sparse matrix, and the batch comes last.

A fully connected layer is the sparse matrix of its live weights. A convolution is one too: a row for each output, a column for each
input, each live weight at all the places where its kernel lies. The outputs of a convolution are ordered so that the places
which a 2x2 pool compares lie in four blocks: the pool is then the maximum, or the mean, of four matrices. Values, gradients and
results are those of the dense passes but for the order of summation.
"""

import warnings

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from lib.models.networks import MLP, LeNet5

warnings.filterwarnings(
    "ignore", "Sparse CSR tensor support is in beta state", UserWarning
)  # once for all, and not from worker threads

# What a step costs: seconds per entry, example and pass in sparse and in dense products, and per layer in calls (see benchmarks).
SPARSE, CALLS = 1 / 15e9, 60e-6
DENSE = {MLP: 1 / 58e9, LeNet5: 1 / 17e9}


def pays(
    network: nn.Module, mask: dict[str, torch.Tensor], shape: tuple[int, ...], batch: int
) -> bool:
    """Whether a member with this ``mask`` by name trains faster so: few live weights, in a network that is known here, where MKL is.

    ``shape`` is that of an input, ``batch`` the examples in a step. The answer depends on nothing else: a run has the same passes in
    any cohort.
    """
    if type(network) not in DENSE or not torch.backends.mkl.is_available():
        return False
    sizes = [
        (places * int(live.sum()), places * live.numel())
        for live, places in _weights(network, mask, shape)
    ]
    live, all_ = (sum(size) for size in zip(*sizes, strict=True))
    return 3 * batch * live * SPARSE + CALLS * len(sizes) < 3 * batch * all_ * DENSE[type(network)]


class Places:
    """A layer's matrix of this ``shape``: where each entry lies (``rows``, ``columns``), and which of its weights it is (``which``)."""

    def __init__(self, rows, columns, which, shape):
        self.rows, self.columns, self.which, self.shape = rows, columns, which, shape


def linear(mask: torch.Tensor) -> Places:
    """Of a fully connected layer with live weights where ``mask`` [outputs, inputs] is True."""
    rows, columns = mask.nonzero(as_tuple=True)
    return Places(rows, columns, rows * mask.shape[1] + columns, mask.shape)


def convolution(mask: torch.Tensor, shape: tuple[int, int, int]) -> Places:
    """Of a convolution with stride 1 and no padding over inputs ``shape`` (C, H, W), with its outputs in the order of a 2x2 pool.

    The outputs are four blocks, and a block is [channels, places]; a live weight's entries lie together, in the order of the
    blocks and places.
    """
    outputs, channels, *kernel = mask.shape
    _, height, width = shape
    tall, wide = (
        (height - kernel[0] + 1) // 2,
        (width - kernel[1] + 1) // 2,
    )  # of the pool's outputs
    o, c, dy, dx = (index[:, None] for index in mask.nonzero(as_tuple=True))
    block, y, x = (
        index.flatten()
        for index in torch.meshgrid(
            torch.arange(4), torch.arange(tall), torch.arange(wide), indexing="ij"
        )
    )
    y, x = 2 * y + block // 2, 2 * x + block % 2
    rows = block * (outputs * tall * wide) + (o * tall + y // 2) * wide + x // 2
    columns = (c * height + y + dy) * width + x + dx
    which = (((o * channels + c) * kernel[0] + dy) * kernel[1] + dx).expand_as(rows)
    return Places(
        rows.flatten(),
        columns.flatten(),
        which.flatten(),
        (4 * outputs * tall * wide, channels * height * width),
    )


def csr(rows, columns, shape):
    """The empty matrix with entries at these places, and the order in which it holds them."""
    order = torch.from_numpy(
        np.argsort((rows * shape[1] + columns).numpy())
    )  # several times as fast as torch's
    counts = torch.bincount(rows, minlength=shape[0]).cumsum(0)
    starts = F.pad(counts, (1, 0)).int()  # 32 bits: what MKL works with
    return torch.sparse_csr_tensor(
        starts, columns[order].int(), torch.zeros(len(order)), shape, check_invariants=False
    ), order


class Layer:
    """One layer of one member: its matrix over the live weights of ``weight``, the transposed one, and its ``bias``.

    ``repeats`` rows of the matrix belong to each output channel (1 for a fully connected layer). ``gradients`` are the places for
    the gradients of weight and bias.
    """

    def __init__(self, weight, bias, gradients, places: Places, first: bool):
        self.first = first
        self.weight, self.bias, self.channels = weight.flatten(), bias, len(bias)
        self.gradient, self.bias_gradient = gradients[0].flatten(), gradients[1]
        self.blocks = 4 if weight.dim() == 4 else 1
        channel = (
            torch.arange(places.shape[0])
            % (places.shape[0] // self.blocks)
            // (places.shape[0] // self.blocks // self.channels)
        )
        self.channel = channel if self.blocks > 1 else None
        self.live, of = torch.unique(places.which, return_inverse=True)
        self.matrix, order = csr(places.rows, places.columns, places.shape)
        self.pattern, _ = csr(places.rows, places.columns, places.shape)
        self.entries = places.which[order]
        self.transposed, order_back = csr(places.columns, places.rows, places.shape[::-1])
        self.entries_back = places.which[order_back]
        self.by_weight = torch.argsort(
            of[order], stable=True
        )  # each live weight has as many entries as there are output places

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """[rows, B] of the inputs x [columns, B]."""
        self.x = x
        torch.index_select(self.weight, 0, self.entries, out=self.matrix.values())
        bias = self.bias if self.channel is None else self.bias.index_select(0, self.channel)
        return torch.addmm(bias.unsqueeze(1), self.matrix, x)

    def backward(self, delta: torch.Tensor) -> torch.Tensor | None:
        """Fill the gradients, given the outputs' ``delta`` [rows, B]; return the inputs' [columns, B], but for the ``first`` layer."""
        entries = torch.sparse.sampled_addmm(self.pattern, delta, self.x.t(), beta=0.0).values()
        if self.channel is not None:
            entries = entries.index_select(0, self.by_weight).view(len(self.live), -1).sum(1)
        self.gradient.index_copy_(0, self.live, entries)
        torch.sum(delta.view(self.blocks, self.channels, -1), (0, 2), out=self.bias_gradient)
        if self.first:
            return None
        torch.index_select(self.weight, 0, self.entries_back, out=self.transposed.values())
        return self.transposed @ delta


class Rectifier:
    """ReLU, in place: its output tells where the gradient passes."""

    def forward(self, x):
        self.out = x.relu_()
        return self.out

    def backward(self, delta):
        return torch.ops.aten.threshold_backward(delta, self.out, 0)


class HyperbolicTangent:
    """Tanh."""

    def forward(self, x):
        self.out = x.tanh()
        return self.out

    def backward(self, delta):
        return delta * (1 - self.out * self.out)


def first_of_largest(blocks: torch.Tensor, largest: torch.Tensor) -> torch.Tensor:
    """Where among ``blocks`` [4, ...] the first value lies that is ``largest`` [...], or above it; bool [4, ...]."""
    found = blocks >= largest
    seen = found[0].clone()
    for block in found[1:]:
        block.logical_and_(~seen)
        seen.logical_or_(block)
    return found


class LargestOfFour:
    """A 2x2 max-pool of four blocks [4R, B] into [R, B]; of equal values the first one gets the gradient, as in PyTorch."""

    def forward(self, x):
        self.blocks = x.unflatten(0, (4, -1))
        self.out = self.blocks.amax(0)
        return self.out

    def backward(self, delta):
        # a ReLU behind the pool may have changed its output in place, but only where no gradient comes back
        return (first_of_largest(self.blocks, self.out) * delta).flatten(0, 1)


class MeanOfFour:
    """A 2x2 average pool of four blocks [4R, B] into [R, B]."""

    def forward(self, x):
        return x.unflatten(0, (4, -1)).mean(0)

    def backward(self, delta):
        return (delta / 4).repeat(4, 1)


WITHOUT_WEIGHTS = {
    nn.ReLU: Rectifier,
    nn.Tanh: HyperbolicTangent,
    nn.MaxPool2d: LargestOfFour,
    nn.AvgPool2d: MeanOfFour,
}


def _weights(network, mask, shape):
    """Yield (mask of a layer's weights, places at which each is used) for the layers with weights, first to last."""
    for name, module in network.named_children():
        if isinstance(module, nn.Conv2d):
            shape = (
                len(mask[f"{name}.weight"]),
                *(
                    (side - kernel + 1) // 2
                    for side, kernel in zip(shape[1:], module.kernel_size, strict=True)
                ),
            )
            yield mask[f"{name}.weight"], 4 * shape[1] * shape[2]
        elif isinstance(module, nn.Linear):
            yield mask[f"{name}.weight"], 1


class Member:
    """The passes of one member; ``weights``, ``gradients`` and ``mask`` by name are views of its rows, ``shape`` is that of an input."""

    def __init__(
        self, network: nn.Module, weights: dict, gradients: dict, mask: dict, shape: tuple[int, ...]
    ):
        self.steps = []
        for name, module in network.named_children():
            if type(module) in WITHOUT_WEIGHTS:
                self.steps.append(WITHOUT_WEIGHTS[type(module)]())
            elif not isinstance(module, nn.Flatten):
                weight, bias = f"{name}.weight", f"{name}.bias"
                live = mask[weight]
                if live.dim() == 4:
                    places = convolution(live, shape)
                    shape = (
                        len(live),
                        (shape[1] - live.shape[2] + 1) // 2,
                        (shape[2] - live.shape[3] + 1) // 2,
                    )
                else:
                    places = linear(live)
                self.steps.append(
                    Layer(
                        weights[weight],
                        weights[bias],
                        (gradients[weight], gradients[bias]),
                        places,
                        first=not self.steps,
                    )
                )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Logits [C, B] of inputs x [inputs, B]."""
        for step in self.steps:
            x = step.forward(x)
        return x

    def gradients(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        """Fill the gradients of the mean cross-entropy on x [inputs, B] with labels y int64 [B]; return it."""
        log_p = torch.log_softmax(self.forward(x), 0)
        loss = log_p.gather(0, y.unsqueeze(0)).mean().neg_()
        delta = log_p.exp_().scatter_(0, y.unsqueeze(0), -1.0, reduce="add").div_(len(y))
        for step in reversed(self.steps):
            delta = step.backward(delta)
        return loss


class LiveOnly:
    """The engine (see ``lib.steps``) of a ``group``, a ``lib.training.cohort.Cohort``, whose members have few live weights, one after the other."""

    def __init__(self, group, network: nn.Module, shape: tuple[int, ...]):
        self.group, self.network, self.shape = group, network, shape
        self.members = [None] * len(group)
        for k in range(len(group)):
            self.changed(k)

    def changed(self, k: int) -> None:
        """Make the matrices of member ``k`` again: its mask has changed."""
        rows = (self.group.weights[k], self.group.gradients[k], self.group.mask[k])
        rows[1].zero_()  # gradients are written for live weights alone
        self.members[k] = Member(self.network, *map(self.group.layout.views, rows), self.shape)

    @torch.inference_mode()
    def gradients(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        losses = [
            m.gradients(inputs.flatten(1).t().contiguous(), labels)
            for m, inputs, labels in zip(self.members, x, y, strict=True)
        ]
        return torch.stack(losses)

    @torch.inference_mode()
    def logits(self, x: torch.Tensor) -> torch.Tensor:
        x = x.flatten(1).t().contiguous()
        return torch.stack([member.forward(x).t() for member in self.members])
