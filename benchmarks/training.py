"""The training loop with masks, for convolutional networks on the CPU.

Against the bare passes, our loop does more (draws an order, gathers and moves the batch,
applies the mask, steps the optimiser) and may reach at most about 1 where the memory format is
the same. Against the usual pattern both sides do all of it, and both leave evaluation out.
"""

from dataclasses import replace

import torch

from benchmarks import ours, usual
from benchmarks.timing import Rates, Row, race

TASKS = {
    "LeNet-5": ours.Task("lenet-5", (1, 28, 28), 8192),
    "ResNet-20": ours.Task("resnet-20", (3, 32, 32), 256, augment=True),
}


def run(quick: bool) -> tuple[list[Row], list[dict]]:
    """Rows with targets, and the images per second of every contender."""
    rows, speeds = [], []
    for title, task in TASKS.items():
        cores = torch.get_num_threads()
        contenders = {
            _title(members): ours.cohort_of(task, members) for members in sorted({1, cores})
        }
        if (
            title == "ResNet-20"
        ):  # there the convolutions' arithmetic counts; LeNet-5's passes are sparse, in float32 alone
            halved = replace(task, precision="bfloat16")
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


def _title(members):
    return f"ours, {members} member{'s' * (members > 1)}"


def _rows(title, rates: Rates):
    usual_name = rates.fastest(["DataLoader", "DataLoader, 2 workers"])
    for mine in (name for name in rates.rounds if name.startswith("ours")):
        if "bfloat16" not in mine:  # the others compute in float32
            yield Row(f"{title}, {mine} / bare passes", rates.ratio(mine, "bare"), 0.9)
            yield Row(
                f"{title}, {mine} / bare passes, channels-last",
                rates.ratio(mine, "bare, channels-last"),
                0.9,
            )
        yield Row(
            f"{title}, {mine} / {usual_name}, PIL transforms", rates.ratio(mine, usual_name), 3
        )
