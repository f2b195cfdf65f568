"""Frozen specifications of runs, and the key by which the store knows them.

A ``Run`` is one network trained by one specification. Its ``key`` is a hash of everything that can
change the result and differs from its default: data and their fingerprint, network, pruning,
recipe, seed, what is measured and kept, the source of a user's functions, and the parent's key.

>>> from lib.specs.parts import *
>>> recipe = Recipe(epochs=5, batch_size=32, lr=0.1)
>>> data, mlp = Data(name="digits", fingerprint="0123"), Network(name="mlp")
>>> half = Pruning(sparsity=0.5)
>>> setup = Setup(data=data, network=mlp, dense=recipe, sparse=recipe, pruning=half)
>>> dense = Run.dense(setup, seed=0, keep=(2,))
>>> sol_f, sol_s = finetune(dense, sparsity=0.9), scratch(dense, sparsity=0.9)
>>> sol_f.parent == sol_s.parent == dense, sol_f.sparsity, len({sol_f.key, sol_s.key})
(True, 0.9, 2)
>>> continued(dense, at=2, sparsity=0.9).length
3
"""

import functools
from typing import Annotated, Any, Literal

from pydantic import PrivateAttr, ValidationError

from lib import registry
from lib.specs import arms, fields
from lib.specs.fields import ParameterError, among, explain, key_of
from lib.specs.parts import Continuation, MaskUpdate, Pruning, Recipe, Setup, Shared

FORMAT = 2  # raised when the meaning of a specification changes: older runs are not mistaken for it


class Run(Shared):
    """One network, trained once; ``seed`` derives its every draw. ``solution`` is

    ``sol_d`` dense, ``sol_f`` finetuned, ``sol_s`` from scratch (price study), ``sol_p`` pruned on
    its way (early-pruning study; its epochs are its parent's, from ``continuation.at`` on),
    ``sol_g`` pruned gradually while training, ``sol_t`` a ticket: its mask on its own start (flow).
    """

    solution: Literal["sol_d", "sol_f", "sol_s", "sol_p", "sol_g", "sol_t"]
    seed: fields.Whole
    recipe: Recipe
    pruning: Pruning | None = None
    parent: "Run | None" = None
    keep: tuple[fields.Moment, ...] = ()
    """Epochs whose weights are kept; 2.25: at the step nearest to a quarter of the third."""
    keep_best: bool = False
    """Whether those of the best test accuracy are kept too."""
    keep_velocity: bool = False
    """At the kept epochs, for those who go on from there with it."""
    mask_update: MaskUpdate | None = None
    form: Annotated[str, among("lib.models.initializers:FORMS")] = "masked"
    """How fresh weights take account of the mask: see ``initializers.sparse``."""
    rewind: fields.Epochs = 0
    """The epoch to whose weights a ticket goes back."""
    snapshots: fields.Snapshots = ()
    """Steps whose states are kept, before and after the mask update on them."""
    replica: fields.Whole = 0
    """Replicas of one specification differ in their data order (and crops) alone."""
    fresh: bool = False
    """Whether this replica's fresh weights are its own draw too; so replica 0 is another run."""
    perturbed: Annotated[str, among("lib.models.initializers:PERTURBATIONS")] | None = None
    """What is done to a sparse run's starting weights: see ``initializers.perturbed``."""
    start: arms.Start = arms.Start()
    selection: arms.Selected = None
    objective: arms.Objective | None = None
    guide: "Run | None" = None
    """Another run that a selection or a start looks at."""
    _setup: Setup | None = PrivateAttr(None)
    _versions: dict[str, str] = PrivateAttr(default_factory=dict)

    def contradictions(self):
        mine, parent, last = self.solution, self.parent, self.recipe.epochs
        method = self.mask_update and self.mask_update.method
        kept = list(parent.keep) if parent else []
        gradual = parent is not None and parent.solution == "sol_g"
        of_parent = parent.sparsity if parent else 0.0
        at, needs_velocity = self.begin, parent is not None and parent.keep_velocity
        return {
            "a dense run has neither parent nor pruning; a sparse run has both, a gradually pruned "
            "one no parent": (mine in ("sol_d", "sol_g")) != (parent is None)
            or (mine == "sol_d") != (self.pruning is None),
            f"mask_update is {method!r} in a {mine!r}: a gradually pruned run, 'sol_g', and no "
            "other has 'gradual'": (mine == "sol_g") != (method == "gradual"),
            f"mask_update is {method!r} in a {mine!r}: there is no mask from its start on that "
            "could change": method is not None and mine in ("sol_d", "sol_p"),
            "a run pruned on its way, and no other, has a continuation": (mine == "sol_p")
            != (self.continuation is not None),
            f"keep is {self.keep}: the run has only {last} epochs": max((0, *self.keep)) > last,
            "form is 'neuron': it has no fan for init 'he-fan-out'; allowed are masked and layer, "
            "or another init": self.form == "neuron" and self.network.init == "he-fan-out",
            f"sparsity is {self.sparsity!r}: a run on the mask of a gradually pruned one has its "
            f"sparsity, {of_parent}": gradual and of_parent != self.sparsity,
            f"a ticket has the mask of a gradually pruned run, 'sol_g', and not of one that is "
            f"{parent and parent.solution!r}": mine == "sol_t" and not gradual,
            f"rewind is {self.rewind}: the pruned run keeps its weights at {kept} only; add it to "
            "its `keep`": self.rewind > 0 and gradual and self.rewind not in kept,
            "what is pruned on its way is a dense run, 'sol_d', and not a gradually pruned one, "
            "'sol_g'": mine == "sol_p" and gradual,
            f"the pruning epoch is {at}: it must be a number from 0 to {last}, the dense run's "
            "last epoch": at > last,
            f"the pruning epoch is {at}: the dense run keeps its weights at {kept} only; add it to "
            "its `keep`": mine == "sol_p" and at not in kept and (at != last or needs_velocity),
            **arms.clashes(self),
        }

    def model_post_init(self, context) -> None:
        """Take down the versions of a user's functions, as they are now."""
        self._versions = self._versions_now()

    @classmethod
    def dense(
        cls, setup: Setup, *, seed: int, keep: tuple[float, ...] = (),
        snapshots: tuple[int, ...] = (),
    ) -> "Run":  # fmt: skip
        """Init-D to Sol-D.

        Weights are kept at the epochs ``keep``, for measures, or to prune there (``continued``),
        and states at the optimiser steps ``snapshots`` (from 1). Raises ``ParameterError``, as do
        all that make runs, for what cannot be.
        """
        return _made(
            setup, solution="sol_d", recipe=setup.dense, seed=seed, keep=keep, snapshots=snapshots,
            keep_best=setup.pruning.source == "best-test",
            keep_velocity=getattr(setup.continuation, "momentum", "") == "kept",
            watch=setup.watch, watch_examples=setup.watch_examples if setup.watch else None,
            watch_every=setup.watch_every if setup.watch else None,
        )  # fmt: skip

    @property
    def setup(self) -> Setup:
        """The setup that made it, and by which others begin from it. It is no part of the run."""
        if self._setup is None:
            raise ParameterError("this run was made without a setup: give it one by `under`")
        return self._setup

    def under(self, setup: Setup) -> "Run":
        """The same run; what begins from it is trained by another ``setup``."""
        run = self.model_copy()
        run._setup = setup
        return run

    @property
    def begin(self) -> float:
        """The epoch at which it begins: 0, but for a run pruned on its way."""
        return self.continuation.at if self.continuation else 0

    @property
    def length(self) -> int:
        """How many epochs it trains, the first in part where it begins within one."""
        return self.recipe.epochs - int(self.begin)

    def clock(self, trained: int) -> float:
        """Where it stands in its recipe's epochs, after so many of its own."""
        return int(self.begin) + trained if trained else self.begin

    @property
    def sparsity(self) -> float:
        """The sparsity asked for; 0 for a dense run."""
        return self.pruning.sparsity if self.pruning else 0.0

    @functools.cached_property
    def specification(self) -> dict:
        """All that can change the result and is not at its default, as plain JSON values."""
        content = self.model_dump(mode="json", exclude_defaults=True, exclude={"parent", "guide"})
        more = {
            "parent": self.parent and self.parent.key, "guide": self.guide and self.guide.key,
            "versions": self._versions,
        }  # fmt: skip
        return {**content, **{name: v for name, v in more.items() if v}, "format": FORMAT}

    @functools.cached_property
    def key(self) -> str:
        """40 hex digits: the name of this run in every store."""
        return key_of(self.specification)

    def check_versions(self) -> None:
        """Raise ``ParameterError`` where a user's function was edited since the run was made."""
        edited = sorted(dict(self._versions.items() ^ self._versions_now().items()))
        if edited:
            raise ParameterError(
                f"{', '.join(edited)} was edited since this run was made: build the run again"
            )

    def _versions_now(self):
        """Of the user's own entries that it names. Data are known by their fingerprint."""
        named = [
            (registry.network, self.network.name),
            (registry.initializer, self.network.init),
            (registry.criterion, self.pruning.criterion if self.pruning else ""),
            (registry.mask_update, self.mask_update.method if self.mask_update else ""),
            (registry.selection, self.selection.name if self.selection else ""),
            (registry.objective, self.objective.name if self.objective else ""),
            *((registry.monitor, name) for name in self.watch),
        ]
        found = {f"{kind.kind} {name}": kind.version(name) for kind, name in named}
        return {name: version for name, version in found.items() if version}

    def __hash__(self):
        return hash(self.key)

    def __eq__(self, other):
        return isinstance(other, Run) and self.key == other.key


def _made(setup: Setup, sparsity: float | None = None, **given: Any) -> Run:
    """A run of ``setup``, which it keeps for those that begin from it."""
    shared = {name: getattr(setup, name) for name in ("data", "network", "flow", "measure_every")}
    if given["solution"] != "sol_d":
        shared["pruning"] = {**setup.pruning.model_dump(), "sparsity": sparsity}
    try:
        run = Run(**{**shared, **given})
    except ValidationError as error:
        raise ParameterError(explain(error)) from None
    run._setup = setup
    return run


def _sparse(dense: Run, **given: Any) -> Run:
    return _made(
        dense.setup,
        **{"recipe": dense.setup.sparse, "seed": dense.seed, "parent": dense, **given},
    )


def finetune(
    dense: Run, *, sparsity: float, keep: tuple[int, ...] = (), replica: int = 0, **arm: Any
) -> Run:
    """Init-F to Sol-F: Sol-D's surviving weights, trained on (price study, Figure 2).

    With ``replica`` 1, 2, ... the same in other data orders, all from the same start. ``arm``: see
    ``scratch``.
    """
    return _sparse(dense, solution="sol_f", sparsity=sparsity, keep=keep, replica=replica, **arm)


def scratch(
    dense: Run, *, sparsity: float, keep: tuple[int, ...] = (), form: str = "masked",
    mask_update: MaskUpdate | None = None, snapshots: tuple[int, ...] = (), replica: int = 0,
    fresh: bool = False, **arm: Any,
) -> Run:  # fmt: skip
    """Init-S to Sol-S: the same mask on fresh weights (price study, Figure 2).

    ``form`` says how those take account of the mask (``lib.models.initializers.sparse``); with a
    ``mask_update`` the mask changes while training. Of a gradually pruned run it is that run's own
    mask. On a step of ``snapshots`` at which the mask changes, the state is kept twice. A ``fresh``
    replica draws its fresh weights for itself too; replica 0 is then another run than without. An
    ``arm`` is told by the fields ``start``, ``perturbed``, ``selection`` (a name will do),
    ``objective`` and ``guide``: see ``lib.specs.arms``. So hard examples first, and Fisher
    information rewarded in the first tenth of training, are ``scratch(dense, sparsity=0.95,
    form="neuron", selection="hard_first", objective=fisher_penalty(-0.01, until=0.1))``.
    """
    return _sparse(
        dense, solution="sol_s", sparsity=sparsity, keep=keep, form=form, mask_update=mask_update,
        snapshots=snapshots, replica=replica, fresh=fresh, **arm,
    )  # fmt: skip


def gradually_pruned(
    setup: Setup, *, seed: int, sparsity: float, mask_update: MaskUpdate,
    keep: tuple[int, ...] = (), snapshots: tuple[int, ...] = (), replica: int = 0,
    fresh: bool = False,
) -> Run:  # fmt: skip
    """Sol-G: a dense start pruned while it trains (Zhu & Gupta 2017; the gradient-flow study)."""
    return _made(
        setup, solution="sol_g", sparsity=sparsity, recipe=setup.dense, seed=seed, keep=keep,
        mask_update=mask_update, snapshots=snapshots, replica=replica, fresh=fresh,
    )  # fmt: skip


def ticket(pruned: Run, *, rewind: int = 0, replica: int = 0, perturbed: str | None = None) -> Run:
    """Sol-T: the mask of a gradually pruned run on its own start.

    Or on its weights at the epoch ``rewind``, which it must keep; ``perturbed`` changes these
    starting weights (``lib.models.initializers.perturbed``).
    """
    return _sparse(
        pruned, solution="sol_t", sparsity=pruned.sparsity, rewind=rewind, replica=replica,
        perturbed=perturbed,
    )  # fmt: skip


def continued(dense: Run, *, at: float, sparsity: float) -> Run:
    """Sol-P: the dense run pruned at the end of epoch ``at``, and trained on to its last epoch.

    Prune(θ_{0→t}, r)_{t→T} of the early-pruning study (section 3), on the dense run's own schedule
    and data order; the setup's ``continuation`` says how the rate and the momentum go on. ``at=0``
    trains the dense run's masked start, ``at`` the last epoch is one-shot pruning without training;
    at 2.25 the dense run has taken a quarter of the third epoch's steps, and it takes the others.
    It is measured at its end alone (and before its first step, where ``at`` is 0).
    """
    recipe, goes_on = dense.setup.dense, dense.setup.continuation or Continuation(at=0)
    return _sparse(
        dense, solution="sol_p", sparsity=sparsity, recipe=recipe, flow=None,
        measure_every=max(recipe.epochs, 1), continuation={**goes_on.model_dump(), "at": at},
    )  # fmt: skip
