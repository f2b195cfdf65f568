"""The formulas: from a layer's input a and the gradients δ in its output to each example's gradient in its weights.

==============  ===================================================  =====================
layer           squared norm under the mask M                        dot product with D
==============  ===================================================  =====================
linear          Σ_o δ_o² (M a²)_o; bias Σ_o δ_o²                     δ · (D a + d_b)
convolution     G = δ Uᵀ, U the patches of a: Σ M∘G∘G; bias Σ (Σ δ)²   Σ G∘D + Σ δ · d_b
BatchNorm       Σ (Σ_hw δ x̂)² and Σ (Σ_hw δ)², in eval mode          the same two sums
==============  ===================================================  =====================

A layer here is made for one forward pass. δ has shape [k, n, ...]: k gradients for the same n examples, so that what depends on a
alone (M a², the patches) is made once for all k. To cover another layer, write its class and add it to ``KINDS``.
"""

import torch
import torch.nn.functional as F
from torch import nn

Named = dict[str, torch.Tensor]
PATCH_BYTES = (
    2 << 20
)  # of a convolution's inputs in memory at a time: they should stay in the cache


class MeasureError(ValueError):
    """A network, mask or set of examples that cannot be measured; the message names what is wrong and what to do."""


def _live(values, mask):
    return values if mask is None else values * mask


class Layer:
    """What every layer answers, from its input and δ; ``mask`` and ``direction`` by parameter kind, the direction masked already."""

    def squares_and_dots(self, delta, mask: Named, direction: Named, which: str):
        """By parameter kind, the squared norms [n] summed over k; and the dot products [n] with the direction, of the first of k.

        A layer that has its gradients at hand answers both from them.
        """
        return self.squares(delta, mask, which), self.dots(delta, direction)


class _Linear(Layer):
    def __init__(self, module: nn.Linear, a: torch.Tensor):
        if a.dim() != 2:
            raise MeasureError(
                f"a Linear layer is applied to inputs of shape {tuple(a.shape)}; the formulas need [n, features]"
            )
        self.module, self.a = module, a

    def squares(self, delta, mask: Named, which: str) -> Named:
        """By parameter kind, the squared norms [n] summed over k."""
        energy, a2 = delta.square().sum(0), self.a.square()
        if mask["weight"] is None:
            found = {"weight": energy.sum(1) * a2.sum(1)}
        else:
            found = {"weight": (energy * (a2 @ mask["weight"].t().to(a2.dtype))).sum(1)}
        if which == "all" and self.module.bias is not None:
            found["bias"] = _live(energy, mask["bias"]).sum(1)
        return found

    def dots(self, delta, direction: Named):
        """Dot products [n] with the direction, for the first of the k gradients."""
        delta = delta[0]
        along = delta.new_zeros(len(delta))
        if direction["weight"] is not None:
            along = along + (delta * (self.a @ direction["weight"].t())).sum(1)
        return along if direction["bias"] is None else along + delta @ direction["bias"]

    def diagonal(self, delta, which: str) -> Named:
        """By parameter kind, the squared gradient of each weight, summed over k and n."""
        energy = delta.square().sum(0)
        found = {"weight": energy.t() @ self.a.square()}
        if which == "all" and self.module.bias is not None:
            found["bias"] = energy.sum(0)
        return found


class _Convolution(Layer):
    """Row by row of the kernel: for its row y, G_y = δ V_yᵀ with V the patches along x alone, a view for each y at stride 1."""

    def __init__(self, module: nn.Conv2d, a: torch.Tensor):
        if module.padding_mode != "zeros" or isinstance(module.padding, str):
            raise MeasureError(
                f"a convolution has padding {module.padding!r} of mode {module.padding_mode!r}; numbers of zeros are covered"
            )
        self.module, self.a = module, a

    def _gradients(self, delta):
        """(examples, output channels, kernel row y, G [m, k, o, kx, c]) in pieces that fit the cache."""
        conv = self.module
        (kh, kw), (sh, sw), (dh, dw), (ph, pw) = (
            conv.kernel_size,
            conv.stride,
            conv.dilation,
            conv.padding,
        )
        k, n, _, rows, columns = delta.shape
        groups, per = conv.groups, conv.out_channels // conv.groups
        a = self.a.permute(0, 2, 3, 1)  # channels-last: patches are runs in memory
        a = F.pad(a, (0, 0, pw, pw, ph, ph)) if pw or ph else a.contiguous()
        height, channels = a.shape[1], a.shape[3] // groups
        step = max(1, PATCH_BYTES // (height * columns * kw * channels * a.element_size()))
        for group in range(groups):
            own = a[..., group * channels : (group + 1) * channels]
            out = slice(group * per, (group + 1) * per)
            if k == 1:  # a view where δ is channels-last
                rows_of = (
                    delta[0, :, out]
                    .permute(0, 2, 3, 1)
                    .reshape(n, rows * columns, per)
                    .transpose(1, 2)
                )
            else:
                rows_of = (
                    delta[:, :, out].permute(1, 0, 2, 3, 4).reshape(n, k * per, rows * columns)
                )
            for start in range(0, n, step):
                part = slice(start, min(start + step, n))
                m, (s0, s1, s2, s3) = part.stop - start, own.stride()
                shape, strides = (m, height, columns, kw, channels), (s0, s1, s2 * sw, s2 * dw, s3)
                offset = own.storage_offset() + start * s0
                patches = own.as_strided(shape, strides, offset).reshape(
                    m, height, columns, kw * channels
                )
                for y in range(kh):
                    window = patches[:, y * dh : y * dh + sh * (rows - 1) + 1 : sh].reshape(
                        m, rows * columns, kw * channels
                    )
                    yield (
                        part,
                        out,
                        y,
                        torch.bmm(rows_of[part], window).view(m, k, per, kw, channels),
                    )

    def squares(self, delta, mask: Named, which: str) -> Named:
        return self.squares_and_dots(delta, mask, {"weight": None, "bias": None}, which)[0]

    def squares_and_dots(self, delta, mask: Named, direction: Named, which: str):
        total, along = delta.new_zeros(2, delta.shape[1])
        live, ahead = (
            None if w is None else w.permute(2, 0, 3, 1).to(delta.dtype)
            for w in (mask["weight"], direction["weight"])
        )
        for part, out, y, g in self._gradients(delta):  # live and ahead: [y, o, kx, c]
            if live is not None:
                g.mul_(live[y, out])
            total[part] += torch.linalg.vector_norm(g.flatten(1), dim=1).square_()
            if ahead is not None:
                along[part] += g.flatten(1) @ ahead[y, out].flatten()
        found = {"weight": total}
        if (which == "all" and self.module.bias is not None) or direction["bias"] is not None:
            bias = _live(delta.sum((3, 4)), mask["bias"])
            if which == "all":
                found["bias"] = bias.square().sum((0, 2))
            if direction["bias"] is not None:
                along = along + bias[0] @ direction["bias"]
        return found, along

    def diagonal(self, delta, which: str) -> Named:
        o, c, kh, kw = self.module.weight.shape
        total = delta.new_zeros(kh, o, kw, c)
        for _, out, y, g in self._gradients(delta):
            total[y, out] += g.square().sum((0, 1))
        found = {"weight": total.permute(1, 3, 0, 2).contiguous()}
        if which == "all" and self.module.bias is not None:
            found["bias"] = delta.sum((3, 4)).square().sum((0, 1))
        return found


class _BatchNorm(Layer):
    def __init__(self, module, a: torch.Tensor):
        if module.running_mean is None:
            raise MeasureError(
                "a BatchNorm layer keeps no running statistics: in eval mode its examples depend on one another"
            )
        self.module, self.a = module, a

    def _gradients(self, delta):
        """Each example's gradients in scale and shift, [k, n, c]: Σ δ x̂ from Σ δ a and Σ δ, without x̂ in memory."""
        module, places = self.module, tuple(range(3, delta.dim()))
        along, shift = delta * self.a, delta
        if places:
            along, shift = along.sum(places), shift.sum(places)
        scale = (module.running_var + module.eps).rsqrt()
        return {"weight": (along - module.running_mean * shift) * scale, "bias": shift}

    def squares(self, delta, mask: Named, which: str) -> Named:
        return self.squares_and_dots(delta, mask, {"weight": None, "bias": None}, which)[0]

    def squares_and_dots(self, delta, mask: Named, direction: Named, which: str):
        found, along = {}, delta.new_zeros(delta.shape[1])
        if which == "weights" or self.module.weight is None:
            return found, along
        for kind, g in self._gradients(delta).items():
            found[kind] = _live(g, mask[kind]).square().sum((0, 2))
            if direction[kind] is not None:
                along = along + g[0] @ direction[kind]
        return found, along

    def diagonal(self, delta, which: str) -> Named:
        if which == "weights" or self.module.weight is None:
            return {}
        return {kind: g.square().sum((0, 1)) for kind, g in self._gradients(delta).items()}


KINDS = {
    nn.Linear: _Linear,
    nn.Conv2d: _Convolution,
    nn.BatchNorm1d: _BatchNorm,
    nn.BatchNorm2d: _BatchNorm,
}
