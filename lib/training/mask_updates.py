"""Mask updates within training: which members are due after a step, and the change of their masks.

The rules are those of ``lib.masks.dynamic``, and a user's; here they meet a group in training.
"""

import torch
from torch import nn

from lib import rng
from lib.data import sets
from lib.masks import dynamic
from lib.metrics import gradients
from lib.models import networks
from lib.specs.run import Run
from lib.training import schedules
from lib.training.cohort import STATE, Cohort, Named, filled

BLIND = ("magnitude", "random", "synflow")  # criteria that look at no example


def check(run: Run, examples: int) -> None:
    """Raise ``ValueError`` for updates, flow or snapshots that make no sense in a run.

    That is, on so many training examples; see ``dynamic.check``.
    """
    t, flow, pruning = run.mask_update, run.flow, run.pruning
    steps = run.length * -(-examples // run.recipe.batch_size)
    if run.snapshots and run.snapshots[-1] > steps:
        raise ValueError(
            f"snapshots holds step {run.snapshots[-1]}: the run has only {steps} steps "
            f"({run.length} epochs of {examples} examples in batches of {run.recipe.batch_size}); "
            "name earlier steps or train longer"
        )
    if flow and flow.skip + flow.examples > examples:
        raise ValueError(
            f"gradient flow on {flow.examples} examples behind the first {flow.skip}: there are "
            f"only {examples}"
        )
    looks = pruning and pruning.score_examples is None and pruning.criterion not in BLIND
    if looks and run.data.name == "folder":
        raise ValueError(
            f"criterion is {pruning.criterion!r}: it needs examples, and a folder is never held "
            "whole: give score_examples"
        )
    if t is None:
        return
    dynamic.check(
        t.method, every=t.every, start=t.start, end=t.end, steps=steps, fraction=t.fraction
    )
    if t.method != "gradual" and t.gradient == "held" and t.held > examples:
        raise ValueError(
            f"held is {t.held}: the growth gradient cannot come from more examples than the "
            f"{examples} there are"
        )


class Updates:
    """The updates of one group: the members of ``rows``, with the ``engine`` that hears of them.

    Recorded gradient flow goes to a member's ``facts``: "flow" as [steps, flow], "updates" as
    [steps, flow before, flow after]. Snapshots go to ``kept``: "weights@step500",
    "buffers@step500" and "mask@step500" where the mask stays as it is on that step, or each with
    "-before" and "-after" where it changes.
    """

    def __init__(self, rows: Cohort, network: nn.Module, images: sets.ImageSet, engine):
        self.rows, self.network, self.images, self.engine = rows, network, images, engine
        runs = [member.run for member in rows.members]
        self.any = any(run.mask_update or run.flow or run.snapshots for run in runs)

    def before(self) -> None:
        """Record the flow before the first step."""
        for k, member in enumerate(self.rows.members):
            if member.run.flow:
                member.facts["flow"] = [[0, self._flow(k)]]

    def after(self, steps: int, batches: int, x: torch.Tensor, y: torch.Tensor) -> None:
        """Update the masks that are due after ``steps`` optimiser steps, ``batches`` an epoch.

        The last step was on x [c, B, ...] and y [c, B].
        """
        for k, member in enumerate(self.rows.members):
            run, t, facts = member.run, member.run.mask_update, member.facts
            last = run.recipe.epochs * batches
            due = t and dynamic.due(
                t.method, steps, every=t.every, start=t.start, end=t.end, steps=last
            )
            if steps in run.snapshots:
                self.rows.keep(k, f"@step{steps}{'-before' if due else ''}", *STATE)
            if due:
                if not self.rows.weights[k].isfinite().all():
                    continue  # it has diverged, and will be found so at the end of the epoch
                new = self._new_mask(k, steps, batches, x[k], y[k])
                flow = self._flow(k) if run.flow else None
                dynamic.apply_(
                    self.rows.weights[k], self.rows.velocity[k], self.rows.mask[k], new
                )
                self.rows.remask(k, new)
                self.engine.changed(k)
                if steps in run.snapshots:
                    self.rows.keep(k, f"@step{steps}-after", *STATE)
                if run.flow:
                    facts.setdefault("updates", []).append([steps, flow, self._flow(k)])
            if run.flow and steps % run.flow.every == 0:
                facts.setdefault("flow", []).append([steps, self._flow(k)])

    def _module(self, k):
        device = self.images.x_train.device
        return filled(self.network, self.rows.weights[k], self.rows.buffers[k], device)

    def _flow(self, k):
        """Gradient flow of member ``k`` now; None where it has diverged."""
        if not self.rows.weights[k].isfinite().all():
            return None
        member = self.rows.members[k]
        flow = member.run.flow
        part = slice(flow.skip, flow.skip + flow.examples)
        return gradients.flow(
            self._module(k),
            self.images.x_train[part],
            member.given[part],
            mask=self.rows.layout.views(self.rows.mask[k]),
            chunk=member.run.recipe.micro_batch,
        )

    def _new_mask(self, k, steps, batches, x, y):
        """The mask [P] of member ``k`` by its rule; what is not prunable lives as before."""
        member, run, layout = self.rows.members[k], self.rows.members[k].run, self.rows.layout
        t, recipe, new = run.mask_update, run.recipe, self.rows.mask[k].clone()
        names = networks.prunable(self.network, run.pruning.keep_dense)

        def named(row) -> Named:
            views = layout.views(row)
            return {name: views[name] for name in names}

        def slope() -> Named:
            held = (self.images.x_train[: t.held], member.given[: t.held])
            on = held if t.gradient == "held" else (x, y)
            found = gradients.loss_gradient(self._module(k), *on, chunk=recipe.micro_batch)
            return {name: found[name] for name in names}

        rates = schedules.rates(recipe, (steps - 1) // batches, batches)
        rate, highest = rates[(steps - 1) % batches].item(), recipe.lr
        fraction, sparsity = 0.0, run.sparsity
        if t.method == "gradual":
            sparsity = dynamic.gradual(steps, start=t.start, end=t.end, final=sparsity)
        else:
            fraction = dynamic.drop_fraction(
                t.drop, t.fraction, step=steps, end=t.end, rate=min(rate, highest), highest=highest
            )
        change = dynamic.Change(slope, fraction, sparsity, run.pruning.scope, steps)
        stream = rng.generator(run.seed, run.solution, "grow", steps)
        weights = named(self.rows.weights[k])
        found = dynamic.updated(t.method, weights, named(new), stream, change)
        for name, view in named(new).items():
            view.copy_(found[name])
        return new
