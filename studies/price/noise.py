"""Label noise and memorization: the price study's Figures 6 and 7.

The table of Figure 7 has a row per run and kept epoch, with Tr(F) on both parts of the training set
as ``clean`` and ``flipped``, and the epoch ``first_fall`` at which the learning rate first falls.
The paper's epochs are told by that one, its epoch 40.
"""

import numpy as np

from studies.price.regimes import FITTED, ROSE, TENTH
from studies.quantities import (
    Numbers, average, between, course, first, highest, last, lift, ln, mean, peak, pick, reduction,
    since,
)  # fmt: skip
from studies.rules import (
    above, chain, each, equal, gap, given, more, name, needs, only, own, ratio, says, where,
)  # fmt: skip

MEMORISES = 0.25  # memorised share below which wrong labels are not learned (chance is 1 / classes)
DENSE_FIRST, SCRATCH_FIRST = ("sol_d", "sol_f", "sol_s"), ("sol_s", "sol_f", "sol_d")
PEAK = "peak of flipped_correct"

noisy = only(lambda table: table["noise"] > 0, "needs label noise above 0")
clean = only(lambda table: table["noise"] == 0, "needs the control runs on clean labels")
UNFITTED = needs(
    lambda table: not pick("train_accuracy", solution="sol_s")(clean(table)).mean() >= FITTED,
    "Sol-S fits the clean training set at this sparsity: the optimization regime lies higher",
)
# a solution that learns no wrong labels has no time at which it does
memorising = where(
    ~(average(pick("flipped_memorised")) < MEMORISES),
    "no solution here memorises a quarter of the wrong labels",
    column="solution",
    among=DENSE_FIRST,
)

LAST_EPOCH = Numbers(lambda table: table["epoch"].max())
# half the largest step between measured epochs: what a place among them cannot tell
HALF_STEP = Numbers(lambda table: np.diff(np.sort(table["epoch"].unique())).max() / 2)


def onset(solution: str) -> Numbers:
    """By seed: the first measured epoch from which on flipped examples are memorised.

    That is, more of them are memorised than correct. A run in which that never happens counts as
    one epoch past its end, which can only understate a later onset.
    """
    shares = [course(f"flipped_{kind}", solution=solution) for kind in ("memorised", "correct")]
    return since(~(shares[0] <= shares[1]), LAST_EPOCH + 1)


def _later(later, sooner):
    """The effect that one solution memorises later than another."""
    never = lift(lambda places, end: int((places > end).sum()))(onset(later), LAST_EPOCH)
    note = lift(lambda seeds: f"never in {seeds} seeds of {name(later)}" if seeds else "")(never)
    delay, what = onset(later) - onset(sooner), f"onset: {name(later)} - {name(sooner)}"
    return more(what, delay, "epochs", resolution=HALF_STEP, note=note)


def half_way(measure: str) -> Numbers:
    """The epoch, after 0, at which a measure first has half of its final value, by seed."""
    reaches = reduction(lambda wide: wide.ge(wide.iloc[:, -1] / 2, axis=0).idxmax(axis=1))
    return reaches(between(course(measure), 1, otherwise="needs epochs after 0, of every solution"))


# -- Figure 7 --------------------------------------------------------------------------------------

FALL = Numbers(lambda table: table["first_fall"].iloc[0])
D, S = ({p: course(p, solution=s) for p in ("clean", "flipped")} for s in ("sol_d", "sol_s"))


def from_epoch_1(rule):
    """A rule of Figure 7: noisy runs, a rate that falls, epochs from 1, where the curves begin."""
    later = only(lambda table: table["epoch"] > 0, "needs epochs after 0")
    steps = needs(lambda t: np.isfinite(FALL(t)), "needs a learning rate that falls in steps")
    return given(steps, noisy, later, rule)


def _window(numerator, denominator, *ends):
    lacking = "keep_epochs holds no epoch in that part of training"
    return between(ln(numerator / denominator), *ends, otherwise=lacking)


def _flipped_above_clean(solution, traces):
    late = _window(traces["flipped"], traces["clean"], FALL / 2)
    ends = [lift(lambda gap, end=end: np.exp(end(gap.mean())))(late) for end in (max, min)]
    what = f"{name(solution)}: ln(Tr(F) flipped / clean), mean over epochs from {{:g}}"
    note = says("highest ratio {:.3g}, lowest {:.3g} of all epochs", *ends)
    return more(says(what, FALL / 2), mean(late), "ln", margin=TENTH, note=note)


def _collapses_and_rises(part):
    fallen, kept = (last(traces[part]) / highest(traces[part]) for traces in (D, S))
    places = [lift(of)(peak(D[part])) for of in (np.mean, min, max)]
    seen = says("peak at epoch {:.0f} ({:g} to {:g})", *places)
    return [
        more(f"{part}: 0.2 - end / peak of Sol-D", 0.2 - fallen, "of the peak", note=seen),
        equal(
            f"{part}: peak of Sol-D - first fall",
            peak(D[part]) - FALL,
            "epochs",
            margin=FALL / 2,
            resolution=HALF_STEP,
        ),
        more(f"{part}: end / peak of Sol-S - 0.9", kept - 0.9, "of the peak"),
        more(
            f"{part}: ln(end / start) of Sol-S - ln {ROSE}",
            ln(last(S[part]) / first(S[part])) - np.log(ROSE),
            "ln",
        ),
        more(f"{part}: ln(Sol-S / Sol-D) at the end", ln(last(S[part]) / last(D[part])), "ln"),
    ]


RULES = {
    "price-noisy-test-order": given(
        noisy, chain("test_accuracy", *SCRATCH_FIRST, how="max", label="best test accuracy")),
    "price-noisy-margins": given(noisy, own("cifar10", "resnet-32"), [
        equal(f"best test accuracy: Sol-S - {name(other)} - {printed}",
              gap("test_accuracy", "sol_s", other, "max") - printed, "points", margin=3.0)
        for other, printed in (("sol_d", 12.5), ("sol_f", 10.5))
    ]),
    "price-noisy-final-test": given(
        noisy, [above("test_accuracy", "sol_s", other) for other in ("sol_f", "sol_d")]),
    "price-noisy-train-order": given(
        noisy, chain("train_accuracy", *DENSE_FIRST, how="max", label="best training accuracy")),
    "price-noisy-losses": given(noisy, [chain("train_loss", *SCRATCH_FIRST, how="min"),
                                        chain("test_loss", *DENSE_FIRST, how="min")]),
    "price-noisy-memorised-order": given(noisy, chain("flipped_memorised", *DENSE_FIRST)),
    "price-noisy-memorise-onset": given(
        noisy, [_later("sol_s", "sol_f"), _later("sol_f", "sol_d")]),
    "price-noisy-correct-on-noisy": given(noisy, [
        chain("flipped_correct", "sol_s", "sol_f", how="max", label=PEAK),
        chain("flipped_correct", "sol_s", "sol_d", how="max", label=PEAK),
        chain("flipped_correct", *SCRATCH_FIRST),
    ]),
    "price-noisy-clean-fit": given(noisy, [
        [above("clean_accuracy", other, "sol_s", printed=2.0) for other in ("sol_d", "sol_f")],
        more("clean_accuracy of Sol-S - 95",
             100 * (pick("clean_accuracy", solution="sol_s") - 0.95), "points"),
    ]),
    "price-noisy-part-losses": given(noisy, [
        [ratio(f"{name(s)}: loss on flipped / on clean examples", pick("flipped_loss", solution=s),
               pick("clean_loss", solution=s), times=2) for s in ("sol_f", "sol_s")],
        chain("flipped_loss", *SCRATCH_FIRST),
    ]),
    "price-memorization-hypothesis": given(UNFITTED, [
        given(noisy, chain("flipped_memorised", "sol_f", "sol_s", label="memorised under noise")),
        given(clean, chain("train_accuracy", "sol_f", "sol_s",
                           label="training accuracy on clean labels")),
    ]),
    "price-memorisation-late": given(noisy, each(
        "solution", more("{solution}: half memorised - half clean",
                         half_way("flipped_memorised") - half_way("clean_accuracy"), "epochs",
                         resolution=HALF_STEP), memorising, name)),
    "price-noisy-fisher-noisy-above-clean": from_epoch_1(
        [_flipped_above_clean("sol_d", D), _flipped_above_clean("sol_s", S)]),
    "price-noisy-fisher-scratch-rises": from_epoch_1([_collapses_and_rises(part) for part in D]),
    "price-noisy-early-fisher-similar": from_epoch_1([
        [more(says(f"{part}: ln(Sol-D / Sol-S), mean over epochs {{:g}} to {{:g}}", FALL / 4, FALL),
              mean(_window(D[part], S[part], FALL / 4, FALL)), "ln") for part in D],
        equal("ln(flipped / clean) of Sol-S, mean over the same",
              mean(_window(S["flipped"], S["clean"], FALL / 4, FALL)), "ln", margin=np.log(1.4)),
    ]),
}  # fmt: skip
