"""What tickets compute: the gradient-flow study's section 4.3, Tables 2 and 6.

The table has a row per seed and group of networks (``row``, of ``members``): their mean
``accuracy``, that of their ``ensemble``, and their ``disagreement``, ``kl`` and ``js`` in pairs
and, under names that end in _pruned, with the pruning solution.
"""

import pandas as pd

from studies.quantities import Numbers, average, known, needed, pick, spread
from studies.rules import MATCH, Rule, beyond, equal, given, is_own, more, needs, own, says

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


def measure(row: str, name: str) -> Numbers:
    """One number per seed, in points for accuracies and disagreements, else in nats."""
    found = known(pick(name, "first", row=row)) * (1.0 if name.startswith(NATS) else 100.0)
    return needed(found, f"the table has no {name} of {row}")


def order(name: str, near: str, far: str) -> Rule:
    """A measure is larger for the row ``far`` than for ``near``."""
    unit = "nats" if name.startswith(NATS) else "points"
    return beyond(f"{name}: {far} - {near}", measure(far, name), measure(near, name), unit)


def as_printed(row: str, name: str) -> Rule:
    """A cell of Table 2 is the printed one, within two of its standard deviations."""
    ours, (mean, sd) = measure(row, name), PRINTED[row][name]
    scale, least = (100, 0.2) if name.startswith("disagreement") else (1, MATCH)
    return equal(
        f"{row}, {name}: ours - printed",
        ours - scale * mean,
        "points",
        margin=max(2 * scale * (sd or 0), least),
        note=says(f"ours {{:.2f}} ± {{:.2f}}, printed {scale * mean:.2f}", ours, spread(ours)),
    )


def gain(row: str) -> Numbers:
    """What the ensemble gains over its members."""
    return measure(row, "ensemble") - measure(row, "accuracy")


SCRATCH, LOTTERY = measure("scratch", "disagreement"), measure("lottery", "disagreement")
RESTART_TO, LOTTERY_TO, SCRATCH_TO = (
    measure(row, "disagreement_pruned") for row in ("restart", "lottery", "scratch")
)

RULES = {
    "flow-table2": given(own("mnist", "lenet-5"),
                         needs(lambda table: set(table["members"]) == {5},
                               "groups of five networks: give replicas as 5"),
                         [as_printed(row, name) for row in PRINTED for name in MEASURES[:4]]),
    "flow-t2-lt-low-disagreement": more(
        "disagreement with the pruning solution: half of scratch's - the tickets'",
        SCRATCH_TO / 2 - LOTTERY_TO, "points",
        note=says("scratch {:.2f}, lottery {:.2f}", SCRATCH_TO, LOTTERY_TO)),
    "flow-t2-lt-pairwise-lower": beyond(
        "tickets' disagreement: with the pruning solution - among themselves", LOTTERY_TO, LOTTERY,
        "points", "{:.2f} and {:.2f}"),
    "flow-t2-restart-similar": beyond("disagreement with the pruning solution: restart - lottery",
                                      RESTART_TO, LOTTERY_TO, "points",
                                      "restart {:.2f}, lottery {:.2f}", claim="equal", margin=0.3),
    "flow-t2-fixed-init-not-cause": more(
        "disagreement in pairs: scratch - 4 lottery", SCRATCH - 4 * LOTTERY, "points",
        note=says("scratch {:.2f}, lottery {:.2f}: {:.1f} times", SCRATCH, LOTTERY,
                  average(SCRATCH) / average(LOTTERY))),
    "flow-t2-diff-init-ensemble": [
        beyond("ensemble of scratch: different - one initialisation",
               measure("scratch_diff_init", "ensemble"), measure("scratch", "ensemble"), "points"),
        beyond("disagreement in pairs: different - one + 0.1",
               measure("scratch_diff_init", "disagreement") + 0.1, SCRATCH, "points")],
    "flow-t2-ensemble-gain": beyond("gain of the ensemble: pruned - lottery", gain("pruned"),
                                    gain("lottery"), "points", "pruned {:.2f}, lottery {:.2f}"),
    "flow-table6": [order(name, *pair)
                    for name in ("disagreement", "kl", "js", "disagreement_pruned", "kl_pruned",
                                 "js_pruned") for pair in CHAIN],
    "flow-t6-kl-jsd-order": [order(name, *pair) for name in ("kl_pruned", "js_pruned")
                             for pair in CHAIN[::2]],
}  # fmt: skip
