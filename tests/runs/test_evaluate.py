"""Measurements of finished runs: the right network, kept once, and nothing finished is lost."""

import functools
import json
import linecache
import math

import pytest
import torch
from safetensors import safe_open
from support import carry_out, same_table, small

from lib import files
from lib.data import sets
from lib.metrics.estimate import MeasureError
from lib.models import networks
from lib.runs.evaluate import filled, labels_of, mask_of, measure, module_of
from lib.runs.store import DamageError, Store
from lib.runs.sweep import images_of
from lib.specs.run import Run, finetune, scratch
from lib.training import loop


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
    """At the end and at a kept epoch, its loss is that of its history; pruned weights are 0."""
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
    images = images_of(sparse.data, "cpu")
    finished = store.get(sparse.key)
    module, mask = module_of(sparse, finished, images), mask_of(sparse, finished, images)
    assert not module.training
    for name, live in mask.items():
        assert not module.get_parameter(name)[~live].any()
    assert sum(int((~live).sum()) for live in mask.values()) == finished.info["pruned"]


def test_batchnorm_statistics_come_with_the_network(place_set):
    """A module that is filled from rows has their parameters and statistics where they belong."""
    network = networks.build("resnet-20", (3, 8, 8), 10, width=0.25)
    layout = loop.Layout(network)
    weights, buffers = torch.randn(layout.size), torch.rand(layout.buffer_size) + 0.5
    module = filled(network, weights, buffers)
    assert torch.equal(layout.row(dict(module.named_parameters())), weights)
    held = {n: b for n, b in module.named_buffers() if not n.endswith("num_batches_tracked")}
    assert torch.equal(torch.cat([b.flatten() for b in held.values()]), buffers)


class Calls:
    """A count of calls: an object, which a measuring function's hash sees by its type alone."""

    def __init__(self):
        self.keys = []


def test_nothing_is_measured_twice(runs):
    """A second call reads what is kept; another setting, name, version or epoch is another one."""
    store, dense, _, _ = runs
    calls = Calls()

    def count(module, mask, run, images):
        calls.keys.append(run.key)
        return {"value": float(len(calls.keys)), "curve": [1.0, math.pi]}

    def go(name="count", **options):
        return measure([dense], name, count, store=store, device="cpu", progress=False, **options)

    first = go()
    assert go().equals(first)
    assert first["curve"][0] == [1.0, math.pi]
    assert len(calls.keys) == 1
    go(settings={"probes": (2, 3)})
    go(settings={"probes": [2, 3]})
    go("another")
    go(at=(2,))
    go(version="2")
    assert len(calls.keys) == 5


def test_an_edited_function_is_measured_anew(runs):
    """So is one whose helper, or whose numbers, were edited; with a stated version, it is not."""
    store, dense, _, _ = runs

    def value(source, **options):
        space = {"__name__": "notebook", "np": math, "store": store, "made": iter(())}
        name = f"<cell {len(linecache.cache)}>"
        linecache.cache[name] = (len(source), None, source.splitlines(True), name)
        exec(compile(source, name, "exec"), space)
        table = measure(
            [dense], "v", space["value"], store=store, device="cpu", progress=False, **options
        )
        return table["value"].item()

    source = (
        "FACTOR = {'by': [2]}\n"
        "def half(x):\n    return x / 2\n"
        "def value(network, mask, run, images):\n"
        "    store, made, np.pi  # what has no content that could be hashed\n"
        "    return {'value': half(3.0) * FACTOR['by'][0]}\n"
    )
    assert value(source) == 3.0
    assert value(source.replace("3.0", "5.0")) == 5.0
    assert value(source.replace("x / 2", "x")) == 6.0
    assert value(source.replace("[2]", "[4]")) == 6.0
    assert len(list((store.root / "measured").glob("*/*"))) == 4
    assert value(source) == 3.0
    assert len(list((store.root / "measured").glob("*/*"))) == 4
    assert value(source, version="1") == value(source.replace("3.0", "9.0"), version="1") == 3.0


@pytest.mark.parametrize("of", ["method", "partial", "instance", "without source"])
def test_other_callables_are_known_by_their_source_too(runs, of):
    """A bound method, a partial function, a callable object; without source a function's code."""
    store, dense, _, _ = runs

    class Made:
        def __call__(self, *_):
            return {"value": 1.0}

    space = {}
    exec("def value(*_): return {'value': 1.0}", space)
    made = {"method": Made().__call__, "instance": Made(), "without source": space["value"]}
    function = made.get(of) or functools.partial(space["value"], 1)
    for _ in range(2):
        measure([dense], "v", function, store=store, device="cpu", progress=False)
        assert len(list((store.root / "measured").glob("*/*"))) == 1


def test_an_interruption_loses_only_the_one_at_work(runs):
    """What was measured before the interruption is kept."""
    store, dense, sparse, _ = runs
    calls = Calls()

    def fragile(module, mask, run, images):
        calls.keys.append(run.key)
        if len(calls.keys) == 2:
            raise KeyboardInterrupt
        return {"value": 1.0}

    with pytest.raises(KeyboardInterrupt):
        measure([dense, sparse], "fragile", fragile, store=store, device="cpu", progress=False)
    table = measure([dense, sparse], "fragile", fragile, store=store, device="cpu", progress=False)
    assert calls.keys == [dense.key, sparse.key, sparse.key]
    assert table["value"].tolist() == [1.0, 1.0]


def value(*_):
    return {"value": 1.5}


@pytest.mark.parametrize(
    "damage",
    [lambda b: b[:-9], lambda b: b.replace(b"1.5", b"2.5"), lambda b: b"", lambda b: b"[]"],
)
def test_a_damaged_measurement_is_noticed_and_made_again(runs, damage):
    """Truncated, altered, empty, or of another form: a warning, and the right value."""
    store, dense, _, _ = runs
    measure([dense], "v", value, store=store, device="cpu", progress=False)
    (path,) = (store.root / "measured").glob("*/*")
    path.write_bytes(damage(path.read_bytes()))
    with pytest.warns(UserWarning, match="cannot be used"):
        table = measure([dense], "v", value, store=store, device="cpu", progress=False)
    assert table["value"].tolist() == [1.5]
    assert store.measured(store_content(path)["specification"]) == {"value": 1.5}


def store_content(path):
    """What a file says in its header, read by another reader of its format."""
    with safe_open(path, "pt") as file:
        return json.loads(file.metadata()["text"])


def test_swapped_measurements_are_noticed(runs):
    """Each of two files under the other's name is refused and made again."""
    store, dense, sparse, _ = runs

    def pruned(module, mask, run, images):
        return {"pruned": sum(int((~live).sum()) for live in mask.values())}

    def go():
        options = {"store": store, "device": "cpu", "progress": False}
        return measure([dense, sparse], "pruned", pruned, **options)["pruned"].tolist()

    found = go()
    assert found == [0, 512]
    one, two = (store.root / "measured").glob("*/*")
    contents = two.read_bytes(), one.read_bytes()
    for path, content in zip((one, two), contents, strict=True):
        path.write_bytes(content)
    with pytest.warns(UserWarning, match="something else than its name says"):
        assert go() == found
    assert go() == found


def test_a_run_whose_weights_are_damaged_is_not_measured(runs):
    """It is said and set aside; carried out again, it is measured as before."""
    store, dense, sparse, table = runs
    path = store.path(sparse.key)
    content = bytearray(path.read_bytes())
    content[-5] ^= 1
    path.write_bytes(content)
    with (
        pytest.warns(UserWarning, match="checksum of its tensors"),
        pytest.raises(DamageError, match=f"{sparse.key} are lost: carry it out again"),
    ):
        measure([sparse], "loss", loss, store=store, device="cpu", progress=False)
    assert not store.has(sparse.key)
    same_table(carry_out([dense, sparse], store), table)
    measured = measure([sparse], "loss", loss, store=store, device="cpu", progress=False)
    assert measured["loss"].notna().all()


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
        module_of(sparse, store.get(sparse.key), images_of(sparse.data, "cpu"), at=2)


def test_a_full_disk_is_said(runs, monkeypatch):
    """A measurement that cannot be kept stops with the store's own error; earlier ones stand."""
    store, dense, _, _ = runs
    measure([dense], "loss", loss, store=store, device="cpu", progress=False)

    def full(path, content, sync):
        raise files.StorageError(28, "the disk is full")

    monkeypatch.setattr(files, "write_atomic", full)
    with pytest.raises(files.StorageError, match="full"):
        measure([dense], "other", loss, store=store, device="cpu", progress=False)
    assert len(measure([dense], "loss", loss, store=store, device="cpu", progress=False)) == 1


def test_a_measurement_does_not_wait_for_the_disk(runs, monkeypatch):
    """Hundreds are kept one by one; what a power cut leaves of one is noticed, and made anew."""
    store, dense, _, _ = runs
    monkeypatch.setattr(files.os, "fsync", lambda _: pytest.fail("it waited"))
    first = measure([dense], "unsynced", loss, store=store, device="cpu", progress=False)
    (path,) = [p for p in store.root.rglob("*.safetensors") if b"unsynced" in p.read_bytes()]
    path.write_bytes(b"")
    with pytest.warns(UserWarning, match="set aside"):
        again = measure([dense], "unsynced", loss, store=store, device="cpu", progress=False)
    same_table(first, again)


def test_labels_of_a_noisy_run_are_its_own(runs):
    """The labels that the run was given, and which are wrong; without noise the true ones."""
    _, dense, _, _ = runs
    images = images_of(dense.data, "cpu")
    given, flipped = labels_of(dense, images)
    again = sets.noisy_labels(images.y_train, 0.2, images.classes, 0, dense.data.noise_kind)
    assert torch.equal(given, again[0])
    assert torch.equal(flipped, given != images.y_train)
    clean = Run.dense(small(), seed=0)
    assert not labels_of(clean, images)[1].any()
