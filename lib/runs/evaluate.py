"""Measurements of finished runs, kept in the store: a network out of a run, an estimator over it, one table for all.

What was measured is known by the run's key, the measurement's name, its settings and the epoch: it is never measured twice,
and an interruption loses only the one at work.
"""

import hashlib
import json
import sys
from collections.abc import Callable, Iterable

import torch
from torch import nn

from lib.data import sets
from lib.metrics.estimate import MeasureError
from lib.runs import results, sweep
from lib.runs.store import Finished, Store
from lib.specs.run import Run
from lib.training import loop
from lib.training.cohort import filled
from lib.training.initial_states import labels_of

__all__ = ["filled", "images_of", "labels_of", "mask_of", "measure", "module_of"]
FORMAT = 1  # raised when an estimator's numbers change, so that older ones are not mistaken for new


def module_of(
    run: Run, finished: Finished, images: sets.ImageSet, at: int | str | None = None
) -> nn.Module:
    """The network of a finished run as an ordinary module in eval mode, on the device of ``images``.

    ``at`` is None for the end of training, an epoch that the run was told to ``keep``, "best" (with ``keep_best``), or a snapshot:
    "step500", or "step500-before" and "step500-after" where the mask changed on that step. Raises ``MeasureError`` for what was not kept.
    """
    suffix = "" if at is None else f"@{at}"
    if f"weights{suffix}" not in finished.tensors:
        kept = sorted(
            name.split("@")[1] for name in finished.tensors if name.startswith("weights@")
        )
        raise MeasureError(
            f"at is {at!r}: {run.solution}, seed {run.seed}, kept the weights of {', '.join(kept) or 'its end alone'}"
        )
    network = loop.network_of(run, images)
    return filled(
        network,
        finished.tensors[f"weights{suffix}"],
        finished.tensors[f"buffers{suffix}"],
        images.x_train.device,
    )


def mask_of(
    run: Run, finished: Finished, images: sets.ImageSet, at: int | str | None = None
) -> dict[str, torch.Tensor]:
    """Which weights live, by parameter name (bool), on the device of ``images``; a dense run's are all True.

    ``at`` a snapshot (see ``module_of``) it is that moment's own mask, else the one at the end of training.
    """
    row = finished.tensors.get(f"mask@{at}", finished.tensors["mask"])
    views = loop.Layout(loop.network_of(run, images)).views(row)
    return {name: live.to(images.x_train.device) for name, live in views.items()}


def images_of(run: Run, device: str = "auto") -> sets.ImageSet:
    """The examples that a run was trained and tested on, before label noise."""
    return sweep.images_of(run.data, sweep.choose_device(device))


def measure(
    runs: list[Run],
    name: str,
    function: Callable[[nn.Module, dict[str, torch.Tensor], Run, sets.ImageSet], dict],
    *,
    store: Store,
    settings: dict | None = None,
    at: Iterable[int | str | None] = (None,),
    device: str = "auto",
    progress: bool = True,
):
    """A DataFrame of ``function(network, mask, run, images)`` for each finished run and each epoch in ``at``.

    ``function`` returns a dict of numbers (or lists of numbers); ``settings`` is all that it depends on beside its arguments, and
    goes into the key under which its result is kept, so choose another ``name`` or setting when it changes. A row has the run's
    columns as in ``carry_out``, the epoch, and the function's values. A diverged run is not measured: its values are missing.
    Raises ``KeyError`` for a run that the store lacks.
    """
    import pandas as pd
    from tqdm import tqdm

    at, rows = list(at), []
    settings = json.loads(json.dumps(settings or {}, sort_keys=True, allow_nan=False))
    todo = [(run, epoch) for run in dict.fromkeys(runs) for epoch in at]
    bar = tqdm(
        todo,
        desc=name,
        disable=not progress,
        leave=False,
        mininterval=2.0,
        file=sys.stdout,
        ncols=100,
    )
    found = None
    for run, epoch in bar:
        if found is None or found.key != run.key:
            found = store.get(run.key)
        if found is None:
            raise KeyError(f"run {run.key} is not in the store {store.root}: carry it out first")
        row = {**results.columns_of(run, found.info), "epoch": _epoch(run, epoch)}
        if found.info["diverged"] is None:
            text = json.dumps(
                {"run": run.key, "name": name, "settings": settings, "at": epoch, "format": FORMAT},
                sort_keys=True,
            )
            place = hashlib.sha256(text.encode()).hexdigest()[:40]
            values = store.measured(place)
            if values is None:
                images = images_of(run, device)
                values = function(
                    module_of(run, found, images, epoch),
                    mask_of(run, found, images, epoch),
                    run,
                    images,
                )
                store.keep_measured(place, {"what": json.loads(text), "values": values})
            row |= values
        rows.append(row)
    return pd.DataFrame(rows)


def _epoch(run, at):
    return run.recipe.epochs if at is None else at
