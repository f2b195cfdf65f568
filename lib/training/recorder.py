"""What is written down of members while they train: their measures, their signals, their weights."""

import math
import time

import torch
from torch import nn

from lib import rng
from lib.data import sets
from lib.metrics import geometry, predictions
from lib.registry import monitor
from lib.training.cohort import Cohort, Member, filled
from lib.training.plan import Group


class Recorder:
    """Writes to the members of a group what is due after an epoch, on ``images``."""

    def __init__(self, network: nn.Module, images: sets.ImageSet):
        self.network, self.images = network, images

    def observe(self, group: Group, epoch: int) -> None:
        """After ``epoch`` epochs of the cohort: measures, signals, then the weights to keep.

        Whose training loss is not finite has diverged: its accuracy is an accident, as NaN predicts
        class 0.
        """
        clocks = [member.run.begin + epoch for member in group.members]
        due = [
            clock % member.run.measure_every == 0 or member.done(epoch)
            for member, clock in zip(group.members, clocks, strict=True)
        ]
        found = self._measures(group) if any(due) else [{}] * len(due)
        for k, (member, clock) in enumerate(zip(group.members, clocks, strict=True)):
            row = (found[k] if due[k] else {}) | self._signals(member, clock, group.rows, k)
            if row:
                member.history.append({"epoch": clock, **row})
            if not math.isfinite(row.get("train_loss", 0.0)):
                member.diverged = clock
            elif member.run.keep_best and row.get("test_accuracy", -1.0) > member.best:
                member.best = row["test_accuracy"]
                self._keep(member, group.rows, k, "@best")
            if clock in member.run.keep:
                self._keep(member, group.rows, k, f"@{clock}")

    def _keep(self, member: Member, rows: Cohort, k: int, suffix: str) -> None:
        velocity = ("velocity",) if member.run.keep_velocity else ()
        rows.keep(k, suffix, "weights", "buffers", *velocity)

    def _measures(self, group: Group) -> list[dict[str, float]]:
        """The measures of each member on the training and the test set."""
        images, run = self.images, group.members[0].run
        given = torch.stack([member.given for member in group.members])
        flips = (images.y_train, torch.stack([member.flipped for member in group.members]))
        train = predictions.Part(images.x_train, given, *(flips if run.data.noise else ()))
        test = predictions.Part(images.x_test, images.y_test)
        most = 256 if group.rows.weights.device.type == "cpu" else 2000
        chunk = min(most, run.recipe.micro_batch or 2000)
        columns = predictions.measure(group.engine.logits, train, "train", chunk)
        columns |= predictions.measure(group.engine.logits, test, "test", chunk)
        return [{name: c[k].item() for name, c in columns.items()} for k in range(len(group.rows))]

    def _signals(self, member: Member, clock: int, rows: Cohort, k: int) -> dict[str, float]:
        """What a member watches, at its epoch; the seconds it took go to its facts.

        Before training BatchNorm's running statistics are those of no data: they are taken first.
        """
        row: dict[str, float] = {}
        if not member.run.watch or member.diverged is not None:
            return row
        network = filled(self.network, rows.weights[k], rows.buffers[k], rows.weights.device)
        x = self.images.x_train[: member.run.watch_examples]
        if clock == 0:
            geometry.reestimate(network, x)
        spent = member.facts.setdefault("monitor_seconds", {})
        for name in member.run.watch:
            stream = rng.generator(member.run.seed, "signal", name, clock)
            begin = time.perf_counter()
            row |= monitor[name](network, x, stream)
            spent[name] = spent.get(name, 0.0) + time.perf_counter() - begin
        return row
