"""Schedules (Figures 6, 7, 12 and 14 of the early-pruning study), the KL signal (Figure 3), and the
online rule that the study leaves to later work.
"""

import numpy as np

from studies.early.panels import (
    best, competing, dense, epochs, half_step, peak, signal, values,
)  # fmt: skip
from studies.early.shapes import MOVED, NEAR, OF_TRAINING, near, on, variants
from studies.quantities import (
    Numbers, agreement, at_least, between, first, highest, known, last, lift, ln, lowest, mean,
    pick,
)  # fmt: skip
from studies.rules import (
    Rule, counted, each, equal, fact, given, if_any, matters, more, needs, says,
)  # fmt: skip

EXPONENTIAL = {"schedule": "exponential"}
SHARE = epochs(**EXPONENTIAL) / 100  # epochs in a percent of training
TURN = 0.02  # of its range: by so much a curve must rise to its highest value, or fall after it
at_ends = lift(lambda course: course.loc[:, course.columns % 1 == 0])  # of epochs


def against(rule) -> Rule:
    """``rule(name)`` for every schedule beside the exponential one."""
    names = variants("schedule")
    return lambda table: [rule(name) for name in names(table) if name != "exponential"]


def rate_at_peak(**chosen):
    """The learning rate at the epoch at which each seed's Tr(F) is highest."""
    at = lift(lambda rate, trace: rate.where(trace.eq(trace.max(axis=1), axis=0)).max(axis=1))
    return at_least(at(signal("rate", **chosen), signal("fisher", **chosen)), 1e-12)


def ahead(one: str, other: str, printed: float) -> Rule:
    """The dense networks of one schedule end better than those of another, in print by so much."""
    gain = known(dense(schedule=one) - dense(schedule=other))
    return more(f"dense: {one} - {other}", gain, "points", margin=matters(printed))


# pruned layer by layer, best epoch and peak stay together under every schedule
LOCAL = each("schedule", near(scope="layer"), variants("schedule"), " ({})")
TRACE, KL = signal("fisher"), signal("kl_uniform")
RISE, FALL, RANGE = (highest(KL) - end(KL) for end in (first, last, lowest))
KL_FIRST = signal("kl_uniform", schedule=lambda table: values(table, "schedule")[0])
SECONDS = {
    name: pick(f"{name}_seconds", "sum", solution="sol_d") for name in ("fisher", "kl_uniform")
}
FLOOR_GAIN = competing(**EXPONENTIAL) - competing(**EXPONENTIAL, rate_floor=0.0)


def reached(policy: str) -> Numbers:
    """Each seed's accuracy when pruned by a policy: the mean over schedules and sparsities."""
    return 100 * pick("test_accuracy", "mean", solution="sol_p", policy=policy)


RULE, BEST, ALWAYS, RANDOM = map(reached, ("rule on fisher", "best", "always", "random"))


def while_it_falls(**chosen):
    """The learning rate over 2.5% to 75% of training; at its end it may be 0."""
    return between(at_ends(signal("rate", **chosen)), 2.5 * SHARE, 75 * SHARE + 1e-6)


RULES = {
    # schedules
    "early-lr-modulates-peak": against(
        lambda name: more(
            f"peak of Tr(F): {name} - exponential",
            known(peak(schedule=name) - peak(**EXPONENTIAL)),
            OF_TRAINING,
            resolution=half_step("fisher", **EXPONENTIAL),
            margin=MOVED,
        )
    ),
    "early-lr-period-follows": [
        against(
            lambda name: more(
                f"best pruning epoch: {name} - exponential",
                known(best(schedule=name) - best(**EXPONENTIAL)),
                OF_TRAINING,
                resolution=half_step(schedule=name),
            )
        ),
        each("schedule", near(), variants("schedule"), " ({})"),
    ],
    "early-local-schedules-cifar10": given(
        needs(lambda t: not on("cifar100")(t), "its counterpart on CIFAR-100 is decided here"),
        LOCAL,
    ),
    "early-local-schedules-cifar100": given(
        needs(
            on("cifar100"),
            "a claim about CIFAR-100: preset paper with dataset cifar100 can test it",
        ),
        LOCAL,
    ),
    "early-exp-decays-fastest": against(
        lambda name: fact(
            f"ln(rate of {name} / exponential), least over 2.5% to 75%",
            lowest(ln(while_it_falls(schedule=name) / while_it_falls(**EXPONENTIAL))),
            unit="ln",
        )
    ),
    "early-lr-phase-end": [
        each(
            "schedule",
            more(
                "ln(half of the highest rate / that at the peak of Tr(F))",
                ln(0.5 * highest(signal("rate")) / rate_at_peak()),
                "ln",
            ),
            variants("schedule"),
            " ({})",
        ),
        against(
            lambda name: equal(
                f"ln(rate at the peak of Tr(F): {name} / exponential)",
                ln(rate_at_peak(schedule=name) / rate_at_peak(**EXPONENTIAL)),
                "ln",
                margin=np.log(4),
            )
        ),
    ],
    "early-baseline-schedule-order": given(
        needs(
            lambda table: (
                on("cifar10", "cifar100")(table)
                and set(table["network"]) == {"resnet-18"}
                and set(table["epochs"]) == {200}
            ),
            "a claim about ResNet-18 on CIFAR after 200 epochs: preset paper can test it",
        ),
        [
            if_any(
                needs(on("cifar100"), "on CIFAR-10 the order is the other one"),
                against(lambda name: ahead(name, "exponential", 1.0)),
            ),
            if_any(
                needs(on("cifar10"), "on CIFAR-100 the order is the other one"),
                against(lambda name: ahead("exponential", name, 0.3)),
            ),
        ],
    ),
    "early-lr-floor-helps": given(
        needs(
            lambda table: "rate_floor" in table and table["rate_floor"].dropna().unique().size > 1,
            "it needs runs without the floor as well",
        ),
        [
            more(
                "late pruning (80% on): with - without the floor",
                known(mean(between(FLOOR_GAIN, 80 * SHARE))),
                "points",
                margin=matters(),
            ),
            equal(
                "pruning in the first half: with - without",
                known(mean(between(FLOOR_GAIN, 0, 50 * SHARE + 1e-6))),
                "points",
                margin=matters(),
            ),
        ],
    ),
    # the KL signal
    "early-kl-correlates-exponential": near("kl_uniform", NEAR, schedule="exponential"),
    "early-kl-correlates-cosine": near("kl_uniform", NEAR, schedule="cosine"),
    "early-kl-correlates-linear": near("kl_uniform", NEAR, schedule="linear"),
    "early-kl-rises-then-falls": each(
        "schedule",
        counted(
            f"KL rises to its highest and then falls, each by over {TURN:.0%} of its range",
            (RISE > TURN * RANGE) & (FALL > TURN * RANGE),
        ),
        variants("schedule", least=1),
        " ({})",
    ),
    "early-kl-tracks-trf": each(
        "schedule",
        counted("Spearman(KL, Tr(F)) over epochs is above 0.5", agreement(KL, TRACE) > 0.5),
        variants("schedule", least=1),
        " ({})",
    ),
    "early-kl-near-zero-at-init": more(
        "ln(a tenth of the highest KL / KL at the start)",
        ln(0.1 * highest(KL_FIRST) / first(KL_FIRST)),
        "ln",
    ),
    "early-kl-cheaper": more(
        "ln(half the time of Tr(F) / the time of KL)",
        ln(0.5 * SECONDS["fisher"] / SECONDS["kl_uniform"]),
        "ln",
        note="wall-clock, in turns",
    ),
    # the online rule
    "early-pruned-at-decision-rule": [
        more(
            "what matters - points lost by pruning when Tr(F) has begun to fall",
            Numbers(matters()) - known(BEST - RULE),
            "points",
            note=says("{:.2f} points behind each setting's best moment", known(BEST - RULE)),
        ),
        more(
            "pruned when Tr(F) has begun to fall - always at one share of training",
            known(RULE - ALWAYS),
            "points",
            margin=matters(),
        ),
        more(
            "pruned when Tr(F) has begun to fall - at a moment taken at random",
            known(RULE - RANDOM),
            "points",
            margin=matters(),
        ),
    ],
}
