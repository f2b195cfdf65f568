"""What several networks make of the same examples: disagreement, ensembles, divergences.

Predictions are logits [n, C] (or class numbers int64 [n] where only the class matters); a set of m
networks is [m, n, C]. Divergences are in nats and computed in float64. ``MeasureError`` says what
cannot be compared.
"""

import torch

from lib.metrics.contract import check_labels, require

NUMBERS = 1 << 22  # probabilities in memory at a time (32 MiB in float64)


def disagreement(a: torch.Tensor, b: torch.Tensor) -> float:
    """The share of examples for which two networks predict different classes, in [0, 1].

    Price study, Figure 5. From logits or class numbers.

    >>> disagreement(torch.tensor([0, 1, 2, 2]), torch.tensor([0, 2, 2, 2]))
    0.25
    """
    a, b = (p.argmax(-1) if p.is_floating_point() else p for p in (a, b))
    require(
        a.shape == b.shape and a.numel(),
        f"predictions of shapes {tuple(a.shape)} and {tuple(b.shape)}: both networks must see the "
        "same examples, and some",
    )
    return (a != b).double().mean().item()


def accuracy(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """The share of right predictions, float64 [...], of logits (or log-probabilities) [..., n, C].

    >>> accuracy(torch.tensor([[2.0, 1.0], [2.0, 1.0]]), torch.tensor([0, 1])).item()
    0.5
    """
    check_labels(labels, *logits.shape[-2:])
    return (logits.argmax(-1) == labels).double().mean(-1)


def ensemble(logits: torch.Tensor) -> torch.Tensor:
    """Log-probabilities [n, C] of the mean of the probabilities of networks [m, n, C].

    >>> ensemble(torch.tensor([[[1.0, 0.0]], [[0.0, 1.0]]])).exp()
    tensor([[0.5000, 0.5000]], dtype=torch.float64)
    """
    count = torch.tensor(len(logits)).double().log().to(logits.device)
    return torch.cat([log_p.logsumexp(0) for log_p in _log_p(logits)]) - count


def kl_matrix(logits: torch.Tensor) -> torch.Tensor:
    """KL(p_i || p_j) between networks [m, n, C], a mean over examples: float64 [m, m].

    >>> kl_matrix(torch.tensor([[[0.0, 0.0]], [[0.0, 0.0]]]))
    tensor([[0., 0.],
            [0., 0.]], dtype=torch.float64)
    """
    # row i, column j: the sum of p_i log p_j
    flat = (log_p.flatten(1) for log_p in _log_p(logits))
    cross = sum((log_p.exp() @ log_p.T for log_p in flat), torch.zeros(()))
    return ((cross.diagonal().unsqueeze(1) - cross) / logits.shape[1]).clamp(min=0)


def js_matrix(logits: torch.Tensor) -> torch.Tensor:
    """Jensen-Shannon divergence between networks [m, n, C], a mean over examples: float64 [m, m].

    Symmetric and at most ln 2; its square root is a distance.

    >>> round(js_matrix(torch.tensor([[[99.0, 0.0]], [[0.0, 99.0]]]))[0, 1].item(), 4)
    0.6931
    """
    total = torch.zeros(len(logits), len(logits), dtype=torch.float64, device=logits.device)
    for log_p in _log_p(logits):
        p = log_p.exp().flatten(1)
        own = torch.special.entr(p).sum(1)
        between = torch.stack([torch.special.entr((row + p) / 2).sum(1) for row in p])
        total += between - (own.unsqueeze(1) + own) / 2
    return (total / logits.shape[1]).clamp(min=0)


def js_all(logits: torch.Tensor) -> float:
    """Jensen-Shannon divergence of m networks [m, n, C] at once, a mean over examples.

    The entropy of their mean less the mean of their entropies: at most ln m; for two networks it is
    their entry in ``js_matrix``.

    >>> round(js_all(99 * torch.eye(3).unsqueeze(1)), 4)
    1.0986
    """
    entropy, every = torch.special.entr, (log_p.exp() for log_p in _log_p(logits))
    total = sum((entropy(p.mean(0)).sum() - entropy(p).sum() / len(p)).item() for p in every)
    return max(total / logits.shape[1], 0.0)


def _log_p(logits):
    """Log-probabilities [m, n, C] of a set of networks, in float64, some examples at a time."""
    shape = tuple(logits.shape)
    require(
        len(shape) == 3 and logits.numel(),
        f"logits of shape {shape}: a set of networks is [networks, examples, classes], none zero",
    )
    finite = logits.isfinite().flatten(1).all(1)
    require(
        finite.all(),
        f"the logits of network {int(finite.byte().argmin())} of {shape[0]} are not all finite",
    )
    for part in logits.split(max(1, NUMBERS // (shape[0] * shape[2])), dim=1):
        yield torch.log_softmax(part.double(), -1)
