"""What is written down of members while they train: measures, what they watch, their weights.

A monitor takes the network in eval mode, examples and a generator, after every epoch of the dense
run, and returns its columns. To add one, write the function and decorate it; every figure can then
watch it (setting ``watch``). Tr(F) and KL(uniform || p) are the early-pruning study's proposals.
"""

import math
import time

import torch
from torch import nn

from lib import rng
from lib.metrics import fisher as fishers
from lib.metrics import geometry, predictions
from lib.registry import monitor
from lib.training.plan import Group
from lib.training.schedules import step_of

KEPT = ("weights", "buffers", "velocity")  # at a moment, the last for those who go on with it


@monitor
def fisher(network: nn.Module, x: torch.Tensor, generator: torch.Generator) -> dict[str, float]:
    """Tr(F) by one sampled label an example (early-pruning study, equation 4), and its error."""
    estimate = fishers.trace(network, x, generator=generator)
    return {"fisher": estimate.value, "fisher_error": estimate.error}


@monitor
def kl_uniform(network: nn.Module, x: torch.Tensor, generator: torch.Generator) -> dict[str, float]:
    """Mean KL(uniform || p) in nats (early-pruning study, equation 5): forward passes alone."""
    values = predictions.kl_uniform(predictions.logits_in_parts(network, x))
    return {"kl_uniform": values.double().mean().item()}


# -- what is written down --------------------------------------------------------------------------


def observe(group: Group, epoch: int) -> None:
    """Write what is due after ``epoch`` epochs of the cohort to the members of a group.

    Whose training loss is not finite has diverged: its accuracy is an accident, as NaN predicts
    class 0.
    """
    due = [
        member.run.clock(epoch) % member.run.measure_every == 0 or member.done(epoch)
        for member in group.members
    ]
    found = _measures(group) if any(due) else []
    for k, member in enumerate(group.members):
        run, clock = member.run, member.run.clock(epoch)
        row = {**(found[k] if due[k] else {}), **_watched(group, k, clock)}
        moments: list[float | str] = [clock] if clock in run.keep else []
        if row:
            member.history.append({"epoch": clock, **row})
        if not math.isfinite(row.get("train_loss", 0.0)):
            member.diverged = member.diverged or clock
        elif run.keep_best and row.get("test_accuracy", -1.0) > member.best:
            member.best = row["test_accuracy"]
            moments.append("best")
        for moment in moments:
            group.rows.keep(k, f"@{moment}", *KEPT[: 2 + run.keep_velocity])


def within(group: Group, epoch: int, step: int, steps: int) -> None:
    """Write what is due after ``step`` of the ``steps`` of an epoch of the cohort, before its end.

    Who is found diverged there keeps nothing more: no run can be pruned behind that moment.
    """
    for k, member in enumerate(group.members):
        run, clock = member.run, int(member.run.begin) + epoch
        kept = [m for m in run.keep if m % 1 and int(m) == clock and step_of(m, steps) == step]
        looks = run.watch_every is not None and step % run.watch_every == 0 and step < steps
        if member.diverged is not None or not (kept or looks):
            continue
        now, sound = clock + step / steps, bool(group.rows.weights[k].isfinite().all())
        member.diverged = None if sound else now
        for moment in kept if sound else ():
            group.rows.keep(k, f"@{moment}", *KEPT[: 2 + run.keep_velocity])
        if looks:
            member.history.append({"epoch": now, **_watched(group, k, now)})


def _measures(group):
    """A dict for each member: its measures on the training and the test set."""
    images, run = group.images, group.members[0].run
    given = torch.stack([member.given for member in group.members])
    flips = (images.y_train, torch.stack([member.flipped for member in group.members]))
    train = predictions.Part(images.x_train, given, *(flips if run.data.noise else ()))
    test = predictions.Part(images.x_test, images.y_test)
    most = 256 if group.rows.weights.device.type == "cpu" else 2000
    chunk = min(most, run.recipe.micro_batch or most)
    columns = predictions.measure(group.engine.logits, train, "train", chunk)
    columns |= predictions.measure(group.engine.logits, test, "test", chunk)
    return [{name: c[k].item() for name, c in columns.items()} for k in range(len(group.members))]


def _watched(group, k, clock):
    """What member ``k`` watches, at its epoch; the seconds it took go to its facts.

    Before training BatchNorm's running statistics are those of no data: they are taken first.
    """
    member = group.members[k]
    if not member.run.watch or member.diverged is not None:
        return {}
    network, x = group.module(k), group.images.x_train[: member.run.watch_examples]
    if clock == 0:
        geometry.reestimate(network, x)
    row: dict[str, float] = {}
    spent = member.facts.setdefault("monitor_seconds", {})
    for name in member.run.watch:
        stream = rng.generator(member.run.seed, "signal", name, clock)
        begin = time.perf_counter()
        row |= monitor[name](network, x, stream)
        spent[name] = spent.get(name, 0.0) + time.perf_counter() - begin
    return row
