"""Decision rules for the gradient-flow study's section 4.3: where tickets lie (Figures 5 and 9c), and what they compute (Tables 2 and 6).

Figure 5's table has a row per network: its run's columns, ``row`` ("dense", "pruned", "lottery", "restart", "scratch",
"scratch_diff_init", or a perturbation of the ticket), ``replica``, ``classes``, ``test_accuracy``, ``reached`` and ``every``; for all but
the dense ones its distances to the pruning solution of its seed, ``start_distance``, ``end_distance`` and ``end_on_map``, and the
training losses on the lines from its start and from its end to there, ``start_losses`` and ``end_losses``, at ``alphas``. The
pruning solution itself is the row "pruned", replica 0.

Tables 2 and 6: a row per seed and group of networks, with ``MEASURES`` and, against the pruning solution, ``AGAINST``.
"""

import numpy as np
import pandas as pd

from lib.claims.decisions import Effect, NotHere
from lib.claims.interpolation import TOLERANCE
from lib.claims.tables import MARGIN, final, own_setting

INNER = (0.2, 0.8)  # alphas between which two lines are compared
DISTANCES = {"lottery": 13.61, "scratch": 17.46}  # of the starts, LeNet-5
NEAREST = 15  # epochs that must be measured for a speed of convergence
MATCH = 100 * MARGIN

MEASURES = ("accuracy", "ensemble", "disagreement", "kl", "js")
AGAINST = ("disagreement_pruned", "kl_pruned", "js_pruned")
PRINTED = {  # Table 6, LeNet-5: (mean, standard deviation or None), accuracies in percent; js_all is its "5-model JSD"
    "lottery": dict(accuracy=(98.52, 0.02), ensemble=(98.58, None), disagreement=(0.0043, 0.0006), disagreement_pruned=(0.0089, 0.0002),
                    kl=(0.0030, 0.0004), kl_pruned=(0.0039, 0.0028), js_all=(0.0140, 0.0004), js_pruned=(0.0033, 0.0001)),
    "scratch": dict(accuracy=(97.04, 0.15), ensemble=(98.00, None), disagreement=(0.0316, 0.0023), disagreement_pruned=(0.0278, 0.0020),
                    kl=(0.0917, 0.0126), kl_pruned=(0.0506, 0.0238), js_all=(0.1506, 0.0130), js_pruned=(0.0159, 0.0009)),
    "scratch_diff_init": dict(accuracy=(97.19, 0.33), ensemble=(98.43, None), disagreement=(0.0352, 0.0037),
                              disagreement_pruned=(0.0278, 0.0032), kl=(0.1358, 0.0202), kl_pruned=(0.0650, 0.0301),
                              js_all=(0.1468, 0.0295), js_pruned=(0.0157, 0.0021)),
    "restart": dict(accuracy=(98.60, 0.01), ensemble=(98.63, None), disagreement=(0.0027, 0.0003), disagreement_pruned=(0.0077, 0.0003),
                    kl=(0.0014, 0.0001), kl_pruned=(0.0019, 0.0014), js_all=(0.0105, 0.0001), js_pruned=(0.0027, 0.0000)),
    "pruned": dict(accuracy=(98.30, 0.23), ensemble=(99.07, None), disagreement=(0.0214, 0.0023), disagreement_pruned=(0.0197, 0.0019),
                   kl=(0.0741, 0.0107), kl_pruned=(0.0438, 0.0241), js_all=(0.0752, 0.0133), js_pruned=(0.0103, 0.0010)),
}  # fmt: skip


def printed(table) -> dict:
    """The study's own Table 6 where this is its data and network, row -> measure -> (mean, SD or None); empty elsewhere."""
    return (
        PRINTED
        if set(table["dataset"]) == {"mnist"} and set(table["network"]) == {"lenet-5"}
        else {}
    )


# -- Figures 5 and 9c --------------------------------------------------------------------------------------------------


def barrier(losses) -> float:
    """The most by which a line's losses rise above the higher of its two ends."""
    return max(losses) - max(losses[0], losses[-1])


def reached(courses: pd.DataFrame, rows: dict[str, str]) -> pd.Series:
    """By run's key: the first measured epoch at which its test accuracy is that of its seed's worst scratch network at its end.

    ``courses`` is the table of runs by epoch, ``rows`` maps keys to rows. A run that never gets there is given one epoch more than it has.
    """
    scratch = final(courses[courses["key"].map(rows) == "scratch"])
    mark = courses["seed"].map(scratch.groupby("seed")["test_accuracy"].min())
    there = (
        courses[(courses["test_accuracy"] >= mark) & (courses["epoch"] > 0)]
        .groupby("key")["epoch"]
        .min()
    )
    return there.reindex(courses["key"].unique()).fillna(
        courses.groupby("key")["epochs"].first() + 1
    )


def _mean(table, row, column):
    """One number per seed: the mean of ``column`` over the networks of ``row``."""
    rows = table[table["row"] == row].dropna(subset=column)
    if rows.empty:
        raise NotHere(f"the table has no {column} of {row}")
    return rows.groupby("seed")[column].mean()


def _barriers(table, row):
    rows = table[table["row"] == row].dropna(subset="end_losses")
    if rows.empty:
        raise NotHere(f"the table has no lines of {row}")
    return rows["end_losses"].map(barrier).groupby(rows["seed"]).mean()


def _solution(table):
    """The rows of the pruning solutions themselves."""
    return table[(table["row"] == "pruned") & (table["replica"] == 0)]


def _tolerance(table):
    return TOLERANCE * np.log(table["classes"].dropna().iloc[0])


def _gap(what, more, less, unit="", **named):
    """The effect "``more`` is above ``less``" by seed."""
    return Effect(what, (more - less).dropna().to_numpy(), unit, **named)


def _imagenet(table):
    raise NotHere("ResNet-50 on ImageNet: it needs that set and a GPU")


flow_fig5_lt_closer_init_resnet = flow_fig5_lt_closer_final_resnet = _imagenet


def flow_fig5_lt_closer_init(table):
    starts = {row: _mean(table, row, "start_distance") for row in ("scratch", "lottery")}
    note = f"scratch {starts['scratch'].mean():.2f}, lottery {starts['lottery'].mean():.2f}"
    effects = [
        _gap(
            "distance of the start: scratch - lottery",
            starts["scratch"],
            starts["lottery"],
            "L2",
            note=note,
        )
    ]
    if printed(table):
        margin = (DISTANCES["scratch"] - DISTANCES["lottery"]) / 2
        effects += [
            _gap(
                f"{row}: ours - printed",
                starts[row],
                DISTANCES[row],
                "L2",
                claim="equal",
                margin=margin,
            )
            for row in DISTANCES
        ]
    return effects


def flow_fig5_lt_closer_final_lenet(table):
    ratio = (
        _mean(table, "scratch", "end_distance") / _mean(table, "lottery", "end_distance")
    ).dropna()
    return [
        Effect(
            "ln(last distance: scratch / 3 lottery)",
            np.log(ratio / 3).to_numpy(),
            "ln",
            note=f"ratio {ratio.mean():.2f}",
        )
    ]


def flow_fig5_mds(table):
    return [
        _gap(
            "distance on the map: scratch - lottery",
            _mean(table, "scratch", "end_on_map"),
            _mean(table, "lottery", "end_on_map"),
            "L2",
        )
    ]


def _starts(table, row):
    """Training losses on the line from a start to the pruning solution: a row per seed, a column per alpha."""
    rows = table[table["row"] == row].dropna(subset="start_losses")
    if rows.empty:
        raise NotHere(f"the table has no line from the start of {row}")
    wide = pd.DataFrame(rows["start_losses"].tolist(), columns=rows["alphas"].iloc[0])
    return wide.groupby(rows["seed"].to_numpy()).mean()


def flow_fig5_path_init(table):
    gap = (_starts(table, "scratch") - _starts(table, "lottery")).dropna()
    inside = [a for a in gap.columns if INNER[0] - 1e-9 <= a <= INNER[1] + 1e-9]
    if not inside:
        raise NotHere(f"it needs alphas from {INNER[0]} to {INNER[1]}")
    return [
        Effect(
            f"training loss from scratch's start - from the ticket's, alpha {a:g}",
            gap[a].to_numpy(),
            "nats",
        )
        for a in inside
    ]


def flow_lt_init_loss(table):
    scratch, lottery = _starts(table, "scratch")[0.0], _starts(table, "lottery")[0.0]
    note = f"scratch {scratch.mean():.2f}, lottery {lottery.mean():.2f}"
    return [
        _gap(
            "training loss before training: scratch - lottery", scratch, lottery, "nats", note=note
        )
    ]


def flow_fig5_barrier_scratch(table):
    barriers = _barriers(table, "scratch")
    return [
        _gap(
            "barrier of scratch - tolerance",
            barriers,
            _tolerance(table),
            "nats",
            note=f"barrier {barriers.mean():.3g}",
        )
    ]


def flow_fig5_no_barrier_lt(table):
    lottery, scratch = _barriers(table, "lottery"), _barriers(table, "scratch")
    note = f"barriers: lottery {lottery.mean():.3g}, scratch {scratch.mean():.3g}"
    return [
        _gap("tolerance - barrier of lottery", _tolerance(table), lottery, "nats", note=note),
        _gap("a tenth of scratch's barrier - that of lottery", scratch / 10, lottery, "nats"),
    ]


def flow_fig9c_mlp_interp(table):
    if not {"mlp", "lenet-300-100"} & set(table["network"]):
        raise NotHere(
            "a claim about the fully connected network: presets quick and desktop test it"
        )
    return [
        _gap(
            "barrier: scratch - lottery",
            _barriers(table, "scratch"),
            _barriers(table, "lottery"),
            "nats",
        )
    ]


def flow_perturbation_robust(table):
    known = {"dense", "pruned", "lottery", "restart", "scratch", "scratch_diff_init"}
    kinds = [row for row in dict.fromkeys(table["row"]) if row not in known]
    barriers = {kind: _barriers(table, kind).mean() for kind in kinds}
    staying = [kind for kind, height in barriers.items() if height < _tolerance(table)]
    heights = ", ".join(f"{kind} {height:.3g}" for kind, height in barriers.items())
    if not staying:
        raise NotHere(
            f"no perturbed ticket stays in the basin (barriers: {heights or 'no perturbations'})"
        )
    whole = 100 * _mean(_solution(table), "pruned", "test_accuracy")
    return [
        _gap(
            f"test accuracy: {kind} - pruned + 0.5",
            100 * _mean(table, kind, "test_accuracy") + MATCH,
            whole,
            "points",
            note=f"barriers: {heights}",
        )
        for kind in staying
    ]


def flow_lt_k0_works_mnist_not_large(table):
    lottery, whole = (
        _mean(table, "lottery", "test_accuracy"),
        _mean(_solution(table), "pruned", "test_accuracy"),
    )
    note = f"without the 0.5: {100 * (lottery - whole).mean():.2f}; ResNet-50 is not tested"
    return [
        _gap(
            "test accuracy: lottery - pruned + 0.5",
            100 * lottery + MATCH,
            100 * whole,
            "points",
            note=note,
        )
    ]


def flow_lt_faster_convergence(table):
    every = float(table["every"].max())
    if table["epochs"].max() / every < NEAREST:
        raise NotHere(
            f"it needs test accuracy at {NEAREST} epochs or more: give a smaller measure_every"
        )
    first = {row: _mean(table, row, "reached") for row in ("lottery", "scratch", "dense")}
    note = "epochs: " + ", ".join(f"{row} {epochs.mean():.1f}" for row, epochs in first.items())
    return [
        _gap(
            "epochs to scratch's accuracy: scratch - lottery",
            first["scratch"],
            first["lottery"],
            "epochs",
            resolution=every / 2,
            note=note,
        ),
        _gap(
            "dense + a grid step - lottery",
            first["dense"] + every,
            first["lottery"],
            "epochs",
            resolution=every / 2,
        ),
    ]


# -- Tables 2 and 6 ----------------------------------------------------------------------------------------------------


def _measure(table, row, measure):
    """One number per seed, in points for accuracies and disagreements."""
    rows = table[table["row"] == row].dropna(subset=measure)
    if rows.empty:
        raise NotHere(f"the table has no {measure} of {row}")
    return rows.set_index("seed")[measure].sort_index() * (
        1.0 if measure.startswith(("kl", "js")) else 100.0
    )


def _unit(measure):
    return "nats" if measure.startswith(("kl", "js")) else "points"


def _order(table, measure, near, far):
    what = f"{measure}: {far} - {near}"
    return _gap(what, _measure(table, far, measure), _measure(table, near, measure), _unit(measure))


def flow_table2(table):
    own_setting(table, "mnist", "lenet-5")
    if set(table["members"]) != {5}:
        raise NotHere("groups of five networks: give replicas as 5")
    effects = []
    for row, cells in PRINTED.items():
        for measure in ("accuracy", "ensemble", "disagreement", "disagreement_pruned"):
            mean, spread = cells[measure]
            share = measure.startswith("disagreement")
            scale, least = (100, 0.2) if share else (1, MATCH)
            ours = _measure(table, row, measure)
            note = f"ours {ours.mean():.2f} ± {ours.std():.2f}, printed {scale * mean:.2f}"
            margin = max(2 * scale * (spread or 0), least)
            effects.append(
                _gap(
                    f"{row}, {measure}: ours - printed",
                    ours,
                    scale * mean,
                    "points",
                    claim="equal",
                    margin=margin,
                    note=note,
                )
            )
    return effects


def flow_t2_lt_low_disagreement(table):
    scratch, lottery = (
        _measure(table, row, "disagreement_pruned") for row in ("scratch", "lottery")
    )
    note = f"scratch {scratch.mean():.2f}, lottery {lottery.mean():.2f}"
    return [
        _gap(
            "disagreement with the pruning solution: half of scratch's - the tickets'",
            scratch / 2,
            lottery,
            "points",
            note=note,
        )
    ]


def flow_t2_lt_pairwise_lower(table):
    whole, pairs = (
        _measure(table, "lottery", "disagreement_pruned"),
        _measure(table, "lottery", "disagreement"),
    )
    note = f"{whole.mean():.2f} and {pairs.mean():.2f}"
    return [
        _gap(
            "tickets' disagreement: with the pruning solution - among themselves",
            whole,
            pairs,
            "points",
            note=note,
        )
    ]


def flow_t2_restart_similar(table):
    restart, lottery = (
        _measure(table, row, "disagreement_pruned") for row in ("restart", "lottery")
    )
    note = f"restart {restart.mean():.2f}, lottery {lottery.mean():.2f}"
    what = "disagreement with the pruning solution: restart - lottery"
    return [_gap(what, restart, lottery, "points", claim="equal", margin=0.3, note=note)]


def flow_t2_fixed_init_not_cause(table):
    scratch, lottery = (_measure(table, row, "disagreement") for row in ("scratch", "lottery"))
    note = f"scratch {scratch.mean():.2f}, lottery {lottery.mean():.2f}: {scratch.mean() / lottery.mean():.1f} times"
    return [
        _gap(
            "disagreement in pairs: scratch - 4 lottery", scratch, 4 * lottery, "points", note=note
        )
    ]


def flow_t2_diff_init_ensemble(table):
    other, same = (
        {m: _measure(table, row, m) for m in MEASURES} for row in ("scratch_diff_init", "scratch")
    )
    apart = _gap(
        "disagreement in pairs: different - one + 0.1",
        other["disagreement"] + 0.1,
        same["disagreement"],
        "points",
    )
    return [
        _gap(
            "ensemble of scratch: different - one initialisation",
            other["ensemble"],
            same["ensemble"],
            "points",
        ),
        apart,
    ]


def flow_t2_ensemble_gain(table):
    gain = {
        row: _measure(table, row, "ensemble") - _measure(table, row, "accuracy")
        for row in ("pruned", "lottery")
    }
    note = f"pruned {gain['pruned'].mean():.2f}, lottery {gain['lottery'].mean():.2f}"
    return [
        _gap(
            "gain of the ensemble: pruned - lottery",
            gain["pruned"],
            gain["lottery"],
            "points",
            note=note,
        )
    ]


def flow_table6(table):
    effects = []
    for measure in (*MEASURES[2:], *AGAINST):
        effects += [
            _order(table, measure, near, far)
            for near, far in (("lottery", "pruned"), ("restart", "pruned"), ("pruned", "scratch"))
        ]
    return effects


def flow_t6_kl_jsd_order(table):
    return [
        _order(table, m, *pair)
        for m in ("kl_pruned", "js_pruned")
        for pair in (("lottery", "pruned"), ("pruned", "scratch"))
    ]
