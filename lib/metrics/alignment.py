"""How single examples' gradients align with a direction: their cosines."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from lib.metrics.contract import Named, check, check_labels, require
from lib.metrics.gradients import asked, norms_and_dots, passes


def cosines(
    network: nn.Module, x: Tensor, labels: Tensor, direction: Named, *,
    masks: Sequence[Named | None] = (None,), **options,
) -> list[Tensor]:  # fmt: skip
    """Cosines [n] between each example's negative loss gradient and ``direction``, by mask.

    Price study, Figures 8b and 8c; over the live weights that count. The gradient of the loss is
    1 - p of the label times that of the log-odds (all wrong classes against the label): that one is
    used, since it points the same way and does not underflow where the network is confident
    (numbers so small would also slow the processor). Several masks share the passes. An example
    whose gradient is zero for other reasons, in a dead network, gives NaN. Arguments (``options``)
    and errors: see ``lib.metrics.contract``; a direction of zero is refused.

    >>> network = nn.Linear(2, 2, bias=False).eval()
    >>> _, ahead = nn.init.zeros_(network.weight), {"weight": torch.tensor([[0.0, 0.0], [1, 1]])}
    >>> cosines(network, torch.tensor([[1.0, 1.0]]), torch.tensor([1]), ahead)
    [tensor([0.7071])]
    """
    wanted, lengths = [], []
    for mask in masks:
        _, which, chunk = check(network, x, labels, mask=mask, **options)
        wanted.append(asked(network, which, mask, direction))
        every = (ahead for kinds in wanted[-1].values() for _, ahead in kinds.values())
        norms = [torch.linalg.vector_norm(d).double() for d in every if d is not None]
        lengths.append(torch.linalg.vector_norm(torch.stack(norms)) if norms else torch.zeros(()))
        require(lengths[-1] > 0, "the direction is zero over the weights that count: no cosine")
    found = []
    # passes at the cost of the live weights are those of one mask
    for part, taken in passes(network, x, chunk, mask=masks[0] if len(masks) == 1 else None):
        check_labels(labels[part], *taken.logits.shape)
        cotangent = _log_odds_gradient(taken.logits, labels[part])
        both = zip(norms_and_dots(taken, cotangent, wanted), lengths, strict=True)
        found.append([-dot / (norm.sqrt() * length.to(norm.dtype)) for (norm, dot), length in both])
    return [torch.cat(values) for values in zip(*found, strict=True)]


def _log_odds_gradient(logits, labels):
    """Gradient of the log-odds in the logits, [n, C]: -1 at the label, else softmax without it."""
    labels = labels.unsqueeze(1)
    others = torch.softmax(logits.detach().scatter(1, labels, -torch.inf), -1)
    return others.scatter(1, labels, -1.0)
