"""The types of the fields of specifications, and the error that a person reads.

A field stands once, in the part that it belongs to (``parts``, ``run``): its default, type, check
and documentation. Text from a command line is understood: "0.9" is a number, "[1, 2]" a list.
"""

import hashlib
import json
import pkgutil
from collections.abc import Callable, Collection
from typing import Annotated, Any

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PlainSerializer,
    ValidationError,
    model_validator,
)

from lib import registry

MOST = 2**31 - 1  # what counts and sizes may be at most
MOST_SEEDS = 10_000


class ParameterError(ValueError):
    """A parameter that cannot be used; the message names it, its value and what is allowed."""


class Spec(BaseModel):
    """A frozen, fully checked description. Unknown fields, NaN and infinities are refused."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", allow_inf_nan=False, use_attribute_docstrings=True
    )

    def contradictions(self) -> dict[str, bool]:
        """What would make fields contradict each other: the error's words, and whether it is so."""
        return {}

    @model_validator(mode="after")
    def _sound(self):
        for words, so in self.contradictions().items():
            if so:
                raise ValueError(words)
        return self


def holds(test: Callable[[Any], bool], words: str, kind=AfterValidator):
    """A check that says ``words`` of a value of which ``test`` is false."""

    def check(value):
        if test(value):
            return value
        raise ValueError(words)

    return kind(check)


def among(names: Collection[str] | str) -> BeforeValidator:
    """Text among ``names``, which may grow: what a notebook registers is known from then on.

    ``"module:NAME"`` are those that a module holds. It is imported when a value is checked: that
    may take seconds, torch's, and a mistyped parameter is to be told before.
    """

    def check(value):
        known = pkgutil.resolve_name(names) if isinstance(names, str) else names
        if isinstance(value, str) and value in known:
            return value
        raise ValueError(f"allowed are {', '.join(known)}")

    return BeforeValidator(check)


def _parsed(value):
    """papermill passes lists as text: "[1, 2]" means the list."""
    if isinstance(value, str) and value.strip()[:1] in ("[", "("):
        try:
            return json.loads(value.strip().replace("(", "[").replace(")", "]"))
        except (json.JSONDecodeError, RecursionError) as error:
            raise ValueError(f"this is no list ({error})") from error
    return value


def _listed(value):
    value = _parsed(value)
    single = isinstance(value, (int, float, str)) and not isinstance(value, bool)
    return [value] if single else value


def _seeds(value):
    """A number n means the seeds 0 to n-1; a list means exactly these."""
    value = _parsed(value)
    if isinstance(value, (list, tuple)):
        return value
    if str(value).strip().isdecimal() and 1 <= int(value) <= MOST_SEEDS:
        return list(range(int(value)))
    raise ValueError(
        f"give a number of seeds (3 means 0, 1, 2), at least 1 and at most {MOST_SEEDS:,}, or a "
        "list of seeds"
    )


# True and False count as 1 and 0 in Python, but nobody means a number by them
Number = holds(lambda value: not isinstance(value, bool), "it should be a number", BeforeValidator)
Listed = BeforeValidator(_listed)
Once = holds(lambda values: len(set(values)) == len(values), "each value may stand once")
Rising = holds(
    lambda values: list(values) == sorted(set(values)),
    "these optimiser steps must rise, each may stand once",
)
Count = Annotated[int, Number, Field(ge=1, le=MOST)]
Whole = Annotated[int, Number, Field(ge=0, le=MOST)]
Epochs = Annotated[int, Number, Field(ge=0, le=1_000_000)]
# an epoch's end, 2, or a moment within the next one, 2.25; a whole number stays one in the key
Moment = Annotated[
    float, Number, Field(ge=0, le=1_000_000), PlainSerializer(lambda value: value),
    AfterValidator(lambda value: value if value % 1 else int(value)),
]  # fmt: skip
Positive = Annotated[float, Number, Field(gt=0)]
NonNegative = Annotated[float, Number, Field(ge=0)]
Share = Annotated[float, Number, Field(ge=0, le=1)]
Sparsity = Annotated[float, Number, Field(ge=0, lt=1)]
Widths = Annotated[tuple[Annotated[int, Number, Field(ge=1, le=1_000_000)], ...], Listed]
Seeds = Annotated[tuple[Whole, ...], BeforeValidator(_seeds), Field(min_length=1), Once]
Monitors = Annotated[tuple[Annotated[str, among(registry.monitor)], ...], Listed, Once]
Snapshots = Annotated[tuple[Count, ...], Listed, Rising]


def explain(error: ValidationError) -> str:
    """A validation error in one line per parameter: its name, its value, what is allowed."""
    lines = []
    for problem in error.errors():
        where = "".join(
            f"[{part}]" if isinstance(part, int) else f".{part}" for part in problem["loc"]
        ).removeprefix(".")
        message = problem["msg"].removeprefix("Value error, ").replace("Input should", "it should")
        lines.append(f"{where} is {problem['input']!r}: {message}" if where else message)
    return "; ".join(dict.fromkeys(lines))


def key_of(specification: dict) -> str:
    """The 40 hex digits by which every store knows a run of this ``specification``."""
    text = json.dumps(specification, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()[:40]
