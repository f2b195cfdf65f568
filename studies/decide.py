"""Intervals and decisions: from one number per seed to a verdict, from rows to a claim.

The unit of replication is the seed. An ``Effect`` holds one number per seed, usually a paired
difference, and what the claim says of it. What decides is exact: the interval that the sign-flip
test of the mean inverts to (Clopper and Pearson's for counts); the t interval stands beside it.

A row is *supported* where its 95% interval lies above 0 and its 90% interval not inside ±margin;
*negligible* where the 90% interval lies inside ±margin, wherever 0 lies; *refuted* where the 95%
interval lies below 0; else *undecided*. Fewer than ``MIN_SEEDS`` decide nothing. A claim is
supported where all its rows are, and refuted where one is refuted or negligible at 0.05/k among its
k rows: ``decide(effect, among=k)`` gives the verdict as it counts for the claim.
"""

import functools
from dataclasses import dataclass

import numpy as np
from scipy import stats

from lib.rng import derived_seed

SUPPORTED, REFUTED, UNDECIDED = "supported", "refuted", "undecided"
NEGLIGIBLE = "negligible"  # smaller than what would matter: of a claim, a refutation
NOT_TESTED = "not tested here"
MIN_SEEDS = 6  # 2/64 is the first two-sided exact p below 5%
ALL_SUBSETS, DRAWS = 12, 9_999  # up to so many seeds every subset counts, beyond so many drawn ones
MOST_SEEDS = 1000  # beyond that nobody plans


class NotHere(Exception):
    """Raised by a rule where the table cannot speak of its claim; the message says what could."""


@dataclass(frozen=True)
class Effect:
    """One row of evidence: ``values`` per seed, in ``unit``.

    ``claim`` is ``"positive"`` (the mean lies above 0) or ``"equal"`` (it lies within ``margin`` of
    0). For a positive claim, ``margin`` is the size below which a difference would not matter.

    ``kind`` is "difference" (logarithms of ratios too), "trend" (a rank correlation or slope over a
    grid), "place" (a point of a grid: ``resolution``, half a grid step, widens its interval on both
    sides), "count" (0 or 1 a seed; the claim is that the share lies above ``chance``), or "fact" (a
    number and its tolerance: no seeds, no interval).
    """

    what: str
    values: np.ndarray
    unit: str = ""
    claim: str = "positive"
    margin: float = 0.0
    resolution: float = 0.0
    note: str = ""
    kind: str = "difference"
    chance: float = 0.5


@functools.cache
def _subsets(n: int) -> np.ndarray:
    """Non-empty subsets of n seeds, as the weights of their means: [subsets, n]."""
    if n <= ALL_SUBSETS:
        member = (np.arange(1, 2**n)[:, None] >> np.arange(n) & 1).astype(bool)
    else:
        rng = np.random.default_rng(derived_seed(0, "sign flips", n))
        member = rng.random((DRAWS, n)) < 0.5
        member[~member.any(axis=1)] = True
    return member / member.sum(axis=1, keepdims=True)


def sign_flip(values: np.ndarray, *levels: float) -> list[tuple]:
    """For each level the two-sided interval of the mean that the sign-flip test inverts to.

    ``values`` are [..., n], limits [...]. The one-sided p of "the mean is at most d" is
    (1 + number of subsets of the seeds whose mean is at most d) / (1 + number of subsets), so that
    limits are subset means in their order (Hartigan 1969, typical values); infinite where no p is
    small enough.
    """
    means = np.sort(values @ _subsets(values.shape[-1]).T, axis=-1)
    infinite = np.full(values.shape[:-1], np.inf)
    found = []
    for level in levels:
        k = int((1 - level) / 2 * (means.shape[-1] + 1) + 1e-9)
        found.append((means[..., k - 1], means[..., -k]) if k else (-infinite, infinite))
    return found


def clopper_pearson(holds: np.ndarray, *levels: float) -> list[tuple]:
    """For each level the exact two-sided interval of the share of ones; [0, 1] without values."""
    tested = [stats.binomtest(int(holds.sum()), len(holds))] if len(holds) else []
    exact = [tuple(tested[0].proportion_ci(level, "exact")) for level in levels if tested]
    return exact or [(0.0, 1.0) for _ in levels]


def fieller(above: np.ndarray, below: np.ndarray, level: float = 0.95) -> tuple:
    """The ratio of the means of paired numbers [n], and its interval (Fieller 1954).

    The limits are the ratios r at which the t test of mean(above - r * below) = 0 just rejects.
    They are missing where the t interval of ``below`` itself holds 0: no finite ones would do.

    >>> fieller(np.array([1.0, 2.0, 3.0]), np.array([2.0, 4.0, 6.0]))
    (0.5, nan, nan)
    """
    (aa, ab), (_, bb) = np.cov(above, below) * stats.t.ppf((1 + level) / 2, len(below) - 1) ** 2
    a, b, n = np.mean(above), np.mean(below), len(below)
    square, half, rest = b * b - bb / n, a * b - ab / n, a * a - aa / n
    root = np.sqrt(max(half * half - square * rest, 0.0)) if square > 0 else np.nan
    return float(a / b), float((half - root) / square), float((half + root) / square)


def seeds_needed(distance: float, spread: float, level: float = 0.95, least: int = MIN_SEEDS):
    """How many seeds make the half-width at this spread smaller than ``distance``.

    At least so many that the exact test can reach the level; infinite beyond ``MOST_SEEDS``.
    """
    n = np.arange(max(least, np.ceil(1 - np.log2(1 - level))), MOST_SEEDS + 1)
    enough = n[stats.t.ppf((1 + level) / 2, n - 1) / np.sqrt(n) * spread < distance]
    return enough[0] if len(enough) else np.inf


def counts_needed(share: float, border: float, supports: float, refutes: float, least: int):
    """How many seeds, as many of them ones as this ``share``, decide on which side of the border.

    By Clopper and Pearson's interval: at the level ``supports`` it lies above the border, or at
    ``refutes`` below; infinite beyond ``MOST_SEEDS``.

    >>> int(counts_needed(0.0, 0.05, 0.95, 0.95, 15))
    72
    """
    n = np.arange(least, MOST_SEEDS + 1)
    ones = np.round(share * n)
    low = stats.beta.ppf((1 - supports) / 2, ones, n - ones + 1)  # nan where it is 0
    high = stats.beta.ppf((1 + refutes) / 2, ones + 1, n - ones)  # nan where it is 1
    enough = n[(low > border) | (high < border)]
    return enough[0] if len(enough) else np.inf


def levels(among: int) -> tuple[float, ...]:
    """What decides: 95% and 90% support a row, both at 0.05/k refute the claim that has k rows."""
    return 0.95, 0.90, 1 - 0.05 / among, 1 - 0.10 / among


def slacks(claim: str, margin: float, outer, inner, strict_outer, strict_inner) -> dict:
    """By verdict: how far the interval that gives it lies beyond its border, in its own lengths.

    Intervals, (low, high), are those of ``levels``. The verdict holds where that is above 0.
    """

    def beyond(interval, distance):
        with np.errstate(divide="ignore", invalid="ignore"):
            return distance / (interval[1] - interval[0])

    def inside(interval):
        return beyond(interval, np.minimum(margin - interval[1], interval[0] + margin))

    if claim == "equal":
        off = np.maximum(strict_outer[0] - margin, -margin - strict_outer[1])
        return {REFUTED: beyond(strict_outer, off), SUPPORTED: inside(inner)}
    return {
        REFUTED: beyond(strict_outer, -strict_outer[1]),
        NEGLIGIBLE: inside(strict_inner),
        SUPPORTED: np.minimum(beyond(outer, outer[0]), -inside(inner)),
    }


def judge(found: dict) -> np.ndarray:
    """The verdict that holds by its slack."""
    return np.select([slack > 0 for slack in found.values()], list(found), UNDECIDED)


def decide(effect: Effect, among: int = 1) -> dict:
    """The row of the verdict table, of ``among`` that its claim has; ``slack`` as in ``slacks``."""
    values = np.atleast_1d(np.asarray(effect.values, dtype=float))
    found = values[np.isfinite(values)]
    n, fact, notes = len(found), effect.kind == "fact", [effect.note]
    if n < len(values):
        notes.append(f"{len(values) - n} seeds without a value")
    random = effect.kind in ("difference", "trend") and not effect.resolution
    if random and n > 1 and np.ptp(found) <= 1e-12 * abs(found).max():
        # identical values of a random quantity are a count of seeds, not a variance of nil
        within, size = effect.claim == "equal", effect.margin
        side = f"{'within' if within else 'above'} {size:g}"
        notes.append(f"{found[0]:.3g} in every seed: counted, {side}")
        found = (abs(found) <= size if within else found > size).astype(float)
        effect = Effect(effect.what, found, "share of seeds", kind="count")
    count = effect.kind == "count"
    if fact:
        exact = [(found.min(initial=np.inf), found.max(initial=-np.inf))] * 4
    else:
        exact = (clopper_pearson if count else sign_flip)(found, *levels(among))
    border, wide = effect.chance if count else 0.0, effect.resolution
    from_border = [(low - wide - border, high + wide - border) for low, high in exact]
    slack = slacks(effect.claim, effect.margin, *from_border)
    verdict = str(judge(slack)) if n >= MIN_SEEDS or fact else UNDECIDED
    if fact:
        verdict = verdict if verdict == SUPPORTED else REFUTED
    elif verdict == UNDECIDED and n:
        notes += _doubts(effect, found - border, among)
    mean = found.mean() if n else np.nan
    spread = found.std(ddof=1) if n > 1 and not (count or fact) else np.nan
    half = stats.t.ppf(0.975, max(n - 1, 1)) * spread / np.sqrt(max(n, 1))
    low, high = (np.nan, np.nan) if fact else exact[0]
    return {
        "what": effect.what, "effect": mean, "low": low - wide, "high": high + wide,
        "t_low": mean - half, "t_high": mean + half, "unit": effect.unit,
        "in_sd": mean / spread if spread > 1e-9 * abs(mean) else np.nan, "seeds": 0 if fact else n,
        "kind": effect.kind, "verdict": verdict,
        "slack": float(slack.get(verdict, slack[SUPPORTED])),
        "note": "; ".join(filter(None, notes)),
    }  # fmt: skip


def _doubts(effect, off, among):
    """Why a row is undecided: how its seeds stand, ``off`` the border; how many would decide it."""
    n, m, (outer, inner, strict_outer, strict_inner) = len(off), effect.margin, levels(among)
    equal, size = effect.claim == "equal", abs(off.mean())
    side, holds = ("within", abs(off) <= m) if equal else ("above", off > 0)
    if n < MIN_SEEDS:
        yield f"only {n} seeds, {holds.sum()} of them {side}"
    elif among > 1 and decide(effect)["verdict"] != UNDECIDED:
        yield f"{decide(effect)['verdict']} by itself, undecided among {among} rows"
    if equal:
        ways = [(m - size, inner), (size - m, strict_outer)]
    else:
        ways = [(size, outer if off.mean() > 0 else strict_outer), (m - size, strict_inner)]
    far = [(distance - effect.resolution, level) for distance, level in ways]
    if max(far)[0] <= 0:
        yield "no number of seeds would decide it on this grid"
    elif n > 1:
        spread, least = off.std(ddof=1), max(MIN_SEEDS, n + 1)
        needed = (
            counts_needed(off.mean() + effect.chance, effect.chance, outer, strict_outer, least)
            if effect.kind == "count"
            else min(seeds_needed(distance, spread, level, least) for distance, level in far)
        )
        yield f"about {needed:.0f} seeds would decide it".replace("about inf", "over 1,000")


def combine(verdicts: list[str]) -> str:
    """A claim's verdict from its rows', as ``decide`` gives them among so many.

    Supported if every row that was tested is, refuted if any is refuted or negligible.
    """
    tested = [verdict for verdict in verdicts if verdict != NOT_TESTED]
    if not tested:
        return NOT_TESTED
    if all(verdict == SUPPORTED for verdict in tested):
        return SUPPORTED
    return REFUTED if {REFUTED, NEGLIGIBLE} & set(tested) else UNDECIDED
