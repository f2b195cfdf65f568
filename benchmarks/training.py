"""The training loop with masks, for convolutional networks on the CPU.

Against the bare passes, our loop does more (draws an order, gathers and moves the batch,
applies the mask, steps the optimiser) and may reach at most about 1 where the memory format is
the same. Against the usual pattern both sides do all of it, and both leave evaluation out.
"""

import time
from dataclasses import replace

import torch

from benchmarks import ours, usual
from benchmarks.timing import Rates, Row, race
from lib import rng

TASKS = {
    "LeNet-5": ours.Task("lenet-5", (1, 28, 28), 8192),
    "ResNet-20": ours.Task("resnet-20", (3, 32, 32), 256, augment=True),
    "ResNet-20, half width": ours.Task("resnet-20", (3, 32, 32), 256, augment=True, width=0.5),
}


def run(quick: bool) -> tuple[list[Row], list[dict]]:
    """Rows with targets, and the images per second of every contender."""
    rows, speeds = [], []
    for title, task in TASKS.items():
        cores = torch.get_num_threads()
        contenders = {
            _title(members): ours.cohort_of(task, members) for members in sorted({1, cores})
        }
        if title != "LeNet-5":  # whose passes are sparse, in float32 and on one thread alone
            spread, halved = replace(task, threads=cores), replace(task, precision="bfloat16")
            contenders[f"{_title(1)}, {cores} threads"] = ours.cohort_of(spread, 1)
            contenders[f"{_title(cores)}, bfloat16"] = ours.cohort_of(halved, cores)
        contenders |= {
            "bare": usual.bare(task),
            "bare, channels-last": usual.bare(task, channels_last=True),
            "DataLoader": usual.loader(task, 0, pictures=True),
            "DataLoader, 2 workers": usual.loader(task, 2, pictures=True),
        }
        rates = race(contenders, 2 if quick else 5, 0.2 if quick else 1.0)
        rows += _rows(title, rates)
        speeds += [
            {"network": title, "loop": name, "images per second": str(rates.rate(name))}
            for name in contenders
        ]
    return rows, speeds


def on_one_thread(quick: bool) -> list[Row]:
    """One member against bare passes in time on the processor, and what a pass without BatchNorm
    and ReLU would take: the rest is what fusing them could save at most."""
    rows = []
    for title, task in TASKS.items():
        if title == "LeNet-5":
            continue
        with rng.on_threads(1):
            contenders = {
                "ours": ours.cohort_of(task, 1, cores=1),
                "bare passes": usual.bare(task),
                "bare passes, channels-last": usual.bare(task, channels_last=True),
            }
            alone = "convolutions alone, channels-last"
            contenders[alone] = usual.bare(task, channels_last=True, products_alone=True)
            rates = race(contenders, 2 if quick else 7, 0.1 if quick else 1.0, time.process_time)
        rows += [
            Row(f"{title}: ours / {other}", rates.ratio("ours", other), target)
            for other, target in zip(list(contenders)[1:], (1, 1, 0.7), strict=True)
        ]
    return rows


def _title(members):
    return f"ours, {members} member{'s' * (members > 1)}"


def _rows(title, rates: Rates):
    usual_name = rates.fastest(["DataLoader", "DataLoader, 2 workers"])
    for mine in (name for name in rates.rounds if name.startswith("ours")):
        if "bfloat16" not in mine:  # the others compute in float32
            target = 0.9 if title == "LeNet-5" else 1.1 if "1 member" not in mine else 1.0
            yield Row(f"{title}, {mine} / bare passes", rates.ratio(mine, "bare"), target)
            yield Row(
                f"{title}, {mine} / bare passes, channels-last",
                rates.ratio(mine, "bare, channels-last"),
                target,
            )
        yield Row(
            f"{title}, {mine} / {usual_name}, PIL transforms", rates.ratio(mine, usual_name), 3
        )
