"""Small experiments and processes that several test files share."""

import ast
import asyncio
import hashlib
import math
import multiprocessing
import os
import pkgutil
import random
import signal
import subprocess
from pathlib import Path
from unittest import mock

import nbformat
import numpy as np
import pandas as pd
import torch
from scipy import special

from lib import files, rng
from lib.data import sets
from lib.data.images import Cropper
from lib.runs import sweep
from lib.runs.store import Store
from lib.specs.parts import Setup
from lib.specs.run import Run, finetune, scratch
from lib.training import loop, schedules
from lib.training.cohort import Layout, network_of
from studies import ledger, presets, rules
from studies.decide import NOT_TESTED, NotHere, combine, decide
from studies.presets import setup_of

SMALL = {
    **{
        "dataset": "digits",
        "train_examples": 150,
        "test_examples": 80,
        "network": "mlp",
        "widths": [16],
    },
    **{"epochs": 3, "sparse_epochs": 3, "batch_size": 32, "lr": 0.1, "momentum": 0.9, "seeds": 2},
}


def small(**overrides) -> Setup:
    """A setup of a small network on few digits, with ``overrides`` of the settings, on the data
    that is there."""
    given = {**SMALL, **overrides}
    if given["network"] != "mlp" and "widths" not in overrides:
        del given["widths"]  # other networks have their own
    s = presets.Settings(**given)
    images = sets.load(
        s.dataset, train=s.train_examples, test=s.test_examples, normalise=s.normalise
    )
    return setup_of(s, images.fingerprint)


def images_of(run: Run) -> sets.ImageSet:
    """The images that ``run`` trains and is measured on."""
    return sets.load(
        run.data.name, train=run.data.train, test=run.data.test, normalise=run.data.normalise
    )


def layout_of(run: Run) -> Layout:
    """Where the parameters of ``run`` lie in a stored row."""
    return Layout(network_of(run, images_of(run)))


def network_at(run: Run, tensors: dict, suffix: str = "") -> torch.nn.Module:
    """The network of ``run`` with stored weights (``"@3"``: those kept at epoch 3), in eval
    mode, filled by torch's own means."""
    layout, images = layout_of(run), images_of(run)
    network = network_of(run, images).to_empty(device="cpu").eval()
    values = {
        **layout.views(tensors[f"weights{suffix}"]),
        **layout.views(tensors[f"buffers{suffix}"], buffers=True),
    }
    network.load_state_dict(
        {
            **values,
            **{name: torch.tensor(0) for name in network.state_dict() if name.endswith("tracked")},
        }
    )
    return network


def family(setup: Setup, sparsity: float = 0.8, seeds=(0, 1)) -> list[Run]:
    """Sol-D, Sol-F and Sol-S for each seed."""
    dense = [Run.dense(setup, seed=seed) for seed in seeds]
    return dense + [start(d, sparsity=sparsity) for start in (finetune, scratch) for d in dense]


def carry_out(runs: list[Run], store: Store) -> pd.DataFrame:
    """``sweep.carry_out`` on the CPU without a progress bar."""
    return sweep.carry_out(runs, store=store, device="cpu", progress=False)


def outcomes(runs: list[Run], root: Path) -> list:
    """The finished runs, in order, trained together in a store at ``root``."""
    store = Store(root)
    carry_out(runs, store)
    return [store.get(run.key) for run in runs]


def same_table(left: pd.DataFrame, right: pd.DataFrame) -> None:
    """Fail unless the two tables are equal to the last bit."""
    pd.testing.assert_frame_equal(left, right, check_exact=True)


def same_tensors(left: dict, right: dict) -> None:
    """Fail unless the two dicts hold the same names and bits."""
    assert left.keys() == right.keys()
    for name in left:
        assert left[name].dtype == right[name].dtype, name
        assert left[name].numpy().tobytes() == right[name].numpy().tobytes(), name


def same_results(runs: list[Run], store: Store, other: Store) -> None:
    """Fail unless both stores hold every run (and parent) with the same weights, history and
    mask."""
    for run in [*runs, *(run.parent for run in runs if run.parent)]:
        ours, theirs = store.get(run.key), other.get(run.key)
        same_tensors(ours.tensors, theirs.tensors)
        same_table(pd.DataFrame(ours.history), pd.DataFrame(theirs.history))


def same_in_all(run: Run, companies: list[list[Run]], tmp_path: Path) -> None:
    """Train ``run`` alone and in each of ``companies``, and fail unless its result is the same
    to the bit."""
    alone = outcomes([run], tmp_path / "alone")[0]
    for number, company in enumerate(companies):
        runs = random.Random(number).sample([run, *company], len(company) + 1)
        done = outcomes(runs, tmp_path / str(number))[runs.index(run)]
        same_tensors(done.tensors, alone.tensors)
        same_table(pd.DataFrame(done.history), pd.DataFrame(alone.history))


def leftovers(root: Path) -> list[str]:
    """Names below ``root`` of files that are neither finished runs nor locks."""
    found = [path for path in Path(root).rglob("*") if path.is_file()]
    return sorted(
        str(p.relative_to(root))
        for p in found
        if p.parent.name != "locks" and not p.match("finished/??/*.safetensors")
    )


# -- an independent training loop ------------------------------------------------------------------


def labels_of(run: Run) -> torch.Tensor:
    """The training labels that ``run`` is given."""
    y = images_of(run).y_train
    return (
        sets.noisy_labels(y, run.data.noise, 10, run.seed, run.data.noise_kind)[0]
        if run.data.noise
        else y
    )


def usual_loop(run: Run, weights, buffers, mask, *, rate=None, velocity=None) -> torch.nn.Module:
    """One nn.Module trained by torch.optim.SGD, with the mask put on gradients and weights in each
    step.

    All by parameter name. ``rate(epoch, step, steps)`` in place of ``lib.schedules``; with a
    ``velocity`` the optimiser begins with it. A run pruned on its way begins at its epoch, with
    the data order of its dense run.
    """
    images, recipe = images_of(run), run.recipe
    network = network_of(run, images).to_empty(device="cpu")
    for name, value in {**weights, **buffers}.items():
        network.get_parameter(name).data.copy_(value) if name in weights else network.get_buffer(
            name
        ).copy_(value)
    optimiser = torch.optim.SGD(
        network.parameters(),
        lr=1.0,
        momentum=recipe.momentum,
        nesterov=recipe.nesterov,
        weight_decay=recipe.weight_decay,
    )
    for name, p in network.named_parameters() if velocity else ():
        optimiser.state[p]["momentum_buffer"] = velocity[name] * mask[name]
    labels, count = labels_of(run), len(images.y_train)
    crop = Cropper(images.x_train, images.black) if run.data.augment else None
    steps = math.ceil(count / recipe.batch_size)
    stream = "sol_d" if run.solution == "sol_p" else run.solution
    network.train()
    for epoch in range(run.begin, recipe.epochs):
        order = torch.randperm(count, generator=rng.generator(run.seed, stream, "order", epoch))
        moves = crop.draw(count, rng.generator(run.seed, stream, "crop", epoch)) if crop else None
        rates = (
            [rate(epoch, step, steps) for step in range(steps)]
            if rate
            else schedules.rates(recipe, epoch, steps).tolist()
        )
        for step in range(steps):
            batch = order[step * recipe.batch_size :][: recipe.batch_size]
            x = (
                crop(batch, moves[step * recipe.batch_size :][: recipe.batch_size])
                if crop
                else images.x_train[batch]
            )
            if x.dim() == 4:  # as does the layout
                x = x.contiguous(memory_format=torch.channels_last)
            optimiser.zero_grad()
            torch.nn.functional.cross_entropy(network(x), labels[batch]).backward()
            for group in optimiser.param_groups:
                group["lr"] = rates[step]
            for name, p in network.named_parameters():
                p.grad.mul_(mask[name])
            optimiser.step()
            with torch.no_grad():
                for name, p in network.named_parameters():
                    p.mul_(mask[name])
    return network.eval()


# -- data files ------------------------------------------------------------------------------------


QUICK = {"preset": "quick", "dataset": "digits", "network": "mlp"}  # what a table was made with
PAPER = {**QUICK, "preset": "paper"}


def judged(claim: str, table: pd.DataFrame) -> str:
    """The verdict on one claim, without those on the others of its figure."""
    try:
        effects = rules.rows(ledger.RULES[claim], table)
    except NotHere:
        return NOT_TESTED
    return combine([decide(effect, len(effects))["verdict"] for effect in effects])


def verdict(claim: str, table: pd.DataFrame, made=QUICK) -> pd.Series:
    """The ledger's row of one claim, as if its figure decided no other."""
    entry = ledger.ledger()[claim]
    with mock.patch.object(ledger, "of_figure", return_value={claim: entry}):
        return ledger.verdicts(entry["figure"], table, made=made).iloc[0]


class Verdicts(dict):
    """Claim -> its verdict on a table, each decided when it is asked for."""

    def __init__(self, table: pd.DataFrame):
        super().__init__()
        self.table = table

    def __missing__(self, claim: str) -> str:
        self[claim] = verdict(claim, self.table)["verdict"]
        return self[claim]


GAP_LEVELS = {"dense": 0.0, "sol_s": 0.0, "sol_f": 4.0, "scale": 3.0}  # points above 90%, by arm


def gap_table(dataset="mnist", noise=0.0, **others):
    """The gap study's: ten seeds of arms that end so many points above 90%; a loss falls by a
    tenth a point."""
    found = []
    for seed in range(10):
        shared = np.sin(seed)
        for arm, points in {**GAP_LEVELS, **others}.items():
            points = points + shared + 0.05 * np.cos(7 * seed + len(arm))
            solution = {"dense": "sol_d", "sol_f": "sol_f"}.get(arm, "sol_s")
            found.append({
                "key": f"{arm}{seed}", "seed": seed, "arm": arm, "solution": solution,
                "sparsity": 0.0 if arm == "dense" else 0.95, "dataset": dataset, "noise": noise,
                "network": "lenet-300-100", "epoch": 5, "diverged": False,
                "train_accuracy": 0.9 + points / 100, "test_accuracy": 0.9 + points / 100,
                "train_loss": np.exp(-points / 10), "chosen_wrong": points / 100,
                "fisher": np.exp(points),
            })  # fmt: skip
    return pd.DataFrame(found)


def random_arrays(shape=(16, 16, 3), classes=4, train=48, test=24, seed=0) -> dict[str, np.ndarray]:
    """Arrays of the layout of a data file; the pixels of a class share a pattern, so that there
    is something to learn."""
    stream = np.random.default_rng(seed)
    patterns = stream.integers(0, 256, (classes, *shape))
    arrays = {}
    for part, count in (("train", train), ("test", test)):
        y = stream.permutation(np.arange(count) % classes).astype(np.uint8)
        arrays[f"x_{part}"] = (
            (patterns[y] + 2 * stream.integers(0, 256, (count, *shape))) // 3
        ).astype(np.uint8)
        arrays[f"y_{part}"] = y
    return arrays


def forget_sets() -> None:
    """Empty the caches of the sets, so that files are read anew."""
    for function in (sets._arrays, sets._tensors):
        function.cache_clear()


def content_digest(arrays: dict[str, np.ndarray]) -> str:
    """The checksum that ``lib.data.archives`` holds: over the sorted hashes of the examples of
    each part."""
    parts = []
    for part in ("train", "test"):
        pairs = zip(arrays[f"x_{part}"], arrays[f"y_{part}"].tolist(), strict=True)
        rows = sorted(
            hashlib.blake2b(x.tobytes() + bytes([y]), digest_size=16).digest() for x, y in pairs
        )
        parts.append(hashlib.sha256(b"".join(rows)).hexdigest())
    return hashlib.sha256("".join(parts).encode()).hexdigest()


# -- processes -------------------------------------------------------------------------------------
# A child forks from a server that has imported what it needs but has never computed, so that
# starting one is cheap.

CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(
    [
        "pandas",
        "sklearn.datasets",
        "sklearn.model_selection",
        "safetensors.torch",
        "filelock",
        "distributed",
        "support",  # this module: else each child would import it, with all that it needs, anew
    ]
)


def start_process(function, *arguments):
    """A started process that runs ``function``, which must be a module's own."""
    process = CONTEXT.Process(target=function, args=arguments)
    # pytest knows of this folder, and the server, which starts with the first process, by its path
    path = os.pathsep.join([str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")])
    with mock.patch.dict(os.environ, PYTHONPATH=path):
        process.start()
    return process


def serve(kind, said, before, *arguments) -> None:
    """Run the code ``before``, and be a Dask ``Scheduler`` or ``Worker``, whose address is written
    to ``said``, until it is ended."""
    import distributed

    exec(before, {})

    async def run():
        options = {"host": "127.0.0.1", "dashboard": False}
        async with getattr(distributed, kind)(*arguments, **options) as server:
            files.write_atomic(Path(said), server.address.encode())
            await server.finished()

    asyncio.run(run())


def checkpoint_every_epoch() -> None:
    """Make this process save the state of its cohort after every epoch."""
    sweep.CHECKPOINT_SECONDS = -1.0


def die() -> None:
    """End this process as the out-of-memory killer or a power cut would."""
    os.kill(os.getpid(), signal.SIGKILL)


def killed_at_call(runs, root, function, number, after) -> None:
    """Carry ``runs`` out and die before (or right ``after``) the ``number``-th call of
    ``function``, named in full."""
    torch.set_num_threads(2)
    checkpoint_every_epoch()
    owner, name = function.rsplit(".", 1)
    owner = pkgutil.resolve_name(owner)
    real, calls = getattr(owner, name), []

    def deadly(*arguments, **named):
        calls.append(None)
        if len(calls) == number and not after:
            die()
        result = real(*arguments, **named)
        if len(calls) == number and after:
            die()
        return result

    setattr(owner, name, deadly)
    carry_out(runs, Store(root))


def kill_at(runs, root, function, number, after) -> None:
    """Carry ``runs`` out in a process that dies at a call; fail unless it did die there."""
    process = start_process(killed_at_call, runs, root, function, number, after)
    process.join()
    assert process.exitcode == -signal.SIGKILL


def carried_out(runs, root, path, ready=None) -> None:
    """Carry ``runs`` out and write the table, and how many epochs each member trained here, to
    ``path``.

    With ``ready``, begin when all who share it are there.
    """
    torch.set_num_threads(2)
    checkpoint_every_epoch()
    epochs, real = [], loop.Training.run_epoch

    def counted(self, *arguments):
        epochs.extend((member.run.key, self.epoch) for member in self.members)
        real(self, *arguments)

    loop.Training.run_epoch = counted
    if ready is not None:
        ready.wait()
    table = carry_out(runs, Store(root))
    table.attrs["epochs"] = epochs
    table.to_pickle(path)


def namespace():
    """A command prefix that may mount a file system of its own, or None where the system does
    not let us.
    """
    for prefix in (["unshare", "--user", "--map-root-user", "--mount"], ["unshare", "--mount"]):
        try:
            if not subprocess.run(
                [*prefix, "mount", "-t", "tmpfs", "tmpfs", "/mnt"], capture_output=True, timeout=20
            ).returncode:
                return prefix
        except (OSError, subprocess.TimeoutExpired):
            continue
    return None


def of_notebook(name, function, **known):
    """A function that a notebook defines in a cell, with the cell's imports and constants."""
    path = Path(ledger.__file__).parent.parent / "notebooks" / f"{name}.ipynb"
    code = [c.source for c in nbformat.read(path, as_version=4).cells if c.cell_type == "code"]
    (cell,) = [source for source in code if f"def {function}(" in source]
    alone = ast.parse(cell)
    alone.body = [
        node
        for node in alone.body
        if isinstance(node, ast.FunctionDef | ast.Import | ast.ImportFrom)
        or (isinstance(node, ast.Assign) and ast.unparse(node.targets[0]).isupper())
    ]
    namespace = {"np": np, "pd": pd, **known}
    exec(compile(alone, f"{name}.ipynb", "exec"), namespace)
    return namespace[function]


def probabilities(logits):
    """Softmax of logits [..., C] by scipy, in float64."""
    return special.softmax(logits.double().numpy(), axis=-1)
