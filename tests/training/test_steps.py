"""Recorded steps: what replays them is believed only where it repeats the plain step. Where they
run is tested without a GPU: on the meta device, where nothing can be read, and a pretended one."""

import contextlib
import dataclasses
import subprocess
import sys
import warnings
from itertools import product

import pytest
import torch
from support import carry_out, images_of, small

from lib import files, rng
from lib.models import initializers
from lib.runs.store import Store
from lib.specs.arms import Objective
from lib.specs.parts import MaskUpdate
from lib.specs.run import Run, finetune, gradually_pruned, scratch
from lib.training import engines, loop, steps
from lib.training.cohort import Cohort, Layout, network_of

RESNET = {"network": "resnet-20", "width": 0.25, "train_examples": 40, "batch_size": 16}
NETWORKS = {
    "mlp": {},
    "resnet-20": {**RESNET, "augment": True},
}


class Tape:
    """A recorder for the CPU, which executes the step again; it counts what it has recorded, and
    how often that was replayed."""

    def __init__(self, spoil=lambda step: step()):
        self.spoil, self.shapes, self.replays = spoil, [], 0

    def __call__(self, step):
        self.shapes.append(None)

        def replay():
            self.replays += 1
            self.spoil(step)

        return replay


@pytest.fixture
def tape(monkeypatch):
    """A function that makes the CPU record its steps on a ``Tape``."""

    def install(*arguments):
        made = Tape(*arguments)
        monkeypatch.setitem(steps.RECORDERS, "cpu", made)
        return made

    return install


def family(setup):
    """A run of every kind that is recorded: masks that stay, that grow from none, that move."""
    dense = [Run.dense(setup, seed=seed) for seed in (0, 1)]
    moves = {"mask_update": MaskUpdate(method="rigl", every=2, end=4, fraction=0.3, held=32)}
    prunes = {"mask_update": MaskUpdate(method="gradual", every=2, start=2, end=4)}
    return [
        *dense,
        finetune(dense[0], sparsity=0.8),
        scratch(dense[1], sparsity=0.8),
        scratch(dense[0], sparsity=0.8, **moves),
        gradually_pruned(setup, seed=0, sparsity=0.8, **prunes),
    ]


def weights(runs, root):
    store = Store(root)
    carry_out(runs, store)
    return {run.key: store.get(run.key).tensors for run in runs}


@pytest.mark.parametrize("options", NETWORKS.values(), ids=NETWORKS)
def test_replayed_runs_are_the_plain_ones(options, tape, tmp_path, one_thread):
    """Schedules, masks that change, uneven last batches: to rounding, all as without a recorder."""
    runs = family(small(epochs=2, sparse_epochs=2, **options, schedule="cosine", weight_decay=1e-3))
    plain = weights(runs, tmp_path / "plain")
    taped = tape()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        replayed = weights(runs, tmp_path / "replayed")
    assert taped.replays >= 8
    for key, tensors in plain.items():
        assert torch.equal(tensors["mask"], replayed[key]["mask"])
        for name in ("weights", "buffers"):
            torch.testing.assert_close(replayed[key][name], tensors[name], rtol=1e-3, atol=2e-5)


# -- replays that are wrong ------------------------------------------------------------------------


def twice(step):
    step()
    step()


def fails(step):
    raise RuntimeError("CUDA out of memory\nand a long story")


WRONG = {
    "nothing": (lambda step: None, "replayed, it ends elsewhere"),
    "twice": (twice, "replayed, it ends elsewhere"),
    "fails": (fails, "it cannot be recorded: CUDA out of memory$"),
}


@pytest.mark.parametrize("how", WRONG)
def test_a_wrong_replay_is_never_taken(how, tape, tmp_path):
    """A line says so, and each bit is that of plain steps."""
    spoil, why = WRONG[how]
    runs = [Run.dense(small(epochs=2, weight_decay=1e-3), seed=seed) for seed in (0, 1)]
    plain = weights(runs, tmp_path / "plain")
    taped = tape(spoil)
    with pytest.warns(UserWarning, match=f"each step of 2 networks is taken plainly: {why}"):
        fallen = weights(runs, tmp_path / "fallen")
    assert taped.replays == 1
    for key, tensors in plain.items():
        assert all(torch.equal(fallen[key][name], value) for name, value in tensors.items())


def group_of(seeds=(0, 1), **options):
    """The one group of a cohort that has trained nothing."""
    runs = [Run.dense(small(epochs=2, lr=0.01, **options), seed=seed) for seed in seeds]
    return training(runs).groups[0]


def training(runs, device="cpu"):
    """A cohort of dense ``runs`` on the device, and ready to train."""
    images = images_of(runs[0])
    moved = {n: getattr(images, n).to(device) for n in ("x_train", "y_train", "x_test", "y_test")}
    images = dataclasses.replace(images, **moved, black=images.black.to(device))
    network = network_of(runs[0], images)
    layout, starts = Layout(network), []
    for run in runs:
        row = layout.row(initializers.dense(network, "he", run.seed))
        ones = torch.ones_like(row, dtype=torch.bool)
        state = {"weights": row, "mask": ones, "velocity": 0 * row}
        starts.append((state | {"buffers": layout.fresh_buffers()}, {}))
    return loop.Training(runs, starts, images, network, cores=1)


@pytest.mark.parametrize("part", ["weights", "velocity", "gradients", "buffers", "losses"])
def test_any_part_of_any_member_tells(part, tape):
    """A tenth of what the step does to a member's weights, momentum, gradients, running statistics
    or loss is noticed, and a thousandth passes."""
    runs = [Run.dense(small(**RESNET), seed=seed) for seed in (0, 1)]
    made, drawn = training(runs), rng.generator(0, "batch")
    rows, engine = made.cohort, engines.engine(made.cohort, made.network)
    x = torch.randn(2, 16, 1, 8, 8, generator=drawn)
    y = torch.randint(10, (2, 16), generator=drawn)
    for share, member in product((0.1, 1e-3), (0, 1)):

        def spoil(take, share=share, member=member):
            held = rows.gradients * 0 if part == "gradients" else getattr(rows, part, x).clone()
            take()
            if part != "losses":
                row = getattr(rows, part)[member]
                row += share * (row - held[member])

        tape(spoil)
        louder = Louder(engine, member, share)
        step = steps.Step(rows, louder if part == "losses" else engine)
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always")
            step(x, y, 0.01)
        assert bool(said) == (step.recorder is None) == (share == 0.1)


class Louder:
    """An engine whose second step gives one member a loss that is larger by a share."""

    def __init__(self, engine, member, share):
        self.engine, self.member, self.share, self.calls = engine, member, share, 0

    def gradients(self, x, y):
        losses, self.calls = self.engine.gradients(x, y), self.calls + 1
        if self.calls == 2:
            losses[self.member] *= 1 + self.share
        return losses


def test_who_diverges_ends_no_recording(tape, tmp_path):
    """Its numbers are none; the other's steps stay recorded."""
    runs = [Run.dense(small(epochs=2, lr=lr), seed=0) for lr in (1e38, 0.1)]
    taped = tape()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        store = Store(tmp_path)
        table = carry_out(runs, store)
    assert table.groupby("key", sort=False)["diverged"].first().tolist() == [True, False]
    assert taped.replays >= 10


def test_an_objective_is_added_plainly(tape, tmp_path):
    """Its gradient comes between the loss's and the optimiser: nothing is recorded."""
    dense = Run.dense(small(), seed=0)
    penalised = scratch(dense, sparsity=0.5, objective=Objective(name="sam", weight=0.05))
    group = training([dense]).groups[0]
    assert group.step.recorder is None
    tape()
    group.rows.members[0].run = penalised
    assert steps.Step(group.rows, group.engine).recorder is None
    group.rows.members[0].run = dense
    assert steps.Step(group.rows, group.engine).recorder is not None


def test_a_mask_changes_in_place():
    """What a recorded step reads is where it was, once any weight is pruned."""
    rows = group_of().rows
    assert rows.bits is None
    mask = torch.arange(rows.layout.size) % 2 == 0
    rows.remask(1, mask)
    bits = rows.bits
    rows.remask(0, ~mask)
    assert rows.bits is bits
    assert torch.equal(bits, -rows.mask.int())


# -- where things are ------------------------------------------------------------------------------


@pytest.mark.parametrize("options", NETWORKS.values(), ids=NETWORKS)
def test_an_epoch_reads_one_number_a_member(options, monkeypatch):
    """On the meta device whatever is read on the host is an error, but for what is let through:
    once an epoch, whether each member is finite."""
    runs = [Run.dense(small(**options, measure_every=3, lr=lr), seed=0) for lr in (0.1, 0.2)]
    cohort, read = training(runs, "meta"), []
    (group,) = cohort.groups  # as on a GPU, all are one group
    monkeypatch.setattr(Cohort, "bits", None)
    monkeypatch.setattr(torch, "autocast", lambda *_, **__: contextlib.nullcontext())  # no meta
    plain = torch.Tensor.tolist

    def tolist(self):
        if self.device.type != "meta":
            return plain(self)
        read.append(tuple(self.shape))
        return [True] * len(self)

    monkeypatch.setattr(torch.Tensor, "tolist", tolist)
    for _ in range(2):
        cohort.run_epoch()
    assert read == [(2,), (2,)]
    assert group.rows.weights.device.type == "meta"


def test_a_checkpoint_goes_on_elsewhere(store):
    """What a cohort on one device saved is read on the host, and copied to where another trains;
    what it has kept stays on the host."""
    runs = [Run.dense(small(epochs=3), seed=seed, keep=(1,)) for seed in (0, 1)]
    here = training(runs)
    here.run_epoch()
    store.save_checkpoint("moved", *here.state())
    saved = store.checkpoint("moved", lambda tensors, content: (tensors, content))
    there = training(runs, "meta")
    there.resume(*saved)
    assert there.epoch == 1
    assert {getattr(there.cohort, n).device.type for n in loop.TRAINED} == {"meta"}
    assert {t.device.type for m in there.members for t in m.kept.values()} == {"cpu"}
    assert [m.history for m in there.members] == [m.history for m in here.members]


PRETENDED = """
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from lib.models import networks
from lib.training import engines
from lib.training.cohort import Cohort, Layout, sgd_

SHAPES = {"mlp": (64,), "lenet-5": (1, 28, 28), "resnet-20": (3, 32, 32)}
with FakeTensorMode():
    for name, shape in SHAPES.items():
        network = networks.build(name, shape, 10)
        layout = Layout(network)
        weights = torch.empty(2, layout.size, device="cuda")
        buffers = torch.empty(2, layout.buffer_size, device="cuda")
        rows = Cohort(layout, weights, buffers, torch.empty_like(weights, dtype=torch.bool))
        rows.__dict__["bits"] = torch.empty_like(weights, dtype=torch.int32)
        engine = engines.engine(rows, network)
        x = torch.empty(2, 16, *shape, device="cuda")
        places = [engine.logits(x[0])]
        if name == "mlp":  # autograd asks for a driver
            places.append(engine.gradients(x, torch.empty(2, 16, dtype=torch.int64, device="cuda")))
            sgd_(rows, torch.empty(2, 1, device="cuda"), 0.9, True, 1e-4)
            places += [rows.weights, rows.velocity]
        print(name, *(place.device.type for place in places), flush=True)
"""


@pytest.mark.skipif(torch.__version__.startswith("2.11."), reason="its fake BatchNorm has no copy")
def test_passes_stay_on_a_pretended_gpu():
    """Evaluation of every kind of network, and the whole step where no autograd is needed: nothing
    of another device takes part (PyTorch's fake tensors refuse that), nothing leaves.

    In a process of its own, which may end badly: without a driver such tensors leave some memory of
    a CUDA build of PyTorch in disorder."""
    done = subprocess.run(
        [sys.executable, "-c", PRETENDED], capture_output=True, text=True, cwd=files.HOME
    )
    told = ["mlp cuda cuda cuda cuda", "lenet-5 cuda", "resnet-20 cuda"]
    assert done.stdout.splitlines() == told, done.stderr
