"""Rules and conditions that recur in the early-pruning study."""

from studies.early.panels import best, half_step, held_out, peak, values
from studies.quantities import known
from studies.rules import Rule, more, says

OF_TRAINING = "% of training"
EARLY = 50.0
NEAR, AROUND = 15.0, 20.0  # percent: 30 and 40 of 200 epochs


def variants(column: str):
    """The places of ``each`` along the variants of a column."""
    return lambda table: values(table, column)


def rising(column: str):
    """The same, from the lowest on."""
    return lambda table: sorted(values(table, column))


def on_cifar(table) -> bool:
    """Whether the table is of CIFAR alone."""
    return set(table["dataset"]) <= {"cifar10", "cifar100"}


def on_cifar100(table) -> bool:
    """Whether the table is of CIFAR-100 alone."""
    return set(table["dataset"]) == {"cifar100"}


def early(**chosen) -> Rule:
    """The best pruning epoch lies in the first half of training."""
    gap, half = EARLY - best(**chosen), half_step(**chosen)
    return more("50 - best pruning epoch", gap, OF_TRAINING, resolution=half)


def near(signal: str = "fisher", within: float = AROUND, **chosen) -> Rule:
    """The best pruning epoch lies within ``within`` percent of training of the signal's peak."""
    place, top = best(**chosen), peak(signal, **chosen)
    what = f"{within:g} - |best pruning epoch - peak of {signal}|"
    note = says("best at {:.0f}%, peak at {:.0f}%", place, top)
    off, half = known(within - abs(place - top)), half_step(**chosen)
    return more(what, off, OF_TRAINING, resolution=half, note=note)


def better(first, second, **chosen):
    """The best accuracy of one choice of variants above that of another."""
    return known(held_out(**first, **chosen) - held_out(**second, **chosen))
