"""Frozen specifications of runs, and the key by which the store knows them.

A ``Run`` is one network trained by one specification. Sol-F and Sol-S hold their Sol-D as ``parent``. Its ``key`` is
a hash of everything that can change the result: data and their fingerprint, network, pruning, recipe, seed,
what is measured and kept, and the parent's key. Sol-P is a dense run pruned on its way: it begins at an epoch of its parent.
"""

import functools
import hashlib
import json
from typing import Literal

from pydantic import Field, ValidationError, model_validator

from lib.models import initializers
from lib.specs.fields import (
    Count,
    Epochs,
    Form,
    ParameterError,
    Perturbation,
    Signal,
    Spec,
    explain,
)
from lib.specs.parts import Continuation, Data, Flow, MaskUpdate, Network, Pruning, Recipe, Setup

FORMAT = 1  # raised when the meaning of a specification changes, so that older runs are not mistaken for it
# Fields that came later stand in a specification only where they are used: the keys of earlier runs stay.
LATER = {
    "continuation": None, "watch": [], "watch_examples": None, "keep_velocity": False, "score_examples": None, "decay": "all",
    "mask_update": None, "form": "masked", "rewind": 0, "flow": None, "replica": 0, "fresh": False, "perturbed": None,
    "snapshots": [], "image_size": None, "label_smoothing": 0.0, "micro_batch": None,
}  # fmt: skip


def _without_later(content):
    """``content`` without the later fields that are at their default, in the parts too."""
    content = {
        name: _without_later(value) if isinstance(value, dict) else value
        for name, value in content.items()
    }
    return {
        name: value for name, value in content.items() if name not in LATER or value != LATER[name]
    }


def key_of(specification: dict) -> str:
    """The 40 hex digits by which every store knows a run of this ``specification``."""
    text = json.dumps(specification, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()[:40]


class Run(Spec):
    """One network, trained once; ``seed`` derives its every draw. ``solution`` is

    ``sol_d``  dense, ``sol_f`` finetuned, ``sol_s`` from scratch (price study), ``sol_p`` pruned on its way (early-pruning study),
    ``sol_g``  pruned gradually while training, and ``sol_t`` a ticket: its mask on its own start (gradient-flow study).

    The epochs of Sol-P are counted on its parent's clock: it begins at ``continuation.at`` and ends with the recipe.
    """

    solution: Literal["sol_d", "sol_f", "sol_s", "sol_p", "sol_g", "sol_t"]
    seed: int = Field(ge=0)
    data: Data
    network: Network
    recipe: Recipe
    pruning: Pruning | None = None
    parent: "Run | None" = None
    measure_every: Count = 1
    keep: tuple[Epochs, ...] = ()
    keep_best: bool = False
    keep_velocity: bool = False  # at the kept epochs, for those who go on from there with it
    watch: tuple[
        Signal, ...
    ] = ()  # signals taken at every epoch while training, from so many examples: see lib.training.monitors
    watch_examples: Count | None = None
    continuation: Continuation | None = None
    mask_update: MaskUpdate | None = None
    form: Form = (
        "masked"  # how fresh weights take account of the mask: see lib.models.initializers.sparse
    )
    rewind: Epochs = 0  # the epoch to whose weights a ticket goes back
    flow: Flow | None = None
    snapshots: tuple[
        Count, ...
    ] = ()  # optimiser steps whose states are kept, before and after the mask update on them: see lib.training.mask_updates
    replica: int = Field(
        0, ge=0
    )  # replicas of one specification differ in their data order (and crops) alone
    fresh: bool = False  # this replica's fresh weights are its own draw too
    perturbed: Perturbation | None = (
        None  # what is done to a ticket's starting weights: see lib.models.initializers.perturbed
    )
    setup: Setup = Field(exclude=True, repr=False)

    @model_validator(mode="after")
    def _whole(self):
        first = self.solution in ("sol_d", "sol_g")
        if first != (self.parent is None) or (self.solution == "sol_d") != (self.pruning is None):
            raise ValueError(
                "a dense run has neither parent nor pruning; a sparse run has both, a gradually pruned one no parent"
            )
        method = self.mask_update and self.mask_update.method
        if (self.solution == "sol_g") != (method == "gradual"):
            raise ValueError(
                f"mask_update is {method!r} in a {self.solution!r}: a gradually pruned run, 'sol_g', and no other has 'gradual'"
            )
        if method and self.solution in ("sol_d", "sol_p"):
            raise ValueError(
                f"mask_update is {method!r} in a {self.solution!r}: there is no mask from its start on that could change"
            )
        if (self.solution == "sol_p") != (self.continuation is not None):
            raise ValueError("a run pruned on its way, and no other, has a continuation")
        if list(self.snapshots) != sorted(set(self.snapshots)):
            raise ValueError(
                f"snapshots is {self.snapshots}: these optimiser steps must rise, each may stand once"
            )
        if any(epoch > self.recipe.epochs for epoch in self.keep):
            raise ValueError(f"keep is {self.keep}: the run has only {self.recipe.epochs} epochs")
        return self

    @classmethod
    def dense(
        cls, setup: Setup, *, seed: int, keep: tuple[int, ...] = (), snapshots: tuple[int, ...] = ()
    ) -> "Run":
        """Init-D to Sol-D. Weights are kept at the epochs ``keep``, for measures, or to prune there (``continued``).

        ``snapshots`` are optimiser steps (from 1) after which the state is kept. Raises ``ValueError`` where they do not rise.
        """
        return cls(
            solution="sol_d", seed=seed, data=setup.data, network=setup.network, recipe=setup.dense, keep=keep, snapshots=snapshots,
            flow=setup.flow, measure_every=setup.measure_every, keep_best=setup.pruning.source == "best-test", setup=setup,
            keep_velocity=bool(setup.continuation and setup.continuation.momentum == "kept"),
            watch=setup.watch, watch_examples=setup.watch_examples if setup.watch else None,
        )  # fmt: skip

    @property
    def begin(self) -> int:
        """The epoch at which it begins: 0, but for a run pruned on its way."""
        return self.continuation.at if self.continuation else 0

    @property
    def length(self) -> int:
        """How many epochs it trains."""
        return self.recipe.epochs - self.begin

    @property
    def sparsity(self) -> float:
        """The sparsity asked for; 0 for a dense run."""
        return self.pruning.sparsity if self.pruning else 0.0

    @functools.cached_property
    def specification(self) -> dict:
        """Everything that can change the result, as plain JSON values; the parent stands by its key."""
        content = _without_later(self.model_dump(mode="json", exclude={"setup", "parent"}))
        return {**content, "parent": self.parent.key if self.parent else None, "format": FORMAT}

    @functools.cached_property
    def key(self) -> str:
        """40 hex digits: the name of this run in every store."""
        return key_of(self.specification)

    def __hash__(self):
        return hash(self.key)

    def __eq__(self, other):
        return isinstance(other, Run) and self.key == other.key


def _sparse(dense: Run, solution: str, sparsity: float, keep: tuple[int, ...], **more) -> Run:
    setup = dense.setup
    pruning = _at(setup.pruning, sparsity)
    if dense.solution == "sol_g" and pruning.sparsity != dense.sparsity:
        raise ParameterError(
            f"sparsity is {sparsity!r}: a run on the mask of a gradually pruned one has its sparsity, {dense.sparsity}"
        )
    return Run(
        solution=solution, seed=dense.seed, data=dense.data, network=dense.network, recipe=setup.sparse, pruning=pruning,
        parent=dense, flow=setup.flow, measure_every=setup.measure_every, keep=keep, setup=setup, **more,
    )  # fmt: skip


# Replicas: with ``replica`` 1, 2, ... the run of the same specification in other data orders, all from the same start. With ``fresh``
# each replica draws its fresh weights for itself too; replica 0 then is another run than replica 0 without.


def finetune(dense: Run, *, sparsity: float, keep: tuple[int, ...] = (), replica: int = 0) -> Run:
    """Init-F to Sol-F: Sol-D's surviving weights, trained on (price study, Figure 2)."""
    return _sparse(dense, "sol_f", sparsity, keep, replica=replica)


def scratch(
    dense: Run,
    *,
    sparsity: float,
    keep: tuple[int, ...] = (),
    form: str = "masked",
    mask_update: MaskUpdate | None = None,
    snapshots: tuple[int, ...] = (),
    replica: int = 0,
    fresh: bool = False,
) -> Run:
    """Init-S to Sol-S: the same mask on fresh weights (price study, Figure 2).

    ``form`` says how those take account of the mask (``lib.models.initializers.sparse``); with a ``mask_update`` the mask changes while training.
    Of a gradually pruned run it is that run's own mask. ``snapshots`` as in ``Run.dense``; on a step at which the mask changes the state
    is kept twice, before and after the change. Raises ``ParameterError`` for an unknown form.
    """
    if form not in initializers.FORMS:
        raise ParameterError(f"form is {form!r}: allowed are {', '.join(initializers.FORMS)}")
    if form == "neuron" and dense.network.init == "he-fan-out":
        raise ParameterError(
            "form is 'neuron': it has no fan for init 'he-fan-out'; allowed are masked and layer, or another init"
        )
    return _sparse(
        dense,
        "sol_s",
        sparsity,
        keep,
        form=form,
        mask_update=mask_update,
        snapshots=snapshots,
        replica=replica,
        fresh=fresh,
    )


def gradually_pruned(
    setup: Setup,
    *,
    seed: int,
    sparsity: float,
    mask_update: MaskUpdate,
    keep: tuple[int, ...] = (),
    snapshots: tuple[int, ...] = (),
    replica: int = 0,
    fresh: bool = False,
) -> Run:
    """Sol-G: a dense start pruned while it trains (Zhu & Gupta 2017; the gradient-flow study's "pruning solution").

    ``snapshots`` as in ``scratch``.
    """
    pruning = _at(setup.pruning, sparsity)
    return Run(
        solution="sol_g", seed=seed, data=setup.data, network=setup.network, recipe=setup.dense, pruning=pruning, mask_update=mask_update,
        flow=setup.flow, measure_every=setup.measure_every, keep=keep, snapshots=snapshots, replica=replica, fresh=fresh, setup=setup,
    )  # fmt: skip


def ticket(pruned: Run, *, rewind: int = 0, replica: int = 0, perturbed: str | None = None) -> Run:
    """Sol-T: the mask of a gradually pruned run on its own start, or on its weights at the epoch ``rewind`` (which it must keep).

    ``perturbed`` changes these starting weights (``lib.models.initializers.perturbed``). Raises ``ParameterError`` for an unknown perturbation.
    """
    if pruned.solution != "sol_g":
        raise ParameterError(
            f"a ticket has the mask of a gradually pruned run, 'sol_g', and not of one that is {pruned.solution!r}"
        )
    if rewind and rewind not in pruned.keep:
        raise ParameterError(
            f"rewind is {rewind}: the pruned run keeps its weights at {list(pruned.keep)} only; add it to its `keep`"
        )
    if perturbed is not None and perturbed not in initializers.PERTURBATIONS:
        raise ParameterError(
            f"perturbed is {perturbed!r}: allowed are {', '.join(initializers.PERTURBATIONS)}"
        )
    return _sparse(
        pruned, "sol_t", pruned.sparsity, (), rewind=rewind, replica=replica, perturbed=perturbed
    )


def _at(pruning, sparsity):
    try:
        return Pruning(**{**pruning.model_dump(), "sparsity": sparsity})
    except ValidationError as error:
        raise ParameterError(explain(error)) from None


def continued(dense: Run, *, at: int, sparsity: float) -> Run:
    """Sol-P: the dense run pruned at the end of epoch ``at``, and trained on to its last epoch on its own schedule and data order.

    Prune(θ_{0→t}, r)_{t→T} of the early-pruning study (section 3); the setup's ``continuation`` says how the rate and the
    momentum go on. ``at=0`` trains the dense run's masked start, ``at`` the last epoch is one-shot pruning without training.
    It is measured at its end alone (and before its first step, where ``at`` is 0). Raises ``ParameterError`` for an epoch beyond the
    dense run's last or one that it does not keep.
    """
    setup, last = dense.setup, dense.recipe.epochs
    if dense.solution == "sol_g":
        raise ParameterError(
            "what is pruned on its way is a dense run, 'sol_d', and not a gradually pruned one, 'sol_g'"
        )
    if not isinstance(at, int) or isinstance(at, bool) or not 0 <= at <= last:
        raise ParameterError(
            f"the pruning epoch is {at!r}: it must be a whole number from 0 to {last}, the dense run's last epoch"
        )
    if at not in (*dense.keep, last) or (
        at == last and dense.keep_velocity and last not in dense.keep
    ):
        raise ParameterError(
            f"the pruning epoch is {at}: the dense run keeps its weights at {list(dense.keep)} only; add it to its `keep`"
        )
    pruning = _at(setup.pruning, sparsity)
    return Run(
        solution="sol_p", seed=dense.seed, data=dense.data, network=dense.network, recipe=setup.dense, pruning=pruning, parent=dense,
        measure_every=max(last, 1), setup=setup,
        continuation=(setup.continuation or Continuation(at=0)).model_copy(update={"at": at}),
    )  # fmt: skip
