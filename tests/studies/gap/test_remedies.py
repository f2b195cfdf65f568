"""The rules of the gap study and of the price study's remedies: what they make of known arms."""

import pytest
from support import gap_table as table
from support import judged

from studies import ledger
from studies.decide import NOT_TESTED, REFUTED, SUPPORTED, NotHere
from studies.presets import settings
from studies.rules import rows

PAIRS = {  # claim -> the arm that it says is ahead, and the one behind
    "gap-signs-of-init-f": ("signs_f", "signs_f_shuffled"),
    "gap-mask-realigned": ("mask_matched", "mask_random"),
    "gap-init-matched": ("matched", "scale"),
    "gap-low-fisher-first-worse": ("scale", "low_fisher_first"),
    "gap-hard-first-equal-flops": ("hard_first_equal_flops", "scale"),
    "gap-hard-phase-equal-flops": ("hard_phase_equal_flops", "scale"),
    "gap-hard-phase-tuned-rate": ("hard_phase", "scale_tuned"),
    "gap-negative-fisher-first-tenth": ("negative_fisher", "scale"),
    "gap-finetuned-stays-ahead": ("sol_f_tuned", "scale_tuned"),
    "gap-signs-hold-when-tuned": ("signs_f_tuned", "scale_tuned"),
    "price-curriculum-low-fisher-first": ("low_fisher_first", "scale"),
    "price-curriculum-stabilises-fisher": ("scale", "low_fisher_first"),
    "price-hard-first-phases": ("hard_first", "scale"),
    "price-negative-fisher-regulariser": ("negative_fisher", "scale"),
}


@pytest.mark.parametrize("dataset", ["mnist", "digits"])
@pytest.mark.parametrize("claim", PAIRS)
def test_the_arm_ahead_decides(claim, dataset):
    """Two points more support a claim, two less refute it; by losses and by accuracies alike."""
    ahead, behind = PAIRS[claim]
    for gain, verdict in ((2.0, SUPPORTED), (-2.0, REFUTED)):
        levels = {ahead: 3.0 + gain, behind: 3.0}
        if ahead == "scale":
            levels = {ahead: 3.0, behind: 3.0 - gain}
        assert judged(claim, table(dataset, **levels)) == verdict


HALF = {  # claim -> the arm that it says is beyond the middle
    "gap-scale-closes-half": "scale",
    "gap-hard-phase-closes-half": "hard_phase",
    "gap-tuned-rate-closes-half": "scale_tuned",
}


@pytest.mark.parametrize("claim", HALF)
@pytest.mark.parametrize(("points", "verdict"), [(3.0, SUPPORTED), (1.0, REFUTED)])
def test_half_of_the_gap(claim, points, verdict):
    """Of a gap of four points, three are more than half and one is less."""
    assert judged(claim, table(**{HALF[claim]: points})) == verdict


@pytest.mark.parametrize(
    ("claim", "first"), [("gap-hard-phase-closes-half", 20), ("gap-tuned-rate-closes-half", 30)]
)
def test_seeds_that_suggested_a_claim_do_not_decide_it(claim, first):
    """Those of MNIST: to 29 of a hard phase, to 39 of a rate of its own."""
    found = table(**{HALF[claim]: 3.5})
    suggested = found.assign(seed=lambda t: t["seed"] + first)
    assert judged(claim, found) == SUPPORTED
    assert judged(claim, suggested) == NOT_TESTED


def test_without_a_gap_nothing_is_decided():
    """Where Sol-F does not lead, or too few seeds tell, a share of the gap has no meaning."""
    none = table(sol_f=0.0, matched=5.0)
    few = table(matched=5.0).query("seed < 5")
    for found in (none, few):
        assert judged("gap-init-matched", found) == NOT_TESTED


def test_an_arm_that_has_not_run_is_not_tested():
    """And none of the others hangs on it."""
    made = settings("gap_causes", "desktop").model_dump(mode="json")
    arms = table(dense=10.0, scale=1.0, signs_f=3.0, signs_f_shuffled=1.0)
    found = ledger.verdicts("gap_causes", arms, made=made).set_index("claim")["verdict"]
    assert found["gap-init-matched"] == found["gap-mask-realigned"] == NOT_TESTED
    assert found["gap-signs-of-init-f"] == SUPPORTED


def test_wrong_labels_that_are_chosen():
    """On noisy labels alone, whatever the gap."""
    levels = {"top_fisher": 6.0, "reducible_fisher": 2.0}
    claim = "price-selection-reducible-fisher"
    assert judged(claim, table(noise=0.3, **levels)) == SUPPORTED
    assert judged(claim, table(**levels)) == NOT_TESTED


@pytest.mark.parametrize("arm", ["top_fisher", "bilevel"])
def test_what_has_no_direction_is_described(arm):
    """Its numbers are said beside those of plain training and of random subsets."""
    claim = {"top_fisher": "price-selection-top-fisher", "bilevel": "price-bilevel-selection"}[arm]
    found = table(random_subset=1.0, **{arm: 2.0})
    assert judged(claim, found) == NOT_TESTED
    with pytest.raises(NotHere, match=r"described, not decided: 9[12]"):
        rows(ledger.RULES[claim], found)
