"""What training cost, in three ledgers: the steps that a user sees, the floating-point operations
of the sparse phase, and those of everything that it took.

Counted as ``lib.models.flops`` does, live weights alone, whatever the machine did. Scoring a pool
and the passes of an objective are in it; measuring is not, nor making the mask, nor the dense
gradients by which RigL grows.
"""

from lib.masks import dynamic
from lib.models import flops
from lib.runs.results import with_parents
from lib.runs.store import Store
from lib.runs.sweep import images_of
from lib.specs.run import Run
from lib.training import loop

# forward passes of all examples through another network, before training
LOOKS_UP = {"hard_disagreeing": 1, "reducible_fisher": 2, "reducible_fisher_raw": 2}


def ledgers(runs: list[Run], store: Store):
    """A DataFrame with a row for each finished run: ``key``, and what it cost.

    ``steps``         optimiser steps
    ``sparse_flops``  of this run's own training
    ``total_flops``   with all that it is made from (the dense run that gave mask or weights, a
                      guide), each once

    Raises ``KeyError`` for a run that the store lacks.
    """
    import pandas as pd

    own = {run: _own(run, store) for run in with_parents(runs)}
    rows = [
        {
            "key": run.key, "steps": own[run][0], "sparse_flops": own[run][1],
            "total_flops": sum(own[each][1] for each in with_parents([run])),
        }
        for run in runs
    ]  # fmt: skip
    return pd.DataFrame(rows)


def _own(run, store):
    """(steps, FLOPs) of a run's own training, to its end or to where it diverged."""
    info, forward = store.finished(run.key).info, _forward(run, store)
    count, end = len(images_of(run.data, "cpu").y_train), info["diverged"]
    epochs = run.length if end is None else end - run.begin
    steps = epochs * -(-count // run.recipe.batch_size)
    done = flops.training(forward, epochs * count)
    done += forward * (info.get("scored", 0) + info.get("penalised", 0))
    if run.selection and run.selection.name in LOOKS_UP:
        other = _forward(run.guide or run.parent, store)
        done += LOOKS_UP[run.selection.name] * count * other
    return steps, done


def _forward(run, store):
    """FLOPs of a forward pass of one example under the mask, on average over a gradual pruning.

    There they are taken to fall from the dense ones to those of the end as the sparsity rises.
    """
    images = images_of(run.data, "cpu")
    network = loop.network_of(run, images)
    mask = loop.Layout(network).views(store.finished(run.key).tensors["mask"])
    live, t = flops.forward(network, images.shape, mask), run.mask_update
    if t is None or t.method != "gradual" or not run.sparsity:
        return live
    steps = run.length * -(-len(images.y_train) // run.recipe.batch_size)
    course = [
        dynamic.gradual(step, start=t.start, end=t.end, final=run.sparsity)
        for step in range(1, steps + 1)
    ]
    reached = sum(course) / len(course) / run.sparsity
    return live + (1 - reached) * (flops.forward(network, images.shape) - live)
