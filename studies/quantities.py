"""One number a seed, taken from a table of runs that is not yet seen.

``Numbers`` are one number a seed (a Series), or a *course*: one number a seed and place (a
DataFrame, seeds down, places across), or a plain number. They add, subtract, multiply, divide and
compare, over the seeds (and places) that both have; ``lift`` makes any function of Series and
DataFrames one of ``Numbers``. To have the values themselves, call them on a table.

>>> gap = 100 * (pick("accuracy", solution="sol_f") - pick("accuracy", solution="sol_s"))
>>> table = pd.DataFrame({"key": [0, 1], "seed": 7, "solution": ["sol_f", "sol_s"],
...   "accuracy": [0.75, 0.5]})
>>> gap(table).to_dict()
{7: 25.0}

``pick`` selects a cell and reduces its epochs to one number; ``course`` keeps the places;
``first last highest lowest mean peak place since between trend agreement`` reduce a course,
``average median spread factor`` the seeds; ``ln known at_least`` change values; ``needed`` refuses
an empty cell. A study's own quantity is a function ``(table, ...)`` under ``@numbers``, or
``(table)`` under ``@Numbers``.
"""

import functools
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pandas as pd

from studies.decide import NotHere

PRUNED_ALONE = ("sparsity", "rate_floor")  # columns that say nothing of a dense run


# -- the table -------------------------------------------------------------------------------------


def of(thing, table: pd.DataFrame):
    """``thing`` itself, or what it says of the table where it is a function of one."""
    return thing(table) if callable(thing) else thing


def part(table: pd.DataFrame, **cell) -> pd.DataFrame:
    """The rows with these values (a value may be a function of the table).

    Dense runs stay where a column says nothing of them: they belong to every sparsity. A column
    that the table lacks says nothing.
    """
    rows = table
    for column, wanted in cell.items():
        value, has = of(wanted, table), rows.get(column, pd.Series(np.nan, rows.index))
        if isinstance(value, float):
            chosen = np.isclose(pd.to_numeric(has, errors="coerce"), value)
        else:
            chosen = has == value
        if "solution" in rows:
            silent = has.isna() | (column in PRUNED_ALONE)
            chosen |= silent & (rows["solution"] == "sol_d")
        rows = rows[chosen]
    return rows


def final_rows(table: pd.DataFrame) -> pd.DataFrame:
    """The last measured epoch of every run; the table itself if it has no epochs."""
    if "epoch" not in table:
        return table
    return table.sort_values("epoch").groupby("key", sort=False).tail(1)


def dense(table: pd.DataFrame) -> pd.DataFrame:
    """The rows of the dense networks at full size; small dense ones are others."""
    rows = part(table, solution="sol_d")
    return rows[rows["row"].isin(("baseline", "dense"))] if "row" in rows else rows


def sparsities(table: pd.DataFrame) -> list:
    """The sparsities of whatever is pruned in the table, rising."""
    return sorted(table.loc[table["solution"] != "sol_d", "sparsity"].unique())


# -- numbers ---------------------------------------------------------------------------------------


def _shared(parts):
    """The parts at the seeds, and places, that all of them have."""
    framed = [p for p in parts if isinstance(p, pd.Series | pd.DataFrame)]
    if len(framed) < 2:
        return parts
    meet = functools.partial(functools.reduce, pd.Index.intersection)
    seeds = meet([p.index for p in framed])
    wide = [p.columns for p in framed if isinstance(p, pd.DataFrame)]
    cut = (seeds, meet(wide)) if wide else (seeds,)
    return [p.loc[cut[: p.ndim]] if isinstance(p, pd.Series | pd.DataFrame) else p for p in parts]


def lift(function: Callable) -> Callable[..., "Numbers"]:
    """A function of Series and DataFrames as one of ``Numbers``; seeds are paired."""

    @functools.wraps(function)
    def lifted(*parts, **named):
        return Numbers(lambda table: function(*_shared([of(p, table) for p in parts]), **named))

    return lifted


@dataclass(frozen=True)
class Numbers(np.lib.mixins.NDArrayOperatorsMixin):
    """One number a seed, or a course of them, of a table not yet seen.

    Operators and NumPy's functions of single values (``np.log``) give ``Numbers`` again.
    """

    read: Callable[[pd.DataFrame], pd.Series | pd.DataFrame | float]

    def __call__(self, table: pd.DataFrame):
        return self.read(table)

    def __array_ufunc__(self, function, method, *parts, **named):
        return lift(function)(*parts, **named)


def numbers(function: Callable) -> Callable[..., Numbers]:
    """A study's own quantity ``(table, ...)`` as a maker ``(...)`` of ``Numbers``."""

    @functools.wraps(function)
    def made(*how, **named):
        return Numbers(lambda table: function(table, *how, **named))

    return made


def held(found) -> Numbers:
    """Numbers that are there already, whatever the table."""
    return Numbers(lambda table: found)


@numbers
def pick(table, measure: str, how: str = "final", **cell) -> pd.Series:
    """``measure`` of a cell: at its last epoch, or its "max", "min" or "mean" over epochs."""
    rows = part(table, **cell)
    if how == "final":
        return final_rows(rows).set_index("seed")[measure].sort_index()
    return rows.groupby("seed")[measure].agg(how).sort_index()


@numbers
def course(table, measure: str, along: str | list[str] = "epoch", **cell) -> pd.DataFrame:
    """``measure`` of a cell: a row per seed, a column per place, rising.

    Along anything but time (epochs, steps) it is that of the runs' last epoch. A column that the
    table lacks has no values.
    """
    rows = part(table, **cell)
    if along not in ("epoch", "step") and "epoch" in rows:
        rows = rows[rows["epoch"] == rows.groupby("key")["epoch"].transform("max")]
    columns = ["seed", *([along] if isinstance(along, str) else along), measure]
    return rows.reindex(columns=columns).pivot_table(measure, "seed", along)


@numbers
def needed(table, wanted: Numbers, otherwise: str):
    """The numbers; raises ``NotHere`` with ``otherwise`` where there are none."""
    found = wanted(table)
    if found.empty:
        raise NotHere(of(otherwise, table))
    return found


ln, root = lift(np.log), lift(np.sqrt)
at_least = lift(np.maximum)
known = lift(lambda values: values.dropna())

average = lift(lambda values: values.mean())  # over seeds
median = lift(lambda values: values.median())
spread = lift(lambda values: values.std())
factor = lift(lambda logs: np.exp(logs.mean(axis=None)))  # that logarithms mean


def reduction(function: Callable[[pd.DataFrame], pd.Series]) -> Callable[..., Numbers]:
    """A function from a course to one number a seed; ``NotHere`` where the course is empty."""

    def reduced(course):
        if course.empty:
            raise NotHere("the table lacks a course that this rule needs")
        return function(course)

    return lift(reduced)


first = reduction(lambda course: course.iloc[:, 0])
last = reduction(lambda course: course.iloc[:, -1])
highest = reduction(lambda course: course.max(axis=1))
lowest = reduction(lambda course: course.min(axis=1))
mean = reduction(lambda course: course.mean(axis=1))
peak = reduction(lambda course: course.idxmax(axis=1))
place = lift(lambda course, number: course.columns[number])


@lift
def between(
    course: pd.DataFrame, low: float, high: float = np.inf, otherwise: str = ""
) -> pd.DataFrame:
    """The places from ``low`` to just below ``high``; ``NotHere`` with ``otherwise`` if none is."""
    inside = course.loc[:, (course.columns >= low) & (course.columns < high)]
    if inside.empty:
        raise NotHere(otherwise)
    return inside


@lift
def since(holds: pd.DataFrame, otherwise: float = np.nan) -> pd.Series:
    """The place from which on something holds at every place, by seed; ``otherwise`` if none."""
    still = holds.iloc[:, ::-1].cummin(axis=1).iloc[:, ::-1]
    return still.idxmax(axis=1).where(still.any(axis=1), otherwise).astype(float)


def at_others_best(course: pd.DataFrame) -> pd.Series:
    """Each seed's value at the place that is best for the *other* seeds.

    The best of a seed's own noisy values would be chosen for its noise.
    """
    found = {}
    for seed, own in course.iterrows():
        others = course.drop(index=seed).mean() if len(course) > 1 else own
        found[seed] = own[others.idxmax()]
    return pd.Series(found)


@lift
def agreement(one: pd.DataFrame, other: pd.DataFrame) -> pd.Series:
    """Spearman's rho of two courses over their places, one per seed."""
    return one.rank(axis=1).corrwith(other.rank(axis=1), axis=1)


@lift
def trend(course: pd.DataFrame, least: int = 3, otherwise: str = "") -> pd.Series:
    """Spearman's rho of a course with its places; ``NotHere`` with fewer than ``least``."""
    if course.shape[1] < least:
        raise NotHere(otherwise or "needs three sparsities or more")
    order = pd.Series(course.columns, index=course.columns).rank()
    return course.rank(axis=1).corrwith(order, axis=1)
