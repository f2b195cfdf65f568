"""The Fisher trace on clean and on mislabelled examples over training: the price study's Figure 7.

The table has a row per run and kept epoch, with Tr(F) on both parts of the training set as
``clean`` and ``flipped``, and the epoch ``first_fall`` at which the learning rate first falls. The
paper's epochs are told by that one, its epoch 40.
"""

import numpy as np
import pandas as pd

from studies.price.noise import noisy
from studies.quantities import Numbers, between, course, highest, last, lift, ln, mean, peak
from studies.rules import given, more, name, needs, says

PARTS = ("clean", "flipped")
fall = Numbers(lambda table: table["first_fall"].iloc[0])
falls = needs(lambda table: np.isfinite(fall(table)), "needs a learning rate that falls in steps")


def from_epoch_1(table: pd.DataFrame) -> pd.DataFrame:
    """The noisy runs from epoch 1 on, where the paper's curves begin."""
    return noisy(table[table["epoch"] > 0])


def trace(part: str, solution: str) -> Numbers:
    """Tr(F) on a part of the training set, over the kept epochs."""
    return course(part, solution=solution)


def _window(logarithms, *ends):
    return between(
        logarithms, *ends, otherwise="keep_epochs holds no epoch in that part of training"
    )


def _flipped_above_clean(solution):
    late = _window(ln(trace("flipped", solution) / trace("clean", solution)), fall / 2)
    what = f"{name(solution)}: ln(Tr(F) flipped / clean), mean over epochs from {{:g}}"
    ends = [lift(lambda gap, end=end: np.exp(end(gap.mean())))(late) for end in (max, min)]
    return more(
        says(
            f"{name(solution)}: ln(Tr(F) flipped / clean), mean over epochs from {{:g}}", fall / 2
        ),
        mean(late),
        "ln",
        note=says("highest ratio {:.3g}, lowest {:.3g} of all epochs", *ends),
    )


def _collapses_and_rises(part):
    dense, scratch = trace(part, "sol_d"), trace(part, "sol_s")
    top = peak(dense)
    seen = says("peak at epoch {:.0f} ({:g} to {:g})", top, lift(min)(top), lift(max)(top))
    fallen = 0.2 - last(dense) / highest(dense)
    return [
        more(f"{part}: 0.2 - end / peak of Sol-D", fallen, "of the peak", note=seen),
        more(
            f"{part}: end / peak of Sol-S - 0.9",
            last(scratch) / highest(scratch) - 0.9,
            "of the peak",
        ),
        more(f"{part}: ln(Sol-S / Sol-D) at the end", ln(last(scratch) / last(dense)), "ln"),
    ]


def _below(part):
    words = f"{part}: ln(Sol-D / Sol-S), mean over epochs {{:g}} to {{:g}}"
    lead = _early(trace(part, "sol_d"), trace(part, "sol_s"))
    return more(says(words, fall / 4, fall), lead, "ln")


def _early(numerator, denominator):
    """The mean logarithm of a ratio from a quarter of the first fall up to it."""
    return mean(_window(ln(numerator / denominator), fall / 4, fall))


RULES = {
    "price-noisy-fisher-noisy-above-clean": given(
        falls, from_epoch_1, [_flipped_above_clean(s) for s in ("sol_d", "sol_s")]
    ),
    "price-noisy-fisher-scratch-rises": given(
        falls, from_epoch_1, [_collapses_and_rises(part) for part in PARTS]
    ),
    "price-noisy-early-fisher-similar": given(
        falls,
        from_epoch_1,
        [
            *(_below(part) for part in PARTS),
            more(
                "ln 1.4 - ln(flipped / clean) of Sol-S, mean over the same",
                np.log(1.4) - _early(trace("flipped", "sol_s"), trace("clean", "sol_s")),
                "ln",
            ),
        ],
    ),
}
