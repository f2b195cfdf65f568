"""Which examples a step sees: rules that choose a batch from a pool of random examples.

A rule takes a ``Pool``, which scores its examples in one pass when it is asked, and returns the
indices in the pool (int64 [size]) of those to train on, or None for an ordinary batch. To add one::

    @selection
    def easiest(pool):
        return lowest(pool.losses(), pool.size)

Those of the project are the price study's proposals (section 4.2, Algorithms 1 to 3) and their
controls. Where the text leaves a reading open both stand here, under names of their own.
"""

import torch
from torch import nn

from lib import rng
from lib.data import sets
from lib.masks.masks import Named
from lib.metrics import alignment, fisher, predictions
from lib.registry import selection
from lib.specs.arms import Selection
from lib.specs.run import Run
from lib.training.cohort import Layout, filled, network_of


class Pool:
    """Examples x [n, ...] and labels y [n] in random order, of which ``size`` are to be chosen.

    They are one member's at one step: its ``network`` in eval mode, under its ``mask``.
    ``progress`` is the share of training that is over, ``until`` the share that a first phase
    takes; ``known`` [n] and ``ahead`` (by parameter name) are told in ``beforehand``. What scoring
    costs is counted in ``passes``, forward passes of an example.
    """

    known: torch.Tensor
    ahead: Named

    def __init__(
        self, network: nn.Module, mask: Named, x: torch.Tensor, y: torch.Tensor, size: int,
        chosen: Selection, progress: float, generator: torch.Generator,
    ):  # fmt: skip
        self.network, self.mask, self.x, self.y, self.size = network, mask, x, y, size
        self.labels, self.until, self.progress = chosen.labels, chosen.until, progress
        self.generator, self.passes = generator, 0

    def fisher(self, among: torch.Tensor | None = None) -> torch.Tensor:
        """Each example's Fisher trace [n], or of those ``among`` them (indices [m]): [m]."""
        x, y = (self.x, self.y) if among is None else (self.x[among], self.y[among])
        self.passes += 2 * len(x)  # forward, and back to the outputs of layers
        if self.labels == "given":
            return fisher.empirical(self.network, x, y, mask=self.mask)
        return fisher.sampled(self.network, x, generator=self.generator, mask=self.mask)

    def logits(self) -> torch.Tensor:
        """The network's logits [n, C]."""
        self.passes += len(self.x)
        return predictions.logits_in_parts(self.network, self.x)

    def losses(self) -> torch.Tensor:
        """Each example's cross-entropy [n]: how hard it is now."""
        return predictions.cross_entropy(self.logits(), self.y)


def highest(scores: torch.Tensor, count: int) -> torch.Tensor:
    """Indices of the ``count`` highest scores, the highest first; of equal ones the first in the
    pool.

    >>> highest(torch.tensor([1.0, 3.0, 3.0]), 2)
    tensor([1, 2])
    """
    return scores.argsort(descending=True, stable=True)[:count]


def lowest(scores: torch.Tensor, count: int) -> torch.Tensor:
    """Indices of the ``count`` lowest scores, the lowest first."""
    return highest(-scores, count)


def ranks(scores: torch.Tensor) -> torch.Tensor:
    """The place of each score in the rising order, int64 [n]."""
    return scores.argsort(stable=True).argsort()


# -- the rules -------------------------------------------------------------------------------------


@selection
def uniform(pool: Pool) -> None:
    """Plain training: the ordinary batches. A run of this selection is one of none."""


@selection
def random_subset(pool: Pool) -> torch.Tensor:
    """Any of the pool: the control of all others."""
    return torch.arange(pool.size)


@selection
def low_fisher_first(pool: Pool) -> torch.Tensor | None:
    """The lowest Fisher traces in a first phase, then ordinary batches (Algorithm 1)."""
    return lowest(pool.fisher(), pool.size) if pool.progress < pool.until else None


@selection
def top_fisher(pool: Pool) -> torch.Tensor:
    """The highest Fisher traces, always (Algorithm 2)."""
    return highest(pool.fisher(), pool.size)


@selection
def reducible_fisher(pool: Pool) -> torch.Tensor:
    """Where the trace's rank lies highest above its rank in the guide (Algorithm 3).

    The guide is a small model, trained on the ``holdout`` alone; the traces of two networks differ
    in size.
    """
    return highest(ranks(pool.fisher()) - ranks(pool.known), pool.size)


@selection
def reducible_fisher_raw(pool: Pool) -> torch.Tensor:
    """The same by the difference of the traces themselves (Algorithm 3 as printed)."""
    return highest(pool.fisher() - pool.known, pool.size)


def _within(pool, among):
    return among[highest(pool.fisher(among), pool.size)]


@selection
def bilevel(pool: Pool) -> torch.Tensor:
    """The highest traces of the half of the pool whose losses are highest (section 4.2.2)."""
    return _within(pool, highest(pool.losses(), max(len(pool.x) // 2, pool.size)))


@selection
def bilevel_low(pool: Pool) -> torch.Tensor:
    """The highest traces of the half whose losses are lowest: fewer wrong labels."""
    return _within(pool, lowest(pool.losses(), max(len(pool.x) // 2, pool.size)))


@selection
def hard_first(pool: Pool) -> torch.Tensor | None:
    """The hardest first, then any of a share of the pool that grows to the whole (section 4.2.1).

    Mean hardness (the loss) falls through the first phase; then ordinary batches.
    """
    if pool.progress >= pool.until:
        return None
    most = pool.size + (len(pool.x) - pool.size) * pool.progress / pool.until
    hardest = highest(pool.losses(), round(most))
    return hardest[torch.randperm(len(hardest), generator=pool.generator)[: pool.size]]


@selection
def hard_phase(pool: Pool) -> torch.Tensor | None:
    """The hardest in a first phase, then ordinary batches."""
    return highest(pool.losses(), pool.size) if pool.progress < pool.until else None


@selection
def hard_disagreeing(pool: Pool) -> torch.Tensor:
    """Half a batch of the hardest, half of the hardest where Sol-D disagrees (Zhang et al. 2021).

    Where too few disagree the next hardest fill up.
    """
    logits = pool.logits()
    order = highest(predictions.cross_entropy(logits, pool.y), len(pool.x))
    apart = logits.argmax(1).ne(pool.known)
    first, rest = order[: pool.size // 2], order[pool.size // 2 :]
    return torch.cat([first, rest[highest(apart[rest].long(), pool.size)]])[: pool.size]


@selection
def path_oracle(pool: Pool) -> torch.Tensor:
    """Whose step points most along Sol-F - Init-S: what data schedules could do at best, knowing
    the end (section 4.2.1, Figure 8). The guide is Sol-F."""
    pool.passes += 3 * len(pool.x)
    found = alignment.cosines(pool.network, pool.x, pool.y, pool.ahead, masks=[pool.mask])[0]
    return highest(found.nan_to_num(-2.0), pool.size)


# -- before training ------------------------------------------------------------------------------


def beforehand(
    run: Run, network: nn.Module, weights: torch.Tensor, parent: Named | None,
    guide: Named | None, images: sets.ImageSet,
) -> Named:  # fmt: skip
    """What a run's rule looks up: "known" [N] of all training examples, or "ahead" [P].

    Sol-D's predictions for ``hard_disagreeing``; Sol-F minus the start for ``path_oracle``; else of
    a ``guide`` each example's Fisher trace. ``parent`` and ``guide`` hold tensors of those runs.
    """
    rule, x = run.selection and run.selection.name, images.x_train
    if rule == "hard_disagreeing" and parent is not None:
        dense = filled(network, parent["weights"], parent["buffers"], x.device)
        return {"known": predictions.logits_in_parts(dense, x).argmax(1)}
    if rule is None or guide is None or run.guide is None:
        return {}
    if rule == "path_oracle":
        return {"ahead": (guide["weights"] - weights).to(x.device)}
    other = filled(network_of(run.guide, images), guide["weights"], guide["buffers"], x.device)
    draws = rng.generator(run.seed, "guide")
    live = Layout(other).views(guide["mask"].to(x.device))
    return {"known": fisher.sampled(other, x, generator=draws, mask=live)}
