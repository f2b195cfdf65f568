"""Tables of runs: what finished ones measured, by epoch or step; what missing ones would cost."""

from collections.abc import Callable, Iterable, Mapping
from itertools import groupby, pairwise

from lib.data import sets
from lib.runs.store import Finished, Store
from lib.specs.run import Run
from lib.training.mask_updates import check


def tabulate(runs: list[Run], store: Store, held: Mapping[str, Finished | None] | None = None):
    """The table of finished ``runs`` (see ``carry_out``), of which some are ``held`` by their keys;
    raises ``KeyError`` for a missing one."""
    return _table(runs, store, lambda found: found.history, held)


def flows(runs: list[Run], store: Store):
    """The gradient flow of finished ``runs`` while they trained, a row per run and recorded step.

    ``flow`` is that of the network as its optimiser steps left it; ``flow_after`` is another where
    the mask changed at that very step. Raises ``KeyError`` for a run that the store lacks.
    """

    def recorded(found):
        before = {step: flow for step, flow, _ in found.info.get("updates", [])}
        return [
            {"step": step, "flow": before.get(step, flow), "flow_after": flow}
            for step, flow in found.info.get("flow", [])
        ]

    return _table(runs, store, recorded)


def mask_updates(runs: list[Run], store: Store):
    """Gradient flow just ``before`` and ``after`` each change of masks, a row per run and change;
    raises ``KeyError`` for a run that the store lacks."""
    return _table(
        runs, store,
        lambda found: [
            {"step": s, "before": b, "after": a} for s, b, a in found.info.get("updates", [])
        ],
    )  # fmt: skip


def with_parents(runs: Iterable[Run]) -> list[Run]:
    """``runs`` and all that they are made from, each once, parents before their children."""
    line: list[Run] = []
    for run in runs:
        line += [*with_parents(filter(None, (run.parent, run.guide))), run]
    return list(dict.fromkeys(line))


def _table(runs, store, rows_of: Callable[[Finished], list[dict]], held=None):
    import pandas as pd

    rows = []
    for run in runs:
        found = (held or {}).get(run.key) or store.finished(run.key)
        common = columns_of(run, found.info)
        rows += [{**common, **row} for row in rows_of(found)]
    return pd.DataFrame(rows)


def columns_of(run: Run, info: dict) -> dict:
    """The columns that every row of a run has: what it is, and what became of it."""
    moment = {"prune_epoch": run.begin} if run.continuation else {}
    named = {"selection": run.selection, "objective": run.objective}
    return {
        "key": run.key, "solution": run.solution, "sparsity": run.sparsity, "seed": run.seed,
        "dataset": run.data.name, "network": run.network.name, "noise": run.data.noise,
        "epochs": run.recipe.epochs, "density": info["density"], "pruned": info["pruned"],
        "prunable": info["prunable"], "mask": info.get("mask", ""),
        "diverged": info["diverged"] is not None, **moment,
        **{column: part.name for column, part in named.items() if part},
    }  # fmt: skip


def with_settings(table, runs: list[Run], *names: str):
    """The table of ``runs`` with settings of theirs as columns, None where a run has none: of its
    recipe or pruning, or ``rate_floor``, by which a figure tells variants apart."""
    found = {
        run.key: {
            **run.recipe.model_dump(),
            **(run.pruning.model_dump() if run.pruning else {}),
            "rate_floor": run.continuation and run.continuation.floor,
        }
        for run in runs
    }
    return table.assign(
        **{
            name: table["key"].map({key: own.get(name) for key, own in found.items()})
            for name in names
        }
    )


def final(table):
    """One row per run: its last measured epoch, and beside it, chosen on the test set and never
    instead of the final one, its best test epoch: ``best_epoch`` and the measures there."""
    measured = table.columns.union(["train_accuracy", "test_accuracy"], sort=False)
    ordered = table.reindex(columns=measured).sort_values(["key", "epoch"], kind="stable")
    last = ordered.groupby("key", sort=False).tail(1).set_index("key")
    ranked = ordered["test_accuracy"].fillna(-1.0).groupby(ordered["key"], sort=False)
    best = ordered.loc[ranked.idxmax()].set_index("key")
    for column in ("epoch", *table.filter(regex="^(train|test|clean|flipped)_")):
        last[f"best_{column}"] = best[column]
    return last.reset_index().sort_values(["solution", "sparsity", "seed"]).reset_index(drop=True)


def cost(runs: list[Run], store: Store):
    """What ``carry_out(runs)`` would train: networks by solution, those missing, image passes.

    Raises ``ValueError`` for a run that cannot be trained on its data, before any of them is.
    """
    import pandas as pd

    solutions: dict[str, list[tuple[Run, int]]] = {}
    for run in with_parents(runs):
        examples = run.data.train or sets.size(run.data.name, run.data.folder)
        check(run, examples)
        solutions.setdefault(run.solution, []).append((run, examples))
    rows = []
    for alike in solutions.values():
        passes = [run.length * examples for run, examples in alike if not store.has(run.key)]
        ends = dict.fromkeys(end(run.length for run, _ in alike) for end in (min, max))
        rows.append([len(alike), len(passes), " to ".join(map(str, ends)), sum(passes)])
    return pd.DataFrame(
        rows, list(solutions), ["networks", "to train", "epochs each", "image passes to go"]
    )


def nested(runs: list[Run], store: Store) -> bool:
    """Whether, in each seed and solution, masks of higher sparsity lie inside those of lower."""
    ordered = sorted((r for r in runs if r.pruning), key=lambda r: (r.seed, r.solution, r.sparsity))
    return all(
        bool((inner <= outer).all())
        for _, alike in groupby(ordered, key=lambda run: (run.seed, run.solution))
        for outer, inner in pairwise(store.finished(run.key).tensors["mask"] for run in alike)
    )
