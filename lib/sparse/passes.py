"""The passes of ``lib.metrics.gradients`` at the cost of the live weights, on a CPU.

Every layer is a sparse matrix and the batch comes last (``lib.sparse.patterns``). What follows a
layer (a pool, an activation) acts on each output place alone: the gradient δ in the layer's outputs
z is a gain, which the forward pass fixes, times the gradient δ' behind it. For k cotangents δ'
alone is held, [rows, k, n]; behind a pool it has a quarter of the rows of z. A convolution's
gradient of example n in a live weight w is then G_w = Σ_t δ'_t E_wt, over the places t behind the
pool, where E_wt = Σ_b gain_bt a_bt, over the four outputs b at the place t and the inputs a that w
multiplies there, is made once for all k.
"""

import weakref
from collections.abc import Iterator
from math import prod

import numpy as np
import torch
from torch import nn

from lib.sparse import live
from lib.sparse.patterns import Named, Pattern, Patterns, children

PIECE_BYTES = 512 << 10  # of a convolution's gathered inputs at a time: they stay in the cache
# the settings that these passes know, of the modules that they know
PLAIN: dict[type, dict[str, object]] = {
    nn.Linear: {},
    nn.Conv2d: {"stride": (1, 1), "dilation": (1, 1), "padding": (0, 0), "groups": 1},
    nn.ReLU: {"inplace": False},
    nn.MaxPool2d: {"kernel_size": 2},
    nn.AvgPool2d: {"kernel_size": 2},
    nn.Tanh: {},
    nn.Flatten: {},
}
DENSEST = 0.6  # live share of a kernel above which batched products cost less than single weights
# of a layer, by kind of parameter that counts: its mask and its direction, if any
Asked = dict[str, tuple[torch.Tensor | None, torch.Tensor | None]]
_known: weakref.WeakKeyDictionary = weakref.WeakKeyDictionary()  # network -> its latest Patterns


class _Layer:
    """A layer in a pass: the formulas of ``lib.metrics.layers`` for δ' [R, k, n]."""

    def __init__(self, pattern: Pattern, module, a: torch.Tensor):
        self.pattern, self.a, self.weight = pattern, a, module.weight
        z = pattern.outputs(pattern.matrix.of(self.weight), module.bias, a)
        self.out, backs = live.through((live.BEHIND[kind] for kind in pattern.behind), z)
        gain = torch.ones_like(self.out)
        for back in backs:
            gain = back(gain)
        self.gain = gain.unflatten(0, (pattern.blocks, -1))

    def before(self, delta):
        """The gradient in the layer's outputs z, [rows, k, n]."""
        return (self.gain.unsqueeze(2) * delta).flatten(0, 1)

    def back(self, delta):
        """δ' of the layer before it, or the gradient in the input: [columns, k, n]."""
        found = self.pattern.transposed.of(self.weight) @ self.before(delta).flatten(1)
        return found.unflatten(1, delta.shape[1:])


class _Linear(_Layer):
    def squares_and_dots(self, delta, asked: Asked):
        energy, found = delta.square().sum(1).mul_(self.gain[0]).mul_(self.gain[0]), []
        if "bias" in asked:
            alive, ahead = asked["bias"]
            squares = energy if alive is None else energy * alive.unsqueeze(1)
            dots = 0.0 if ahead is None else ahead @ self.before(delta)[:, 0]
            found.append((squares.sum(0), dots))
        if "weight" in asked:
            ahead = asked["weight"][1]
            squares = energy.mul_(self.pattern.ones(energy.dtype) @ self.a.square())
            dots = (
                0.0
                if ahead is None
                else (self.before(delta)[:, 0] * (self.pattern.matrix.of(ahead) @ self.a)).sum(0)
            )
            found.append((squares.sum(0), dots))
        return found


class _Convolution(_Layer):
    def _gradients(self, delta):
        """G [m, k, n] of the live weights in turn, as many at a time as fit the cache."""
        (_, k, n), channels = delta.shape, (self.pattern.channels, -1)
        gain, behind = self.gain.unflatten(1, channels), delta.unflatten(0, channels)
        given = gain * behind[..., 0, :] if k == 1 else gain
        uses = self.pattern.reads.shape[1]
        step = max(1, PIECE_BYTES // (uses * max(1, k // 4) * n * self.a.element_size()))
        for channel, reads in enumerate(self.pattern.reads.split(self.pattern.counts)):
            for part in reads.split(step):
                a = self.a.index_select(0, part.flatten()).view(len(part), 4, uses // 4, n)
                seen = a.mul_(given[:, channel])
                yield (
                    seen.sum((1, 2)).unsqueeze(1)
                    if k == 1
                    else (seen.sum(1).unsqueeze(2) * behind[channel]).sum(1)
                )

    def squares_and_dots(self, delta, asked: Asked):
        found = []
        if "weight" in asked:
            pieces, dots, ahead = self._gradients(delta), 0.0, asked["weight"][1]
            if delta.shape[1] == 1:  # all together: they are small then
                pieces = (torch.cat(list(pieces)),)
            if ahead is not None:
                dots = ahead.flatten().index_select(0, self.pattern.live) @ pieces[0][:, 0]
            found.append((sum(g.square().sum((0, 1)) for g in pieces), dots))
        if "bias" in asked:
            alive, ahead = asked["bias"]
            each = self.gain.sum(0).unsqueeze(1) * delta
            g = each.unflatten(0, (self.pattern.channels, -1)).sum(1)
            squares = g.square() if alive is None else g.square() * alive.view(-1, 1, 1)
            found.append((squares.sum((0, 1)), 0.0 if ahead is None else ahead @ g[:, 0]))
        return found


class LivePass:
    """A forward pass of ``x`` as ``lib.metrics.passes.Pass`` makes it, along ``patterns``."""

    @torch.no_grad()
    def __init__(self, network: nn.Module, x: torch.Tensor, patterns: Patterns):
        self.layers: dict[str, _Layer] = {}
        a = x.flatten(1).t().contiguous()
        for pattern in patterns.layers:
            kind = _Convolution if pattern.blocks > 1 else _Linear
            layer = kind(pattern, network.get_submodule(pattern.name), a)
            self.layers[pattern.name], a = layer, layer.out
        self.logits = a.t()

    @torch.no_grad()
    def deltas(self, cotangents: list[torch.Tensor], more: bool = False) -> Iterator:
        """(name, layer, δ' [R, k, n]) of each layer for k ``cotangents`` [n, C] in the logits."""
        found, layers = [torch.stack([c.t() for c in cotangents], 1)], list(self.layers.values())
        for layer in reversed(layers[1:]):
            found.insert(0, layer.back(found[0]))
        yield from zip(self.layers, layers, found, strict=True)

    @torch.no_grad()
    def jacobian_squares(self) -> torch.Tensor:
        """‖∂ logits / ∂ x‖²_F of each example, [n]."""
        first, *_ = *layers, last = self.layers.values()
        matrices = [layer.pattern.transposed.of(layer.weight) for layer in layers]
        total = torch.zeros_like(first.a)
        for row in last.weight:  # one logit after the other, so that each stays in the cache
            delta = row.view(-1, 1, 1).expand(-1, 1, total.shape[1])  # the same for all examples
            for layer, matrix in zip(reversed(layers), reversed(matrices), strict=True):
                delta = (matrix @ layer.before(delta).squeeze(1)).unsqueeze(1)
            total.addcmul_(delta[:, 0], delta[:, 0])
        return total.sum(0)


def patterns_of(
    network: nn.Module, x: torch.Tensor, mask: Named | None, batch: int
) -> Patterns | None:
    """The ``Patterns`` for passes of ``batch`` examples, or None where dense passes are right.

    ``mask`` may leave names out, all of whose weights live; None takes the weights that are not
    zero as the live ones. The answer is None where ``live`` does not know the network, or would not
    take it for training; where tensors lie on another device, in other types, or do not fit the
    network (so that the dense pass says what is wrong); where a weight that the mask prunes is not
    zero; and where a convolution has too many live weights. Patterns are found once for a network
    and the values of its mask, and hold no weights: to know them changes time alone.
    """
    shape = tuple(x.shape[1:])
    named = dict(network.named_parameters())  # once: in small networks such walks count
    tensors = (x, *named.values())
    if type(network) not in live.DENSE or not (
        x.dtype in (torch.float32, torch.float64)
        and all(t.device.type == "cpu" and t.dtype == x.dtype for t in tensors)
        and all(_fits(module, before) for _, module, before, _ in children(network, shape))
    ):
        return None
    weights = {n: p.detach() for n, p in named.items() if p.dim() > 1}
    every = torch.ones((), dtype=torch.bool)
    lives = {
        name: torch.from_numpy(value.numpy() != 0)  # NumPy compares and counts much faster
        if mask is None
        else mask.get(name, every).expand_as(value)
        for name, value in weights.items()
    }
    dense = any(
        np.count_nonzero(kernel.numpy()) > DENSEST * kernel.numel()
        for kernel in lives.values()
        if kernel.dim() == 4
    )
    if dense or not live.pays(network, lives, shape, batch):
        return None
    if network not in _known or not _known[network].are_of(lives, shape):
        _known[network] = Patterns(network, lives, shape)
    outside = mask is not None and any(
        np.count_nonzero((weights[n].numpy() != 0) > alive.numpy()) for n, alive in lives.items()
    )
    return None if outside else _known[network]


def _fits(module, before):
    """Whether a module is as ``lib.models.networks`` builds it, and takes inputs of this shape."""
    changed = module._forward_hooks or module._forward_pre_hooks or type(module) not in PLAIN
    if changed or any(getattr(module, n) != v for n, v in PLAIN[type(module)].items()):
        return False
    inputs = before[:-2] if type(module) is nn.Conv2d else (prod(before),)
    own = module._parameters
    return not own or (own["bias"] is not None and inputs == tuple(own["weight"].shape[1:2]))
