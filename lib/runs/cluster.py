"""Tasks on the workers of a Dask cluster: who may take part, what runs when, what became of it.

What a task makes goes into the run store, a folder that all share; it sends nothing back. So a
worker that dies costs what it had not yet written, and its task goes on elsewhere from there.
Nothing here knows what a task does. Dask is an extra, and loaded when it is first used::

    carry_out(runs, cluster="local:4")              # four processes on this machine
    carry_out(runs, cluster="tcp://10.0.0.5:8786")  # the workers of that scheduler

A worker takes part if it has this library, torch and Python and sees the store; others are named.
Code travels to workers, as Dask does it: whoever reaches the scheduler can run what he likes there.
The run store holds none; it is read as tensors and text, here as everywhere.
"""

import collections
import functools
import hashlib
import os
import pickle
import re
import sys
import time
import warnings
from collections.abc import Callable
from contextlib import suppress
from typing import Any, NamedTuple

import torch

from lib import files, registry
from lib.runs.store import Store
from lib.specs.fields import ParameterError

GONE = "the scheduler is gone: start it, and do the same again"
DEATHS = 2  # of workers that a task may cost before it counts as the cause

chosen: str | None = None  # where work goes if nothing else is said
_clients: dict[str, Any] = {}  # they stay: workers of this machine take seconds to start


class ClusterError(RuntimeError):
    """The cluster could not do all that it was asked to; what was finished is in the store."""


class Task(NamedTuple):
    """A ``call`` without arguments that is ``size`` units of the progress bar's.

    ``what`` names it for people; it begins when the tasks with the numbers ``needs`` are done.
    """

    call: functools.partial
    what: str
    size: int
    needs: frozenset[int] = frozenset()


def where(cluster: str | None) -> str | None:
    """The cluster that work goes to: the one given, else the ``chosen``; None: it stays here.

    Raises ``ParameterError`` for what names none.

    >>> where("local:4")
    'local:4'
    """
    if cluster and not re.fullmatch(r"local:[1-9]\d*|\w+://\S+", cluster):
        raise ParameterError(
            f"cluster is {cluster!r}: allowed are local:N (N processes on this machine) and the "
            "address of a scheduler, such as tcp://host:8786"
        )
    return chosen if cluster is None else cluster


@functools.cache
def versions() -> dict[str, str]:
    """What must be the same on all machines; of the library, its very source."""
    source = b"".join(path.read_bytes() for path in sorted((files.HOME / "lib").rglob("*.py")))
    library = hashlib.blake2b(source, digest_size=4).hexdigest()
    return {"library": library, "torch": torch.__version__, "python": sys.version[:4]}


def _client(cluster):
    """The connection to a cluster; one of this machine ends with this process."""
    if cluster not in _clients or _clients[cluster].status != "running":
        try:
            import dask
            import distributed
        except ImportError as error:
            raise ParameterError(
                f"cluster is {cluster!r}: that needs Dask, pip install 'price-of-sparsity[cluster]'"
            ) from error
        place: Any = cluster
        if cluster.startswith("local:"):
            count = int(cluster.removeprefix("local:"))
            # else Dask has workers hand memory back at each free: a sixth of the time of training
            with dask.config.set(
                {"distributed.nanny.pre-spawn-environ.MALLOC_TRIM_THRESHOLD_": 2**28}
            ):
                place = distributed.LocalCluster(
                    count, threads_per_worker=max(1, torch.get_num_threads() // count),
                    dashboard_address=":0",
                )  # fmt: skip
        _clients[cluster] = distributed.Client(place, timeout=20, set_as_default=False)
    return _clients[cluster]


def carry_out(plan: Callable[[int, int], list[Task]], cluster: str, store: Store, bar: Any) -> None:
    """Do the tasks of ``plan(workers, bytes of the least one's memory)``, one a worker at a time.

    Waits for a first worker; those that come later take part. A task that fails is not tried
    again, nor what needs it; the others go on. Raises ``ClusterError`` for tasks that failed, a
    scheduler that is gone, or workers that are all refused.
    """
    client, name = _client(cluster), f"sparsity-{os.getpid()}-{time.time_ns()}"

    import cloudpickle
    from distributed import CancelledError, wait

    mark = store.root.resolve() / f".{name}.partial"  # swept away some day if this process dies
    mark.touch()
    own = registry.own()
    for home in {entry.__module__ for _, _, entry, _ in own} - {"__main__"}:
        cloudpickle.register_pickle_by_value(sys.modules[home])  # a plugin's; others have it not
    fit = functools.partial(_fit, client, {}, versions(), str(mark), cloudpickle.dumps(own))
    running: dict[Any, tuple[int, str]] = {}  # what is done, and where
    failed: dict[int, BaseException] = {}
    deaths: collections.Counter[int] = collections.Counter()
    try:
        memory = min(worker["memory_limit"] or sys.maxsize for worker in fit().values())
        tasks = plan(len(fit()), memory)
        bar.set_postfix_str(f"{len(tasks)} tasks, {len(fit())} workers")
        waiting = dict(enumerate(tasks))
        while waiting or running:
            unmet = {*waiting, *(number for number, _ in running.values()), *failed}
            ready = [number for number, task in waiting.items() if not task.needs & unmet]
            if not running and not ready:
                break  # what is left needs what failed
            there, busy = fit(), {worker for _, worker in running.values()}
            for number, worker in zip(ready, (w for w in there if w not in busy), strict=False):
                key = f"{name}-{number}-{deaths[number]}"
                content = cloudpickle.dumps(waiting.pop(number).call)
                future = client.submit(_done, content, key=key, workers=[worker])
                running[future] = number, worker
            with client.as_current(), suppress(TimeoutError, CancelledError):
                wait(list(running), timeout=1, return_when="FIRST_COMPLETED")
            if client.status != "running" or any(future.cancelled() for future in running):
                raise ClusterError(GONE)
            for future, (number, worker) in list(running.items()):
                if not future.done() and worker in there:
                    continue
                del running[future]
                if future.done():
                    error = future.exception()
                else:  # its worker is gone: another one goes on from what it had written
                    future.cancel()
                    deaths[number] += 1
                    error = RuntimeError("its worker died") if deaths[number] > DEATHS else None
                    if not error:
                        waiting[number] = tasks[number]
                        continue
                bar.update(tasks[number].size)
                if error:
                    failed[number] = error
                    warnings.warn(f"failed: {tasks[number].what}: {error!r}", stacklevel=2)
    finally:
        mark.unlink(missing_ok=True)
        with suppress(Exception):  # of a scheduler that is gone
            client.cancel(list(running))
    if failed:
        named = "; ".join(f"{tasks[number].what}: {error!r}" for number, error in failed.items())
        raise ClusterError(
            f"{len(failed)} of {len(tasks)} tasks failed, {len(waiting)} that need them were not "
            f"begun, the others are in the store. What failed: {named}"
        )


def _fit(client, asked, *given):
    """The workers that take part now, at least one, by address; new ones are asked, and the refused
    named."""
    fit: dict[str, dict] = {}
    while not fit:
        there = client.scheduler_info()["workers"]
        new = [worker for worker in there if worker not in asked]
        try:
            told = client.run(_admitted, *given, workers=new, on_error="return")
        except OSError as error:  # it died between two looks
            raise ClusterError(GONE) from error
        for worker, why in told.items():
            asked[worker] = why
            if why:
                warnings.warn(f"worker {worker} is refused: {why}", stacklevel=3)
        if asked and all(asked.values()):
            raise ClusterError("all workers are refused: " + "; ".join(map(str, asked.values())))
        fit = {worker: there[worker] for worker in there if asked.get(worker) == ""}
        time.sleep(0 if fit else 1)
    return fit


# -- on a worker -----------------------------------------------------------------------------------


def _admitted(due, mark, own):
    """Why this worker cannot take part; where it can it is empty."""
    here, place = versions(), os.path.dirname(mark)
    apart = [
        f"its {what} is {here[what]}, not {due[what]}" for what in due if here[what] != due[what]
    ]
    if not (os.path.exists(mark) and os.access(place, os.W_OK)):
        apart.append(f"it must see the run store {place}, a folder that all share, and write there")
    if not apart:  # only now: functions of another version may not even load
        # what the client of this very scheduler sent; Dask loads all that it carries in this way
        for kind, entry, function, version in pickle.loads(own):
            getattr(registry, kind)(function, name=entry, version=version)
    return ", ".join(apart)


def _done(content):
    """Do a task on all threads of this worker."""
    from distributed import get_worker

    torch.set_num_threads(get_worker().state.nthreads)
    pickle.loads(content)()  # bytes, so that a plugin's functions travel by value; as in _admitted
