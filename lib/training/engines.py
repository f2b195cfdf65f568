"""Forward and backward passes of a group of members: batched products for MLPs, members in turn
for all else, and those of ``lib.sparse.live`` where few weights live.

All engines have the same three methods. ``gradients(x, y)`` takes a batch for each member, x
[c, B, ...] and labels y int64 [c, B], fills the group's gradient rows with those of each member's
mean cross-entropy, and returns the losses [c]. ``logits(x)`` evaluates the same inputs x [n, ...]
in every member: [c, n, C]. ``changed(k)`` hears that the mask of member k has changed. With label
smoothing e, the cross-entropy is against 1 - e for the label and e / C for each of the C classes
(Szegedy et al. 2016, section 7).
"""

from functools import partial
from typing import TypeGuard

import torch
import torch.nn.functional as F
from torch import nn

from lib.models.networks import MLP
from lib.sparse import live
from lib.specs.parts import Recipe
from lib.training import threads
from lib.training.cohort import Cohort, Layout

ALIGN = {"cuda": 8}  # numbers, by the kind of device: cuDNN reads parameters in vectors of 16 bytes
PLAIN = Recipe(epochs=0, batch_size=1, lr=1.0)


class Dense:
    """An engine whose passes take all weights: pruned ones are zeros like any others."""

    def changed(self, k: int) -> None:
        """Nothing to do."""


class BatchedMLP(Dense):
    """All members of a group in explicit batched matrix products, without autograd: the passes of
    c small networks cost about the calls of one."""

    def __init__(self, group: Cohort, network: MLP, smoothing: float = 0.0):
        self.smoothing = smoothing
        weights = list(group.layout.views(group.weights).values())
        gradients = list(group.layout.views(group.gradients).values())
        self.weights, self.biases = weights[::2], [bias.unsqueeze(1) for bias in weights[1::2]]
        # once: a small step is mostly such calls
        self.transposed = [weight.transpose(1, 2) for weight in self.weights]
        self.gradient_views = list(zip(gradients[::2], gradients[1::2], strict=True))
        self.tanh = network.activation == "tanh"
        # a lone large member takes the plain product: the same bits, and no batch to keep books of
        self.single = len(group) == 1 and group.layout.size > 50_000

    def _activations(self, x):
        """The input of every layer, and the logits."""
        values, last = [x], len(self.weights) - 1
        for depth, (weight, bias) in enumerate(zip(self.transposed, self.biases, strict=True)):
            if self.single:
                x = torch.addmm(bias[0, 0], x[0], weight[0]).unsqueeze(0)
            else:
                x = torch.baddbmm(bias, x, weight)
            if depth < last:
                x = x.tanh_() if self.tanh else x.relu_()
            values.append(x)
        return values

    @torch.inference_mode()
    def gradients(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        """See above."""
        values = self._activations(x.flatten(2))
        log_p = torch.log_softmax(values.pop(), -1)
        y = y.unsqueeze(-1)
        loss = log_p.gather(2, y)
        if self.smoothing:
            loss = (1 - self.smoothing) * loss + self.smoothing * log_p.mean(2, keepdim=True)
        delta = log_p.exp_().scatter_(2, y, self.smoothing - 1.0, reduce="add")
        if self.smoothing:
            delta.sub_(self.smoothing / delta.shape[2])
        delta.div_(y.shape[1])
        for depth in range(len(self.weights) - 1, -1, -1):
            weight_gradient, bias_gradient = self.gradient_views[depth]
            if self.single:
                torch.mm(delta[0].t(), values[depth][0], out=weight_gradient[0])
            else:
                weight_gradient.copy_(torch.bmm(delta.transpose(1, 2), values[depth]))
            torch.sum(delta, 1, out=bias_gradient)
            if depth:
                delta, a = torch.bmm(delta, self.weights[depth]), values[depth]
                if self.tanh:
                    delta.mul_(1 - a * a)
                else:
                    delta = torch.ops.aten.threshold_backward(delta, a, 0)
        return loss.mean((1, 2)).neg_()

    @torch.no_grad()
    def logits(self, x: torch.Tensor) -> torch.Tensor:
        """See above."""
        return self._activations(x.flatten(1).expand(len(self.weights[0]), -1, -1))[-1]


class InTurn(Dense):
    """Members one after the other, with autograd: any module, and convolutions gain from no batch.

    With a ``micro_batch`` a batch goes through in parts of so many examples, whose gradients add
    up: memory is bounded by the part, and BatchNorm normalises over it.
    """

    def __init__(self, group: Cohort, network: nn.Module, recipe: Recipe, work: float = 0.0):
        self.group, self.own, self.recipe, self.work = group, group, recipe, work
        if align := ALIGN.get(group.weights.device.type):
            layout = Layout(network, align)
            weights, buffers = (
                group.weights.new_zeros(len(group), size)
                for size in (layout.size, layout.buffer_size)
            )
            self.own = Cohort(layout, weights, buffers, group.mask)
            self.places = [layout.places(kind).to(weights.device) for kind in (False, True)]
        self.modules = list(self.own.modules(network))
        for part in nn.ModuleList(self.modules).modules():
            # where nothing else reads its input: one array less to write, and the same bits
            if type(part) is nn.ReLU and type(network).__module__.startswith("lib."):
                part.inplace = True

    def _fetch(self):
        """Bring the copies that modules read, where they are copies, to what the rows hold."""
        if self.own is not self.group:
            self.own.weights.index_copy_(1, self.places[0], self.group.weights)
            self.own.buffers.index_copy_(1, self.places[1], self.group.buffers)

    def _bring(self):
        if self.own is not self.group:
            for place, name in zip(self.places, ("gradients", "buffers"), strict=True):
                rows = getattr(self.own, name), getattr(self.group, name)
                torch.index_select(rows[0], 1, place, out=rows[1])

    def _forward(self, module, x):
        if x.is_cuda and self.recipe.precision == "float32":
            x = x.contiguous()  # cuDNN's float32 kernels read channels first
        with torch.autocast(
            x.device.type, torch.bfloat16, enabled=self.recipe.precision == "bfloat16"
        ):
            return module(x).float()

    def gradients(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        """See above."""
        self._fetch()
        self.own.gradients.zero_()
        size = self.recipe.micro_batch or y.shape[1]
        turns = [
            partial(self._backward, module.train(), inputs.split(size), labels.split(size))
            for module, inputs, labels in zip(self.modules, x, y, strict=True)
        ]
        losses = threads.abreast(turns, self.work) if x.is_cuda else [turn() for turn in turns]
        self._bring()
        return torch.stack(losses)

    def _backward(self, module, inputs, labels):
        """Add the gradients over all parts into the views of the gradient rows; the loss."""
        total, smoothing = torch.zeros((), device=labels[0].device), self.recipe.label_smoothing
        how, divisor = ("mean", 1) if len(labels) == 1 else ("sum", sum(map(len, labels)))
        for part, given in zip(inputs, labels, strict=True):
            loss = F.cross_entropy(
                self._forward(module, part), given, label_smoothing=smoothing, reduction=how
            )
            (loss / divisor).backward()
            total += loss.detach() / divisor
        return total

    @torch.no_grad()
    def logits(self, x: torch.Tensor) -> torch.Tensor:
        """See above."""
        self._fetch()
        return torch.stack([self._forward(module.eval(), x) for module in self.modules])


Engine = BatchedMLP | InTurn | live.LiveOnly


def batched(network: nn.Module, recipe: Recipe) -> TypeGuard[MLP]:
    """Whether the passes are batched products: an MLP in float32 on one thread (no BatchNorm)."""
    return type(network) is MLP and recipe.precision == "float32" and recipe.threads == 1


def engine(
    group: Cohort, network: nn.Module, recipe: Recipe = PLAIN,
    live_inputs: tuple[int, ...] | None = None, work: float = 0.0,
) -> Engine:  # fmt: skip
    """The passes of a group under a recipe, in turn where nothing faster is known; at the cost of
    the live weights where the shape of the inputs, ``live_inputs``, is given for that. ``work`` is
    what a step of one member takes, in FLOPs: on a GPU (``threads.abreast``)."""
    if live_inputs is not None:
        return live.LiveOnly(group, network, live_inputs)
    if batched(network, recipe):
        return BatchedMLP(group, network, recipe.label_smoothing)
    return InTurn(group, network, recipe, work)
