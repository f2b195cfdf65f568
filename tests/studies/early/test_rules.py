"""The early-pruning study's rules on made-up tables of which we know what must come out."""

import numpy as np
import pandas as pd
import pytest
import support

from studies import ledger
from studies.decide import NotHere
from studies.early import panels

EPOCHS, GRID = 40, [0, 1, 2, 4, 8, 12, 16, 20, 24, 28, 32, 36, 40]
HERE = {
    "dataset": "digits",
    "network": "mlp",
    "epochs": EPOCHS,
    "diverged": False,
    "schedule": "exponential",
}
HERE |= {"kl_expansion_error": 0.001, "fisher_relative_error": 0.01}


def runs(
    best=8,
    peak=8,
    turn=8,
    dense=0.96,
    drop=0.002,
    end=0.2,
    seeds=12,
    spread=0.0,
    slope=0.001,
    **variant,
):
    """Dense and pruned runs.

    Accuracy is highest when pruned at ``best``, Tr(F) at ``peak``, KL at ``turn``, with ``spread``
    over seeds.
    """
    rows, rng = [], np.random.default_rng(0)
    for seed in range(seeds):
        noise = spread * rng.standard_normal()
        key = f"d{seed}{variant}"
        for epoch in range(EPOCHS + 1):
            far = abs(epoch - peak) / EPOCHS
            row = {
                "key": key,
                "solution": "sol_d",
                "seed": seed,
                "epoch": epoch,
                "sparsity": 0.0,
                "fisher": 10 * max(end, 1 - 3 * far) + 0.01 * epoch,
            }
            row |= {
                "kl_uniform": 0.01 + 5 * (1 - abs(epoch - turn) / EPOCHS),
                "test_accuracy": dense + noise,
                "train_accuracy": 1.0,
            }
            rows.append(
                row | {"fisher_seconds": 3.0, "kl_uniform_seconds": 1.0, "rate": 0.9**epoch}
            )
        for at in GRID:
            accuracy = (
                dense - drop - slope * abs(at - best) + noise - (0.3 if at == EPOCHS else 0.0)
            )
            rows.append(
                {
                    "key": f"{key}@{at}",
                    "solution": "sol_p",
                    "seed": seed,
                    "epoch": EPOCHS,
                    "prune_epoch": at,
                    "sparsity": 0.9,
                    "test_accuracy": accuracy,
                }
            )
    pruning = {
        name: variant.pop(name)
        for name in ("criterion", "scope", "rate_floor", "sparsity")
        if name in variant
    }
    table = pd.DataFrame(rows).assign(**(HERE | variant))
    for name, value in pruning.items():
        table.loc[table["solution"] == "sol_p", name] = value
    return table


def verdict(claim, table):
    return support.verdict(claim, table)["verdict"]


PLAIN = {"criterion": "magnitude", "scope": "global"}


@pytest.mark.parametrize(
    ("claim", "good", "bad"),
    [
        ("early-beats-late", {}, {"best": 36}),
        ("early-not-at-start", {}, {"best": 0}),
        ("early-before-half", {}, {"best": 32}),
        ("early-trf-two-phases", {}, {"peak": 0}),
        ("early-trf-two-phases", {}, {"end": 0.9}),
        ("early-peak-correlates-trf", {}, {"peak": 36}),
        ("early-local-fig9", {"scope": "layer"}, {"scope": "layer", "best": 36}),
        (
            "early-fisher-criterion-period",
            {"criterion": "fisher"},
            {"criterion": "fisher", "peak": 30},
        ),
        (
            "early-fisher-criterion-period",
            {"criterion": "fisher"},
            {"criterion": "fisher", "best": 0},
        ),
        ("early-kl-expansion", {}, {"kl_expansion_error": 0.5}),
    ],
)
def test_rules_of_one_curve(claim, good, bad):
    """Each is supported where its statement was built in and refuted where the opposite was."""
    assert verdict(claim, runs(**{**PLAIN, **good})) == "supported"
    assert verdict(claim, runs(**{**PLAIN, **bad})) == "refuted"


def test_magnitude_against_fisher():
    better, worse = runs(**PLAIN), runs(drop=0.03, criterion="fisher", scope="global")
    assert verdict("early-magnitude-beats-fisher", pd.concat([better, worse])) == "supported"
    swapped = pd.concat([runs(drop=0.03, **PLAIN), runs(criterion="fisher", scope="global")])
    assert verdict("early-magnitude-beats-fisher", swapped) == "refuted"


def schedules(exponential, others):
    parts = [
        runs(schedule="exponential", scope=scope, rate_floor=0.001, **exponential)
        for scope in ("global", "layer")
    ]
    return pd.concat(
        parts
        + [
            runs(schedule=name, scope=scope, rate_floor=0.001, **others)
            for name in ("cosine", "linear")
            for scope in ("global", "layer")
        ]
    )


def test_rules_of_schedules():
    """Peaks and best epochs that move together support both; peaks alone refute the second."""
    together = schedules({"best": 8, "peak": 8}, {"best": 20, "peak": 20})
    apart = schedules({"best": 8, "peak": 8}, {"best": 8, "peak": 20})
    assert [
        verdict(c, together) for c in ("early-lr-modulates-peak", "early-lr-period-follows")
    ] == ["supported"] * 2
    assert [verdict(c, apart) for c in ("early-lr-modulates-peak", "early-lr-period-follows")] == [
        "supported",
        "refuted",
    ]
    assert verdict("early-local-schedules-cifar10", apart) == "refuted"


@pytest.mark.parametrize(
    ("exponential", "others", "verdict_of_it"),
    [(8, 8, "supported"), (0, 0, "refuted"), (8, 28, "refuted")],
    ids=["small and alike", "the first rate", "small and apart"],
)
def test_the_rate_at_the_peak(exponential, others, verdict_of_it):
    """It must be small, and alike with every schedule: the first rate is alike and not small."""
    table = schedules({"peak": exponential}, {"peak": others})
    assert verdict("early-lr-phase-end", table) == verdict_of_it


def test_the_fastest_schedule():
    table = schedules({}, {})
    slow = table.assign(rate=table["rate"].where(table["schedule"] == "exponential", 1.0))
    assert verdict("early-exp-decays-fastest", slow) == "supported"
    assert verdict("early-exp-decays-fastest", table) == "refuted"


@pytest.mark.parametrize(("dataset", "ahead"), [("cifar10", 0.003), ("cifar100", -0.01)])
def test_the_order_of_the_schedules(dataset, ahead):
    """Exponential is ahead on CIFAR-10 and behind on CIFAR-100, by what the study prints."""
    where = {"dataset": dataset, "network": "resnet-18", "epochs": 200, "rate_floor": 0.001}

    def table(ahead):
        tops = {"exponential": 0.95 + ahead, "cosine": 0.95, "linear": 0.95}
        return pd.concat(
            [runs(schedule=name, dense=top, scope="global") for name, top in tops.items()]
        ).assign(**where)

    assert verdict("early-baseline-schedule-order", table(ahead)) == "supported"
    assert verdict("early-baseline-schedule-order", table(-ahead)) == "refuted"


def test_the_floor():
    """With the floor late pruning is better and early pruning the same; and the other way round."""
    with_floor = runs(schedule="exponential", scope="global", rate_floor=0.001, spread=0.001)
    without = runs(schedule="exponential", scope="global", rate_floor=0.0, spread=0.001)
    late = (without["prune_epoch"] >= 32) & (without["solution"] == "sol_p")
    pruned = without[without["solution"] == "sol_p"].assign(
        key=lambda rows: rows["key"] + "no floor"
    )
    worse = pruned.assign(test_accuracy=pruned["test_accuracy"] - 0.02 * late)
    assert verdict("early-lr-floor-helps", pd.concat([with_floor, worse])) == "supported"
    better = pruned.assign(test_accuracy=pruned["test_accuracy"] + 0.02 * late)
    assert verdict("early-lr-floor-helps", pd.concat([with_floor, better])) == "refuted"


def test_rules_of_the_kl_signal():
    """A turn near the best epoch supports; one far from it refutes, and so does none."""
    near, far, none = (
        pd.concat([runs(schedule=s, turn=turn) for s in ("exponential", "cosine")])
        for turn in (8, 34, 40)
    )
    assert [verdict("early-kl-correlates-cosine", table) for table in (near, far, none)] == [
        "supported",
        "refuted",
        "refuted",
    ]
    assert [verdict("early-kl-rises-then-falls", table) for table in (near, none)] == [
        "supported",
        "refuted",
    ]
    assert [verdict("early-kl-tracks-trf", table) for table in (near, none)] == [
        "supported",
        "refuted",
    ]
    assert verdict("early-kl-cheaper", near) == "supported"
    assert verdict("early-kl-cheaper", near.assign(kl_uniform_seconds=2.0)) == "refuted"


def decays(weak, middle, strong, scopes=("global", "layer")):
    parts = [
        runs(weight_decay=w, scope=s, **how)
        for w, how in ((5e-5, weak), (5e-4, middle), (5e-3, strong))
        for s in scopes
    ]
    return pd.concat(parts)


def test_rules_of_weight_decay():
    """The study's story built in is supported, its mirror image refuted."""
    story = decays(
        {"peak": 2, "best": 24, "dense": 0.9},
        {"peak": 8, "best": 8},
        {"peak": 28, "best": 4, "dense": 0.9},
    )
    mirror = decays(
        {"peak": 30, "best": 30, "dense": 0.9},
        {"peak": 8, "best": 30},
        {"peak": 2, "best": 8, "dense": 0.9},
    )
    for claim in (
        "early-wd-weak-correlation",
        "early-wd-over-period-late",
        "early-wd-under-peak-late",
    ):
        assert (verdict(claim, story), verdict(claim, mirror)) == ("supported", "refuted"), claim


def test_a_peak_that_stays_is_refuted():
    """Peaks at one place in every seed are what the claims deny, not what nobody can decide."""
    stays = decays(*3 * [{"peak": 2, "best": 24}])
    for claim in ("early-wd-over-period-late", "early-wd-under-peak-late"):
        assert verdict(claim, stays) == "refuted", claim
    assert verdict("early-lr-modulates-peak", schedules({"peak": 8}, {"peak": 8})) == "refuted"


def test_claims_of_ill_fitting_networks_need_some():
    """Where every decay fits as well they are not tested; where one does not, it alone is."""
    claims = (
        "early-wd-weak-correlation",
        "early-local-stronger-correlation",
        "early-local-better-off-regime",
    )
    for claim in claims:
        assert verdict(claim, decays({}, {}, {})) == "not tested here", claim
    over = decays({"dense": 0.9, "drop": 0.004}, {}, {})
    layer = (over["scope"] == "layer") & (over["weight_decay"] == 5e-5)
    better = over["test_accuracy"] + 0.02 * (layer & (over["solution"] == "sol_p"))
    assert verdict(claims[2], over.assign(test_accuracy=better)) == "supported"


def test_a_period_is_neither_the_start_nor_late():
    """With every decay an optimum within is a period; one at an end, with one decay, is none."""
    within, start, late = ({"best": best} for best in (8, 0, 36))
    assert verdict("early-wd-all-have-period", decays(within, within, within)) == "supported"
    for other in (start, late):
        assert verdict("early-wd-all-have-period", decays(within, within, other)) == "refuted"


def test_fits_of_weight_decay():
    """Weak and strong decay test worse, strong decay fits worse; or all are alike."""
    table = decays({"dense": 0.93}, {}, {"dense": 0.93})
    strong = (table["weight_decay"] == 5e-3) & (table["solution"] == "sol_d")
    under = table.assign(train_accuracy=table["train_accuracy"] - 0.05 * strong)
    assert verdict("early-wd-baselines", under) == "supported"
    assert verdict("early-wd-baselines", table) == "refuted"


def test_the_trace_of_the_untrained_network_is_left_out():
    """Before training it is the same whatever the decay, and may be the highest."""
    table = decays({}, {}, {})
    table.loc[table["epoch"] == 0, "fisher"] = 100.0
    strong = (table["weight_decay"] == 5e-3) & (table["epoch"] > 0)
    for factor, expected in ((1.2, "supported"), (0.8, "refuted")):
        scaled = table.assign(fisher=table["fisher"].where(~strong, factor * table["fisher"]))
        assert verdict("early-wd-trf-magnitude", scaled) == expected


def test_better_layer_by_layer_means_better():
    """A little worse is not better."""

    def table(layer):
        drops = {"global": 0.004, "layer": layer}
        ill = {"dense": 0.9}
        return pd.concat(
            [
                decays({"drop": drop, **ill}, {"drop": drop}, {"drop": drop, **ill}, [scope])
                for scope, drop in drops.items()
            ]
        )

    assert verdict("early-local-better-off-regime", table(-0.006)) == "supported"
    assert verdict("early-local-better-off-regime", table(0.005)) == "refuted"


def test_sizes_and_sparsities_are_compared():
    """One network is no spectrum of sizes; of two, or of sparsities, one at fault refutes."""
    for column, values, claim in (
        ("network", ("mlp", "lenet-300-100"), "early-model-size"),
        ("sparsity", (0.9, 0.95), "early-compression-period"),
    ):
        good, same, late, start = (
            runs(**PLAIN, **{column: value}, best=best)
            for value, best in zip(values + 2 * values[1:], (8, 8, 36, 0), strict=True)
        )
        assert verdict(claim, good) == "not tested here"
        assert verdict(claim, pd.concat([good, same])) == "supported"
        assert verdict(claim, pd.concat([good, late])) == "refuted"
        assert verdict(claim, pd.concat([good, start])) == "refuted"


def test_the_mildest_sparsity_ends_best():
    mild, high = runs(**PLAIN, sparsity=0.9), runs(**PLAIN, sparsity=0.95, drop=0.02)
    assert verdict("early-compression-order", pd.concat([mild, high])) == "supported"
    same = runs(**PLAIN, sparsity=0.95, drop=0.003)
    assert verdict("early-compression-order", pd.concat([mild, same])) == "refuted"


@pytest.mark.parametrize(
    ("rule", "always", "best", "random", "expected"),
    [
        (0.90, 0.88, 0.901, 0.85, "supported"),
        (0.90, 0.90, 0.901, 0.85, "refuted"),
        (0.90, 0.91, 0.901, 0.85, "refuted"),
        (0.90, 0.88, 0.950, 0.85, "refuted"),
        (0.90, 0.88, 0.901, 0.90, "refuted"),
    ],
    ids=["it is a rule", "a constant does as well", "or better", "it is costly", "chance as well"],
)
def test_the_online_rule(rule, always, best, random, expected):
    """It must lose little against each setting's best moment, and gain against the best constant
    and against chance, in the mean over settings."""
    stream = np.random.default_rng(0)
    ends = {"rule on fisher": rule, "always": always, "best": best, "random": random}
    cells = [(seed, cell) for seed in range(10) for cell in (-0.03, 0.0, 0.03)]
    table = pd.DataFrame(
        {
            "key": f"{policy} {seed} {cell}", "policy": policy, "solution": "sol_p", "seed": seed,
            "sparsity": 0.9 + cell, "test_accuracy": end + cell + stream.normal(0, 5e-4),
        }
        for policy, end in ends.items() for seed, cell in cells
    )  # fmt: skip
    dense = table[table["policy"] == "best"].assign(solution="sol_d", policy=None)
    dense["key"] += " dense"
    table = pd.concat([table, dense]).assign(epoch=EPOCHS, **HERE)
    assert verdict("early-pruned-at-decision-rule", table) == expected


def test_a_peak_is_told_within_the_epoch():
    """To half the step between two looks; where looks are a quarter of an epoch apart, a fourth."""
    coarse = runs(**PLAIN)
    fine = coarse[coarse["solution"] == "sol_d"].assign(fisher=0.1, test_accuracy=np.nan)
    fine["epoch"] = fine["epoch"] + np.where(fine["epoch"] < 9, 0.25, 0.0)
    found = (
        panels.panel(coarse).half_step("fisher"),
        panels.panel(pd.concat([coarse, fine])).half_step("fisher"),
    )
    assert found == (pytest.approx(50 / EPOCHS), pytest.approx(50 * 0.25 / EPOCHS))


def test_a_best_epoch_needs_a_grid():
    """Of three pruning epochs one is the best by construction."""
    few = runs(**PLAIN)
    few = few[few["prune_epoch"].isna() | few["prune_epoch"].isin([0, 8, 16])]
    assert verdict("early-before-half", few) == "not tested here"


def test_every_rule_says_how_it_could_come_out_otherwise():
    for name, entry in ledger.held("early/claims.yaml").items():
        assert entry["otherwise"].endswith("."), name


def test_numbers_of_the_study_need_its_setting():
    """Digits cannot speak of CIFAR; CIFAR-10 with ResNet-18 after 200 epochs can."""
    assert verdict("early-fig1-resnet18-cifar10", runs(**PLAIN)) == "not tested here"
    own = runs(
        dense=0.953, drop=0.002, best=12, spread=1e-4, schedule="exponential", **PLAIN
    ).assign(dataset="cifar10", network="resnet-18")
    own[["epochs", "epoch", "prune_epoch"]] *= 5
    assert [verdict(c, own) for c in ("early-fig1-resnet18-cifar10", "early-baselines")] == [
        "supported"
    ] * 2
    assert (
        verdict("early-baselines", own.assign(test_accuracy=own["test_accuracy"] - 0.02))
        == "refuted"
    )


def test_the_best_epoch_is_taken_from_the_other_seeds():
    """One seed's lucky epoch does not count for it."""
    table = runs(**PLAIN, seeds=5)
    lucky = (table["seed"] == 3) & (table["prune_epoch"] == 36)
    table.loc[lucky, "test_accuracy"] = 1.0
    found = panels.panel(table)
    assert found.best[3] == 90.0
    assert found.held_out()[3] == pytest.approx(100 * (0.96 - 0.002))


def test_a_panel_is_one_variant():
    """Two variants at once are an error; one that is not there is said."""
    both = pd.concat([runs(**PLAIN), runs(criterion="magnitude", scope="layer")])
    with pytest.raises(ValueError, match="several variants"):
        panels.panel(both, criterion="magnitude")
    with pytest.raises(NotHere, match="scope erk"):
        panels.panel(both, scope="erk")


def test_places_carry_half_a_grid_step():
    """A best epoch just below half of training is no evidence on a grid of ten percent."""
    assert verdict("early-before-half", runs(**PLAIN, best=16)) == "supported"
    assert verdict("early-before-half", runs(**PLAIN, best=20)) == "undecided"
