"""What networks predict: loss, accuracy, entropy, and what becomes of mislabelled examples.

Logits are [..., n, C] and labels int64 [..., n]; leading dimensions are members of a cohort.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch

CHUNK = 500  # examples at a time in a forward pass


@torch.no_grad()
def logits_in_parts(network: torch.nn.Module, x: torch.Tensor) -> torch.Tensor:
    """The network's logits [n, C] for x [n, ...].

    >>> logits_in_parts(torch.nn.Identity(), torch.ones(501, 2)).shape
    torch.Size([501, 2])
    """
    return torch.cat([network(part) for part in x.split(CHUNK)])


def cross_entropy(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Cross-entropy per example in nats, [..., n] (price study, section 2).

    >>> cross_entropy(torch.zeros(1, 2), torch.tensor([0]))
    tensor([0.6931])
    """
    return -torch.log_softmax(logits, -1).gather(-1, labels.unsqueeze(-1)).squeeze(-1)


def entropy(logits: torch.Tensor) -> torch.Tensor:
    """Entropy of the predicted distribution per example in nats, [..., n] (price, Figure 1c).

    >>> entropy(torch.zeros(1, 2))
    tensor([0.6931])
    """
    log_p = torch.log_softmax(logits, -1)
    return -(log_p.exp() * log_p).sum(-1)


def kl_uniform(logits: torch.Tensor) -> torch.Tensor:
    """KL(uniform || p) per example in nats, [..., n]: without bound for a sure prediction.

    >>> kl_uniform(torch.ones(1, 2))
    tensor([0.])
    """
    log_p = torch.log_softmax(logits, -1)
    return -log_p.mean(-1) - math.log(logits.shape[-1])


@dataclass(frozen=True)
class Part:
    """Examples to measure on: x [n, ...], the labels given [c, n] or [n], and which are flipped.

    ``true`` [n] and ``flipped`` bool [c, n] are None where every label is true.
    """

    x: torch.Tensor
    given: torch.Tensor
    true: torch.Tensor | None = None
    flipped: torch.Tensor | None = None


def measure(
    logits_of: Callable[[torch.Tensor], torch.Tensor], part: Part, name: str, chunk: int
) -> dict[str, torch.Tensor]:
    """The measures of one part for all members of a group, as float64 CPU tensors [c] by column.

    ``logits_of(x)`` gives [c, n, C] for x [n, ...]; it is called on ``chunk`` examples at a time.
    The columns are ``{name}_loss``, ``{name}_accuracy``, ``{name}_entropy`` against the given
    labels and, where some are flipped, ``clean_loss``, ``clean_accuracy`` on the rest, and on the
    flipped ones ``flipped_loss``, ``flipped_correct`` (prediction is the true label) and
    ``flipped_memorised`` (prediction is the given, wrong one): price study, Figure 6. A share over
    no examples is NaN.

    >>> part = Part(torch.zeros(4, 2), torch.tensor([0, 0, 0, 1]))
    >>> measure(lambda x: x.unsqueeze(0), part, "test", 2)["test_accuracy"]
    tensor([0.7500], dtype=torch.float64)
    """
    pieces = []
    for start, x in zip(range(0, len(part.x), chunk), part.x.split(chunk), strict=True):
        logits, stop = logits_of(x), start + chunk
        given = part.given[..., start:stop].expand(logits.shape[:-1])
        predicted = logits.argmax(-1)
        true = given if part.true is None else part.true[start:stop]
        hits = predicted == given, predicted == true
        values = cross_entropy(logits, given), entropy(logits), *hits
        pieces.append([value.double() for value in values])
    loss, spread, hit, right = (torch.cat(column, -1) for column in zip(*pieces, strict=True))
    measures = {"loss": loss, "accuracy": hit, "entropy": spread}
    columns = {f"{name}_{measure}": values.mean(-1) for measure, values in measures.items()}
    if part.flipped is not None:
        flipped = part.flipped.expand(hit.shape).double()
        columns |= {
            "clean_loss": _share(loss, 1 - flipped),
            "clean_accuracy": _share(hit, 1 - flipped),
            "flipped_loss": _share(loss, flipped),
            "flipped_correct": _share(right, flipped),
            "flipped_memorised": _share(hit, flipped),
        }
    return {key: value.cpu() for key, value in columns.items()}


def _share(values, weights):
    return (values * weights).sum(-1) / weights.sum(-1)
