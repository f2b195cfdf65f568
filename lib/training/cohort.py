"""The state of a cohort: K networks of one architecture as flat tensors of shape [K, P].

Weights, velocity and mask are each one tensor; views by name feed the forward pass. An optimiser
step, a mask, weight decay or a checkpoint is one operation over one tensor, whatever the
architecture, and a member is one row. Rows and members change their order together, or not at all.
"""

import copy
import functools
from collections.abc import Callable, Iterator, Sequence

import torch
from torch import nn

from lib import rng
from lib.data import sets
from lib.masks import dynamic
from lib.masks.masks import Named
from lib.models import networks
from lib.specs.run import Run

STATE = ("weights", "buffers", "mask")  # of a member at any moment
TRAINED = (*STATE, "velocity")  # all that a step reads


class Layout:
    """Where each parameter and each running statistic of an architecture lies in a flat row.

    The count of batches is no state: with a fixed momentum BatchNorm never reads it. With ``align``
    each begins at a multiple of so many numbers; what lies between belongs to none.
    """

    def __init__(self, network: nn.Module, align: int = 1):
        self.parameters = {name: p.shape for name, p in network.named_parameters()}
        self.buffers = {
            name: buffer.shape
            for name, buffer in network.named_buffers()
            if not name.endswith("num_batches_tracked")
        }
        self.align = align
        self.size, self.buffer_size = sum(self._rooms(False)), sum(self._rooms(True))

    def _rooms(self, buffers):
        shapes = self.buffers if buffers else self.parameters
        return [-(-shape.numel() // self.align) * self.align for shape in shapes.values()]

    def views(self, rows: torch.Tensor, buffers: bool = False) -> Named:
        """Views [..., *shape] by name into ``rows`` [..., P] (or [..., B] for ``buffers``)."""
        shapes = self.buffers if buffers else self.parameters
        parts = rows.split(self._rooms(buffers), -1)
        return {
            name: part[..., : shape.numel()].view((*rows.shape[:-1], *shape))
            for (name, shape), part in zip(shapes.items(), parts, strict=True)
        }

    def state(self, weights: torch.Tensor, buffers: torch.Tensor) -> Named:
        """Views of a module's parameters and statistics into its rows [P] and [B]."""
        return {**self.views(weights), **self.views(buffers, buffers=True)}

    def places(self, buffers: bool = False) -> torch.Tensor:
        """Where in a row each number of a row without gaps lies, int64 [P] (or [B])."""
        row = torch.arange(self.buffer_size if buffers else self.size)
        views = self.views(row, buffers).values()
        return torch.cat([row[:0], *(view.flatten() for view in views)])

    def row(self, values: Named) -> torch.Tensor:
        """The flat row [P] of parameters given by name; the inverse of ``views``."""
        return torch.cat([values[name].reshape(-1) for name in self.parameters])

    def mask_row(self, mask: Named) -> torch.Tensor:
        """The flat bool row [P] of a mask by name; parameters that it does not name live."""
        return self.row(
            {n: torch.ones(s, dtype=torch.bool) for n, s in self.parameters.items()} | mask
        )

    def fresh_buffers(self) -> torch.Tensor:
        """Running statistics [B] as they are before training: mean 0, variance 1."""
        rows = [torch.full((s.numel(),), float(n.endswith("var"))) for n, s in self.buffers.items()]
        return torch.cat([*rows, torch.zeros(0)])


def network_of(run: Run, images: sets.ImageSet) -> nn.Module:
    """The meta-device module that ``run`` trains on ``images``, or ``ValueError``."""
    return networks.build(run.network.name, images.shape, images.classes, **run.network.options)


def filled(
    network: nn.Module, weights: torch.Tensor, buffers: torch.Tensor, device="cpu"
) -> nn.Module:
    """A copy of the meta-device ``network`` in eval mode, with these rows [P] and [B]."""
    counts = {name: torch.tensor(0) for name, _ in network.named_buffers()}
    state = {**counts, **Layout(network).state(weights, buffers)}
    network = copy.deepcopy(network).eval()
    # not into what to_empty makes: on the meta device that imports the compiler for a second
    network.load_state_dict({n: t.to(device, copy=True) for n, t in state.items()}, assign=True)
    return network


class Member:
    """One run in training, a row of its cohort, its labels ``given`` [N], those ``flipped``.

    What its selection has ``looked_up``: see ``selection.beforehand``.
    """

    def __init__(
        self, run: Run, given: torch.Tensor, flipped: torch.Tensor, facts: dict, looked_up: Named
    ):
        self.run, self.given, self.flipped, self.facts = run, given, flipped, facts
        self.looked_up = looked_up
        self.history: list[dict] = []
        self.kept: Named = {}
        self.best = -1.0
        self.diverged: float | None = None  # the epoch after which it was found so

    def done(self, trained: int) -> bool:
        """Whether this member has nothing left to train after ``trained`` epochs of the cohort."""
        return trained >= self.run.length or self.diverged is not None

    def draws(self, name: str, epoch: int) -> torch.Generator:
        """Its generator for one draw of data in an epoch; who goes on has those of its parent."""
        stream = "sol_d" if self.run.continuation else self.run.solution
        replica = ("replica", self.run.replica) if self.run.replica else ()
        return rng.generator(self.run.seed, stream, name, epoch, *replica)


class Cohort:
    """K rows on one device, and whose they are (nobody's, if they are looked at alone).

    ``weights``, ``velocity``, ``gradients`` float32 and ``mask`` bool [K, P], ``buffers`` [K, B].
    """

    def __init__(
        self, layout: Layout, weights: torch.Tensor, buffers: torch.Tensor, mask: torch.Tensor,
        velocity: torch.Tensor | None = None, gradients: torch.Tensor | None = None,
        members: Sequence[Member] = (),
    ):  # fmt: skip
        self.layout, self.weights, self.buffers, self.mask = layout, weights, buffers, mask
        self.velocity = torch.zeros_like(weights) if velocity is None else velocity
        self.gradients = torch.zeros_like(weights) if gradients is None else gradients
        self.members = list(members)

    @functools.cached_property
    def bits(self) -> torch.Tensor | None:
        """int32 [K, P]: all bits set where a weight lives (``sgd_``), else none. None: all live.

        Once it is a tensor it stays that tensor.
        """
        return None if self.mask.all() else self.mask.int().neg_()

    def __len__(self):
        return len(self.weights)

    def __getitem__(self, index: slice | list[int]) -> "Cohort":
        """These rows with their members: views of a slice, else copies."""
        rows = {name: getattr(self, name)[index] for name in (*TRAINED, "gradients")}
        chosen = range(len(self.members))[index] if isinstance(index, slice) else index
        return Cohort(self.layout, members=[self.members[k] for k in chosen], **rows)

    def keep(self, k: int, suffix: str, *names: str) -> Named:
        """Copy what row ``k`` has under ``names`` now to what its member has kept; return that."""
        for name in names:
            self.members[k].kept[f"{name}{suffix}"] = getattr(self, name)[k].cpu().clone()
        return self.members[k].kept

    def remask(self, k: int, mask: torch.Tensor) -> None:
        """Give row ``k`` this mask [P]; weights and momentum follow (``dynamic.apply_``)."""
        dynamic.apply_(self.weights[k], self.velocity[k], self.mask[k], mask)
        self.mask[k] = mask
        if self.bits is None:
            del self.bits  # made from the mask when next asked for
        else:
            self.bits[k] = mask.int().neg_()  # in place: a recorded step reads it

    def modules(self, network: nn.Module) -> Iterator[nn.Module]:
        """A module per row whose parameters, gradients and statistics are views of it.

        ``network`` is a meta-device module that serves as the pattern. The views are taken by
        ``.data``: they share the memory but not autograd's version counter, so that one member's
        step is no in-place change to another's graph when workers train both at once.
        """
        for k in range(len(self)):
            module = copy.deepcopy(network)
            gradients = self.layout.views(self.gradients[k])
            state = self.layout.state(self.weights[k], self.buffers[k])
            module.load_state_dict(
                {name: value.data for name, value in state.items()}, strict=False, assign=True
            )
            for name, parameter in module.named_parameters():
                parameter.grad = gradients[name].data
            yield module


def sgd_(cohort: Cohort, rate, momentum: float, nesterov: bool, decay) -> None:
    """One SGD step of every member in place: PyTorch's rule, with the gradient masked.

    ``rate`` and ``decay`` are numbers or tensors [K, 1]. A pruned weight starts at zero with zero
    velocity, its gradient is zero here, and decay adds a multiple of the weight itself: it is zero
    after every step.
    """
    weights, gradients, velocity = cohort.weights, cohort.gradients, cohort.velocity
    if cohort.bits is not None:  # "and" clears a NaN too, ten times as fast as masked_fill_
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


def column(values: torch.Tensor, device) -> Callable[[int], float | torch.Tensor]:
    """``step -> `` the column [c, 1] of ``values`` [c, n]; on a CPU, faster, a number if all agree.

    On a GPU a recorded step reads it from memory.
    """
    if torch.device(device).type == "cpu" and (values == values[0]).all():
        return values[0].tolist().__getitem__
    values = values.to(device)
    return lambda step: values[:, step : step + 1]


def decays(recipes: list, layout: Layout, device) -> float | torch.Tensor:
    """The ``decay`` of ``sgd_``: a number or [c, 1]; [c, P] where some spare all but kernels."""
    shares = torch.tensor([[recipe.weight_decay] for recipe in recipes])
    if all(recipe.decay == "all" for recipe in recipes):
        return column(shares, device)(0)
    kernels = layout.row({n: torch.ones(s) * (len(s) > 1) for n, s in layout.parameters.items()})
    whole = {"kernels": kernels, "all": torch.ones_like(kernels)}
    return (shares * torch.stack([whole[recipe.decay] for recipe in recipes])).to(device)
