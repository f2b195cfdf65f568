"""Settings of each figure at each scale: quick, desktop, paper; and the check of what a person asks for.

``presets.yaml`` beside this file holds the values and where each comes from. ``settings`` merges a preset with a
person's own parameters (``None`` means: the preset's) and refuses anything wrong before any work starts.
"""

import difflib
import functools
from pathlib import Path
from typing import Annotated, Literal

import yaml
from pydantic import BeforeValidator, Field, ValidationError, model_validator

from lib.data import sets
from lib.specs.fields import (
    Activation,
    Count,
    Criterion,
    Dataset,
    DropSchedule,
    Epochs,
    FloorReading,
    Form,
    KeepDense,
    Listed,
    MaskKind,
    MomentumAfter,
    NetworkName,
    Noise,
    NonNegative,
    Normalisation,
    ParameterError,
    Perturbation,
    Pooling,
    Positive,
    Schedule,
    Scheme,
    Scope,
    Seeds,
    Share,
    Signal,
    Smoothing,
    Sparsity,
    Spec,
    _number,
    _one_of,
    explain,
)
from lib.specs.parts import Continuation, Data, Flow, Network, Pruning, Recipe, Setup

PRESETS = ("quick", "desktop", "paper")
FURTHER = ("imagenet_resnet50", "imagenet_vgg16")  # where a figure has them


class Settings(Spec):
    """Every setting a figure can have. A figure uses the ones in its preset; see ``settings``."""

    preset: _one_of((*PRESETS, *FURTHER)) = "quick"
    # data
    dataset: Dataset
    folder: str | None = (
        None  # of the dataset "folder": a path, or a name in the folder of the image sets
    )
    image_size: Annotated[int, BeforeValidator(_number), Field(ge=8)] | None = None
    train_examples: Count | None = None
    test_examples: Count | None = None
    normalise: Normalisation = "none"
    augment: bool = False
    noise: Share = 0.0
    noise_kind: Noise = "symmetric"
    # network
    network: NetworkName
    widths: Annotated[tuple[Count, ...], Listed] = (100, 100)
    width: Positive = 1.0
    activation: Activation = "relu"
    pooling: Pooling = "max"
    init: Scheme = "he"
    # pruning
    sparsity: Sparsity | None = None
    sparsities: Annotated[tuple[Sparsity, ...], Listed, Field(min_length=1)] | None = None
    criterion: Criterion = "magnitude"
    scope: Scope = "global"
    keep_dense: Annotated[KeepDense, Listed] = ("last",)
    prune_from: Literal["final", "best-test"] = "final"
    score_examples: Count | None = None
    prune_epochs: Annotated[tuple[Epochs, ...], Listed, Field(min_length=1)] | None = None
    rate_floor: NonNegative = 0.0
    floor_reading: FloorReading = "scale"
    momentum_after: MomentumAfter = "zero"
    # training
    epochs: Epochs
    sparse_epochs: Epochs
    batch_size: Count
    lr: Positive
    sparse_lr: Positive | None = None
    momentum: Share = 0.9
    nesterov: bool = False
    weight_decay: NonNegative = 0.0
    schedule: Schedule = "constant"
    milestones: Annotated[tuple[Count, ...], Listed] = ()
    sparse_milestones: Annotated[tuple[Count, ...], Listed] | None = None
    gamma: Positive = 0.1
    lr_floor: NonNegative = 0.0
    warmup_epochs: NonNegative = 0.0
    precision: Literal["float32", "bfloat16"] = "float32"
    decay: Literal["all", "kernels"] = "all"
    label_smoothing: Smoothing = 0.0
    micro_batch: Count | None = None
    # replication and measurement
    seeds: Seeds
    measure_every: Count = 1
    keep_epochs: Annotated[tuple[Epochs, ...], Listed] | None = None
    examples: Count | None = None
    probes: Annotated[int, BeforeValidator(_number), Field(ge=2)] | None = None
    watch: Annotated[tuple[Signal, ...], Listed] = ()
    watch_examples: Count | None = None
    patience: Count | None = None
    # masks that change while training; moments in optimiser steps
    prune_start: Epochs | None = None
    prune_end: Epochs | None = None
    prune_every: Count | None = None
    update_every: Count | None = None
    update_end: Count | None = None
    drop_fraction: Share | None = None
    drop_schedule: DropSchedule = "rate"
    growth_gradient: Literal["held", "batch"] = "held"
    held: Count = 1000
    flow_every: Count | None = None
    flow_examples: Count = 1000
    # states that are kept while training, and their curvature; moments in optimiser steps
    snapshots: Annotated[tuple[Count, ...], Listed, Field(min_length=1)] | None = None
    around: Annotated[tuple[Count, ...], Listed, Field(min_length=1)] | None = None
    settle: Count | None = None
    exact_examples: Count | None = None
    masks_from: Literal["pruned", "random"] = "pruned"
    rewind: Epochs = 0
    small_widths: Annotated[tuple[Count, ...], Listed, Field(min_length=1)] | None = None
    forms: Annotated[tuple[Form, ...], Listed, Field(min_length=1)] | None = None
    alphas: Annotated[tuple[Share, ...], Listed, Field(min_length=1)] | None = None
    replicas: Annotated[int, BeforeValidator(_number), Field(ge=2)] | None = None
    perturbations: Annotated[tuple[Perturbation, ...], Listed] | None = None
    # starts alone: signals through random masks
    input_shape: Annotated[tuple[Count, ...], Listed, Field(min_length=1)] | None = None
    mask_kinds: Annotated[tuple[MaskKind, ...], Listed, Field(min_length=1)] | None = None
    inits: Annotated[tuple[Scheme, ...], Listed, Field(min_length=1)] | None = None
    # variants that a figure lays side by side
    networks: Annotated[tuple[NetworkName, ...], Listed, Field(min_length=1)] | None = None
    schedules: Annotated[tuple[Schedule, ...], Listed, Field(min_length=1)] | None = None
    weight_decays: Annotated[tuple[NonNegative, ...], Listed, Field(min_length=1)] | None = None
    scopes: Annotated[tuple[Scope, ...], Listed, Field(min_length=1)] | None = None
    criteria: Annotated[tuple[Criterion, ...], Listed, Field(min_length=1)] | None = None
    update_intervals: Annotated[tuple[Count, ...], Listed, Field(min_length=1)] | None = (
        None  # of SET and RigL, in optimiser steps
    )
    drop_fractions: Annotated[tuple[Share, ...], Listed, Field(min_length=1)] | None = None
    longer: Annotated[int, BeforeValidator(_number), Field(ge=2)] | None = (
        None  # times the epochs, for one run the more
    )
    device: str = "auto"
    # where things go
    runs_folder: str | None = None
    save_to: str | None = None

    def kept(self, epochs: int) -> tuple[int, ...]:
        """What a run of ``epochs`` epochs keeps: those of ``keep_epochs`` that it has, and its last."""
        return tuple(
            sorted({epoch for epoch in self.keep_epochs or () if epoch < epochs} | {epochs})
        )

    @model_validator(mode="after")
    def _no_repeats(self):
        for name in (
            "sparsities", "networks", "schedules", "weight_decays", "scopes", "criteria", "prune_epochs", "forms", "perturbations",
            "mask_kinds", "inits", "update_intervals", "drop_fractions",
        ):  # fmt: skip
            values = getattr(self, name)
            if values is not None and len(set(values)) != len(values):
                raise ValueError(f"{name} is {list(values)}: each value may stand once")
        if self.prune_epochs is not None and max(self.prune_epochs) > self.epochs:
            raise ValueError(
                f"prune_epochs is {list(self.prune_epochs)}: none may lie beyond epochs, which is {self.epochs}; give both"
            )
        for name in ("snapshots", "around"):
            if list(getattr(self, name) or ()) != sorted(set(getattr(self, name) or ())):
                raise ValueError(
                    f"{name} is {list(getattr(self, name))}: these optimiser steps must rise, each may stand once"
                )
        if self.around and self.update_every:
            apart = [step for step in self.around if step % self.update_every]
            if apart:
                raise ValueError(
                    f"around is {list(self.around)}: no mask changes at {apart[0]}; give multiples of {self.update_every}"
                )
            if not self.settle or self.settle >= self.update_every:
                raise ValueError(
                    f"settle is {self.settle}: it must lie in 1 to {self.update_every - 1}, before the next mask update"
                )
        if (
            self.update_intervals and self.dataset != "folder"
        ):  # of a folder only reading it tells the size
            steps = self.epochs * -(
                -(self.train_examples or sets.size(self.dataset)) // self.batch_size
            )
            if max(self.update_intervals) >= steps:
                grid = list(self.update_intervals)
                raise ValueError(
                    f"update_intervals is {grid}: each must be less than the {steps} steps that {self.epochs} epochs are"
                )
        if self.rewind > self.epochs:
            raise ValueError(
                f"rewind is {self.rewind}: a ticket cannot go back to an epoch beyond epochs, which is {self.epochs}"
            )
        for name in ("folder", "image_size"):
            if getattr(self, name) is not None and self.dataset != "folder":
                raise ValueError(
                    f"{name} is {getattr(self, name)!r}: it is for the dataset 'folder', and dataset is {self.dataset!r}"
                )
        if self.augment and self.dataset == "bits12":
            raise ValueError(
                "augment is True: crops and flips are for images, and 'bits12' has none"
            )
        return self


@functools.cache
def catalogue() -> dict:
    """The contents of presets.yaml: figure -> preset -> settings."""
    return yaml.safe_load((Path(__file__).parent / "presets.yaml").read_text(encoding="utf-8"))


def settings(figure: str, preset: str = "quick", **given) -> Settings:
    """The settings of ``figure`` at ``preset`` with what is ``given`` put over them; ``None`` leaves the preset's.

    Text from a command line is understood: ``"[1, 2]"`` is a list, ``"0.9"`` a number. Raises ``ParameterError``
    naming each wrong parameter, its value and what is allowed.
    """
    figures = catalogue()
    if figure not in figures:
        raise ParameterError(f"figure {figure!r} is unknown; there are {', '.join(figures)}")
    own = [name for name in (*PRESETS, *FURTHER) if name in figures[figure]]
    if preset not in own:
        raise ParameterError(f"preset is {preset!r}; allowed are {', '.join(own)}")
    variant = (
        f"{preset}_{given.get('dataset')}"  # a preset may have settings of its own for another set
    )
    values = dict(figures[figure].get(variant) or figures[figure][preset], preset=preset)
    known = sorted(set(Settings.model_fields) - set(figures[figure].get("unused", ())))
    given = {name: value for name, value in given.items() if value is not None}
    for name, value in given.items():
        if name not in known:
            raise ParameterError(
                f"parameter {name!r} (= {value!r}) does not exist here{_hint(name, known)}; there are {', '.join(known)}"
            )
        if isinstance(value, str) and value.strip().lower() in ("true", "false"):
            given[name] = value.strip().lower() == "true"
    _scale_grid(values, given)
    try:
        return Settings(**{**values, **given})
    except ValidationError as error:
        raise ParameterError(explain(error)) from None


def _scale_grid(values, given):
    """Of a preset with another number of epochs, the pruning epochs stay the same shares of training."""
    epochs = str(given.get("epochs", "")).strip()
    if "prune_epochs" in values and "prune_epochs" not in given and epochs.isdecimal():
        values["prune_epochs"] = sorted(
            {round(t * int(epochs) / values["epochs"]) for t in values["prune_epochs"]}
        )


def _hint(name, names):
    return "".join(
        f" (did you mean {near!r}?)" for near in difflib.get_close_matches(name, names, n=1)
    )


def setup_of(s: Settings, fingerprint: str) -> Setup:
    """The setup that a figure's settings describe, on the data with this fingerprint."""
    common = dict(
        batch_size=s.batch_size, momentum=s.momentum, nesterov=s.nesterov, weight_decay=s.weight_decay,
        schedule=s.schedule, gamma=s.gamma, lr_floor=s.lr_floor, warmup_epochs=s.warmup_epochs, precision=s.precision, decay=s.decay,
        label_smoothing=s.label_smoothing, micro_batch=s.micro_batch,
    )  # fmt: skip
    late = s.milestones if s.sparse_milestones is None else s.sparse_milestones
    try:
        return Setup(
            data=Data(
                name=s.dataset, train=s.train_examples, test=s.test_examples, normalise=s.normalise, augment=s.augment,
                noise=s.noise, noise_kind=s.noise_kind, image_size=s.image_size, folder=s.folder, fingerprint=fingerprint,
            ),
            network=Network(
                name=s.network, widths=s.widths, width=s.width, activation=s.activation, pooling=s.pooling, init=s.init
            ),
            dense=Recipe(epochs=s.epochs, lr=s.lr, milestones=s.milestones, **common),
            sparse=Recipe(epochs=s.sparse_epochs, lr=s.sparse_lr or s.lr, milestones=late, **common),
            pruning=Pruning(
                sparsity=s.sparsity or 0.0, criterion=s.criterion, scope=s.scope, keep_dense=s.keep_dense, source=s.prune_from,
                score_examples=s.score_examples,
            ),
            measure_every=s.measure_every, watch=s.watch, watch_examples=s.watch_examples,
            flow=Flow(every=s.flow_every, examples=s.flow_examples, skip=s.held) if s.flow_every else None,
            continuation=Continuation(at=0, floor=s.rate_floor, reading=s.floor_reading, momentum=s.momentum_after),
        )  # fmt: skip
    except ValidationError as error:
        raise ParameterError(explain(error)) from None
