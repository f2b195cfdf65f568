"""The Hessian of the mean cross-entropy, or the Fisher matrix, in the live weights as an operator: ``H @ v``.

A product is the second backward pass through the gradient (Pearlmutter 1994). The gradient's own graph is built once and kept for
all products where it fits, so that a product costs less than two plain passes; forward-over-reverse costs twice to four times that.
The Fisher matrix is the Hessian of the cross-entropy to the network's own predictions, held fixed, so that ``of="fisher"`` gives the
same tools for it. Arguments (``mask``, ``which``, ``chunk``) and errors as in ``lib.metrics.gradients``.
"""

import torch
import torch.nn.functional as F
from torch.func import functional_call

from lib.metrics.gradients import check, parameters
from lib.metrics.layers import MeasureError, Named

GRAPH_BYTES = (
    512 << 20
)  # graphs of the gradient that are kept between products; beyond it they are built anew for each


class Curvature:
    """The Hessian of the mean cross-entropy over the examples, or their Fisher matrix, in the live weights: an operator.

    ``H @ v`` is the product with v [size], the live coordinates of the counted parameters one after the other. ``of`` is
    ``"hessian"`` or ``"fisher"`` (which needs no labels). The weights must not change while it is in use (autograd says so).
    """

    def __init__(
        self,
        network,
        x,
        labels=None,
        *,
        mask: Named | None = None,
        which="all",
        of="hessian",
        chunk: int | None = None,
    ):
        if of not in ("hessian", "fisher"):
            raise MeasureError(f"of is {of!r}; allowed are hessian, fisher")
        if of == "hessian" and labels is None:
            raise MeasureError("the Hessian of the loss needs labels")
        if chunk is not None and chunk < 1:
            raise MeasureError(f"chunk is {chunk}; it must be at least 1")
        self.network, self.x, self.labels = network, x, labels if of == "hessian" else None
        check(network, x, self.labels, mask, which)
        # parameters of its own on the same memory: the network's own settings of requires_grad stay as they are
        self.parameters = {
            name: p.detach().requires_grad_()
            for name, p in parameters(network, which, mask).items()
        }
        if not self.parameters:
            raise MeasureError("no weight that counts is live: there is nothing to measure")
        self.sizes = [p.numel() for p in self.parameters.values()]
        self.total, self.live = sum(self.sizes), None
        first = next(iter(self.parameters.values()))
        self.dtype, self.device = first.dtype, first.device
        masks = {
            name: mask[name].to(self.device) for name in self.parameters if mask and name in mask
        }
        if not all(live.all() for live in masks.values()):
            everything = {
                name: torch.ones_like(p, dtype=torch.bool) for name, p in self.parameters.items()
            }
            self.live = (
                torch.cat([live.flatten() for live in (everything | masks).values()])
                .nonzero()
                .squeeze(1)
            )
        self.size = self.total if self.live is None else len(self.live)
        self.bytes_each = self._graph_bytes()
        self.chunk = chunk or max(1, min(len(x), 512, GRAPH_BYTES // (2 * self.bytes_each)))
        if self.chunk < len(x) and any(
            getattr(m, "running_mean", m) is None for m in network.modules()
        ):
            raise MeasureError(
                f"chunk is {self.chunk} for {len(x)} examples, but a BatchNorm layer without running statistics normalises by the examples "
                f"that pass together: give chunk={len(x)}, or fewer examples"
            )
        self._graphs, self._keep = {}, len(x) * self.bytes_each <= GRAPH_BYTES

    def _graph_bytes(self):
        """About the memory that one example's graph of the gradient takes: some multiple of all the modules' outputs."""
        sizes = []
        leaves = [m for m in self.network.modules() if not any(m.children())]
        # two examples: BatchNorm without running statistics refuses one
        hooks = [
            m.register_forward_hook(lambda _, __, z: sizes.append(z.numel() * z.element_size()))
            for m in leaves
        ]
        try:
            with torch.no_grad():
                classes = self.network(self.x[:2]).shape[1]
        finally:
            for hook in hooks:
                hook.remove()
        if self.labels is not None and self.labels.max() >= classes:
            raise MeasureError(
                f"labels hold {int(self.labels.max())}; the network has {classes} classes, 0 to {classes - 1}"
            )
        return 2 * sum(sizes) // min(2, len(self.x))

    def _gradient(self, start):
        """The gradient of one chunk's part of the loss, with its graph, for the parameters where it is not constant."""
        if start in self._graphs:
            return self._graphs[start]
        part = slice(start, start + self.chunk)
        with torch.enable_grad():
            logits = functional_call(self.network, self.parameters, (self.x[part],))
            target = (
                torch.softmax(logits.detach(), -1) if self.labels is None else self.labels[part]
            )
            loss = F.cross_entropy(logits, target, reduction="sum") / len(self.x)
            inputs = list(self.parameters.values())
            gradient = torch.autograd.grad(
                loss, inputs, create_graph=True, allow_unused=True, materialize_grads=True
            )
        varying = {number: g for number, g in enumerate(gradient) if g.requires_grad}
        if self._keep:
            self._graphs[start] = varying
        return varying

    def _second(self, vector, batched=False):
        """The second backward pass for ``vector`` [total], or for each of [b, total] together."""
        pieces = [
            v.view(*vector.shape[:-1], *p.shape)
            for v, p in zip(vector.split(self.sizes, -1), self.parameters.values(), strict=True)
        ]
        result = None
        for start in range(0, len(self.x), self.chunk):
            varying = self._gradient(start)
            rows = torch.autograd.grad(
                list(varying.values()), list(self.parameters.values()), [pieces[number] for number in varying],
                retain_graph=self._keep, allow_unused=True, materialize_grads=True, is_grads_batched=batched,
            )  # fmt: skip
            flat = torch.cat([row.flatten(int(batched)) for row in rows], -1)
            result = flat if result is None else result.add_(flat)
        return result

    def __matmul__(self, v: torch.Tensor) -> torch.Tensor:
        if v.shape != (self.size,):
            raise MeasureError(
                f"the vector has shape {tuple(v.shape)}; there are {self.size} live weights"
            )
        return self._gather(self._second(self._scatter(v)))

    def _gather(self, full):
        return full if self.live is None else full.index_select(-1, self.live)

    def _scatter(self, v):
        return v if self.live is None else v.new_zeros(self.total).index_copy_(0, self.live, v)

    def flat(self, named: Named) -> torch.Tensor:
        """The live coordinates [size] of tensors by parameter name; a parameter that is not named counts as zero."""
        return self._gather(
            torch.cat(
                [
                    named.get(name, torch.zeros_like(p)).detach().flatten()
                    for name, p in self.parameters.items()
                ]
            )
        )

    def named(self, v: torch.Tensor) -> Named:
        """The reverse of ``flat``: tensors by parameter name, zero where no weight lives."""
        pieces = self._scatter(v).split(self.sizes)
        return {
            name: piece.view_as(p)
            for (name, p), piece in zip(self.parameters.items(), pieces, strict=True)
        }

    def rows(self, start: int, stop: int) -> torch.Tensor:
        """Rows ``start`` to ``stop`` of the matrix, [rows, size], in one batched pass."""
        places = (
            torch.arange(start, stop, device=self.device)
            if self.live is None
            else self.live[start:stop]
        )
        units = torch.zeros(len(places), self.total, dtype=self.dtype, device=self.device)
        units[torch.arange(len(places), device=self.device), places] = 1.0
        return self._gather(self._second(units, batched=True))

    def signs(self, generator: torch.Generator) -> torch.Tensor:
        """A Rademacher vector [size], drawn on the CPU."""
        return (2 * torch.randint(0, 2, (self.size,), generator=generator) - 1).to(
            self.device, self.dtype
        )
