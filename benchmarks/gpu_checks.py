"""Whether a GPU computes what the CPU does: runs of every kind, estimators, kill and resume, a
notebook.

All in float32, from the same random numbers, which are drawn on the CPU. A run that has a parent
starts on both devices from the parent that the CPU trained, so that only its own arithmetic is
compared. ``python -m benchmarks.gpu_checks FOLDER DEVICE`` is the process that is killed.
"""

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import warnings
from pathlib import Path

import torch

from lib import (
    MaskUpdate,
    Objective,
    Run,
    Selection,
    carry_out,
    continued,
    finetune,
    gradually_pruned,
    rng,
    scratch,
    ticket,
)
from lib.data import sets
from lib.metrics import (
    alignment,
    fisher,
    geometry,
    gradient_snr,
    gradients,
    hessian,
    jacobian,
    predictions,
)
from lib.registry import objective, selection
from lib.runs import evaluate, sweep
from lib.runs.results import with_parents
from lib.runs.store import Store
from lib.specs.arms import GUIDED
from lib.training import initial_states
from lib.training.cohort import network_of
from studies.presets import Settings, setup_of

HOME = Path(__file__).resolve().parent.parent
SET = "gpu-check"
# Largest differences between devices: of all weights together against the way that training took
# them, of the masks' bits, of losses, accuracies and watched signals, of an estimate against its
# norm. Rounding that turns a few rectifiers, and BatchNorm behind them, carry the few steps of a
# ResNet far, by up to 0.28 of their way at a rate of 0.02 between the CPU with and without oneDNN:
# so its rate is low, where that is 0.045, and 0.027 between the CPU and an H200.
WEIGHTS, BITS, MEASURES, ESTIMATES = {"resnet-20": 0.1}, 1e-2, 2e-2, 2e-3
OTHERS = 1e-2  # in weights
NETWORKS = {
    "mlp": {"network": "mlp", "widths": (32, 16)},
    "lenet-5": {"network": "lenet-5", "pooling": "avg"},
    "resnet-20": {"network": "resnet-20", "width": 0.25, "augment": True, "epochs": 1, "lr": 2e-3},
}
CHILD = f"{sys.executable} -m benchmarks.gpu_checks"


def setup(**given):
    """Small runs on images of noise around four patterns, which are registered as a set."""
    draw = rng.generator(0, "gpu-check")
    patterns, parts = torch.rand(4, 3, 16, 16, generator=draw), []
    for count in (160, 64):
        y = torch.arange(count) % 4
        parts += [(patterns[y] + torch.rand(count, 3, 16, 16, generator=draw)) / 2, y]
    sets.from_tensors(SET, *parts)
    options = {
        "epochs": 2, "batch_size": 64, "lr": 0.02, "momentum": 0.9, "nesterov": True,
        "weight_decay": 1e-3, "schedule": "cosine", "warmup_epochs": 1.0, "noise": 0.2,
        "normalise": "channel", "held": 32, "flow_every": 2, "flow_examples": 32,
        "watch": ["fisher", "kl_uniform"], "watch_examples": 64, **given,
    }  # fmt: skip
    settings = Settings(dataset=SET, sparse_epochs=options["epochs"], seeds=1, **options)
    images = sets.load(SET, normalise=settings.normalise)
    return setup_of(settings, images.fingerprint)


def kinds(made, arms: bool) -> dict[str, Run]:
    """A run of every kind: masks from each side, that move, tickets; with ``arms`` those too."""
    dense = Run.dense(made, seed=0, keep=(1,))
    gradual = MaskUpdate(method="gradual", every=1, start=0, end=2)
    grown = gradually_pruned(made, seed=0, sparsity=0.8, mask_update=gradual, keep=(1,))

    def moving(method, **given):
        return MaskUpdate(method=method, every=1, end=2, fraction=0.3, held=32, **given)

    runs = {"dense": dense, "second seed": Run.dense(made, seed=1), "gradual": grown}
    runs |= {"finetuned": finetune(dense, sparsity=0.8), "scratch": scratch(dense, sparsity=0.8)}
    runs |= {"scratch, by neuron": scratch(dense, sparsity=0.8, form="neuron")}
    runs |= {"ticket": ticket(grown), "ticket, rewound": ticket(grown, rewind=1)}
    runs |= {"replica": scratch(grown, sparsity=0.8, replica=1, fresh=True)}
    if made.dense.epochs > 1:
        runs["continued"] = continued(dense, at=1, sparsity=0.8)
    for method in ("set", "rigl", "rigl-inverted"):
        runs[method] = scratch(dense, sparsity=0.8, mask_update=moving(method))
    batch = moving("rigl", gradient="batch", drop="cosine")
    runs["rigl, by the batch"] = scratch(dense, sparsity=0.8, mask_update=batch)
    for name in objective if arms else ():
        added = Objective(name=name, weight=0.05)
        runs[name] = scratch(dense, sparsity=0.8, objective=added)
    for name in [n for n in selection if n != "uniform" and n not in GUIDED] if arms else ():
        rule = Selection(name=name, pool=2, until=0.5)
        runs[name] = scratch(dense, sparsity=0.8, selection=rule)
    return runs


def _line(what, seen, allowed, unit):
    verdict = "as on the CPU" if seen <= allowed else "DIFFERS"
    return {"what": what, "difference": f"{seen:.1e} {unit}", "at most": f"{allowed:g}",
            "verdict": verdict}  # fmt: skip


def of_runs(device: str, names=tuple(NETWORKS), arms: bool = True) -> list[dict]:
    """A line per network and kind of run; one more if steps were not replayed."""
    lines = []
    for name in names:
        runs = kinds(setup(**NETWORKS[name]), arms and name == "mlp")
        found, said = _both(list(runs.values()), device)
        for kind, run in runs.items():
            lines += _compared(f"{name}, {kind}", *found[run])
        lines += [
            {"what": f"{name}, recorded steps", "difference": words, "at most": "-",
             "verdict": "PLAIN"}
            for words in said
        ]  # fmt: skip
    return lines


def _both(runs, device):
    """Each run as finished on the CPU and on the ``device``, and what was warned of there."""
    found, said = {}, []
    with tempfile.TemporaryDirectory() as folder:
        here = Store(Path(folder) / "cpu")
        for depth in sorted({len(with_parents([run])) for run in runs}):
            now = [run for run in runs if len(with_parents([run])) == depth]
            copy = Path(folder) / f"depth {depth}"
            here.root.mkdir(exist_ok=True)
            shutil.copytree(here.root, copy)
            with warnings.catch_warnings(record=True) as heard:
                warnings.simplefilter("always")
                carry_out(now, store=Store(copy), device=device, progress=False)
            said += [str(w.message) for w in heard if "taken plainly" in str(w.message)]
            carry_out(now, store=here, device="cpu", progress=False)
            for run in now:
                found[run] = [_outcome(run, store) for store in (here, Store(copy))]
    return found, said


def _outcome(run, store):
    """(tensors, history) of a finished run, with the weights that it began with."""
    done, images = store.finished(run.key), sweep.images_of(run.data, "cpu")
    network, parent = network_of(run, images), run.parent and store.finished(run.parent.key).tensors
    start, _ = initial_states.initial_state(run, network, parent, images)
    return {**done.tensors, "start": start["weights"]}, done.history


def _compared(what, ours, theirs):
    (tensors, history), (other, told) = ours, theirs
    way = (tensors["weights"] - tensors["start"]).norm()
    weights = (tensors["weights"] - other["weights"]).norm() / way
    bits = (tensors["mask"] != other["mask"]).double().mean()
    allowed = WEIGHTS.get(what.split(",")[0], OTHERS)
    yield _line(f"{what}: weights", weights.item(), allowed, "of their way")
    yield _line(f"{what}: mask", bits.item(), BITS, "of its bits")
    pairs = [(row[n], also[n]) for row, also in zip(history, told, strict=True) for n in row]
    worst = max(abs(a - b) / max(abs(a), 1.0) for a, b in pairs)
    yield _line(f"{what}: measures", worst, MEASURES, "of the larger of itself and 1")


def estimators(network, mask, x, y) -> dict[str, torch.Tensor]:
    """What every estimator says of a network: a flat tensor by name."""

    def draw():
        return rng.generator(0, "estimators")

    ahead = {n: torch.ones_like(p) for n, p in network.named_parameters()}
    found = {
        "Fisher, sampled": fisher.sampled(network, x, generator=draw(), mask=mask),
        "Fisher, empirical": fisher.empirical(network, x, y, mask=mask),
        "Fisher, exact": fisher.exact(network, x, mask=mask),
        "Fisher, diagonal": fisher.diagonal(network, x, generator=draw(), mask=mask),
        "loss gradient": gradients.loss_gradient(network, x, y, mask=mask),
        "gradient flow": gradients.flow(network, x, y, mask=mask),
        "cosines": alignment.cosines(network, x, y, ahead, masks=(mask,))[0],
        "gradient signal": [
            list(vars(s).values())
            for s in gradient_snr.by_layer(network, x, y, 16, generator=draw()).values()
        ],
        "Tr(H)": hessian.trace(network, x, y, generator=draw(), mask=mask).value,
        "Tr(H), Hutchinson": hessian.hutchinson(
            network, x, y, generator=draw(), probes=3, mask=mask
        ).value,
        "extreme eigenvalues": hessian.extreme_eigenvalues(
            network, x, y, generator=draw(), tolerance=1e-4, mask=mask
        ),
        "product with the Hessian": hessian.hvp(network, x, y, ahead, mask=mask),
        "Jacobian": jacobian.exact(network, x),
        "evaluation": geometry.evaluate(network, x, y),
        "entropy": predictions.entropy(network(x).detach()),
        "KL from uniform": predictions.kl_uniform(network(x).detach()),
    }
    return {name: _flat(value) for name, value in found.items()}


def _flat(value):
    if isinstance(value, dict):
        value = torch.cat([part.flatten() for part in value.values()])
    return torch.as_tensor(value).detach().double().cpu().flatten()


def of_estimators(device: str, names=tuple(NETWORKS)) -> list[dict]:
    """A line per network and estimator, on a sparse network that the CPU has trained."""
    lines = []
    for name in names:
        run = scratch(Run.dense(setup(**NETWORKS[name]), seed=0), sparsity=0.8)
        with tempfile.TemporaryDirectory() as folder:
            store = Store(folder)
            carry_out([run], store=store, device="cpu", progress=False)
            done, said = store.finished(run.key), []
            for place in ("cpu", device):
                images = sweep.images_of(run.data, place)
                state = run, done, images
                x, y = images.x_train[:48], images.y_train[:48]
                said.append(estimators(evaluate.module_of(*state), evaluate.mask_of(*state), x, y))
        for what, here in said[0].items():
            off = (here - said[1][what]).norm() / here.norm()
            lines.append(_line(f"{name}: {what}", off.item(), ESTIMATES, "of its norm"))
    return lines


def of_resuming(device: str) -> list[dict]:
    """Killed after its second checkpoint, on the device or on the CPU, and gone on with there."""
    lines = []
    run = Run.dense(setup(**NETWORKS["lenet-5"], **{"epochs": 4}), seed=0)
    for first in dict.fromkeys((device, "cpu")):
        with tempfile.TemporaryDirectory() as folder:
            done = subprocess.run([*CHILD.split(), folder, first], cwd=HOME)
            if done.returncode != -signal.SIGKILL:
                raise RuntimeError(f"the process to be killed ended with {done.returncode}")
            killed, whole = Store(folder), Store(Path(folder) / "whole")
            for store in (killed, whole):
                carry_out([run], store=store, device=device, progress=False)
            states = [_outcome(run, store) for store in (whole, killed)]
            what = f"killed on {first.split(':')[0]}, gone on with on {device.split(':')[0]}"
            lines += _compared(what, *states)
    return lines


def of_notebook(device: str, **given) -> list[dict]:
    """A notebook of preset quick, executed by papermill on the device."""
    given = {"device": device, **given}
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "papermill", "fig6_noise.ipynb", f"{folder}/out.ipynb"]
        for name, value in given.items():
            command += ["-p", name, str(value)]
        found = os.pathsep.join([str(HOME), *filter(None, [os.environ.get("PYTHONPATH")])])
        kept = os.environ | {"SPARSITY_RUNS": f"{folder}/runs", "PYTHONPATH": found}
        done = subprocess.run(
            command, cwd=HOME / "notebooks", env=kept, capture_output=True, text=True
        )
    wrong = done.stderr.strip().splitlines()[-1:] if done.returncode else ["it ends"]
    return [{"what": f"notebook fig6_noise, device {device}", "difference": wrong[0],
             "at most": "-", "verdict": "FAILS" if done.returncode else "runs"}]  # fmt: skip


def _die_on_the_way(folder, device):
    """Train, and end as the out-of-memory killer would, once a second checkpoint is there."""
    sweep.CHECKPOINT_SECONDS = -1.0
    save, calls = Store.save_checkpoint, []

    def deadly(*arguments):
        save(*arguments)
        calls.append(None)
        if len(calls) == 2:
            os.kill(os.getpid(), signal.SIGKILL)

    Store.save_checkpoint = deadly
    run = Run.dense(setup(**NETWORKS["lenet-5"], **{"epochs": 4}), seed=0)
    carry_out([run], store=Store(folder), device=device, progress=False)


if __name__ == "__main__":
    _die_on_the_way(*sys.argv[1:])
