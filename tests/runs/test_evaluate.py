"""Measurements of finished runs: the right network, kept once, and nothing that finished is lost."""

import json
import math

import pytest
import torch
from support import carry_out, small

from lib import files
from lib.data import sets
from lib.metrics.estimate import MeasureError
from lib.runs.evaluate import filled, images_of, labels_of, mask_of, measure, module_of
from lib.runs.store import Store
from lib.specs.run import Run, finetune, scratch
from lib.training import cohort, loop


@pytest.fixture
def runs(tmp_path):
    """A store with a dense run that kept an epoch, and a sparse one."""
    store = Store(tmp_path / "runs")
    dense = Run.dense(small(epochs=3, noise=0.2), seed=0, keep=(0, 2))
    sparse = finetune(dense, sparsity=0.5)
    table = carry_out([dense, sparse], store)
    return store, dense, sparse, table


def loss(module, mask, run, images):
    y, _ = labels_of(run, images)
    return {
        "loss": torch.nn.functional.cross_entropy(module(images.x_train), y).item(),
        "live": int(sum(m.sum() for m in mask.values())),
    }


def test_the_network_of_a_run_is_the_one_that_was_trained(runs):
    """At the end and at a kept epoch, its loss is the one in the run's history; its pruned weights are zero and masked."""
    store, dense, sparse, table = runs
    ours = measure([dense, sparse], "loss", loss, store=store, device="cpu", progress=False)
    last = table.groupby("key").tail(1).set_index("key")["train_loss"]
    assert ours.set_index("key")["loss"].to_dict() == pytest.approx(last.to_dict(), rel=1e-5)
    early = measure([dense], "loss", loss, store=store, at=(0, 2), device="cpu", progress=False)
    expected = table[(table["key"] == dense.key) & table["epoch"].isin([0, 2])][
        "train_loss"
    ].tolist()
    assert early["epoch"].tolist() == [0, 2]
    assert early["loss"].tolist() == pytest.approx(expected, rel=1e-5)
    images = images_of(sparse, "cpu")
    finished = store.get(sparse.key)
    module, mask = module_of(sparse, finished, images), mask_of(sparse, finished, images)
    assert not module.training
    for name, live in mask.items():
        assert not module.get_parameter(name)[~live].any()
    assert sum(int((~live).sum()) for live in mask.values()) == finished.info["pruned"]


def test_batchnorm_statistics_come_with_the_network(place_set):
    """A module that is filled from rows has the rows' parameters and statistics, each where it belongs."""
    network = cohort.build(small(network="resnet-20", width=0.25).network, (3, 8, 8), 10)
    layout = loop.Layout(network)
    weights, buffers = torch.randn(layout.size), torch.rand(layout.buffer_size) + 0.5
    module = filled(network, weights, buffers)
    assert torch.equal(layout.row(dict(module.named_parameters())), weights)
    held = {n: b for n, b in module.named_buffers() if not n.endswith("num_batches_tracked")}
    assert torch.equal(torch.cat([b.flatten() for b in held.values()]), buffers)


def test_nothing_is_measured_twice(runs):
    """A second call reads what the first has kept; another setting, name or epoch is another measurement."""
    store, dense, _, _ = runs
    calls = []

    def count(module, mask, run, images):
        calls.append(run.key)
        return {"value": float(len(calls)), "curve": [1.0, math.pi]}

    def go(name="count", **options):
        return measure([dense], name, count, store=store, device="cpu", progress=False, **options)

    first = go()
    assert go().equals(first)
    assert first["curve"][0] == [1.0, math.pi]
    assert len(calls) == 1
    go(settings={"probes": 2})
    go("another")
    go(at=(2,))
    assert len(calls) == 4


def test_an_interruption_loses_only_the_one_at_work(runs):
    """What was measured before the interruption is kept."""
    store, dense, sparse, _ = runs
    calls = []

    def fragile(module, mask, run, images):
        calls.append(run.key)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return {"value": 1.0}

    with pytest.raises(KeyboardInterrupt):
        measure([dense, sparse], "fragile", fragile, store=store, device="cpu", progress=False)
    table = measure([dense, sparse], "fragile", fragile, store=store, device="cpu", progress=False)
    assert calls == [dense.key, sparse.key, sparse.key]
    assert table["value"].tolist() == [1.0, 1.0]


@pytest.mark.parametrize(
    "damage", [lambda t: t[:-9], lambda t: t.replace("1.5", "2.5"), lambda t: "", lambda t: "[]"]
)
def test_a_damaged_measurement_is_noticed_and_made_again(runs, damage):
    """Truncated, altered, empty, or of another form: a warning, and the right value."""
    store, dense, _, _ = runs

    def value(*_):
        return {"value": 1.5}

    measure([dense], "v", value, store=store, device="cpu", progress=False)
    (path,) = (store.root / "measured").glob("*/*.json")
    path.write_text(damage(path.read_text()))
    with pytest.warns(UserWarning, match="is damaged"):
        table = measure([dense], "v", value, store=store, device="cpu", progress=False)
    assert table["value"].tolist() == [1.5]
    assert json.loads(path.read_text())["sha256"]


def test_a_diverged_run_is_not_measured(tmp_path):
    """Its row stands in the table without values."""
    store = Store(tmp_path)
    run = Run.dense(small(lr=1e20), seed=0)
    carry_out([run], store)
    table = measure([run], "loss", loss, store=store, device="cpu", progress=False)
    assert table["diverged"].tolist() == [True]
    assert "loss" not in table


def test_what_is_missing_is_named(runs):
    """A run that was not carried out, an epoch that was not kept."""
    store, dense, sparse, _ = runs
    with pytest.raises(KeyError, match="carry it out first"):
        measure(
            [scratch(dense, sparsity=0.5)], "loss", loss, store=store, device="cpu", progress=False
        )
    with pytest.raises(MeasureError, match="at is 1: sol_d, seed 0, kept the weights of 0, 2"):
        measure([dense], "loss", loss, store=store, at=(1,), device="cpu", progress=False)
    with pytest.raises(MeasureError, match="its end alone"):
        module_of(sparse, store.get(sparse.key), images_of(sparse, "cpu"), at=2)


def test_a_full_disk_is_said(runs, monkeypatch):
    """A measurement that cannot be kept stops with the store's own error; earlier ones stand."""
    store, dense, _, _ = runs
    measure([dense], "loss", loss, store=store, device="cpu", progress=False)

    def full(path, content):
        raise files.StorageError(28, "the disk is full")

    monkeypatch.setattr(files, "write_atomic", full)
    with pytest.raises(files.StorageError, match="full"):
        measure([dense], "other", loss, store=store, device="cpu", progress=False)
    assert len(measure([dense], "loss", loss, store=store, device="cpu", progress=False)) == 1


def test_labels_of_a_noisy_run_are_its_own(runs):
    """The labels that the run was given, and which are wrong; without noise the true ones."""
    _, dense, _, _ = runs
    images = images_of(dense, "cpu")
    given, flipped = labels_of(dense, images)
    again = sets.noisy_labels(images.y_train, 0.2, images.classes, 0, dense.data.noise_kind)
    assert torch.equal(given, again[0])
    assert torch.equal(flipped, given != images.y_train)
    clean = Run.dense(small(), seed=0)
    assert not labels_of(clean, images)[1].any()
