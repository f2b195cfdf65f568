"""Mask updates within training: which members are due after a step, and the change of their masks.

The rules are ``lib.mask_update``'s; here they meet a group of a cohort in training.
"""

import torch

from lib import rng
from lib.data import sets
from lib.masks import dynamic
from lib.metrics import gradients
from lib.models import networks
from lib.specs.run import Run
from lib.training import schedules
from lib.training.cohort import Cohort, filled

BLIND = ("magnitude", "random", "synflow")  # criteria that look at no example


def check(run: Run, examples: int) -> None:
    """Raise ``ValueError`` for a mask_update, a flow or snapshots that make no sense in a run on so many training examples.

    See ``dynamic.check``.
    """
    t, steps = run.mask_update, run.length * -(-examples // run.recipe.batch_size)
    if run.snapshots and run.snapshots[-1] > steps:
        raise ValueError(
            f"snapshots holds step {run.snapshots[-1]}: the run has only {steps} steps ({run.length} epochs of {examples} examples in "
            f"batches of {run.recipe.batch_size}); name earlier steps or train longer"
        )
    if run.flow and run.flow.skip + run.flow.examples > examples:
        raise ValueError(
            f"gradient flow on {run.flow.examples} examples behind the first {run.flow.skip}: there are only {examples}"
        )
    pruning = run.pruning
    looked_at = {
        "watch_examples": run.watch_examples,
        "score_examples": pruning and pruning.score_examples,
    }
    for name, count in looked_at.items():
        if count and count > examples:
            raise ValueError(f"{name} is {count}: there are only {examples} training examples")
    if (
        run.data.name == "folder"
        and pruning
        and pruning.score_examples is None
        and pruning.criterion not in BLIND
    ):
        raise ValueError(
            f"criterion is {pruning.criterion!r}: it needs examples, and a folder is never held whole: give score_examples"
        )
    if t is None:
        return
    dynamic.check(
        t.method, every=t.every, start=t.start, end=t.end, steps=steps, fraction=t.fraction
    )
    if t.method != "gradual" and t.gradient == "held" and t.held > examples:
        raise ValueError(
            f"held is {t.held}: the growth gradient cannot come from more examples than the {examples} there are"
        )


class Updates:
    """The updates of one group: ``rows`` of a cohort that train the ``runs``, on ``images`` with ``labels`` [n] for each.

    Recorded gradient flow goes to each run's ``facts``: "flow" as [steps, flow], "updates" as [steps, flow before, flow after].
    Snapshots go to ``kept``: "weights@step500", "buffers@step500" and "mask@step500" where the mask stays as it is on that step, or
    "weights@step500-before", "weights@step500-after" and so on where it changes.
    """

    def __init__(
        self,
        runs: list[Run],
        facts: list[dict],
        kept: list[dict[str, torch.Tensor]],
        rows: Cohort,
        network,
        images: sets.ImageSet,
        labels: list[torch.Tensor],
        engine,
    ):
        self.runs, self.facts, self.kept, self.rows = runs, facts, kept, rows
        self.network, self.images, self.labels = network, images, labels
        self.engine = engine  # that hears of changed masks
        self.any = any(run.mask_update or run.flow or run.snapshots for run in runs)

    def before(self) -> None:
        """Record the flow before the first step."""
        for k, run in enumerate(self.runs):
            if run.flow:
                self.facts[k]["flow"] = [[0, self._flow(k)]]

    def after(self, steps: int, batches: int, x: torch.Tensor, y: torch.Tensor) -> None:
        """Update the masks that are due after ``steps`` optimiser steps, ``batches`` an epoch, the last one on x [c, B, ...], y [c, B]."""
        for k, run in enumerate(self.runs):
            t = run.mask_update
            last = run.recipe.epochs * batches
            changes = t and dynamic.due(
                t.method, steps, every=t.every, start=t.start, end=t.end, steps=last
            )
            if steps in run.snapshots:
                self._keep(k, f"@step{steps}-before" if changes else f"@step{steps}")
            if changes:
                if not self.rows.weights[k].isfinite().all():
                    continue  # it has diverged, and will be found so at the end of the epoch
                new = (
                    self._pruned(k, steps)
                    if t.method == "gradual"
                    else self._regrown(k, steps, batches, x[k], y[k])
                )
                before = self._flow(k) if run.flow else None
                self._change(k, new)
                if steps in run.snapshots:
                    self._keep(k, f"@step{steps}-after")
                if run.flow:
                    self.facts[k].setdefault("updates", []).append([steps, before, self._flow(k)])
            if run.flow and steps % run.flow.every == 0:
                self.facts[k].setdefault("flow", []).append([steps, self._flow(k)])

    def _keep(self, k, suffix):
        """Keep weights [P], BatchNorm statistics [B] and mask [P] of member ``k`` as they are now."""
        for name in ("weights", "buffers", "mask"):
            self.kept[k][f"{name}{suffix}"] = getattr(self.rows, name)[k].cpu().clone()

    def _flow(self, k):
        """Gradient flow of member ``k`` now; None where it has diverged."""
        if not self.rows.weights[k].isfinite().all():
            return None
        part = slice(self.runs[k].flow.skip, self.runs[k].flow.skip + self.runs[k].flow.examples)
        network = filled(
            self.network, self.rows.weights[k], self.rows.buffers[k], self.images.x_train.device
        )
        mask = {
            name: live.to(self.images.x_train.device)
            for name, live in self.rows.layout.views(self.rows.mask[k]).items()
        }
        return gradients.flow(
            network,
            self.images.x_train[part],
            self.labels[k][part],
            mask=mask,
            chunk=self.runs[k].recipe.micro_batch,
        )

    def _views(self, row, run):
        names = networks.prunable(self.network, run.pruning.keep_dense)
        views = self.rows.layout.views(row)
        return {name: views[name] for name in names}

    def _pruned(self, k, steps):
        run, t = self.runs[k], self.runs[k].mask_update
        sparsity = dynamic.gradual(steps, start=t.start, end=t.end, final=run.sparsity)
        mask = dynamic.pruned(
            self._views(self.rows.weights[k], run),
            self._views(self.rows.mask[k], run),
            sparsity,
            run.pruning.scope,
        )
        new = self.rows.mask[k].clone()
        for name, view in self._views(new, run).items():
            view.copy_(mask[name])
        return new

    def _regrown(self, k, steps, batches, x, y):
        run, t = self.runs[k], self.runs[k].mask_update
        rate = schedules.rates(run.recipe, (steps - 1) // batches, batches)[
            (steps - 1) % batches
        ].item()
        fraction = dynamic.drop_fraction(
            t.drop,
            t.fraction,
            step=steps,
            end=t.end,
            rate=min(rate, run.recipe.lr),
            highest=run.recipe.lr,
        )
        gradient = None
        if t.method != "set":
            if t.gradient == "held":
                x, y = self.images.x_train[: t.held], self.labels[k][: t.held]
            network = filled(self.network, self.rows.weights[k], self.rows.buffers[k], x.device)
            gradient = self.rows.layout.row(
                gradients.loss_gradient(network, x, y, chunk=run.recipe.micro_batch)
            )
        layers = dynamic.spans(
            self.rows.layout.parameters, networks.prunable(self.network, run.pruning.keep_dense)
        )
        stream = rng.generator(run.seed, run.solution, "grow", steps)
        return dynamic.update_rows(
            t.method, self.rows.weights[k], self.rows.mask[k], gradient, fraction, stream, layers
        )

    def _change(self, k, new):
        dynamic.apply_(self.rows.weights[k], self.rows.velocity[k], self.rows.mask[k], new)
        self.rows.mask[k] = new
        self.rows.__dict__.pop("bits", None)  # made from the mask when next asked for
        self.engine.changed(k)
