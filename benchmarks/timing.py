"""Rounds in which the contenders take turns, and what is read from them."""

import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

Contender = Callable[
    [], int
]  # does a piece of work, and returns how many images (or other units) it got through


@dataclass(frozen=True)
class Spread:
    """A quantity over the rounds: median, lowest and highest."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, values) -> "Spread":
        values = list(values)
        return cls(statistics.median(values), min(values), max(values))

    def __str__(self):
        return f"{_short(self.median)} ({_short(self.low)} to {_short(self.high)})"


def _short(value):
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


class Rates:
    """Units per second of each contender in each round."""

    def __init__(self, rounds: Mapping[str, list[float]]):
        self.rounds = dict(rounds)

    def rate(self, name: str) -> Spread:
        """Units per second of one contender."""
        return Spread.of(self.rounds[name])

    def ratio(self, name: str, other: str) -> Spread:
        """How many times as fast ``name`` is as ``other``, round by round."""
        return Spread.of(a / b for a, b in zip(self.rounds[name], self.rounds[other], strict=True))

    def fastest(self, names) -> str:
        """The contender among ``names`` with the highest median."""
        return max(names, key=lambda name: self.rate(name).median)


def race(
    contenders: Mapping[str, Contender],
    rounds: int,
    seconds: float,
    clock: Callable[[], float] = time.perf_counter,
) -> Rates:
    """Let the contenders take turns for ``rounds`` rounds, each working at least ``seconds`` a
    turn.

    A turn is as many calls as fill the time (at least one). The first call of each is a warm-up
    and does not count. Of work on one thread ``clock`` may be ``time.process_time``: where others
    compute beside it, the time on the processor says more than the time on the wall.
    """
    for work in contenders.values():
        work()
    rates = {name: [] for name in contenders}
    for _ in range(rounds):
        for name, work in contenders.items():
            done, begin = 0, clock()
            while not done or clock() - begin < seconds:
                done += work()
            rates[name].append(done / (clock() - begin))
    return Rates(rates)


@dataclass(frozen=True)
class Row:
    """One line of a table with a target: what is compared, what was wanted, what was seen."""

    what: str
    seen: Spread
    target: float
    unit: str = "times"
    upper: bool = False  # the target is an upper bound

    @property
    def verdict(self) -> str:
        """Met or missed by the median; said to be within noise where the rounds lie on both
        sides of the target."""
        met = self.seen.median <= self.target if self.upper else self.seen.median >= self.target
        noisy = self.seen.low < self.target < self.seen.high
        return ("met" if met else "missed") + (", within noise" if noisy else "")

    def cells(self) -> dict[str, str]:
        """The line as the table shows it."""
        bound = f"{'≤' if self.upper else '≥'} {self.target:g} {self.unit}"
        return {
            "comparison": self.what,
            "target": bound,
            "seen (rounds)": f"{self.seen} {self.unit}",
            "verdict": self.verdict,
        }
