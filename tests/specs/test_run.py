"""A run is its specification: its key changes with everything that can change the result, and with nothing else."""

import json
import os
import subprocess
import sys

import pytest
from pydantic import ValidationError
from support import SMALL, small

from lib.specs.fields import ParameterError
from lib.specs.parts import Continuation, Data, Flow, MaskUpdate, Network, Pruning, Recipe, Setup
from lib.specs.run import Run, continued, finetune, scratch
from studies.presets import Settings

DATA = Data(name="digits", fingerprint="abc")
NETWORK = Network(name="mlp")
RECIPE = Recipe(epochs=5, batch_size=32, lr=0.1, momentum=0.9)
SETUP = Setup(
    data=DATA, network=NETWORK, dense=RECIPE, sparse=RECIPE, pruning=Pruning(sparsity=0.5)
)

# For every field of a specification, another value than the one that it has above.
OTHERS = {
    "data": {
        **{
            "name": "bits12",
            "train": 100,
            "test": 100,
            "normalise": "channel",
            "augment": True,
            "noise": 0.3,
        },
        **{"noise_kind": "flip", "image_size": 64, "fingerprint": "abd"},
    },
    "network": {
        "name": "lenet-5",
        "widths": [100],
        "width": 2.0,
        "activation": "tanh",
        "pooling": "avg",
        "init": "glorot-normal",
    },
    "recipe": {
        **{
            "epochs": 6,
            "batch_size": 33,
            "lr": 0.1 + 1e-9,
            "momentum": 0.8,
            "nesterov": True,
            "weight_decay": 1e-9,
        },
        **{
            "schedule": "cosine",
            "milestones": [3],
            "gamma": 0.2,
            "lr_floor": 1e-3,
            "warmup_epochs": 0.5,
            "precision": "bfloat16",
        },
        **{"decay": "kernels", "label_smoothing": 1e-9, "micro_batch": 5},
    },
    "pruning": {
        "sparsity": 0.5 + 1e-9,
        "criterion": "random",
        "scope": "layer",
        "keep_dense": [],
        "source": "best-test",
        "score_examples": 9,
    },
}
RUN = {
    **{
        "solution": "sol_f",
        "seed": 1,
        "parent": Run.dense(SETUP, seed=1),
        "measure_every": 2,
        "keep": [3],
        "keep_best": True,
    },
    **{
        "keep_velocity": True,
        "watch": ["fisher"],
        "watch_examples": 7,
        "form": "layer",
        "rewind": 1,
    },
    **{"flow": {"every": 5}, "snapshots": [3, 7]},
    **{"replica": 1, "fresh": True, "perturbed": "signs"},
    "mask_update": {"method": "rigl", "every": 3, "end": 9, "fraction": 0.3},
}
TOPOLOGY = {
    **{
        "method": "set",
        "every": 4,
        "start": 1,
        "end": 8,
        "fraction": 0.2,
        "drop": "cosine",
        "gradient": "batch",
        "held": 50,
    },
}
CONTINUATION = {"at": 2, "floor": 1e-9, "reading": "restart", "momentum": "kept"}


def changed(spec, field, value):
    return type(spec)(**{**spec.model_dump(), field: value})


def test_every_field_changes_the_key():
    """No two runs that differ in one field share a key, whichever field of the run, its parts or its parent it is."""
    dense = Run.dense(SETUP, seed=0)
    base = scratch(dense, sparsity=0.5)
    fields = {name: getattr(base, name) for name in Run.model_fields}
    keys = {base.key}
    for part, others in OTHERS.items():
        assert set(others) == set(type(fields[part]).model_fields) - {"folder"}, (
            "every field needs another value here"
        )
        for field, value in others.items():
            keys.add(Run(**{**fields, part: changed(fields[part], field, value)}).key)
    assert set(RUN) | set(OTHERS) | {"setup", "continuation"} == set(Run.model_fields), (
        "every field needs another value here"
    )
    for field, value in RUN.items():
        keys.add(Run(**{**fields, field: value}).key)
    assert len(keys) == 1 + sum(map(len, OTHERS.values())) + len(RUN)
    assert set(CONTINUATION) == set(Continuation.model_fields), (
        "every field needs another value here"
    )
    pruned = continued(Run.dense(SETUP, seed=0, keep=(1, 2)), at=1, sparsity=0.5)
    fields = {name: getattr(pruned, name) for name in Run.model_fields}
    changes = [
        {"continuation": changed(pruned.continuation, field, value)}
        for field, value in CONTINUATION.items()
    ]
    assert len({pruned.key, *(Run(**{**fields, **change}).key for change in changes)}) == 1 + len(
        CONTINUATION
    )
    assert set(TOPOLOGY) == set(MaskUpdate.model_fields), "every field needs another value here"
    moving = scratch(dense, sparsity=0.5, mask_update=MaskUpdate(**RUN["mask_update"]))
    fields = {name: getattr(moving, name) for name in Run.model_fields}
    changes = [
        {"mask_update": changed(moving.mask_update, field, value)}
        for field, value in TOPOLOGY.items()
    ]
    assert len({moving.key, *(Run(**{**fields, **change}).key for change in changes)}) == 1 + len(
        TOPOLOGY
    )


def test_a_parents_specification_counts():
    """Sol-F of a Sol-D that trained longer is another run."""
    longer = changed(SETUP, "dense", changed(RECIPE, "epochs", 6))
    assert (
        finetune(Run.dense(SETUP, seed=0), sparsity=0.5).key
        != finetune(Run.dense(longer, seed=0), sparsity=0.5).key
    )


def test_the_dense_run_does_not_depend_on_what_follows():
    """Sol-D is the same run whatever the sparse recipe, the sparsity or the scope, so that figures share it."""
    dense = Run.dense(SETUP, seed=0)
    for other in (
        changed(SETUP, "sparse", changed(RECIPE, "lr", 0.01)),
        changed(
            SETUP,
            "pruning",
            Pruning(sparsity=0.9, criterion="random", scope="layer", keep_dense=()),
        ),
    ):
        again = Run.dense(other, seed=0)
        assert again.key == dense.key
        assert again == dense
        assert len({dense, again}) == 1


def test_the_way_a_value_is_written_does_not_matter():
    """1 and 1.0, a list and a tuple, mean the same run."""
    one = Recipe(epochs=5, batch_size=32, lr=1, momentum=0.9, milestones=[2, 3])
    two = Recipe(epochs=5, batch_size=32, lr=1.0, momentum=0.9, milestones=(2, 3))
    keys = {Run.dense(changed(SETUP, "dense", recipe), seed=0).key for recipe in (one, two)}
    assert len(keys) == 1


def test_keys_are_the_same_in_every_process():
    """Another interpreter with another hash seed computes the same keys."""
    code = (
        "from lib.specs.run import *\n"
        f"setup = Setup.model_validate_json({SETUP.model_dump_json()!r})\n"
        "dense = Run.dense(setup, seed=7)\n"
        "print(dense.key, finetune(dense, sparsity=0.3).key)"
    )
    environment = {**os.environ, "PYTHONHASHSEED": "12345"}
    found = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment
    ).stdout.split()
    dense = Run.dense(SETUP, seed=7)
    assert found == [dense.key, finetune(dense, sparsity=0.3).key]
    assert len(dense.key) == 40
    assert set(dense.key) <= set("0123456789abcdef")


def test_the_specification_is_plain_json():
    """It survives JSON, names the parent by its key, and leaves the setup out."""
    run = finetune(Run.dense(SETUP, seed=0), sparsity=0.5)
    assert json.loads(json.dumps(run.specification, allow_nan=False)) == run.specification
    assert run.specification["parent"] == run.parent.key
    assert "setup" not in run.specification


def test_specifications_are_frozen():
    """No field of a run or of its parts can be set."""
    run = finetune(Run.dense(SETUP, seed=0), sparsity=0.5)
    for spec in (run, run.data, run.network, run.recipe, run.pruning, SETUP):
        for field in type(spec).model_fields:
            with pytest.raises(ValidationError, match="frozen"):
                setattr(spec, field, getattr(spec, field))


GOOD = {
    "solution": "sol_d",
    "seed": 0,
    "data": DATA,
    "network": NETWORK,
    "recipe": RECIPE,
    "setup": SETUP,
}
PARENT = Run.dense(SETUP, seed=0)


@pytest.mark.parametrize(
    "change",
    [
        {"seed": -1},
        {"seed": 0.5},
        {"solution": "sol_x"},
        {"solution": "sol_f"},  # a sparse run without parent or pruning
        {"solution": "sol_f", "parent": PARENT},  # without pruning
        {"solution": "sol_f", "pruning": Pruning(sparsity=0.5)},  # without parent
        {"parent": PARENT, "pruning": Pruning(sparsity=0.5)},  # a dense run with both
        {"parent": PARENT},
        {"pruning": Pruning(sparsity=0.5)},
        {"keep": [6]},
        {"keep": [-1]},
        {"measure_every": 0},
        {"colour": "red"},
    ],
    ids=lambda c: "-".join(c),
)
def test_bad_runs_are_refused(change):
    """A run that means nothing cannot be made."""
    assert Run(**GOOD).key
    with pytest.raises(ValidationError):
        Run(**{**GOOD, **change})


NAN, INF = float("nan"), float("inf")


@pytest.mark.parametrize(
    ("spec", "field", "value"),
    [
        *((RECIPE, "lr", v) for v in (0, -0.1, NAN, INF)),
        *((RECIPE, "momentum", v) for v in (-0.1, 1.1, NAN)),
        *((RECIPE, "weight_decay", v) for v in (-1e-9, INF)),
        *((RECIPE, "epochs", v) for v in (-1, 2.5, "many")),
        *((RECIPE, "batch_size", v) for v in (0, 1.5)),
        (RECIPE, "milestones", [0]),
        (RECIPE, "schedule", "staircase"),
        (RECIPE, "gamma", 0),
        (RECIPE, "warmup_epochs", -1),
        (RECIPE, "precision", "float16"),
        *((SETUP.pruning, "sparsity", v) for v in (1.0, -0.01, NAN, "all")),
        (SETUP.pruning, "criterion", "luck"),
        (SETUP.pruning, "scope", "gobal"),
        (SETUP.pruning, "keep_dense", ["middle"]),
        *((DATA, "noise", v) for v in (-0.1, 1.01, NAN)),
        *((DATA, "train", v) for v in (0, -5)),
        (DATA, "name", "minst"),
        (DATA, "fingerprint", ""),
        (NETWORK, "name", "resnet-21"),
        (NETWORK, "widths", [10, 0]),
        (NETWORK, "width", 0),
        (NETWORK, "init", "hee"),
    ],
)
def test_bad_values_are_refused(spec, field, value):
    """Each part of a specification refuses values outside its range, NaN and infinity."""
    with pytest.raises(ValidationError) as caught:
        changed(spec, field, value)
    assert caught.value.errors()[0]["loc"][0] == field


def test_recipes_that_contradict_themselves_are_refused():
    """Nesterov without momentum, and milestones that do not rise under the step schedule."""
    with pytest.raises(ValidationError, match="nesterov is True: it needs a momentum above 0"):
        Recipe(epochs=5, batch_size=32, lr=0.1, nesterov=True)
    with pytest.raises(ValidationError, match=r"milestones is \(3, 2\): they must rise"):
        Recipe(epochs=5, batch_size=32, lr=0.1, schedule="step", milestones=[3, 2])


@pytest.mark.parametrize("sparsity", [1.0, -0.5, NAN])
@pytest.mark.parametrize("start", [finetune, scratch])
def test_a_bad_sparsity_is_a_parameter_error(start, sparsity):
    """The error of finetune and scratch names the parameter and its value."""
    with pytest.raises(ParameterError, match=f"sparsity is {sparsity}"):
        start(Run.dense(SETUP, seed=0), sparsity=sparsity)


def test_a_setup_takes_over_every_setting():
    """Each setting of a figure reaches the runs: dense and sparse recipes, data, network, pruning."""
    given = {
        **{
            "train_examples": 70,
            "test_examples": 60,
            "normalise": "channel",
            "augment": True,
            "noise": 0.2,
            "noise_kind": "flip",
        },
        **{
            "network": "resnet-20",
            "width": 0.5,
            "init": "glorot-normal",
            "pooling": "avg",
            "activation": "tanh",
            "widths": [3],
        },
        **{
            "criterion": "random",
            "scope": "layer",
            "keep_dense": ["first"],
            "prune_from": "best-test",
            "sparsity": 0.25,
        },
        **{
            "epochs": 7,
            "sparse_epochs": 8,
            "batch_size": 9,
            "lr": 0.3,
            "sparse_lr": 0.4,
            "momentum": 0.5,
            "nesterov": True,
        },
        **{
            "weight_decay": 0.01,
            "schedule": "step",
            "milestones": [2, 3],
            "sparse_milestones": [4],
            "gamma": 0.6,
            "lr_floor": 0.01,
        },
        **{
            "warmup_epochs": 0.5,
            "precision": "bfloat16",
            "measure_every": 2,
            "score_examples": 30,
            "decay": "kernels",
        },
        **{"flow_every": 7, "flow_examples": 11, "held": 5},
        **{
            "watch": ["kl_uniform"],
            "watch_examples": 20,
            "rate_floor": 0.02,
            "floor_reading": "restart",
            "momentum_after": "kept",
        },
        **{"label_smoothing": 0.1, "micro_batch": 3},
    }
    setup = small(**given)
    common = {
        k: given[k]
        for k in ("batch_size", "momentum", "nesterov", "weight_decay", "schedule", "gamma")
    }
    common |= {
        k: given[k]
        for k in (
            "lr_floor",
            "warmup_epochs",
            "precision",
            "decay",
            "label_smoothing",
            "micro_batch",
        )
    }
    assert setup.dense == Recipe(epochs=7, lr=0.3, milestones=[2, 3], **common)
    assert setup.sparse == Recipe(epochs=8, lr=0.4, milestones=[4], **common)
    assert setup.data == Data(
        name="digits",
        train=70,
        test=60,
        normalise="channel",
        augment=True,
        noise=0.2,
        noise_kind="flip",
        fingerprint=setup.data.fingerprint,
    )
    assert setup.network == Network(
        name="resnet-20",
        widths=[3],
        width=0.5,
        activation="tanh",
        pooling="avg",
        init="glorot-normal",
    )
    assert setup.pruning == Pruning(
        sparsity=0.25,
        criterion="random",
        scope="layer",
        keep_dense=["first"],
        source="best-test",
        score_examples=30,
    )
    assert setup.flow == Flow(every=7, examples=11, skip=5)
    assert setup.continuation == Continuation(at=0, floor=0.02, reading="restart", momentum="kept")
    dense = Run.dense(setup, seed=4)
    sparse = finetune(dense, sparsity=0.75)
    assert (dense.recipe, sparse.recipe) == (setup.dense, setup.sparse)
    assert (dense.measure_every, sparse.measure_every) == (2, 2)
    assert (dense.watch, dense.watch_examples, dense.keep_velocity, sparse.watch) == (
        ("kl_uniform",),
        20,
        True,
        (),
    )
    assert (dense.keep_best, sparse.sparsity, sparse.pruning.scope, sparse.seed) == (
        True,
        0.75,
        "layer",
        4,
    )
    measured = {"alphas", "examples", "keep_epochs", "probes"}  # what a notebook keeps and measures
    varied = {
        "sparsities",
        "prune_epochs",
        "networks",
        "schedules",
        "weight_decays",
        "scopes",
        "criteria",
        "patience",
    }
    varied |= {
        "prune_start",
        "prune_end",
        "prune_every",
        "update_every",
        "drop_fraction",
        "drop_schedule",
        "growth_gradient",
    }
    varied |= {
        "small_widths",
        "forms",
        "replicas",
        "perturbations",
        "input_shape",
        "mask_kinds",
        "inits",
    }
    varied |= {"update_intervals", "drop_fractions", "longer"}
    varied |= {"snapshots", "around", "settle", "exact_examples"}
    varied |= {
        "update_end",
        "masks_from",
        "rewind",
        "folder",
        "image_size",
    }  # the last two: see test_folders
    unsaid = (
        {"preset", "dataset", "seeds", "device", "runs_folder", "save_to"} | measured | varied
    )  # left to the notebook
    assert set(Settings.model_fields) - set(given) == unsaid, (
        "a new setting must reach the setup too"
    )


def test_sparse_settings_default_to_the_dense_ones():
    """Without a rate or milestones of their own, sparse runs take the dense ones."""
    setup = small(schedule="step", milestones=[2])
    assert (setup.sparse.lr, setup.sparse.milestones) == (SMALL["lr"], (2,))


def test_contradictory_settings_are_a_parameter_error():
    """What only shows when the recipe is made is a ParameterError too."""
    with pytest.raises(ParameterError, match="nesterov is True: it needs a momentum above 0"):
        small(nesterov=True, momentum=0)
