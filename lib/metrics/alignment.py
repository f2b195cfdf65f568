"""How the gradients of single examples align with a direction: their cosines as a distribution, and the classes at its upper end."""

import torch

from lib.metrics.gradients import (
    MeasureError,
    check,
    check_labels,
    counted_direction,
    local,
    passes,
)

LEVELS = 200  # quantiles kept: 0, 1/200, ..., 1
TOP = 0.05  # the examples above the 95% quantile


def cosines(
    network, x, labels, direction, *, masks=(None,), which="all", chunk=None
) -> list[torch.Tensor]:
    """Cosines [n] between each example's negative loss gradient and ``direction``, one tensor for each of ``masks``.

    Price study, Figures 8b and 8c; over the live weights that count. The gradient of the loss is 1 - p of the label times that of the
    log-odds (all wrong classes against the label): that one is used, since it points the same way and does not underflow where
    the network is confident (numbers so small would also slow the processor). Several masks share the passes. Arguments and
    errors: see ``lib.metrics.gradients``. An example whose gradient is zero for other reasons, in a dead network, gives NaN.
    """
    lengths, ahead = [], []
    for mask in masks:
        check(network, x, labels, mask, which)
        ahead.append(counted_direction(network, direction, mask, which))
        norms = [torch.linalg.vector_norm(value).double() for value in ahead[-1].values()]
        lengths.append(torch.linalg.vector_norm(torch.stack(norms)) if norms else torch.zeros(()))
        if not lengths[-1] > 0:
            raise MeasureError(
                "the direction is zero over the weights that count: no cosine is defined"
            )
    found = [[] for _ in masks]
    # passes at the cost of the live weights are those of one mask
    for part, taken in passes(network, x, chunk, mask=masks[0] if len(masks) == 1 else None):
        check_labels(labels, taken.logits)
        norms, dots = [0.0] * len(found), [0.0] * len(found)
        for name, layer, delta in taken.deltas([_log_odds_gradient(taken.logits, labels[part])]):
            for i, mask in enumerate(masks):
                norm, along = layer.squares_and_dots(
                    delta, local(mask, name), local(ahead[i], name), which
                )
                norms[i], dots[i] = norms[i] + sum(norm.values()), dots[i] + along
        for values, norm, dot, length in zip(found, norms, dots, lengths, strict=True):
            values.append(-dot / (norm.sqrt() * length.to(norm.dtype)))
    return [torch.cat(values) for values in found]


def _log_odds_gradient(logits, labels):
    """Gradient of the log-odds in the logits, [n, C]: -1 at the label, and elsewhere the softmax over the other classes."""
    labels = labels.unsqueeze(1)
    return torch.softmax(logits.detach().scatter(1, labels, -torch.inf), -1).scatter(
        1, labels, -1.0
    )


def distribution(cosines: torch.Tensor, labels: torch.Tensor, classes: int) -> dict:
    """The ``cosines`` [n] of examples with ``labels`` int64 [n] as numbers to keep (price study, Figures 8b, 8c, 9 and 10).

    ``mean``, ``std``, ``above_zero`` (a share), ``quantiles`` (201, evenly spaced levels), and of the 5% with the highest
    cosines (round(0.05 n), ties by index) the number in each class, ``top``, beside that of all examples, ``all``. An example
    whose gradient is zero has no cosine (NaN): it counts in ``undefined`` alone. Raises ``MeasureError`` where fewer than 20
    examples have one.
    """
    if cosines.shape != labels.shape:
        raise MeasureError(
            f"{tuple(cosines.shape)} cosines and {tuple(labels.shape)} labels: one label for each is needed"
        )
    defined = ~cosines.isnan()
    values, kept = cosines[defined].double().cpu(), labels[defined].cpu()
    if len(values) < round(1 / TOP):
        raise MeasureError(
            f"{len(values)} of {len(cosines)} examples have a gradient: too few for a distribution"
        )
    highest = torch.argsort(values, descending=True, stable=True)[: round(TOP * len(values))]
    levels = torch.linspace(0, 1, LEVELS + 1, dtype=torch.float64)
    return {
        "mean": values.mean().item(),
        "std": values.std().item(),
        "above_zero": (values > 0).double().mean().item(),
        "undefined": len(cosines) - len(values),
        "quantiles": torch.quantile(values, levels).tolist(),
        "top": torch.bincount(kept[highest], minlength=classes).tolist(),
        "all": torch.bincount(kept, minlength=classes).tolist(),
    }
