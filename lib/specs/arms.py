"""What tells an arm from plain training: which examples a step sees, what is added to its loss, and
whose signs, magnitudes and units it starts with.

>>> fisher_penalty(-0.01, until=0.1).name
'fisher_batch'
"""

from typing import Annotated, Literal

from pydantic import BeforeValidator

from lib import registry
from lib.specs import fields
from lib.specs.fields import Spec, among

GUIDED = {"reducible_fisher", "reducible_fisher_raw", "path_oracle"}  # rules that need a guide


class Selection(Spec):
    """Which examples a step sees: a rule of ``lib.training.selection`` chooses them from a pool."""

    name: Annotated[str, among(registry.selection)]
    pool: fields.Count = 10
    """So many batches of examples, drawn anew for each step, of which the rule chooses one."""
    until: fields.Share = 0.1
    """Share of training after which a rule of two phases takes ordinary batches."""
    labels: Literal["sampled", "given"] = "sampled"
    """Of a pool's Fisher traces: the network's own (price study, equation 2.3), or the data's."""
    holdout: fields.Whole = 0
    """So many of the first training examples are in no pool."""


class Objective(Spec):
    """What is added to the loss, or done to it: see ``lib.training.objectives``.

    ``jacobian`` is the mean ‖∂ logits / ∂ x‖²_F by one random vector an example, as in the price
    study's code (Hoffman et al. 2019), ``jacobian_exact`` without; ``sam`` takes the gradient at
    the worst weights within its radius (Foret et al. 2021); for the others see ``fisher_penalty``.
    """

    name: Annotated[str, among(registry.objective)]
    weight: Annotated[float, fields.Number]
    """The factor of a penalty; the radius of SAM."""
    until: fields.Share = 1.0
    """Share of training after which it is off."""
    fade: bool = False
    """Whether the weight falls linearly to 0 until then, or stays and drops."""

    def at(self, progress: float) -> float:
        """The weight after this share of training.

        >>> Objective(name="fisher_batch", weight=1.0, until=0.5, fade=True).at(0.25)
        0.5
        """
        left = 1 - progress / self.until if self.until else 0.0
        return self.weight * (left if self.fade else 1.0) if left > 0 else 0.0


Origin = Literal["own", "init-f", "init-d"]


class Start(Spec):
    """Which properties of others a fresh start has; the rest is its own draw.

    ``init-f`` are the parent's weights under the mask, ``init-d`` is where the parent began.
    """

    signs: Origin = "own"
    magnitudes: Origin = "own"
    units: Literal["own", "matched"] = "own"
    """The draw's hidden units in the order that fits Init-F best (``lib.models.matching``)."""
    mask: Literal["own", "matched", "random"] = "own"
    """The mask's hidden units in the order in which the parent fits the guide best, or in any; the
    start is then the guide's own draw (Adnan et al. 2025)."""


def named(value):
    """A selection by its name alone; ``uniform`` is plain training."""
    if value == "uniform":
        return None
    return {"name": value} if isinstance(value, str) else value


def clashes(run) -> dict[str, bool]:
    """What of a run's arm cannot be, in words, and whether it is so."""
    chosen, start = run.selection, run.start
    rule, others = chosen and chosen.name, [start.signs, start.magnitudes, start.units]
    guided = rule in GUIDED or start.mask != "own"
    plain = run.recipe.precision == "float32" and not run.recipe.micro_batch
    return {
        f"start is of a {run.solution!r}: only fresh weights under a mask, 'sol_s', take from "
        "others": run.solution != "sol_s" and start != Start(),
        f"start.mask is {start.mask!r}: signs, magnitudes and units must then be its own": (
            start.mask != "own" and others != ["own"] * 3
        ),
        f"guide is missing: selection {rule!r}, start.mask {start.mask!r} need the run that they "
        "look at": guided and run.guide is None,
        "guide is given, and neither a selection nor start.mask looks at it": (
            run.guide is not None and not guided and rule is None
        ),
        f"selection is {rule!r}: it looks at the parent, and there is none": (
            rule == "hard_disagreeing" and run.parent is None
        ),
        f"selection is {rule!r}: a pool is drawn from a set in memory, and a folder is none": (
            rule is not None and run.data.name == "folder"
        ),
        "objective is for whole batches in float32: no micro_batch, no bfloat16": (
            run.objective is not None and not plain
        ),
    }


Selected = Annotated[Selection | None, BeforeValidator(named)]


def fisher_penalty(
    weight: float, *, until: float = 1.0, fade: bool = False, reading: str = "batch"
) -> Objective:
    """Loss + ``weight`` times Tr(F), on until the share ``until`` of training, then off.

    A negative weight rewards Fisher information (price study, section 4.1), a positive one seeks
    flat minima (its poster). The ``reading`` is ``"batch"``, ‖mean gradient with sampled labels‖²
    (Jastrzebski et al. 2021), or ``"examples"``, the mean of each example's own norm.
    """
    return Objective(name=f"fisher_{reading}", weight=weight, until=until, fade=fade)
