"""The algebra of decision rules: from a table of runs to rows of evidence, one expression a claim.

A *table* has a row per run and whatever was measured along it (epochs, layers, alphas). A rule is
written before there is one, so everything here is a function of a table not yet seen. What is
measured is made of ``Numbers`` (``studies.quantities``: one number a seed). Then:

rule
    An ``Effect``, or a function of a table that gives rules, or a list of rules;
    ``rows(rule, table)`` is the list of its effects. ``more(what, numbers, ...)``: their mean lies
    above 0. ``equal(what, numbers, ..., margin=...)``: it lies within the margin. ``above`` and
    ``chain`` are the differences of one measure between solutions, ``ratio`` the logarithm of a
    quotient, against the size that the claim names (``times``). Other kinds of evidence have words
    of their own: ``counted`` (in how many seeds something holds), ``discordant`` (in which of two
    arms), ``rises`` (a trend over a grid), ``at_place`` (a place on a grid), ``fact`` (a number and
    its tolerance). ``margin=matters(printed)`` is what a difference of accuracies must exceed.
    ``each(column, rule, places)`` repeats a rule along a grid, or ``where`` something holds on it;
    ``given(condition, rule)`` shows it only what the condition gives, which may say why the claim
    cannot be tested here; ``if_any(condition, rule)`` leaves it out instead. A rule that fits none
    of this is a function ``(table) -> rules``.

condition
    A function from a table to the part of it that counts; raises ``NotHere`` where that cannot
    speak of the claim: ``needs(check, otherwise)``, ``only(chosen, ...)``, ``own(data, network)``.

Words may be made from the table too: ``says("{:.2f} and {:.2f}", a, b)`` puts the means over seeds
of ``a`` and ``b`` into a text. A study's table of rules is ``RULES``: claim -> rule.

>>> beats = more("accuracy: Sol-F - Sol-S", gap("accuracy", "sol_f", "sol_s"), "points")
>>> table = pd.DataFrame({"key": [0, 1], "seed": 7, "solution": ["sol_f", "sol_s"],
...                       "accuracy": [0.75, 0.5]})
>>> rows(beats, table)[0].values
array([25.])
"""

import functools
from collections.abc import Callable, Iterable
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pandas as pd

from studies.decide import Effect, NotHere
from studies.quantities import (
    Numbers,
    dense,
    final_rows,
    held,
    lift,
    ln,
    of,
    part,
    pick,
    sparsities,
    trend,
)  # fmt: skip

MATCH = 0.5  # points: differences of accuracy below it are smaller than the spread that papers plot
LEAST = 0.1  # points: smaller ones matter to nobody

Rule = Effect | Callable[[pd.DataFrame], "Rule"] | Iterable["Rule"]
Condition = Callable[[pd.DataFrame], pd.DataFrame]
Words = str | Callable[[pd.DataFrame], str]


def rows(rule: Rule, table: pd.DataFrame) -> list[Effect]:
    """The rows of evidence that a rule gives of a table."""
    if isinstance(rule, Effect):
        return [rule]
    if callable(rule):
        return rows(rule(table), table)
    return [effect for one in rule for effect in rows(one, table)]


def says(template: str, *parts) -> Callable[[pd.DataFrame], str]:
    """A text made from the table: ``parts`` in the template, numbers per seed as their mean."""

    def words(table):
        found = [of(p, table) for p in parts]
        return template.format(*(f.mean() if isinstance(f, pd.Series) else f for f in found))

    return words


def more(what: Words, numbers: Numbers, unit: str = "", claim="positive", **how) -> Rule:
    """The claim that the numbers' mean lies above 0.

    ``how`` are the fields of ``Effect``, each a value or a function of the table, as ``what`` is.
    With a ``resolution`` it is a place.
    """
    how.setdefault("kind", "place" if "resolution" in how else "difference")

    def rule(table):
        values = np.ravel(np.asarray(of(numbers, table), dtype=float))
        said = {key: of(value, table) for key, value in how.items()}
        return Effect(of(what, table), values, unit, claim, **said)

    return rule


def beyond(what: Words, one: Numbers, other, unit: str = "", note: str = "", **how) -> Rule:
    """The claim that ``one`` lies above ``other``; ``note`` is a template for both, in means."""
    return more(what, one - other, unit, note=says(note, one, other), **how)


def equal(what: Words, numbers: Numbers, unit: str = "", *, margin, **how) -> Rule:
    """The claim that the numbers' mean lies within ``margin`` of 0."""
    return more(what, numbers, unit, "equal", margin=margin, **how)


def counted(what: Words, holds: Numbers, chance: float = 0.5, **how) -> Rule:
    """The claim that something holds in a larger share of the seeds than ``chance``.

    ``holds`` is one yes or no a seed, a comparison of ``Numbers``: ``accuracy < 50``; of a value
    that is missing, a no. (k of n layers of one network are one number, not n.)
    """
    note = how.pop("note", says("{:.0f} of {} seeds", lift(sum)(holds), lift(len)(holds)))
    return more(what, holds, "share of seeds", kind="count", chance=chance, note=note, **how)


def discordant(what: Words, one: Numbers, other: Numbers) -> Rule:
    """The claim that something holds in the arm ``one`` and not in ``other`` more than the reverse.

    Of paired seeds those count in which the arms differ, against 1/2: the exact McNemar test.
    """
    apart = lift(lambda a, b: a[a.astype(bool) != b.astype(bool)].astype(bool))(one, other)
    note = says("the arms differ in {} of {} seeds", lift(len)(apart), lift(len)(one))
    return counted(what, apart, note=note)


def rises(what: Words, course: Numbers, least_rho=None, least=5, **how) -> Rule:
    """The claim that a course rises over its grid of ``least`` places or more (``-course``: falls).

    Spearman's rho with the places, one a seed, is above 0; with ``least_rho`` ("grows
    steadily": 0.9) more than half of the seeds have at least that rho.
    """
    rho = trend(course, least, f"a trend needs {least} places or more")
    if least_rho is None:
        return more(what, rho, "rho", kind="trend", **how)
    return counted(f"{what}: rho of {least_rho:g} or more", rho >= least_rho - 1e-9, **how)


def at_place(what: Words, numbers: Numbers, unit: str, resolution, **how) -> Rule:
    """The claim that a place on a grid lies above 0, told to ``resolution``: half a grid step."""
    return more(what, numbers, unit, resolution=resolution, **how)


def fact(what: Words, value, tolerance: float | None = None, unit: str = "", **how) -> Rule:
    """A number without chance in it (a count of parameters, an identity, a schedule's shape).

    ``value``, which may be ``Numbers``, is 0 within the tolerance; without one it is above 0.
    """
    claim, margin = ("positive", 0.0) if tolerance is None else ("equal", tolerance + 1e-12)
    return more(what, value, unit, claim, kind="fact", margin=margin, **how)


def matters(printed: float | None = None) -> Callable[[pd.DataFrame], float]:
    """The size, in points, below which a difference of accuracies would not matter to a reader:
    the smallest of half a point, a tenth of the dense networks' test error and a third of the
    ``printed`` effect, and at least a tenth of a point."""

    def margin(table):
        ends = dense(final_rows(table)).get("test_accuracy", pd.Series(dtype=float))
        least = [MATCH, 10 * (1 - ends.mean()), abs(printed) / 3 if printed else np.nan]
        return max(LEAST, np.nanmin(least))

    return margin


def name(solution: str) -> str:
    """The paper's name of a solution: sol_f is Sol-F."""
    return solution.replace("_", "-").title()


def in_nats(measure: str) -> bool:
    """Whether a measure is a loss or an entropy, in nats; else it is a share, told in points."""
    return measure.endswith(("_loss", "_entropy"))


def gap(measure: str, more_of: str, less_of: str, how: str = "final") -> Numbers:
    """One solution minus another, in points or nats."""
    scale = 1.0 if in_nats(measure) else 100.0
    return scale * (pick(measure, how, solution=more_of) - pick(measure, how, solution=less_of))


def above(measure: str, more_of: str, less_of: str, how="final", label="", printed=None) -> Rule:
    """The claim that one solution is above another in ``measure``, the paper by ``printed``."""
    what = label or f"{measure}: {name(more_of)} - {name(less_of)}"
    unit, margin = ("nats", 0.0) if in_nats(measure) else ("points", matters(printed))
    return more(what, gap(measure, more_of, less_of, how), unit, margin=margin)


def chain(measure: str, *solutions: str, how: str = "final", label: str = "") -> Rule:
    """The claim that each solution is above the next one."""
    label = label or (measure if how == "final" else f"{how} {measure}")
    pairs = pairwise(solutions)
    return [above(measure, a, b, how, f"{label}: {name(a)} - {name(b)}") for a, b in pairs]


def ratio(what: str, numerator: Numbers, denominator: Numbers, times: float = 1.0, **how) -> Rule:
    """The claim that one is over ``times`` the other, on the logarithm of their quotient."""
    size = "" if times == 1 else f" - ln {times:g}"
    return more(f"ln({what}){size}", ln(numerator / denominator) - np.log(times), "ln", **how)


def each(column: str, rule: Rule, places=sparsities, label=" at {:g}") -> Rule:
    """The rule on the part of the table at each place along ``column``.

    ``places`` is a list, or gives one of the table (and may raise ``NotHere``). The label, a format
    or a function of the place, stands where each row's words hold ``{column}``, else behind them.
    """

    def along(table):
        for place in of(places, table):
            here = label(place) if callable(label) else label.format(place)
            blank = f"{{{column}}}"
            for effect in rows(rule, part(table, **{column: place})):
                words = effect.what if blank in effect.what else effect.what + blank
                yield replace(effect, what=words.replace(blank, here))

    return along


def along(course: Numbers, rule: Callable[[float, Numbers], Rule]) -> Rule:
    """A rule for each place of a course: ``rule(place, numbers there)``."""
    return lambda table: [rule(place, held(found)) for place, found in course(table).items()]


def needs(check: Callable[[pd.DataFrame], bool], otherwise: Words) -> Condition:
    """The condition that ``check`` holds for the table."""

    def condition(table):
        if not check(table):
            raise NotHere(of(otherwise, table))
        return table

    return condition


def only(chosen: Callable[[pd.DataFrame], pd.Series], otherwise: Words) -> Condition:
    """The condition that some rows are ``chosen``; they are what the rule sees."""
    some = needs(lambda table: chosen(table).any(), otherwise)
    return lambda table: some(table)[chosen]


def where(check: Callable, otherwise: str, column: str = "sparsity", among=sparsities):
    """The places along ``column`` at which ``check`` holds for the part of the table: a function of
    the table, for ``each``; it raises ``NotHere`` where there is none."""

    def places(table):
        found = [p for p in of(among, table) if check(part(table, **{column: p}))]
        if not found:
            raise NotHere(otherwise)
        return found

    return places


def is_own(table: pd.DataFrame, dataset: str, network: str) -> bool:
    """Whether the table is of this data and network alone."""
    return set(table["dataset"]) == {dataset} and set(table["network"]) == {network}


def own(dataset: str, network: str) -> Condition:
    """The condition that a printed number needs: the paper's own data and network."""
    otherwise = f"a number of {dataset} with {network}: preset paper can test it"
    return needs(lambda table: is_own(table, dataset, network), otherwise)


def given(*steps) -> Rule:
    """``given(condition, ..., rule)``: the rule, on what the conditions leave of the table in turn.

    The first that raises ``NotHere`` says why the claim is not tested.
    """
    *conditions, rule = steps
    left = functools.partial(
        functools.reduce, lambda table, condition: condition(table), conditions
    )
    return lambda table: rows(rule, left(table))


def if_any(condition: Condition, rule: Rule) -> Rule:
    """The rule where the condition holds, and no row elsewhere."""

    def optional(table):
        try:
            seen = condition(table)
        except NotHere:
            return []
        return rows(rule, seen)

    return optional
