"""The formulas: from a layer's input a and the gradients δ in its output to those in its weights.

==============  =======================================  =====================
layer           squared norm under the mask M            dot product with D
==============  =======================================  =====================
linear          Σ_o δ_o² (M a²)_o; bias Σ_o δ_o²         δ · (D a + d_b)
convolution     G = δ Uᵀ, U the patches of a: Σ M∘G∘G;   Σ G∘D + Σ δ · d_b
                bias Σ (Σ δ)²
BatchNorm       Σ (Σ_hw δ x̂)² and Σ (Σ_hw δ)², in eval   the same two sums
==============  =======================================  =====================

(Goodfellow 2015, arXiv:1510.01799, for linear layers without a mask.) A layer here is made for one
forward pass and answers two questions, for δ [k, n, ...]: k gradients for the same n examples, so
that what depends on a alone (M a², the patches) is made once for all k. ``asked`` has the kinds of
parameters that count, each with its mask (None: all lives) and its direction, masked (None: none;
a direction is for k = 1).

``squares_and_dots``  of each kind, every example's squared gradient norm [n] summed over k, and the
                      dot product [n] with the direction (0 without one)
``diagonal``          by kind, the squared gradient of each weight, summed over k and n

To cover another layer, write its class and add it to ``KINDS``. A network with a layer that no
formula covers is measured by ``lib.metrics.passes.GeneralPass``.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from lib.metrics.estimate import require
from lib.sparse.passes import Asked
from lib.sparse.patterns import Named

PATCH_BYTES = 2 << 20  # of a convolution's inputs in memory at a time: they stay in the cache


def _live(values, mask):
    return values if mask is None else values * mask


def _explicit(g, live, ahead):
    """The squares and dots of gradients g [k, n, ...]."""
    squares = _live(g, live).square().reshape(*g.shape[:2], -1).sum((0, 2))
    return squares, 0.0 if ahead is None else g[0].reshape(len(squares), -1) @ ahead.reshape(-1)


class Explicit:
    """Parameters whose gradients are at hand: δ is kind -> [k, n, *shape]."""

    def _gradients(self, delta) -> Named:
        return delta

    def squares_and_dots(self, delta, asked: Asked):
        g = self._gradients(delta)
        return [_explicit(g[kind], *each) for kind, each in asked.items()]

    def diagonal(self, delta) -> Named:
        return {kind: g.square().sum((0, 1)) for kind, g in self._gradients(delta).items()}


class _Linear:
    def __init__(self, module, a: torch.Tensor):
        require(
            a.dim() == 2,
            f"a Linear layer is applied to inputs of shape {tuple(a.shape)} and not [n, features]",
        )
        self.module, self.a = module, a

    def squares_and_dots(self, delta, asked: Asked):
        energy, found = delta.square().sum(0), []
        if "weight" in asked:
            (live, ahead), a2 = asked["weight"], self.a.square()
            squares = (
                energy.sum(1) * a2.sum(1)
                if live is None
                else (energy * (a2 @ live.t().to(a2.dtype))).sum(1)
            )
            dots = 0.0 if ahead is None else (delta[0] * (self.a @ ahead.t())).sum(1)
            found.append((squares, dots))
        if "bias" in asked:
            live, ahead = asked["bias"]
            dots = 0.0 if ahead is None else delta[0] @ ahead
            found.append((_live(energy, live).sum(1), dots))
        return found

    def diagonal(self, delta) -> Named:
        energy = delta.square().sum(0)
        return {"weight": energy.t() @ self.a.square(), "bias": energy.sum(0)}


class _Convolution:
    """Row by row of the kernel: for its row y, G_y = δ V_yᵀ, V the patches along x alone.

    They are a view for each y at stride 1.
    """

    def __init__(self, module, a: torch.Tensor):
        require(
            module.padding_mode == "zeros" and not isinstance(module.padding, str),
            f"a convolution has padding {module.padding!r} of mode {module.padding_mode!r}",
        )
        self.module, self.a = module, a

    def _gradients(self, delta):
        """(examples, output channels, kernel row y, G [m, k, o, kx, c]) in pieces for the cache."""
        conv, (k, n, _, rows, columns) = self.module, delta.shape
        (kh, kw), (sh, sw), (dh, dw) = conv.kernel_size, conv.stride, conv.dilation
        (ph, pw), per = conv.padding, conv.out_channels // conv.groups
        a = self.a.permute(0, 2, 3, 1)  # channels-last: patches are runs in memory
        a = F.pad(a, (0, 0, pw, pw, ph, ph)) if pw or ph else a.contiguous()
        height, channels = a.shape[1], a.shape[3] // conv.groups
        step = max(1, PATCH_BYTES // (height * columns * kw * channels * a.element_size()))
        for group in range(conv.groups):
            own = a[..., group * channels : (group + 1) * channels]
            out = slice(group * per, (group + 1) * per)
            rows_of = (  # of one cotangent a view where δ is channels-last
                delta[0, :, out].permute(0, 2, 3, 1).reshape(n, -1, per).transpose(1, 2)
                if k == 1
                else delta[:, :, out].transpose(0, 1).reshape(n, k * per, -1)
            )
            for start in range(0, n, step):
                part = slice(start, min(start + step, n))
                m = part.stop - start
                patches = own[part].unfold(2, dw * (kw - 1) + 1, sw)[..., ::dw].transpose(3, 4)
                patches = patches.reshape(m, height, columns, kw * channels)
                for y in range(kh):
                    window = patches[:, y * dh : y * dh + sh * (rows - 1) + 1 : sh]
                    window = window.reshape(m, rows * columns, kw * channels)
                    g = torch.bmm(rows_of[part], window).view(m, k, per, kw, channels)
                    yield part, out, y, g

    def squares_and_dots(self, delta, asked: Asked):
        found = []
        if "weight" in asked:
            squares, dots = delta.new_zeros(2, delta.shape[1])
            live, ahead = (  # [y, o, kx, c]
                None if w is None else w.permute(2, 0, 3, 1).to(delta.dtype)
                for w in asked["weight"]
            )
            for part, out, y, g in self._gradients(delta):
                if live is not None:
                    g.mul_(live[y, out])
                squares[part] += torch.linalg.vector_norm(g.flatten(1), dim=1).square_()
                if ahead is not None:
                    dots[part] += g.flatten(1) @ ahead[y, out].flatten()
            found.append((squares, dots))
        if "bias" in asked:
            found.append(_explicit(delta.sum((3, 4)), *asked["bias"]))
        return found

    def diagonal(self, delta) -> Named:
        o, c, kh, kw = self.module.weight.shape
        total = delta.new_zeros(kh, o, kw, c)
        for _, out, y, g in self._gradients(delta):
            total[y, out] += g.square().sum((0, 1))
        found = {"weight": total.permute(1, 3, 0, 2).contiguous()}
        if self.module.bias is not None:
            found["bias"] = delta.sum((3, 4)).square().sum((0, 1))
        return found


class _BatchNorm(Explicit):
    def __init__(self, module, a: torch.Tensor):
        require(
            module.running_mean is not None,
            "a BatchNorm layer keeps no running statistics: in eval mode its examples depend on "
            "one another",
        )
        self.module, self.a = module, a

    def _gradients(self, delta):
        """In scale and shift, [k, n, c]: Σ δ x̂ from Σ δ a and Σ δ, without x̂ in memory."""
        module, places = self.module, tuple(range(3, delta.dim()))
        along, shift = delta * self.a, delta
        if places:
            along, shift = along.sum(places), shift.sum(places)
        scale = (module.running_var + module.eps).rsqrt()
        return {"weight": (along - module.running_mean * shift) * scale, "bias": shift}


KINDS: dict[type[nn.Module], Any] = {
    nn.Linear: _Linear,
    nn.Conv2d: _Convolution,
    nn.BatchNorm1d: _BatchNorm,
    nn.BatchNorm2d: _BatchNorm,
}
