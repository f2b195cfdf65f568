"""Mask algebra: from scores to an exact mask under a scope.

A mask is a dict parameter name -> bool tensor, True where the weight lives. Higher scores live
longer. From the same scores a mask of higher sparsity is nested in one of lower, and ties fall by
index, so counts are exact.
"""

from bisect import bisect_right
from fractions import Fraction

import torch

from lib.checks import refuse

SCOPES = ("global", "layer", "uniform", "erk")
Named = dict[str, torch.Tensor]
Shapes = dict[str, tuple[int, ...]]


def pruned_count(sparsity: float, size: int) -> int:
    """How many of ``size`` weights are zero at ``sparsity``: round(s * N), ties to even.

    Raises ``ValueError`` unless 0 <= sparsity < 1.

    >>> pruned_count(0.9, 784)
    706
    """
    refuse(not 0 <= sparsity < 1, f"sparsity is {sparsity}; it must lie in [0, 1)")
    return round(sparsity * size)


def prune(scores: Named, sparsity: float, scope: str = "global") -> Named:
    """The mask that removes the lowest ``sparsity`` share of ``scores`` [the weight's shape].

    ``scope="global"`` ranks all weights together (one-shot global magnitude pruning: Zhu & Gupta
    2017; price study, section 2); the others keep in each layer what ``allocation`` gives it.
    Among equal scores the lower index goes first. Raises ``ValueError`` for an unknown scope, a
    sparsity outside [0, 1), NaN scores, and what ``allocation`` refuses.

    >>> scores = {"a": torch.tensor([4.0, 1.0]), "b": torch.tensor([[2.0, 3.0]])}
    >>> [live.tolist() for live in prune(scores, 0.5).values()]
    [[True, False], [[False, True]]]
    """
    refuse(scope not in SCOPES, f"scope {scope!r} is unknown; there are {', '.join(SCOPES)}")
    for name, score in scores.items():
        refuse(score.isnan().any(), f"scores of {name!r} hold NaN: no ranking is possible")
    if scope == "global":
        flat = torch.cat([score.flatten() for score in scores.values()])
        keep = ~lowest(flat, pruned_count(sparsity, flat.numel()))
        parts = keep.split([score.numel() for score in scores.values()])
    else:
        live = allocation({name: score.shape for name, score in scores.items()}, sparsity, scope)
        parts = [~lowest(s.flatten(), s.numel() - live[name]) for name, s in scores.items()]
    return {n: part.view(scores[n].shape) for n, part in zip(scores, parts, strict=True)}


def allocation(shapes: Shapes, sparsity: float, scope: str) -> dict[str, int]:
    """How many weights live in each layer [outputs, inputs, *kernel] under a scope but the global.

    ``"layer"``: n - round(s * n) of each layer's n. The others leave N - round(s * N) together:
    ``"uniform"`` in proportion to a layer's weights, ``"erk"`` to outputs + inputs + sides of the
    kernel, so that the density goes as that sum over their product (Erdős-Rényi-Kernel; Evci et
    al. 2020, RigL, section 3). A layer that would get more than it has lives wholly, and what it
    cannot take goes to the others in their proportion.

    Shares are made whole by the rule of Sainte-Laguë: the next weight goes to the layer with the
    largest claim / (2 * live + 1), on ties the first. (By largest remainders a layer may lose a
    weight where the total rises, and masks would not nest.) Raises ``ValueError`` for another
    scope, or where a layer would be left without any weight.

    >>> allocation({"a": (8, 8), "b": (2, 8)}, 0.75, "erk")
    {'a': 12, 'b': 8}
    """
    refuse(
        scope not in SCOPES[1:],
        f"scope {scope!r} gives no counts to layers; {', '.join(SCOPES[1:])} do",
    )
    sizes = [torch.Size(shape).numel() for shape in shapes.values()]
    if scope == "layer":
        live = [size - pruned_count(sparsity, size) for size in sizes]
    else:
        claims = sizes if scope == "uniform" else [sum(shape) for shape in shapes.values()]
        live = _apportioned(claims, sizes, sum(sizes) - pruned_count(sparsity, sum(sizes)))
    for name, size, count in zip(shapes, sizes, live, strict=True):
        refuse(
            not count,
            f"sparsity {sparsity} with scope {scope!r} leaves no weight in {name!r} "
            f"({size} weights); choose a lower one",
        )
    return dict(zip(shapes, live, strict=True))


def _apportioned(claims, sizes, total):
    """The first ``total`` weights in the order of claim / 1, claim / 3, ... of each, as counts."""
    whole = sum(claims)

    def counts(level):
        """Of the weights down to whole / (2 * level), which are the first in that order."""
        return [
            min(size, (2 * level * claim + whole) // (2 * whole))
            for claim, size in zip(claims, sizes, strict=True)
        ]

    levels = range(whole * max(sizes) + 1)
    live = counts(bisect_right(levels, total, key=lambda level: sum(counts(level))) - 1)
    while sum(live) < total:  # less than one a layer: at the next level there are too many
        free = [i for i, size in enumerate(sizes) if live[i] < size]
        live[max(free, key=lambda i: (Fraction(claims[i], 2 * live[i] + 1), -i))] += 1
    return live


def lowest(values: torch.Tensor, count: int) -> torch.Tensor:
    """True at the ``count`` lowest of ``values`` [n]; of those equal to the last, at the first."""
    chosen = torch.zeros(len(values), dtype=torch.bool, device=values.device)
    if count:
        limit = values.kthvalue(count).values  # a selection is faster than a sort
        chosen = values < limit
        chosen[(values == limit).nonzero().flatten()[: count - int(chosen.sum())]] = True
    return chosen


def empty_layers(mask: Named) -> list[str]:
    """Names of layers in which no weight lives: such a network cannot learn, as nothing passes."""
    return [name for name, live in mask.items() if not live.any()]


def checked(what: str, found: Named, weights: Named) -> Named:
    """What a registered function has ``found`` for these ``weights``, in their order and place.

    Raises ``ValueError``, which begins with ``what`` was called, unless each weight, and no other
    name, has a tensor of its shape without NaN.

    >>> checked("criterion 'mine'", {"a": torch.ones(3)}, {"a": torch.ones(2)})
    Traceback (most recent call last):
    ValueError: criterion 'mine' gives for 'a' the shape (3,), not (2,)
    """
    refuse(
        not isinstance(found, dict),
        f"{what} gives a {type(found).__name__}, not a tensor by weight's name",
    )
    for name in {**weights, **found}:
        given, wanted = (tuple(of[name].shape) if name in of else "none" for of in (found, weights))
        refuse(given != wanted, f"{what} gives for {name!r} the shape {given}, not {wanted}")
        refuse(found[name].isnan().any(), f"{what} gives NaN for {name!r}")
    return {name: found[name].detach().to(weight.device) for name, weight in weights.items()}
