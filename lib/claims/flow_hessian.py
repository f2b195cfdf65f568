"""Decision rules for the Hessian around mask updates and along training: the gradient-flow study's Figures 10 and 11.

The table has a row per measured state: ``row``, the method as in ``lib.claims.flow_methods``; ``step``; ``moment``, which is "along"
(training), or "before", "after" and "settled" for an update at that step; ``smallest`` and ``largest``, the ends of the spectrum; along
training also ``negative_share``, and after an update ``change``, the relative distance of the whole spectra.
"""

import numpy as np
import pandas as pd

from lib.claims.decisions import Effect, NotHere
from lib.claims.flow_gradients import ALIKE, DIFFERENT

NEAR_ZERO = (
    1e-3  # of the largest eigenvalue: a negative one smaller than that is not told apart from zero
)
SPARSE = ("scratch", "set", "rigl")
POSITIVE_ALIKE = np.log(2)
NAMES = {
    "scratch": "scratch",
    "set": "SET",
    "rigl": "RigL",
    "baseline": "dense baseline",
    "small dense": "small dense",
}


def courses(table: pd.DataFrame, row: str, moment: str, measure: str) -> pd.DataFrame:
    """``measure`` of one method at one kind of moment: a row per seed, a column per step. Raises ``NotHere`` if the table lacks it."""
    rows = table[(table["row"] == row) & (table["moment"] == moment)]
    wide = (
        rows.pivot_table(index="seed", columns="step", values=measure)
        if measure in rows
        else pd.DataFrame()
    )
    if wide.empty:
        raise NotHere(f"the table has no {measure} of {NAMES.get(row, row)}, {moment}")
    return wide


def largest(table: pd.DataFrame, row: str, moment: str = "along") -> pd.DataFrame:
    """ln of the largest eigenvalue, by seed and step."""
    return np.log(courses(table, row, moment, "largest"))


def negative(table: pd.DataFrame, row: str, moment: str = "along") -> pd.DataFrame:
    """ln of the size of the largest negative eigenvalue, by seed and step; at least ``NEAR_ZERO`` times the largest positive one."""
    least = NEAR_ZERO * courses(table, row, moment, "largest")
    return np.log(np.maximum(-courses(table, row, moment, "smallest"), least))


def _at_updates(table, of, row, first="before", second="after"):
    """The mean over updates of a logarithm's change between two moments around them, by seed."""
    return (of(table, row, second) - of(table, row, first)).mean(axis=1).dropna()


def _effect(what, values, claim="positive", margin=0.0):
    """An effect in logarithms, with the factor that it means."""
    return Effect(
        what, values.to_numpy(), "ln", claim, margin, note=f"× {np.exp(values.mean()):.3g}"
    )


def _ratio(table, of, words, first, second, claim="positive", margin=0.0):
    """The effect "``words`` of the method ``first`` over that of ``second``", along training."""
    gain = (of(table, first) - of(table, second)).mean(axis=1).dropna()
    return _effect(
        f"ln({words}: {NAMES[first]} / {NAMES[second]}), along training", gain, claim, margin
    )


# -- Figure 10: around mask updates ------------------------------------------------------------------------------------


def flow_hessian_rigl_negative(table):
    rigl, random = (_at_updates(table, negative, row) for row in ("rigl", "set"))
    what = "ln(|largest negative eigenvalue| after / before an update)"
    return [
        _effect(f"{what}: RigL", rigl, margin=DIFFERENT),
        _effect(f"{what}: RigL - SET", (rigl - random).dropna(), margin=DIFFERENT),
    ]


def flow_hessian_rigl_positive_transient(table):
    rise = _at_updates(table, largest, "rigl")
    fall = _at_updates(table, largest, "rigl", "settled", "after")
    left = _at_updates(table, largest, "rigl", "before", "settled")
    return [
        _effect("ln(largest eigenvalue after / before an update): RigL", rise, margin=DIFFERENT),
        _effect(
            "ln(largest eigenvalue after an update / some steps later): RigL",
            fall,
            margin=DIFFERENT,
        ),
        _effect(
            "ln(largest eigenvalue some steps later / before the update): RigL",
            left,
            "equal",
            ALIKE,
        ),
    ]


def flow_hessian_set_limited(table):
    rigl, random = (courses(table, row, "after", "change") for row in ("rigl", "set"))
    gain = np.log(rigl / random).mean(axis=1).dropna()
    effect = _effect("ln(change of the spectrum at an update: RigL / SET)", gain, margin=DIFFERENT)
    note = f"{effect.note}; {rigl.mean(axis=None):.3g} and {random.mean(axis=None):.3g} of the mean size of an eigenvalue"
    return [Effect(effect.what, effect.values, "ln", margin=DIFFERENT, note=note)]


# -- Figure 11: along training -----------------------------------------------------------------------------------------


def flow_hessian_dense_negative_mass(table):
    dense, sparse = (
        courses(table, row, "along", "negative_share").mean(axis=1)
        for row in ("baseline", "scratch")
    )
    note = f"{dense.mean():.3g} and {sparse.mean():.3g}"
    return [
        Effect(
            "negative share of the spectrum: dense baseline - scratch, along training",
            (dense - sparse).dropna().to_numpy(),
            note=note,
        ),
        *(
            _ratio(table, largest, "largest eigenvalue", row, "scratch", "equal", POSITIVE_ALIKE)
            for row in ("baseline", "set", "rigl")
        ),
    ]


def flow_hessian_largest_negative(table):
    words = "|largest negative eigenvalue|"
    pairs = [*(("baseline", row) for row in SPARSE), ("rigl", "scratch")]
    return [_ratio(table, negative, words, first, second) for first, second in pairs]


def flow_hessian_small_dense_conditioning(table):
    smaller = [_ratio(table, largest, "largest eigenvalue", row, "small dense") for row in SPARSE]
    return smaller + [
        _ratio(table, negative, "|largest negative eigenvalue|", "small dense", row)
        for row in SPARSE
    ]
