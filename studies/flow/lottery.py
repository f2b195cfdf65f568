"""Where tickets lie: the gradient-flow study's section 4.3, Figures 5 and 9c.

The table has a row per network: its run's columns, ``row`` ("dense", "pruned", "lottery",
"restart", "scratch", "scratch_diff_init", or a perturbation of the ticket), ``replica``,
``classes``, ``test_accuracy``, ``reached`` and ``every``; for all but the dense ones its distances
to the pruning solution of its seed, ``start_distance``, ``end_distance`` and ``end_on_map``, and
the training losses on the lines from its start and from its end to there, ``start_losses`` and
``end_losses``, at ``alphas``. The pruning solution itself is the row "pruned", replica 0.
"""

import pandas as pd

from studies.flow.methods import MLP, untested
from studies.price.lines import tolerance
from studies.quantities import Numbers, between, final_rows, first, known, ln, needed, numbers, pick
from studies.rules import (
    MATCH,
    Rule,
    along,
    beyond,
    equal,
    given,
    if_any,
    more,
    needs,
    only,
    own,
    says,
)

DISTANCES = {"lottery": 13.61, "scratch": 17.46}  # of the starts, LeNet-5
NEAREST = 15  # epochs that must be measured for a speed of convergence
ROWS = {"dense", "pruned", "lottery", "restart", "scratch", "scratch_diff_init"}


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


def matching(row: str, what: str, note) -> Rule:
    """The test accuracy of a row is no more than half a point below the pruning solution's."""
    behind = 100 * mean(row, "test_accuracy") + MATCH - 100 * SOLUTION
    return more(f"test accuracy: {what} + {MATCH}", behind, "points", note=note)


def robust(table: pd.DataFrame) -> Rule:
    """Perturbed tickets that stay in the basin are as good as the pruning solution."""
    kinds = [row for row in dict.fromkeys(table["row"]) if row not in ROWS]
    heights = {kind: barrier(kind)(table).mean() for kind in kinds}
    words = ", ".join(f"{kind} {height:.3g}" for kind, height in heights.items())
    staying = [kind for kind, height in heights.items() if height < tolerance(table)]
    otherwise = f"no perturbed ticket stays in the basin (barriers: {words or 'no perturbations'})"
    return given(
        needs(lambda _: staying, otherwise),
        [matching(kind, f"{kind} - pruned", f"barriers: {words}") for kind in staying],
    )


SOLUTION = mean("pruned", "test_accuracy", replica=0)
LOTTERY, SCRATCH = barrier("lottery"), barrier("scratch")
RATIO = known(mean("scratch", "end_distance") / mean("lottery", "end_distance"))
EVERY = Numbers(lambda table: float(table["every"].max()))
FIRST = {row: mean(row, "reached") for row in ("lottery", "scratch", "dense")}

RULES = {
    **{f"flow-fig5-lt-closer-{moment}-resnet": untested("ResNet-50 on ImageNet")
       for moment in ("init", "final")},
    "flow-fig5-lt-closer-init": [
        beyond("distance of the start: scratch - lottery", mean("scratch", "start_distance"),
               mean("lottery", "start_distance"), "L2", "scratch {:.2f}, lottery {:.2f}"),
        if_any(own("mnist", "lenet-5"),
               [equal(f"{row}: ours - printed", mean(row, "start_distance") - distance, "L2",
                      margin=(DISTANCES["scratch"] - DISTANCES["lottery"]) / 2)
                for row, distance in DISTANCES.items()])],
    "flow-fig5-lt-closer-final-lenet": more("ln(last distance: scratch / 3 lottery)", ln(RATIO / 3),
                                            "ln", note=says("ratio {:.2f}", RATIO)),
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
                                "scratch {:.2f}, lottery {:.2f}"),
    "flow-fig5-barrier-scratch": beyond("barrier of scratch - tolerance", SCRATCH, tolerance,
                                        "nats", "barrier {:.3g}"),
    "flow-fig5-no-barrier-lt": [
        more("tolerance - barrier of lottery", tolerance - LOTTERY, "nats",
             note=says("barriers: lottery {:.3g}, scratch {:.3g}", LOTTERY, SCRATCH)),
        beyond("a tenth of scratch's barrier - that of lottery", SCRATCH / 10, LOTTERY, "nats")],
    "flow-fig9c-mlp-interp": given(MLP,
                                   beyond("barrier: scratch - lottery", SCRATCH, LOTTERY, "nats")),
    "flow-perturbation-robust": robust,
    "flow-lt-k0-works-mnist-not-large": matching(
        "lottery", "lottery - pruned", says("without the 0.5: {:.2f}; ResNet-50 is not tested",
                                            100 * (mean("lottery", "test_accuracy") - SOLUTION))),
    "flow-lt-faster-convergence": given(
        needs(lambda table: table["epochs"].max() / EVERY(table) >= NEAREST,
              f"it needs test accuracy at {NEAREST} epochs or more: give a smaller measure_every"),
        [more("epochs to scratch's accuracy: scratch - lottery",
              FIRST["scratch"] - FIRST["lottery"], "epochs", resolution=EVERY / 2,
              note=says("epochs: lottery {:.1f}, scratch {:.1f}, dense {:.1f}", *FIRST.values())),
         beyond("dense + a grid step - lottery", FIRST["dense"] + EVERY, FIRST["lottery"], "epochs",
                resolution=EVERY / 2)]),
}  # fmt: skip
