"""Carry a list of runs out: train what the store lacks, in cohorts, and return a table."""

import hashlib
import json
import platform
import sys
import time
from contextlib import contextmanager

import torch

from lib.data import sets
from lib.masks import masks
from lib.models import networks
from lib.runs.results import final, tabulate
from lib.runs.store import Finished, Store
from lib.specs.parts import Data
from lib.specs.run import Run
from lib.training import initial_states, loop, mask_updates

CHECKPOINT_SECONDS = 20.0
MAX_MEMBERS = 256


def choose_device(device: str = "auto") -> torch.device:
    """``"auto"``: CUDA if there is any, else the CPU. Raises ``ValueError`` for a device that is not there."""
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:
        raise ValueError(
            f"device is {device!r}: {str(error).splitlines()[0]}; allowed are auto, cpu, and cuda where a GPU is"
        ) from error
    return torch.device(device)


def carry_out(
    runs: list[Run], *, store: Store | None = None, device: str = "auto", progress: bool = True
):
    """Train every run (and every parent) that the store lacks; return the table of ``runs`` as a DataFrame.

    The table has a row per run and measured epoch: key, solution, sparsity, seed, set, network, noise, epoch, the
    measures of ``lib.metrics.predictions``, and per run its density, divergence, mask and epochs. It is read back
    from the store, so that it does not depend on who trained what, or when. Interrupt it as you like: called again,
    it goes on from the last checkpoint and ends with the same table. Raises before any training for a device that
    is not there, a disk without room, or a network that does not fit the data.
    """
    store, place = store or Store(), choose_device(device)
    store.prepare()
    wanted = list(dict.fromkeys(runs))
    stages = _stages(wanted)
    for run in (run for stage in stages for run in stage):
        run.check_versions()
    images = {
        spec: images_of(spec, place)
        for spec in dict.fromkeys(run.data for stage in stages for run in stage)
    }
    found = {run.key: store.get(run.key) is not None for stage in stages for run in stage}
    missing = [run for stage in stages for run in stage if not found[run.key]]
    for run in missing:
        mask_updates.check(run, len(images[run.data].y_train))
    _check_layers(missing, images)
    _check_room(missing, images, store)
    begin, bar = time.perf_counter(), _bar(missing, images, progress)
    try:
        for stage in stages:
            for cohort in _cohorts(stage):
                cohort = [run for run in cohort if not _has_diverged_parent(run, store)]
                if all(found[run.key] for run in cohort):
                    store.drop_checkpoint(
                        _cohort_name(cohort)
                    )  # left by a kill between the last run and this line
                else:
                    _train(cohort, images[cohort[0].data], store, bar)
    finally:
        bar.close()
    table = tabulate(wanted, store)
    if progress:
        print(
            _summary(table, wanted, images, len(missing), time.perf_counter() - begin), flush=True
        )
    return table


def _stages(runs):
    """Runs by generation, parents included: each stage needs only the ones before it."""
    generations = {}

    def generation(run):
        if run not in generations:
            generations[run] = generation(run.parent) + 1 if run.parent else 0
        return generations[run]

    for run in runs:
        generation(run)
    return [
        [r for r in generations if generations[r] == g]
        for g in range(max(generations.values(), default=-1) + 1)
    ]


def images_of(spec: Data, device: torch.device) -> sets.ImageSet:
    """The examples of a specification; raises ``DataError`` if they are not those that it was made for."""
    own = {"folder": spec.folder, "image_size": spec.image_size}
    images = sets.load(
        spec.name, train=spec.train, test=spec.test, normalise=spec.normalise, device=device, **own
    )
    if images.fingerprint != spec.fingerprint:
        raise sets.DataError(
            f"dataset {spec.name!r} has fingerprint {images.fingerprint}, but these runs were specified for "
            f"{spec.fingerprint}: build their setup again from the data that is there"
        )
    return images


def _cohorts(stage):
    """Runs that can train in lock-step, in the order given; fixed by the list alone, so that resuming finds them."""
    groups = {}
    for run in stage:
        r = run.recipe
        passes = (
            r.batch_size,
            r.momentum,
            r.nesterov,
            r.precision,
            r.label_smoothing,
            r.micro_batch,
        )
        shared = (run.data, run.network, *passes, run.measure_every)
        groups.setdefault(shared, []).append(run)
    return [
        group[i : i + MAX_MEMBERS]
        for group in groups.values()
        for i in range(0, len(group), MAX_MEMBERS)
    ]


def _has_diverged_parent(run, store):
    """Whether there is nothing to prune; such a run enters the store as diverged at its start."""
    parent = store.get(run.parent.key) if run.parent and not store.has(run.key) else None
    if parent is None or parent.info["diverged"] is None:
        return False
    if run.continuation and run.begin < parent.info["diverged"]:
        return False  # it diverged after it was pruned
    best = (
        parent.tensors.get("weights@best")
        if run.pruning.source == "best-test" and not run.continuation
        else None
    )
    if best is not None and best.isfinite().all():
        return False  # it diverged after its best epoch
    tensors = {name: parent.tensors[name] for name in ("weights", "buffers", "mask")}
    info = {**parent.info, "diverged": run.begin, "note": "its Sol-D diverged"}
    store.put(Finished(run.key, run.specification, [{"epoch": run.begin}], tensors, info))
    return True


def _cohort_name(runs):
    return hashlib.sha256("".join(run.key for run in runs).encode()).hexdigest()[:40]


def _train(runs, images, store, bar):
    """Train what a cohort lacks, from its checkpoint if it has one."""
    name = _cohort_name(runs)
    with _held(store.lock(name)):
        saved = store.checkpoint(name)
        by_key = {run.key: run for run in runs}
        if saved and all(member["key"] in by_key for member in saved[1]["members"]):
            interrupted = [by_key[member["key"]] for member in saved[1]["members"]]
            _go_on(interrupted, saved, images, store, name, bar)
        lacking = [run for run in runs if not store.has(run.key)]
        if lacking:
            _go_on(lacking, None, images, store, name, bar)


@contextmanager
def _held(lock):
    """Hold a cohort's lock; say so if another process has it, since its training may take long."""
    from filelock import Timeout

    try:
        lock.acquire(timeout=1)
    except Timeout:
        print("another process is training these runs: waiting for it ...", flush=True)
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


def _go_on(runs, saved, images, store, name, bar):
    network = loop.network_of(runs[0], images)
    layout = loop.Layout(network)
    origins = {run.parent.key: store.get(run.parent.key).tensors for run in runs if run.parent}
    beginnings = [
        initial_states.initial_state(
            run, network, layout, origins.get(run.parent.key if run.parent else None), images
        )
        for run in runs
    ]
    task = loop.Training(runs, beginnings, images, network)
    if saved:
        task.resume(*saved)
        bar.update(sum(min(task.epoch, run.length) for run in runs) * len(images.y_train))
    else:
        task.observe()
    last = time.monotonic()
    while task.members:
        if time.monotonic() - last > CHECKPOINT_SECONDS:
            store.save_checkpoint(name, *task.state())
            last = time.monotonic()
        for member, tensors in task.retire():
            store.put(_finished(member, tensors, task))
            if member.diverged is not None:
                bar.update((member.run.recipe.epochs - member.diverged) * len(images.y_train))
        if task.members:
            _epoch(task, store, name, bar.update)
    task.close()
    store.drop_checkpoint(name)


def _epoch(task, store, name, tick):
    """One epoch. Where an image that is decoded on the way is broken, the state before this epoch is saved, and the error goes on."""
    before = None
    if not isinstance(task.images.x_train, torch.Tensor):
        tensors, content = task.state()
        before = (
            {key: value.cpu().clone() for key, value in tensors.items()},
            json.loads(json.dumps(content)),
        )
    try:
        task.run_epoch(tick)
    except sets.DataError:
        if before:
            store.save_checkpoint(name, *before)
        raise


def _finished(member, tensors, task):
    facts = dict(member.facts)
    return Finished(
        key=member.run.key,
        specification=member.run.specification,
        history=member.history,
        tensors=tensors,
        info={
            **facts,
            "diverged": member.diverged,
            "density": 1 - facts["pruned"] / max(facts["prunable"], 1),
            "device": torch.cuda.get_device_name()
            if task.device.type == "cuda"
            else platform.processor() or platform.machine(),
            "python": sys.version.split()[0],
            "torch": torch.__version__,
        },
    )


def _check_layers(missing, images):
    """Under all scopes but one the counts are known from the shapes alone: what would empty a layer stops before any training."""
    for run in {(run.data, run.network, run.pruning): run for run in missing}.values():
        _pruned(run, images)


def _pruned(run, images):
    """How many weights ``run`` is to have pruned; raises ``ValueError`` where that empties a layer under any scope but the global one."""
    if not run.pruning:
        return 0
    network = loop.network_of(run, images[run.data])
    shapes = {
        name: network.get_parameter(name).shape
        for name in networks.prunable(network, run.pruning.keep_dense)
    }
    size = sum(shape.numel() for shape in shapes.values())
    if run.pruning.scope == "global":
        pruned = masks.pruned_count(run.sparsity, size)
        if pruned == size:
            raise ValueError(f"sparsity is {run.sparsity}: it leaves none of {size} weights")
        return pruned
    return size - sum(masks.allocation(shapes, run.sparsity, run.pruning.scope).values())


def _check_room(missing, images, store):
    need = 0
    for run in missing:
        layout = loop.Layout(loop.network_of(run, images[run.data]))
        kept = (len(run.keep) + run.keep_best) * (1 + run.keep_velocity)
        # finished: weights and mask; checkpoint: velocity too, and for a moment the old and the new one
        # a snapshot is two states where the mask changes on its step, each with its mask
        need += (layout.size + layout.buffer_size) * (
            5 + 2 * 9 + 3 * (4 * kept + 2 * 5 * len(run.snapshots))
        )
    store.ensure_room(need)


def _bar(missing, images, progress):
    from tqdm import tqdm

    total = sum(run.length * len(images[run.data].y_train) for run in missing)
    return tqdm(
        total=total, disable=not (progress and missing), unit=" images", unit_scale=True, mininterval=2.0, smoothing=0.1, leave=False,
        desc=f"training {len(missing)} networks", file=sys.stdout, ncols=100,
    )  # fmt: skip


def _summary(table, wanted, images, trained, seconds):
    """One line that says whether a failed run hides among the results."""
    last = final(table).drop_duplicates("key").set_index("key")
    alike = {(run.data, run.network, run.pruning): run for run in wanted}
    due = {specified: _pruned(run, images) for specified, run in alike.items()}
    exact = all(
        last["pruned"][run.key] == due[run.data, run.network, run.pruning] for run in wanted
    )
    chance = last.groupby("dataset")["train_accuracy"].min()
    return (
        f"{len(wanted)} runs, {trained} networks trained in {seconds:.0f} s, the rest from the store; "
        f"{int(last['diverged'].sum())} diverged; lowest final training accuracy {chance.min():.3f}; "
        f"densities exact: {exact}"
    )
