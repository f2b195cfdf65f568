"""What a run is specified by, part by part: data, network, pruning, recipe, and how they go on."""

from typing import Annotated, Literal

from pydantic import Field

from lib import registry
from lib.specs import fields
from lib.specs.fields import Spec, among


class Data(Spec):
    """Which examples: a set, its size, its treatment, its label noise, and their fingerprint."""

    name: Annotated[str, among(registry.dataset)]
    train: fields.Count | None = None
    """The first so many in the set's canonical order."""
    test: fields.Count | None = None
    """As many of the test part; None: all."""
    normalise: Annotated[str, among("lib.data.images:NORMALISATIONS")] = "none"
    """What is done to the pixels in [0, 1]."""
    augment: bool = False
    """Random crops and flips while training."""
    noise: fields.Share = 0.0
    """Share of the training labels that are drawn anew."""
    noise_kind: Annotated[str, among("lib.data.images:NOISES")] = "symmetric"
    """Symmetric: over all classes, the true one included; flip: over the others."""
    image_size: Annotated[int, fields.Number, Field(ge=8, le=4096)] | None = None
    """Sides of a folder's images; None: 224."""
    folder: str | None = Field(None, exclude=True, repr=False)
    """Where the set 'folder' lies on this machine."""
    fingerprint: str = Field(min_length=1)
    """A hash of exactly these examples."""

    def contradictions(self):
        name, folder, size = self.name, self.folder, self.image_size
        why = f"it is for the dataset 'folder', and dataset is {name!r}"
        return {
            f"folder is {folder!r}: {why}": folder is not None and name != "folder",
            f"image_size is {size!r}: {why}": size is not None and name != "folder",
            "augment is True: crops and flips are for images, and 'bits12' has none":
                self.augment and name == "bits12",
        }  # fmt: skip


class Network(Spec):
    """Which architecture, and how its dense weights are drawn.

    Of the four options a network takes those that its builder names; None leaves it its own.
    """

    name: Annotated[str, among(registry.network)]
    widths: fields.Widths | None = None
    """Hidden layers of an mlp; of lenet-5, which has four layers before the last."""
    width: Annotated[float, fields.Number, Field(gt=0, le=1000)] | None = None
    """Factor to the channels of a ResNet or VGG-16."""
    activation: Annotated[str, among("lib.models.networks:ACTIVATIONS")] | None = None
    """Between the layers."""
    pooling: Literal["max", "avg"] | None = None
    """Of lenet-5: the maximum of four pixels, or their mean."""
    init: Annotated[str, among(registry.initializer)] = "he"
    """The distribution that kernels are drawn from."""

    @property
    def options(self) -> dict:
        """The options that are given: what ``networks.build`` gets beside name and shape."""
        return self.model_dump(
            include={"widths", "width", "activation", "pooling"}, exclude_none=True
        )

    def contradictions(self):
        from lib.models import networks

        takes = networks.options(self.name)
        return {
            f"{name} is {value!r}: the network {self.name!r} ignores it; it takes "
            f"{', '.join(takes) or 'no option'}": name not in takes
            for name, value in self.options.items()
        }


class Pruning(Spec):
    """Which weights go: exactly round(sparsity * N) of the prunable ones."""

    sparsity: fields.Sparsity
    """The share of prunable weights that are zero."""
    criterion: Annotated[str, among(registry.criterion)] = "magnitude"
    """Whose lowest scores go."""
    scope: Annotated[str, among("lib.masks.masks:SCOPES")] = "global"
    """Within which they are ranked or shared out."""
    keep_dense: Annotated[tuple[Literal["first", "last"], ...], fields.Listed] = ("last",)
    """Layers that are spared."""
    source: Literal["final", "best-test"] = "final"
    """Which weights of Sol-D are pruned."""
    score_examples: fields.Count | None = None
    """So many training examples a criterion may look at; None: all."""


class Recipe(Spec):
    """Optimiser settings: SGD on cross-entropy. Milestones and warm-up are in epochs."""

    epochs: fields.Epochs
    batch_size: fields.Count
    """Examples in one optimiser step."""
    lr: fields.Positive
    """The first learning rate."""
    momentum: fields.Share = 0.0
    """Share of the last step's velocity that the next one keeps."""
    nesterov: bool = False
    """Nesterov's momentum, which looks a step ahead."""
    weight_decay: fields.NonNegative = 0.0
    """Times the weights, and added to their gradient."""
    schedule: Literal["constant", "step", "exponential", "cosine", "linear"] = "constant"
    """See ``lib.training.schedules.rates``."""
    milestones: Annotated[tuple[fields.Count, ...], fields.Listed] = ()
    """Epochs at which 'step' multiplies by gamma."""
    gamma: fields.Positive = 0.1
    """Factor of 'step' and of 'exponential'."""
    lr_floor: fields.NonNegative = 0.0
    """The lowest rate of a schedule."""
    warmup_epochs: fields.NonNegative = 0.0
    """The rate rises linearly in them, to the one that the schedule has there."""
    precision: Literal["float32", "bfloat16"] = "float32"
    """Of the arithmetic in a pass; weights are float32 either way."""
    decay: Literal["all", "kernels"] = "all"
    """What weight decay shrinks: everything, or no biases and no BatchNorm."""
    label_smoothing: fields.Sparsity = 0.0
    """Share of each target that is spread over all classes."""
    micro_batch: fields.Count | None = None
    """Examples in one pass, and in one BatchNorm, where memory is short."""
    threads: fields.Count = 1
    """Of the CPU in one pass; more, for one large network alone, know no batched or sparse ones."""

    def contradictions(self):
        many, epochs = list(self.milestones), self.epochs
        return {
            f"milestones is {many}: they must rise":
                self.schedule == "step" and many != sorted(set(many)),
            f"milestones is {many}: none may lie beyond epochs, which is {epochs}":
                max(many, default=0) > epochs,
            "nesterov is True: it needs a momentum above 0": self.nesterov and not self.momentum,
            f"lr_floor is {self.lr_floor}: it may not lie above the rate, lr, {self.lr}":
                self.lr_floor > self.lr,
        }  # fmt: skip


class Continuation(Spec):
    """How a dense run goes on after it was pruned (early-pruning study, section 3, appendix A).

    The highest rate from there on is max(``floor``, LR(at)), where LR is the schedule without its
    warm-up. The text leaves open how that combines with the rest of the schedule: ``"scale"``
    multiplies the dense run's remaining schedule so that it starts there (the dense schedule
    itself, where that is not below the floor); ``"restart"`` runs the whole schedule from there in
    the epochs that are left; ``"each-step"`` takes max(floor, LR) at each step.
    """

    at: fields.Moment
    """The epoch at whose end it is pruned, or a moment within the next one: 2.25."""
    floor: fields.NonNegative = 0.0
    """The least rate with which it goes on."""
    reading: Literal["scale", "restart", "each-step"] = "scale"
    """How that rate combines with the rest of the schedule."""
    momentum: Literal["zero", "kept"] = "zero"
    """That of a new optimiser, or the dense run's own."""


class MaskUpdate(Spec):
    """How the mask changes while training, see ``lib.masks.dynamic``; moments are steps.

    ``gradual`` prunes a dense start to the run's sparsity; the others drop and grow ``fraction`` of
    each layer's live weights.
    """

    method: Annotated[str, among(registry.mask_update)]
    every: fields.Count
    """Steps between two updates."""
    start: fields.Whole = 0
    end: fields.Whole
    """The step after which no update comes."""
    fraction: fields.Share | None = None
    """Of the live weights, at the highest rate."""
    drop: Annotated[str, among("lib.masks.dynamic:SCHEDULES")] = "rate"
    """How that fraction falls."""
    gradient: Literal["held", "batch"] = "held"
    """Growth by held examples (the study's code) or the training batch."""
    held: fields.Count = 1000
    """So many of the first training examples are held."""


class Flow(Spec):
    """When gradient flow is recorded: before training, while it lasts, and around mask updates.

    It is the squared norm of the loss gradient in the live weights. The gradient-flow study's code
    measures on other held examples than those it grows by.
    """

    every: fields.Count
    """Steps between two records of gradient flow."""
    examples: fields.Count = 1000
    """So many training examples, behind the held ones."""
    skip: fields.Whole = 1000
    """So many are held for the growth gradient."""


class Shared(Spec):
    """What a setup hands on to its runs."""

    data: Data
    network: Network
    measure_every: fields.Count = 1
    """Epochs between two measurements."""
    watch: fields.Monitors = ()
    """Monitors of the dense run, at every epoch."""
    watch_every: fields.Count | None = None
    """Within epochs too, after so many optimiser steps of each."""
    watch_examples: fields.Count | None = None
    """From so many examples; None: all."""
    continuation: Continuation | None = None
    flow: Flow | None = None


class Setup(Shared):
    """What the runs of one figure share."""

    dense: Recipe
    sparse: Recipe
    pruning: Pruning

    def contradictions(self):
        floor, lr = self.continuation.floor if self.continuation else 0.0, self.dense.lr
        return {f"rate_floor is {floor}: it may not lie above the rate, lr, {lr}": floor > lr}
