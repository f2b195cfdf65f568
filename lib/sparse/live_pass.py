"""The passes of ``lib.metrics.gradients`` at the cost of the live weights: masked MLPs and LeNet-5 on a CPU.

Every layer is a sparse matrix and the batch comes last, as in ``lib.sparse.live``. What follows a layer (a pool, an activation) acts on
each output place alone: the gradient δ in the layer's outputs z is a gain, which the forward pass fixes, times the gradient δ' behind
it. For k cotangents δ' alone is held, [rows, k, n]; behind a pool it has a quarter of the rows of z. A convolution's gradient of
example n in a live weight w is then G_w = Σ_t δ'_t E_wt, over the places t behind the pool, where E_wt = Σ_b gain_bt a_bt, over
the four outputs b at the place t and the inputs a that w multiplies there, is made once for all k.
"""

from collections.abc import Iterator

import torch
from torch import nn

from lib.metrics.layers import Layer, Named
from lib.sparse import live
from lib.sparse.live_patterns import Pattern, Patterns

PIECE_BYTES = (
    512 << 10
)  # of a convolution's gathered inputs at a time: they should stay in the cache


def _behind(z, kinds):
    """(output [R, n], gain [blocks, R, n]) of the modules behind a layer, for its outputs z [blocks, R, n]; no gain behind the logits."""
    gain = None
    for kind in kinds:
        if kind is nn.MaxPool2d:
            out = z.amax(0, keepdim=True)
            slope = live.first_of_largest(z, out[0]).to(z.dtype)
        elif kind is nn.AvgPool2d:
            out, slope = z.mean(0, keepdim=True), z.new_tensor(0.25)
        elif kind is nn.ReLU:
            out = z.relu_()
            slope = out.sign()
        else:
            out = z.tanh_()
            slope = 1 - out * out
        z, gain = out, slope if gain is None else gain * slope
    return z[0], gain


class _Layer(Layer):
    """A layer in a pass: the formulas of ``lib.metrics.layers`` for δ' [R, k, n]."""

    def __init__(self, pattern: Pattern, module: nn.Module, a: torch.Tensor):
        self.pattern, self.a = pattern, a
        self.weight, self.bias = module.weight.detach(), module.bias.detach()
        bias = self.bias if pattern.blocks == 1 else self.bias.index_select(0, pattern.channel)
        z = torch.addmm(bias.unsqueeze(1), pattern.matrix(self.weight), a)
        self.out, self.gain = _behind(z.unflatten(0, (pattern.blocks, -1)), pattern.after)

    def before(self, delta):
        """The gradient in the layer's outputs z, [rows, k, n]."""
        return delta if self.gain is None else (self.gain.unsqueeze(2) * delta).flatten(0, 1)

    def back(self, delta):
        """δ' of the layer before it, or the gradient in the input: [columns, k, n]."""
        return (self.pattern.transposed(self.weight) @ self.before(delta).flatten(1)).unflatten(
            1, delta.shape[1:]
        )


class _Linear(_Layer):
    def _energy(self, delta):
        energy = delta[:, 0].square() if delta.shape[1] == 1 else delta.square().sum(1)
        return energy if self.gain is None else energy.mul_(self.gain[0]).mul_(self.gain[0])

    def squares(self, delta, mask: Named, which: str) -> Named:
        """By parameter kind, the squared norms [n] summed over k; the live weights are those of the pass."""
        energy = self._energy(delta)
        found = {}
        if which == "all":
            found["bias"] = (
                energy if mask["bias"] is None else energy * mask["bias"].unsqueeze(1)
            ).sum(0)
        found["weight"] = energy.mul_(self.pattern.ones(energy.dtype) @ self.a.square()).sum(0)
        return found

    def dots(self, delta, direction: Named):
        """Dot products [n] with the direction, for one cotangent."""
        along, one = delta.new_zeros(delta.shape[2]), self.before(delta)[:, 0]
        if direction["weight"] is not None:
            along = along + (one * (self.pattern.matrix(direction["weight"]) @ self.a)).sum(0)
        return along if direction["bias"] is None else along + direction["bias"] @ one

    def diagonal(self, delta, which: str) -> Named:
        """By parameter kind, the squared gradient of each weight, summed over k and n."""
        energy, pattern = self._energy(delta), self.pattern
        values = torch.sparse.sampled_addmm(
            pattern.ones(energy.dtype), energy, self.a.square().t(), beta=0.0
        ).values()
        found = {
            "weight": torch.zeros_like(self.weight)
            .flatten()
            .index_copy_(0, pattern.entries, values)
            .view_as(self.weight)
        }
        return {**found, "bias": energy.sum(1)} if which == "all" else found


class _Convolution(_Layer):
    _latest = (
        None,
        None,
    )  # δ' of one cotangent, and its G: squares and dot products are asked for in turn

    def _inputs(self, columns):
        """(channel, which of the live weights, the inputs that each of them multiplies [m, 4, T, n]) in pieces that fit the cache.

        A piece is as large as if the inputs had so many ``columns``.
        """
        pattern, stop = self.pattern, 0
        step = max(1, PIECE_BYTES // (pattern.reads.shape[1] * columns * self.a.element_size()))
        for channel, count in enumerate(pattern.counts):
            start, stop = stop, stop + count
            for first in range(start, stop, step):
                part = slice(first, min(first + step, stop))
                reads = pattern.reads[part]
                yield (
                    channel,
                    part,
                    self.a.index_select(0, reads.flatten()).view(
                        len(reads), 4, -1, self.a.shape[1]
                    ),
                )

    def _gradients(self, delta):
        """(which of the live weights, G [m, k, n])."""
        _, k, n = delta.shape
        gain, delta = (
            values.unflatten(-2 - i, (self.pattern.channels, -1))
            for i, values in enumerate((self.gain, delta))
        )
        for channel, part, a in self._inputs(max(1, k // 4) * n):
            yield part, (a.mul_(gain[:, channel]).sum(1).unsqueeze(2) * delta[channel]).sum(1)

    def _gradient(self, delta):
        """G [live, n] of one cotangent."""
        if self._latest[0] is not delta:
            g = delta.new_empty(len(self.pattern.live), delta.shape[2])
            given = (self.gain * delta[:, 0]).unflatten(1, (self.pattern.channels, -1))
            for channel, part, a in self._inputs(delta.shape[2]):
                torch.sum(a.mul_(given[:, channel]), (1, 2), out=g[part])
            self._latest = delta, g
        return self._latest[1]

    def _bias(self, delta):
        """Each example's gradients [channels, k, n]."""
        channels = self.pattern.channels
        return (self.gain.sum(0).unsqueeze(1) * delta).unflatten(0, (channels, -1)).sum(1)

    def squares(self, delta, mask: Named, which: str) -> Named:
        if delta.shape[1] == 1:
            found = {"weight": self._gradient(delta).square().sum(0)}
        else:
            found = {
                "weight": sum(
                    (g.square_().sum((0, 1)) for _, g in self._gradients(delta)),
                    delta.new_zeros(delta.shape[2]),
                )
            }
        if which == "all":
            bias = self._bias(delta).square_()
            found["bias"] = (
                bias if mask["bias"] is None else bias * mask["bias"].view(-1, 1, 1)
            ).sum((0, 1))
        return found

    def dots(self, delta, direction: Named):
        along = delta.new_zeros(delta.shape[2])
        if direction["weight"] is not None:
            along = along + direction["weight"].flatten().index_select(
                0, self.pattern.live
            ) @ self._gradient(delta)
        return (
            along
            if direction["bias"] is None
            else along + direction["bias"] @ self._bias(delta)[:, 0]
        )

    def diagonal(self, delta, which: str) -> Named:
        total = torch.zeros_like(self.weight).flatten()
        for part, g in self._gradients(delta):
            total[self.pattern.live[part]] = g.square_().sum((1, 2))
        found = {"weight": total.view_as(self.weight)}
        return (
            {**found, "bias": self._bias(delta).square_().sum((1, 2))} if which == "all" else found
        )


class LivePass:
    """A forward pass of ``x`` as ``lib.metrics.gradients.Pass`` makes it, through the ``Patterns`` of its network."""

    @torch.no_grad()
    def __init__(self, network: nn.Module, x: torch.Tensor, patterns: Patterns):
        self.layers, a = {}, x.flatten(1).t().contiguous()
        for layer in patterns.layers:
            kind = _Convolution if layer.blocks > 1 else _Linear
            self.layers[layer.name] = kind(layer, network.get_submodule(layer.name), a)
            a = self.layers[layer.name].out
        self.logits = a.t()

    @torch.no_grad()
    def deltas(
        self, cotangents: list[torch.Tensor], more: bool = False
    ) -> Iterator[tuple[str, object, torch.Tensor]]:
        """(name, layer, δ' [R, k, n]) of each layer for ``cotangents``, k gradients [n, C] in the logits."""
        delta, found = torch.stack([c.t() for c in cotangents], 1), []
        for number, layer in reversed(list(enumerate(self.layers.values()))):
            found.append(delta)
            delta = layer.back(delta) if number else None
        yield from zip(self.layers, self.layers.values(), reversed(found), strict=True)

    @torch.no_grad()
    def jacobian_squares(self) -> torch.Tensor:
        """‖∂ logits / ∂ x‖²_F of each example, [n]."""
        *layers, last = self.layers.values()
        matrices = [layer.pattern.transposed(layer.weight) for layer in layers]
        total = torch.zeros_like(next(iter(self.layers.values())).a)
        for row in last.weight:  # one logit after the other, so that each stays in the cache; its δ is the same for all examples
            delta = row.view(-1, 1, 1).expand(-1, 1, total.shape[1])
            for layer, matrix in zip(reversed(layers), reversed(matrices), strict=True):
                delta = (matrix @ layer.before(delta).squeeze(1)).unsqueeze(1)
            total.addcmul_(delta[:, 0], delta[:, 0])
        return total.sum(0)
