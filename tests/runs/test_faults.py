"""Killed at any point and run again, or run twice at once: the same table and weights, bit for
bit.
"""

import random
import signal
import time
from pathlib import Path

import pandas as pd
import pytest
from support import (
    CONTEXT,
    carried_out,
    carry_out,
    checkpoint_every_epoch,
    family,
    kill_at,
    killed_at_call,
    leftovers,
    same_results,
    same_table,
    small,
    start_process,
)

from lib.runs import sweep
from lib.runs.store import Store
from lib.specs.run import Run, finetune, scratch
from lib.training import loop, steps


def mlp_runs():
    """Sol-D, Sol-F and Sol-S on noisy labels; one of the Sol-D ends early, one keeps epochs."""
    setup = small(
        noise=0.3,
        epochs=4,
        sparse_epochs=3,
        prune_from="best-test",
        weight_decay=5e-4,
        schedule="cosine",
    )
    early = Run.dense(small(noise=0.3, epochs=2, prune_from="best-test", weight_decay=5e-4), seed=0)
    keeping = Run.dense(setup, seed=5, keep=(1, 3))
    return [*family(setup, seeds=(0, 1)), early, keeping]


def resnet_runs():
    """A small ResNet with augmentation, whose state includes BatchNorm's statistics."""
    setup = small(
        network="resnet-20", width=0.25, train_examples=40, augment=True, epochs=2, sparse_epochs=1
    )
    return family(setup, seeds=(0,))


@pytest.fixture(scope="module", params=[mlp_runs, resnet_runs], ids=["mlp", "resnet"])
def uninterrupted(request, tmp_path_factory):
    """(runs, table, store) of a sweep that nothing disturbed."""
    runs = request.param()
    store = Store(tmp_path_factory.mktemp("uninterrupted"))
    return runs, carry_out(runs, store), store


@pytest.fixture(scope="module")
def undisturbed_mlps(tmp_path_factory):
    """The same for the MLPs alone."""
    runs = mlp_runs()
    store = Store(tmp_path_factory.mktemp("undisturbed"))
    return runs, carry_out(runs, store), store


def assert_same(result, store, expected):
    runs, table, reference = expected
    same_table(result, table)
    same_results(runs, store, reference)
    assert not list((store.root / "interrupted").rglob("*.safetensors"))


# Before and after each kind of call that changes the store. A put's fsync and replace lie inside
# write_atomic, so that a death there leaves a file half-written; the numbers choose checkpoints and
# runs, early and late, of both generations.
STORE, TRAINING = "lib.runs.store.Store", "lib.training.loop.Training"
POINTS = [
    *(
        (f"{STORE}.save_checkpoint", number, after)
        for number in (1, 3, 5)
        for after in (False, True)
    ),
    *((f"{STORE}.put", number, after) for number in (1, 2) for after in (False, True)),
    *((f"{STORE}.drop_checkpoint", 1, after) for after in (False, True)),
    *(("os.fsync", number, False) for number in (2, 6)),
    ("os.replace", 4, True),
    *((f"{TRAINING}.{name}", 2, False) for name in ("run_epoch", "retire", "state")),
]


@pytest.mark.parametrize(
    "point", POINTS, ids=lambda p: f"{'after' if p[2] else 'before'}-{p[0].split('.')[-1]}-{p[1]}"
)
def test_killed_at_a_point(point, uninterrupted, store):
    """Killed there and carried out again, the sweep ends as if nothing had happened."""
    runs, *_ = uninterrupted
    kill_at(runs, store.root, *point)
    assert_same(carry_out(runs, store), store, uninterrupted)


def test_killed_again_and_again(undisturbed_mlps, store):
    """Killed at every checkpoint in turn, each life goes on where the one before it died, until
    nothing is left to do.
    """
    runs, *_ = undisturbed_mlps
    deaths = 0
    while deaths < 60:
        process = start_process(
            killed_at_call, runs, store.root, f"{STORE}.save_checkpoint", 2, True
        )
        process.join()
        if process.exitcode == 0:
            break
        assert process.exitcode == -signal.SIGKILL
        deaths += 1
    assert 4 <= deaths < 60
    assert_same(carry_out(runs, store), store, undisturbed_mlps)


@pytest.mark.parametrize("seed", range(3))
def test_killed_at_random_moments(seed, undisturbed_mlps, tmp_path):
    """Killed from outside after random short delays, several times over, then left to finish."""
    runs, *_ = undisturbed_mlps
    rng, store = random.Random(seed), Store(tmp_path / "runs")
    killed = 0
    for _ in range(4):
        ready = CONTEXT.Barrier(2)
        process = start_process(carried_out, runs, store.root, tmp_path / "table", ready)
        ready.wait(timeout=120)
        time.sleep(rng.uniform(0, 0.15))
        process.kill()
        process.join()
        killed += process.exitcode == -signal.SIGKILL
    assert killed
    assert_same(carry_out(runs, store), store, undisturbed_mlps)


def test_a_resumed_cohort_trains_only_what_is_left(store, monkeypatch):
    """After a death, the epochs up to the last checkpoint are not trained again, and finished
    runs not at all.
    """
    runs = [Run.dense(small(epochs=6), seed=0)]
    kill_at(runs, store.root, f"{STORE}.save_checkpoint", 4, True)
    trained, real = [], loop.Training.run_epoch

    def counted(self, *arguments):
        trained.append(self.epoch)
        real(self, *arguments)

    monkeypatch.setattr(loop.Training, "run_epoch", counted)
    carry_out(runs, store)
    assert trained == [3, 4, 5]  # the fourth checkpoint is that of three epochs; the first, of none
    carry_out(runs, store)
    assert trained == [3, 4, 5]


def test_interrupted_by_a_person(undisturbed_mlps, store, monkeypatch):
    """After Ctrl-C in the middle of an epoch, the same process can carry the runs out again and
    gets the same table.
    """
    runs, *_ = undisturbed_mlps
    monkeypatch.setattr(sweep, "CHECKPOINT_SECONDS", -1.0)
    real, taken = steps.sgd_, []

    def interrupted(*arguments):
        taken.append(None)
        if len(taken) == 12:
            raise KeyboardInterrupt
        real(*arguments)

    monkeypatch.setattr(steps, "sgd_", interrupted)
    with pytest.raises(KeyboardInterrupt):
        carry_out(runs, store)
    monkeypatch.undo()
    assert_same(carry_out(runs, store), store, undisturbed_mlps)


def test_a_growing_list_ends_with_the_same_table(undisturbed_mlps, store):
    """Carried out bit by bit, in cohorts of other sizes, the runs are the same as those trained
    at once.
    """
    runs, *_ = undisturbed_mlps
    for part in (runs[:1], runs[1:4], runs[-2:]):
        carry_out(part, store)
    assert_same(carry_out(runs, store), store, undisturbed_mlps)


# -- two processes, one store ------------------------------------------------------------------


def together(lists, root, tmp_path):
    """Tables of processes that begin at the same moment to carry out their lists of runs in one
    store.
    """
    ready = CONTEXT.Barrier(len(lists))
    paths = [tmp_path / f"table{i}" for i in range(len(lists))]
    processes = [
        start_process(carried_out, runs, root, path, ready)
        for runs, path in zip(lists, paths, strict=True)
    ]
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0] * len(lists)
    return [pd.read_pickle(path) for path in paths]


def test_two_processes_with_the_same_runs(uninterrupted, store, tmp_path):
    """Both end well with the same table, equal to one process's, and leave nothing lying about."""
    runs, *_ = uninterrupted
    tables = together([runs, runs], store.root, tmp_path)
    for table in tables:
        assert_same(table, store, uninterrupted)
    assert leftovers(store.root) == []
    epochs = [epoch for table in tables for epoch in table.attrs["epochs"]]
    assert len(set(epochs)) == sum(run.recipe.epochs for run in runs)
    assert len(epochs) == len(set(epochs)), "one of the two waits, and nothing is trained twice"


def test_two_processes_with_runs_in_common(undisturbed_mlps, store, tmp_path):
    """Lists that overlap in their Sol-D, in cohorts of different members: each gets its part of
    the one table.
    """
    runs, table, reference = undisturbed_mlps
    lists = [runs[:4], [runs[1], runs[0], runs[4], runs[6]]]
    for part, found in zip(lists, together(lists, store.root, tmp_path), strict=True):
        expected = pd.concat([table[table["key"] == run.key] for run in part], ignore_index=True)
        same_table(found, expected)
    same_results(runs[:5], store, reference)
    assert leftovers(store.root) == []


def test_one_of_two_processes_is_killed(undisturbed_mlps, store, tmp_path):
    """The one that waited takes over from the dead one's checkpoint."""
    runs, *_ = undisturbed_mlps
    doomed = start_process(killed_at_call, runs, store.root, f"{STORE}.put", 2, True)
    survivor = start_process(carried_out, runs, store.root, tmp_path / "table")
    doomed.join()
    survivor.join()
    assert survivor.exitcode == 0
    assert doomed.exitcode in (
        -signal.SIGKILL,
        0,
    )  # 0 where the survivor had done everything before it began
    assert_same(pd.read_pickle(tmp_path / "table"), store, undisturbed_mlps)


def test_the_tests_children_checkpoint_every_epoch():
    """The delay that the children set is the one that the sweep reads."""
    before = sweep.CHECKPOINT_SECONDS
    try:
        checkpoint_every_epoch()
        assert sweep.CHECKPOINT_SECONDS < 0
    finally:
        sweep.CHECKPOINT_SECONDS = before
    assert before > 0


def test_a_half_written_file_is_invisible(store):
    """What a death in the middle of a write leaves behind is no run and no checkpoint, and does
    not disturb the next write.
    """
    runs = [Run.dense(small(epochs=1), seed=0)]
    kill_at(runs, store.root, "os.replace", 2, False)
    partial = [name for name in leftovers(store.root) if name.endswith(".partial")]
    assert len(partial) == 1
    assert not store.has(runs[0].key)
    table = carry_out(runs, store)
    same_table(table, carry_out(runs, Store(Path(store.root) / "other")))


def test_sparse_runs_alone_bring_their_parents(store):
    """Asked for sparse runs only, a killed sweep still ends with their Sol-D in the store."""
    dense = Run.dense(small(), seed=0)
    runs = [finetune(dense, sparsity=0.5), scratch(dense, sparsity=0.5)]
    kill_at(runs, store.root, f"{STORE}.put", 2, False)
    table = carry_out(runs, store)
    assert set(table["solution"]) == {"sol_f", "sol_s"}
    assert store.has(dense.key)
