"""Small experiments and processes that several test files share."""

import hashlib
import multiprocessing
import os
import pkgutil
import signal
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from lib import data, presets, sweep, training
from lib.cohort import Layout
from lib.runs import Run, Setup, finetune, scratch
from lib.store import Store
from lib.training import network_of

SMALL = {
    **{"dataset": "digits", "train_examples": 150, "test_examples": 80, "network": "mlp", "widths": [16]},
    **{"epochs": 3, "sparse_epochs": 3, "batch_size": 32, "lr": 0.1, "momentum": 0.9, "seeds": 2},
}


def small(**overrides) -> Setup:
    """A setup of a small network on few digits, with ``overrides`` of the settings, on the data that is there."""
    s = presets.Settings(**{**SMALL, **overrides})
    images = data.load(s.dataset, train=s.train_examples, test=s.test_examples, normalise=s.normalise)
    return Setup.of(s, images.fingerprint)


def images_of(run: Run) -> data.ImageSet:
    """The images that ``run`` trains and is measured on."""
    return data.load(run.data.name, train=run.data.train, test=run.data.test, normalise=run.data.normalise)


def layout_of(run: Run) -> Layout:
    """Where the parameters of ``run`` lie in a stored row."""
    return Layout(network_of(run, images_of(run)))


def family(setup: Setup, sparsity: float = 0.8, seeds=(0, 1)) -> list[Run]:
    """Sol-D, Sol-F and Sol-S for each seed."""
    dense = [Run.dense(setup, seed=seed) for seed in seeds]
    return dense + [start(d, sparsity=sparsity) for start in (finetune, scratch) for d in dense]


def carry_out(runs: list[Run], store: Store) -> pd.DataFrame:
    """``sweep.carry_out`` on the CPU without a progress bar."""
    return sweep.carry_out(runs, store=store, device="cpu", progress=False)


def outcomes(runs: list[Run], root: Path) -> list:
    """The finished runs, in order, trained together in a store at ``root``."""
    store = Store(root)
    carry_out(runs, store)
    return [store.get(run.key) for run in runs]


def same_table(left: pd.DataFrame, right: pd.DataFrame) -> None:
    """Fail unless the two tables are equal to the last bit."""
    pd.testing.assert_frame_equal(left, right, check_exact=True)


def same_tensors(left: dict, right: dict) -> None:
    """Fail unless the two dicts hold the same names and bits."""
    assert left.keys() == right.keys()
    for name in left:
        assert left[name].dtype == right[name].dtype, name
        assert left[name].numpy().tobytes() == right[name].numpy().tobytes(), name


def same_results(runs: list[Run], store: Store, other: Store) -> None:
    """Fail unless both stores hold every run (and parent) with the same weights, history and mask."""
    for run in [*runs, *(run.parent for run in runs if run.parent)]:
        ours, theirs = store.get(run.key), other.get(run.key)
        same_tensors(ours.tensors, theirs.tensors)
        same_table(pd.DataFrame(ours.history), pd.DataFrame(theirs.history))


def leftovers(root: Path) -> list[str]:
    """Names below ``root`` of files that are neither finished runs nor locks."""
    found = [path for path in Path(root).rglob("*") if path.is_file()]
    return sorted(str(p.relative_to(root)) for p in found if p.parent.name != "locks" and not p.match("finished/??/*.safetensors"))


# -- data files --------------------------------------------------------------------------------------------------------


def random_arrays(shape=(16, 16, 3), classes=4, train=48, test=24, seed=0) -> dict[str, np.ndarray]:
    """Arrays of the layout of a data file; the pixels of a class share a pattern, so that there is something to learn."""
    rng = np.random.default_rng(seed)
    patterns = rng.integers(0, 256, (classes, *shape))
    arrays = {}
    for part, count in (("train", train), ("test", test)):
        y = rng.permutation(np.arange(count) % classes).astype(np.uint8)
        arrays[f"x_{part}"] = ((patterns[y] + 2 * rng.integers(0, 256, (count, *shape))) // 3).astype(np.uint8)
        arrays[f"y_{part}"] = y
    return arrays


def content_digest(arrays: dict[str, np.ndarray]) -> str:
    """The checksum that ``lib.files.DIGESTS`` holds: over the sorted hashes of the examples of each part."""
    parts = []
    for part in ("train", "test"):
        pairs = zip(arrays[f"x_{part}"], arrays[f"y_{part}"].tolist(), strict=True)
        rows = sorted(hashlib.blake2b(x.tobytes() + bytes([y]), digest_size=16).digest() for x, y in pairs)
        parts.append(hashlib.sha256(b"".join(rows)).hexdigest())
    return hashlib.sha256("".join(parts).encode()).hexdigest()


# -- processes ---------------------------------------------------------------------------------------------------------
# A child forks from a server that has imported what it needs but has never computed, so that starting one is cheap.

CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(["pandas", "sklearn.datasets", "sklearn.model_selection", "safetensors.torch", "filelock", "lib.sweep"])


def start_process(function, *arguments):
    """A started process that runs ``function``, which must be a module's own."""
    process = CONTEXT.Process(target=function, args=arguments)
    process.start()
    return process


def checkpoint_every_epoch() -> None:
    """Make this process save the state of its cohort after every epoch."""
    sweep.CHECKPOINT_SECONDS = -1.0


def die() -> None:
    """End this process as the out-of-memory killer or a power cut would."""
    os.kill(os.getpid(), signal.SIGKILL)


def killed_at_call(runs, root, function, number, after) -> None:
    """Carry ``runs`` out and die before (or right ``after``) the ``number``-th call of ``function``, named in full."""
    torch.set_num_threads(2)
    checkpoint_every_epoch()
    owner, name = function.rsplit(".", 1)
    owner = pkgutil.resolve_name(owner)
    real, calls = getattr(owner, name), []

    def deadly(*arguments, **named):
        calls.append(None)
        if len(calls) == number and not after:
            die()
        result = real(*arguments, **named)
        if len(calls) == number and after:
            die()
        return result

    setattr(owner, name, deadly)
    carry_out(runs, Store(root))


def carried_out(runs, root, path, ready=None) -> None:
    """Carry ``runs`` out and write the table, and how many epochs each member trained here, to ``path``.

    With ``ready``, begin when all who share it are there.
    """
    torch.set_num_threads(2)
    checkpoint_every_epoch()
    epochs, real = [], training.Training.run_epoch

    def counted(self, *arguments):
        epochs.extend((member.run.key, self.epoch) for member in self.members)
        real(self, *arguments)

    training.Training.run_epoch = counted
    if ready is not None:
        ready.wait()
    table = carry_out(runs, Store(root))
    table.attrs["epochs"] = epochs
    table.to_pickle(path)
