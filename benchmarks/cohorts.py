"""A cohort, per network: against the usual loop for one network, and against our own loop one
by one."""

from benchmarks import ours, usual
from benchmarks.timing import Row, race
from lib.registry import network

MEMBERS = 32
TASKS = {  # title: (task, target)
    "12-bit MLP 64-32-32-18-18-6-6, batch 12": (
        ours.Task(
            "mlp", (12,), 0, batch=12, momentum=0.0, widths=(64, 32, 32, 18, 18, 6, 6), classes=2
        ),
        30,
    ),
    "LeNet-300-100, batch 128": (ours.Task("lenet-300-100", (1, 28, 28), 2560), 1.5),
}


def against_usual(quick: bool) -> tuple[list[Row], list[dict]]:
    """A cohort of 32 against one network: per network, a cohort's images per second are its
    members' together.

    The one network has optimiser and mask in both loops against it. "from tensors" shuffles and
    slices tensors and reads nothing off: the least that a loop in plain PyTorch can do.
    "DataLoader" is how it is usually written.
    """
    rows, speeds = [], []
    for title, (task, target) in TASKS.items():
        cohort = f"cohort of {MEMBERS}"
        rates = race(
            {
                cohort: ours.cohort_of(task, MEMBERS),
                "one network from tensors": usual.tensors(task),
                "one network, DataLoader": usual.loader(task),
            },
            2 if quick else 7,
            0.2 if quick else 1.0,
        )
        for other in list(rates.rounds)[1:]:
            rows.append(
                Row(f"{title}: {cohort}, per network / {other}", rates.ratio(cohort, other), target)
            )
        speeds += [
            {"network": title, "loop": name, "images per second": str(rates.rate(name))}
            for name in rates.rounds
        ]
    return rows, speeds


def _small(name: str) -> ours.Task:
    """A task of this architecture small enough for a benchmark: narrow, two or more batches an
    epoch."""
    if name == "mlp":
        return ours.Task(name, (64,), 1024, batch=64)
    if name.startswith("lenet"):
        return ours.Task(name, (1, 28, 28), 1024, batch=64)
    side, width = {"vgg-11": (32, None), "vgg-16": (32, 0.25), "resnet-50": (32, 0.25)}.get(
        name, (16, 0.25)
    )
    return ours.Task(name, (3, side, side), 64, batch=32, width=width, augment=True)


def against_one_by_one(quick: bool) -> list[Row]:
    """A cohort of 4 against the same 4 networks, trained one after the other by the same code."""
    rows = []
    for name in network:
        task = _small(name)
        rates = race(
            {"cohort": ours.cohort_of(task, 4), "one by one": ours.one_by_one(task, 4)},
            2 if quick else 5,
            0.1 if quick else 0.6,
        )
        detail = f"batch {task.batch}" + (f", width {task.width:g}" if task.width else "")
        rows.append(
            Row(
                f"{name}, {detail}: cohort of 4 / one by one",
                rates.ratio("cohort", "one by one"),
                1,
            )
        )
    return rows
