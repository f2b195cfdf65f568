"""Selections and objectives where they meet a group in training, step by step.

What they look at and what that costs goes to a member's facts: "scored" and "penalised" count
forward passes of an example beyond plain training, "chosen" has for each epoch [epoch, examples,
share of wrong labels, examples of each true class] of what a rule chose.
"""

import torch

from lib.data.batches import InMemory, Streaming
from lib.registry import objective, selection
from lib.training.objectives import OTHERS, PASSES, Step
from lib.training.plan import Group
from lib.training.selection import Pool

STREAMS = ("pool", "score", "chosen-crop", "objective")  # of the draws of an epoch


class Arms:
    """The members of a group that select or have an objective, in one epoch of ``steps`` steps.

    For others nothing is done. Who has diverged goes on plainly until its epoch ends.
    """

    def __init__(self, group: Group, feed: InMemory | Streaming, epoch: int, steps: int):
        self.group, self.feed, self.epoch, self.steps = group, feed, epoch, steps
        self.streams = {
            k: {name: member.draws(name, int(member.run.begin) + epoch) for name in STREAMS}
            for k, member in enumerate(group.members)
            if member.run.selection or member.run.objective
        }
        # copies, as cuDNN cannot read views of rows; kept up in ``_at``, for making one is dear
        self.modules = {k: group.module(k) for k in self.streams}
        self.taken: dict[int, list[torch.Tensor]] = {}

    def _at(self, step, kind):
        """(index, what it has of a kind, its module, its mask, progress) of those to be seen to."""
        rows = self.group.rows
        for k in self.streams:
            run = self.group.members[k].run
            if getattr(run, kind) and rows.weights[k].isfinite().all():
                progress = (self.epoch * self.steps + step) / (run.length * self.steps)
                own, views = self.modules[k].state_dict(), rows.layout.views
                now = rows.layout.state(rows.weights[k], rows.buffers[k])
                torch._foreach_copy_([own[name] for name in now], list(now.values()))
                # by .data: that another's mask changes meanwhile is no change to this one's graph
                yield k, getattr(run, kind), self.modules[k], views(rows.mask.data[k]), progress

    def choose_(self, step: int, x: torch.Tensor, y: torch.Tensor) -> None:
        """Replace the batches, x [c, B, ...] and y [c, B], of members that choose another."""
        images = self.group.images
        for k, rule, module, mask, progress in self._at(step, "selection"):
            member = self.group.members[k]
            streams, count = self.streams[k], len(images.y_train) - rule.holdout
            order = torch.randperm(count, generator=streams["pool"]) + rule.holdout
            index = order[: rule.pool * member.run.recipe.batch_size].to(y.device)
            pool = Pool(
                module.eval(), mask, images.x_train[index], member.given[index],
                y.shape[1], rule, progress, streams["score"],
            )  # fmt: skip
            for name, value in member.looked_up.items():
                way = self.group.rows.layout.views(value) if name == "ahead" else value[index]
                setattr(pool, name, way)
            chosen = selection[rule.name](pool)
            member.facts["scored"] = member.facts.get("scored", 0) + pool.passes
            if chosen is None and rule.holdout:  # an ordinary batch would hold of these
                chosen = torch.arange(pool.size)
            if chosen is not None:
                taken, crops = index[chosen], [streams["chosen-crop"]]
                batches = self.feed.epoch(taken[None], pool.size, lambda _: crops)  # noqa: B023
                x[k], y[k] = next(iter(batches))[0], member.given[taken]
                self.taken.setdefault(k, []).append(taken)

    def add_(self, step: int, x: torch.Tensor, y: torch.Tensor) -> None:
        """Add the objectives' gradients to the loss's, which the group's rows hold by now."""
        rows, classes = self.group.rows, self.group.images.classes
        for k, chosen, module, mask, progress in self._at(step, "objective"):
            member = self.group.members[k]
            weight, gradient = chosen.at(progress), rows.layout.views(rows.gradients[k])
            if weight:
                smoothing, draws = member.run.recipe.label_smoothing, self.streams[k]["objective"]
                seen = Step(module, mask, x[k], y[k], gradient, smoothing, draws)
                with torch.enable_grad():
                    value = objective[chosen.name](seen, weight)
                found = torch.autograd.grad(
                    value, list(seen.weights.values()), materialize_grads=True
                )
                for name, change in zip(seen.weights, found, strict=True):
                    gradient[name] += change
                passes = PASSES.get(chosen.name, lambda classes: OTHERS)(classes) * y.shape[1]
                member.facts["penalised"] = member.facts.get("penalised", 0) + passes

    def note(self) -> None:
        """Write to the members' facts what was chosen in this epoch."""
        truth, classes = self.group.images.y_train, self.group.images.classes
        for k, taken in self.taken.items():
            member, every = self.group.members[k], torch.cat(taken)
            counts = truth[every].bincount(minlength=classes).tolist()
            wrong = member.flipped[every].double().mean().item()
            seen = [member.run.begin + self.epoch + 1, len(every), wrong, counts]
            member.facts.setdefault("chosen", []).append(seen)
