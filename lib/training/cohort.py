"""The state of a cohort: K networks of one architecture as flat tensors of shape [K, P].

Weights, velocity and mask are each one tensor; views by name feed the forward pass. An optimiser step, a mask,
weight decay or a checkpoint is one operation over one tensor, whatever the architecture, and a member is one row.
"""

import copy
import functools
from collections.abc import Iterator
from dataclasses import dataclass, field, replace

import torch
from torch import nn

from lib.models import networks


class Layout:
    """Where each parameter and each BatchNorm statistic of an architecture lies in a flat row."""

    def __init__(self, network: nn.Module):
        self.parameters = {name: p.shape for name, p in network.named_parameters()}
        # the count of batches is no state: with a fixed momentum BatchNorm never reads it
        self.buffers = {
            n: b.shape for n, b in network.named_buffers() if not n.endswith("num_batches_tracked")
        }
        self.size = sum(shape.numel() for shape in self.parameters.values())
        self.buffer_size = sum(shape.numel() for shape in self.buffers.values())

    def views(self, rows: torch.Tensor, buffers: bool = False) -> dict[str, torch.Tensor]:
        """Views [..., *shape] by name into ``rows`` [..., P] (or [..., B] for ``buffers``)."""
        views, offset = {}, 0
        for name, shape in (self.buffers if buffers else self.parameters).items():
            views[name] = rows[..., offset : offset + shape.numel()].unflatten(-1, shape or (1,))
            offset += shape.numel()
        return views

    def row(self, values: dict[str, torch.Tensor]) -> torch.Tensor:
        """The flat row [P] of parameters given by name; the inverse of ``views``."""
        return torch.cat([values[name].reshape(-1) for name in self.parameters])

    def mask_row(self, mask: dict[str, torch.Tensor]) -> torch.Tensor:
        """The flat bool row [P] of a mask by name; parameters that it does not name live."""
        ones = {
            name: torch.ones(shape, dtype=torch.bool) for name, shape in self.parameters.items()
        }
        return self.row({**ones, **mask})

    def fresh_buffers(self) -> torch.Tensor:
        """BatchNorm statistics [B] as they are before training: mean 0, variance 1."""
        row = torch.zeros(self.buffer_size)
        for name, view in self.views(row, buffers=True).items():
            view.fill_(float(name.endswith("running_var")))
        return row


def build(network_spec, shape: tuple[int, ...], classes: int) -> nn.Module:
    """The meta-device module of a ``runs.Network`` for such inputs; raises ``ValueError`` where they do not fit."""
    s = network_spec
    taken = {"widths", "width", "activation", "pooling"} & {*networks.options(s.name)}
    given = {option: getattr(s, option) for option in taken}
    if s.name == "lenet-5" and len(s.widths) != 4:
        del given["widths"]
    return networks.build(s.name, shape, classes, **given)


def filled(
    network: nn.Module, weights: torch.Tensor, buffers: torch.Tensor, device="cpu"
) -> nn.Module:
    """A copy of the meta-device ``network`` with these flat rows [P] and [B] as its parameters and statistics, in eval mode."""
    layout = Layout(network)
    network = copy.deepcopy(network).to_empty(device=device).eval()
    values = {**layout.views(weights), **layout.views(buffers, buffers=True)}
    with torch.no_grad():
        for name, tensor in (*network.named_parameters(), *network.named_buffers()):
            tensor.copy_(values[name]) if name in values else tensor.zero_()
    return network


@dataclass
class Cohort:
    """K members. ``weights``, ``velocity``, ``mask`` [K, P] and ``buffers`` [K, B] float32 on one device."""

    layout: Layout
    weights: torch.Tensor
    buffers: torch.Tensor
    mask: torch.Tensor
    velocity: torch.Tensor = None
    gradients: torch.Tensor = field(default=None, repr=False)

    def __post_init__(self):
        if self.velocity is None:
            self.velocity = torch.zeros_like(self.weights)
        if self.gradients is None:
            self.gradients = torch.zeros_like(self.weights)

    @functools.cached_property
    def bits(self) -> torch.Tensor | None:
        """int32 [K, P]: all bits set where a weight lives and none where it is pruned (see ``sgd_``); None if all live."""
        return None if self.mask.all() else self.mask.int().neg_()

    def __len__(self):
        return len(self.weights)

    def select(self, members: list[int]) -> "Cohort":
        """A cohort of its own that holds copies of these members."""
        index = torch.tensor(members, device=self.weights.device)
        return Cohort(
            self.layout, *(t[index] for t in (self.weights, self.buffers, self.mask, self.velocity))
        )

    def slice(self, start: int, stop: int) -> "Cohort":
        """The members ``start`` to ``stop`` as views: training them trains this cohort."""
        state = ("weights", "buffers", "mask", "velocity", "gradients")
        return replace(self, **{name: getattr(self, name)[start:stop] for name in state})

    def modules(self, network: nn.Module) -> Iterator[nn.Module]:
        """One module per member whose parameters, gradients and statistics are views of its rows.

        ``network`` is a meta-device module that serves as the pattern; it is rebuilt for each member. The views are
        taken by ``.data``: they share the memory but not autograd's version counter, so that one member's step is
        no in-place change to another's graph when workers train both at once.
        """
        for k in range(len(self)):
            module = copy.deepcopy(network)
            weights, gradients = (
                self.layout.views(self.weights.data[k]),
                self.layout.views(self.gradients.data[k]),
            )
            for name, value in weights.items():
                owner, _, kind = name.rpartition(".")
                parameter = nn.Parameter(value.data)
                parameter.grad = gradients[name].data
                setattr(module.get_submodule(owner), kind, parameter)
            for name, value in self.layout.views(self.buffers[k], buffers=True).items():
                owner, _, kind = name.rpartition(".")
                norm = module.get_submodule(owner)
                setattr(norm, kind, value.data)
                norm.num_batches_tracked = None
            yield module


def sgd_(cohort: Cohort, rate, momentum: float, nesterov: bool, decay) -> None:
    """One SGD step of every member in place: PyTorch's rule, with the gradient masked.

    ``rate`` and ``decay`` are numbers or tensors [K, 1]. A pruned weight starts at zero with zero velocity, its
    gradient is zero here, and decay adds a multiple of the weight itself: it is zero after every step.
    """
    weights, gradients, velocity = cohort.weights, cohort.gradients, cohort.velocity
    if (
        cohort.bits is not None
    ):  # bitwise "and" clears a NaN too, and runs ten times as fast as masked_fill_
        gradients.view(torch.int32).bitwise_and_(cohort.bits)
    if isinstance(decay, torch.Tensor):
        gradients.addcmul_(weights, decay)
    elif decay:
        gradients.add_(weights, alpha=decay)
    step = gradients
    if momentum:
        velocity.mul_(momentum).add_(gradients)
        step = gradients.add_(velocity, alpha=momentum) if nesterov else velocity
    if isinstance(rate, torch.Tensor):
        weights.addcmul_(step, rate, value=-1)
    else:
        weights.add_(step, alpha=-rate)


def column(values: torch.Tensor, device):
    """``step -> `` the column [c, 1] of ``values`` [c, steps], or one number where all members agree (it is faster)."""
    if (values == values[0]).all():
        numbers = values[0].tolist()
        return numbers.__getitem__
    values = values.to(device)
    return lambda step: values[:, step : step + 1]


def decays(recipes: list, layout: Layout, device):
    """The ``decay`` of ``sgd_`` for members with these recipes: a number, or [c, 1], or [c, P] where some spare what is no kernel."""
    share = torch.tensor([[recipe.weight_decay] for recipe in recipes])
    if all(recipe.decay == "all" for recipe in recipes):
        return column(share, device)(0)
    kernels = layout.row(
        {name: torch.full(s, float(len(s) > 1)) for name, s in layout.parameters.items()}
    )
    spared = torch.tensor([[recipe.decay == "kernels"] for recipe in recipes])
    return (share * torch.where(spared, kernels, torch.ones_like(kernels))).to(device)
