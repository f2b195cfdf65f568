"""A cohort computes what the usual one-network loop computes, whoever trains beside it, and masks
hold after every step."""

import math

import numpy as np
import pandas as pd
import pytest
import scipy.stats
import torch
from scipy.special import log_softmax
from sklearn import metrics
from support import (
    carry_out,
    family,
    images_of,
    kill_at,
    labels_of,
    layout_of,
    network_at,
    outcomes,
    same_in_all,
    same_results,
    same_table,
    same_tensors,
    small,
    usual_loop,
)
from torch import nn

from lib import rng
from lib.metrics import predictions
from lib.models import initializers, networks
from lib.runs.store import Store
from lib.specs.parts import MaskUpdate, Recipe, Setup
from lib.specs.run import Run, finetune, scratch
from lib.training import engines, schedules, steps, threads
from lib.training.cohort import Cohort, Layout, network_of, sgd_

CIFAR = {"dataset": "cifar10", "train_examples": None, "test_examples": None, "batch_size": 16}
CONVOLUTIONAL = [
    {**CIFAR, "network": "lenet-5"},
    {**CIFAR, "network": "lenet-5", "activation": "tanh", "pooling": "avg"},
    {**CIFAR, "network": "resnet-20", "width": 0.25, "epochs": 2, "sparse_epochs": 2},
]
MLPS = [
    {"network": "mlp", "widths": [20, 12], "activation": activation}
    for activation in ("relu", "tanh")
]


def name_of(options):
    return "-".join(str(options[k]) for k in ("network", "activation", "augment") if k in options)


# -- against the usual loop ------------------------------------------------------------------------


def start_of(run, parents):
    """(weights, buffers, mask) by name at the start of ``run``, from what DESIGN says and the
    stored Sol-D."""
    layout, images = layout_of(run), images_of(run)
    network = network_of(run, images)
    ones = {name: torch.ones(shape, dtype=torch.bool) for name, shape in layout.parameters.items()}
    fresh = layout.views(layout.fresh_buffers(), buffers=True)
    if run.solution == "sol_d":
        return initializers.dense(network, run.network.init, run.seed), fresh, ones
    solution = layout.views(parents[run.parent.key].tensors["weights"])
    names = networks.prunable(network, run.pruning.keep_dense)
    scores = torch.cat([solution[name].abs().flatten() for name in names])
    threshold = torch.sort(scores)[0][round(run.sparsity * len(scores))]
    mask = {**ones, **{name: solution[name].abs() >= threshold for name in names}}
    if run.solution == "sol_f":
        buffers = layout.views(parents[run.parent.key].tensors["buffers"], buffers=True)
        return {name: value * mask[name] for name, value in solution.items()}, buffers, mask
    return (
        {
            n: v * mask[n]
            for n, v in initializers.dense(network, run.network.init, run.seed, "scratch").items()
        },
        fresh,
        mask,
    )


def assert_as_usual(setup, tmp_path, rtol, atol, seeds=(0, 1)):
    runs = family(setup, 0.6, seeds)
    finished = {
        run.key: done for run, done in zip(runs, outcomes(runs, tmp_path / "cohort"), strict=True)
    }
    for run in runs:
        network = usual_loop(run, *start_of(run, finished))
        layout, tensors = layout_of(run), finished[run.key].tensors
        for name, value in layout.views(tensors["weights"]).items():
            theirs = network.get_parameter(name).detach()
            torch.testing.assert_close(value, theirs, rtol=rtol, atol=atol)
        for name, value in layout.views(tensors["buffers"], buffers=True).items():
            torch.testing.assert_close(value, network.get_buffer(name), rtol=rtol, atol=atol)


RECIPES = [
    {"momentum": 0.0},
    {"momentum": 0.9, "weight_decay": 5e-4},
    {
        "momentum": 0.9,
        "nesterov": True,
        "weight_decay": 0.01,
        "schedule": "step",
        "milestones": [1],
    },
    {"momentum": 0.5, "schedule": "cosine", "warmup_epochs": 1.0, "noise": 0.3},
    {"momentum": 0.9, "augment": True, "normalise": "channel"},
]


@pytest.mark.parametrize("recipe", RECIPES, ids=range(len(RECIPES)))
@pytest.mark.parametrize("network", MLPS, ids=name_of)
def test_batched_mlps_train_as_usual(network, recipe, tmp_path):
    """Every member of an MLP cohort ends where a plain PyTorch loop ends: Sol-D, Sol-F and Sol-S of
    two seeds."""
    assert_as_usual(small(**network, **recipe), tmp_path, rtol=1e-4, atol=2e-6)


@pytest.mark.parametrize("network", CONVOLUTIONAL, ids=name_of)
def test_convolutional_members_train_as_usual(network, tmp_path, place_set, one_thread):
    """So does every member of a cohort of convolutional networks, BatchNorm's statistics
    included."""
    place_set()
    setup = small(**network, lr=0.02, nesterov=True, weight_decay=1e-3)
    assert_as_usual(setup, tmp_path, rtol=1e-3, atol=1e-5)


def test_augmented_members_train_as_usual(tmp_path, place_set, one_thread):
    """Cropped and flipped batches reach the members that they belong to."""
    place_set()
    setup = small(**CONVOLUTIONAL[0], lr=0.02, augment=True, normalise="channel")
    assert_as_usual(setup, tmp_path, rtol=1e-3, atol=1e-5)


# -- independence of the cohort --------------------------------------------------------------------


@pytest.mark.parametrize(
    "network",
    [
        {"widths": [16], "activation": "tanh"},
        {"widths": [100, 100]},
        {"widths": [200, 200], "activation": "tanh"},  # near where groups become single members
        {"widths": [300, 100], "train_examples": 70},
        {"network": "resnet-20", "width": 0.25, "train_examples": 40, "epochs": 2},
    ],
    ids=str,
)
def test_a_member_does_not_depend_on_its_cohort(network, tmp_path):
    """Weights and history of a run are the same to the bit alone and in cohorts of 2, 3 and 8."""
    setup = small(**{"epochs": 2, **network})
    others = [Run.dense(setup, seed=seed) for seed in range(1, 8)]
    same_in_all(Run.dense(setup, seed=0), [others[:1], others[:2], others], tmp_path)


def test_a_pass_has_the_threads_of_its_recipe_in_any_company():
    """Where spare cores would change a sum they idle; a group of many small members has at most as
    many threads as members, and sparse steps as many as there are."""
    large, small_work = 1e9, 1e6
    for cores in (1, 2, 16):
        for members in (1, 2, 5):
            for batched in (False, True):
                sizes, workers, each = threads.plan(members, 0, large, batched, cores)
                assert (sizes, each) == ([1] * members, 1)
                assert workers == min(cores, members)
    assert threads.plan(1, 0, large, False, 1, threads=2) == ([1], 1, 2)
    assert threads.plan(5, 0, large, False, 4, threads=2) == ([1] * 5, 2, 2)
    assert threads.plan(4, 0, small_work, True, 2) == ([4], 1, 1)
    assert threads.plan(32, 0, small_work, True, 2) == ([32], 1, 2)
    assert threads.plan(32, 0, small_work, True, 64) == ([32], 1, 32)
    assert threads.plan(0, 1, large, True, 4) == ([1], 1, 4)
    assert threads.plan(1, 1, large, True, 8) == ([1, 1], 2, 1)


def test_threads_that_share_no_sum_leave_the_bits(tmp_path):
    """The steps of many small members, and sparse ones, are the same on any number of threads."""
    shapes = {"mlp": (64,), "lenet-300-100": (784,), "lenet-5": (1, 28, 28)}
    for (name, shape), members in zip(shapes.items(), (9, 1, 1), strict=True):
        network, stream = networks.build(name, shape, 10), rng.generator(0, "test")
        layout, sparse = Layout(network), members == 1
        alive = torch.rand(members, layout.size, generator=stream) < (0.03 if sparse else 1)
        weights = 0.1 * torch.randn(alive.shape, generator=stream) * alive
        x = torch.randn(members, 128, *shape, generator=stream)
        y, rows = torch.randint(10, (members, 128), generator=stream), torch.empty(members, 1)
        found = []
        for count in (1, 2, 3, 8):
            group = Cohort(layout, weights.clone(), torch.zeros(members, 0), alive)
            with rng.on_threads(min(count, members) if members > 1 else count):
                engine = engines.engine(group, network, live_inputs=shape if sparse else None)
                loss = engine.gradients(x, y)
                sgd_(group, 0.1, 0.9, True, 1e-3)
                sgd_(group, torch.full((members, 1), 0.03), 0.9, False, torch.full_like(rows, 0.1))
            found.append({"weights": group.weights, "loss": loss})
        for other in found[1:]:
            same_tensors(other, found[0])


def test_a_member_does_not_depend_on_the_recipes_beside_it(tmp_path):
    """Nor does it when the others have other rates, schedules, decays and lengths."""
    setup = small(widths=[40, 20], weight_decay=5e-4, epochs=4)
    beside = [
        {"lr": 0.03},
        {"lr": 0.05, "weight_decay": 0.01},
        {"weight_decay": 0.0, "schedule": "cosine"},
        {"epochs": 2},
        {"epochs": 6, "lr": 0.07, "schedule": "exponential"},
    ]
    others = [
        Run.dense(
            small(**{"widths": [40, 20], "weight_decay": 5e-4, "epochs": 4, **change}), seed=0
        )
        for change in beside
    ]
    same_in_all(Run.dense(setup, seed=0), [others[:1], others[2:3], others], tmp_path)


def test_a_sparse_member_does_not_depend_on_the_masks_beside_it(tmp_path):
    """Nor when a member of another sparsity trains beside it."""
    dense = Run.dense(small(widths=[40, 20]), seed=0)
    others = [start(dense, sparsity=s) for s in (0.5, 0.9) for start in (finetune, scratch)]
    same_in_all(finetune(dense, sparsity=0.7), [others[:1], others], tmp_path)


def test_measuring_is_each_members_own(tmp_path):
    """A member that ends at another epoch adds no row to the others' histories, nor a candidate for
    their best weights."""
    setup = small(measure_every=4, epochs=8, prune_from="best-test")
    others = [
        Run.dense(small(measure_every=4, epochs=epochs, prune_from="best-test"), seed=1)
        for epochs in (1, 2, 3, 5, 6, 7)
    ]
    run = Run.dense(setup, seed=0)
    assert [row["epoch"] for row in outcomes([run], tmp_path / "alone")[0].history] == [0, 4, 8]
    same_in_all(run, [others], tmp_path)


LARGE = {  # one network of each kind of passes, so large that sums are shared out among threads
    "mlp": {"widths": [300, 300], "train_examples": 140, "batch_size": 128},
    "resnet": {"network": "resnet-20", "train_examples": 64, "normalise": "channel"},
    "two threads": {"network": "resnet-20", "width": 0.25, "train_examples": 64, "threads": 2},
}


@pytest.mark.parametrize("kind", LARGE)
def test_the_bits_of_a_large_network_are_its_own(kind, tmp_path):
    """On two threads: alone, in a cohort, killed and gone on; and with one thread at hand. Under a
    criterion that sums over examples, and a mask that changes by gradients."""
    brief = {"epochs": 2, "sparse_epochs": 2, "test_examples": 20, "criterion": "snip"}
    setup = small(**{**brief, **LARGE[kind]})
    grown = MaskUpdate(method="rigl", every=1, start=0, end=3, fraction=0.3, held=32)
    dense = [Run.dense(setup, seed=seed) for seed in range(2)]
    runs = [dense[0], scratch(dense[0], sparsity=0.5, mask_update=grown)]
    company = [dense[1], finetune(dense[0], sparsity=0.8), *runs]
    stores = {name: Store(tmp_path / name) for name in ("alone", "company", "killed", "one")}
    kill_at(runs, stores["killed"].root, "lib.training.loop.Training.run_epoch", 3, after=True)
    for name, count, which in (
        ("alone", 2, runs[:1]), ("alone", 2, runs), ("company", 2, company), ("killed", 2, runs),
        ("one", 1, runs),
    ):  # fmt: skip
        with rng.on_threads(count):
            carry_out(which, stores[name])
    for store in stores.values():
        same_results(runs, stores["alone"], store)
    assert stores["alone"].get(runs[0].key).info["threads"] == setup.dense.threads


def test_only_the_projects_own_rectifiers_work_in_place():
    """While they train; a user's module may read what goes into one again."""
    users = nn.Sequential(nn.Flatten(), nn.Linear(192, 10), nn.ReLU()).to("meta")
    for network, ours in ((networks.build("resnet-20", (3, 8, 8), 10), True), (users, False)):
        layout = Layout(network)
        rows = torch.zeros(1, layout.size), torch.zeros(1, layout.buffer_size)
        group = Cohort(layout, *rows, torch.ones(1, layout.size, dtype=torch.bool))
        (trained,) = engines.InTurn(group, network, engines.PLAIN).modules
        for module, inplace in ((trained, ours), (network, False)):
            found = [part.inplace for part in module.modules() if isinstance(part, nn.ReLU)]
            assert found
            assert set(found) == {inplace}


def test_the_number_of_threads_is_left_as_it_was(tmp_path):
    """Training sets threads for itself and puts the caller's number back."""
    before = torch.get_num_threads()
    outcomes(family(small(epochs=1, sparse_epochs=1)), tmp_path)
    assert torch.get_num_threads() == before


# -- masks -----------------------------------------------------------------------------------------

OPTIMISERS = [
    {"momentum": momentum, "nesterov": nesterov, "weight_decay": decay}
    for momentum, nesterov in ((0.0, False), (0.9, False), (0.9, True))
    for decay in (0.0, 5e-4, 0.1)
]


@pytest.mark.parametrize("optimiser", OPTIMISERS, ids=lambda o: "-".join(map(str, o.values())))
@pytest.mark.parametrize("network", [*MLPS[:1], CONVOLUTIONAL[0], CONVOLUTIONAL[2]], ids=name_of)
def test_pruned_weights_are_zero_after_every_step(
    network, optimiser, after_every_step, store, place_set
):
    """Exactly zero, after every single step, for every optimiser setting, for Sol-F and Sol-S,
    whatever the decay beside."""
    place_set(train=32, test=8)
    options = {**network, "epochs": 1, "sparse_epochs": 2, "lr": 0.05}
    setups = [
        small(**options, **optimiser),
        small(**options, **{**optimiser, "weight_decay": optimiser["weight_decay"] + 0.01}),
    ]
    dense = [Run.dense(setup, seed=0) for setup in setups]
    carry_out(dense, store)
    after_every_step.clear()
    sparse = [start(d, sparsity=0.7) for d in dense for start in (finetune, scratch)]
    carry_out(sparse, store)
    groups = {pruned for _, pruned in after_every_step}
    steps = 2 * math.ceil(
        (150 if network["network"] == "mlp" else 32) / (32 if network["network"] == "mlp" else 16)
    )
    assert len(after_every_step) >= steps
    assert 0 not in groups
    assert not any(nonzero for nonzero, _ in after_every_step)
    for run in sparse:
        tensors = store.get(run.key).tensors
        assert tensors["weights"][tensors["mask"]].count_nonzero() > 0
        assert tensors["mask"].logical_not().sum() == store.get(run.key).info["pruned"]


@pytest.mark.parametrize(
    "network", [{"network": "mlp"}, {"network": "resnet-20", "width": 0.25}], ids=name_of
)
def test_bfloat16(network, after_every_step, store):
    """In bfloat16 the products are rounded, so weights differ a little from float32's; masks hold
    exactly all the same."""
    runs = [
        family(
            small(**network, lr=0.002, epochs=1, sparse_epochs=1, precision=precision), 0.5, (0,)
        )
        for precision in ("float32", "bfloat16")
    ]
    carry_out(runs[0] + runs[1], store)
    assert not any(nonzero for nonzero, _ in after_every_step)
    for exact, rounded in zip(*runs, strict=True):
        exact, rounded = (store.get(run.key).tensors["weights"] for run in (exact, rounded))
        assert exact.dtype == rounded.dtype == torch.float32
        assert 0 < (exact - rounded).norm() / exact.norm() < 0.05


def test_a_mask_that_did_not_hold_is_no_result(store, monkeypatch):
    """If an optimiser step revives a pruned weight, the run is refused and does not enter the
    store."""
    dense = Run.dense(small(epochs=1, sparse_epochs=1), seed=0)
    carry_out([dense], store)
    real = steps.sgd_

    def reviving(cohort, *arguments):
        real(cohort, *arguments)
        cohort.weights.add_(1e-12 * ~cohort.mask)

    monkeypatch.setattr(steps, "sgd_", reviving)
    run = finetune(dense, sparsity=0.5)
    with pytest.raises(RuntimeError, match="pruned weight"):
        carry_out([run], store)
    assert not store.has(run.key)


# -- divergence ------------------------------------------------------------------------------------


@pytest.mark.parametrize("solution", ["sol_d", "sol_f", "sol_s"])
def test_a_diverging_member_stops_alone(solution, tmp_path):
    """It is marked, and the others end with the same bits and rows as without it, dense and
    sparse."""
    setups = [small(lr=0.1, sparse_lr=0.05, measure_every=2, epochs=4, sparse_epochs=4)]
    wild = {"lr": 1e20} if solution == "sol_d" else {"lr": 0.1, "sparse_lr": 1e20}
    setups.append(small(**{"measure_every": 2, "epochs": 4, "sparse_epochs": 4, **wild}))

    def runs_of(setup, seeds):
        dense = [Run.dense(setup, seed=seed) for seed in seeds]
        start = {"sol_d": None, "sol_f": finetune, "sol_s": scratch}[solution]
        return [start(d, sparsity=0.7) for d in dense] if start else dense

    calm, wild = runs_of(setups[0], (0, 1)), runs_of(setups[1], (2,))
    without = outcomes(calm, tmp_path / "without")
    store = Store(tmp_path / "with")
    table = carry_out([calm[0], *wild, calm[1]], store)
    marked = table.groupby("key")["diverged"].first()
    assert marked[wild[0].key]
    assert not marked[[run.key for run in calm]].any()
    assert table[table["key"] == wild[0].key]["epoch"].tolist() == [0, 1]
    for run, expected in zip(calm, without, strict=True):
        same_tensors(store.get(run.key).tensors, expected.tensors)
        same_table(pd.DataFrame(store.get(run.key).history), pd.DataFrame(expected.history))


def test_a_convolutional_member_diverges_alone(store, place_set):
    """The same holds where members take turns."""
    place_set()
    calm, wild = (Run.dense(small(**CONVOLUTIONAL[0], lr=lr), seed=0) for lr in (0.02, 1e20))
    table = carry_out([wild, calm], store)
    assert table.groupby("key")["diverged"].first()[[wild.key, calm.key]].tolist() == [True, False]
    assert (
        store.get(calm.key).history[-1]["train_loss"] < store.get(calm.key).history[0]["train_loss"]
    )


def test_a_loss_lost_in_the_last_step_is_divergence(store):
    """A run whose weights overflow in its very last step has no finite loss, and is marked like any
    other."""
    run = Run.dense(small(lr=1e38, epochs=1, batch_size=150), seed=0)
    last = carry_out([run], store).iloc[-1]
    assert not math.isfinite(last["train_loss"])
    assert last["diverged"]


def test_a_diverged_parent_stops_only_its_own_children(store):
    """Where one Sol-D diverged there is nothing to prune: its children count as diverged, and all
    others are trained."""
    calm, wild = (
        Run.dense(small(lr=lr, sparse_lr=0.1), seed=seed) for lr, seed in ((0.1, 0), (1e20, 1))
    )
    sparse = [start(d, sparsity=0.5) for d in (wild, calm) for start in (finetune, scratch)]
    table = carry_out([calm, wild, *sparse], store)
    marked = table.groupby("key")["diverged"].first()
    assert marked[[r.key for r in (wild, *sparse[:2])]].all()
    assert not marked[[r.key for r in (calm, *sparse[2:])]].any()


def test_a_parent_that_diverged_after_its_best_epoch_can_be_pruned_there(store):
    """Where the best epoch is pruned, only that epoch's weights must be finite."""
    wild = Run.dense(small(lr=1e20, sparse_lr=0.1, prune_from="best-test"), seed=1)
    child = finetune(wild, sparsity=0.5)
    table = carry_out([wild, child], store)
    assert table.groupby("key")["diverged"].first()[[wild.key, child.key]].tolist() == [True, False]
    assert store.get(wild.key).tensors["weights@best"].isfinite().all()


# -- schedules -------------------------------------------------------------------------------------

STEPS = 7


def rates(epochs, **options):
    recipe = Recipe(epochs=epochs, batch_size=1, lr=0.3, **options)
    return torch.cat([schedules.rates(recipe, epoch, STEPS) for epoch in range(epochs)])


def torch_rates(make, epochs, every):
    """The rates that a torch scheduler gives, advanced every step or every epoch."""
    optimiser = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.3)
    scheduler, found = make(optimiser), []
    for step in range(epochs * STEPS):
        found.append(optimiser.param_groups[0]["lr"])
        optimiser.step()
        if every == "step" or (step + 1) % STEPS == 0:
            scheduler.step()
    return torch.tensor(found, dtype=torch.float64)


LR = torch.optim.lr_scheduler


@pytest.mark.parametrize(
    ("options", "make", "every"),
    [
        ({"schedule": "constant"}, lambda o: LR.ConstantLR(o, factor=1), "step"),
        (
            {"schedule": "step", "milestones": (2, 4, 5), "gamma": 0.2},
            lambda o: LR.MultiStepLR(o, [2, 4, 5], 0.2),
            "epoch",
        ),
        ({"schedule": "exponential", "gamma": 0.8}, lambda o: LR.ExponentialLR(o, 0.8), "epoch"),
        ({"schedule": "cosine"}, lambda o: LR.CosineAnnealingLR(o, 6 * STEPS), "step"),
        ({"schedule": "linear"}, lambda o: LR.LinearLR(o, 1.0, 0.0, 6 * STEPS), "step"),
    ],
    ids=lambda v: v["schedule"] if isinstance(v, dict) else "",
)
def test_schedules_are_torchs(options, make, every):
    """Step by step the rates of torch.optim.lr_scheduler."""
    torch.testing.assert_close(
        rates(6, **options), torch_rates(make, 6, every), rtol=1e-12, atol=1e-15
    )


@pytest.mark.parametrize("warmup", [0.5, 1.0, 2.0])
@pytest.mark.parametrize("schedule", ["constant", "cosine", "linear"])
def test_warm_up(schedule, warmup):
    """The rate climbs linearly, reaching at the end of its epochs what the schedule has there, and
    follows it from then on."""
    plain, warm = rates(4, schedule=schedule), rates(4, schedule=schedule, warmup_epochs=warmup)
    share = torch.tensor(
        [min(1.0, (step + 1) / (warmup * STEPS)) for step in range(4 * STEPS)], dtype=torch.float64
    )
    torch.testing.assert_close(warm, plain * share, rtol=1e-12, atol=0)


def test_the_floor():
    """No rate of a falling schedule is below the floor, and rates above it are left alone."""
    for schedule in ("cosine", "linear", "exponential"):
        plain, held = rates(6, schedule=schedule), rates(6, schedule=schedule, lr_floor=0.05)
        assert plain.min() < 0.05
        torch.testing.assert_close(held, plain.clamp_min(0.05), rtol=0, atol=0)


# -- what is kept, and when members leave ----------------------------------------------------------


def test_weights_of_chosen_epochs_are_kept(tmp_path):
    """The weights kept at an epoch are those of a run that ends there; before the first epoch they
    are the start."""
    setup = small(network="resnet-20", width=0.25, train_examples=40, epochs=4)
    kept = outcomes([Run.dense(setup, seed=0, keep=(0, 2, 4))], tmp_path / "kept")[0].tensors
    plain = outcomes([Run.dense(setup, seed=0)], tmp_path / "plain")[0].tensors
    short = [
        outcomes([Run.dense(small(**{**options, "epochs": e}), seed=0)], tmp_path / str(e))[
            0
        ].tensors
        for e, options in SHORT.items()
    ]
    assert set(kept) == {
        f"{name}{suffix}" for name in ("weights", "buffers") for suffix in ("", "@0", "@2", "@4")
    } | {"mask"}
    same_tensors({name: kept[name] for name in plain}, plain)
    for suffix, ends in (("@0", short[0]), ("@2", short[1]), ("@4", plain)):
        same_tensors(
            {n: kept[f"{n}{suffix}"] for n in ("weights", "buffers")},
            {n: ends[n] for n in ("weights", "buffers")},
        )


SHORT = {epochs: {"network": "resnet-20", "width": 0.25, "train_examples": 40} for epochs in (0, 2)}


def test_the_best_weights_are_kept(tmp_path):
    """With prune_from best-test they are the weights of the first epoch with the highest test
    accuracy, and pruning starts there."""
    setup = small(prune_from="best-test", epochs=6, lr=0.4)
    dense = Run.dense(setup, seed=1)
    sparse = finetune(dense, sparsity=0.5)
    done, child = outcomes([dense, sparse], tmp_path / "best")
    accuracies = [row["test_accuracy"] for row in done.history]
    best = int(np.argmax(accuracies))
    assert best < 6, (
        "this seed must have its best epoch before the last for the test to mean something"
    )
    ended = outcomes([Run.dense(small(epochs=best, lr=0.4), seed=1)], tmp_path / "ended")[0]
    assert torch.equal(done.tensors["weights@best"], ended.tensors["weights"])
    mask = child.tensors["mask"]
    scores = layout_of(dense).views(done.tensors["weights@best"].abs())["1.weight"]
    live = layout_of(dense).views(mask)["1.weight"]
    assert scores[live].min() >= scores[~live].max()


def test_members_of_different_lengths_retire_in_turn(store):
    """Runs of 0, 1, 3 and 5 epochs share a cohort, and each has exactly its own epochs."""
    runs = [Run.dense(small(epochs=epochs), seed=0) for epochs in (3, 0, 5, 1)]
    table = carry_out(runs, store)
    assert table.groupby("key", sort=False)["epoch"].apply(list).tolist() == [
        list(range(n + 1)) for n in (3, 0, 5, 1)
    ]
    first = table[table["epoch"] == 1].drop(columns=["key", "epochs"]).reset_index(drop=True)
    same_table(first.iloc[[0]], first.iloc[[1]].set_axis([0]))


# -- measures --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "options",
    [
        {"noise": 0.4},
        {"noise": 0.4, "noise_kind": "flip", "train_examples": 600},
        {"network": "resnet-20", "width": 0.25},
    ],
    ids=str,
)
def test_measures_agree_with_scipy_and_scikit_learn(options, store):
    """Loss, accuracy and entropy on each part, computed from the stored weights by scipy and
    scikit-learn."""
    runs = family(small(epochs=2, sparse_epochs=2, lr=0.05, **options), seeds=(3,))
    table = carry_out(runs, store)
    for run in runs:
        row = table[(table["key"] == run.key) & (table["epoch"] == 2)].iloc[0]
        images, network = images_of(run), network_at(run, store.get(run.key).tensors)
        true, given = images.y_train.numpy(), labels_of(run).numpy()
        with torch.no_grad():
            parts = {
                "train": (network(images.x_train), given),
                "test": (network(images.x_test), images.y_test.numpy()),
            }
        loss = {
            name: -log_softmax(logits.double().numpy(), 1) for name, (logits, _) in parts.items()
        }
        for name, (logits, labels) in parts.items():
            expected = {
                "loss": loss[name][range(len(labels)), labels].mean(),
                "accuracy": metrics.accuracy_score(labels, logits.argmax(1)),
                "entropy": scipy.stats.entropy(logits.double().softmax(1), axis=1).mean(),
            }
            assert {m: row[f"{name}_{m}"] for m in expected} == pytest.approx(
                expected, rel=1e-4, abs=1e-6
            )
        if run.data.noise:
            wrong, predicted = given != true, parts["train"][0].argmax(1).numpy()
            of_given = loss["train"][range(len(given)), given]
            expected = {
                "clean_loss": of_given[~wrong].mean(),
                "clean_accuracy": metrics.accuracy_score(given[~wrong], predicted[~wrong]),
                "flipped_loss": of_given[wrong].mean(),
                "flipped_correct": metrics.accuracy_score(true[wrong], predicted[wrong]),
                "flipped_memorised": metrics.accuracy_score(given[wrong], predicted[wrong]),
            }
            assert {m: row[m] for m in expected} == pytest.approx(expected, rel=1e-4, abs=1e-6)
        else:
            assert "clean_loss" not in row


def test_shares_by_hand():
    """Six examples, two members, worked out on paper; the chunk does not matter, and a share of
    nothing is NaN."""
    logits = torch.full((2, 6, 3), -50.0)
    for member, answers in enumerate(([0, 1, 2, 0, 1, 1], [0, 0, 0, 0, 0, 0])):
        logits[member, range(6), answers] = 0.0
    true = torch.tensor([0, 1, 2, 0, 1, 2])
    given = torch.tensor(
        [[0, 1, 1, 0, 2, 1], [0, 1, 2, 0, 1, 2]]
    )  # member 0: examples 2, 4 and 5 are flipped; member 1: none
    part = predictions.Part(torch.arange(6), given, true, given != true)
    for chunk in (1, 4, 100):
        found = predictions.measure(lambda x: logits[:, x], part, "train", chunk)
        assert found["train_accuracy"].tolist() == pytest.approx([4 / 6, 2 / 6])
        assert found["train_loss"].tolist() == pytest.approx([100 / 6, 200 / 6])
        assert found["train_entropy"].tolist() == pytest.approx([0, 0], abs=1e-15)
        assert found["clean_accuracy"].tolist() == pytest.approx([1, 2 / 6])
        assert found["clean_loss"].tolist() == pytest.approx([0, 200 / 6], abs=1e-15)
        assert found["flipped_correct"][0].item() == pytest.approx(
            2 / 3
        )  # examples 2 and 4 see through the flip
        assert found["flipped_memorised"][0].item() == pytest.approx(
            1 / 3
        )  # example 5 answers as it was told
        assert found["flipped_loss"][0].item() == pytest.approx(100 / 3)
        assert all(found[f"flipped_{name}"][1].isnan() for name in ("loss", "correct", "memorised"))


def test_entropy_and_loss_of_known_distributions():
    """A uniform prediction over C classes has entropy and loss log C; a certain one has none."""
    uniform, certain = torch.zeros(1, 5), torch.tensor([[0.0, 1000.0, 0, 0, 0]])
    assert predictions.entropy(uniform).item() == pytest.approx(math.log(5))
    assert predictions.cross_entropy(uniform, torch.tensor([3])).item() == pytest.approx(
        math.log(5)
    )
    assert predictions.entropy(certain).item() == 0
    assert predictions.cross_entropy(certain, torch.tensor([1])).item() == 0
    assert predictions.cross_entropy(certain, torch.tensor([0])).item() == 1000


def test_the_three_solutions_of_a_seed_see_the_same_labels(store):
    """Sol-F and Sol-S are judged on the flipped labels that their Sol-D saw."""
    dense = Run.dense(small(noise=0.4, epochs=0, sparse_epochs=0), seed=2)
    runs = [dense, finetune(dense, sparsity=0.0), scratch(dense, sparsity=0.0)]
    table = carry_out(runs, store)
    # nothing was trained and nothing pruned: Sol-F is Sol-D, so every measure of it is the same
    measures = [c for c in table.columns if c.startswith(("train_", "test_", "clean_", "flipped_"))]
    same_table(table.loc[[0], measures], table.loc[[1], measures].set_axis([0]))
    assert isinstance(dense.setup, Setup)
    assert table.loc[2, "train_loss"] != table.loc[0, "train_loss"]
