"""An online rule for when to prune: watch a signal, and say so once its rise has been over for some epochs.

The early-pruning study proposes Tr(F) and KL(uniform || p) as signals and leaves the rule itself to later work (sections 4.1 and 5).
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass, field


@dataclass
class PeakRule:
    """Says "now" when the highest value so far lies ``patience`` observations back.

    A value counts as higher only if it exceeds the highest by more than ``tolerance`` of it: a signal that has all but
    stopped rising has turned. ``start`` observations are let pass first: right after the start of training signals jump.
    Raises ``ValueError`` for a patience below 1, or a negative tolerance or start.
    """

    patience: int = 2
    tolerance: float = 0.01
    start: int = 1
    highest: float = field(default=-math.inf, init=False)
    since: int = field(default=0, init=False)
    seen: int = field(default=0, init=False)

    def __post_init__(self):
        for name, least in (("patience", 1), ("tolerance", 0), ("start", 0)):
            if not getattr(self, name) >= least:
                raise ValueError(f"{name} is {getattr(self, name)}: it must be at least {least}")

    def observe(self, value: float) -> bool:
        """Take the signal after an epoch; whether to prune now. A value that is not finite does not count as a rise."""
        self.seen += 1
        if self.seen <= self.start:
            return False
        if value > self.highest + self.tolerance * abs(
            self.highest if math.isfinite(self.highest) else 0.0
        ):
            self.highest, self.since = value, 0
        else:
            self.since += 1
        return self.since >= self.patience


def decide(signal: Iterable[float], rule: PeakRule) -> int | None:
    """The index at which ``rule`` first says "now" over ``signal``, a value for each epoch from 0 on; None if it never does.

    Only values up to that index are looked at.
    """
    return next((epoch for epoch, value in enumerate(signal) if rule.observe(value)), None)
