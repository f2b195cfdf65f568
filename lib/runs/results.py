"""Tables of runs: what finished ones measured, by epoch and by step; what those still missing would cost."""

from itertools import pairwise

from lib.data import sets
from lib.runs.store import Store
from lib.specs.run import Run


def tabulate(runs: list[Run], store: Store):
    """The table of finished ``runs`` (see ``carry_out``); raises ``KeyError`` for one that the store lacks."""
    import pandas as pd

    rows = []
    for run in runs:
        finished = _finished(run, store)
        common = columns_of(run, finished.info)
        rows += [{**common, **row} for row in finished.history]
    return pd.DataFrame(rows)


def _finished(run, store):
    found = store.get(run.key)
    if found is None:
        raise KeyError(f"run {run.key} is not in the store {store.root}")
    return found


def flows(runs: list[Run], store: Store):
    """The gradient flow of finished ``runs`` while they trained (see ``lib.training.mask_updates``), a row per run and recorded step.

    ``flow`` is that of the network as its optimiser steps left it; ``flow_after`` is another where the mask changed at that very step.
    Raises ``KeyError`` for a run that the store lacks.
    """
    import pandas as pd

    rows = []
    for run in runs:
        info = _finished(run, store).info
        before = {step: flow for step, flow, _ in info.get("updates", [])}
        for step, flow in info.get("flow", []):
            rows.append(
                {
                    **columns_of(run, info),
                    "step": step,
                    "flow": before.get(step, flow),
                    "flow_after": flow,
                }
            )
    return pd.DataFrame(rows)


def mask_updates(runs: list[Run], store: Store):
    """The gradient flow of finished ``runs`` just ``before`` and ``after`` each change of their masks, a row per run and change.

    Raises ``KeyError`` for a run that the store lacks.
    """
    import pandas as pd

    rows = []
    for run in runs:
        info = _finished(run, store).info
        for step, before, after in info.get("updates", []):
            rows.append({**columns_of(run, info), "step": step, "before": before, "after": after})
    return pd.DataFrame(rows)


def columns_of(run: Run, info: dict) -> dict:
    """The columns that every row of a run has: what it is, and what became of it."""
    moment = {"prune_epoch": run.begin} if run.continuation else {}
    return {
        "key": run.key, "solution": run.solution, "sparsity": run.sparsity, "seed": run.seed, "dataset": run.data.name,
        "network": run.network.name, "noise": run.data.noise, "epochs": run.recipe.epochs, "density": info["density"],
        "pruned": info["pruned"], "prunable": info["prunable"], "mask": info.get("mask", ""),
        "diverged": info["diverged"] is not None, **moment,
    }  # fmt: skip


def with_settings(table, runs: list[Run], *names: str):
    """The table of ``runs`` with settings of theirs as columns: fields of recipe or pruning, or ``rate_floor``; None where a run has none.

    A figure that lays variants side by side tells them apart by these.
    """
    found = {}
    for run in runs:
        found[run.key] = {
            **run.recipe.model_dump(),
            **(run.pruning.model_dump() if run.pruning else {}),
        }
        found[run.key]["rate_floor"] = run.continuation.floor if run.continuation else None
    return table.assign(
        **{
            name: table["key"].map({key: of.get(name) for key, of in found.items()})
            for name in names
        }
    )


def final(table):
    """One row per run: its last measured epoch, with ``best_test_accuracy`` and ``best_epoch`` beside it.

    The best epoch is chosen on the test set, as the price study's workshop version did; it stands beside the final
    number and never instead of it. Its training measures are those of that epoch (``best_*``).
    """
    ordered = table.sort_values(["key", "epoch"], kind="stable")
    last = ordered.groupby("key", sort=False).tail(1).set_index("key")
    ranked = (
        ordered.assign(rank=ordered["test_accuracy"].fillna(-1.0))
        .groupby("key", sort=False)["rank"]
        .idxmax()
    )
    best = ordered.loc[ranked].set_index("key")
    measures = [c for c in table.columns if c.startswith(("train_", "test_", "clean_", "flipped_"))]
    last["best_epoch"] = best["epoch"]
    for column in measures:
        last[f"best_{column}"] = best[column]
    return last.reset_index().sort_values(["solution", "sparsity", "seed"]).reset_index(drop=True)


def cost(runs: list[Run], store: Store):
    """What ``carry_out(runs)`` would train: networks by solution, those still missing, and their image passes."""
    import pandas as pd

    rows = {}
    for run in dict.fromkeys(parent for r in runs for parent in (r.parent, r) if parent):
        row = rows.setdefault(
            run.solution,
            {"networks": 0, "to train": 0, "epochs each": set(), "image passes to go": 0},
        )
        row["networks"] += 1
        row["epochs each"].add(run.length)
        if not store.has(run.key):
            size = run.data.train or sets.size(run.data.name, run.data.folder)
            row["to train"] += 1
            row["image passes to go"] += run.length * size
    for row in rows.values():
        least, most = min(row["epochs each"]), max(row["epochs each"])
        row["epochs each"] = most if least == most else f"{least} to {most}"
    return pd.DataFrame.from_dict(rows, orient="index")


def nested(runs: list[Run], store: Store) -> bool:
    """Whether, within each seed and solution, the mask of a higher sparsity lies inside that of every lower one."""
    groups = {}
    for run in sorted((r for r in runs if r.pruning), key=lambda r: r.sparsity):
        groups.setdefault((run.seed, run.solution), []).append(store.get(run.key).tensors["mask"])
    return all(
        bool((inner <= outer).all())
        for masks in groups.values()
        for outer, inner in pairwise(masks)
    )
