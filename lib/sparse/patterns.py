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
    places], ``channel`` is that of each row. ``live`` are the indices of the live weights: each
    reads the columns ``reads`` [live, blocks · places], and each output channel has ``counts`` of
    them. ``behind`` are the kinds of the modules between this layer and the next.
    """

    def __init__(self, name: str, mask: torch.Tensor, shape: Shape):
        self.name, self.mask, self.behind = name, mask.numpy().copy(), list[type]()
        # a fully connected layer is a convolution of 1x1 images, with no pool behind
        _, height, width = shape if mask.dim() == 4 else (len(mask[0]), 1, 1)
        pool, size = (2 if mask.dim() == 4 else 1), (*mask.shape, 1, 1)[:4]
        self.channels, self.blocks = len(mask), pool * pool
        tall, wide = (height - size[2] + 1) // pool, (width - size[3] + 1) // pool
        grid = torch.meshgrid(*map(torch.arange, (self.blocks, tall, wide)), indexing="ij")
        block, y, x = (index.flatten() for index in grid)
        self.live = mask.flatten().nonzero().squeeze(1)
        o, c, dy, dx = (index[:, None] for index in torch.unravel_index(self.live, size))
        rows = ((block * self.channels + o) * tall + y) * wide + x
        down, right = pool * y + block // pool + dy, pool * x + block % pool + dx
        self.reads = (c * height + down) * width + right
        self.counts = mask.flatten(1).sum(1).tolist()
        entries = rows.flatten(), self.reads.flatten(), self.live[:, None].expand_as(rows).flatten()
        outputs, inputs = self.blocks * self.channels * tall * wide, size[1] * height * width
        self.matrix = Csr(*entries, (outputs, inputs))
        self.transposed = Csr(entries[1], entries[0], entries[2], (inputs, outputs))
        self.channel = torch.arange(outputs) // (tall * wide) % self.channels

    def ones(self, dtype: torch.dtype) -> torch.Tensor:
        """The matrix with one where a weight lives."""
        return self.matrix.filled(torch.ones(len(self.matrix.entries), dtype=dtype))

    def outputs(self, weight: torch.Tensor, bias: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        """[rows, B] of the inputs x [columns, B], for a ``weight`` that is such a matrix."""
        return torch.addmm(bias.index_select(0, self.channel).unsqueeze(1), weight, x)


class Patterns:
    """The layers of a network under one mask, for inputs of one ``shape``."""

    def __init__(self, network: nn.Module, mask: Named, shape: Shape):
        self.shape, self.layers = shape, list[Pattern]()
        for name, module, before, uses in children(network, shape):
            if uses:
                self.layers.append(Pattern(name, mask[f"{name}.weight"], before))
            elif not isinstance(module, nn.Flatten):
                self.layers[-1].behind.append(type(module))

    def are_of(self, mask: Named, shape: Shape) -> bool:
        """Whether they are those of this mask, value by value."""
        same = (np.array_equal(p.mask, mask[f"{p.name}.weight"].numpy()) for p in self.layers)
        return shape == self.shape and all(same)
