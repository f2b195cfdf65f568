"""When to prune: decision rules for schedules and the KL signal (Figures 3, 6, 7, 12 and 14), and for the online rule."""

import numpy as np

from lib.claims.decisions import Effect, NotHere
from lib.claims.early import MATCH, NEAR, main, near, values

TURN = 2.0  # percent of its range by which a curve must fall after its highest value for that value to be a turn


def _schedules(table):
    found = values(table, "schedule")
    if "exponential" not in found or len(found) < 2:
        raise NotHere("it compares schedules: give schedules with exponential and another")
    return [name for name in found if name != "exponential"]


def _plain(table, **chosen):
    """The panel with the study's floor where the table also holds runs without one."""
    if "rate_floor" in table and table["rate_floor"].nunique() > 1 and "rate_floor" not in chosen:
        chosen["rate_floor"] = float(table["rate_floor"].max())
    return main(table, **chosen)


def early_lr_modulates_peak(table):
    base = _plain(table, schedule="exponential").peak()
    half = 50 / _plain(table, schedule="exponential").epochs
    return [
        Effect(
            f"peak of Tr(F): {name} - exponential",
            (_plain(table, schedule=name).peak() - base).dropna().to_numpy(),
            "% of training",
            resolution=half,
        )
        for name in _schedules(table)
    ]


def early_lr_period_follows(table):
    base, effects = _plain(table, schedule="exponential"), []
    for name in _schedules(table):
        found = _plain(table, schedule=name)
        later = (found.best - base.best).dropna().to_numpy()
        effects.append(
            Effect(
                f"best pruning epoch: {name} - exponential",
                later,
                "% of training",
                resolution=found.half_step,
            )
        )
    return effects + [
        near(_plain(table, schedule=name), label=f" ({name})") for name in values(table, "schedule")
    ]


def _local(table):
    return [
        near(_plain(table, schedule=name, scope="layer"), label=f" ({name})")
        for name in values(table, "schedule")
    ]


def early_local_schedules_cifar10(table):
    if set(table["dataset"]) == {"cifar100"}:
        raise NotHere("its counterpart on CIFAR-100 is decided here")
    return _local(table)


def early_local_schedules_cifar100(table):
    if set(table["dataset"]) != {"cifar100"}:
        raise NotHere("a claim about CIFAR-100: preset paper with dataset cifar100 can test it")
    return _local(table)


def early_exp_decays_fastest(table):
    effects = []
    rates = table[table["solution"] == "sol_d"].pivot_table(
        index="epoch", columns="schedule", values="rate"
    )
    share = 100 * rates.index / table["epochs"].max()
    middle = rates[(share >= 2.5) & (share <= 75)]
    for name in _schedules(table):
        closest = (middle[name] / middle["exponential"]).min()
        effects.append(
            Effect(
                f"ln(rate of {name} / exponential), least over 2.5% to 75%",
                np.full(5, np.log(closest)),
                "ln",
                note="no chance in it",
            )
        )
    return effects


def early_lr_phase_end(table):
    at_peak = {}
    for name in ["exponential", *_schedules(table)]:
        found = _plain(table, schedule=name)
        rate = found.rows.pivot_table(index="seed", columns="epoch", values="rate")
        at_peak[name] = np.array(
            [rate.loc[seed, epoch] for seed, epoch in found.signal("fisher").idxmax(axis=1).items()]
        )
    stacked = np.log(np.stack(list(at_peak.values())).clip(min=1e-12))
    note = ", ".join(f"{name} {np.median(r):.3g}" for name, r in at_peak.items())
    return [
        Effect(
            "ln 4 - ln(highest / lowest rate at the peak)",
            np.log(4) - (stacked.max(0) - stacked.min(0)),
            "ln",
            note=f"medians: {note}",
        )
    ]


def early_baseline_schedule_order(table):
    if (
        not set(table["dataset"]) <= {"cifar10", "cifar100"}
        or set(table["network"]) != {"resnet-18"}
        or set(table["epochs"]) != {200}
    ):
        raise NotHere("a claim about ResNet-18 on CIFAR after 200 epochs: preset paper can test it")
    sign = 1 if set(table["dataset"]) == {"cifar100"} else -1
    base = _plain(table, schedule="exponential").dense
    what = "{} - exponential" if sign > 0 else "exponential - {}"
    return [
        Effect(
            f"dense: {what.format(name)}",
            sign * (_plain(table, schedule=name).dense - base).dropna().to_numpy(),
            "points",
        )
        for name in _schedules(table)
    ]


def early_lr_floor_helps(table):
    if "rate_floor" not in table or table["rate_floor"].nunique() < 2:
        raise NotHere("it needs runs without the floor as well")
    with_floor, without = (
        main(table, schedule="exponential", rate_floor=float(f))
        for f in (table["rate_floor"].max(), 0.0)
    )
    gain = with_floor.competing - without.competing
    share = 100 * gain.columns / with_floor.epochs
    late, early = gain.loc[:, share >= 80], gain.loc[:, share <= 50]
    return [
        Effect(
            "late pruning (80% on): with - without the floor",
            late.mean(axis=1).dropna().to_numpy(),
            "points",
        ),
        Effect(
            "pruning in the first half: with - without",
            early.mean(axis=1).dropna().to_numpy(),
            "points",
            "equal",
            MATCH,
        ),
    ]


# -- Figure 3: KL(uniform || p) ------------------------------------------------------------------------------------------------------


def _turn(found):
    """Where each seed's KL turns, in percent of training; missing where it does not fall by TURN percent of its range afterwards."""
    course = found.signal("kl_uniform")
    spread = course.max(axis=1) - course.min(axis=1)
    return found.peak("kl_uniform").where(
        100 * (course.max(axis=1) - course.iloc[:, -1]) / spread > TURN
    )


def _kl_near(table, schedule):
    found = main(table, schedule=schedule)
    turn = _turn(found)
    note = (
        f"best at {found.best.mean():.0f}%, turn at {turn.mean():.0f}%"
        if turn.notna().any()
        else "KL rises to the end: it has no turn"
    )
    distance = (NEAR - (found.best - turn).abs()).to_numpy()
    return [
        Effect(
            f"15 - |best pruning epoch - turn of KL| ({schedule})",
            distance,
            "% of training",
            resolution=found.half_step,
            note=note,
        )
    ]


def early_kl_correlates_exponential(table):
    return _kl_near(table, "exponential")


def early_kl_correlates_cosine(table):
    return _kl_near(table, "cosine")


def early_kl_correlates_linear(table):
    return _kl_near(table, "linear")


def early_kl_rises_then_falls(table):
    effects = []
    for name in values(table, "schedule"):
        course = main(table, schedule=name).signal("kl_uniform")
        fall = (
            100
            * (course.max(axis=1) - course.iloc[:, -1])
            / (course.max(axis=1) - course.min(axis=1))
        )
        effects.append(
            Effect(
                f"fall of KL after its highest - 2 ({name})",
                (fall - TURN).to_numpy(),
                "% of its range",
                margin=TURN,
            )
        )
    return effects


def early_kl_tracks_trf(table):
    effects = []
    for name in values(table, "schedule"):
        found = main(table, schedule=name)
        rho = (
            found.signal("kl_uniform")
            .rank(axis=1)
            .corrwith(found.signal("fisher").rank(axis=1), axis=1)
        )
        effects.append(
            Effect(f"Spearman(KL, Tr(F)) over epochs - 0.5 ({name})", (rho - 0.5).to_numpy(), "rho")
        )
    return effects


def early_kl_near_zero_at_init(table):
    course = main(table, schedule=values(table, "schedule")[0]).signal("kl_uniform")
    return [
        Effect(
            "ln(a tenth of the highest KL / KL at the start)",
            np.log(0.1 * course.max(axis=1) / course.iloc[:, 0]).to_numpy(),
            "ln",
        )
    ]


def early_kl_cheaper(table):
    seconds = (
        table[table["solution"] == "sol_d"]
        .groupby("seed")[["fisher_seconds", "kl_uniform_seconds"]]
        .sum()
    )
    ratio = np.log(0.5 * seconds["fisher_seconds"] / seconds["kl_uniform_seconds"]).to_numpy()
    return [
        Effect(
            "ln(half the time of Tr(F) / the time of KL)", ratio, "ln", note="wall-clock, in turns"
        )
    ]


# -- the online rule -----------------------------------------------------------------------------------------------------------------


def early_pruned_at_decision_rule(table):
    found = main(table, policy="grid")
    chosen = (
        table[(table["solution"] == "sol_p") & (table["policy"] == "fisher")]
        .sort_values("epoch")
        .groupby("seed")
        .tail(1)
    )
    reached = 100 * chosen.set_index("seed")["test_accuracy"]
    lost = (found.held_out() - reached).dropna()
    note = f"{lost.mean():.2f} points behind the best epoch; pruned at {chosen['prune_epoch'].mean():.1f} of {found.epochs}"
    return [
        Effect(
            "0.5 - points lost by pruning when Tr(F) has begun to fall",
            (0.5 - lost).to_numpy(),
            "points",
            note=note,
        )
    ]
