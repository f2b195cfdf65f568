"""The Hessian of the mean cross-entropy, or the Fisher matrix, as an operator: ``H @ v``.

A product is the second backward pass through the gradient (Pearlmutter 1994). The gradient's own
graph is built once and kept for all products where it fits, so that a product costs less than two
plain passes; forward-over-reverse costs twice to four times that. The Fisher matrix is the Hessian
of the cross-entropy to the network's own predictions, held fixed.
"""

from functools import cached_property

import torch
from torch import Generator, Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from lib.metrics.contract import Named, check, leaves, require
from lib.metrics.gradients import summed_loss
from lib.metrics.passes import outputs_bytes

GRAPH_BYTES = 512 << 20  # graphs of the gradient kept between products; beyond, each builds anew


class Curvature:
    """The Hessian of the mean cross-entropy, or the Fisher matrix, in the live weights.

    ``H @ v`` is the product with v [size], the live coordinates of the counted parameters one after
    the other. ``of`` is ``"hessian"`` or ``"fisher"`` (which needs no labels). Arguments
    (``options``) and errors: see ``lib.metrics.contract``. The weights must not change while it is
    in use (autograd says so).

    >>> network = nn.Linear(1, 2, bias=False).eval()
    >>> _ = nn.init.zeros_(network.weight)
    >>> Curvature(network, torch.tensor([[2.0]]), torch.tensor([0])) @ torch.tensor([1.0, 0.0])
    tensor([ 1., -1.])
    """

    def __init__(
        self,
        network: nn.Module,
        x: Tensor,
        labels: Tensor | None = None,
        *,
        of: str = "hessian",
        **options,
    ):
        require(of in ("hessian", "fisher"), f"of is {of!r}; allowed are hessian, fisher")
        require(of == "fisher" or labels is not None, "the Hessian of the loss needs labels")
        self.network, self.x, self.labels = network, x, labels if of == "hessian" else None
        mask, which, chunk = check(network, x, self.labels, **options)
        self.parameters = leaves(network, which, mask)
        require(self.parameters, "no weight that counts is live: there is nothing to measure")
        self.sizes = [p.numel() for p in self.parameters.values()]
        self.total, first = sum(self.sizes), next(iter(self.parameters.values()))
        self.dtype, self.device = first.dtype, first.device
        every = {n: torch.ones_like(p, dtype=torch.bool) for n, p in self.parameters.items()}
        given = [(mask or {}).get(n, live).to(self.device).flatten() for n, live in every.items()]
        self.live = torch.cat(given).nonzero().squeeze(1)
        self.size = len(self.live)
        # about the memory of a graph: some multiple of all outputs. Two examples: BatchNorm
        # without running statistics refuses one
        self.bytes_each = max(1, 2 * outputs_bytes(network, x[:2]))
        self.chunk = chunk or max(1, min(len(x), 512, GRAPH_BYTES // (2 * self.bytes_each)))
        together = any(getattr(m, "running_mean", m) is None for m in network.modules())
        require(
            self.chunk >= len(x) or not together,
            f"chunk is {self.chunk} for {len(x)} examples, but a BatchNorm layer without running "
            f"statistics normalises by the examples that pass together: give chunk={len(x)}, or "
            "fewer examples",
        )
        self._keep = len(x) * self.bytes_each <= GRAPH_BYTES

    def _gradient(self, start):
        """The gradient of a chunk's part of the loss, with its graph, where it is not constant."""
        part = slice(start, start + self.chunk)
        labels = None if self.labels is None else self.labels[part]
        # fused attention has no second derivative
        with torch.enable_grad(), sdpa_kernel(SDPBackend.MATH):
            loss = summed_loss(self.network, self.parameters, self.x[part], labels) / len(self.x)
            gradient = torch.autograd.grad(
                loss, list(self.parameters.values()),
                create_graph=True, allow_unused=True, materialize_grads=True,
            )  # fmt: skip
        return {number: g for number, g in enumerate(gradient) if g.requires_grad}

    @cached_property
    def _graphs(self):
        return [self._gradient(start) for start in range(0, len(self.x), self.chunk)]

    def _second(self, vector, batched=False):
        """The second backward pass for ``vector`` [total], or for each of [b, total] together.

        At the live coordinates.
        """
        inputs, result = list(self.parameters.values()), torch.zeros_like(vector)
        split = zip(vector.split(self.sizes, -1), inputs, strict=True)
        pieces = [v.view((*vector.shape[:-1], *p.shape)) for v, p in split]
        anew = map(self._gradient, range(0, len(self.x), self.chunk))
        for varying in self._graphs if self._keep else anew:
            rows = torch.autograd.grad(
                list(varying.values()), inputs, [pieces[number] for number in varying],
                retain_graph=self._keep, allow_unused=True, materialize_grads=True,
                is_grads_batched=batched,
            )  # fmt: skip
            result += torch.cat([row.reshape((*vector.shape[:-1], -1)) for row in rows], -1)
        return result.index_select(-1, self.live)

    def __matmul__(self, v: Tensor) -> Tensor:
        require(
            v.shape == (self.size,),
            f"the vector has shape {tuple(v.shape)}; there are {self.size} live weights",
        )
        return self._second(self._scatter(v))

    def _scatter(self, v):
        return v.new_zeros(self.total).index_copy_(0, self.live, v)

    def flat(self, named: Named) -> Tensor:
        """The live coordinates [size] of tensors by parameter name; what is not named is zero."""
        pairs = self.parameters.items()
        every = [named.get(name, torch.zeros_like(p)).detach().flatten() for name, p in pairs]
        return torch.cat(every).index_select(0, self.live)

    def named(self, v: Tensor) -> Named:
        """The reverse of ``flat``: tensors by parameter name, zero where no weight lives."""
        pieces = zip(self._scatter(v).split(self.sizes), self.parameters.items(), strict=True)
        return {name: piece.view_as(p) for piece, (name, p) in pieces}

    def rows(self, start: int, stop: int) -> Tensor:
        """Rows ``start`` to ``stop`` of the matrix, [rows, size], in one batched pass.

        One after the other where PyTorch has no batched form of some second derivative.
        """
        places = self.live[start:stop]
        units = torch.zeros(len(places), self.total, dtype=self.dtype, device=self.device)
        units[range(len(places)), places] = 1.0
        try:
            return self._second(units, batched=True)
        except RuntimeError:  # of GroupNorm, in PyTorch 2.11
            return torch.stack([self._second(unit) for unit in units])

    def signs(self, generator: Generator) -> Tensor:
        """A Rademacher vector [size], drawn on the CPU."""
        drawn = torch.randint(0, 2, (self.size,), generator=generator)
        return (2 * drawn - 1).to(self.device, self.dtype)
