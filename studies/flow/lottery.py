"""Where tickets lie and what they compute: the gradient-flow study's section 4.3.

The table of Figures 5 and 9c has a row per network: its run's columns, ``row`` ("dense", "pruned",
"lottery", "restart", "scratch", "scratch_diff_init", or a perturbation of the ticket), ``replica``,
``classes``, ``test_accuracy``, ``reached`` and ``every``; for all but the dense ones its distances
to the pruning solution of its seed, ``start_distance``, ``end_distance`` and ``end_on_map``, and
the training losses on the lines from its start and from its end to there, ``start_losses`` and
``end_losses``, at ``alphas``. The pruning solution itself is the row "pruned", replica 0; a ticket
that goes back to the start is "lottery", one that goes back to step 2,000 "rewound". What is said
of ImageNet needs the column ``train_images``, which tells it from other folders.

That of Tables 2 and 6 has a row per seed and group of networks (``row``, of ``members``): their
mean ``accuracy``, that of their ``ensemble``, and their ``disagreement``, ``kl`` and ``js`` in
pairs and, under names that end in _pruned, with the pruning solution.
"""

import numpy as np
import pandas as pd

from studies.decide import NotHere
from studies.flow.methods import MLP, RESNET, as_printed
from studies.price.lines import tolerance
from studies.quantities import (
    Numbers, average, between, final_rows, first, held, known, needed, numbers, pick,
)  # fmt: skip
from studies.rules import (
    MATCH, Condition, Rule, along, beyond, equal, given, if_any, is_own, matters, more, needs, only,
    own, ratio, rows, says,
)  # fmt: skip

DISTANCES = {"lottery": 13.61, "scratch": 17.46}  # of the starts, LeNet-5
NEAREST = 15  # epochs that must be measured for a speed of convergence
ROWS = {"dense", "pruned", "lottery", "restart", "scratch", "scratch_diff_init"}
# Table 6, LeNet-5, by row: (mean, standard deviation or None), accuracies in percent; js_all is its
# "5-model JSD"
MEASURES = (
    "accuracy", "ensemble", "disagreement", "disagreement_pruned",
    "kl", "kl_pruned", "js_all", "js_pruned",
)  # fmt: skip
PRINTED = {
    row: dict(zip(MEASURES, found, strict=True))
    for row, found in {
        "lottery": [
            (98.52, 0.02), (98.58, None), (0.0043, 0.0006), (0.0089, 0.0002),
            (0.0030, 0.0004), (0.0039, 0.0028), (0.0140, 0.0004), (0.0033, 0.0001),
        ],
        "scratch": [
            (97.04, 0.15), (98.00, None), (0.0316, 0.0023), (0.0278, 0.0020),
            (0.0917, 0.0126), (0.0506, 0.0238), (0.1506, 0.0130), (0.0159, 0.0009),
        ],
        "scratch_diff_init": [
            (97.19, 0.33), (98.43, None), (0.0352, 0.0037), (0.0278, 0.0032),
            (0.1358, 0.0202), (0.0650, 0.0301), (0.1468, 0.0295), (0.0157, 0.0021),
        ],
        "restart": [
            (98.60, 0.01), (98.63, None), (0.0027, 0.0003), (0.0077, 0.0003),
            (0.0014, 0.0001), (0.0019, 0.0014), (0.0105, 0.0001), (0.0027, 0.0000),
        ],
        "pruned": [
            (98.30, 0.23), (99.07, None), (0.0214, 0.0023), (0.0197, 0.0019),
            (0.0741, 0.0107), (0.0438, 0.0241), (0.0752, 0.0133), (0.0103, 0.0010),
        ],
    }.items()
}  # fmt: skip
NATS = ("kl", "js")  # divergences
CHAIN = [("lottery", "pruned"), ("restart", "pruned"), ("pruned", "scratch")]


def printed(table: pd.DataFrame) -> dict:
    """The study's own Table 6, row -> measure -> (mean, SD), where this is its data and network."""
    return PRINTED if is_own(table, "mnist", "lenet-5") else {}


def rise(losses) -> float:
    """The barrier of a line: the most by which it rises above the higher of its two ends.

    >>> rise([0.5, 1.0, 0.25])
    0.5
    """
    return max(losses) - max(losses[0], losses[-1])


def reached(courses: pd.DataFrame, rows: dict[str, str]) -> pd.Series:
    """By run's key: the first measured epoch at which it is as good as scratch is at its end.

    That is the test accuracy of its seed's worst scratch network. ``courses`` is the table of runs
    by epoch, ``rows`` maps keys to rows. A run that never gets there is given one epoch more than
    it has.
    """
    scratch = final_rows(courses[courses["key"].map(rows) == "scratch"])
    mark = courses["seed"].map(scratch.groupby("seed")["test_accuracy"].min())
    there = courses[(courses["test_accuracy"] >= mark) & (courses["epoch"] > 0)]
    never = courses.groupby("key", sort=False)["epochs"].first() + 1
    return there.groupby("key")["epoch"].min().reindex(never.index).fillna(never)


def mean(row: str, column: str, otherwise: str = "", **cell) -> Numbers:
    """One number per seed: the mean of ``column`` over the networks of ``row``."""
    missing = f"the table has no {otherwise or column} of {row}"
    return needed(known(pick(column, "mean", row=row, **cell)), missing)


@numbers
def start(table: pd.DataFrame, row: str) -> pd.DataFrame:
    """Training losses on the line from a start to the pruning solution, by seed and alpha."""
    missing = f"the table has no line from the start of {row}"
    rows = only(lambda t: (t["row"] == row) & t["start_losses"].notna(), missing)(table)
    losses = pd.DataFrame(rows["start_losses"].tolist(), rows["seed"], rows["alphas"].iloc[0])
    return losses.groupby("seed").mean()


@numbers
def barrier(table: pd.DataFrame, row: str) -> pd.Series:
    """The barrier between a network and the pruning solution, by seed."""
    rises = table["end_losses"].map(rise, na_action="ignore").astype(float)
    return mean(row, "rise", "lines")(table.assign(rise=rises))


def matching(row: str, what: str, note: str = "") -> Rule:
    """The test accuracy of a row is not below the pruning solution's by as much as matters."""
    ahead = 100 * (mean(row, "test_accuracy") - SOLUTION)
    what = f"test accuracy: {what} + what matters"
    said = says(f"without it {{:+.2f}}{note}", ahead)
    return more(what, ahead + Numbers(matters()), "points", note=said)


def half(condition: Condition, rule: Rule) -> Rule:
    """One half of a claim: without seeds where the table has nothing of it, so that the other half
    alone refutes the claim and does not support it."""

    def of_it(table):
        try:
            return rows(rule, condition(table))
        except NotHere as reason:
            return more("the other half of the claim", held(np.array([])), note=str(reason))

    return of_it


def robust(table: pd.DataFrame) -> Rule:
    """Perturbed tickets that stay in the basin are as good as the pruning solution, those that
    leave it nearer to scratch."""
    kinds = [row for row in dict.fromkeys(table["row"]) if row not in ROWS]
    heights = {kind: barrier(kind)(table).mean() for kind in kinds}
    words = ", ".join(f"{kind} {height:.3g}" for kind, height in heights.items())
    staying = [kind for kind, height in heights.items() if height < tolerance(table)]
    otherwise = f"no perturbed ticket stays in the basin (barriers: {words or 'no perturbations'})"
    midway = 50 * (SOLUTION + mean("scratch", "test_accuracy"))
    return given(
        needs(lambda _: bool(staying), otherwise),
        [
            matching(kind, f"{kind} - pruned", f"; barriers: {words}")
            if kind in staying
            else beyond(
                f"test accuracy: midway from scratch to pruned - {kind}",
                midway,
                100 * mean(kind, "test_accuracy"),
                "points",
                f"{{:.2f}} and {{:.2f}}; barriers: {words}",
            )
            for kind in kinds
        ],
    )


def measure(row: str, name: str) -> Numbers:
    """One number per seed, in points for accuracies and disagreements, else in nats."""
    return mean(row, name) * (1.0 if name.startswith(NATS) else 100.0)


def order(name: str, near: str, far: str) -> Rule:
    """A measure is larger for the row ``far`` than for ``near``."""
    unit = "nats" if name.startswith(NATS) else "points"
    return beyond(f"{name}: {far} - {near}", measure(far, name), measure(near, name), unit)


def cell(row: str, name: str) -> Rule:
    """A cell of Table 2 is the printed one."""
    theirs, sd = PRINTED[row][name]
    scale, least = (100, 0.2) if name.startswith("disagreement") else (1, MATCH)
    ours = measure(row, name)
    return as_printed(f"{row}, {name}", ours, scale * theirs, scale * (sd or 0), least)


def gain(row: str) -> Numbers:
    """What the ensemble gains over its members."""
    return measure(row, "ensemble") - measure(row, "accuracy")


SOLUTION = mean("pruned", "test_accuracy", replica=0)
TICKET = mean("lottery", "test_accuracy")
BARRIER = {row: barrier(row) for row in ("lottery", "scratch")}
ENDS = [mean(row, "end_distance") for row in ("scratch", "lottery")]
STARTS = [mean(row, "start_distance") for row in ("scratch", "lottery")]
SMALL = only(lambda table: table["network"] != "resnet-50", "the table has no small network")
LARGE = only(lambda table: table["network"] == "resnet-50", "the table has no ResNet-50")
EVERY = Numbers(lambda table: float(table["every"].max()))
FIRST = {row: mean(row, "reached") for row in ("lottery", "scratch", "dense")}
PAIRS = {row: measure(row, "disagreement") for row in ("lottery", "scratch")}
WHOLE = {row: measure(row, "disagreement_pruned") for row in ("restart", "lottery", "scratch")}

RULES = {
    "flow-fig5-lt-closer-init-resnet": given(
        RESNET, beyond("distance of the start: scratch - rewound ticket", STARTS[0],
                       mean("rewound", "start_distance"), "L2")),
    "flow-fig5-lt-closer-final-resnet": given(
        RESNET, equal("last distance: scratch / rewound ticket - 5.5",
                      ENDS[0] / mean("rewound", "end_distance") - 5.5, "ratio", margin=1.5)),
    "flow-fig5-lt-closer-init": [
        beyond("distance of the start: scratch - lottery", STARTS[0], STARTS[1], "L2",
               "scratch {:.2f}, lottery {:.2f}"),
        if_any(own("mnist", "lenet-5"),
               [equal(f"{row}: ours - printed", mean(row, "start_distance") - distance, "L2",
                      margin=(DISTANCES["scratch"] - DISTANCES["lottery"]) / 2)
                for row, distance in DISTANCES.items()])],
    "flow-fig5-lt-closer-final-lenet": ratio(
        "last distance: scratch / lottery", ENDS[0], ENDS[1], 3,
        note=says("ratio {:.2f}", known(ENDS[0] / ENDS[1]))),
    "flow-fig5-mds": beyond("distance on the map: scratch - lottery", mean("scratch", "end_on_map"),
                            mean("lottery", "end_on_map"), "L2"),
    "flow-fig5-path-init": along(
        between(start("scratch") - start("lottery"), 0.2 - 1e-9, 0.8 + 1e-9,
                otherwise="it needs alphas from 0.2 to 0.8"),
        lambda alpha, gap: more(
            f"training loss from scratch's start - from the ticket's, alpha {alpha:g}", known(gap),
            "nats")),
    "flow-lt-init-loss": beyond("training loss before training: scratch - lottery",
                                first(start("scratch")), first(start("lottery")), "nats",
                                "scratch {:.4f}, lottery {:.4f}",
                                margin=lambda t: 0.01 * np.log(t["classes"].iloc[0])),
    "flow-fig5-barrier-scratch": beyond("barrier of scratch - tolerance", BARRIER["scratch"],
                                        tolerance, "nats", "barrier {:.3g}"),
    "flow-fig5-no-barrier-lt": [more("tolerance - barrier of lottery",
                                     tolerance - BARRIER["lottery"], "nats",
                                     note=says("barriers: lottery {:.3g}, scratch {:.3g}",
                                               BARRIER["lottery"], BARRIER["scratch"])),
                                beyond("a tenth of scratch's barrier - that of lottery",
                                       BARRIER["scratch"] / 10, BARRIER["lottery"], "nats")],
    "flow-fig9c-mlp-interp": given(MLP, beyond("barrier: scratch - lottery", BARRIER["scratch"],
                                               BARRIER["lottery"], "nats")),
    "flow-perturbation-robust": robust,
    "flow-lt-k0-works-mnist-not-large": given(
        needs(lambda table: "lottery" in set(table["row"]), "the table has no lottery"),
        [half(SMALL, matching("lottery", "lottery - pruned")),
         half(LARGE, given(RESNET, more("test accuracy of ResNet-50: rewound - lottery",
                                        100 * (mean("rewound", "test_accuracy") - TICKET), "points",
                                        margin=matters())))]),
    "flow-lt-faster-convergence": given(
        needs(lambda table: EVERY(table) == 1 and table["epochs"].max() >= NEAREST,
              f"it needs test accuracy at every epoch of {NEAREST} or more: give measure_every 1"),
        [more("epochs to scratch's accuracy: scratch - lottery",
              FIRST["scratch"] - FIRST["lottery"], "epochs", resolution=EVERY / 2,
              note=says("epochs: lottery {:.1f}, scratch {:.1f}, dense {:.1f}", *FIRST.values())),
         beyond("dense + a grid step - lottery", FIRST["dense"] + EVERY, FIRST["lottery"], "epochs",
                resolution=EVERY / 2)]),
    "flow-table2": given(own("mnist", "lenet-5"),
                         needs(lambda table: set(table["members"]) == {5},
                               "groups of five networks: give replicas as 5"),
                         [cell(row, name) for row in PRINTED for name in MEASURES[:4]]),
    "flow-t2-lt-low-disagreement": more(
        "disagreement with the pruning solution: half of scratch's - the tickets'",
        WHOLE["scratch"] / 2 - WHOLE["lottery"], "points",
        note=says("scratch {:.2f}, lottery {:.2f}", WHOLE["scratch"], WHOLE["lottery"])),
    "flow-t2-lt-pairwise-lower": beyond(
        "tickets' disagreement: with the pruning solution - among themselves", WHOLE["lottery"],
        PAIRS["lottery"], "points", "{:.2f} and {:.2f}"),
    "flow-t2-restart-similar": beyond("disagreement with the pruning solution: restart - lottery",
                                      WHOLE["restart"], WHOLE["lottery"], "points",
                                      "restart {:.2f}, lottery {:.2f}", claim="equal", margin=0.3),
    "flow-t2-fixed-init-not-cause": more(
        "disagreement in pairs: scratch - 4 lottery", PAIRS["scratch"] - 4 * PAIRS["lottery"],
        "points",
        note=says("scratch {:.2f}, lottery {:.2f}: {:.1f} times", PAIRS["scratch"],
                  PAIRS["lottery"], average(PAIRS["scratch"]) / average(PAIRS["lottery"]))),
    "flow-t2-diff-init-ensemble": [
        beyond("ensemble of scratch: different - one initialisation",
               measure("scratch_diff_init", "ensemble"), measure("scratch", "ensemble"), "points",
               margin=matters(0.43)),
        beyond("disagreement in pairs: different - one + 0.1",
               measure("scratch_diff_init", "disagreement") + 0.1, PAIRS["scratch"], "points")],
    "flow-t2-ensemble-gain": beyond("gain of the ensemble: pruned - lottery", gain("pruned"),
                                    gain("lottery"), "points", "pruned {:.2f}, lottery {:.2f}",
                                    margin=matters(0.71)),
    "flow-table6": [order(name, *pair)
                    for name in ("disagreement", "kl", "js", "disagreement_pruned", "kl_pruned",
                                 "js_pruned") for pair in CHAIN],
    "flow-t6-kl-jsd-order": [order(name, *pair) for name in ("kl_pruned", "js_pruned")
                             for pair in CHAIN[::2]],
}  # fmt: skip
