"""Schedules (Figures 6, 7, 12 and 14 of the early-pruning study), the KL signal (Figure 3), and the
online rule that the study leaves to later work.
"""

import numpy as np
import pandas as pd

from studies.decide import NotHere
from studies.early.panels import (
    best,
    competing,
    dense,
    epochs,
    half_step,
    held_out,
    main,
    peak,
    signal,
    values,
)  # fmt: skip
from studies.early.shapes import NEAR, OF_TRAINING, near, on_cifar, on_cifar100, variants
from studies.quantities import (
    Numbers,
    agreement,
    first,
    highest,
    known,
    last,
    lift,
    ln,
    lowest,
    numbers,
    pick,
)  # fmt: skip
from studies.rules import MATCH, Rule, counted, each, equal, fact, given, more, needs, says

TRACE = signal("fisher")
TURN = 2.0  # percent of its range by which a curve must fall after its highest value: then it turns


EXPONENTIAL = {"schedule": "exponential"}


def others(table) -> list:
    """The schedules beside the exponential one."""
    found = values(table, "schedule")
    if "exponential" not in found or len(found) < 2:
        raise NotHere("it compares schedules: give schedules with exponential and another")
    return [name for name in found if name != "exponential"]


def against(rule) -> Rule:
    """``rule(name)`` for every schedule beside the exponential one."""
    return lambda table: [rule(name) for name in others(table)]


def fall(**chosen):
    """By how much of its range, in percent, KL falls after its highest."""
    kl = signal("kl_uniform", **chosen)
    return 100 * (highest(kl) - last(kl)) / (highest(kl) - lowest(kl))


def kl_near(schedule: str) -> Rule:
    """The best pruning epoch lies near the turn of KL; a KL that does not fall has none."""
    turns = lift(lambda place, falls: place.where(falls > TURN))
    place, turn = (
        best(schedule=schedule),
        turns(peak("kl_uniform", schedule=schedule), fall(schedule=schedule)),
    )
    both = says("best at {:.0f}%, turn at {:.0f}%", place, turn)
    none = "KL rises to the end: it has no turn"
    return more(
        f"15 - |best pruning epoch - turn of KL| ({schedule})",
        NEAR - abs(place - turn),
        OF_TRAINING,
        resolution=half_step(schedule=schedule),
        note=lambda table: both(table) if turn(table).notna().any() else none,
    )


@numbers
def rate_at_peak(table, schedule: str) -> pd.Series:
    """The learning rate at the epoch at which each seed's Tr(F) is highest."""
    found = main(table, schedule=schedule)
    rate = found.rows.pivot_table(index="seed", columns="epoch", values="rate")
    peaks = found.signal("fisher").idxmax(axis=1)
    return pd.Series({seed: rate.loc[seed, epoch] for seed, epoch in peaks.items()})


@numbers
def least_excess(table, schedule: str) -> float:
    """ln(rate of a schedule / of the exponential one), at its least from 2.5% to 75%."""
    dense_rows = table[table["solution"] == "sol_d"]
    rates = dense_rows.pivot_table(index="epoch", columns="schedule", values="rate")
    share = 100 * rates.index / table["epochs"].max()
    middle = rates[(share >= 2.5) & (share <= 75)]
    return np.log((middle[schedule] / middle["exponential"]).min())


def rates_alike(table) -> Rule:
    """The learning rate at the peak of Tr(F) is the same whatever the schedule."""
    at_peak = {name: rate_at_peak(name)(table) for name in ("exponential", *others(table))}
    logs = np.log(pd.DataFrame(at_peak).clip(lower=1e-12))
    medians = ", ".join(f"{name} {rates.median():.3g}" for name, rates in at_peak.items())
    spread = Numbers(lambda _: np.log(4) - (logs.max(axis=1) - logs.min(axis=1)))
    what = "ln 4 - ln(highest / lowest rate at the peak)"
    return more(what, spread, "ln", note=f"medians: {medians}")


def baseline(name: str) -> Rule:
    """On CIFAR-100 the other schedules' dense networks are better, on CIFAR-10 worse."""
    sign = Numbers(lambda table: 1 if on_cifar100(table) else -1)

    def what(table):
        return f"dense: {name} - exponential" if sign(table) > 0 else f"dense: exponential - {name}"

    return more(what, sign * known(dense(schedule=name) - dense(**EXPONENTIAL)), "points")


def floor():
    """What the floor gains, by pruning epoch; the epochs in percent of training."""
    with_floor = {**EXPONENTIAL, "rate_floor": lambda table: float(table["rate_floor"].max())}
    gain = competing(**with_floor) - competing(**EXPONENTIAL, rate_floor=0.0)
    shares = lift(lambda gain, count: gain.set_axis(100 * gain.columns / count, axis=1))
    return shares(gain, epochs(**with_floor))


# pruned layer by layer, best epoch and peak stay together under every schedule
LOCAL = each("schedule", near(scope="layer"), variants("schedule"), " ({})")
KL_FIRST = signal("kl_uniform", schedule=lambda table: values(table, "schedule")[0])
SECONDS = {
    name: pick(f"{name}_seconds", "sum", solution="sol_d") for name in ("fisher", "kl_uniform")
}
DECIDED = {"solution": "sol_p", "policy": "fisher"}
BEHIND = known(held_out(policy="grid") - 100 * pick("test_accuracy", **DECIDED))


RULES = {
    # schedules
    "early-lr-modulates-peak": against(
        lambda name: more(
            f"peak of Tr(F): {name} - exponential",
            known(peak(schedule=name) - peak(**EXPONENTIAL)),
            OF_TRAINING,
            resolution=50 / epochs(**EXPONENTIAL),
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
        needs(lambda t: not on_cifar100(t), "its counterpart on CIFAR-100 is decided here"), LOCAL
    ),
    "early-local-schedules-cifar100": given(
        needs(
            on_cifar100, "a claim about CIFAR-100: preset paper with dataset cifar100 can test it"
        ),
        LOCAL,
    ),
    "early-exp-decays-fastest": against(
        lambda name: fact(
            f"ln(rate of {name} / exponential), least over 2.5% to 75%",
            least_excess(name),
            unit="ln",
        )
    ),
    "early-lr-phase-end": rates_alike,
    "early-baseline-schedule-order": given(
        needs(
            lambda table: (
                on_cifar(table)
                and set(table["network"]) == {"resnet-18"}
                and set(table["epochs"]) == {200}
            ),
            "a claim about ResNet-18 on CIFAR after 200 epochs: preset paper can test it",
        ),
        against(baseline),
    ),
    "early-lr-floor-helps": given(
        needs(
            lambda table: "rate_floor" in table and table["rate_floor"].dropna().unique().size > 1,
            "it needs runs without the floor as well",
        ),
        [
            more(
                "late pruning (80% on): with - without the floor",
                lift(lambda gain: gain.loc[:, gain.columns >= 80].mean(axis=1).dropna())(floor()),
                "points",
            ),
            equal(
                "pruning in the first half: with - without",
                lift(lambda gain: gain.loc[:, gain.columns <= 50].mean(axis=1).dropna())(floor()),
                "points",
                margin=MATCH,
            ),
        ],
    ),
    # the KL signal
    "early-kl-correlates-exponential": kl_near("exponential"),
    "early-kl-correlates-cosine": kl_near("cosine"),
    "early-kl-correlates-linear": kl_near("linear"),
    "early-kl-rises-then-falls": each(
        "schedule",
        counted(f"KL falls after its highest by over {TURN:g}% of its range", fall() > TURN),
        variants("schedule"),
        " ({})",
    ),
    "early-kl-tracks-trf": each(
        "schedule",
        more(
            "Spearman(KL, Tr(F)) over epochs - 0.5",
            agreement(signal("kl_uniform"), TRACE) - 0.5,
            "rho",
        ),
        variants("schedule"),
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
    "early-pruned-at-decision-rule": more(
        "0.5 - points lost by pruning when Tr(F) has begun to fall",
        0.5 - BEHIND,
        "points",
        note=says(
            "{:.2f} points behind the best epoch; pruned at {:.1f} of {}",
            BEHIND,
            pick("prune_epoch", **DECIDED),
            epochs(policy="grid"),
        ),
    ),
}
