"""What ``lib.training.plan`` chooses for a size of work, and what the other choices would have
reached."""

import torch

from benchmarks import cohorts, training
from benchmarks.timing import race
from lib.training.threads import Workers

SIZES = [
    ("12-bit MLP", cohorts.TASKS["12-bit MLP 64-32-32-18-18-6-6, batch 12"][0], (1, 32)),
    ("LeNet-300-100", cohorts.TASKS["LeNet-300-100, batch 128"][0], (1, 32)),
    ("LeNet-5", training.TASKS["LeNet-5"], (1, 4)),
    ("ResNet-20", training.TASKS["ResNet-20"], (1, 2)),
]


def run(quick: bool) -> list[dict]:
    """A line per size of work: the plan, its speed, and that of one thread and of all threads on
    one worker.

    "1 thread": one worker with one thread. "all threads in each pass": one worker, whose every
    operation is spread over all threads (PyTorch's default). The plan may instead give each
    worker a thread and members of its own.
    """
    lines = []
    for title, task, counts in SIZES:
        for members in counts:
            line = _line(title, task, members, quick)
            if line:
                lines.append(line)
    return lines


def _line(title, task, members, quick):
    cores = torch.get_num_threads()
    planned, spread = task.training(members), task.training(members)
    spread.workers = Workers(1)
    for group in spread.groups:
        group.threads = cores
    single = task.training(members, cores=1)
    rates = race(
        {
            name: _epoch(trained, task, members)
            for name, trained in (("plan", planned), ("one", single), ("all", spread))
        },
        2 if quick else 3,
        0.1 if quick else 0.5,
    )
    largest = max(len(group.members) for group in planned.groups)
    return {
        "work": f"{title}, batch {task.batch}, {members} member{'s' * (members > 1)}",
        "chosen": f"{len(planned.groups)} group(s) of up to {largest}, {min(cores, len(planned.groups))} worker(s) x {planned.groups[0].threads} thread(s)",
        "images per second as chosen": str(rates.rate("plan")),
        "1 thread": str(rates.rate("one")),
        "all threads in each pass": str(rates.rate("all")),
        "chosen / better of the two": str(rates.ratio("plan", rates.fastest(["one", "all"]))),
    }


def _epoch(trained, task, members):
    def epoch():
        trained.run_epoch()
        return members * len(task.images.y_train)

    return epoch
