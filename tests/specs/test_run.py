"""A run is its specification: its key changes with all that can change the result, and no more."""

import json
import os
import pickle
import subprocess
import sys
import time

import pytest
from pydantic import ValidationError
from support import SMALL, small

from lib import registry
from lib.models import networks
from lib.specs.fields import ParameterError
from lib.specs.parts import Continuation, Data, Flow, MaskUpdate, Network, Pruning, Recipe, Setup
from lib.specs.run import (
    FORMAT,
    Run,
    continued,
    finetune,
    gradually_pruned,
    key_of,
    scratch,
    ticket,
)
from studies import presets

DATA = Data(name="folder", fingerprint="abc")
NETWORK = Network(name="lenet-5")
RECIPE = Recipe(epochs=5, batch_size=32, lr=0.1, momentum=0.9)
SETUP = Setup(
    data=DATA, network=NETWORK, dense=RECIPE, sparse=RECIPE, pruning=Pruning(sparsity=0.5)
)

# For every field of a specification, another value than the one that it has above.
OTHERS = {
    "data": {
        "name": "cifar10", "train": 100, "test": 100, "normalise": "channel", "augment": True,
        "noise": 0.3, "noise_kind": "flip", "image_size": 64, "fingerprint": "abd",
    },
    "network": {
        "name": "mlp", "widths": [6, 16, 120, 84], "activation": "tanh", "pooling": "avg",
        "init": "glorot-normal",
    },
    "recipe": {
        "epochs": 6, "batch_size": 33, "lr": 0.1 + 1e-9, "momentum": 0.8, "nesterov": True,
        "weight_decay": 1e-9, "schedule": "cosine", "milestones": [3], "gamma": 0.2,
        "lr_floor": 1e-3, "warmup_epochs": 0.5, "precision": "bfloat16", "decay": "kernels",
        "label_smoothing": 1e-9, "micro_batch": 5, "threads": 2,
    },
    "pruning": {
        "sparsity": 0.5 + 1e-9, "criterion": "random", "scope": "layer", "keep_dense": [],
        "source": "best-test", "score_examples": 9,
    },
}  # fmt: skip
RUN = {
    "solution": "sol_f", "seed": 1, "parent": Run.dense(SETUP, seed=1), "measure_every": 2,
    "keep": [3], "keep_best": True, "keep_velocity": True, "watch": ["fisher"],
    "watch_examples": 7, "watch_every": 9,
    "form": "layer", "rewind": 1, "flow": {"every": 5}, "snapshots": [3, 7],
    "replica": 1, "fresh": True, "perturbed": "signs",
    "mask_update": {"method": "rigl", "every": 3, "end": 9, "fraction": 0.3},
}  # fmt: skip
MASK_UPDATE = {
    "method": "set", "every": 4, "start": 1, "end": 8, "fraction": 0.2, "drop": "cosine",
    "gradient": "batch", "held": 50,
}  # fmt: skip
CONTINUATION = {"at": 2, "floor": 1e-9, "reading": "restart", "momentum": "kept"}
FLOW = {"every": 6, "examples": 999, "skip": 0}


def changed(spec, field, value):
    return type(spec)(**{**spec.model_dump(), field: value})


def fields_of(run):
    return {name: getattr(run, name) for name in Run.model_fields}


def test_every_field_changes_the_key():
    """No two runs that differ in a field of the run, its parts or its parent share a key."""
    base = scratch(Run.dense(SETUP, seed=0), sparsity=0.5)
    fields, keys = fields_of(base), {base.key}
    for part, others in OTHERS.items():
        known = set(type(fields[part]).model_fields) - {"folder", "width"}
        assert set(others) == known, "every field needs another value here"
        for field, value in others.items():
            keys.add(Run(**{**fields, part: changed(fields[part], field, value)}).key)
    arms = {"start", "selection", "objective", "guide"}  # see test_arms
    assert set(RUN) | set(OTHERS) | arms | {"continuation"} == set(Run.model_fields), "likewise"
    for field, value in RUN.items():
        keys.add(Run(**{**fields, field: value}).key)
    assert len(keys) == 1 + sum(map(len, OTHERS.values())) + len(RUN)


@pytest.mark.parametrize(
    ("name", "others", "base"),
    [
        ("continuation", CONTINUATION, lambda d: continued(d, at=1, sparsity=0.5)),
        (
            "mask_update",
            MASK_UPDATE,
            lambda d: scratch(d, sparsity=0.5, mask_update=MaskUpdate(**RUN["mask_update"])),
        ),
        (
            "flow",
            FLOW,
            lambda d: finetune(d.under(changed(SETUP, "flow", Flow(every=5))), sparsity=0.5),
        ),
    ],
)
def test_every_field_of_an_optional_part_changes_the_key(name, others, base):
    """Of the continuation, the mask update and the flow."""
    run = base(Run.dense(SETUP, seed=0, keep=(1, 2)))
    part = getattr(run, name)
    assert set(others) == set(type(part).model_fields), "every field needs another value here"
    keys = {run.key}
    for field, value in others.items():
        keys.add(Run(**{**fields_of(run), name: changed(part, field, value)}).key)
    assert len(keys) == 1 + len(others)


def test_keys_are_those_of_the_runs_that_stand_in_stores():
    """What came to specifications later has a default that leaves older runs their keys."""
    recipe = Recipe(epochs=3, batch_size=32, lr=0.1)
    data, mlp = Data(name="digits", fingerprint="0123"), Network(name="mlp")
    half = Pruning(sparsity=0.5)
    setup = Setup(data=data, network=mlp, dense=recipe, sparse=recipe, pruning=half)
    dense = Run.dense(setup, seed=0, keep=(2,))
    gradual = MaskUpdate(method="gradual", every=2, end=8)
    pruned = gradually_pruned(setup, seed=0, sparsity=0.9, mask_update=gradual)
    runs = {
        dense: "77a04b780b2cfd3f2dcc1801ae742bf5d50b40d9",
        finetune(dense, sparsity=0.9): "3672275f75f5b1a377a6a9a79d12cc083b1a20df",
        scratch(dense, sparsity=0.9, form="neuron"): "07529e8e4c26e54c616cd9e64feb9565f6aab231",
        continued(dense, at=2, sparsity=0.9): "30b4947b9ca516e60c55788c7ae9c0636bf9fba6",
        pruned: "1f29972e510728f2e3eb4674274728f3279c4904",
        ticket(pruned, perturbed="signs"): "6d9f4c8af51726405c35306bc6d3e0735e0e4df9",
    }
    assert [run.key for run in runs] == list(runs.values())


def test_the_width_changes_the_key():
    """Of a network that takes it."""
    wide, narrow = (
        Run.dense(changed(SETUP, "network", Network(name="resnet-20", width=width)), seed=0)
        for width in (1.0, 2.0)
    )
    assert wide.key != narrow.key


def test_a_parents_specification_counts():
    """Sol-F of a Sol-D that trained longer is another run."""
    longer = changed(SETUP, "dense", changed(RECIPE, "epochs", 6))
    found = [finetune(Run.dense(s, seed=0), sparsity=0.5).key for s in (SETUP, longer)]
    assert found[0] != found[1]


def test_the_dense_run_does_not_depend_on_what_follows():
    """Sol-D is the same run whatever the sparse recipe, the sparsity or the scope."""
    dense = Run.dense(SETUP, seed=0)
    other = Pruning(sparsity=0.9, criterion="random", scope="layer", keep_dense=())
    for setup in (
        changed(SETUP, "sparse", changed(RECIPE, "lr", 0.01)),
        changed(SETUP, "pruning", other),
    ):
        again = Run.dense(setup, seed=0)
        assert again.key == dense.key
        assert again == dense
        assert len({dense, again}) == 1
        assert dense.under(setup) == dense
        assert finetune(dense.under(setup), sparsity=0.5) == finetune(again, sparsity=0.5)


def test_the_way_a_value_is_written_does_not_matter():
    """1 and 1.0, a list and a tuple, a default left out or said, mean the same run."""
    one = Recipe(epochs=5, batch_size=32, lr=1, momentum=0.9, milestones=[2, 3], gamma=0.1)
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


def test_keys_are_cheap():
    """Ten thousand runs and their keys: seconds, on a busy machine too."""
    begin = time.process_time()
    dense = [Run.dense(SETUP, seed=seed) for seed in range(5000)]
    keys = {run.key for d in dense for run in (d, finetune(d, sparsity=0.5))}
    assert len(keys) == 10_000
    assert time.process_time() - begin < 15


def test_the_specification_is_plain_json():
    """What differs from its default, the parent by its key; its hash is the key."""
    run = finetune(Run.dense(SETUP, seed=0), sparsity=0.5)
    assert run.specification == {
        "solution": "sol_f",
        "seed": 0,
        "data": {"name": "folder", "fingerprint": "abc"},
        "network": {"name": "lenet-5"},
        "recipe": {"epochs": 5, "batch_size": 32, "lr": 0.1, "momentum": 0.9},
        "pruning": {"sparsity": 0.5},
        "parent": run.parent.key,
        "format": FORMAT,
    }
    assert json.loads(json.dumps(run.specification, allow_nan=False)) == run.specification
    assert key_of(run.specification) == run.key


def test_where_a_folder_lies_is_no_part_of_a_run():
    here, there = (
        Run.dense(changed(SETUP, "data", Data(name="folder", fingerprint="abc", folder=f)), seed=0)
        for f in ("here", "there")
    )
    assert here.key == there.key


def test_specifications_are_frozen():
    """No field of a run or of its parts can be set."""
    run = finetune(Run.dense(SETUP, seed=0), sparsity=0.5)
    for spec in (run, run.data, run.network, run.recipe, run.pruning, SETUP):
        for field in type(spec).model_fields:
            with pytest.raises(ValidationError, match="frozen"):
                setattr(spec, field, getattr(spec, field))


def test_a_run_travels():
    """Pickled for another process, it is the same run, with its setup."""
    run = finetune(Run.dense(SETUP, seed=0), sparsity=0.5)
    again = pickle.loads(pickle.dumps(run))
    assert (again, again.key, again.setup) == (run, run.key, SETUP)


def test_a_run_made_by_hand_has_no_setup():
    """It can be carried out; to begin others from it, it needs a setup."""
    bare = Run(solution="sol_d", seed=0, data=DATA, network=NETWORK, recipe=RECIPE)
    assert bare == Run.dense(SETUP, seed=0)
    with pytest.raises(ParameterError, match="without a setup"):
        finetune(bare, sparsity=0.5)
    assert finetune(bare.under(SETUP), sparsity=0.5).parent == bare


GOOD = {"solution": "sol_d", "seed": 0, "data": DATA, "network": NETWORK, "recipe": RECIPE}
PARENT = Run.dense(SETUP, seed=0)
HALF = Pruning(sparsity=0.5)


@pytest.mark.parametrize(
    "change",
    [
        {"seed": -1},
        {"seed": 0.5},
        {"seed": True},
        {"solution": "sol_x"},
        {"solution": "sol_f"},  # a sparse run without parent or pruning
        {"solution": "sol_f", "parent": PARENT},  # without pruning
        {"solution": "sol_f", "pruning": HALF},  # without parent
        {"parent": PARENT, "pruning": HALF},  # a dense run with both
        {"parent": PARENT},
        {"pruning": HALF},
        {"solution": "sol_t", "parent": PARENT, "pruning": HALF},  # a ticket of a dense run
        {"solution": "sol_p", "parent": PARENT, "pruning": HALF},  # on its way from nowhere
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
        *((RECIPE, "lr", v) for v in (0, -0.1, NAN, INF, True)),
        *((RECIPE, "momentum", v) for v in (-0.1, 1.1, NAN, False)),
        *((RECIPE, "weight_decay", v) for v in (-1e-9, INF, True)),
        *((RECIPE, "epochs", v) for v in (-1, 2.5, "many", 10**9)),
        *((RECIPE, "batch_size", v) for v in (0, 1.5, 10**12)),
        (RECIPE, "milestones", [0]),
        (RECIPE, "schedule", "staircase"),
        (RECIPE, "gamma", 0),
        (RECIPE, "warmup_epochs", -1),
        (RECIPE, "precision", "float16"),
        *((SETUP.pruning, "sparsity", v) for v in (1.0, -0.01, NAN, "all", False)),
        *((SETUP.pruning, "criterion", v) for v in ("luck", ["magnitude"], None)),
        (SETUP.pruning, "scope", "gobal"),
        (SETUP.pruning, "keep_dense", ["middle"]),
        *((DATA, "noise", v) for v in (-0.1, 1.01, NAN, True)),
        *((DATA, "train", v) for v in (0, -5, 10**30)),
        *((DATA, "name", v) for v in ("minst", ["mnist"])),
        (DATA, "fingerprint", ""),
        (NETWORK, "name", "resnet-21"),
        *((NETWORK, "widths", v) for v in ([10, 0], [10**9])),
        *((Network(name="resnet-20"), "width", v) for v in (0, 1e9, True)),
        (NETWORK, "init", "hee"),
    ],
)
def test_bad_values_are_refused(spec, field, value):
    """Each part refuses values outside its range, NaN, infinity, and booleans for numbers."""
    with pytest.raises(ValidationError) as caught:
        changed(spec, field, value)
    assert caught.value.errors()[0]["loc"][0] == field


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"nesterov": True}, "nesterov is True: it needs a momentum above 0"),
        ({"schedule": "step", "milestones": [3, 2]}, "milestones is [3, 2]: they must rise"),
        ({"milestones": [3, 6]}, "milestones is [3, 6]: none may lie beyond epochs, which is 5"),
        ({"lr_floor": 0.2}, "lr_floor is 0.2: it may not lie above the rate, lr, 0.1"),
    ],
)
def test_recipes_that_contradict_themselves_are_refused(change, said):
    with pytest.raises(ValidationError) as caught:
        Recipe(**{"epochs": 5, "batch_size": 32, "lr": 0.1, **change})
    assert said in str(caught.value)


def test_a_floor_above_the_rate_is_refused():
    with pytest.raises(ValidationError, match=r"rate_floor is 0.2: it may not lie above .* 0.1"):
        changed(SETUP, "continuation", Continuation(at=0, floor=0.2))


@pytest.mark.parametrize(("name", "value"), [("folder", "somewhere"), ("image_size", 64)])
def test_a_folder_is_for_the_dataset_folder(name, value):
    """A path or a size beside another dataset would mean nothing."""
    with pytest.raises(ValidationError, match=f"{name} is .*: it is for the dataset 'folder'"):
        Data(**{"name": "mnist", "fingerprint": "abc", name: value})


@pytest.mark.parametrize("name", sorted(registry.network))
def test_options_that_a_network_ignores_are_refused(name):
    """With the name of the option, its value, and what the network takes."""
    values = {"widths": [3, 3, 27, 20], "width": 0.5, "activation": "tanh", "pooling": "avg"}
    takes = networks.options(name)
    for option, value in values.items():
        if option in takes:
            assert Network(name=name, **{option: value}).options.keys() == {option}
        else:
            with pytest.raises(ValidationError, match=rf"{option} is .*'{name}' ignores it"):
                Network(name=name, **{option: value})
    assert Network(name=name).options == {}


@pytest.mark.parametrize("sparsity", [1.0, -0.5, NAN, True])
@pytest.mark.parametrize("start", [finetune, scratch])
def test_a_bad_sparsity_is_a_parameter_error(start, sparsity):
    """The error of finetune and scratch names the parameter and its value."""
    with pytest.raises(ParameterError, match=f"sparsity is {sparsity}"):
        start(Run.dense(SETUP, seed=0), sparsity=sparsity)


GRADUAL = gradually_pruned(
    SETUP,
    seed=0,
    sparsity=0.5,
    mask_update=MaskUpdate(method="gradual", every=1, end=9),
    keep=(2,),
)


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: ticket(GRADUAL, rewind=3), r"rewind is 3: .* at \[2\] only"),
        (lambda: ticket(PARENT), "a ticket has the mask of a gradually pruned run"),
        (lambda: ticket(GRADUAL, perturbed="luck"), "perturbed is 'luck': allowed are signs"),
        (lambda: scratch(GRADUAL, sparsity=0.4), "sparsity is 0.4: .* has its sparsity, 0.5"),
        (lambda: scratch(PARENT, sparsity=0.4, form="odd"), "form is 'odd': allowed are masked"),
        (lambda: scratch(PARENT, sparsity=0.4, snapshots=(4, 4)), "snapshots is .* rise"),
        (lambda: continued(GRADUAL, at=2, sparsity=0.5), "pruned on its way is a dense run"),
        (lambda: continued(PARENT, at=6, sparsity=0.5), "a number from 0 to 5"),
        (lambda: continued(PARENT, at=1.5, sparsity=0.5), r"weights at \[\] only"),
        (lambda: continued(PARENT, at=True, sparsity=0.5), "it should be a number"),
        (lambda: continued(PARENT, at=2, sparsity=0.5), r"weights at \[\] only"),
    ],
)
def test_what_cannot_be_made_is_a_parameter_error(make, said):
    with pytest.raises(ParameterError, match=said):
        make()


def test_a_setup_takes_over_every_setting():
    """Each setting of a figure reaches the runs: recipes, data, network, pruning."""
    given = {
        "train_examples": 70, "test_examples": 60, "normalise": "channel", "augment": True,
        "noise": 0.2, "noise_kind": "flip", "network": "lenet-5", "init": "glorot-normal",
        "pooling": "avg", "activation": "tanh", "widths": [3, 3, 27, 20], "criterion": "random",
        "scope": "layer", "keep_dense": ["first"], "prune_from": "best-test", "sparsity": 0.25,
        "epochs": 7, "sparse_epochs": 8, "batch_size": 9, "lr": 0.3, "sparse_lr": 0.4,
        "momentum": 0.5, "nesterov": True, "weight_decay": 0.01, "schedule": "step",
        "milestones": [2, 3], "sparse_milestones": [4], "gamma": 0.6, "lr_floor": 0.01,
        "warmup_epochs": 0.5, "precision": "bfloat16", "measure_every": 2, "score_examples": 30,
        "decay": "kernels", "flow_every": 7, "flow_examples": 11, "held": 5,
        "watch": ["kl_uniform"], "watch_examples": 20, "watch_every": 3, "rate_floor": 0.02,
        "floor_reading": "restart", "momentum_after": "kept", "label_smoothing": 0.1,
        "micro_batch": 3, "threads": 2,
    }  # fmt: skip
    setup = small(**given)
    named = "batch_size momentum nesterov weight_decay schedule gamma lr_floor warmup_epochs"
    named += " precision decay label_smoothing micro_batch threads"
    common = {name: given[name] for name in named.split()}
    assert setup.dense == Recipe(epochs=7, lr=0.3, milestones=[2, 3], **common)
    assert setup.sparse == Recipe(epochs=8, lr=0.4, milestones=[4], **common)
    treated = {"normalise": "channel", "augment": True, "noise": 0.2, "noise_kind": "flip"}
    fingerprint = setup.data.fingerprint
    assert setup.data == Data(name="digits", train=70, test=60, fingerprint=fingerprint, **treated)
    own = {"widths": [3, 3, 27, 20], "activation": "tanh", "pooling": "avg"}
    assert setup.network == Network(name="lenet-5", init="glorot-normal", **own)
    scored = {"criterion": "random", "scope": "layer", "score_examples": 30}
    assert setup.pruning == Pruning(
        sparsity=0.25, keep_dense=["first"], source="best-test", **scored
    )
    assert setup.flow == Flow(every=7, examples=11, skip=5)
    assert setup.continuation == Continuation(at=0, floor=0.02, reading="restart", momentum="kept")
    dense = Run.dense(setup, seed=4)
    sparse = finetune(dense, sparsity=0.75)
    assert (dense.recipe, sparse.recipe) == (setup.dense, setup.sparse)
    assert (dense.measure_every, sparse.measure_every) == (2, 2)
    assert (dense.watch, dense.watch_examples, dense.keep_velocity) == (("kl_uniform",), 20, True)
    assert dense.watch_every == 3
    assert (sparse.watch, dense.keep_best, sparse.sparsity) == ((), True, 0.75)
    assert (sparse.pruning.scope, sparse.seed) == ("layer", 4)
    elsewhere = {"dataset", "seeds", "width", "folder", "image_size"}  # said or tested elsewhere
    left = set(presets._Specified.model_fields) - set(given) - elsewhere - set(presets._LISTS)
    left -= set(presets._settings(MaskUpdate))  # which notebooks make
    assert not left, "a new setting must reach the setup too"


def test_sparse_settings_default_to_the_dense_ones():
    """Without epochs, a rate or milestones of their own, sparse runs take the dense ones."""
    setup = small(schedule="step", milestones=[2], sparse_epochs=None)
    assert setup.sparse == setup.dense
    assert (setup.sparse.lr, setup.sparse.milestones) == (SMALL["lr"], (2,))


def test_each_recipe_takes_the_milestones_that_it_reaches():
    setup = small(schedule="step", milestones=[2, 4], sparse_epochs=5)
    assert (setup.dense.milestones, setup.sparse.milestones) == ((2,), (2, 4))


def test_contradictory_settings_are_a_parameter_error():
    """What only shows when the recipe is made names the parameter too."""
    with pytest.raises(ValueError, match="nesterov is True: it needs a momentum above 0"):
        small(nesterov=True, momentum=0)
