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
from lib.models import flops
from lib.models.networks import prunable
from lib.runs import cluster as clusters
from lib.runs.results import final, tabulate, with_parents
from lib.runs.store import DamageError, Finished, Store
from lib.specs.parts import Data
from lib.specs.run import Run
from lib.training import initial_states, loop, mask_updates
from lib.training.cohort import TRAINED

CHECKPOINT_SECONDS = 20.0
MAX_MEMBERS = 256
PARTS = 4  # tasks a worker of a cluster
STEP = 60e6  # FLOPs of a step that is worth its calls: members below it train together


def choose_device(device: str | torch.device = "auto") -> torch.device:
    """``"auto"``: CUDA if there is any, else the CPU. Raises ``ValueError`` for any other kind."""
    there = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        place = torch.device(there if device == "auto" else device)
        if place.type not in ("cpu", "cuda"):
            raise RuntimeError("networks are not trained there")
        torch.empty(1, device=place)
    except (RuntimeError, AssertionError, TypeError) as error:
        what = f"device is {device!r}: {str(error).splitlines()[0]}"
        raise ValueError(f"{what}; allowed are auto, cpu, and cuda where a GPU is") from error
    if place.type == "cuda":
        torch.cuda.set_device(place.index or 0)
        torch.backends.cudnn.allow_tf32 = False  # in convolutions too, float32 means float32
    return place


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
    runs: list[Run], *, store: Store | None = None, device: str = "auto", progress: bool = True,
    cluster: str | None = None,
):  # fmt: skip
    """Train every run (and every parent) that the store lacks; return the table of ``runs``.

    The DataFrame has a row per run and measured epoch: what the run is (``results.columns_of``),
    the epoch, and the measures of ``lib.metrics.predictions``. It does not depend on who trained
    what, or when. Interrupt it as you like: called again, it goes on from the last checkpoint and
    ends with the same table. Where nothing is missing, nothing is written. Example: ``lib.runs``.

    With ``cluster``, ``"local:4"`` or the address of a Dask scheduler, its workers train, each on
    a ``device`` of its own; the store must be a folder that all share: see ``lib.runs.cluster``.

    Raises before any training: ``ValueError`` for a device that is not there, a network that does
    not fit the data, or a plan that cannot be; ``DataError`` for other data than the runs were
    specified for; ``StorageError`` for a disk that cannot be written to or has no room. On a
    cluster ``ClusterError``, at the end, for tasks that failed; what did not need them is done.
    """
    begin, store, away = time.perf_counter(), store or Store(), clusters.where(cluster)
    place = choose_device("auto" if away else device)
    wanted, every = list(dict.fromkeys(runs)), with_parents(runs)
    for run in every:
        run.check_versions()
    images = {data: images_of(data, place) for data in dict.fromkeys(run.data for run in every)}
    alike = {(run.data, run.network): run for run in every}
    networks = {kind: loop.network_of(run, images[run.data]) for kind, run in alike.items()}
    plans = dict.fromkeys((run.data, run.network, run.pruning) for run in every)
    due = {plan: _due(plan[2], networks[plan[:2]]) for plan in plans}
    store.clear()
    held = {run.key: store.get(run.key) for run in every}
    missing = [run for run in every if held[run.key] is None]
    for run in missing:
        mask_updates.check(run, len(images[run.data].y_train))
    if missing:
        store.prepare(sum(_room(run, networks[run.data, run.network]) for run in missing))
    trained = set(missing)
    with tqdm(
        total=sum(run.length * len(images[run.data].y_train) for run in missing),
        disable=not (progress and missing), unit=" images", unit_scale=True, mininterval=2.0,
        smoothing=0.1, leave=False, desc=f"training {len(missing)} networks", file=sys.stdout,
        ncols=100,
    ) as bar:  # fmt: skip
        while missing:
            try:
                cohorts = [each for each in _cohorts(every) if not trained.isdisjoint(each)]
                if away:
                    plan = partial(_tasks, cohorts, networks, images, store, device)
                    clusters.carry_out(plan, away, store, bar)
                for cohort in cohorts:
                    first = cohort[0]
                    network = networks[first.data, first.network]
                    _train(cohort, images[first.data], network, store, bar)
                break
            except (DamageError, clusters.ClusterError):  # a parent's weights are missing now
                missing = [run for run in every if store.get(run.key) is None]
                if trained.issuperset(missing):
                    raise
                trained.update(missing)
    table = tabulate(wanted, store, held)
    if progress and wanted:
        last = final(table).set_index("key")
        exact = all(
            last["diverged"][r.key] or last["pruned"][r.key] == due[r.data, r.network, r.pruning]
            for r in wanted
        )
        print(
            f"{len(wanted)} runs, {len(trained)} networks trained in "
            f"{time.perf_counter() - begin:.0f} s, the rest from the store; "
            f"{last['diverged'].sum()} diverged; lowest final training accuracy "
            f"{last['train_accuracy'].min():.3f}; densities exact: {exact}",
            flush=True,
        )
    return table


def _cohorts(runs):
    """Runs that can train in lock-step, parents first; the list alone fixes them, to be resumed."""
    groups: dict[tuple, list[Run]] = {}
    for run in runs:
        r = run.recipe
        shared = (
            len(with_parents([run])), run.data, run.network, run.measure_every, run.begin % 1,
            r.batch_size, r.momentum, r.nesterov, r.precision, r.label_smoothing, r.micro_batch,
            r.threads,
        )  # fmt: skip
        groups.setdefault(shared, []).append(run)
    return [
        groups[shared][i : i + MAX_MEMBERS]
        for shared in sorted(groups, key=lambda shared: shared[0])
        for i in range(0, len(groups[shared]), MAX_MEMBERS)
    ]


def _tasks(cohorts, networks, images, store, device, workers, memory):
    """The cohorts for a cluster, each in parts of as many members as suit a worker.

    Some parts a worker; larger ones where a step of a member is hardly worth its calls, as long
    as all workers have some; none with more members than have room in a worker's memory. The list
    and the number of workers alone fix them, so that another call finds their checkpoints.
    """
    tasks: list[clusters.Task] = []
    part_of: dict[Run, int] = {}
    for cohort in cohorts:
        first, many = cohort[0], len(cohort)
        network, seen = networks[first.data, first.network], images[first.data]
        step = flops.training(flops.forward(network, seen.shape), first.recipe.batch_size)
        size = max(-(-many // (PARTS * workers)), int(STEP / step))
        size = max(1, min(size, -(-many // workers), memory // (2 * _room(first, network))))
        for begin in range(0, many, size):
            part = cohort[begin : begin + size]
            others = {other for run in part for other in (run.parent, run.guide) if other}
            part_of |= dict.fromkeys(part, len(tasks))
            tasks.append(
                clusters.Task(
                    partial(_train_part, part, device, store.root.resolve()),
                    f"{first.solution}, {first.network.name}, {len(part)} from seed {part[0].seed}",
                    len(seen.y_train) * sum(r.length for r in part if not store.has(r.key)),
                    frozenset(part_of[other] for other in others if other in part_of),
                )
            )
    return tasks


def _train_part(runs, device, root):
    images = images_of(runs[0].data, device)
    _train(runs, images, loop.network_of(runs[0], images), Store(root), tqdm(disable=True))


def _has_diverged_parent(run, store):
    """Whether there is nothing to prune; such a run enters the store as diverged at its start."""
    parent = store.finished(run.parent.key) if run.parent else None
    lost = run.guide and store.finished(run.guide.key).info["diverged"] is not None
    if parent is None or (parent.info["diverged"] is None and not lost):
        return False
    best = parent.tensors.get("weights@best", torch.tensor(math.nan))
    from_best = run.pruning.source == "best-test" and bool(best.isfinite().all())
    if not lost and ((run.begin < parent.info["diverged"]) if run.continuation else from_best):
        return False  # it was pruned as it was before it diverged
    tensors = {name: parent.tensors[name] for name in ("weights", "buffers", "mask")}
    note = f"its {'guide' if lost else 'Sol-D'} diverged"
    info = {**parent.info, "diverged": run.begin, "note": note}
    store.put(Finished(run.key, run.specification, [{"epoch": run.begin}], info, lambda: tensors))
    return True


def _train(runs, images, network, store, bar):
    """Train what a cohort lacks, from its checkpoint if it has one."""
    name = hashlib.sha256("".join(run.key for run in runs).encode()).hexdigest()[:40]
    by_key = {run.key: run for run in runs}
    with store.lock(name):
        saved = store.checkpoint(name, partial(_state, by_key, loop.Layout(network)))
        if saved:
            begun = [by_key[member["key"]] for member in saved[1]["members"]]
            _go_on(begun, saved, network, images, store, name, bar)
        absent = [run for run in runs if store.get(run.key) is None]
        lacking = [run for run in absent if not _has_diverged_parent(run, store)]
        if lacking:
            _go_on(lacking, None, network, images, store, name, bar)


def _state(runs, layout, tensors, content):
    """A checkpoint as it is; raises ``DamageError`` unless it is of ``runs``, by ``layout``."""
    members = [member["key"] for member in content["members"]]
    rows = {name: layout.size for name in TRAINED} | {"buffers": layout.buffer_size}
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
    others = {other for run in runs for other in (run.parent, run.guide) if other}
    origins = {other: store.finished(other.key).tensors for other in others}
    beginnings = [
        initial_states.initial_state(
            run, network, origins.get(run.parent), images, origins.get(run.guide)
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
    store.drop_checkpoint(name)


def _finished(member, tensors, task):
    run, facts, on_gpu = member.run, member.facts, task.device.type == "cuda"
    machine = torch.cuda.get_device_name() if on_gpu else platform.processor() or platform.machine()
    info = {
        **facts, "diverged": member.diverged, "device": machine, "threads": run.recipe.threads,
        "density": 1 - facts["pruned"] / max(facts["prunable"], 1),
        "python": sys.version.split()[0], "torch": torch.__version__,
    }  # fmt: skip
    return Finished(run.key, run.specification, member.history, info, lambda: tensors)


def _due(pruning, network):
    """How many weights are to be pruned; ``ValueError`` where that empties a network or a layer."""
    if not pruning:
        return 0
    names, sparsity = prunable(network, pruning.keep_dense), pruning.sparsity
    shapes = {name: tuple(network.get_parameter(name).shape) for name in names}
    size = sum(map(math.prod, shapes.values()))
    live = size - masks.pruned_count(sparsity, size)
    if pruning.scope != "global":
        live = sum(masks.allocation(shapes, sparsity, pruning.scope).values())
    masks.refuse(not live, f"sparsity is {sparsity}: it leaves none of {size} weights")
    return size - live


def _room(run, network):
    """The bytes that ``run`` may need at most while it trains.

    Finished it is weights and mask; in a checkpoint velocity too, for a moment the old and the new;
    a snapshot is two states where the mask changes on its step, each with its mask.
    """
    layout = loop.Layout(network)
    kept = 4 * (len(run.keep) + run.keep_best) * (1 + run.keep_velocity)
    each = 5 + 2 * 9 + 3 * (kept + 2 * 5 * len(run.snapshots))
    return (layout.size + layout.buffer_size) * each
