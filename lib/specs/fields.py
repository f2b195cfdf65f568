"""The fields of specifications: their types, their checks, and the error that a person reads."""

import json
from typing import Annotated, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from lib import registry
from lib.data import sets
from lib.masks import dynamic, masks
from lib.models import initializers, networks


def _number(value):
    """True and False count as 1 and 0 in Python, but nobody means a number by them."""
    if isinstance(value, bool):
        raise ValueError("it should be a number")
    return value


Count = Annotated[int, BeforeValidator(_number), Field(ge=1)]
Epochs = Annotated[int, BeforeValidator(_number), Field(ge=0)]
Positive = Annotated[float, Field(gt=0)]
NonNegative = Annotated[float, Field(ge=0)]
Sparsity = Annotated[float, Field(ge=0, lt=1)]
Share = Annotated[float, Field(ge=0, le=1)]
Smoothing = Annotated[float, Field(ge=0, lt=1)]
Schedule = Literal["constant", "step", "exponential", "cosine", "linear"]
FloorReading = Literal["scale", "restart", "each-step"]
MomentumAfter = Literal["zero", "kept"]
KeepDense = tuple[Literal["first", "last"], ...]


class ParameterError(ValueError):
    """A parameter that cannot be used; the message names it, its value and what is allowed."""


class Spec(BaseModel):
    """A frozen, fully checked description. Unknown fields, NaN and infinities are refused."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


def _one_of(names):
    """Text among ``names``, which may grow: a criterion that a notebook registers is known from then on."""

    def check(value):
        if value not in names:
            raise ValueError(f"allowed are {', '.join(names)}")
        return value

    return Annotated[str, BeforeValidator(check)]


def _parsed(value):
    """papermill passes lists as text: "[1, 2]" means the list."""
    if isinstance(value, str) and value.strip()[:1] in ("[", "("):
        try:
            return json.loads(value.strip().replace("(", "[").replace(")", "]"))
        except json.JSONDecodeError as error:
            raise ValueError(f"this is no list ({error})") from error
    return value


def _listed(value):
    value = _parsed(value)
    return (
        [value] if isinstance(value, (int, float, str)) and not isinstance(value, bool) else value
    )


def _seeds(value):
    """A number n means the seeds 0 to n-1; a list means exactly these."""
    value = _parsed(value)
    if isinstance(value, str) and value.strip().isdigit():
        value = int(value)
    if isinstance(value, int) and not isinstance(value, bool):
        if value < 1:
            raise ValueError("a number of seeds must be at least 1")
        return list(range(value))
    if not isinstance(value, (list, tuple)):
        raise ValueError("give a number of seeds (3 means 0, 1, 2) or a list of seeds")
    if any(a == b for i, a in enumerate(value) for b in value[:i]):
        raise ValueError("each seed may stand once: a seed twice is no second sample")
    return value


Dataset, NetworkName = _one_of(sets.NAMES), _one_of(networks.NAMES)
Normalisation, Noise, Activation = (
    _one_of(sets.NORMALISATIONS),
    _one_of(sets.NOISES),
    _one_of(tuple(networks.ACTIVATIONS)),
)
Pooling = Literal["max", "avg"]
Criterion, Scope, Scheme = (
    _one_of(registry.criterion),
    _one_of(masks.SCOPES),
    _one_of(initializers.SCHEMES),
)
Signal = _one_of(registry.monitor)
MaskUpdateRule, DropSchedule = _one_of(registry.mask_update), _one_of(dynamic.SCHEDULES)
Form, Perturbation, MaskKind = (
    _one_of(initializers.FORMS),
    _one_of(initializers.PERTURBATIONS),
    _one_of(masks.KINDS),
)
Seeds = Annotated[tuple[Epochs, ...], BeforeValidator(_seeds), Field(min_length=1)]
Listed = BeforeValidator(_listed)


def explain(error: ValidationError) -> str:
    """A validation error in one line per parameter: its name, its value, what is allowed."""
    lines = []
    for problem in error.errors():
        where = "".join(
            f"[{p}]" if isinstance(p, int) else ("." if i else "") + str(p)
            for i, p in enumerate(problem["loc"])
        )
        message = problem["msg"].removeprefix("Value error, ").replace("Input should", "it should")
        lines.append(f"{where} is {problem['input']!r}: {message}" if where else message)
    return "; ".join(dict.fromkeys(lines))
