"""What a figure would cost here: its plan is made by its own notebook, and nothing is trained."""

import datetime
import json
import time
from pathlib import Path
from types import SimpleNamespace

import torch
from torch.nn.functional import cross_entropy

from lib import rng
from lib.models import flops
from lib.runs import results, sweep
from lib.runs.store import Store
from lib.specs.run import Run
from lib.training import loop


def planned(path: Path, parameters: dict) -> tuple[list[Run], Store, str]:
    """The runs that a notebook plans with these parameters, its store and its device.

    Its cells are executed, as papermill would, and print what they print, up to the one that calls
    ``results.cost(runs, store)``; parameters come in as values, never as code. Raises
    ``ValueError`` for wrong parameters, and of a notebook that has no such cell.
    """
    names: dict = {}
    plans: list[tuple[list[Run], Store]] = []
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    if not any("results.cost(" in "".join(cell["source"]) for cell in cells):
        raise ValueError(f"{path.stem} plans no networks: it trains none")
    for cell in cells:
        source = "".join(cell["source"])
        if "results.cost(" in source:
            told = {**vars(results), "cost": lambda *plan: plans.append(plan)}
            names["results"] = SimpleNamespace(**told)
        if cell["cell_type"] == "code" and "google.colab" not in source:
            exec(source, names)
        if "parameters" in cell["metadata"].get("tags", []):
            names |= parameters
        if plans:
            break
    return *plans[0], names["p"].device


def report(path: Path, parameters: dict) -> str:
    """Networks, FLOPs, time on this machine and memory of what is still to be trained, in words.

    The time is that of plain steps of one network after another, each kind timed on 32 examples.
    """
    runs, store, device = planned(path, parameters)
    place, seconds, total, most = sweep.choose_device(device), 0.0, 0.0, 0
    alike: dict = {}
    for run in results.with_parents(runs):
        if not store.has(run.key):
            alike.setdefault((run.data, run.network), []).append(run)
    for (data, _), members in alike.items():
        images = sweep.images_of(data, place)
        network = loop.network_of(members[0], images).to_empty(device=place)
        passes = sum(run.length for run in members) * len(images.y_train)
        total += flops.training(flops.forward(network, images.shape), passes)
        step = rng.on_threads(members[0].recipe.threads)(_step)
        seconds += passes * step(network, images.x_train[:32], images.y_train[:32])
        weights = sum(p.numel() for p in network.parameters())
        most = max(most, 16 * weights * min(len(members), sweep.MAX_MEMBERS))
    return (
        f"{results.cost(runs, store).to_string()}\n"
        f"FLOPs:  {total:.2g}, masked weights counted like live ones\n"
        f"time:   {datetime.timedelta(seconds=round(seconds))} on {place} in plain dense steps, "
        "one network after another; cohorts and\n"
        "        sparse passes take less, and what is measured comes on top\n"
        f"memory: {most / 1e9:.2g} GB for weights, gradients, momentum and masks of the networks "
        "that train together; about 1 GB\n"
        "        for Python and torch, the data and the activations of a step come on top."
    )


def _step(network, inputs, labels):
    """Seconds that a training step takes for each example of it: the fastest of three."""
    taken = []
    for parameter in network.parameters():
        torch.nn.init.constant_(parameter, 0.01)  # what stood in memory may be slow to multiply
    for _ in range(3):
        begin = time.perf_counter()
        cross_entropy(network(inputs), labels).backward()
        float(next(network.parameters()).grad.sum())  # waits for a GPU
        taken.append(time.perf_counter() - begin)
    return min(taken) / len(labels)
