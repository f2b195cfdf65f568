"""The one training loop: a cohort of K networks in lock-step, epoch by epoch.

Every member has its own weights, mask, data order, labels and hyper-parameters. Within an epoch the
members are split into groups that workers take in turn: how large a group and how many workers, the
size of the work decides; what a step computes does not hang on it. A member whose loss is not
finite stops alone and is marked diverged; the others never notice.
"""

import time
from collections.abc import Callable
from functools import partial
from itertools import islice

import torch
from torch import nn

from lib import rng
from lib.data import batches, sets
from lib.models.networks import MLP
from lib.specs.run import Run
from lib.training import arms, mask_updates, monitors, plan, schedules
from lib.training.cohort import STATE, TRAINED, Cohort, Layout, Member, Named, column
from lib.training.cohort import network_of as network_of
from lib.training.initial_states import labels_of, mask_facts
from lib.training.plan import Group
from lib.training.threads import Workers

GATHERED = ("facts", "history", "best", "diverged")  # of a member, beside its tensors


class Training:
    """A cohort being trained: ``runs`` of one architecture, set and optimiser, from ``starts``.

    The order of the rows, the groups and the workers are made together in ``_arrange`` alone.
    """

    def __init__(
        self, runs: list[Run], starts: list[tuple[Named, dict]], images: sets.ImageSet,
        network: nn.Module, cores: int | None = None,
    ):  # fmt: skip
        self.images, self.network, self.device = images, network, images.x_train.device
        self.recipe = runs[0].recipe  # what members share of it: batch size, momentum, precision
        self.cores = cores or torch.get_num_threads()  # OMP_NUM_THREADS bounds it
        self.epoch = 0  # that the cohort has trained; who began later is further on its own clock
        self.feed = batches.feed(
            images, augment=runs[0].data.augment, flat=isinstance(network, MLP)
        )
        rows = {
            name: torch.stack([start[name] for start, _ in starts]).to(self.device)
            for name in TRAINED
        }
        members = [
            Member(
                run,
                *labels_of(run, images),
                facts,
                {n: start[n].to(self.device) for n in start.keys() - set(TRAINED)},
            )
            for run, (start, facts) in zip(runs, starts, strict=True)
        ]
        self.workers = Workers(1)
        self._arrange(Cohort(Layout(network), members=members, **rows))

    @property
    def members(self) -> list[Member]:
        """Those that still train, in the order of the cohort's rows."""
        return self.cohort.members

    def _arrange(self, cohort):
        self.workers.close()  # their threads would wait for more until this object is collected
        self.cohort, self.groups, self.workers = plan.arranged(
            cohort, self.network, self.images, self.cores
        )

    # -- one epoch ---------------------------------------------------------------------------------

    def run_epoch(self, tick: Callable[[int], object] = lambda images: None) -> None:
        """Train one epoch and measure where it is due; ``tick`` hears of the images of each step.

        It may be called by several threads at once.
        """
        if plan.sparsely(self.cohort, self.network, self.images) != [
            group.sparse for group in self.groups for _ in group.members
        ]:
            self._arrange(self.cohort)  # for masks that are pruned gradually
        begin = time.perf_counter()
        self.workers.each(
            lambda group: rng.on_threads(group.threads)(self._group_epoch)(group, tick), self.groups
        )
        self.epoch += 1
        seconds = (time.perf_counter() - begin) / len(self.members)
        for member in self.members:
            member.facts["seconds"] = member.facts.get("seconds", 0.0) + seconds
        self.observe()

    def _group_epoch(self, group: Group, tick):
        members, count, size = group.members, len(self.images.y_train), self.recipe.batch_size
        steps = -(-count // size)
        clocks = [(member, int(member.run.begin) + self.epoch) for member in members]
        skipped = 0 if self.epoch else schedules.step_of(members[0].run.begin, steps)  # all alike

        def draws(name):
            return [member.draws(name, clock) for member, clock in clocks]

        order = torch.stack([torch.randperm(count, generator=stream) for stream in draws("order")])
        given = torch.stack([member.given for member in members])
        labels = given.gather(1, order.to(self.device)).split(size, 1)
        rates = [
            schedules.rates(member.run.recipe, clock, steps, member.run.continuation)
            for member, clock in clocks
        ]
        rate = column(torch.stack(rates).float(), self.device)
        watched = mask_updates.watched(group)
        if watched and self.epoch == 0:
            mask_updates.after(group, 0, steps)
        each = arms.Arms(group, self.feed, self.epoch, steps)
        total = torch.zeros(len(members), device=self.device)
        batch = zip(self.feed.epoch(order, size, draws), labels, strict=True)
        for step, (x, y) in islice(enumerate(batch), skipped, None):
            if self.workers.cancelled.is_set():
                return
            each.choose_(step, x, y)
            total += group.step(x, y, rate(step), partial(each.add_, step, x, y))
            if watched:
                mask_updates.after(group, self.epoch * steps + step + 1, steps, (x, y))
                monitors.within(group, self.epoch, step + 1, steps)
            tick(y.numel())
        each.note()
        finite = total.isfinite() & group.rows.weights.isfinite().all(1)
        for (member, clock), sound in zip(clocks, finite.tolist(), strict=True):
            if not sound:
                member.diverged = member.diverged or clock + 1

    def observe(self) -> None:
        """Measure and keep weights after an epoch (or before the first), where it is due."""
        measured = rng.on_threads(self.recipe.threads)(monitors.observe)
        self.workers.each(lambda group: measured(group, self.epoch), self.groups)

    # -- leaving, interrupting, resuming -----------------------------------------------------------

    def retire(self) -> list[tuple[Member, Named]]:
        """Take the members that are done out of the cohort, each with its tensors.

        Raises ``RuntimeError`` if a pruned weight is not exactly zero: no such run may be stored.
        """
        stay = [k for k, member in enumerate(self.members) if not member.done(self.epoch)]
        left = [self._finished(k) for k in range(len(self.members)) if k not in stay]
        if left:
            self._arrange(self.cohort[stay])
        return left

    def _finished(self, k):
        member, mask = self.members[k], self.cohort.mask[k]
        run = member.run
        if self.cohort.weights[k][~mask].count_nonzero():
            raise RuntimeError(f"a pruned weight of {run.solution}, seed {run.seed}, is not zero")
        if run.mask_update:
            member.facts |= mask_facts(run, self.network, self.cohort.layout, mask.cpu())
        return member, self.cohort.keep(k, "", *STATE)

    def state(self) -> tuple[dict, dict]:
        """(tensors, content) from which ``resume`` goes on as if nothing had happened."""
        tensors = {name: getattr(self.cohort, name) for name in TRAINED}
        for k, member in enumerate(self.members):
            tensors |= {f"{k}/{name}": value for name, value in member.kept.items()}
        gathered = [
            {"key": member.run.key, **{name: getattr(member, name) for name in GATHERED}}
            for member in self.members
        ]
        return tensors, {"epoch": self.epoch, "members": gathered}

    def resume(self, tensors: dict, content: dict) -> None:
        """Set the state that ``state`` gave of the same runs."""
        keys = [member["key"] for member in content["members"]]
        order = [keys.index(member.run.key) for member in self.members]
        for name in TRAINED:
            getattr(self.cohort, name).copy_(tensors[name][order])
        self.epoch = content["epoch"]
        for k, member in zip(order, self.members, strict=True):
            vars(member).update({name: content["members"][k][name] for name in GATHERED})
            own = {name: value for name, value in tensors.items() if name.startswith(f"{k}/")}
            member.kept = {name.removeprefix(f"{k}/"): value for name, value in own.items()}
        self._arrange(self.cohort)  # for the masks as they are now
