"""The store keeps what it is given to the bit, notices damage, and leaves nothing half-written."""

import builtins
import contextlib
import errno
import hashlib
import json
import math
import os
import random
import resource
import shutil
import subprocess
import sys
import time
import warnings
from pathlib import Path
from types import SimpleNamespace

import pytest
import safetensors.torch
import torch
from safetensors import safe_open
from support import (
    CONTEXT,
    carry_out,
    family,
    leftovers,
    namespace,
    same_results,
    same_table,
    same_tensors,
    small,
    start_process,
)

from lib import files
from lib.runs import results, sweep
from lib.runs import store as stores
from lib.runs.evaluate import measure
from lib.runs.store import DamageError, Finished, Store
from lib.specs.run import Run, finetune, key_of
from lib.training import loop

SPECIFICATION = {"seed": 1, "lr": 0.1}
KEY = key_of(SPECIFICATION)


def finished(**tensors):
    awkward = torch.tensor([0.0, -0.0, 1e-45, math.pi, math.inf, -math.inf, math.nan, 3.4e38])
    tensors = tensors or {
        "weights": awkward,
        "buffers": torch.zeros(0),
        "mask": torch.tensor([True, False]),
        "weights@3": awkward.flip(0),
    }
    history = [
        {"epoch": 0, "train_loss": 0.1 + 0.2, "flipped_loss": math.nan},
        {"epoch": 1, "train_loss": math.inf},
    ]
    info = {"diverged": None, "density": 1 / 3}
    return Finished(KEY, SPECIFICATION, history, info, lambda: tensors)


def test_a_run_comes_back_to_the_bit(store):
    """Tensors with NaN, infinities, signed zeros and no elements, and the history's numbers."""
    run = finished()
    store.put(run)
    back = Store(store.root).get(KEY)
    same_tensors(back.tensors, run.tensors)
    assert repr((back.key, back.specification, back.history, back.info)) == repr(
        (run.key, run.specification, run.history, run.info)
    )
    assert store.has(KEY)
    assert leftovers(store.root) == []


def test_what_is_not_there(store):
    """A run that the store lacks is None, without any warning and before the folder exists."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert store.get(KEY) is None
        assert store.checkpoint("x") is None
    assert not store.has(KEY)
    store.drop_checkpoint("x")


def test_the_earlier_run_stands(store):
    """A second run of the same key does not replace the first."""
    store.put(finished(weights=torch.zeros(3)))
    store.put(finished(weights=torch.ones(3)))
    assert store.get(KEY).tensors["weights"].tolist() == [0, 0, 0]


def test_the_root_is_an_environment_variable(tmp_path, monkeypatch):
    """SPARSITY_RUNS says where the store is, and ~ means home."""
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("SPARSITY_RUNS", "~/elsewhere")
    assert Store().root == tmp_path / "elsewhere"


def test_only_tensors_and_text_are_stored(store):
    """A stored file is safetensors with text beside it; any reader of that format can open it."""
    from safetensors import safe_open

    store.put(finished())
    with safe_open(store.path(KEY), "pt") as file:
        assert set(file.keys()) == {"weights", "buffers", "mask", "weights@3"}
        assert json.loads(file.metadata()["text"])["specification"] == SPECIFICATION


def test_checkpoints(store):
    """The state of a cohort is replaced whole, comes back to the bit, and is forgotten when
    dropped.
    """
    store.save_checkpoint("x", {"weights": torch.ones(2, 3)}, {"epoch": 1})
    store.save_checkpoint("x", {"weights": torch.full((2, 3), math.pi)}, {"epoch": 2})
    tensors, content = store.checkpoint("x")
    assert content == {"epoch": 2}
    same_tensors(tensors, {"weights": torch.full((2, 3), math.pi)})
    store.drop_checkpoint("x")
    assert store.checkpoint("x") is None
    assert leftovers(store.root) == []


# -- damage ------------------------------------------------------------------------------------


def said_of(read, path):
    """What ``read`` warns of a file in the store that cannot be used; fail unless it is set
    aside.
    """
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        with contextlib.suppress(DamageError):
            assert read() is None
    said = [str(w.message) for w in caught if path.name in str(w.message)]
    assert not path.exists()
    aside = [other for other in path.parent.iterdir() if ".damaged-" in other.name]
    assert len(said) == len(aside) == 1
    for other in aside:
        shutil.rmtree(other) if other.is_dir() else other.unlink()
    return said[0]


def noticed(store, content):
    """Whether a file of this content is said to be unusable, once, and set aside, when it is
    used.
    """
    path = store.path(KEY)
    path.write_bytes(content)

    def use():
        found = store.get(KEY)
        return found and found.tensors

    try:
        return bool(said_of(use, path))
    except AssertionError:
        return False


def test_any_flipped_bit_is_noticed(store):
    """One bit anywhere: in the length, the header, its text and checksum, or the numbers."""
    store.put(
        finished(
            weights=torch.randn(40, generator=torch.Generator().manual_seed(0)),
            mask=torch.ones(40, dtype=torch.bool),
        )
    )
    content, rng = store.path(KEY).read_bytes(), random.Random(0)
    missed = []
    for position in range(len(content)):
        altered = bytearray(content)
        altered[position] ^= 1 << rng.randrange(8)
        if not noticed(store, bytes(altered)):
            missed.append(position)
    assert missed == []
    store.path(KEY).write_bytes(content)
    assert store.get(KEY) is not None


def test_any_truncation_is_noticed(store):
    """A file cut at any length, none included, or with bytes added, before its tensors are used."""
    store.put(finished())
    content, path = store.path(KEY).read_bytes(), store.path(KEY)
    lengths = [0, 1, 7, 8, 9, *range(10, len(content), 37), len(content) - 1]
    for altered in [*(content[:n] for n in lengths), content + b"\0"]:
        path.write_bytes(altered)
        assert said_of(lambda: store.get(KEY), path)


def in_the_place_of_a_file(path):
    path.unlink()
    path.mkdir()


def rewritten(**changes):
    """A change of a file's text that leaves its checksums right."""

    def rewrite(path):
        with safe_open(path, "pt") as file:
            held = file.metadata()
        tensors = safetensors.torch.load_file(path)
        held |= changes.get("held", {})
        text = json.dumps({**json.loads(held["text"]), **changes.get("text", {})})
        held |= {"text": text, "sha256": hashlib.sha256(text.encode()).hexdigest()}
        path.write_bytes(safetensors.torch.save(tensors, metadata=held))

    return rewrite


FOREIGN = {
    "another format": (rewritten(held={"format": "3"}), "its format is 3, and not 2"),
    "no format": (
        lambda path: path.write_bytes(safetensors.torch.save({}, metadata={"text": "{}"})),
        "its format is None",
    ),
    "no text": (lambda path: path.write_bytes(safetensors.torch.save({})), "cannot be read"),
    "a pickle": (lambda path: torch.save({"weights": torch.ones(2)}, path), "cannot be read"),
    "a list": (lambda path: path.write_bytes(b"\2" + bytes(7) + b"[]"), "cannot be read"),
    "a huge header": (lambda path: path.write_bytes(b"\xff" * 7 + b"\0{}"), "cannot be read"),
    "a folder": (in_the_place_of_a_file, "IsADirectoryError"),
    "another run": (rewritten(text={"specification": {"seed": 2}}), "something else than its name"),
    "more fields": (rewritten(text={"weights": "x"}), "unexpected keyword argument 'weights'"),
}


@pytest.mark.parametrize(("change", "reason"), FOREIGN.values(), ids=FOREIGN)
def test_what_the_store_did_not_write_is_refused(store, change, reason):
    """Whatever lies in the place of a run, it is said why it cannot be used; it costs that run."""
    store.put(finished())
    path = store.path(KEY)
    change(path)
    assert reason in said_of(lambda: store.get(KEY), path)
    store.put(finished())
    same_tensors(store.get(KEY).tensors, finished().tensors)


def test_a_file_that_may_not_be_read(store, monkeypatch):
    """It is set aside as well; where a process has no more files to open, nothing is."""
    store.put(finished())
    real = builtins.open

    def refusing(code):
        def refused(path, *arguments, **named):
            if Path(path) == store.path(KEY):
                raise OSError(code, os.strerror(code), str(path))
            return real(path, *arguments, **named)

        return refused

    monkeypatch.setattr(builtins, "open", refusing(errno.EMFILE))
    with pytest.raises(OSError, match="Too many open files"):
        store.get(KEY)
    monkeypatch.setattr(builtins, "open", refusing(errno.EACCES))
    assert "PermissionError" in said_of(lambda: store.get(KEY), store.path(KEY))


def test_swapped_files_are_trained_again(store):
    """Two runs under each other's names are noticed, said, set aside, and trained anew."""
    runs = family(small(), seeds=(0,))
    table = carry_out(runs, store)
    one, two = store.path(runs[1].key), store.path(runs[2].key)
    contents = two.read_bytes(), one.read_bytes()
    for path, content in zip((one, two), contents, strict=True):
        path.write_bytes(content)
    with pytest.warns(UserWarning, match="something else than its name says") as said:
        same_table(carry_out(runs, store), table)
    assert sorted(str(w.message).split(".")[0] for w in said) == sorted(r.key for r in runs[1:])
    assert len(leftovers(store.root)) == 2
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        same_table(carry_out(runs, store), table)


# -- what is read, and when --------------------------------------------------------------------


def test_tables_do_not_read_weights(store, monkeypatch):
    """Looking up, tabulating, and what needs a history alone, read the headers of files."""
    runs = family(small(widths=[300]), seeds=(0,))
    table = carry_out(runs, store)
    monkeypatch.setattr(stores, "_checksum", lambda tensors: pytest.fail("tensors were read"))
    monkeypatch.setattr("safetensors.torch.load", lambda content: pytest.fail("tensors were read"))
    same_table(carry_out(runs, store), table)
    assert store.get(runs[0].key).info["diverged"] is None
    assert len(results.flows(runs, store)) == 0
    assert results.cost(runs, store)["to train"].tolist() == [0, 0, 0]


def test_a_child_of_damaged_weights_trains_its_parent_again(store):
    """The damage is found when a new run is made from them: in the same call all ends well."""
    dense = Run.dense(small(), seed=0)
    carry_out([dense], store)
    tensors, path = store.get(dense.key).tensors, store.path(dense.key)
    path.write_bytes(flip_middle_of_numbers(path.read_bytes()))
    child = finetune(dense, sparsity=0.5)
    assert store.get(dense.key) is not None  # nothing has used the weights yet
    with pytest.warns(UserWarning, match=f"{dense.key}.*checksum of its tensors"):
        table = carry_out([child], store)
    same_table(table, carry_out([child], Store(store.root / "elsewhere")))
    same_tensors(store.get(dense.key).tensors, tensors)


def test_damaged_weights_that_cannot_be_set_aside_stop(store, monkeypatch):
    """Where the file cannot be moved, its run cannot be trained again: the error says which."""
    dense = Run.dense(small(), seed=0)
    carry_out([dense], store)
    path = store.path(dense.key)
    path.write_bytes(flip_middle_of_numbers(path.read_bytes()))

    def fails(*arguments):
        raise PermissionError(errno.EACCES, "no")

    monkeypatch.setattr(Path, "rename", fails)
    with (
        pytest.warns(UserWarning, match="checksum of its tensors"),
        pytest.raises(DamageError, match=f"{dense.key} are lost"),
    ):
        carry_out([finetune(dense, sparsity=0.5)], store)


def lock_up(monkeypatch, root):
    """Make whatever would write below ``root`` fail, as on a medium that can only be read."""

    def refused(real):
        def call(path, *arguments, **named):
            if str(path).startswith(str(root)):
                raise OSError(errno.EROFS, os.strerror(errno.EROFS), str(path))
            return real(path, *arguments, **named)

        return call

    for name in ("mkdir", "unlink", "rename", "write_bytes", "touch"):
        monkeypatch.setattr(Path, name, refused(getattr(Path, name)))
    for name in ("open", "replace", "mkdir", "unlink"):
        monkeypatch.setattr(os, name, refused(getattr(os, name)))
    may = os.access
    monkeypatch.setattr(os, "access", lambda path, mode: mode != os.W_OK and may(path, mode))


def test_a_complete_store_is_read_where_it_cannot_be_written(store, monkeypatch):
    """Table, measures, masks and weights are there; what is missing is refused before training."""
    runs = family(small(), seeds=(0,))
    table = carry_out(runs, store)

    def nothing(*_):
        return {"value": 1.0}

    measured = measure(runs, "v", nothing, store=store, device="cpu", progress=False)
    tensors = store.get(runs[2].key).tensors
    store.save_checkpoint("aa", {}, {"members": [{"key": runs[0].key}]})
    (store.root / "finished" / ".x.partial").write_bytes(b"half")
    os.utime(store.root / "finished" / ".x.partial", (0, 0))
    lock_up(monkeypatch, store.root)
    no_training(monkeypatch)
    same_table(carry_out(runs, store), table)
    same_table(measure(runs, "v", nothing, store=store, device="cpu", progress=False), measured)
    same_tensors(store.get(runs[2].key).tensors, tensors)
    with pytest.raises(files.StorageError, match=r"cannot be made|is not writable"):
        carry_out([*runs, finetune(runs[0], sparsity=0.5)], store)


# -- damage of runs in a sweep -----------------------------------------------------------------


def flip_middle_of_numbers(content):
    altered = bytearray(content)
    altered[-len(content) // 4] ^= 1
    return bytes(altered)


DAMAGES = {
    "cut in half": lambda content: content[: len(content) // 2],
    "empty": lambda content: b"",
    "one bit of the numbers": flip_middle_of_numbers,
    "one bit of the text": lambda content: content.replace(b"train_loss", b"trajn_loss", 1),
    "one bit of a name": lambda content: content.replace(b'"sha256"', b'"sha257"', 1),
}


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
@pytest.mark.parametrize("which", ["dense", "sparse"])
def test_a_damaged_run_is_said_and_trained_again(damage, which, tmp_path, store):
    """The damaged run, and no other, is trained again when it is used; the table is what it was."""
    runs = family(small(widths=[30]), seeds=(0, 1))
    table = carry_out(runs, store)
    shutil.copytree(store.root, tmp_path / "copy")
    damaged = runs[1] if which == "dense" else runs[-1]
    path = store.path(damaged.key)
    path.write_bytes(damage(path.read_bytes()))
    before = {run.key: store.path(run.key).stat().st_mtime_ns for run in runs}
    with (
        pytest.warns(UserWarning, match=f"{damaged.key}.* cannot be used: .*set aside .*made anew"),
        contextlib.suppress(DamageError),
    ):
        assert (found := store.get(damaged.key)) is None or found.tensors
    again = carry_out(runs, store)
    same_table(again, table)
    same_results(runs, store, Store(tmp_path / "copy"))
    assert [
        run.key for run in runs if store.path(run.key).stat().st_mtime_ns != before[run.key]
    ] == [damaged.key]
    aside = leftovers(store.root)
    assert len(aside) == 1
    assert "damaged" in aside[0]


def test_a_damaged_convolutional_run_is_trained_again(store, place_set):
    """Trained again alone rather than in its cohort, a run with BatchNorm ends with the same
    bits.
    """
    place_set()
    options = {
        "dataset": "cifar10",
        "train_examples": None,
        "test_examples": None,
        "network": "resnet-20",
        "width": 0.25,
    }
    runs = [Run.dense(small(**options, batch_size=16, lr=0.02), seed=seed) for seed in (0, 1, 2)]
    table, path = carry_out(runs, store), store.path(runs[1].key)
    tensors = store.get(runs[1].key).tensors
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.warns(UserWarning, match="cannot be used"):
        same_table(carry_out(runs, store), table)
    same_tensors(store.get(runs[1].key).tensors, tensors)


def test_a_damaged_checkpoint_is_said_and_begun_again(store, monkeypatch):
    """If the state of an interrupted cohort is damaged, its runs start from the beginning and
    end the same.
    """
    runs = family(small(epochs=4), seeds=(0,))[:1]
    expected = carry_out(runs, Store(store.root / "elsewhere"))
    monkeypatch.setattr(sweep, "CHECKPOINT_SECONDS", -1.0)
    interrupt_after(monkeypatch, 2)
    with pytest.raises(KeyboardInterrupt):
        carry_out(runs, store)
    monkeypatch.undo()
    (path,) = (store.root / "interrupted").glob("*/*.safetensors")
    path.write_bytes(flip_middle_of_numbers(path.read_bytes()))
    with pytest.warns(UserWarning, match="cannot be used"):
        same_table(carry_out(runs, store), expected)


def other_shape(tensors, content):
    return {**tensors, "weights": tensors["weights"][:, :1]}, content


def other_name(tensors, content):
    return {**tensors, "0/momentum@1": tensors["weights"][0] + 1}, content


def one_less(tensors, content):
    return {name: value for name, value in tensors.items() if name != "mask"}, content


def other_members(tensors, content):
    return tensors, {**content, "members": [{**m, "key": KEY} for m in content["members"]]}


@pytest.mark.parametrize("change", [other_shape, other_name, one_less, other_members])
def test_a_foreign_checkpoint_is_said_and_begun_again(store, monkeypatch, change):
    """A state of other runs or of another network costs what it held, and nothing else."""
    runs = family(small(epochs=4), seeds=(0,))[:1]
    expected = carry_out(runs, Store(store.root / "elsewhere"))
    monkeypatch.setattr(sweep, "CHECKPOINT_SECONDS", -1.0)
    interrupt_after(monkeypatch, 2)
    with pytest.raises(KeyboardInterrupt):
        carry_out(runs, store)
    monkeypatch.undo()
    (path,) = (store.root / "interrupted").glob("*/*.safetensors")
    store.save_checkpoint(path.stem, *change(*store.checkpoint(path.stem)))
    with pytest.warns(UserWarning, match=f"{path.stem}.* cannot be used"):
        same_table(carry_out(runs, store), expected)
    assert not path.exists()


def interrupt_after(monkeypatch, epochs):
    """Raise KeyboardInterrupt, as a person would, when a cohort has trained this many epochs."""
    real = loop.Training.run_epoch

    def interrupted(self, *arguments):
        if self.epoch == epochs:
            raise KeyboardInterrupt
        real(self, *arguments)

    monkeypatch.setattr(loop.Training, "run_epoch", interrupted)


# -- full disks --------------------------------------------------------------------------------


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EROFS])
@pytest.mark.parametrize("call", ["fsync", "replace"])
def test_a_failed_write_leaves_what_was_there(tmp_path, monkeypatch, call, code):
    """Whatever fails, the old content stands, nothing else is left, and the error names the
    place, the size and the reason.
    """
    path = tmp_path / "folder" / "file"
    files.write_atomic(path, b"old")

    def fails(*arguments):
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(files.os, call, fails)
    reason = "the disk is full" if code in (errno.ENOSPC, errno.EDQUOT) else os.strerror(code)
    with pytest.raises(files.StorageError, match=reason) as caught:
        files.write_atomic(path, bytes(3 << 20))
    monkeypatch.undo()
    assert caught.value.errno == code
    assert f"3.0 MiB to {path}" in str(caught.value)
    assert [p.name for p in path.parent.iterdir()] == ["file"]
    assert path.read_bytes() == b"old"


def test_a_store_that_cannot_be_made(tmp_path):
    """Where a file stands in the way of the store, this is said before any training."""
    (tmp_path / "file").write_text("in the way")
    for root in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(files.StorageError, match="cannot be made") as caught:
            carry_out(family(small())[:1], Store(root))
        assert str(root) in str(caught.value)


def no_training(monkeypatch):
    """Make any training fail the test."""

    def trains(*arguments, **named):
        raise AssertionError("something was trained")

    monkeypatch.setattr(loop.Training, "__init__", trains)


def test_room_is_made_sure_of_before_training(store, monkeypatch):
    """Where the disk has less room than the runs need, the error comes first and says how much
    of both there is.
    """
    runs = family(small())
    with monkeypatch.context() as patched:
        no_training(patched)
        patched.setattr(stores.shutil, "disk_usage", lambda path: SimpleNamespace(free=1000))
        with pytest.raises(
            files.StorageError, match=r"0 MiB free .* need about .* MiB.*SPARSITY_RUNS"
        ):
            carry_out(runs, store)
    table = carry_out(runs, store)
    with monkeypatch.context() as patched:  # runs that are there need no room
        no_training(patched)
        patched.setattr(stores.shutil, "disk_usage", lambda path: SimpleNamespace(free=0))
        same_table(carry_out(runs, store), table)


def test_the_room_asked_for_is_enough(store, monkeypatch):
    """What the runs really take, their largest checkpoint included, is within what was asked
    for.
    """
    asked = []
    monkeypatch.setattr(Store, "prepare", lambda self, need: asked.append(need))
    peak, real = [0], files.write_atomic

    def watched(path, content, **how):
        real(path, content, **how)
        peak[0] = max(
            peak[0], sum(p.stat().st_size for p in Path(store.root).rglob("*") if p.is_file())
        )

    monkeypatch.setattr(stores.files, "write_atomic", watched)
    monkeypatch.setattr(sweep, "CHECKPOINT_SECONDS", -1.0)
    dense = [
        Run.dense(small(widths=[200, 200], prune_from="best-test"), seed=seed, keep=(1, 2))
        for seed in (0, 1)
    ]
    carry_out([*dense, *(finetune(d, sparsity=0.5) for d in dense)], store)
    assert peak[0] > 0
    assert peak[0] <= asked[0] <= 5 * peak[0]  # an estimate, never too low and not absurd


def test_a_store_that_is_not_writable(store, monkeypatch):
    """This too is said before any training."""
    no_training(monkeypatch)
    monkeypatch.setattr(stores.os, "access", lambda path, mode: False)
    with pytest.raises(files.StorageError, match="is not writable; set SPARSITY_RUNS"):
        carry_out(family(small())[:1], store)


def carry_out_within(runs, root, limit, answer):
    """Carry ``runs`` out where no file may grow beyond ``limit`` bytes, and send what was
    raised.
    """
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))
    try:
        carry_out(runs, Store(root))
    except OSError as error:
        answer.put((type(error).__name__, str(error)))
    else:
        answer.put(None)


@pytest.mark.parametrize("limit", [100, 8000])
def test_a_file_that_the_system_cuts_short(store, tmp_path, limit):
    """When the kernel refuses the rest of a file: a StorageError, no part of it, and earlier
    runs intact.
    """
    before, after = family(small(widths=[2]), seeds=(0,)), family(small(widths=[60]), seeds=(0,))
    table = carry_out(before, store)
    answer = CONTEXT.Queue()
    process = start_process(carry_out_within, after, store.root, limit, answer)
    name, message = answer.get(timeout=120)
    process.join()
    assert name == "StorageError"
    assert str(store.root) in message
    assert "disk is full" in message
    assert leftovers(store.root) == []
    same_table(carry_out(before, store), table)
    same_table(carry_out(after, store), carry_out(after, Store(tmp_path / "other")))


FULL_DISK = """
import sys
sys.path.insert(0, {tests!r})
from support import *
from lib import files

disk = Path({disk!r})
store = Store(disk / "runs")
Store.prepare = lambda self, need: None  # the disk fills after training has begun
sweep.CHECKPOINT_SECONDS = 0.0  # a checkpoint after every epoch
first, second = (family(small(widths=[width]), seeds=(0, 1)) for width in (4, 60))
table = carry_out(first, store)
# nothing fits; no checkpoint; the checkpoint, but not the runs
for left in (0, 20_000, 80_000, 120_000):
    filler = disk / "filler"
    with open(filler, "wb", buffering=0) as file:
        try:
            while True:
                file.write(bytes(4096))
        except OSError as error:
            assert error.errno == 28, error
        file.truncate(max(0, file.tell() - left))
    try:
        carry_out(second, store)
        raise SystemExit(f"with {{left}} bytes left nothing was raised")
    except files.StorageError as error:
        assert "the disk is full" in str(error) and str(disk) in str(error), error
    assert not [p for p in disk.rglob("*.partial")], list(disk.rglob("*"))
    same_table(carry_out(first, store), table)
    filler.unlink()
same_table(carry_out(second, store), carry_out(second, Store({elsewhere!r})))
assert leftovers(store.root) == [], leftovers(store.root)
print("held")
"""


def test_a_disk_that_is_really_full(tmp_path):
    """On a small file system filled to the brim while training: a clear error, nothing half-
    written, earlier runs intact.
    """
    prefix = namespace()
    if prefix is None:
        pytest.skip(
            "this system lets us mount no file system; the test of a file cut short stands in"
        )
    disk = tmp_path / "disk"
    disk.mkdir()
    code = FULL_DISK.format(
        tests=str(Path(__file__).parent.parent),
        disk=str(disk),
        elsewhere=str(tmp_path / "elsewhere"),
    )
    shell = 'mount -t tmpfs -o size=1m tmpfs "$1" && exec "$2" -c "$3"'
    done = subprocess.run(
        [*prefix, "sh", "-c", shell, "sh", str(disk), sys.executable, code],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.split()[-1] == "held"


def test_leftovers_go(tmp_path):
    """Partial files after a day, what was set aside after thirty; what is younger stays."""
    store = Store(tmp_path)
    ages = {".a.partial": 2, ".b.partial": 0.5, "c.damaged-1": 31, "d.damaged-2": 29, "e": 99}
    for name, days in ages.items():
        path = tmp_path / "finished" / "ab" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"half")
        os.utime(path, (time.time() - 86_400 * days,) * 2)
    carry_out([], store)
    assert leftovers(tmp_path) == [f"finished/ab/{n}" for n in (".b.partial", "d.damaged-2", "e")]


def test_checkpoints_of_finished_runs_go(store):
    """One whose runs have all been finished, be it by another list, is of no use to anybody."""
    runs = family(small(epochs=1, sparse_epochs=1), seeds=(0,))
    for name, members in (("aa", runs[:1]), ("bb", runs)):
        store.save_checkpoint(name, {}, {"members": [{"key": run.key} for run in members]})
    carry_out(runs[:1], store)
    carry_out(runs[:1], store)
    assert leftovers(store.root) == ["interrupted/bb/bb.safetensors"]


# -- folders -----------------------------------------------------------------------------------


def test_a_folder_is_written_whole(tmp_path, monkeypatch):
    """A new one appears at once; one that is there keeps its other files; a failure leaves all."""
    place = tmp_path / "a" / "b"

    def write(text, fails=False):
        with files.whole_folder(place, "last.json") as folder:
            (folder / "last.json").write_text(text)
            (folder / "first.csv").write_text(text)
            if fails:
                raise RuntimeError("a cell failed")

    with pytest.raises(RuntimeError, match="a cell failed"):
        write("zero", fails=True)
    assert not place.exists()
    write("one")
    (place / "other").write_text("mine")
    write("two")
    with pytest.raises(RuntimeError, match="a cell failed"):
        write("three", fails=True)
    held = {path.name: path.read_text() for path in place.iterdir()}
    assert held == {"last.json": "two", "first.csv": "two", "other": "mine"}
    assert [path.name for path in place.parent.iterdir()] == ["b"]
    moved, real = [], os.replace

    def stops(source, target):
        moved.append(Path(target).name)
        if len(moved) == 2:
            raise OSError(errno.ENOSPC, "full")
        real(source, target)

    monkeypatch.setattr(files.os, "replace", stops)
    with pytest.raises(files.StorageError, match="the disk is full"):
        write("four")
    assert moved == ["first.csv", "last.json"]
    assert not (place / "last.json").exists()  # so that nobody takes the rest for whole
    (tmp_path / "file").write_text("in the way")
    with (
        pytest.raises(files.StorageError, match="could not write"),
        files.whole_folder(tmp_path / "file" / "below", "last.json"),
    ):
        pass
