"""Carry a list of runs out: train what the store lacks, in cohorts, and return a table."""

import hashlib
import math
import platform
import sys
import time
from functools import partial

import torch
from tqdm import tqdm

from lib.data import sets
from lib.masks import masks
from lib.models import networks
from lib.runs.results import final, tabulate, with_parents
from lib.runs.store import DamageError, Finished, Store
from lib.specs.parts import Data
from lib.specs.run import Run
from lib.training import initial_states, loop, mask_updates

CHECKPOINT_SECONDS = 20.0
MAX_MEMBERS = 256


def choose_device(device: str | torch.device = "auto") -> torch.device:
    """``"auto"``: CUDA if there is any, else the CPU. Raises ``ValueError`` for any other kind."""
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        if torch.device(device).type not in ("cpu", "cuda"):
            raise RuntimeError("networks are not trained there")
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError, TypeError) as error:
        raise ValueError(
            f"device is {device!r}: {str(error).splitlines()[0]}; allowed are auto, cpu, and cuda "
            "where a GPU is"
        ) from error
    return torch.device(device)


def images_of(data: Data, device: str | torch.device = "auto") -> sets.ImageSet:
    """The examples, before label noise, that ``data`` specifies; ``DataError`` for others."""
    images = sets.load(
        data.name, train=data.train, test=data.test, normalise=data.normalise,
        device=choose_device(device), folder=data.folder, image_size=data.image_size,
    )  # fmt: skip
    if images.fingerprint != data.fingerprint:
        raise sets.DataError(
            f"dataset {data.name!r} has fingerprint {images.fingerprint}, but these runs were "
            f"specified for {data.fingerprint}: build their setup again from the data that is there"
        )
    return images


def carry_out(
    runs: list[Run], *, store: Store | None = None, device: str = "auto", progress: bool = True
):
    """Train every run (and every parent) that the store lacks; return the table of ``runs``.

    The DataFrame has a row per run and measured epoch: what the run is (``results.columns_of``),
    the epoch, and the measures of ``lib.metrics.predictions``. It does not depend on who trained
    what, or when. Interrupt it as you like: called again, it goes on from the last checkpoint and
    ends with the same table. Where nothing is missing, nothing is written. Example: ``lib.runs``.

    Raises before any training: ``ValueError`` for a device that is not there, a network that does
    not fit the data, or a plan that cannot be; ``DataError`` for other data than the runs were
    specified for; ``StorageError`` for a disk that cannot be written to or has no room.
    """
    begin, store, place = time.perf_counter(), store or Store(), choose_device(device)
    wanted, every = list(dict.fromkeys(runs)), with_parents(runs)
    for run in every:
        run.check_versions()
    images = {data: images_of(data, place) for data in dict.fromkeys(run.data for run in every)}
    store.clear()
    held = {run.key: store.get(run.key) for run in every}
    missing = [run for run in every if held[run.key] is None]
    for run in missing:
        mask_updates.check(run, len(images[run.data].y_train))
    _due(missing, images)
    if missing:
        store.prepare(_room(missing, images))
    trained = set(missing)
    with tqdm(
        total=sum(run.length * len(images[run.data].y_train) for run in missing),
        disable=not (progress and missing), unit=" images", unit_scale=True, mininterval=2.0,
        smoothing=0.1, leave=False, desc=f"training {len(missing)} networks", file=sys.stdout,
        ncols=100,
    ) as bar:  # fmt: skip
        while missing:
            try:
                for cohort in _cohorts(every):
                    if not trained.isdisjoint(cohort):
                        _train(cohort, images[cohort[0].data], store, bar)
                break
            except DamageError:  # in a parent's weights: it is missing now
                missing = [run for run in every if store.get(run.key) is None]
                if trained.issuperset(missing):
                    raise
                trained.update(missing)
    table = tabulate(wanted, store, held)
    if progress and wanted:
        print(_summary(table, wanted, images, len(trained), begin), flush=True)
    return table


def _cohorts(runs):
    """Runs that can train in lock-step, parents first; the list alone fixes them, to be resumed."""
    groups: dict[tuple, list[Run]] = {}
    for run in runs:
        r = run.recipe
        shared = (
            len(with_parents([run])), run.data, run.network, run.measure_every, r.batch_size,
            r.momentum, r.nesterov, r.precision, r.label_smoothing, r.micro_batch,
        )  # fmt: skip
        groups.setdefault(shared, []).append(run)
    return [
        groups[shared][i : i + MAX_MEMBERS]
        for shared in sorted(groups, key=lambda shared: shared[0])
        for i in range(0, len(groups[shared]), MAX_MEMBERS)
    ]


def _has_diverged_parent(run, store):
    """Whether there is nothing to prune; such a run enters the store as diverged at its start."""
    parent = store.finished(run.parent.key) if run.parent else None
    if parent is None or parent.info["diverged"] is None:
        return False
    from_best = run.pruning.source == "best-test" and not run.continuation
    best = parent.tensors.get("weights@best") if from_best else None
    before = run.continuation and run.begin < parent.info["diverged"]
    if before or (best is not None and best.isfinite().all()):
        return False  # it was pruned as it was before it diverged
    tensors = {name: parent.tensors[name] for name in ("weights", "buffers", "mask")}
    info = {**parent.info, "diverged": run.begin, "note": "its Sol-D diverged"}
    store.put(Finished(run.key, run.specification, [{"epoch": run.begin}], info, lambda: tensors))
    return True


def _train(runs, images, store, bar):
    """Train what a cohort lacks, from its checkpoint if it has one."""
    name = hashlib.sha256("".join(run.key for run in runs).encode()).hexdigest()[:40]
    network, by_key = loop.network_of(runs[0], images), {run.key: run for run in runs}
    with store.lock(name):
        saved = store.checkpoint(name, partial(_state, by_key, loop.Layout(network)))
        if saved:
            begun = [by_key[member["key"]] for member in saved[1]["members"]]
            _go_on(begun, saved, network, images, store, name, bar)
        lacking = [
            run
            for run in runs
            if store.get(run.key) is None and not _has_diverged_parent(run, store)
        ]
        if lacking:
            _go_on(lacking, None, network, images, store, name, bar)


def _state(runs, layout, tensors, content):
    """A checkpoint as it is; raises ``DamageError`` unless it is of ``runs``, by ``layout``."""
    members = [member["key"] for member in content["members"]]
    rows = dict.fromkeys(("weights", "velocity", "mask"), layout.size)
    rows["buffers"] = layout.buffer_size
    kinds = {name: name.split("/")[-1].split("@")[0] for name in rows.keys() | tensors.keys()}
    due = {  # of "mask" and the like [K, P], of "2/weights@best" [P]
        name: (rows[kind],) if "/" in name else (len(members), rows[kind])
        for name, kind in kinds.items()
    }
    shapes = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    if not members or not runs.keys() >= set(members) or shapes != due:
        raise DamageError("it holds other runs or other networks than its name says")
    return tensors, content


def _go_on(runs, saved, network, images, store, name, bar):
    layout = loop.Layout(network)
    origins = {run.parent.key: store.finished(run.parent.key).tensors for run in runs if run.parent}
    beginnings = [
        initial_states.initial_state(
            run, network, layout, origins[run.parent.key] if run.parent else None, images
        )
        for run in runs
    ]
    task = loop.Training(runs, beginnings, images, network)
    if saved:
        task.resume(*saved)
        bar.update(sum(min(task.epoch, run.length) for run in runs) * len(images.y_train))
    else:
        task.observe()
    last, streamed = time.monotonic(), not isinstance(images.x_train, torch.Tensor)
    while task.members:  # an image that is decoded on the way may be broken, and end all here
        if streamed or time.monotonic() - last > CHECKPOINT_SECONDS:
            store.save_checkpoint(name, *task.state())
            last = time.monotonic()
        for member, tensors in task.retire():
            store.put(_finished(member, tensors, task))
            bar.update((member.run.length - task.epoch) * len(images.y_train))  # of a diverged one
        if task.members:
            task.run_epoch(bar.update)
    task.close()
    store.drop_checkpoint(name)


def _finished(member, tensors, task):
    run, facts, on_gpu = member.run, member.facts, task.device.type == "cuda"
    machine = torch.cuda.get_device_name() if on_gpu else platform.processor() or platform.machine()
    info = {
        **facts, "diverged": member.diverged, "device": machine,
        "density": 1 - facts["pruned"] / max(facts["prunable"], 1),
        "python": sys.version.split()[0], "torch": torch.__version__,
    }  # fmt: skip
    return Finished(run.key, run.specification, member.history, info, lambda: tensors)


def _due(runs, images):
    """How many weights each run is to have pruned; ``ValueError`` where that empties a layer."""
    alike = {(run.data, run.network, run.pruning): run for run in runs}
    return {shared: _pruned(run, images[run.data]) for shared, run in alike.items()}


def _pruned(run, images):
    if not run.pruning:
        return 0
    network = loop.network_of(run, images)
    shapes = {
        name: tuple(network.get_parameter(name).shape)
        for name in networks.prunable(network, run.pruning.keep_dense)
    }
    size = sum(map(math.prod, shapes.values()))
    if run.pruning.scope == "global":
        live = size - masks.pruned_count(run.sparsity, size)
    else:
        live = sum(masks.allocation(shapes, run.sparsity, run.pruning.scope).values())
    if not live:
        raise ValueError(f"sparsity is {run.sparsity}: it leaves none of {size} weights")
    return size - live


def _room(runs, images):
    """The bytes that ``runs`` may need at most while they train."""
    need, layouts = 0, {}
    for run in runs:
        shared = (run.data, run.network)
        if shared not in layouts:
            layouts[shared] = loop.Layout(loop.network_of(run, images[run.data]))
        # finished: weights and mask; checkpoint: velocity too, for a moment the old and the new;
        # a snapshot is two states where the mask changes on its step, each with its mask
        kept = 4 * (len(run.keep) + run.keep_best) * (1 + run.keep_velocity)
        size = layouts[shared].size + layouts[shared].buffer_size
        need += size * (5 + 2 * 9 + 3 * (kept + 2 * 5 * len(run.snapshots)))
    return need


def _summary(table, wanted, images, trained, begin):
    """One line that says whether a failed run hides among the results."""
    last, due = final(table).set_index("key"), _due(wanted, images)
    exact = all(
        last["pruned"][run.key] == due[run.data, run.network, run.pruning] for run in wanted
    )
    return (
        f"{len(wanted)} runs, {trained} networks trained in {time.perf_counter() - begin:.0f} s, "
        f"the rest from the store; {int(last['diverged'].sum())} diverged; lowest final training "
        f"accuracy {last['train_accuracy'].min():.3f}; densities exact: {exact}"
    )
