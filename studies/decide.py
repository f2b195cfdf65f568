"""Intervals and decisions: from one number per seed to a verdict.

The unit of replication is the seed. An ``Effect`` holds one number per seed, usually a paired
difference, and what the claim says of it. Intervals are two-sided 95% t intervals; "no difference"
is two one-sided tests at 5%.
"""

from dataclasses import dataclass

import numpy as np
from scipy import stats

SUPPORTED, REFUTED, UNDECIDED = "supported", "refuted", "undecided"
NOT_TESTED = "not tested here"
MIN_SEEDS = 5  # with fewer, a direction counts only if every seed agrees, and the row says so


class NotHere(Exception):
    """Raised by a rule where the table cannot speak of its claim; the message says what could."""


@dataclass(frozen=True)
class Effect:
    """One row of evidence: ``values`` per seed, in ``unit``.

    ``claim`` is ``"positive"`` (the mean lies above 0) or ``"equal"`` (it lies within ``margin`` of
    0). For a positive claim, ``margin`` is the size below which a difference would not matter.
    ``resolution`` widens the interval on both sides (half a grid step, where values are places on a
    grid).
    """

    what: str
    values: np.ndarray
    unit: str = ""
    claim: str = "positive"
    margin: float = 0.0
    resolution: float = 0.0
    note: str = ""


def interval(values: np.ndarray, level: float = 0.95) -> tuple[float, float]:
    """The two-sided t interval of the mean; infinite for fewer than two values."""
    if len(values) < 2:
        return -np.inf, np.inf
    quantile = stats.t.ppf((1 + level) / 2, len(values) - 1)
    half = quantile * values.std(ddof=1) / np.sqrt(len(values))
    return values.mean() - half, values.mean() + half


def seeds_needed(distance: float, spread: float, most: int = 1000) -> int | None:
    """How many seeds make the 95% half-width at this spread smaller than ``distance``.

    None where ``most`` of them do not.
    """
    n = np.arange(2, most + 1)
    enough = n[stats.t.ppf(0.975, n - 1) / np.sqrt(n) * spread < distance]
    return int(enough[0]) if len(enough) else None


def decide(effect: Effect) -> dict:
    """The row of the verdict table: mean, interval, size in standard deviations, seeds, verdict."""
    values = np.asarray(effect.values, dtype=float)
    finite = values[np.isfinite(values)]
    low, high = interval(finite)
    low, high = low - effect.resolution, high + effect.resolution
    mean = finite.mean() if len(finite) else np.nan
    spread = finite.std(ddof=1) if len(finite) > 1 else np.nan
    notes = [effect.note]
    if len(finite) < len(values):
        notes.append(f"{len(values) - len(finite)} seeds without a value")
    verdict = UNDECIDED
    if len(finite):
        verdict, said = _judged(finite, low, high, effect, spread)
        notes.append(said)
    return {
        "what": effect.what,
        "effect": mean,
        "low": low,
        "high": high,
        "unit": effect.unit,
        "in_sd": mean / spread if spread and spread > 0 else np.nan,
        "seeds": len(finite),
        "verdict": verdict,
        "note": "; ".join(note for note in notes if note),
    }


def _judged(values, low, high, effect, spread):
    """The verdict on the claim of an effect, and what the row says of it."""
    equal, margin, few = effect.claim == "equal", effect.margin, f"only {len(values)} seeds"
    if len(values) < MIN_SEEDS:
        agree = not equal and (values > 0).all()
        return (SUPPORTED, f"{few}, all agree") if agree else (UNDECIDED, few)
    if equal:
        inner = interval(values, 0.90)  # two one-sided tests at 5%
        supported = -margin < inner[0] and inner[1] < margin
        refuted = low > margin or high < -margin
        distance = abs(margin - abs(values.mean()))
    else:
        supported = low > 0
        negligible = margin and -margin < low and high < margin
        refuted = high < 0 or negligible or low == high == 0
        distance = abs(values.mean()) - effect.resolution
    if supported or refuted:
        return (SUPPORTED if supported else REFUTED), ""
    if distance <= 0 and not equal:
        return UNDECIDED, "no number of seeds would decide it on this grid"
    return UNDECIDED, f"{seeds_needed(distance, spread) or 'over 1,000'} seeds would decide it"


def combine(verdicts: list[str]) -> str:
    """Supported if supported everywhere, refuted if refuted anywhere, otherwise undecided."""
    if not verdicts:
        return NOT_TESTED
    if all(verdict == SUPPORTED for verdict in verdicts):
        return SUPPORTED
    return REFUTED if REFUTED in verdicts else UNDECIDED
