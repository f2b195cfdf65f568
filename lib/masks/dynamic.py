"""How a mask changes while training: gradual magnitude pruning, SET, RigL and RigL inverted.

Functions to be called between optimiser steps. A *layer* is a tensor [n] of one member or [K, n] of a batch of members, its weights
along the last dimension; a *row* [P] or [K, P] holds all of a network's parameters, as in ``lib.training.cohort``. Members never see each
other: a batch gives each what it would get alone. Nothing here trains, and nothing draws but from the generators given.

A mask changes in two calls: one makes the new mask, ``apply_`` carries weights and momentum over to it.
"""

import math

import torch

from lib import registry
from lib.masks import masks

METHODS = ("gradual", "set", "rigl", "rigl-inverted")
SCHEDULES = ("rate", "cosine", "constant")
Named = dict[str, torch.Tensor]


# -- when, and how much ------------------------------------------------------------------------------------------------


def check(
    method: str, *, every: int, start: int, end: int, steps: int, fraction: float | None = None
) -> None:
    """Raise ``ValueError`` for updates that make no sense in a run of ``steps`` optimiser steps; see ``due`` and ``drop_fraction``."""
    if method not in METHODS:
        raise ValueError(f"mask_update {method!r} is unknown; there are {', '.join(METHODS)}")
    if every < 1:
        raise ValueError(f"the update frequency is {every}: it counts optimiser steps, at least 1")
    if not 0 <= start <= end:
        raise ValueError(
            f"updates start at step {start} and end at {end}: the start may be neither below 0 nor behind the end"
        )
    if end > steps:
        raise ValueError(f"updates end at step {end}: the run has only {steps} steps")
    if method == "gradual":
        if (end - start) % every or start == end:
            raise ValueError(
                f"gradual pruning from step {start} to {end} every {every} steps: the last update must fall on the end, or the final "
                f"sparsity is missed; make the end the start plus a multiple of {every}"
            )
        return
    first = start or every  # there is nothing to rank before the first step
    if not due(method, first, every=every, start=start, end=end, steps=steps):
        raise ValueError(
            f"the update frequency is {every} steps from {start} to {end}: in a run of {steps} steps no update would come"
        )
    if fraction is None or not 0 <= fraction <= 1:
        raise ValueError(f"the drop fraction is {fraction}: it must lie in [0, 1]")


def due(method: str, step: int, *, every: int, start: int, end: int, steps: int) -> bool:
    """Whether the mask changes after ``step`` optimiser steps: at ``start`` and ``every`` so many on, up to ``end``.

    What drops and grows does so neither before the first step (there is nothing to rank yet) nor after the run's last (what
    has grown would never be trained). The gradient-flow study's code counts the same way, from ``start=0``.
    """
    moment = start <= step <= end and (step - start) % every == 0
    return moment and (method == "gradual" or 0 < step < steps)


def drop_fraction(
    schedule: str,
    initial: float,
    *,
    step: int = 0,
    end: int = 0,
    rate: float | None = None,
    highest: float | None = None,
) -> float:
    """The share of each layer's live weights to drop at an update.

    ``rate``      initial * rate / highest, with the learning rate of now and the run's highest (its first, where there is no
                  warm-up): the gradient-flow study on MNIST (appendix B.2)
    ``cosine``    initial / 2 * (1 + cos(pi * step / end)), and 0 from ``end`` on (Dettmers & Zettlemoyer 2019; the study on ImageNet)
    ``constant``  initial

    Raises ``ValueError`` for another schedule, an initial fraction outside [0, 1], or a rate that is not between 0 and the highest.
    """
    if not 0 <= initial <= 1:
        raise ValueError(f"the drop fraction is {initial}: it must lie in [0, 1]")
    if schedule == "constant":
        return initial
    if schedule == "cosine":
        return initial / 2 * (1 + math.cos(math.pi * step / end)) if step < end else 0.0
    if schedule == "rate":
        if rate is None or highest is None or not 0 <= rate <= highest or not highest:
            raise ValueError(
                f"the learning rate is {rate} and the highest {highest}: a drop fraction in proportion needs 0 <= rate <= highest"
            )
        return initial * rate / highest
    raise ValueError(f"drop schedule {schedule!r} is unknown; there are {', '.join(SCHEDULES)}")


def gradual(step: int, *, start: int, end: int, final: float, initial: float = 0.0) -> float:
    """The sparsity after ``step`` steps: final + (initial - final) * (1 - (step - start) / (end - start))^3 (Zhu & Gupta 2017, Eq. 1).

    ``initial`` up to ``start``, exactly ``final`` from ``end`` on. Raises ``ValueError`` unless 0 <= initial <= final < 1, start < end.
    """
    if not 0 <= initial <= final < 1:
        raise ValueError(
            f"the sparsity goes from {initial} to {final}: both must lie in [0, 1), and it cannot fall"
        )
    if start >= end:
        raise ValueError(
            f"gradual pruning goes from step {start} to {end}: it must end behind its start"
        )
    left = 1 - min(max((step - start) / (end - start), 0.0), 1.0)
    return final + (initial - final) * left**3


# -- new masks ---------------------------------------------------------------------------------------------------------


def pruned(weights: Named, mask: Named, sparsity: float, scope: str = "layer") -> Named:
    """The mask of ``sparsity`` inside ``mask``: of the prunable ``weights`` of one member the smallest |w| go, the pruned ones first.

    By name, in the weights' shapes; counts, scope, ties and errors as in ``masks.prune``. What is pruned stays pruned, which is
    Zhu & Gupta's algorithm with the sparsities of ``gradual``. The gradient-flow study prunes each layer by itself.
    """
    scores = {
        name: _size(weight).masked_fill(~mask[name], -1.0) for name, weight in weights.items()
    }
    return masks.prune(scores, sparsity, scope)


def update(
    method: str,
    weights: torch.Tensor,
    mask: torch.Tensor,
    gradient: torch.Tensor | None,
    fraction: float | torch.Tensor,
    generator: torch.Generator | list[torch.Generator] | None = None,
) -> torch.Tensor:
    """The new mask of a layer, with as many live weights to the weight: bool [n] or [K, n].

    Of the live weights the ``fraction`` (a number, or one for each of K members) with the smallest |w| is dropped, its count
    rounded down. As many are then grown among all that are dead now, those just dropped included:

    ``set``            at random, each as likely as the other (Mocanu et al. 2018, with the study's one ranking by |w| for both signs)
    ``rigl``           where |gradient| is largest (Evci et al. 2020)
    ``rigl-inverted``  where |gradient| is smallest (gradient-flow study, section 4.2)

    Among equals the lower index is dropped first, and grown first. ``gradient`` (of the loss, not masked) has the layer's shape; from
    which examples it comes is the caller's choice: the training batch (Evci et al.) or held ones (the study's code). SET
    draws from ``generator``, one for [n] or a list of K for [K, n]. NaN counts as 0 and infinity as the largest number: a member
    that has diverged keeps its density. Raises ``ValueError`` for an unknown method, a fraction outside [0, 1], shapes that differ, or
    a gradient or generator that is missing.
    """
    if method not in METHODS[1:]:
        raise ValueError(
            f"mask_update {method!r} does not drop and grow; {', '.join(METHODS[1:])} do"
        )
    share = torch.as_tensor(fraction, dtype=torch.float64)
    if not ((share >= 0) & (share <= 1)).all():
        raise ValueError(f"the drop fraction is {fraction}: it must lie in [0, 1]")
    if mask.shape != weights.shape or (
        method != "set" and (gradient is None or gradient.shape != weights.shape)
    ):
        found = [tuple(mask.shape), None if gradient is None else tuple(gradient.shape)]
        raise ValueError(
            f"{method!r} needs a mask and a gradient of the weights' shape {tuple(weights.shape)}, not {found}"
        )
    count = (
        (share.to(weights.device) * mask.sum(-1) + 1e-9).floor().long()
    )  # 0.29 * 100 is a little less than 29
    kept = mask & ~_first(_size(weights).masked_fill(~mask, math.inf), count)
    wish = _uniform(weights, generator) if method == "set" else _size(gradient)
    if method == "rigl":
        wish = -wish
    return kept | _first(wish.masked_fill(kept, math.inf), count)


def update_rows(
    method: str, weights, mask, gradients, fraction, generators, layers: list[slice]
) -> torch.Tensor:
    """The new mask of whole rows [P] or [K, P]: ``update`` for each of ``layers`` (see ``spans``), the rest as it is.

    SET's draws come from a member's one generator, layer after layer. ``gradients`` may be None for SET.
    """
    new = mask.clone()
    for span in layers:
        gradient = None if gradients is None else gradients[..., span]
        new[..., span] = update(
            method, weights[..., span], mask[..., span], gradient, fraction, generators
        )
    return new


def spans(shapes: dict[str, torch.Size], names: list[str]) -> list[slice]:
    """Where the parameters ``names`` lie in a row that holds all of ``shapes`` (``Layout.parameters``) one after the other."""
    found, offset = {}, 0
    for name, shape in shapes.items():
        found[name] = slice(offset, offset + shape.numel())
        offset += shape.numel()
    return [found[name] for name in names]


def apply_(
    weights: torch.Tensor, velocity: torch.Tensor, before: torch.Tensor, after: torch.Tensor
) -> None:
    """Carry weights and momentum over to the mask ``after``, in place, in rows or layers.

    What lives in both masks keeps its weight and velocity, also a weight that was dropped and grown in one update (as in the study's
    code). All else is zero with zero velocity: what was dropped, and what has grown and starts.
    """
    changed = ~(before & after)
    weights.masked_fill_(changed, 0.0)  # not a product: that would keep a NaN
    velocity.masked_fill_(changed, 0.0)


def _size(values):
    """|values|, finite."""
    return torch.nan_to_num(values.abs(), nan=0.0, posinf=torch.finfo(values.dtype).max)


def _first(scores, count):
    """True at the ``count`` [...] lowest of each row of ``scores`` [..., n], ties by index."""
    order = torch.argsort(scores, dim=-1, stable=True)
    ranks = torch.arange(scores.shape[-1], device=scores.device).expand_as(order)
    return torch.empty_like(order).scatter_(-1, order, ranks) < count.unsqueeze(-1)


def _uniform(weights, generator):
    """Uniform numbers of the shape of ``weights``, each member's from its own generator; float64, so that ties are rare."""
    generators = generator if isinstance(generator, (list, tuple)) else [generator]
    if None in generators or (len(generators),) != (weights.shape[:-1] or (1,)):
        raise ValueError(
            f"'set' draws: give a generator for each of the members in {tuple(weights.shape)}"
        )
    drawn = torch.stack(
        [torch.rand(weights.shape[-1], generator=rng, dtype=torch.float64) for rng in generators]
    )
    return drawn.view(weights.shape).to(weights.device)


registry.mask_update._entries.update(dict.fromkeys(METHODS))
