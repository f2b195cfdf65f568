"""What a run is specified by, part by part, frozen and validated: data, network, pruning, recipe, and how they go on or change."""

from typing import Literal

from pydantic import Field, model_validator

from lib.specs.fields import (
    Activation,
    Count,
    Criterion,
    Dataset,
    DropSchedule,
    Epochs,
    FloorReading,
    KeepDense,
    MaskUpdateRule,
    MomentumAfter,
    NetworkName,
    Noise,
    NonNegative,
    Normalisation,
    Pooling,
    Positive,
    Schedule,
    Scheme,
    Scope,
    Share,
    Signal,
    Smoothing,
    Sparsity,
    Spec,
)


class Data(Spec):
    """Which examples: a set, its size, its treatment, its label noise, and the fingerprint of the tensors.

    ``folder`` is where the set "folder" lies on this machine. It is no part of what a run is: the fingerprint is.
    """

    name: Dataset
    train: Count | None = None
    test: Count | None = None
    normalise: Normalisation = "none"
    augment: bool = False
    noise: Share = 0.0
    noise_kind: Noise = "symmetric"
    image_size: Count | None = (
        None  # of the set "folder": the sides of its images in pixels; None: 224
    )
    folder: str | None = Field(None, exclude=True, repr=False)
    fingerprint: str = Field(min_length=1)


class Network(Spec):
    """Which architecture, and how its dense weights are drawn."""

    name: NetworkName
    widths: tuple[Count, ...] = (100, 100)
    width: Positive = 1.0
    activation: Activation = "relu"
    pooling: Pooling = "max"
    init: Scheme = "he"


class Pruning(Spec):
    """Which weights go: exactly round(sparsity * N) of the prunable ones, by criterion, under a scope."""

    sparsity: Sparsity
    criterion: Criterion = "magnitude"
    scope: Scope = "global"
    keep_dense: KeepDense = ("last",)
    source: Literal["final", "best-test"] = "final"
    score_examples: Count | None = (
        None  # how many training examples a criterion that needs some may look at; None: all
    )


class Recipe(Spec):
    """Optimiser settings: SGD on cross-entropy. Milestones and warm-up are in epochs."""

    epochs: Epochs
    batch_size: Count
    lr: Positive
    momentum: Share = 0.0
    nesterov: bool = False
    weight_decay: NonNegative = 0.0
    schedule: Schedule = "constant"
    milestones: tuple[Count, ...] = ()
    gamma: Positive = 0.1
    lr_floor: NonNegative = 0.0
    warmup_epochs: NonNegative = 0.0
    precision: Literal["float32", "bfloat16"] = "float32"
    decay: Literal["all", "kernels"] = (
        "all"  # what weight decay shrinks: everything, or no biases and no BatchNorm
    )
    label_smoothing: Smoothing = 0.0
    micro_batch: Count | None = (
        None  # examples in one pass, where a batch is too large for memory; BatchNorm normalises over so many
    )

    @model_validator(mode="after")
    def _consistent(self):
        if self.schedule == "step" and list(self.milestones) != sorted(set(self.milestones)):
            raise ValueError(f"milestones is {self.milestones}: they must rise")
        if self.nesterov and not self.momentum:
            raise ValueError("nesterov is True: it needs a momentum above 0")
        return self


class Continuation(Spec):
    """How a dense run goes on after it was pruned at the end of epoch ``at`` (early-pruning study, section 3 and appendix A).

    The highest rate from there on is max(``floor``, LR(at)), where LR is the schedule without its warm-up. The text leaves open
    how that combines with the rest of the schedule: ``"scale"`` multiplies the dense run's remaining schedule so that it starts
    there (the dense schedule itself, where that is not below the floor); ``"restart"`` runs the whole schedule from there in the
    epochs that are left;
    ``"each-step"`` takes max(floor, LR) at each step. ``momentum`` is that of a new optimiser, or the dense run's own.
    """

    at: Epochs
    floor: NonNegative = 0.0
    reading: FloorReading = "scale"
    momentum: MomentumAfter = "zero"


class MaskUpdate(Spec):
    """How the mask changes while training, see ``lib.mask_update``; moments are counted in optimiser steps.

    ``gradual`` prunes a dense start to the run's sparsity; the others drop and grow ``fraction`` of each layer's live weights, with the
    growth gradient from the training ``batch`` or from the first so many ``held`` training examples (gradient-flow study, its code).
    """

    method: MaskUpdateRule
    every: Count
    start: Epochs = 0
    end: Epochs
    fraction: Share | None = None
    drop: DropSchedule = "rate"
    gradient: Literal["held", "batch"] = "held"
    held: Count = 1000


class Flow(Spec):
    """When gradient flow is recorded while training: before it, after ``every`` so many optimiser steps, and around mask updates.

    It is the squared norm of the loss gradient in the live weights on ``examples`` training examples behind the first ``skip`` (which
    serve the growth gradient): the gradient-flow study's code measures on other held examples than those it grows by.
    """

    every: Count
    examples: Count = 1000
    skip: Epochs = 1000


class Setup(Spec):
    """What the runs of one figure share: data, network, the dense and the sparse recipe, the pruning."""

    data: Data
    network: Network
    dense: Recipe
    sparse: Recipe
    pruning: Pruning
    measure_every: Count = 1
    watch: tuple[Signal, ...] = ()
    watch_examples: Count | None = None
    continuation: Continuation | None = None
    flow: Flow | None = None
