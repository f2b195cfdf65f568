"""Masked MLPs and LeNet-5 as sparse matrices: where the live weights of each layer lie.

A fully connected layer is the sparse matrix of its live weights. A convolution is one too: a row
for each output, a column for each input, each live weight at all the places where its kernel lies.
The outputs of a convolution are ordered so that the places which a 2x2 pool compares lie in four
blocks: the pool is then the maximum, or the mean, of four matrices. The batch comes last.
"""

import warnings
from collections.abc import Iterator
from math import prod

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

Named = dict[str, torch.Tensor]  # values by parameter name
Shape = tuple[int, ...]

# once for all, and not from worker threads
warnings.filterwarnings("ignore", "Sparse CSR tensor support is in beta state", UserWarning)


def children(network: nn.Module, shape: Shape) -> Iterator[tuple[str, nn.Module, Shape, int]]:
    """(name, module, shape of its input, uses of each of its weights), from first to last.

    A convolution's outputs count as they leave the 2x2 pool behind it.
    """
    for name, module in network.named_children():
        before, uses = shape, 0
        if isinstance(module, nn.Conv2d):
            sides = zip(shape[1:], module.kernel_size, strict=False)
            shape = (module.out_channels, *((side - kernel + 1) // 2 for side, kernel in sides))
            uses = 4 * prod(shape[1:])
        elif isinstance(module, nn.Linear):
            shape, uses = (module.out_features,), 1
        yield name, module, before, uses


def _linear(mask):
    """Rows and columns of a layer's entries, which of its weights each is, and its shape."""
    rows, columns = mask.nonzero(as_tuple=True)
    return rows, columns, rows * mask.shape[1] + columns, tuple(mask.shape)


def _convolution(mask, shape):
    """The same for stride 1 and no padding: a live weight's entries lie together, by block."""
    outputs, channels, *kernel = mask.shape
    _, height, width = shape
    tall, wide = (height - kernel[0] + 1) // 2, (width - kernel[1] + 1) // 2  # behind the pool
    o, c, dy, dx = (index[:, None] for index in mask.nonzero(as_tuple=True))
    grid = torch.meshgrid(*map(torch.arange, (4, tall, wide)), indexing="ij")
    block, y, x = (index.flatten() for index in grid)
    y, x = 2 * y + block // 2, 2 * x + block % 2
    rows = block * (outputs * tall * wide) + (o * tall + y // 2) * wide + x // 2
    columns = (c * height + y + dy) * width + x + dx
    which = (((o * channels + c) * kernel[0] + dy) * kernel[1] + dx).expand_as(rows)
    size = (4 * outputs * tall * wide, channels * height * width)
    return rows.flatten(), columns.flatten(), which.flatten(), size


class Csr:
    """A matrix of ``shape`` without its values: entry i is that of the weight ``entries[i]``."""

    def __init__(self, rows, columns, which, shape):
        order = torch.from_numpy(np.argsort((rows * shape[1] + columns).numpy()))  # torch's is slow
        starts = F.pad(torch.bincount(rows, minlength=shape[0]).cumsum(0), (1, 0))
        self.indices = starts.int(), columns[order].int()  # 32 bits: what MKL works with
        self.entries, self.shape = which[order], shape

    def of(self, weight: torch.Tensor) -> torch.Tensor:
        """The matrix with the live values of ``weight``."""
        return self.filled(weight.flatten().index_select(0, self.entries))

    def filled(self, values: torch.Tensor) -> torch.Tensor:
        """The matrix with these ``values`` [entries]."""
        return torch.sparse_csr_tensor(*self.indices, values, self.shape, check_invariants=False)


class Pattern:
    """Where the live weights of a layer lie, for inputs of ``shape``; it holds no weights.

    ``matrix`` is [rows, columns], outputs and inputs; the rows are ``blocks`` of [``channels``,
    places], ``channel`` is that of each row. ``live`` are the indices of the live weights; those of
    a convolution read the columns ``reads`` [live, 4 · places], and each output channel has
    ``counts`` of them. ``behind`` are the kinds of the modules between this layer and the next.
    """

    def __init__(self, name: str, mask: torch.Tensor, shape: Shape):
        self.name, self.mask, self.behind = name, mask.numpy().copy(), list[type]()
        self.channels, self.blocks = len(mask), 4 if mask.dim() == 4 else 1
        entries = _linear(mask) if self.blocks == 1 else _convolution(mask, shape)
        rows, columns, which, (height, width) = entries
        self.matrix = Csr(rows, columns, which, (height, width))
        self.transposed = Csr(columns, rows, which, (width, height))
        self.live = mask.flatten().nonzero().squeeze(1)
        each = height // self.blocks // self.channels
        self.channel = torch.arange(height) // each % self.channels
        if self.blocks > 1:
            self.reads = columns.view(len(self.live), self.blocks * each)
            self.counts = mask.flatten(1).sum(1).tolist()

    def ones(self, dtype: torch.dtype) -> torch.Tensor:
        """The matrix with one where a weight lives."""
        return self.matrix.filled(torch.ones(len(self.matrix.entries), dtype=dtype))

    def outputs(self, weight: torch.Tensor, bias: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        """[rows, B] of the inputs x [columns, B], for a ``weight`` that is such a matrix."""
        bias = bias if self.blocks == 1 else bias.index_select(0, self.channel)
        return torch.addmm(bias.unsqueeze(1), weight, x)


class Patterns:
    """The layers of a network under one mask, for inputs of one ``shape``."""

    def __init__(self, network: nn.Module, mask: Named, shape: Shape):
        self.shape, self.layers = shape, list[Pattern]()
        for name, module, before, uses in children(network, shape):
            if uses:
                self.layers.append(Pattern(name, mask[f"{name}.weight"], before))
            elif not isinstance(module, nn.Flatten):
                self.layers[-1].behind.append(type(module))

    def hold_all_of(self, weights: Named) -> bool:
        """Whether every weight that is not zero lies within."""
        pairs = ((weights[f"{p.name}.weight"].flatten(), p.live) for p in self.layers)
        return all(_count(w) <= _count(w.index_select(0, live)) for w, live in pairs)

    def are_of(self, mask: Named, shape: Shape) -> bool:
        """Whether they are those of this mask, value by value."""
        same = (np.array_equal(p.mask, mask[f"{p.name}.weight"].numpy()) for p in self.layers)
        return shape == self.shape and all(same)


def _count(values):
    return np.count_nonzero(values.numpy() != 0)  # several times as fast as torch's
