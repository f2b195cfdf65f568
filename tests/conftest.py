"""Fixtures: every test has an empty run store and data folder of its own."""

import hypothesis
import numpy as np
import pytest
import torch
from support import content_digest, forget_sets, random_arrays

from lib import rng
from lib.data import archives
from lib.runs.store import Store
from lib.training import loop, steps

hypothesis.settings.register_profile("patient", deadline=None)  # a busy machine is no failure
hypothesis.settings.load_profile("patient")


@pytest.fixture(autouse=True)
def folders(tmp_path, monkeypatch):
    """Point the run store and the data folder at empty places."""
    monkeypatch.setenv("SPARSITY_RUNS", str(tmp_path / "runs"))
    monkeypatch.setenv("SPARSITY_DATA", str(tmp_path / "data"))


@pytest.fixture
def store(tmp_path):
    """The run store of this test."""
    return Store(tmp_path / "runs")


@pytest.fixture
def place_set(tmp_path, monkeypatch):
    """A function that places arrays as the data file of a set, and makes its form and (if
    wanted) checksum known."""

    def place(name="cifar10", arrays=None, classes=None, trusted=True, **form):
        arrays = arrays or random_arrays(**form)
        classes = classes or int(arrays["y_train"].max()) + 1
        sizes = (len(arrays["x_train"]), len(arrays["x_test"]))
        digest = content_digest(arrays) if trusted else archives.FORMS[name][-1]
        form = (arrays["x_train"].shape[1:], classes, *sizes, digest)
        monkeypatch.setitem(archives.FORMS, name, form)
        path = tmp_path / "data" / f"{name}.npz"
        path.parent.mkdir(exist_ok=True)
        np.savez(path, **arrays)
        forget_sets()
        return path

    yield place
    forget_sets()


@pytest.fixture
def one_thread():
    """One thread for a while: how convolutions add up depends on the number, and BatchNorm
    magnifies the difference."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def trained(monkeypatch):
    """The runs given to each cohort that is trained."""
    cohorts, real = [], loop.Training.__init__

    def watched(self, runs, *arguments, **named):
        cohorts.append([run.key for run in runs])
        real(self, runs, *arguments, **named)

    monkeypatch.setattr(loop.Training, "__init__", watched)
    return cohorts


@pytest.fixture
def after_every_step(monkeypatch):
    """A list of (pruned weights and velocities that are not zero, pruned weights) after each
    optimiser step of any group."""
    seen, real = [], steps.sgd_

    def watched(cohort, *arguments):
        real(cohort, *arguments)
        pruned = ~cohort.mask
        alive = cohort.weights[pruned].count_nonzero() + cohort.velocity[pruned].count_nonzero()
        seen.append((int(alive), int(pruned.sum())))

    monkeypatch.setattr(steps, "sgd_", watched)
    return seen


@pytest.fixture
def logits():
    """Logits [5, 40, 7] of five networks, from vague to very sure."""
    scale = torch.tensor([0.1, 1.0, 3.0, 10.0, 60.0]).view(5, 1, 1)
    return scale * torch.randn(5, 40, 7, generator=rng.generator(0, "logits"))


@pytest.fixture
def labels():
    """Their labels [40]."""
    return torch.randint(7, (40,), generator=rng.generator(0, "labels"))
