"""The arms of the gap study by name, and what a plan of them needs before anything has run."""

from typing import Annotated

from pydantic import Field

from lib.specs import fields
from lib.specs.fields import Listed, Once, Spec, among

# What each arm is, in the words of figures. All but dense, Sol-F and Sol-S begin from N.
ARMS = {
    "dense": "Sol-D, dense",
    "sol_f": "Sol-F, finetuned",
    "sol_s": "Sol-S, scratch",
    "scale": "N: counts live fan-in",
    "signs_f": "N, signs of Init-F",
    "signs_f_shuffled": "N, these shuffled",
    "signs_d": "N, signs of Init-D",
    "signs_d_shuffled": "N, these shuffled (D)",
    "magnitudes_f": "N, magnitudes of Init-F",
    "kernels_f": "Init-F, fresh biases",
    "kernels_f_shuffled": "Init-F, shuffled",
    "mask_matched": "mask matched to another network",
    "mask_random": "mask permuted at random",
    "matched": "N, units matched to Init-F",
    "matched_shuffled": "N matched, signs shuffled",
    "random_subset": "random subset of the pool",
    "random_subset_holdout": "the same, no holdout",
    "low_fisher_first": "low Fisher first",
    "top_fisher": "top Fisher",
    "reducible_fisher": "reducible Fisher, by rank",
    "reducible_fisher_raw": "reducible Fisher, raw",
    "bilevel": "high loss, then Fisher",
    "bilevel_low": "low loss, then Fisher",
    "hard_first": "hard first, fading",
    "hard_first_equal_flops": "hard first, equal FLOPs",
    "hard_phase": "hard phase, then uniform",
    "hard_phase_equal_flops": "hard phase, equal FLOPs",
    "hard_disagreeing": "hard and disagreeing",
    "path_oracle": "path oracle",
    "negative_fisher": "Fisher rewarded at first",
    "negative_fisher_examples": "the same, by examples",
    "positive_fisher": "Fisher penalised",
    "positive_fisher_examples": "penalised, by examples",
    "jacobian": "Jacobian penalised",
    "sam": "SAM",
    "sam_equal_flops": "SAM, equal FLOPs",
    "set": "SET",
    "rigl": "RigL",
    "gradual": "gradual pruning",
    "ticket": "lottery ticket",
    "scale_tuned": "N, tuned",
    "signs_f_tuned": "N, signs of Init-F, tuned",
    "sol_f_tuned": "Sol-F, tuned",
}


Factors = Annotated[tuple[fields.Positive, ...], Listed, Field(min_length=1), Once]
Counts = Annotated[tuple[fields.Count, ...], Listed, Field(min_length=1), Once]
Shares = Annotated[tuple[fields.Share, ...], Listed, Field(min_length=1), Once]


class Asked(Spec):
    """What the figures of the gap study plan for themselves. Of several values of the last seven
    the one is taken that is best on validation."""

    arms: Annotated[tuple[Annotated[str, among(ARMS)], ...], Listed, Once] | None = None
    """Those that run; None: all of the figure."""
    pools: Counts | None = None
    """Batches of a pool."""
    phases: Shares | None = None
    """Shares of training that a first phase takes."""
    fisher_weights: Factors | None = None
    """Of the Fisher penalties, without their sign."""
    jacobian_weights: Factors | None = None
    radii: Factors | None = None
    """Of SAM."""
    rates: Factors | None = None
    """Times the learning rate."""
    lengths: Counts | None = None
    """Times the epochs."""


def equal_epochs(epochs: int, passes: float) -> int:
    """The epochs in which an arm costs no more sparse FLOPs than plain training in ``epochs``.

    Plain training is three forward passes of an example, and the arm has ``passes`` more of them,
    on average over its training: a rule that scores a pool of ``pool`` batches in one pass during
    the share ``until`` has pool * until (twice that for Fisher traces), SAM has 3. At least 1.

    >>> equal_epochs(30, 0), equal_epochs(30, 3), equal_epochs(30, 10 * 0.1)
    (30, 15, 22)
    """
    return max(1, int(3 * epochs / (3 + passes) + 1e-9))
