"""Measurements of finished runs, kept in the store: a network, an estimator over it, one table.

What was measured is known by the run's key, the measurement's name, settings and function, and the
epoch: it is never measured twice, and an interruption loses only the one at work.
"""

import json
import sys
from collections.abc import Callable, Iterable
from functools import partial

import torch
from tqdm import tqdm

from lib.data import sets
from lib.metrics.estimate import MeasureError
from lib.registry import source_hash
from lib.runs import cluster as clusters
from lib.runs import results
from lib.runs.store import Finished, Store
from lib.runs.sweep import PARTS, images_of
from lib.specs.run import Run
from lib.training import loop
from lib.training.cohort import filled
from lib.training.initial_states import labels_of as labels_of

FORMAT = 1  # raised when an estimator's numbers change, so that older ones are not taken for new


def module_of(
    run: Run, finished: Finished, images: sets.ImageSet, at: int | str | None = None
) -> torch.nn.Module:
    """The network of a finished run as a module in eval mode, on the device of ``images``.

    ``at`` is None for the end of training, an epoch that the run was told to ``keep``, "best" (with
    ``keep_best``), or a snapshot: "step500", or "step500-before" and "step500-after" where the mask
    changed on that step. Raises ``MeasureError`` for what was not kept.
    """
    suffix = "" if at is None else f"@{at}"
    if f"weights{suffix}" not in finished.tensors:
        kept = sorted(name.split("@")[1] for name in finished.tensors if "weights@" in name)
        raise MeasureError(
            f"at is {at!r}: {run.solution}, seed {run.seed}, kept the weights of "
            f"{', '.join(kept) or 'its end alone'}"
        )
    weights, buffers = (finished.tensors[f"{name}{suffix}"] for name in ("weights", "buffers"))
    return filled(loop.network_of(run, images), weights, buffers, images.x_train.device)


def mask_of(
    run: Run, finished: Finished, images: sets.ImageSet, at: int | str | None = None
) -> dict[str, torch.Tensor]:
    """Which weights live, bool by parameter name, on the device of ``images``; all of a dense run.

    ``at`` a snapshot (see ``module_of``) it is that moment's own mask, else that of the end.
    """
    name = f"mask@{at}" if f"mask@{at}" in finished.tensors else "mask"
    views = loop.Layout(loop.network_of(run, images)).views(finished.tensors[name])
    return {name: live.to(images.x_train.device) for name, live in views.items()}


def measure(
    runs: list[Run],
    name: str,
    function: Callable[[torch.nn.Module, dict[str, torch.Tensor], Run, sets.ImageSet], dict],
    *,
    store: Store,
    settings: dict | None = None,
    at: Iterable[int | str | None] = (None,),
    version: str | None = None,
    device: str = "auto",
    progress: bool = True,
    cluster: str | None = None,
):
    """A DataFrame of ``function(network, mask, run, images)`` for each run and each epoch ``at``.

    ``function`` returns a dict of numbers (or lists of numbers). Its result is kept under its name,
    its ``settings`` and its source, or in place of the source a stated ``version``: edited, it is
    measured anew. Objects that it finds outside itself count by their type alone, so name in the
    settings what it takes from them. A row has the run's columns as in ``carry_out``, the epoch,
    and the values; those of a diverged run are missing. Raises ``KeyError`` for a run that the
    store lacks, and ``DamageError`` for one that is found to be damaged. Example: ``lib.runs``.
    ``cluster`` as in ``carry_out``: its workers measure, and the function goes to them as it is.
    """
    import pandas as pd

    source = version or source_hash(getattr(function, "func", function), lenient=True)
    asked = {"name": name, "settings": settings or {}, "format": FORMAT, "source": source}
    asked, at, rows = json.loads(json.dumps(asked, allow_nan=False)), list(at), []
    away, runs = clusters.where(cluster), list(dict.fromkeys(runs))
    shown: Callable[..., tqdm] = partial(
        tqdm, desc=name, disable=not progress, leave=False, mininterval=2.0, ncols=100,
        file=sys.stdout,
    )  # fmt: skip
    due = [run for run in runs if away and _lacks(run, asked, at, store)]
    if away and due:
        call = partial(
            measure, name=name, function=function, store=Store(store.root.resolve()), at=at,
            settings=settings, version=source, device=device, progress=False,
        )  # fmt: skip
        with shown(total=len(due)) as bar:
            clusters.carry_out(partial(_tasks, call, due), away, store, bar)
    for run in shown(runs):
        found = store.finished(run.key)
        for epoch in at:
            rows.append(
                results.columns_of(run, found.info)
                | {"epoch": run.recipe.epochs if epoch is None else epoch}
            )
            if found.info["diverged"] is not None:
                continue
            what = {**asked, "run": run.key, "at": epoch}
            values = store.measured(what)
            if values is None:
                state = run, found, images_of(run.data, device), epoch
                values = function(module_of(*state), mask_of(*state), run, state[2])
                store.keep_measured(what, values)
            rows[-1].update(values)
    return pd.DataFrame(rows)


def _lacks(run, asked, at, store):
    """Whether something that is asked of ``run`` was not measured yet."""
    return store.finished(run.key).info["diverged"] is None and any(
        store.measured({**asked, "run": run.key, "at": epoch}) is None for epoch in at
    )


def _tasks(call, runs, workers, _memory):
    """Measurements of ``runs`` for a cluster, some tasks a worker."""
    size = -(-len(runs) // (PARTS * workers))
    parts = [runs[i : i + size] for i in range(0, len(runs), size)]
    return [
        clusters.Task(partial(call, part), f"{call.keywords['name']} of {part}", len(part))
        for part in parts
    ]
