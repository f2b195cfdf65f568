"""What several networks make of the same examples: disagreement, ensembles, divergences between their predictions.

Predictions are logits [n, C] (or class numbers int64 [n] where only the class matters); a set of m networks is
[m, n, C]. Divergences are in nats and computed in float64. ``MeasureError`` says what cannot be compared.
"""

from dataclasses import dataclass

import torch

from lib.metrics.gradients import MeasureError

NUMBERS = 1 << 22  # probabilities in memory at a time (32 MiB in float64)


@dataclass(frozen=True)
class ByClass:
    """How often something holds in each true class: ``count`` int64 [C] of ``examples`` int64 [C]."""

    count: torch.Tensor
    examples: torch.Tensor

    @property
    def rate(self) -> torch.Tensor:
        """Share of a class's examples for which it holds, float64 [C]; NaN for a class without examples."""
        return self.count.double() / self.examples

    @property
    def share(self) -> torch.Tensor:
        """Each class's share of all the cases, float64 [C], summing to 1; NaN where there is no case."""
        return self.count.double() / self.count.sum()


def predicted(predictions: torch.Tensor) -> torch.Tensor:
    """The class that is predicted, int64 [..., n], from logits [..., n, C]; class numbers pass as they are."""
    return predictions.argmax(-1) if predictions.is_floating_point() else predictions


def differs(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """Where two networks predict different classes: bool [n] (price study, Figure 5). Logits or class numbers."""
    a, b = predicted(a), predicted(b)
    if a.shape != b.shape:
        raise MeasureError(
            f"predictions of shapes {tuple(a.shape)} and {tuple(b.shape)}: both networks must see the same examples"
        )
    if a.numel() == 0:
        raise MeasureError("no examples: the share of an empty set is not defined")
    return a != b


def disagreement(a: torch.Tensor, b: torch.Tensor) -> float:
    """The share of the examples for which two networks predict different classes, in [0, 1]."""
    return differs(a, b).double().mean().item()


def by_class(holds: torch.Tensor, labels: torch.Tensor, classes: int) -> ByClass:
    """Count where ``holds`` (bool [n], e.g. from ``differs``) by true class ``labels`` int64 [n]."""
    _check_labels(labels, len(holds), classes)
    return ByClass(
        torch.bincount(labels[holds], minlength=classes), torch.bincount(labels, minlength=classes)
    )


def distribution(predictions: torch.Tensor, classes: int) -> torch.Tensor:
    """The share of the examples that go to each predicted class, float64 [C], summing to 1. Logits or class numbers."""
    chosen = predicted(predictions)
    _check_labels(chosen, len(chosen), classes)
    return torch.bincount(chosen, minlength=classes).double() / len(chosen)


def accuracy(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """The share of right predictions, float64 [...], of logits (or log-probabilities) [..., n, C]."""
    _check_labels(labels, logits.shape[-2], logits.shape[-1])
    return (logits.argmax(-1) == labels).double().mean(-1)


def ensemble(logits: torch.Tensor) -> torch.Tensor:
    """Log-probabilities [n, C] of the mean of the probabilities that networks give, from their logits [m, n, C]."""
    _check_set(logits)
    return torch.cat([_log_p(part).logsumexp(0) for part in _chunks(logits)]) - torch.tensor(
        len(logits)
    ).double().log().to(logits.device)


def kl_matrix(logits: torch.Tensor) -> torch.Tensor:
    """KL(p_i || p_j) between networks, a mean over examples: float64 [m, m] from logits [m, n, C]; 0 on the diagonal."""
    _check_set(logits)
    cross = 0.0
    for part in _chunks(logits):
        log_p = _log_p(part).flatten(1)
        cross = cross + log_p.exp() @ log_p.T  # row i, column j: the sum of p_i log p_j
    return ((cross.diagonal().unsqueeze(1) - cross) / logits.shape[1]).clamp(min=0)


def js_matrix(logits: torch.Tensor) -> torch.Tensor:
    """Jensen-Shannon divergence between networks, a mean over examples: float64 [m, m] from logits [m, n, C].

    Symmetric and at most ln 2; its square root is a distance.
    """
    _check_set(logits)
    members = len(logits)
    total = torch.zeros(members, members, dtype=torch.float64, device=logits.device)
    for part in _chunks(logits):
        p = _log_p(part).exp().flatten(1)
        own = torch.special.entr(p).sum(1)
        for i in range(members):
            total[i] += torch.special.entr((p[i] + p) / 2).sum(1) - (own[i] + own) / 2
    return (total / logits.shape[1]).clamp(min=0)


def js_all(logits: torch.Tensor) -> float:
    """Jensen-Shannon divergence of m networks at once, a mean over examples: the entropy of their mean less the mean of their entropies.

    At most ln m; for two networks it is their entry in ``js_matrix``.
    """
    _check_set(logits)
    total = 0.0
    for part in _chunks(logits):
        p = _log_p(part).exp()
        total += (torch.special.entr(p.mean(0)).sum() - torch.special.entr(p).sum() / len(p)).item()
    return max(total / logits.shape[1], 0.0)


def within(logits: torch.Tensor, labels: torch.Tensor) -> dict[str, float]:
    """How good and how alike m >= 2 networks are (gradient-flow study, Tables 2 and 6), from their logits [m, n, C]; means over pairs.

    accuracy (mean of the members), ensemble (its accuracy), disagreement, kl (both directions), js, and js_all of all at once.
    """
    _check_set(logits)
    m = len(logits)
    if m < 2:
        raise MeasureError("one network: how alike networks are takes at least two")
    chosen = predicted(logits)
    apart = [disagreement(chosen[i], chosen[j]) for i in range(m) for j in range(i)]
    pairs = m * (m - 1)
    return {
        "accuracy": accuracy(logits, labels).mean().item(),
        "ensemble": accuracy(ensemble(logits), labels).item(),
        "disagreement": sum(apart) / len(apart),
        "kl": (kl_matrix(logits).sum() / pairs).item(),
        "js": (js_matrix(logits).sum() / pairs).item(),
        "js_all": js_all(logits),
    }


def against(logits: torch.Tensor, reference: torch.Tensor) -> dict[str, float]:
    """How far networks [m, n, C] are from one other, ``reference`` [n, C], means over them: disagreement, kl (both directions), js."""
    chosen, own = predicted(logits), predicted(reference)
    pairs = [torch.stack([member, reference]) for member in logits]
    return {
        "disagreement": sum(disagreement(member, own) for member in chosen) / len(chosen),
        "kl": sum(kl_matrix(pair).sum().item() / 2 for pair in pairs) / len(pairs),
        "js": sum(js_matrix(pair)[0, 1].item() for pair in pairs) / len(pairs),
    }


def _log_p(logits):
    return torch.log_softmax(logits.double(), -1)


def _chunks(logits):
    return logits.split(max(1, NUMBERS // (logits.shape[0] * logits.shape[2])), dim=1)


def _check_set(logits):
    if logits.dim() != 3:
        raise MeasureError(
            f"logits of shape {tuple(logits.shape)}: a set of networks is [networks, examples, classes]"
        )
    if 0 in logits.shape:
        raise MeasureError(f"logits of shape {tuple(logits.shape)}: there is nothing to compare")
    finite = logits.isfinite().flatten(1).all(1)
    if not finite.all():
        raise MeasureError(
            f"the logits of network {int((~finite).nonzero()[0])} of {len(logits)} are not all finite"
        )


def _check_labels(labels, count, classes):
    if labels.shape != (count,):
        raise MeasureError(
            f"labels of shape {tuple(labels.shape)} for {count} examples: one label for each is needed"
        )
    if count == 0:
        raise MeasureError("no examples: the share of an empty set is not defined")
    low, high = int(labels.min()), int(labels.max())
    if low < 0 or high >= classes:
        raise MeasureError(
            f"labels from {low} to {high}: with {classes} classes they are 0 to {classes - 1}"
        )
