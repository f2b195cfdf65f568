"""What closes the gap between Sol-S and Sol-F under one mask: the arms, and how they are compared.

The table has a row per run and measured epoch, and a column ``arm``: dense, sol_f, sol_s, ``scale``
(N: a fresh start that counts live fan-in, the standard scratch arm of all others), and each other
arm by its name. Paired differences within a seed are in test accuracy; on digits, where that
differs by a point from seed to seed, in the logarithm of the training loss. Of runs on noisy
labels, where a table has them too, only the rules that name them take note.
"""

import numpy as np
import pandas as pd

from studies.decide import MIN_SEEDS, sign_flip
from studies.price.noise import clean
from studies.quantities import Numbers, numbers, pick
from studies.rules import Rule, each, given, matters, more, where

TENTH = np.log(1.1)  # ratios of losses closer to 1 matter to nobody
LEAST = 1e-12  # nats: below that a loss is rounding


def on_digits(table: pd.DataFrame) -> bool:
    """Whether the training loss decides."""
    return set(table["dataset"]) == {"digits"}


@numbers
def fit(table, arm: str) -> pd.Series:
    """Minus the logarithm of an arm's final training loss, a number a seed."""
    return -np.log(pick("train_loss", arm=arm)(table).clip(lower=LEAST))


@numbers
def level(table, arm: str) -> pd.Series:
    """How good an arm is: its final test accuracy in points, or on digits its ``fit``."""
    return fit(arm)(table) if on_digits(table) else 100 * pick("test_accuracy", arm=arm)(table)


def lead(one: str, *others: str, by=level) -> Numbers:
    """How far an arm lies above the mean of others, a number a seed."""
    return by(one) - sum((by(other) for other in others), 0.0) / len(others)


def _margin(table):
    return TENTH if on_digits(table) else matters()(table)


def there(table: pd.DataFrame) -> bool:
    """Whether Sol-F leads Sol-S in this part of a table, by the 95% interval of six seeds."""
    gap = lead("sol_f", "sol_s")(table)
    return len(gap) >= MIN_SEEDS and bool(sign_flip(gap.to_numpy(), 0.95)[0][0] > 0)


GAPS = where(there, "no sparsity here at which the gap's own interval excludes 0")


def beats(one: str, *others: str) -> Rule:
    """The claim that an arm lies above the mean of others, at each sparsity that has a gap."""

    def what(table):
        measure = "-ln(training loss)" if on_digits(table) else "test accuracy, points"
        return f"{one} - {' and '.join(others)}{{sparsity}} ({measure})"

    return given(clean, each("sparsity", more(what, lead(one, *others), margin=_margin), GAPS))


def fits_better(one: str, other: str) -> Rule:
    """The same by the training loss alone."""
    what, numbers = f"-ln(training loss): {one} - {other}", lead(one, other, by=fit)
    return given(clean, each("sparsity", more(what, numbers, margin=TENTH), GAPS))


def unseen(table: pd.DataFrame) -> pd.DataFrame:
    """A table without the seeds of MNIST on which a hard phase was first seen to help."""
    return table[~(table["dataset"].eq("mnist") & table["seed"].between(20, 29))]


def untuned(table: pd.DataFrame) -> pd.DataFrame:
    """A table without the seeds of MNIST on which larger steps were first seen to help."""
    return table[~(table["dataset"].eq("mnist") & table["seed"].between(20, 39))]


RULES = {
    "gap-scale-closes-half": beats("scale", "sol_s", "sol_f"),
    "gap-signs-of-init-f": fits_better("signs_f", "signs_f_shuffled"),
    "gap-mask-realigned": beats("mask_matched", "mask_random"),
    "gap-init-matched": beats("matched", "scale"),
    "gap-low-fisher-first-worse": beats("scale", "low_fisher_first"),
    "gap-hard-first-equal-flops": beats("hard_first_equal_flops", "scale"),
    "gap-hard-phase-closes-half": given(unseen, beats("hard_phase", "sol_s", "sol_f")),
    "gap-hard-phase-equal-flops": given(unseen, beats("hard_phase_equal_flops", "scale")),
    "gap-hard-phase-tuned-rate": given(unseen, beats("hard_phase", "scale_tuned")),
    "gap-tuned-rate-closes-half": given(untuned, beats("scale_tuned", "sol_s", "sol_f")),
    "gap-negative-fisher-first-tenth": beats("negative_fisher", "scale"),
    "gap-finetuned-stays-ahead": beats("sol_f_tuned", "scale_tuned"),
    "gap-signs-hold-when-tuned": beats("signs_f_tuned", "scale_tuned"),
}
