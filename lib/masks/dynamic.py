"""How a mask changes while training: gradual magnitude pruning, SET, RigL and RigL inverted.

A rule takes the prunable weights and the mask of one member (name -> tensor), a generator and the
``Change`` that is due, and returns the new mask of the same names and shapes. To add one, write the
function and decorate it; a run's ``mask_update`` can then name it. Nothing here trains, and nothing
draws but from the generator given.

>>> def by_salience(weights, mask, generator, change):  # under ``@mask_update``
...     salience = {name: (w * change.gradient[name]).abs() for name, w in weights.items()}
...     wish = {name: torch.rand(w.shape, generator=generator) for name, w in weights.items()}
...     return regrown(mask, salience, wish, change.fraction)
>>> weights, mask = {"a": torch.tensor([1.0, 2, 3, 0, 0, 0])}, {"a": torch.arange(6) < 3}
>>> change = Change(lambda: {"a": torch.tensor([9.0, 1, 9, 9, 9, 9])}, fraction=0.4)
>>> by_salience(weights, mask, torch.Generator(), change)["a"].sum().item()
3
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import torch

from lib.checks import refuse
from lib.masks import masks
from lib.masks.masks import Named
from lib.registry import mask_update

SCHEDULES = ("rate", "cosine", "constant")


@dataclass(frozen=True)
class Change:
    """What a rule may look at beside weights and mask, at an update after ``step`` optimiser steps.

    ``fraction`` is the share of live weights to drop, ``sparsity`` the one that gradual pruning has
    now, under ``scope``. ``gradient`` (of the loss, not masked, by name) is taken when a rule asks
    for it: from the training batch (Evci et al.) or held examples (the gradient-flow study's code).
    """

    slope: Callable[[], Named]
    fraction: float = 0.0
    sparsity: float = 0.0
    scope: str = "layer"
    step: int = 0

    @cached_property
    def gradient(self) -> Named:
        """The gradient of each prunable weight, pruned ones too."""
        return self.slope()


def check(
    method: str, *, every: int, start: int, end: int, steps: int, fraction: float | None = None
) -> None:
    """Raise ``ValueError`` for updates that make no sense in a run of ``steps`` optimiser steps."""
    refuse(
        not 0 <= start <= end,
        f"updates start at step {start} and end at {end}: the start may be neither below 0 nor "
        "behind the end",
    )
    refuse(end > steps, f"updates end at step {end}: the run has only {steps} steps")
    if method == "gradual":
        refuse(
            start == end or (end - start) % every,
            f"gradual pruning from step {start} to {end} every {every} steps: the last update must "
            "fall on the end, or the final sparsity is missed; make the end the start plus a "
            f"multiple of {every}",
        )
        return
    refuse(
        (start or every) > min(end, steps - 1),
        f"the update frequency is {every} steps from {start} to {end}: in a run of {steps} steps "
        "no update would come",
    )
    refuse(fraction is None, "the drop fraction is None: it must lie in [0, 1]")


def due(method: str, step: int, *, every: int, start: int, end: int, steps: int) -> bool:
    """Whether the mask changes after ``step`` steps: at ``start``, every so many on, up to ``end``.

    What drops and grows does so neither before the first step (there is nothing to rank yet) nor
    after the last (what has grown would never be trained), as in the gradient-flow study's code.

    >>> [step for step in range(9) if due("rigl", step, every=4, start=0, end=8, steps=8)]
    [4]
    """
    moment = start <= step <= end and (step - start) % every == 0
    return moment and (method == "gradual" or 0 < step < steps)


def drop_fraction(
    schedule: str, initial: float, *, step: int = 0, end: int = 0, rate: float = 1.0,
    highest: float = 1.0,
) -> float:  # fmt: skip
    """The share of each layer's live weights to drop at an update.

    ``rate``      initial * rate / highest, with the learning rate of now and the run's highest (its
                  first, where there is no warm-up): the gradient-flow study on MNIST (app. B.2)
    ``cosine``    initial / 2 * (1 + cos(pi * step / end)), and 0 from ``end`` on (Dettmers &
                  Zettlemoyer 2019; the study on ImageNet)
    ``constant``  initial

    >>> drop_fraction("cosine", 0.3, step=50, end=100)
    0.15
    """
    if schedule == "cosine":
        return initial / 2 * (1 + math.cos(math.pi * step / end)) if step < end else 0.0
    return initial * rate / highest if schedule == "rate" else initial


def gradual(step: int, *, start: int, end: int, final: float) -> float:
    """The sparsity after ``step`` steps, by the cubic schedule (Zhu & Gupta 2017, equation 1).

    final - final * (1 - (step - start) / (end - start))^3, from 0 up to ``start`` to exactly
    ``final`` from ``end`` on.

    >>> gradual(50, start=0, end=100, final=0.8)
    0.7000000000000001
    """
    left = 1 - min(max((step - start) / (end - start), 0.0), 1.0)
    return final - final * left**3


def regrown(mask: Named, worth: Named, wish: Named, fraction: float) -> Named:
    """Drop the ``fraction`` of each layer's live weights of least ``worth``; as many others grow.

    The count is rounded down. What grows has the highest ``wish`` of all that are dead then, those
    just dropped too. Of equals the lower index is dropped, and grown, first. NaN counts as 0 and
    infinities as the largest numbers: a member that diverges keeps its density.

    >>> mask = {"a": torch.tensor([True, True, False, False])}
    >>> worth, wish = ({"a": torch.tensor(v)} for v in ([2.0, 1.0, 0.0, 0.0], [0.0, 1.0, 2.0, 3.0]))
    >>> regrown(mask, worth, wish, 0.5)["a"].tolist()
    [True, False, False, True]
    """
    refuse(not 0 <= fraction <= 1, f"the drop fraction is {fraction}: it must lie in [0, 1]")
    new = {}
    for name, live in mask.items():
        count = int(fraction * int(live.sum()) + 1e-9)  # 0.29 * 100 is a little less than 29
        worths, wishes = (torch.nan_to_num(of[name]).flatten() for of in (worth, wish))
        alive = live.flatten()
        kept = alive & ~masks.lowest(worths.masked_fill(~alive, math.inf), count)
        grown = masks.lowest((-wishes).masked_fill(kept, math.inf), count)
        new[name] = (kept | grown).view(live.shape)
    return new


def _sizes(values):
    return {name: value.abs() for name, value in values.items()}


@mask_update(name="gradual")
def pruned(weights: Named, mask: Named, generator: torch.Generator | None, change: Change) -> Named:
    """Of the ``change``'s sparsity and scope: the smallest |w| go, the pruned ones first.

    What is pruned stays pruned: Zhu & Gupta's algorithm (2017) with the sparsities of ``gradual``.
    Counts, ties and errors are those of ``masks.prune``.
    """
    scores = {n: torch.nan_to_num(w.abs()).masked_fill(~mask[n], -1.0) for n, w in weights.items()}
    return masks.prune(scores, change.sparsity, change.scope)


@mask_update(name="set")
def set_(weights: Named, mask: Named, generator: torch.Generator, change: Change) -> Named:
    """The smallest |w| go, and any grow (Mocanu et al. 2018; one ranking for both signs)."""
    wish = {  # float64, so that ties are rare
        name: -torch.rand(w.numel(), generator=generator, dtype=torch.float64).to(w.device)
        for name, w in weights.items()
    }
    return regrown(mask, _sizes(weights), wish, change.fraction)


@mask_update
def rigl(weights: Named, mask: Named, generator: torch.Generator, change: Change) -> Named:
    """The smallest |w| go, and the largest |gradient| grow (Evci et al. 2020)."""
    return regrown(mask, _sizes(weights), _sizes(change.gradient), change.fraction)


@mask_update(name="rigl-inverted")
def inverted(weights: Named, mask: Named, generator: torch.Generator, change: Change) -> Named:
    """The smallest |w| go, and the smallest |gradient| grow (gradient-flow study, section 4.2)."""
    wish = {name: -size for name, size in _sizes(change.gradient).items()}
    return regrown(mask, _sizes(weights), wish, change.fraction)


def updated(
    method: str, weights: Named, mask: Named, generator: torch.Generator, change: Change
) -> Named:
    """The new mask by the rule ``method``, which is handed copies.

    Raises ``ValueError`` that names the rule where it returns other names or shapes, what is not
    bool, or (all but gradual pruning) another number of live weights.
    """
    copies = [{name: value.clone() for name, value in of.items()} for of in (weights, mask)]
    what = f"mask_update {method!r} at step {change.step}"
    new = masks.checked(what, mask_update[method](*copies, generator, change), weights)
    for live in new.values():
        refuse(live.dtype != torch.bool, f"{what} gives {live.dtype}, not bool")
    before, after = (sum(int(live.sum()) for live in of.values()) for of in (mask, new))
    changed = method != "gradual" and before != after
    refuse(changed, f"{what} leaves {after} weights alive: there were {before}")
    return new


def apply_(
    weights: torch.Tensor, velocity: torch.Tensor, before: torch.Tensor, after: torch.Tensor
) -> None:
    """Carry weights and momentum over to the mask ``after``, in place; rows or layers of any shape.

    What lives in both keeps its weight and velocity, also what was dropped and grown in one update
    (as in the study's code). What was dropped, and what has grown and starts, is zero.
    """
    changed = ~(before & after)
    weights.masked_fill_(changed, 0.0)  # not a product: that would keep a NaN
    velocity.masked_fill_(changed, 0.0)
