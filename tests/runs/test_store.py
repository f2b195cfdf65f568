"""The store keeps what it is given to the bit, notices damage, and leaves nothing half-written."""

import errno
import json
import math
import os
import random
import resource
import shutil
import subprocess
import sys
import warnings
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from support import (
    CONTEXT,
    carry_out,
    family,
    leftovers,
    same_results,
    same_table,
    same_tensors,
    small,
    start_process,
)

from lib import files
from lib.runs import store as stores
from lib.runs import sweep
from lib.runs.store import Finished, Store
from lib.specs.run import Run, finetune, key_of
from lib.training import loop

SPECIFICATION = {"seed": 1, "lr": 0.1}
KEY = key_of(SPECIFICATION)


def finished(key=KEY, **tensors):
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
    return Finished(
        key, {"seed": 1, "lr": 0.1}, history, tensors, {"diverged": None, "density": 1 / 3}
    )


def test_a_run_comes_back_to_the_bit(store):
    """Tensors with NaN, infinities, signed zeros and no elements, and numbers of the history, are what they were."""
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
        assert json.loads(file.metadata()["text"])["specification"] == {"seed": 1, "lr": 0.1}


def test_checkpoints(store):
    """The state of a cohort is replaced whole, comes back to the bit, and is forgotten when dropped."""
    store.save_checkpoint("x", {"weights": torch.ones(2, 3)}, {"epoch": 1})
    store.save_checkpoint("x", {"weights": torch.full((2, 3), math.pi)}, {"epoch": 2})
    tensors, content = store.checkpoint("x")
    assert content == {"epoch": 2}
    same_tensors(tensors, {"weights": torch.full((2, 3), math.pi)})
    store.drop_checkpoint("x")
    assert store.checkpoint("x") is None
    assert leftovers(store.root) == []


# -- damage ------------------------------------------------------------------------------------------------------------


def noticed(store, content):
    """Whether a file of this content is noticed as damaged: a warning, None, and the file set aside."""
    path = store.path(KEY)
    path.write_bytes(content)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        result = store.get(KEY)
    said = [str(w.message) for w in caught if "is damaged" in str(w.message)]
    aside = [p for p in path.parent.iterdir() if p != path]
    for p in aside:
        p.unlink()
    return (
        result is None
        and len(said) == 1
        and KEY in said[0]
        and not path.exists()
        and len(aside) == 1
    )


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
    """A file cut at any length, none included, or with bytes added."""
    store.put(finished())
    content = store.path(KEY).read_bytes()
    lengths = [0, 1, 7, 8, 9, *range(10, len(content), 37), len(content) - 1]
    assert [n for n in lengths if not noticed(store, content[:n])] == []
    assert noticed(store, content + b"\0")


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
    """The damaged run, and no other, is trained again, and the table is what it was."""
    runs = family(small(widths=[30]), seeds=(0, 1))
    table = carry_out(runs, store)
    shutil.copytree(store.root, tmp_path / "copy")
    damaged = runs[1] if which == "dense" else runs[-1]
    path = store.path(damaged.key)
    path.write_bytes(damage(path.read_bytes()))
    before = {run.key: store.path(run.key).stat().st_mtime_ns for run in runs}
    with pytest.warns(
        UserWarning, match=f"{damaged.key}.* is damaged: .*set aside and trained again"
    ):
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
    """Trained again alone rather than in its cohort, a run with BatchNorm ends with the same bits."""
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
    with pytest.warns(UserWarning, match="is damaged"):
        same_table(carry_out(runs, store), table)
    same_tensors(store.get(runs[1].key).tensors, tensors)


def test_a_damaged_checkpoint_is_said_and_begun_again(store, monkeypatch):
    """If the state of an interrupted cohort is damaged, its runs start from the beginning and end the same."""
    runs = family(small(epochs=4), seeds=(0,))[:1]
    expected = carry_out(runs, Store(store.root / "elsewhere"))
    monkeypatch.setattr(sweep, "CHECKPOINT_SECONDS", -1.0)
    interrupt_after(monkeypatch, 2)
    with pytest.raises(KeyboardInterrupt):
        carry_out(runs, store)
    monkeypatch.undo()
    (path,) = (store.root / "interrupted").iterdir()
    path.write_bytes(flip_middle_of_numbers(path.read_bytes()))
    with pytest.warns(UserWarning, match="is damaged"):
        same_table(carry_out(runs, store), expected)


def interrupt_after(monkeypatch, epochs):
    """Raise KeyboardInterrupt, as a person would, when a cohort has trained this many epochs."""
    real = loop.Training.run_epoch

    def interrupted(self, *arguments):
        if self.epoch == epochs:
            raise KeyboardInterrupt
        real(self, *arguments)

    monkeypatch.setattr(loop.Training, "run_epoch", interrupted)


# -- full disks --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EROFS])
@pytest.mark.parametrize("call", ["fsync", "replace"])
def test_a_failed_write_leaves_what_was_there(tmp_path, monkeypatch, call, code):
    """Whatever fails, the old content stands, nothing else is left, and the error names the place, the size and the reason."""
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
    """Where the disk has less room than the runs need, the error comes first and says how much of both there is."""
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
    """What the runs really take, their largest checkpoint included, is within what was asked for."""
    asked = []
    monkeypatch.setattr(Store, "ensure_room", lambda self, need: asked.append(need))
    peak, real = [0], files.write_atomic

    def watched(path, content):
        real(path, content)
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
    """Carry ``runs`` out where no file may grow beyond ``limit`` bytes, and send what was raised."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))
    try:
        carry_out(runs, Store(root))
    except OSError as error:
        answer.put((type(error).__name__, str(error)))
    else:
        answer.put(None)


@pytest.mark.parametrize("limit", [100, 8000])
def test_a_file_that_the_system_cuts_short(store, tmp_path, limit):
    """When the kernel refuses the rest of a file: a StorageError, no part of it, and earlier runs intact."""
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


def namespace():
    """A command prefix that may mount a file system of its own, or None where the system does not let us."""
    for prefix in (["unshare", "--user", "--map-root-user", "--mount"], ["unshare", "--mount"]):
        try:
            if not subprocess.run(
                [*prefix, "mount", "-t", "tmpfs", "tmpfs", "/mnt"], capture_output=True, timeout=20
            ).returncode:
                return prefix
        except (OSError, subprocess.TimeoutExpired):
            continue
    return None


FULL_DISK = """
import sys
sys.path.insert(0, {tests!r})
from support import *
from lib import files

disk = Path({disk!r})
store = Store(disk / "runs")
Store.ensure_room = lambda self, need: None  # the disk fills after training has begun
sweep.CHECKPOINT_SECONDS = 0.0  # a checkpoint after every epoch
first, second = (family(small(widths=[width]), seeds=(0, 1)) for width in (4, 60))
table = carry_out(first, store)
for left in (0, 20_000, 80_000, 120_000):  # nothing fits; no checkpoint; the checkpoint, but not the runs
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
    """On a small file system filled to the brim while training: a clear error, nothing half-written, earlier runs intact."""
    prefix = namespace()
    if prefix is None:
        pytest.skip(
            "this system lets us mount no file system; test_a_file_that_the_system_cuts_short stands in"
        )
    disk = tmp_path / "disk"
    disk.mkdir()
    code = FULL_DISK.format(
        tests=str(Path(__file__).parent), disk=str(disk), elsewhere=str(tmp_path / "elsewhere")
    )
    shell = 'mount -t tmpfs -o size=1m tmpfs "$1" && exec "$2" -c "$3"'
    done = subprocess.run(
        [*prefix, "sh", "-c", shell, "sh", str(disk), sys.executable, code],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.split()[-1] == "held"


def test_what_a_killed_writer_left_goes_after_a_day(tmp_path):
    """A partial file of a killed process is removed once it is a day old; a younger one may still be written to."""
    store = Store(tmp_path)
    store.prepare()
    old, young = tmp_path / "finished" / ".a.partial", tmp_path / "finished" / ".b.partial"
    for path in (old, young):
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(b"half")
    os.utime(old, (0, 0))
    store.prepare()
    assert (old.exists(), young.exists()) == (False, True)
