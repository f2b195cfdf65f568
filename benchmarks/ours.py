"""Our side: ``lib.training.loop.Training`` on stand-in data, at sparsity 0.9, without measuring."""

import functools
from dataclasses import dataclass

import torch

from benchmarks.timing import Contender
from lib import rng
from lib.data import sets
from lib.masks import criteria, masks
from lib.models import initializers, networks
from lib.specs.run import Run
from lib.training import cohort, loop
from studies.presets import Settings, setup_of

SPARSITY = 0.9
# epochs of a recipe and between measurements: no measurement falls into what is timed
ENDLESS = 10**6


@dataclass(frozen=True)
class Task:
    """What both sides train: an architecture, a set of examples, a batch size and an optimiser.

    The examples are random tensors of a real set's shape (``shape``, ``classes``): the time of
    a pass does not depend on what the pixels show, and no download is needed. The 12-bit task
    is embedded, so there the real set is used.
    """

    name: str
    shape: tuple[int, ...]
    examples: int
    batch: int = 128
    momentum: float = 0.9
    augment: bool = False
    widths: tuple[int, ...] | None = None
    width: float | None = None
    classes: int = 10
    lr: float = 1e-4
    precision: str = "float32"
    threads: int = 1
    device: str = "cpu"

    @functools.cached_property
    def images(self) -> sets.ImageSet:
        """The examples as the laboratory holds them: on the device, channels-last in memory
        where they are images."""
        if self.shape == (12,):
            return sets.load("bits12", device=self.device)
        stream = rng.generator(0, "benchmark")
        x = torch.randn(self.examples, *self.shape, generator=stream).to(self.device)
        if x.dim() == 4:
            x = x.contiguous(memory_format=torch.channels_last)
        y = torch.randint(self.classes, (self.examples,), generator=stream).to(self.device)
        black = torch.zeros(self.shape[0], device=self.device)
        return sets.ImageSet(
            "cifar10" if self.augment else "mnist",
            x,
            y,
            x[:1],
            y[:1],
            self.classes,
            "benchmark",
            black,
        )

    @functools.cached_property
    def run(self) -> Run:
        """The specification of a member; members differ in their seed."""
        settings = Settings(
            dataset=self.images.name, network=self.name, widths=self.widths, width=self.width, augment=self.augment,
            epochs=ENDLESS, sparse_epochs=ENDLESS, batch_size=self.batch, lr=self.lr, momentum=self.momentum,
            precision=self.precision, threads=self.threads, seeds=1, measure_every=ENDLESS,
        )  # fmt: skip
        return Run.dense(setup_of(settings, self.images.fingerprint), seed=0)

    def network(self) -> torch.nn.Module:
        """A new module of the architecture on the meta device."""
        return loop.network_of(self.run, self.images)

    @functools.cached_property
    def layout(self) -> cohort.Layout:
        """Where each parameter lies in a row."""
        return cohort.Layout(self.network())

    def start(self, seed: int) -> tuple[dict[str, torch.Tensor], dict]:
        """Fresh weights, and under them a mask of exactly the benchmark's sparsity by their
        magnitude."""
        network = self.network()
        weights = initializers.dense(network, "he", seed)
        names = networks.prunable(network, ("last",))
        scores = criteria.magnitude(
            {name: weights[name] for name in names}, rng.generator(seed, "benchmark"), None
        )
        row = self.layout.mask_row(masks.prune(scores, SPARSITY, "layer"))
        rows = {"weights": self.layout.row(weights) * row, "mask": row}
        rows |= {"velocity": torch.zeros_like(row).float(), "buffers": self.layout.fresh_buffers()}
        return rows, {}

    def training(self, members: int, cores: int | None = None, first: int = 0) -> loop.Training:
        """A cohort of ``members``, ready to train."""
        runs = [self.run.model_copy(update={"seed": first + k}) for k in range(members)]
        return loop.Training(
            runs,
            [self.start(first + k) for k in range(members)],
            self.images,
            self.network(),
            cores,
        )


def cohort_of(task: Task, members: int, cores: int | None = None) -> Contender:
    """An epoch of a cohort; counts the images that its members have seen, each its own."""
    trained = task.training(members, cores)

    def epoch():
        trained.run_epoch()
        return members * len(task.images.y_train)

    return epoch


def one_by_one(task: Task, members: int) -> Contender:
    """The same members, an epoch each, one after the other: each is a cohort of its own."""
    alone = [task.training(1, first=k) for k in range(members)]

    def epoch():
        for trained in alone:
            trained.run_epoch()
        return members * len(task.images.y_train)

    return epoch
