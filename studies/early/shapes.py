"""Rules and conditions that recur in the early-pruning study."""

from studies.decide import NotHere
from studies.early.panels import best, competing, half_step, held_out, peak, values
from studies.quantities import first, known
from studies.rules import Rule, matters, more, says

OF_TRAINING = "% of training"
# percent of training: 100, 140, 30 and 40 of the study's 200 epochs
EARLY, LATE, NEAR, AROUND = 50.0, 70.0, 15.0, 20.0
MOVED = 5.0  # percent: half a step of the study's grid; a peak moved by less is where it was
AFTER_START = 0.1  # percent: every pruning epoch but that of the untrained network


def variants(column: str, least: int = 2):
    """The places of ``each`` along a column of variants, of which a comparison needs two."""

    def places(table):
        found = sorted(values(table, column))
        if len(found) < least:
            raise NotHere(f"it compares {column} with {column}: give {least} or more")
        return found

    return places


def on(*datasets: str):
    """Whether a table is of these data sets alone."""
    return lambda table: set(table["dataset"]) <= set(datasets)


def early(**chosen) -> Rule:
    """The best pruning epoch lies in the first half of training."""
    gap, half = EARLY - best(**chosen), half_step(**chosen)
    return more("50 - best pruning epoch", gap, OF_TRAINING, resolution=half)


def not_at_start(**chosen) -> Rule:
    """Pruned at the first epoch of the grid, the untrained network, it ends worse."""
    grid = competing(**chosen)
    gain = known(held_out(AFTER_START, **chosen) - first(grid))
    what = says("best later - pruned at epoch {:g}", lambda table: grid(table).columns[0])
    return more(what, gain, "points", margin=matters())


def period(**chosen) -> Rule:
    """An early pruning period: an optimum in the first half that is not just the start."""
    return [early(**chosen), not_at_start(**chosen)]


def near(signal: str = "fisher", within: float = AROUND, **chosen) -> Rule:
    """The best pruning epoch lies within ``within`` percent of training of the signal's peak."""
    place, top = best(**chosen), peak(signal, **chosen)
    off, half = known(within - abs(place - top)), half_step(**chosen)
    what = f"{within:g} - |best pruning epoch - peak of {signal}|"
    note = says("best at {:.0f}%, peak at {:.0f}%", place, top)
    return more(what, off, OF_TRAINING, resolution=half, note=note)


def better(first, second, **chosen):
    """The best accuracy of one choice of variants above that of another."""
    return known(held_out(**first, **chosen) - held_out(**second, **chosen))
