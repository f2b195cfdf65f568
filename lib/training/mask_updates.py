"""Mask updates within training: which members are due after a step, and the change of their masks.

The rules are those of ``lib.masks.dynamic``, and a user's; here they meet a group in training.
Recorded gradient flow goes to a member's ``facts``: "flow" as [steps, flow], "updates" as [steps,
flow before, flow after]. Snapshots go to ``kept``: "weights@step500", "buffers@step500" and
"mask@step500" where the mask stays as it is on that step, or each with "-before" and "-after" where
it changes.
"""

import torch

from lib import rng
from lib.masks import dynamic
from lib.masks.masks import Named, refuse
from lib.metrics import gradients
from lib.models import networks
from lib.specs.run import Run
from lib.training import schedules
from lib.training.cohort import STATE
from lib.training.plan import Group

Batch = tuple[torch.Tensor, torch.Tensor]
BLIND = ("magnitude", "random", "synflow")  # criteria that look at no example


def check(run: Run, examples: int) -> None:
    """Raise ``ValueError`` for what makes no sense in a run on so many training examples."""
    t, flow, pruning = run.mask_update, run.flow, run.pruning
    batches = -(-examples // run.recipe.batch_size)
    steps, every = run.length * batches, run.watch_every or 0
    off = [m for m in run.keep if m % 1 and schedules.step_of(m, batches) in (0, batches)]
    refuse(every >= batches, f"watch_every is {every}: an epoch has only {batches} steps")
    refuse(bool(off), f"keep holds {off}: no step lies there, an epoch has only {batches} of them")
    last, scored = max(run.snapshots, default=0), pruning and pruning.score_examples
    refuse(
        last > steps,
        f"snapshots holds step {last}: the run has only {steps} steps ({run.length} epochs of "
        f"{examples} examples in batches of {run.recipe.batch_size}); name earlier steps or train "
        "longer",
    )
    if t:
        dynamic.check(
            t.method, every=t.every, start=t.start, end=t.end, steps=steps, fraction=t.fraction
        )
    looked_at = {
        "watch_examples": run.watch_examples or 0,
        "score_examples": scored or 0,
        "held + flow_examples": flow.skip + flow.examples if flow else 0,
        "selection.pool * batch_size + selection.holdout": (
            run.selection.pool * run.recipe.batch_size + run.selection.holdout
            if run.selection
            else 0
        ),
        "held": t.held if t and t.method != "gradual" and t.gradient == "held" else 0,
    }
    for name, count in looked_at.items():
        refuse(count > examples, f"{name} is {count}: there are only {examples} training examples")
    refuse(
        run.data.name == "folder" and pruning and pruning.criterion not in BLIND and not scored,
        f"criterion is {pruning and pruning.criterion!r}: it needs examples, and a folder is never "
        "held whole: give score_examples",
    )


def watched(group: Group) -> bool:
    """Whether there is anything to do for a group after its steps."""
    return any(
        run.mask_update or run.flow or run.snapshots or run.watch_every
        or any(moment % 1 for moment in run.keep)
        for run in (member.run for member in group.members)
    )  # fmt: skip


@rng.on_threads(1)
def after(group: Group, steps: int, batches: int, batch: Batch | None = None) -> None:
    """Change the masks that are due after ``steps`` optimiser steps, ``batches`` an epoch; record.

    The last step was on the ``batch``, x [c, B, ...] and y [c, B]. Before the first there is none,
    and no mask changes.
    """
    for k, member in enumerate(group.members):
        run, t, facts = member.run, member.run.mask_update, member.facts
        due = t and dynamic.due(
            t.method, steps, every=t.every, start=t.start, end=t.end,
            steps=run.recipe.epochs * batches,
        )  # fmt: skip
        if steps in run.snapshots:
            group.rows.keep(k, f"@step{steps}{'-before' if due else ''}", *STATE)
        if due and batch:
            if not group.rows.weights[k].isfinite().all():
                continue  # it has diverged, and will be found so at the end of the epoch
            new = _new_mask(group, k, steps, batches, *(part[k] for part in batch))
            flow = _flow(group, k) if run.flow else None
            group.rows.remask(k, new)
            group.engine.changed(k)
            if steps in run.snapshots:
                group.rows.keep(k, f"@step{steps}-after", *STATE)
            if run.flow:
                facts.setdefault("updates", []).append([steps, flow, _flow(group, k)])
        if run.flow and steps % run.flow.every == 0:
            facts.setdefault("flow", []).append([steps, _flow(group, k)])


def _flow(group, k):
    """Gradient flow of member ``k`` now; None where it has diverged."""
    if not group.rows.weights[k].isfinite().all():
        return None
    member, flow = group.members[k], group.members[k].run.flow
    part = slice(flow.skip, flow.skip + flow.examples)
    return gradients.flow(
        group.module(k), group.images.x_train[part], member.given[part],
        mask=group.rows.layout.views(group.rows.mask[k]), chunk=member.run.recipe.micro_batch,
    )  # fmt: skip


def _new_mask(group, k, steps, batches, x, y):
    """The mask [P] of member ``k`` by its rule; what is not prunable lives as before."""
    member, run, rows = group.members[k], group.members[k].run, group.rows
    t, recipe, new = run.mask_update, run.recipe, rows.mask[k].clone()
    names = networks.prunable(group.network, run.pruning.keep_dense)

    def named(row) -> Named:
        views = rows.layout.views(row)
        return {name: views[name] for name in names}

    def slope() -> Named:
        held = (group.images.x_train[: t.held], member.given[: t.held])
        on = held if t.gradient == "held" else (x, y)
        found = gradients.loss_gradient(group.module(k), *on, chunk=recipe.micro_batch)
        return {name: found[name] for name in names}

    rate = schedules.rates(recipe, (steps - 1) // batches, batches)[(steps - 1) % batches].item()
    fraction, sparsity = 0.0, run.sparsity
    if t.method == "gradual":
        sparsity = dynamic.gradual(steps, start=t.start, end=t.end, final=sparsity)
    else:
        rates = {"rate": min(rate, recipe.lr), "highest": recipe.lr}
        fraction = dynamic.drop_fraction(t.drop, t.fraction, step=steps, end=t.end, **rates)
    change = dynamic.Change(slope, fraction, sparsity, run.pruning.scope, steps)
    stream = rng.generator(run.seed, run.solution, "grow", steps)
    found = dynamic.updated(t.method, named(rows.weights[k]), named(new), stream, change)
    for name, view in named(new).items():
        view.copy_(found[name])
    return new
