"""Settings of each figure at each scale: quick, desktop, paper; and the check of what is asked for.

A setting of runs is a field of ``lib.specs``, found by its name; ``Settings`` adds what figures
plan for themselves. ``presets.yaml`` of each study holds the values and where each comes from;
``settings`` puts a person's own over them, and refuses anything wrong before any work starts.
"""

import functools
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import Field, ValidationError, create_model

from lib import registry
from lib.specs import fields
from lib.specs.fields import Listed, Number, Once, ParameterError, Spec, among, explain
from lib.specs.parts import Continuation, Data, Flow, MaskUpdate, Network, Pruning, Recipe, Setup
from lib.specs.run import Run
from studies import choices
from studies.gap.plans import Asked

PRESETS = ("quick", "desktop", "paper")
MASKS = ("uniform", "bounded", "uneven", "even")  # random ones of flow_fig1_init
FURTHER = ("imagenet_resnet50", "imagenet_vgg16")  # where a figure has them

# A field is a setting by its own name, but for these; None: it is no setting.
_NAMES: dict[type[Spec], dict[str, str | None]] = {
    Data: {
        "name": "dataset", "train": "train_examples", "test": "test_examples", "fingerprint": None,
    },
    Network: {"name": "network"},
    Pruning: {"source": "prune_from"},
    Recipe: {},
    Continuation: {
        "at": None, "floor": "rate_floor", "reading": "floor_reading", "momentum": "momentum_after",
    },
    MaskUpdate: {
        "method": None, "start": None, "every": "update_every", "end": "update_end",
        "fraction": "drop_fraction", "drop": "drop_schedule", "gradient": "growth_gradient",
    },
    Flow: {"every": "flow_every", "examples": "flow_examples", "skip": None},
    Setup: dict.fromkeys(("data", "network", "dense", "sparse", "pruning", "continuation", "flow")),
}  # fmt: skip
# Values of one field that a figure lays side by side: a list, where it has them.
_LISTS: dict[str, tuple[type[Spec], str]] = {
    "sparsities": (Pruning, "sparsity"), "criteria": (Pruning, "criterion"),
    "scopes": (Pruning, "scope"), "prune_epochs": (Continuation, "at"),
    "networks": (Network, "name"), "inits": (Network, "init"), "forms": (Run, "form"),
    "schedules": (Recipe, "schedule"), "weight_decays": (Recipe, "weight_decay"),
    "update_intervals": (MaskUpdate, "every"), "drop_fractions": (MaskUpdate, "fraction"),
    "noises": (Data, "noise"),
}  # fmt: skip
# Settings of runs that not every figure has: the left one, named in its presets, brings the right.
_BRINGS = {
    "noise": {"noise_kind"}, "folder": {"image_size"}, "watch": {"watch_examples", "watch_every"},
    "sparse_epochs": {
        "sparse_lr", "sparse_milestones", "prune_from", "criterion", "score_examples",
    },
    "rate_floor": {"floor_reading", "momentum_after", "criterion", "score_examples"},
    "update_every": {"update_end", "drop_fraction", "drop_schedule", "growth_gradient", "held"},
    "flow_every": {"flow_examples", "held"}, "sparsity": set(),
}  # fmt: skip
_COMMON = {"preset", "plugin", "seeds", "device", "cluster", "runs_folder", "save_to"}


def _settings(part: type[Spec]) -> dict[str, str]:
    """The settings that are fields of a part of the specifications: name -> field."""
    named = {_NAMES[part].get(field, field): field for field in part.model_fields}
    return {name: field for name, field in named.items() if name}


def _kind(part: type[Spec], name: str) -> Any:
    field = part.model_fields[name]
    return Annotated[(field.annotation, *field.metadata)] if field.metadata else field.annotation


def _types() -> dict[str, Any]:
    """Type and default of every setting that specifications know."""
    found: dict[str, Any] = {}
    for part in _NAMES:
        for name, field in _settings(part).items():
            kind, of = _kind(part, field), part.model_fields[field]
            usual = of.get_default()  # undefined of what must be given
            if of.is_required() and (name in _BRINGS or part in (MaskUpdate, Flow)):
                kind, usual = kind | None, None
            found[name] = (kind, Field(usual, description=of.description))
    longer = Field(None, description="Of the sparse networks' training; None: as the dense one's.")
    for field in ("epochs", "lr", "milestones"):
        found[f"sparse_{field}"] = (_kind(Recipe, field) | None, longer)
    for name, (owner, field) in _LISTS.items():
        several: Any = tuple.__class_getitem__((_kind(owner, field), ...))
        says = Field(None, description=owner.model_fields[field].description)
        found[name] = (Annotated[several, Listed, Field(min_length=1), Once] | None, says)
    return found


_Perturbed = Annotated[
    tuple[Annotated[str, among("lib.models.initializers:PERTURBATIONS")], ...], Listed, Once
]
_Kinds = Annotated[tuple[Annotated[str, among(MASKS)], ...], Listed, Field(min_length=1), Once]
_Specified: Any = create_model("_Specified", __base__=Spec, **_types())


class Settings(_Specified, Asked):
    """Every setting that a figure can have. A figure uses its own; see ``settings``."""

    figure: str = ""
    preset: Annotated[str, among((*PRESETS, *FURTHER))] = "quick"
    plugin: str | None = None
    """A .py file that registers networks, data sets, criteria and so on."""
    seeds: fields.Seeds
    keep_epochs: Annotated[tuple[fields.Moment, ...], Listed] | None = None
    examples: fields.Count | None = None
    """Training examples that a quantity is measured on."""
    exact_examples: fields.Count | None = None
    probes: Annotated[int, Number, Field(ge=2, le=10_000)] | None = None
    """Random vectors that a spectrum is estimated with."""
    tuning_seeds: fields.Seeds | None = None
    prune_start: fields.Whole | None = None
    """The step at which gradual pruning begins."""
    prune_end: fields.Whole | None = None
    """The step at which it has the run's sparsity."""
    prune_every: fields.Count | None = None
    """Steps between two of its updates."""
    snapshots: Annotated[fields.Snapshots, Field(min_length=1)] | None = None
    around: Annotated[fields.Snapshots, Field(min_length=1)] | None = None
    """Steps whose mask update is looked at; each must be one."""
    settle: fields.Count | None = None
    masks_from: Literal["pruned", "random"] = "pruned"
    rewind: fields.Epochs = 0
    """The epoch to whose end a ticket's weights go back."""
    small_widths: Annotated[fields.Widths, Field(min_length=1)] | None = None
    """Hidden layers of a small dense network with as many parameters as a sparse one has live."""
    deep_widths: Annotated[fields.Widths, Field(min_length=1)] | None = None
    alphas: Annotated[tuple[fields.Share, ...], Listed, Field(min_length=1)] | None = None
    replicas: Annotated[int, Number, Field(ge=2, le=1000)] | None = None
    perturbations: _Perturbed | None = None
    input_shape: (
        Annotated[tuple[Annotated[int, Number, Field(ge=1, le=4096)], ...], Listed] | None
    ) = None
    mask_kinds: _Kinds | None = None
    longer: Annotated[int, Number, Field(ge=2, le=1000)] | None = None
    """Times the epochs, for one run the more."""
    device: str = "auto"
    cluster: str | None = None
    """Where runs are carried out: here, or as ``lib.runs.cluster`` says."""
    runs_folder: str | None = None
    """Where finished runs are kept."""
    save_to: str | None = None

    def kept(self, epochs: int) -> tuple[float, ...]:
        """What a run of so many epochs keeps: those of ``keep_epochs`` that it has, its last."""
        return tuple(sorted({e for e in self.keep_epochs or () if e < epochs} | {epochs}))

    def contradictions(self):
        setup_of(self, "unknown")  # the parts' own
        every, around = self.update_every or 1, list(self.around or ())
        apart = [step for step in around if step % every]
        late, slow = list(self.prune_epochs or ()), list(self.update_intervals or ())
        steps = self.epochs * -(-self.examples_there() // self.batch_size) if slow else 1
        return {
            f"dataset is 'folder': {self.figure} holds its images in memory; hand tensors over, as "
            "docs/extending.md does": self.dataset == "folder" and "folder" not in own(self.figure),
            f"prune_epochs is {late}: none may lie beyond epochs, which is {self.epochs}; give "
            "both": max(late, default=0) > self.epochs,
            f"rewind is {self.rewind}: a ticket cannot go back to an epoch beyond epochs, which is "
            f"{self.epochs}": self.rewind > self.epochs,
            f"around is {around}: no mask changes at {min(apart, default='')}; give multiples of "
            f"{every}": bool(apart),
            f"settle is {self.settle}: it must lie in 1 to {every - 1}, before the next mask "
            "update": bool(around and self.update_every) and not 1 <= (self.settle or 0) < every,
            f"update_intervals is {slow}: each must be less than the {steps} steps that "
            f"{self.epochs} epochs are": max(slow, default=0) >= steps,
        }

    def examples_there(self) -> int:
        """How many training examples there are; of a folder only reading it tells."""
        from lib.data import sets

        known = fields.MOST if self.dataset == "folder" else sets.size(self.dataset)
        return min(self.train_examples or known, known)


# What a person gives, by itself: wrong names and numbers are told before torch is imported.
_EACH: dict[str, Any] = {n: (_kind(Settings, n) | None, None) for n in Settings.model_fields}
Given: Any = create_model("Given", __base__=Spec, results_folder=(str | None, None), **_EACH)


def checked(**given) -> Spec:
    """Parameters that go by a setting's name, each checked by itself; raises ``ParameterError``."""
    try:
        return Given(**given)
    except ValidationError as error:
        raise ParameterError(explain(error)) from None


def setup_of(s: Settings, fingerprint: str) -> Setup:
    """The setup that a figure's settings describe, on the data with this fingerprint.

    Recipes take of the ``milestones`` those that they reach. Raises ``ParameterError``.
    """
    given = {part: {f: getattr(s, name) for name, f in _settings(part).items()} for part in _NAMES}
    long = {"epochs": s.sparse_epochs, "lr": s.sparse_lr, "milestones": s.sparse_milestones}
    sparse = given[Recipe] | {name: value for name, value in long.items() if value is not None}
    for recipe in (given[Recipe], sparse):
        recipe["milestones"] = [m for m in recipe["milestones"] if m <= recipe["epochs"]]
    try:
        return Setup(
            data=Data(**given[Data], fingerprint=fingerprint),
            network=Network(**given[Network]),
            dense=Recipe(**given[Recipe]),
            sparse=Recipe(**sparse),
            pruning=Pruning(**{**given[Pruning], "sparsity": s.sparsity or 0.0}),
            continuation=Continuation(**given[Continuation], at=0),
            flow=Flow(**given[Flow], skip=s.held) if s.flow_every else None,
            **given[Setup],
        )
    except ValidationError as error:
        raise ParameterError(explain(error)) from None


@functools.cache
def held(name: str) -> dict:
    """What a file of the studies holds, by its name below this folder.

    ``*/presets.yaml``, ``*/claims.yaml``; ``amendments.yaml``: date -> what was changed in many
    rules at once, why, and whose; ``rules.lock``: claim -> its rule's hash, and the date and commit
    of its last change.
    """
    # what safe_load does, and in C, ten times as fast, where that is built: plain values alone
    safe = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    return yaml.load((Path(__file__).parent / name).read_text(encoding="utf-8"), safe)


@functools.cache
def catalogue() -> dict:
    """The contents of every study's presets.yaml: figure -> preset -> settings."""
    studies = sorted(path.parent.name for path in Path(__file__).parent.glob("*/presets.yaml"))
    return {
        name: entry for study in studies for name, entry in held(f"{study}/presets.yaml").items()
    }


def own(figure: str) -> list[str]:
    """The parameters of a figure, sorted.

    They are what its presets name, what goes with that (``_BRINGS``), and what every run has. Two
    entries beside the presets change this: ``without`` names what its plan sets itself or does not
    use, ``only`` lists all that a figure takes which trains nothing.
    """
    entries = catalogue().get(figure, {"only": set(_Specified.model_fields)})
    named = set().union(*(values for values in entries.values() if isinstance(values, dict)))
    apart = {*_LISTS, *_BRINGS, *_settings(MaskUpdate), *_settings(Flow)}.union(*_BRINGS.values())
    brought = set().union(*(_BRINGS[name] for name in named if name in _BRINGS))
    every = entries.get("only", set(_Specified.model_fields) - apart | named | brought)
    return sorted({*every, *_COMMON} - set(entries.get("without", ())))


def settings(figure: str, /, preset: str = "quick", **given) -> Settings:
    """The settings of ``figure`` at ``preset`` with what is ``given`` put over them.

    ``None`` leaves the preset's. A ``plugin`` is run before anything else. Raises
    ``ParameterError`` naming each wrong parameter, its value and what is allowed.
    """
    if figure not in catalogue():
        raise ParameterError(f"figure {figure!r} is unknown; there are {', '.join(catalogue())}")
    entries = catalogue()[figure]
    of_figure = [name for name in (*PRESETS, *FURTHER) if name in entries]
    if preset not in of_figure:
        raise ParameterError(f"preset is {preset!r}; allowed are {', '.join(of_figure)}")
    choices.known(given, own(figure))
    given = {name: value for name, value in given.items() if value is not None}
    if "plugin" in given:
        registry.load_plugin(given["plugin"])
    # of its own for another set, where it has them
    values = entries.get(f"{preset}_{given.get('dataset')}") or entries[preset]
    checked(**given)
    values = {**choices.adapted(values, given), **given, "preset": preset}
    try:
        chosen = Settings(**values, figure=figure)
    except ValidationError as error:
        raise ParameterError(explain(error)) from None
    beyond = "; ".join(choices.beyond(chosen, given))
    if beyond:
        raise ParameterError(beyond)
    return chosen
