"""The one training loop: a cohort of K networks in lock-step, epoch by epoch.

Every member has its own weights, mask, data order, labels and hyper-parameters. Within an epoch the members are
split into groups that workers take in turn: how large a group and how many threads, the size of the work decides.
A member whose loss is not finite stops alone and is marked diverged; the others never notice.
"""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import accumulate

import torch

from lib import rng
from lib.data import batches, sets
from lib.metrics import geometry, predictions
from lib.models import flops
from lib.models.networks import MLP
from lib.sparse import live
from lib.specs.run import Run
from lib.training import cohort as cohorts
from lib.training import engines, monitors, schedules
from lib.training.cohort import Cohort, Layout, column, decays, filled, sgd_
from lib.training.initial_states import InitialState, labels_of, mask_facts
from lib.training.mask_updates import Updates
from lib.training.threads import Workers, plan


@dataclass
class Member:
    """What one run has gathered so far; its weights are a row of the cohort."""

    run: Run
    facts: dict
    history: list[dict] = field(default_factory=list)
    kept: dict[str, torch.Tensor] = field(default_factory=dict)
    best: float = -1.0
    diverged: int | None = None

    def done(self, trained: int) -> bool:
        """Whether this member has nothing left to train after ``trained`` epochs of the cohort."""
        return trained >= self.run.length or self.diverged is not None


class Training:
    """A cohort being trained: ``runs`` of one architecture, set size, batch size and optimiser, from ``starts``."""

    def __init__(
        self,
        runs: list[Run],
        starts: list[InitialState],
        images: sets.ImageSet,
        network,
        cores: int | None = None,
    ):
        self.images, self.network = images, network
        self.device = images.x_train.device
        self.members = [Member(run, start.facts) for run, start in zip(runs, starts, strict=True)]
        rows = [
            torch.stack([getattr(s, name) for s in starts]).to(self.device)
            for name in ("weights", "buffers", "mask")
        ]
        self.cohort = Cohort(Layout(network), *rows)
        for k, start in enumerate(starts):
            if start.velocity is not None:
                self.cohort.velocity[k] = start.velocity.to(self.device)
        self.epoch = 0  # epochs that the cohort has trained; a member that began later is as much further on its own clock
        self.cores = (
            cores or torch.get_num_threads()
        )  # OMP_NUM_THREADS bounds it, as on a shared host
        self.recipe = runs[
            0
        ].recipe  # what all members share of it: batch size, momentum, precision
        self.seen = [0]  # images seen by each group in this epoch, for the progress bar
        self.feed = batches.feed(
            images, augment=runs[0].data.augment, flat=isinstance(network, MLP)
        )
        self.labels = [labels_of(run, images) for run in runs]
        self.workers = None
        self._group()

    def _group(self):
        """Put the members whose live weights are few behind the others, split all among groups, and give each group its engine."""
        kinds = self._live()
        order = sorted(range(len(kinds)), key=kinds.__getitem__)
        if order != sorted(order):
            self._select(order)
        self.live = sorted(kinds)
        batched = isinstance(self.network, MLP) and self.recipe.precision == "float32"
        count, dense = len(kinds), kinds.count(False)
        if self.device.type == "cpu":
            work = flops.training(
                flops.forward(self.network, self.images.shape), self.recipe.batch_size
            )
            sizes, workers, threads = plan(dense, count - dense, work, batched, self.cores)
        else:
            sizes, workers, threads = [count], 1, self.cores
        self.close()
        self.workers = Workers(workers, threads)
        self.groups = []
        for stop, size in zip(accumulate(sizes), sizes, strict=True):
            start = stop - size
            rows = self.cohort.slice(start, stop)
            engine = engines.engine(
                rows, self.network, self.recipe, self.images.shape if self.live[start] else None
            )
            labels = [given for given, _ in self.labels[start:stop]]
            members = self.members[start:stop]
            gathered = (
                [m.run for m in members],
                [m.facts for m in members],
                [m.kept for m in members],
            )
            updates = Updates(*gathered, rows, self.network, self.images, labels, engine)
            self.groups.append((start, rows, engine, updates))

    def _live(self):
        """For each member, whether its steps are taken at the cost of its live weights."""
        plain = (
            self.recipe.precision == "float32"
            and not self.recipe.label_smoothing
            and not self.recipe.micro_batch
        )
        if self.device.type != "cpu" or not plain:
            return [False] * len(self.members)
        masks = (self.cohort.layout.views(row) for row in self.cohort.mask)
        return [
            live.pays(self.network, mask, self.images.shape, self.recipe.batch_size)
            for mask in masks
        ]

    def _select(self, members):
        """Keep these members, in this order."""
        self.cohort = self.cohort.select(members)
        self.labels = [self.labels[k] for k in members]
        self.members = [self.members[k] for k in members]

    def close(self) -> None:
        """Let the workers' threads go; they would wait for more until this object is collected."""
        if self.workers:
            self.workers.close()

    # -- one epoch ---------------------------------------------------------------------------------------------------

    def run_epoch(self, tick: Callable[[int], None] = lambda seen: None) -> None:
        """Train one epoch and measure where it is due; ``tick`` hears how many images were seen since it last did."""
        if self._live() != self.live:  # masks that are pruned gradually
            self._group()
        self.seen, told = [0] * len(self.groups), 0
        begin = time.perf_counter()

        def tell():
            nonlocal told
            told, since = sum(self.seen), told
            tick(told - since)

        results = self.workers.each(
            lambda number: self._group_epoch(number, tell if self.workers.alone else None),
            len(self.groups),
            tell,
        )
        tell()
        self.epoch += 1
        seconds = (time.perf_counter() - begin) / len(self.members)
        finite = torch.cat(results).isfinite() & self.cohort.weights.isfinite().all(1).cpu()
        for member, sound in zip(self.members, finite.tolist(), strict=True):
            member.facts["seconds"] = member.facts.get("seconds", 0.0) + seconds
            if not sound:
                member.diverged = member.run.begin + self.epoch
        self.observe()

    def _group_epoch(self, number, tell=None):
        start, rows, engine, updates = self.groups[number]
        members = self.members[start : start + len(rows)]
        recipe, count = self.recipe, len(self.images.y_train)
        batches = -(-count // recipe.batch_size)
        clock = [m.run.begin + self.epoch for m in members]  # the epoch of each
        streams = [
            "sol_d" if m.run.continuation else m.run.solution for m in members
        ]  # who goes on goes on with the same order
        replicas = [("replica", m.run.replica) if m.run.replica else () for m in members]

        def rngs(name):
            return [
                rng.generator(m.run.seed, s, name, t, *r)
                for m, s, t, r in zip(members, streams, clock, replicas, strict=True)
            ]

        order = torch.stack([torch.randperm(count, generator=stream) for stream in rngs("order")])
        labels = [self.labels[start + k][0] for k in range(len(members))]
        y_epoch = torch.stack([y[o.to(y.device)] for y, o in zip(labels, order, strict=True)])
        rate = torch.stack(
            [
                schedules.rates(m.run.recipe, t, batches, m.run.continuation)
                for m, t in zip(members, clock, strict=True)
            ]
        )
        rate = column(rate.float(), self.device)
        decay = decays([m.run.recipe for m in members], self.cohort.layout, self.device)
        if self.epoch == 0:
            updates.before()
        total = torch.zeros(len(members), device=self.device)
        for step, x in enumerate(self.feed.epoch(order, recipe.batch_size, rngs)):
            if self.workers.cancelled.is_set():
                break
            part = slice(step * recipe.batch_size, (step + 1) * recipe.batch_size)
            total += engine.gradients(x, y_epoch[:, part])
            sgd_(rows, rate(step), recipe.momentum, recipe.nesterov, decay)
            if updates.any:
                updates.after(self.epoch * batches + step + 1, batches, x, y_epoch[:, part])
            self.seen[number] += x.shape[0] * x.shape[1]
            if tell:
                tell()
        return total.cpu()

    # -- measuring ----------------------------------------------------------------------------------------------------

    def observe(self) -> None:
        """Measure and keep weights after an epoch (or before the first), for the members for which it is due."""
        due = [
            (m.run.begin + self.epoch) % m.run.measure_every == 0 or m.done(self.epoch)
            for m in self.members
        ]
        if any(due) or any(m.run.watch for m in self.members):
            self._measure(due)
        for k, member in enumerate(self.members):
            if member.run.begin + self.epoch in member.run.keep:
                self._keep(k, f"@{member.run.begin + self.epoch}")

    def _measure(self, due):
        """Add a row to the history of the members that are due: the measures on the training and the test set, and the signals."""
        rows = [
            row
            for rows in self.workers.each(
                lambda number: self._measure_group(number, due), len(self.groups)
            )
            for row in rows
        ]
        for k, (member, row) in enumerate(zip(self.members, rows, strict=True)):
            if not row:
                continue
            epoch = member.run.begin + self.epoch
            member.history.append({"epoch": epoch, **row})
            if not math.isfinite(row.get("train_loss", 0.0)):
                member.diverged = epoch  # its accuracy is an accident: NaN predicts class 0
            elif member.run.keep_best and row.get("test_accuracy", -1.0) > member.best:
                member.best = row["test_accuracy"]
                self._keep(k, "@best")

    def _measure_group(self, number, due):
        """A row for each member of a group: its measures if it is due, and its signals."""
        start, rows, *_ = self.groups[number]
        due = due[start : start + len(rows)]
        found = self._predictions(number) if any(due) else [{}] * len(rows)
        return [
            (row if is_due else {}) | self._monitored(start + k)
            for k, (row, is_due) in enumerate(zip(found, due, strict=True))
        ]

    def _monitored(self, k):
        """What member ``k`` watches, at its epoch; the seconds it took go to the member's facts."""
        member, row = self.members[k], {}
        if not member.run.watch or member.diverged is not None:
            return row
        network = filled(self.network, self.cohort.weights[k], self.cohort.buffers[k], self.device)
        x, epoch = self.images.x_train[: member.run.watch_examples], member.run.begin + self.epoch
        if epoch == 0:
            geometry.reestimate(
                network, x
            )  # before training BatchNorm's running statistics are those of no data
        spent = member.facts.setdefault("monitor_seconds", {})
        for name in member.run.watch:
            stream, begin = (
                rng.generator(member.run.seed, "signal", name, epoch),
                time.perf_counter(),
            )
            row |= monitors.MONITORS[name](network, x, stream)
            spent[name] = spent.get(name, 0.0) + time.perf_counter() - begin
        return row

    def _predictions(self, number):
        start, rows, engine, _ = self.groups[number]
        images, labels = self.images, self.labels[start : start + len(rows)]
        noisy = self.members[start].run.data.noise > 0
        train = predictions.Part(
            images.x_train,
            torch.stack([given for given, _ in labels]),
            images.y_train if noisy else None,
            torch.stack([flipped for _, flipped in labels]) if noisy else None,
        )
        chunk = min(256 if self.device.type == "cpu" else 2000, self.recipe.micro_batch or 2000)
        columns = predictions.measure(engine.logits, train, "train", chunk)
        columns |= predictions.measure(
            engine.logits, predictions.Part(images.x_test, images.y_test), "test", chunk
        )
        return [
            {name: column[k].item() for name, column in columns.items()} for k in range(len(rows))
        ]

    def _keep(self, k, suffix):
        self.members[k].kept[f"weights{suffix}"] = self.cohort.weights[k].cpu().clone()
        self.members[k].kept[f"buffers{suffix}"] = self.cohort.buffers[k].cpu().clone()
        if self.members[k].run.keep_velocity:
            self.members[k].kept[f"velocity{suffix}"] = self.cohort.velocity[k].cpu().clone()

    # -- leaving, interrupting, resuming -----------------------------------------------------------------------------

    def retire(self) -> list[tuple[Member, dict[str, torch.Tensor]]]:
        """Take the members that are done out of the cohort, each with its tensors; check that masks held.

        Raises ``RuntimeError`` if a pruned weight is not exactly zero: no such run may enter the store.
        """
        leaving = [k for k, m in enumerate(self.members) if m.done(self.epoch)]
        left = []
        for k in leaving:
            member, mask = self.members[k], self.cohort.mask[k]
            if self.cohort.weights[k][~mask].count_nonzero():
                raise RuntimeError(
                    f"a pruned weight of {member.run.solution}, seed {member.run.seed}, is not zero"
                )
            if member.run.mask_update:
                member.facts |= mask_facts(member.run, self.network, self.cohort.layout, mask.cpu())
            state = {
                name: getattr(self.cohort, name)[k].cpu() for name in ("weights", "buffers", "mask")
            }
            left.append((member, {**state, **member.kept}))
        staying = [k for k in range(len(self.members)) if k not in leaving]
        if leaving and staying:
            self._select(staying)
            self._group()
        elif leaving:
            self.members = []
        return left

    def state(self) -> tuple[dict, dict]:
        """(tensors, content) from which ``resume`` goes on as if nothing had happened."""
        tensors = {
            name: getattr(self.cohort, name) for name in ("weights", "velocity", "buffers", "mask")
        }
        content = {"epoch": self.epoch, "members": []}
        for k, m in enumerate(self.members):
            tensors |= {f"{k}/{name}": value for name, value in m.kept.items()}
            content["members"].append(
                {
                    "key": m.run.key,
                    "facts": m.facts,
                    "history": m.history,
                    "best": m.best,
                    "diverged": m.diverged,
                }
            )
        return tensors, content

    def resume(self, tensors: dict, content: dict) -> None:
        """Set the state that ``state`` gave of the same runs."""
        keys = [member["key"] for member in content["members"]]
        order = [keys.index(member.run.key) for member in self.members]
        for name in ("weights", "velocity", "buffers", "mask"):
            getattr(self.cohort, name).copy_(tensors[name][order])
        self.epoch = content["epoch"]
        for k, member in zip(order, self.members, strict=True):
            saved = content["members"][k]
            kept = {n.split("/", 1)[1]: v for n, v in tensors.items() if n.startswith(f"{k}/")}
            for mine, theirs in ((member.facts, saved["facts"]), (member.kept, kept)):
                mine.clear()  # the dict stays the same: others write to it
                mine.update(theirs)
            member.history = saved["history"]
            member.best, member.diverged = saved["best"], saved["diverged"]
        self._group()  # for the masks as they are now


def network_of(run: Run, images: sets.ImageSet):
    """The meta-device module that ``run`` trains on ``images``."""
    return cohorts.build(run.network, images.shape, images.classes)
