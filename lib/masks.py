"""Mask algebra: from scores to an exact mask under a scope.

A mask is a dict parameter name -> bool tensor, True where the weight lives. Higher scores live longer. From the
same scores a mask of higher sparsity is nested in one of lower, and ties fall by index, so counts are exact.
"""

import torch

SCOPES = ("global", "layer")


def pruned_count(sparsity: float, size: int) -> int:
    """How many of ``size`` weights are zero at ``sparsity``: round(s * N), ties to even.

    Raises ``ValueError`` unless 0 <= sparsity < 1.
    """
    if not 0 <= sparsity < 1:
        raise ValueError(f"sparsity is {sparsity}; it must lie in [0, 1)")
    return round(sparsity * size)


def prune(scores: dict[str, torch.Tensor], sparsity: float, scope: str = "global") -> dict[str, torch.Tensor]:
    """The mask that removes the lowest ``sparsity`` share of ``scores`` (name -> tensor of the weight's shape).

    ``scope="global"`` ranks all weights together (one-shot global magnitude pruning: Zhu & Gupta 2017; price study,
    section 2); ``scope="layer"`` prunes round(s * n) in each layer. Among equal scores the lower index goes first.
    Raises ``ValueError`` for an unknown scope, a sparsity outside [0, 1), NaN scores, or, under the layer scope, a
    sparsity that would leave a layer without any weight.
    """
    if scope not in SCOPES:
        raise ValueError(f"scope {scope!r} is unknown; there are {', '.join(SCOPES)}")
    for name, score in scores.items():
        if torch.isnan(score).any():
            raise ValueError(f"scores of {name!r} hold NaN: no ranking is possible")
    if scope == "global":
        flat = torch.cat([score.flatten() for score in scores.values()])
        keep = _keep(flat, pruned_count(sparsity, flat.numel()))
        parts = keep.split([score.numel() for score in scores.values()])
        return {name: part.view(scores[name].shape) for name, part in zip(scores, parts, strict=True)}
    mask = {}
    for name, score in scores.items():
        mask[name] = _keep(score.flatten(), check_layer(name, score.numel(), sparsity)).view(score.shape)
    return mask


def check_layer(name: str, size: int, sparsity: float) -> int:
    """How many of a layer's ``size`` weights go under the layer scope; raises ``ValueError`` if none would live."""
    count = pruned_count(sparsity, size)
    if count == size:
        raise ValueError(f"sparsity {sparsity} with scope 'layer' leaves no weight in {name!r} ({count} weights); choose a lower one")
    return count


def _keep(scores: torch.Tensor, count: int) -> torch.Tensor:
    """All but the ``count`` lowest; the stable sort breaks ties by index."""
    keep = torch.ones(scores.numel(), dtype=torch.bool, device=scores.device)
    keep[torch.argsort(scores, stable=True)[:count]] = False
    return keep


def density(mask: dict[str, torch.Tensor]) -> float:
    """Share of live weights."""
    return sum(int(m.sum()) for m in mask.values()) / sum(m.numel() for m in mask.values())


def empty_layers(mask: dict[str, torch.Tensor]) -> list[str]:
    """Names of layers in which no weight lives: nothing passes them, so such a network cannot learn."""
    return [name for name, m in mask.items() if not m.any()]
