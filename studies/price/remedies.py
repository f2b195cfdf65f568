"""What the price study proposes against the gap (its section 4), each against plain training.

The table is that of the gap study (``studies.gap.arms``): every remedy trains from the same start,
N, as its control ``scale``. ``fisher`` is Tr(F) at the epochs kept in the first phase, and
``chosen_wrong`` the share of wrong labels among the examples that a rule chose, over all epochs.
"""

from studies.decide import NotHere
from studies.gap.arms import GAPS
from studies.price.noise import clean, noisy
from studies.quantities import course, ln, mean, pick
from studies.rules import Rule, each, given, matters, more, says


def helps(measure: str, arm: str) -> Rule:
    """The claim that an arm ends above plain scratch in an accuracy, where there is a gap."""
    numbers = 100 * (pick(measure, arm=arm) - pick(measure, arm="scale"))
    words = f"{measure}: {arm} - plain"
    return given(clean, each("sparsity", more(words, numbers, "points", margin=matters()), GAPS))


def described(arm: str) -> Rule:
    """A remedy whose effect the study leaves without a direction: said, and not decided."""
    ends = [100 * pick("test_accuracy", arm=name) for name in (arm, "scale", "random_subset")]
    words = says("described, not decided: {:.2f}% of the test set; plain {:.2f}%, random subsets "
                 "{:.2f}%", *ends)  # fmt: skip

    def rule(table):
        raise NotHere(words(table))

    return given(clean, rule)


def early(arm: str):
    """Mean ln Tr(F) over the kept epochs of the first phase."""
    return mean(ln(course("fisher", arm=arm)))


def wrong(arm: str):
    """The share of wrong labels among what an arm chose."""
    return pick("chosen_wrong", arm=arm)


RULES = {
    "price-curriculum-low-fisher-first": helps("test_accuracy", "low_fisher_first"),
    "price-curriculum-stabilises-fisher": given(clean, each("sparsity", more(
        "mean ln Tr(F) in the first phase: plain - low Fisher first",
        early("scale") - early("low_fisher_first"), "ln"), GAPS)),
    "price-selection-top-fisher": described("top_fisher"),
    "price-selection-reducible-fisher": given(noisy, each("sparsity", more(
        "share of wrong labels chosen: top Fisher - reducible Fisher",
        100 * (wrong("top_fisher") - wrong("reducible_fisher")),
        "points", margin=1.0))),
    "price-bilevel-selection": described("bilevel"),
    "price-hard-first-phases": helps("test_accuracy", "hard_first"),
    "price-negative-fisher-regulariser": [
        helps("train_accuracy", "negative_fisher"), helps("test_accuracy", "negative_fisher"),
    ],
}  # fmt: skip
