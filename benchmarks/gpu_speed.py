"""How fast a GPU trains: cohorts of recorded steps against plain loops for one network, in turns.

Images of all members count, over seconds of whole epochs. Networks are 0.9 sparse on both sides.
"""

from contextlib import nullcontext
from dataclasses import replace

import torch
import torch.nn.functional as F
from torch.utils.data import DataLoader, TensorDataset

from benchmarks import cohorts, ours, usual
from benchmarks.timing import Contender, Row, Spread, race
from lib import Run, finetune, scratch
from lib.runs.sweep import _cohorts
from lib.training import steps
from studies import presets

HALF = {"augment": True, "precision": "bfloat16"}
TASKS = {
    "ResNet-20": ours.Task("resnet-20", (3, 32, 32), 4096, **HALF),
    "LeNet-5": ours.Task("lenet-5", (1, 28, 28), 8192),
    "ResNet-32x4": ours.Task("resnet-32", (3, 32, 32), 1024, width=4, classes=100, **HALF),
    "LeNet-300-100": ours.Task("lenet-300-100", (1, 28, 28), 8192),
    "12-bit MLP": next(iter(cohorts.TASKS.values()))[0],
}
MEMBERS = (1, 8, 32)
TARGETS = {  # (network, members, other side): least ratio
    ("ResNet-20", 8, "plain loop"): 5,
    ("LeNet-5", 32, "plain loop"): 20,
    ("ResNet-32x4", 1, "bare recorded step"): 0.9,
}
MINUTES = 90  # of Figure 1, one seed, on CIFAR-100 at its printed number of epochs


def small(task: ours.Task) -> ours.Task:
    """The same in a size for a rehearsal."""
    return replace(task, examples=32, batch=16, width=0.125 if "resnet" in task.name else None)


def tasks(device: str, quick: bool) -> dict[str, ours.Task]:
    """What is trained, by title."""
    chosen = {title: TASKS[title] for title in (("12-bit MLP", "LeNet-5") if quick else TASKS)}
    return {
        title: replace(small(task) if quick else task, device=device)
        for title, task in chosen.items()
    }


def run(title: str, task: ours.Task, quick: bool) -> tuple[list[Row], list[dict]]:
    """Rows with targets, and the images per second of every contender but the compiled loop."""
    members = MEMBERS[::2] if quick else MEMBERS
    contenders = {f"cohort of {k}": ours.cohort_of(task, k) for k in members}
    contenders |= {
        "plain loop": plain(task),
        "DataLoader": loader(task, 0 if quick else 4),
        "bare recorded step": bare(task),
    }
    rates = race(contenders, *((1, 0.0) if quick else (3, 0.5)))
    rows = [
        Row(
            f"{title}: cohort of {count} / {other}", rates.ratio(f"cohort of {count}", other), least
        )
        for (network, count, other), least in TARGETS.items()
        if network == title and count in members
    ]
    return rows, _told(rates)


def compiled(title: str, task: ours.Task, quick: bool) -> list[dict]:
    """The same of the compiled loop and, again, the plain one; none where it fails."""
    contenders = {"plain loop": plain(task), "compiled loop": plain(task, compiled=True)}
    try:
        contenders["compiled loop"]()
    except Exception as error:  # no compiler at hand, or one that fails
        print(f"{title}: the compiled loop is left out ({type(error).__name__}: {error})")
        return []
    return _told(race(contenders, *((1, 0.0) if quick else (3, 0.5))))


def _told(rates):
    return [
        {"loop": name, "images per second": str(rates.rate(name)),
         "of the plain loop": str(rates.ratio(name, "plain loop"))}
        for name in rates.rounds
    ]  # fmt: skip


def _one(task, compiled=False):
    """(a step of one network by autograd and torch.optim, its inputs): masks put on its weights."""
    module, optimizer, masks = usual._equipment(task)
    module = module.to(memory_format=torch.channels_last)
    kind = torch.device(task.device).type
    # on a GPU the mode that records what it compiles; a rehearsal needs no compiler
    how = {"mode": "reduce-overhead"} if kind == "cuda" else {"backend": "eager"}
    forward = torch.compile(module, **how) if compiled else module
    half = task.precision == "bfloat16"

    def step(x, y):
        with torch.autocast(kind, torch.bfloat16) if half else nullcontext():
            logits = forward(x)
        F.cross_entropy(logits.float(), y).backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=False)
        with torch.no_grad():
            for parameter, mask in masks:
                parameter.mul_(mask)

    return step


def plain(task: ours.Task, compiled: bool = False) -> Contender:
    """One network on tensors that lie on the device, shuffled; no crops, nothing is read off."""
    step, x, y = _one(task, compiled), task.images.x_train, task.images.y_train

    def epoch():
        for index in torch.randperm(len(y), device=y.device).split(task.batch):
            step(x[index], y[index])
        return _settled(y)

    return epoch


def loader(task: ours.Task, workers: int) -> Contender:
    """One network fed as usual: workers that decode, crop and flip images, and pinned memory."""
    step, y, cuda = _one(task), task.images.y_train, task.images.y_train.is_cuda
    host = replace(task, device="cpu")
    flat = TensorDataset(host.images.x_train, host.images.y_train)
    batches = DataLoader(
        usual.Pictures(host) if len(task.shape) == 3 else flat, task.batch, shuffle=True,
        num_workers=workers, persistent_workers=workers > 0, pin_memory=cuda,
    )  # fmt: skip

    def epoch():
        for inputs, labels in batches:
            x = inputs.to(task.device, non_blocking=True)
            if x.dim() == 4:
                x = x.contiguous(memory_format=torch.channels_last)
            step(x, labels.to(task.device, non_blocking=True))
        return _settled(y)

    return epoch


def bare(task: ours.Task) -> Contender:
    """The step of one network, recorded and replayed on one and the same batch: no loop is faster."""
    step, images = _one(task), task.images
    x, y = images.x_train[: task.batch], images.y_train[: task.batch]
    step(x, y)  # makes the gradients and momenta that the recorded step reads
    replay = steps.RECORDERS[y.device.type](lambda: step(x, y))

    def epoch(held=step):  # the network and its optimiser: what a recording reads must not be freed
        for _ in range(len(images.y_train) // task.batch):
            replay()
        return _settled(images.y_train) // task.batch * task.batch

    return epoch


def _settled(y):
    """How many images an epoch has, once the device is done with them."""
    if y.is_cuda:
        torch.cuda.synchronize()
    return len(y)


def figure_1(device: str, quick: bool) -> tuple[list[Row], list[dict]]:
    """Minutes of Figure 1 of the price study at preset paper, in bfloat16, one seed: its cohorts as
    ``carry_out`` forms them, each timed for a part of an epoch and of its evaluation."""
    p = presets.settings("fig1_regimes", preset="paper", seeds=1, precision="bfloat16")
    made = presets.setup_of(p, "not read")
    dense = Run.dense(made, seed=0)
    sparse = [start(dense, sparsity=q) for q in p.sparsities for start in (finetune, scratch)]
    task = replace(TASKS["ResNet-32x4"], device=device, batch=p.batch_size, examples=2560)
    task = small(task) if quick else task
    lines, total = [], 0.0
    for runs in _cohorts([dense, *sparse[: 2 if quick else None]]):
        trained = task.training(len(runs))
        (group,) = trained.groups if len(trained.groups) == 1 else (trained.groups[0],)
        x = task.images.x_train[: 16 if quick else 2000]

        def evaluated(group=group, x=x):
            group.engine.logits(x)
            return len(group.members) * _settled(x)

        def epoch(trained=trained):
            trained.run_epoch()
            return len(trained.members) * len(task.images.y_train)

        rates = race({"train": epoch, "evaluate": evaluated}, *((1, 0.0) if quick else (3, 1.0)))
        epochs, rate = sum(run.length for run in runs), rates.rate("train").median
        seen = epochs / p.measure_every * 60_000 / rates.rate("evaluate").median
        minutes = (epochs * 50_000 / rate + seen) / 60
        total += minutes
        lines.append(
            {"cohort": f"{len(runs)} of {runs[0].length} epochs", "minutes": f"{minutes:.1f}",
             "images per second": str(rates.rate("train")),
             "evaluated": str(rates.rate("evaluate"))}
        )  # fmt: skip
    what = "Figure 1, CIFAR-100, ResNet-32x4, one seed, extrapolated"
    return [Row(what, Spread(total, total, total), MINUTES, "minutes", upper=True)], lines
