"""The decision rules of the early-pruning study: claim -> rule."""

from studies.decide import NotHere
from studies.early.panels import best, correlation, half_step, peak, values
from studies.quantities import known
from studies.rules import Rule, each, more, says

OF_TRAINING = "% of training"
EARLY = 50.0
AROUND = 20.0  # percent: 40 of 200 epochs


def early(**chosen) -> Rule:
    """The best pruning epoch lies in the first half of training."""
    gap, half = EARLY - best(**chosen), half_step(**chosen)
    return more("50 - best pruning epoch", gap, OF_TRAINING, resolution=half)


def near(signal: str = "fisher", within: float = AROUND, **chosen) -> Rule:
    """The best pruning epoch lies within ``within`` percent of training of the signal's peak."""
    place, top = best(**chosen), peak(signal, **chosen)
    return more(
        f"{within:g} - |best pruning epoch - peak of {signal}|",
        known(within - abs(place - top)),
        OF_TRAINING,
        resolution=half_step(**chosen),
        note=says("best at {:.0f}%, peak at {:.0f}%", place, top),
    )


def decay(rank: int):
    """The weak (0), the middle (1) or the strong (2) of three weight decays."""

    def chosen(table):
        grid = sorted(values(table, "weight_decay"))
        if len(grid) != 3:
            raise NotHere("it compares three weight decays: give weight_decays as three values")
        return float(grid[rank])

    return chosen


def off_peak(rank: int):
    """How far the best epoch lies from the peak, at one weight decay."""
    return abs(best(weight_decay=decay(rank)) - peak(weight_decay=decay(rank)))


RULES = {
    "early-before-half": early(),
    "early-local-fig9": [early(scope="layer"), near(scope="layer")],
    "early-model-size": each(
        "network", [early(), near()], lambda table: values(table, "network"), " of {}"
    ),
    "early-compression-period": each(
        "sparsity", early(), lambda table: sorted(values(table, "sparsity"))
    ),
    "early-wd-weak-correlation": [
        more(
            f"|best - peak|: {name} - middle decay",
            known(off_peak(rank) - off_peak(1)),
            OF_TRAINING,
            resolution=half_step(weight_decay=decay(1)),
        )
        for rank, name in ((2, "strong"), (0, "weak"))
    ],
    "early-local-stronger-correlation": [
        more(
            f"Spearman(accuracy, Tr(F)): layer - global ({name} decay)",
            known(
                correlation(weight_decay=decay(rank), scope="layer")
                - correlation(weight_decay=decay(rank))
            ),
            "rho",
        )
        for rank, name in ((0, "weak"), (2, "strong"))
    ],
}
