"""The two regimes of the gap between Sol-F and Sol-S: the price study's Figures 1 and 3, Table 1.

The table of Figure 1 has a row per run and measured epoch; that of Figure 3 (and 11, 12) one per
run and kept epoch, with ``fisher``, Tr(F) on training examples, whose ratios are decided on their
logarithms.
"""

import functools
from itertools import pairwise

import numpy as np
import pandas as pd

from studies.evidence import CLASSES
from studies.quantities import (
    Numbers, at_least, at_others_best, average, course, factor, first, highest, known, last,
    lift, ln, mean, part, pick, since, sparsities,
)  # fmt: skip
from studies.rules import (
    MATCH, Rule, above, at_place, each, equal, fact, gap, given, if_any, matters, more, name, needs,
    only, own, ratio, rises, says, where,
)  # fmt: skip

PAIR = ("sol_f", "sol_s")
FITTED = 0.995  # training accuracy from which a solution counts as fitting its training set
TRACES_FITTED = 0.97  # of Sol-S in Figure 3: the lowest that the study counts as fitting there
TENTH = np.log(1.1)  # ratios closer to 1 matter to nobody
ROSE = 1.2  # times the start (or the end) by which a peak of Tr(F) lies above it
HIGHER = "Sol-S fits the training set at every sparsity here: higher ones would be needed"

OWN = own("cifar100", "resnet-32")
BITS = needs(
    lambda table: set(table["dataset"]) == {"bits12"},
    "a claim on the 12-bit task: presets quick and desktop with their own data can test it",
)
lowest = Numbers(lambda table: sparsities(table)[0])
furthest = Numbers(lambda table: sparsities(table)[-1])


def several(least: int, words: str):
    """The condition of so many sparsities."""
    return needs(lambda table: len(sparsities(table)) >= least, f"needs {words} sparsities or more")


def higher(measure, more_of="sol_s", less_of="sol_f", *, printed, times=1.0) -> Rule:
    """One solution has more of a measure, on the logarithm of the ratio.

    ``printed`` are the lowest and the highest ratio of the paper. Where the claim names no size
    (``times``), less than a tenth, or than a third of the lowest logarithm, does not matter.
    """
    one, other = (at_least(pick(measure, solution=s), 1e-12) for s in (more_of, less_of))
    seen = says("{:.3g} times; printed {:g} to {:g}", factor(ln(one / other)), *printed)
    margin = min(TENTH, np.log(printed[0]) / 3) if times == 1 else 0.0
    words = {"fisher": "Tr(F)", "hessian": "Tr(H)"}.get(measure, measure.replace("_", " "))
    what = f"{words} of {name(more_of)} / {name(less_of)}"
    return ratio(what, one, other, times, margin=margin, note=seen)


def gaps(measure: str, scale: float = 100.0) -> Numbers:
    """Sol-F minus Sol-S over the sparsities, of the seeds that have all of them."""
    of = functools.partial(course, measure, "sparsity")
    return known(scale * (of(solution="sol_f") - of(solution="sol_s")))


TEST_GAPS, ENTROPY_GAPS = gaps("test_accuracy"), gaps("train_entropy", -1.0)

# By seed: the sparsity from which on Sol-F fits the training set better, by over half a point.
boundary = since(gaps("train_accuracy") > MATCH)
# where no seed's grid shows one: a step beyond the grid
BORDER = lift(lambda places, end, step: places.fillna(end + step))(
    boundary, furthest, Numbers(lambda table: np.diff(sparsities(table)).max())
)

BORDERED = needs(
    lambda table: (
        len(sparsities(table)) > 0 and lowest(table) < boundary(table).mean() < furthest(table)
    ),
    "the two regimes have no border inside the sparsities here",
)
# the most that the paper's training loss is in its generalization regime, of 100 classes: 1.3% of
# the loss of guessing
NEAR_ZERO = Numbers(
    lambda table: 0.06 / np.log(100) * np.log(table["dataset"].map(CLASSES).iloc[0])
)

both_fit = where(
    lift(lambda ends: ends.drop(columns="sol_d", errors="ignore").mean().min() >= FITTED)(
        course("train_accuracy", "solution")
    ),
    "no sparsity here at which both solutions fit the training set",
)
scratch_fails = where(average(pick("train_accuracy", solution="sol_s")) < FITTED, HIGHER)


@Numbers
def _half_step(table):
    """Half the grid's step below a border, mean over seeds: what a border cannot tell."""
    grid = np.array(sparsities(table))
    below = np.searchsorted(grid, BORDER(table) - 1e-9) - 1
    return float(np.diff(grid)[below.clip(0, len(grid) - 2)].mean() / 2)


@lift
def _seen(places):
    if places.isna().all():
        return "no seed has one"
    return f"boundary {places.mean():.3f} (seeds {places.min():g} to {places.max():g})"


def border(table: pd.DataFrame) -> float:
    """The sparsity of the grid that is nearest to the median border of the seeds."""
    return min(sparsities(table), key=lambda s: abs(s - boundary(table).median()))


def _entropy_ratio(solution, above, below):
    of = functools.partial(pick, "train_entropy", solution=solution)
    return ln(of(sparsity=above) / of(sparsity=below))


@Numbers
def _different_masks(table):
    """The share of pairs whose masks differ, by seed."""
    masks = table.pivot_table("mask", ["seed", "sparsity"], "solution", aggfunc="first")
    pairs = masks.reindex(columns=PAIR).dropna(how="all")
    return 1 - (pairs["sol_f"] == pairs["sol_s"]).groupby("seed").mean()


# -- Figures 3, 11 and 12 --------------------------------------------------------------------------


def curves(solution: str, **cell) -> Numbers:
    """Tr(F) by seed and epoch."""
    return at_least(course("fisher", solution=solution, **cell), 1e-12)


DENSE, FINETUNED, SCRATCH = (curves(solution) for solution in ("sol_d", *PAIR))
ENDS = ratio("final Tr(F) of Sol-S / Sol-F", last(SCRATCH), last(FINETUNED), margin=TENTH)
RISES = more(f"Sol-S{{sparsity}}: ln(peak / start) - ln {ROSE}",
             ln(highest(SCRATCH) / first(SCRATCH)) - np.log(ROSE), "ln")  # fmt: skip
FITS = lift(lambda ends: ends.median() >= TRACES_FITTED)(pick("train_accuracy", solution="sol_s"))
generalization = where(
    FITS, "no sparsity here at which Sol-S fits its training set: lower ones would be needed"
)
optimization = where(~FITS, HIGHER.replace("the training", "its training"))


def regimes(table: pd.DataFrame) -> dict[str, list[float]]:
    """The sparsities of each regime, by Sol-S's median final training accuracy over the seeds."""
    fit = [s for s in sparsities(table) if FITS(part(table, sparsity=s))]
    rest = [s for s in sparsities(table) if s not in fit]
    return {"generalization": fit, "optimization": rest}


def _orders(table):
    """Final Tr(F) rises with sparsity, from the dense network on, by two orders of magnitude."""
    grid = [0.0, *sparsities(table)]
    ends = {s: last(curves("sol_s" if s else "sol_d", sparsity=s)) for s in grid}
    # the paper orders 0.80 and 0.85 against 0.75, not against each other
    rising = [
        (0.75 if {low, high} == {0.8, 0.85} else low, high, 1) for low, high in pairwise(grid)
    ]
    return [
        ratio(f"final Tr(F) at {high:g} / at {low or 'dense'}", ends[high], ends[low], times,
              margin=TENTH * (times == 1))
        for low, high, times in [*rising, (0.0, grid[-1], 100)] if low in ends
    ]  # fmt: skip


RULES = {
    "price-gap-test-acc": each("sparsity", above("test_accuracy", *PAIR, printed=0.7)),
    "price-gap-widens-then-closes": given(several(4, "four"), [
        more(f"{words} sparsity", share * lift(lambda wide: at_others_best(wide.iloc[:, 1:-1]))(
             TEST_GAPS) - at(TEST_GAPS), "points", margin=size)
        for words, share, at, size in (
            ("test gap: inner peak - lowest", 1.0, first, matters(1.6)),
            ("test gap: half of inner peak - highest", 0.5, last, 0.0),
        )
    ]),
    "price-acc-falls-with-sparsity": [
        rises(f"test accuracy of {name(solution)} falls with sparsity",
              -course("test_accuracy", "sparsity", solution=solution), least_rho=0.9)
        for solution in PAIR
    ],
    "price-dense-reference": given(OWN, [
        equal("Sol-D's test accuracy - 78.0",
              100 * (pick("test_accuracy", solution="sol_d") - 0.78), "points", margin=0.5),
        more("Sol-D's training accuracy - 99.5",
             100 * (pick("train_accuracy", solution="sol_d") - FITTED), "points"),
    ]),
    "price-regime1-train-match": each("sparsity", [
        equal("train gap", gap("train_accuracy", *PAIR), "points", margin=0.3),
        above("test_accuracy", *PAIR, label="test gap"),
    ], both_fit),
    "price-regime2-train-gap": [
        each("sparsity", above(f"{on}_accuracy", *PAIR, label=f"{on} gap", printed=printed),
             scratch_fails)
        for on, printed in (("train", 0.46), ("test", 0.7))
    ],
    "price-regime-boundary": given(several(3, "three"), [
        at_place("boundary - lowest sparsity", BORDER - lowest, "sparsity", _half_step,
                 note=_seen(boundary)),
        at_place("highest sparsity - boundary", furthest - BORDER, "sparsity", _half_step),
        if_any(OWN, equal("boundary - 0.93", BORDER - 0.93, "sparsity", margin=0.03,
                          resolution=_half_step)),
    ]),
    "price-loss-test-gap": each("sparsity", higher("test_loss", printed=(1.05, 1.14))),
    "price-loss-train-gap": [
        each("sparsity", above("train_loss", "sol_s", "sol_f")),
        each("sparsity", [
            more(f"0.013 ln(classes) - training loss of {name(solution)}",
                 NEAR_ZERO - pick("train_loss", solution=solution), "nats") for solution in PAIR
        ], both_fit),
    ],
    "price-entropy-gap": [
        each("sparsity", higher("train_entropy", printed=(1.14, 1.76))),
        given(BORDERED, more("entropy gap: highest - lowest sparsity",
                             last(ENTROPY_GAPS) - first(ENTROPY_GAPS), "nats")),
    ],
    "price-entropy-transition": given(
        BORDERED,
        [[more(says(f"{name(s)}: ln 2 - ln(entropy at {{:g}} / at {{:g}})", border, lowest),
               np.log(2) - _entropy_ratio(s, border, lowest), "ln"),
          more(says(f"{name(s)}: ln(entropy at {{:g}} / at {{:g}}) - ln 3", furthest, border),
               _entropy_ratio(s, furthest, border) - np.log(3), "ln")] for s in PAIR],
    ),
    "price-capacity-control": fact("share of pairs with different masks", _different_masks, 0.0,
                                   "share"),
    "price-fisher-dynamics-gen": each("sparsity", [
        RISES,
        more(f"Sol-S{{sparsity}}: ln(peak / final) - ln {ROSE}",
             ln(highest(SCRATCH) / last(SCRATCH)) - np.log(ROSE), "ln"),
        ENDS,
    ], generalization),
    "price-fisher-dynamics-opt": each("sparsity", [
        RISES,
        more("Sol-S{sparsity}: ln(final / peak) - ln 0.8",
             ln(last(SCRATCH) / highest(SCRATCH)) - np.log(0.8), "ln"),
    ], optimization),
    "price-fisher-scratch-above-finetune": each("sparsity", [
        ratio("mean Tr(F) over training of Sol-S / Sol-F", mean(SCRATCH), mean(FINETUNED),
              margin=TENTH), ENDS]),
    "price-fisher-mlp-traces": given(BITS, _orders),
    "price-mlp-accuracies": given(
        BITS, only(lambda table: table["solution"] != "sol_f", "needs Sol-D and Sol-S"),
        [rises(f"{measure} of Sol-D and Sol-S falls with sparsity", -course(measure, "sparsity"),
               least_rho=0.9)
         for measure in ("train_accuracy", "test_accuracy")],
    ),
    "price-fisher-bell-shape": [
        more(f"dense: ln 0.5 - ln({words} / peak)", ln(0.5 * highest(DENSE) / at(DENSE)), "ln")
        for words, at in (("Tr(F) at the start", first), ("final Tr(F)", last))
    ],
}  # fmt: skip
