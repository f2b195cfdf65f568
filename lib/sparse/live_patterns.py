"""The sparsity patterns of masked MLPs and LeNet-5, as sparse matrices in the manner of ``lib.sparse.live``: found once for a network and mask.

A pattern is found again when the mask has other values, and holds no weights: those are read afresh in every pass. Whether it is known
already therefore changes no number, only the time that it takes.
"""

import weakref

import numpy as np
import torch
from torch import nn

from lib.metrics.layers import Named
from lib.sparse import live

DENSEST = 0.6  # share of a kernel's weights that live above which its gradients in single weights cost more than batched products
_known = weakref.WeakKeyDictionary()  # network -> its latest Patterns


class Pattern:
    """Where the live weights of one layer lie: its matrix and the transposed one, without their values.

    ``shape`` is [rows, columns], its outputs and inputs; the rows are ``blocks`` of [``channels``, places] (see ``lib.sparse.live``), ``channel``
    is that of each row. ``live`` are the indices of the live weights; those of a convolution read the columns ``reads``
    [live, 4 · places], and each output channel has ``counts`` of them. ``after`` are the kinds of the modules behind the layer.
    """

    def __init__(self, name: str, mask: torch.Tensor, shape: tuple[int, ...]):
        self.name, self.mask, self.after = name, mask.numpy().copy(), []
        places = live.convolution(mask, shape) if mask.dim() == 4 else live.linear(mask)
        self.blocks, self.channels, self.shape = (
            (4 if mask.dim() == 4 else 1),
            len(mask),
            places.shape,
        )
        matrix, order = live.csr(places.rows, places.columns, places.shape)
        self.indices, self.entries = (
            (matrix.crow_indices(), matrix.col_indices()),
            places.which[order],
        )
        matrix, order = live.csr(places.columns, places.rows, places.shape[::-1])
        self.indices_back, self.entries_back = (
            (matrix.crow_indices(), matrix.col_indices()),
            places.which[order],
        )
        self.live = mask.flatten().nonzero().squeeze(1)
        of_block = torch.arange(self.channels).repeat_interleave(
            places.shape[0] // self.blocks // self.channels
        )
        self.channel = of_block.repeat(self.blocks)
        if self.blocks > 1:
            self.reads = places.columns.view(len(self.live), len(self.channel) // self.channels)
            self.counts = mask.flatten(1).sum(1).tolist()

    def matrix(self, weight: torch.Tensor) -> torch.Tensor:
        """[rows, columns] with the live values of ``weight``."""
        return self._filled(
            self.indices, weight.flatten().index_select(0, self.entries), self.shape
        )

    def transposed(self, weight: torch.Tensor) -> torch.Tensor:
        """[columns, rows]."""
        return self._filled(
            self.indices_back, weight.flatten().index_select(0, self.entries_back), self.shape[::-1]
        )

    def ones(self, dtype: torch.dtype) -> torch.Tensor:
        """[rows, columns], one where a weight lives."""
        return self._filled(self.indices, torch.ones(len(self.entries), dtype=dtype), self.shape)

    def _filled(self, indices, values, shape):
        return torch.sparse_csr_tensor(*indices, values, shape, check_invariants=False)


class Patterns:
    """The layers of a network under one mask, for inputs of one ``shape``; ``pays`` keeps the answers by the number of examples."""

    def __init__(self, network: nn.Module, mask: Named, shape: tuple[int, ...]):
        self.shape, self.layers, self.pays = shape, [], {}
        for name, module in network.named_children():
            if f"{name}.weight" in mask:
                self.layers.append(Pattern(name, mask[f"{name}.weight"], shape))
                if isinstance(module, nn.Conv2d):
                    shape = (
                        module.out_channels,
                        *(
                            (s - k + 1) // 2
                            for s, k in zip(shape[1:], module.kernel_size, strict=True)
                        ),
                    )
            elif not isinstance(module, nn.Flatten):
                self.layers[-1].after.append(type(module))

    def hold_all_of(self, weights: Named) -> bool:
        """Whether every weight that is not zero lies within."""
        for layer in self.layers:
            weight = weights[f"{layer.name}.weight"].flatten()
            counts = [
                np.count_nonzero(values.numpy() != 0)
                for values in (weight, weight.index_select(0, layer.live))
            ]
            if counts[0] > counts[1]:
                return False
        return True

    def are_of(self, mask: Named, shape: tuple[int, ...]) -> bool:
        """Whether they are those of this mask, value by value."""
        return shape == self.shape and all(
            np.array_equal(layer.mask, mask[f"{layer.name}.weight"].numpy())
            for layer in self.layers
        )


def patterns_of(
    network: nn.Module, x: torch.Tensor, mask: Named | None, batch: int
) -> Patterns | None:
    """The ``Patterns`` for passes of ``batch`` examples at a time, or None where dense passes are right or faster.

    ``mask`` may leave names out, all of whose weights live; None takes the weights that are not zero as the live ones. The answer
    is None where ``lib.sparse.live`` does not know the network, or would not take it for training; where tensors lie on another device, in
    other types, or do not fit the network (so that the dense pass says what is wrong); where a weight that the mask prunes is
    not zero; and where a convolution has too many live weights.
    """
    if not _fits(network, x):
        return None
    weights = {
        name: value.detach() for name, value in network.named_parameters() if value.dim() > 1
    }
    if mask is None:  # NumPy compares and counts several times as fast
        lives = {name: torch.from_numpy(value.numpy() != 0) for name, value in weights.items()}
    else:
        lives = {
            name: mask.get(name, torch.ones((), dtype=torch.bool)).expand_as(value)
            for name, value in weights.items()
        }
    shape, known = tuple(x.shape[1:]), _known.get(network)
    if known is None or not known.are_of(lives, shape):
        if not _pays(network, lives, shape, batch):
            return None
        known = _known[network] = Patterns(network, lives, shape)
    if batch not in known.pays:
        known.pays[batch] = _pays(network, lives, shape, batch)
    return known if known.pays[batch] and (mask is None or known.hold_all_of(weights)) else None


def _pays(network, mask, shape, batch):
    kernels = [kernel for kernel in mask.values() if kernel.dim() == 4]
    return live.pays(network, mask, shape, batch) and all(
        kernel.float().mean() <= DENSEST for kernel in kernels
    )


def _fits(network, x):
    """Whether the network is one that ``lib.models.networks`` builds, on the CPU, and takes ``x``."""
    if (
        type(network) not in live.DENSE
        or x.device.type != "cpu"
        or x.dtype not in (torch.float32, torch.float64)
    ):
        return False
    if any(value.device != x.device or value.dtype != x.dtype for value in network.parameters()):
        return False
    shape = x.shape[1:]
    for module in network.children():
        if module._forward_hooks or module._forward_pre_hooks or getattr(module, "inplace", False):
            return False
        if (
            type(module) is nn.Linear
            and module.bias is not None
            and shape.numel() == module.in_features
        ):
            shape = torch.Size([module.out_features])
        elif (
            type(module) is nn.Conv2d
            and _is_plain(module)
            and len(shape) == 3
            and shape[0] == module.in_channels
        ):
            shape = torch.Size(
                [
                    module.out_channels,
                    *((s - k + 1) // 2 for s, k in zip(shape[1:], module.kernel_size, strict=True)),
                ]
            )
        elif type(module) is not nn.Flatten and (
            type(module) not in live.WITHOUT_WEIGHTS or getattr(module, "kernel_size", 2) != 2
        ):
            return False
    return True


def _is_plain(conv):
    once = conv.stride == conv.dilation == (1, 1) and conv.padding == (0, 0) and conv.groups == 1
    return once and conv.bias is not None
