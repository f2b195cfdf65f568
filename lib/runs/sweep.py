"""Carry a list of runs out: train what the store lacks, in cohorts, and return a table."""

import hashlib
import platform
import sys
import time
from functools import partial

import torch

from lib.data import sets
from lib.masks import masks
from lib.models import networks
from lib.runs.results import final, tabulate
from lib.runs.store import DamageError, Finished, Store
from lib.specs.parts import Data
from lib.specs.run import Run
from lib.training import initial_states, loop, mask_updates

CHECKPOINT_SECONDS = 20.0
MAX_MEMBERS = 256


def choose_device(device: str | torch.device = "auto") -> torch.device:
    """``"auto"``: CUDA if there is any, else the CPU. Raises ``ValueError`` for any other kind.

    >>> choose_device("cpu")
    device(type='cpu')
    """
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
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
    """The examples of a specification, before label noise.

    Raises ``DataError`` if they are not those that it was made for.
    """
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

    The DataFrame has a row per run and measured epoch: key, solution, sparsity, seed, set, network,
    noise, epoch, the measures of ``lib.metrics.predictions``, and per run its density, divergence,
    mask and epochs. It is read back from the store, so that it does not depend on who trained
    what, or when. Interrupt it as you like: called again, it goes on from the last checkpoint and
    ends with the same table. Where nothing is missing, nothing is written.

    Raises before any training: ``ValueError`` for a device that is not there, a network that does
    not fit the data, or a plan that cannot be; ``DataError`` for other data than the runs were
    specified for; ``StorageError`` for a disk that cannot be written to or has no room.
    """
    begin, store, place = time.perf_counter(), store or Store(), choose_device(device)
    wanted = list(dict.fromkeys(runs))
    stages = _stages(wanted)
    specified = dict.fromkeys(run.data for stage in stages for run in stage)
    images = {data: images_of(data, place) for data in specified}
    store.clear()
    missing = _missing(stages, store)
    for run in missing:
        mask_updates.check(run, len(images[run.data].y_train))
    _due(missing, images)
    if missing:
        store.prepare(_room(missing, images))
    trained = set(missing)
    with _bar(missing, images, progress) as bar:
        while missing:
            try:
                for cohort in (cohort for stage in stages for cohort in _cohorts(stage)):
                    if not trained.isdisjoint(cohort):
                        _train(cohort, images[cohort[0].data], store, bar)
                break
            except DamageError:  # in a parent's weights: it is missing now
                missing = _missing(stages, store)
                if trained.issuperset(missing):
                    raise
                trained.update(missing)
    table = tabulate(wanted, store)
    if progress and wanted:
        seconds = time.perf_counter() - begin
        print(_summary(table, wanted, images, len(trained), seconds), flush=True)
    return table


def _stages(runs):
    """Runs by generation, parents included: each stage needs only the ones before it."""
    stages: dict[int, dict[Run, None]] = {}
    for run in runs:
        line = [run]
        while line[0].parent:
            line.insert(0, line[0].parent)
        for generation, member in enumerate(line):
            stages.setdefault(generation, {})[member] = None
    return [list(stage) for stage in stages.values()]


def _missing(stages, store):
    return [run for stage in stages for run in stage if store.get(run.key) is None]


def _cohorts(stage):
    """Runs that can train in lock-step, in the order given.

    They are fixed by the list alone, so that resuming finds them.
    """
    groups: dict[tuple, list[Run]] = {}
    for run in stage:
        r = run.recipe
        shared = (
            run.data, run.network, run.measure_every, r.batch_size, r.momentum, r.nesterov,
            r.precision, r.label_smoothing, r.micro_batch,
        )  # fmt: skip
        groups.setdefault(shared, []).append(run)
    return [
        group[i : i + MAX_MEMBERS]
        for group in groups.values()
        for i in range(0, len(group), MAX_MEMBERS)
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
        saved = store.checkpoint(name, partial(_check_state, by_key, loop.Layout(network)))
        if saved:
            interrupted = [by_key[member["key"]] for member in saved[1]["members"]]
            _go_on(interrupted, saved, network, images, store, name, bar)
        lacking = [run for run in runs if store.get(run.key) is None]
        lacking = [run for run in lacking if not _has_diverged_parent(run, store)]
        if lacking:
            _go_on(lacking, None, network, images, store, name, bar)


def _check_state(runs, layout, tensors, content):
    """Raise ``DamageError`` unless this is a state of some of ``runs``, networks of ``layout``."""
    members = [member["key"] for member in content["members"]]
    if not members or not runs.keys() >= set(members):
        raise DamageError("it holds other runs than its name says")
    kinds = {name: (torch.float32, layout.size) for name in ("weights", "velocity")}
    kinds |= {"buffers": (torch.float32, layout.buffer_size), "mask": (torch.bool, layout.size)}
    for name in kinds.keys() | tensors.keys():
        dtype, size = kinds[name.split("/")[-1].split("@")[0]]  # "2/weights@best" is kept by one
        shape = (size,) if "/" in name else (len(members), size)
        if (tensors[name].dtype, tensors[name].shape) != (dtype, shape):
            raise DamageError(f"its {name} is none of this network")


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
            spared = member.run.length - task.epoch  # of a diverged one
            bar.update(spared * len(images.y_train))
        if task.members:
            task.run_epoch(bar.update)
    task.close()
    store.drop_checkpoint(name)


def _finished(member, tensors, task):
    run, facts = member.run, member.facts
    machine = platform.processor() or platform.machine()
    info = {
        **facts,
        "diverged": member.diverged,
        "density": 1 - facts["pruned"] / max(facts["prunable"], 1),
        "device": torch.cuda.get_device_name() if task.device.type == "cuda" else machine,
        "python": sys.version.split()[0],
        "torch": torch.__version__,
    }
    return Finished(run.key, run.specification, member.history, info, lambda: tensors)


def _due(runs, images):
    """How many weights each run is to have pruned, by what settles that: data, network, pruning.

    Raises ``ValueError`` where that empties a layer; under the global scope only weights tell.
    """
    alike = {(run.data, run.network, run.pruning): run for run in runs}
    return {shared: _pruned(run, images[run.data]) for shared, run in alike.items()}


def _pruned(run, images):
    if not run.pruning:
        return 0
    network = loop.network_of(run, images)
    names = networks.prunable(network, run.pruning.keep_dense)
    shapes = {name: network.get_parameter(name).shape for name in names}
    size = sum(shape.numel() for shape in shapes.values())
    if run.pruning.scope == "global":
        return masks.pruned_count(run.sparsity, size)
    return size - sum(masks.allocation(shapes, run.sparsity, run.pruning.scope).values())


def _room(runs, images):
    """The bytes that ``runs`` may need at most while they train."""
    need, layouts = 0, {}
    for run in runs:
        shared = (run.data, run.network)
        if shared not in layouts:
            layouts[shared] = loop.Layout(loop.network_of(run, images[run.data]))
        kept = (len(run.keep) + run.keep_best) * (1 + run.keep_velocity)
        # finished: weights and mask; checkpoint: velocity too, for a moment the old and the new;
        # a snapshot is two states where the mask changes on its step, each with its mask
        each = 5 + 2 * 9 + 3 * (4 * kept + 2 * 5 * len(run.snapshots))
        need += (layouts[shared].size + layouts[shared].buffer_size) * each
    return need


def _bar(missing, images, progress):
    from tqdm import tqdm

    total = sum(run.length * len(images[run.data].y_train) for run in missing)
    return tqdm(
        total=total, disable=not (progress and missing), unit=" images", unit_scale=True,
        mininterval=2.0, smoothing=0.1, leave=False, desc=f"training {len(missing)} networks",
        file=sys.stdout, ncols=100,
    )  # fmt: skip


def _summary(table, wanted, images, trained, seconds):
    """One line that says whether a failed run hides among the results."""
    last, due = final(table).set_index("key"), _due(wanted, images)
    pruned = last["pruned"].to_dict()
    exact = all(pruned[run.key] == due[run.data, run.network, run.pruning] for run in wanted)
    return (
        f"{len(wanted)} runs, {trained} networks trained in {seconds:.0f} s, the rest from the "
        f"store; {int(last['diverged'].sum())} diverged; lowest final training accuracy "
        f"{last['train_accuracy'].min():.3f}; densities exact: {exact}"
    )
