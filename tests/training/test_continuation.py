"""Sol-P: a dense run pruned on its way goes on exactly as the dense run would have, but for its
mask and the floor of its rate."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from support import (
    carry_out,
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

from lib.models import initializers, networks
from lib.runs import results
from lib.runs.store import Store
from lib.specs.fields import ParameterError
from lib.specs.parts import Continuation, Recipe
from lib.specs.run import Run, continued
from lib.training import schedules
from lib.training.cohort import network_of
from studies.presets import settings

SCHEDULES = ("constant", "step", "exponential", "cosine", "linear")
READINGS = ("scale", "restart", "each-step")

# -- rates -----------------------------------------------------------------------------------------


def planned(recipe, epoch, step, steps, warm=True):
    """The rate of a dense run at a step, in plain arithmetic."""
    position, total = epoch + step / steps, recipe.epochs
    factor = {
        "constant": 1.0,
        "step": recipe.gamma ** len([m for m in recipe.milestones if m <= epoch]),
        "exponential": recipe.gamma**epoch,
        "cosine": (1 + math.cos(math.pi * position / total)) / 2,
        "linear": 1 - position / total,
    }[recipe.schedule]
    warmth = (
        min(1.0, (position + 1 / steps) / recipe.warmup_epochs)
        if warm and recipe.warmup_epochs
        else 1.0
    )
    return max(recipe.lr * factor, recipe.lr_floor) * warmth


def reached(recipe, at):
    """LR(t): where the schedule is at the end of epoch t, a warm-up left aside."""
    return planned(recipe, at, 0, 1, warm=False)


def expected(recipe, c, epoch, step, steps):
    """The rate of a pruned run at a step, in closed form."""
    highest = max(c.floor, reached(recipe, c.at))
    if c.reading == "each-step":
        return max(c.floor, planned(recipe, epoch, step, steps))
    if c.reading == "scale":
        return planned(recipe, epoch, step, steps) * highest / reached(recipe, c.at)
    left, position = recipe.epochs - c.at, epoch - c.at + step / steps
    factor = {
        "constant": 1.0,
        "step": recipe.gamma ** len([m for m in recipe.milestones if c.at < m <= epoch]),
        "exponential": recipe.gamma ** (epoch - c.at),
        "cosine": (1 + math.cos(math.pi * position / left)) / 2,
        "linear": 1 - position / left,
    }[recipe.schedule]
    warmth = (
        min(1.0, (position + 1 / steps) / (recipe.warmup_epochs - c.at))
        if recipe.warmup_epochs > c.at
        else 1.0
    )
    return max(highest * factor, recipe.lr_floor) * warmth


@st.composite
def plans(draw, warmups=(0.0, 0.5, 1.0, 3.0), floors=(0.0, 0.02)):
    """(recipe, pruning epoch, steps in an epoch, floor of the rate), with floors above and below
    LR(t)."""
    epochs = draw(st.integers(1, 9))
    recipe = Recipe(
        epochs=epochs,
        batch_size=1,
        lr=draw(st.floats(0.02, 1.0)),
        schedule=draw(st.sampled_from(SCHEDULES)),
        milestones=sorted(draw(st.sets(st.integers(1, epochs), max_size=3))),
        gamma=draw(st.floats(0.1, 1.0)),
        lr_floor=draw(st.sampled_from(floors)),
        warmup_epochs=draw(st.sampled_from(warmups)),
    )
    at = draw(st.integers(0, recipe.epochs - 1))
    floor = draw(st.sampled_from((0.0, 0.5, 1.0, 2.0))) * reached(recipe, at) * (1 - 1e-9)
    return recipe, at, draw(st.integers(1, 5)), floor


def rates_of(recipe, steps, c=None):
    """All rates from the epoch of the continuation ``c`` (or from the first) on."""
    return torch.cat(
        [
            schedules.rates(recipe, epoch, steps, c)
            for epoch in range(c.at if c else 0, recipe.epochs)
        ]
    )


@given(plans(), st.sampled_from(READINGS))
def test_rates_in_closed_form(plan, reading):
    """Every reading is its closed form, whether or not the floor binds, for every schedule, warm-up
    and milestone."""
    recipe, at, steps, floor = plan
    c = Continuation(at=at, floor=floor, reading=reading)
    by_hand = [
        expected(recipe, c, epoch, step, steps)
        for epoch in range(at, recipe.epochs)
        for step in range(steps)
    ]
    assert rates_of(recipe, steps, c).tolist() == pytest.approx(by_hand, rel=1e-9, abs=1e-15)


@given(plans())
def test_above_the_floor_the_rates_are_the_dense_runs(plan):
    """To the bit: under "scale" all of them where LR(t) is not below the floor, under "each-step"
    each that is not below it."""
    recipe, at, steps, floor = plan
    dense = rates_of(recipe, steps)[at * steps :]
    if floor <= reached(recipe, at):
        assert torch.equal(rates_of(recipe, steps, Continuation(at=at, floor=floor)), dense)
    each = rates_of(recipe, steps, Continuation(at=at, floor=floor, reading="each-step"))
    assert torch.equal(each[dense >= floor], dense[dense >= floor])
    assert each[dense < floor].eq(floor).all()


@given(plans(warmups=(0.0,), floors=(0.0,)), st.sampled_from(READINGS))
def test_the_highest_rate_is_the_studys(plan, reading):
    """In every reading it is max(Λ, LR(t)), as section 3 of the study has it, and stands at the
    first step."""
    recipe, at, steps, floor = plan
    found = rates_of(recipe, steps, Continuation(at=at, floor=floor, reading=reading))
    assert (
        found.max().item()
        == found[0].item()
        == pytest.approx(max(floor, reached(recipe, at)), rel=1e-12)
    )


@given(plans(floors=(0.0,)), st.sampled_from(READINGS))
def test_a_warm_up_is_no_low_rate(plan, reading):
    """Nothing is scaled up because training began gently: no rate is above both the floor and
    LR(t)."""
    recipe, at, steps, floor = plan
    found = rates_of(recipe, steps, Continuation(at=at, floor=floor, reading=reading))
    assert found.max() <= max(floor, reached(recipe, at)) * (1 + 1e-12)


@given(plans(), st.sampled_from(READINGS))
def test_from_the_start_without_a_floor_every_reading_is_the_dense_schedule(plan, reading):
    """Pruned at epoch 0, a run has the dense run's rates throughout, warm-up included."""
    recipe, _, steps, _ = plan
    torch.testing.assert_close(
        rates_of(recipe, steps, Continuation(at=0, reading=reading)),
        rates_of(recipe, steps),
        rtol=1e-12,
        atol=0,
    )


@given(
    plans(warmups=(0.0,)).filter(
        lambda plan: plan[0].schedule in ("constant", "step", "exponential")
    )
)
def test_a_restart_forgets_only_shapes(plan):
    """A schedule that only multiplies goes on as it was when it starts again at LR(t), a milestone
    at t included."""
    recipe, at, steps, floor = plan
    if floor <= reached(recipe, at):
        restarted = rates_of(recipe, steps, Continuation(at=at, floor=floor, reading="restart"))
        torch.testing.assert_close(
            restarted, rates_of(recipe, steps)[at * steps :], rtol=1e-12, atol=0
        )


@pytest.mark.parametrize("reading", READINGS)
def test_a_milestone_at_the_pruning_epoch(reading):
    """It has been passed: 1, 0.5, 0.25 become 0.5, 0.25 from epoch 2 on, in every reading."""
    recipe = Recipe(epochs=5, batch_size=1, lr=1.0, schedule="step", milestones=(2, 4), gamma=0.5)
    assert rates_of(recipe, 1, Continuation(at=2, reading=reading)).tolist() == [0.5, 0.5, 0.25]
    assert rates_of(recipe, 1, Continuation(at=1, reading=reading)).tolist() == [
        1.0,
        0.5,
        0.5,
        0.25,
    ]


def test_the_papers_schedule_by_hand():
    """0.1 · 0.97^t over 200 epochs with Λ = 0.001: LR(160) = 0.00076 is below it, LR(140) = 0.0014
    is not."""
    recipe = Recipe(epochs=200, batch_size=128, lr=0.1, schedule="exponential", gamma=0.97)
    for reading, last in (
        ("scale", 0.001 * 0.97**39),
        ("restart", 0.001 * 0.97**39),
        ("each-step", 0.001),
    ):
        late = rates_of(recipe, 1, Continuation(at=160, floor=0.001, reading=reading))
        assert (late[0].item(), late[-1].item()) == pytest.approx((0.001, last))
        early = rates_of(recipe, 1, Continuation(at=140, floor=0.001, reading=reading))
        assert early[0].item() == pytest.approx(0.1 * 0.97**140)
        assert early[-1].item() == pytest.approx(
            0.001 if reading == "each-step" else 0.1 * 0.97**199
        )


# -- training: against the usual loop --------------------------------------------------------------


def masked_at(dense, tensors, suffix, sparsity):
    """(weights, buffers, mask, velocity) by name: the kept moment of a dense run under its own
    magnitude mask."""
    layout, images = layout_of(dense), images_of(dense)
    weights, buffers = (
        layout.views(tensors[f"weights{suffix}"]),
        layout.views(tensors[f"buffers{suffix}"], buffers=True),
    )
    names = networks.prunable(network_of(dense, images), ("last",))
    scores = torch.cat([weights[name].abs().flatten() for name in names])
    threshold = scores.sort()[0][round(sparsity * len(scores))]
    mask = {name: torch.ones_like(value, dtype=torch.bool) for name, value in weights.items()}
    mask |= {name: weights[name].abs() >= threshold for name in names}
    velocity = (
        layout.views(tensors[f"velocity{suffix}"]) if f"velocity{suffix}" in tensors else None
    )
    return {name: value * mask[name] for name, value in weights.items()}, buffers, mask, velocity


def close(run, tensors, network, rtol, atol):
    """Fail unless the stored weights and statistics are those of the module."""
    layout = layout_of(run)
    for name, value in layout.views(tensors["weights"]).items():
        torch.testing.assert_close(
            value, network.get_parameter(name).detach(), rtol=rtol, atol=atol
        )
    for name, value in layout.views(tensors["buffers"], buffers=True).items():
        torch.testing.assert_close(value, network.get_buffer(name), rtol=rtol, atol=atol)


def assert_as_usual(setup, tmp_path, rtol, atol, ats):
    dense = Run.dense(setup, seed=1, keep=(0, 1, 3))
    runs = [continued(dense, at=at, sparsity=0.6) for at in ats]
    parent, *found = (done.tensors for done in outcomes([dense, *runs], tmp_path))
    for run, tensors in zip(runs, found, strict=True):
        weights, buffers, mask, velocity = masked_at(dense, parent, f"@{run.begin}", 0.6)
        assert (velocity is not None) == (run.continuation.momentum == "kept")

        def rate(epoch, step, steps, run=run):
            return expected(run.recipe, run.continuation, epoch, step, steps)

        close(
            run,
            tensors,
            usual_loop(run, weights, buffers, mask, rate=rate, velocity=velocity),
            rtol,
            atol,
        )


MLPS = [
    {"schedule": "exponential", "gamma": 0.5, "rate_floor": 0.03, "momentum_after": "zero"},
    {"schedule": "exponential", "gamma": 0.5, "rate_floor": 0.03, "momentum_after": "kept"},
    {
        "schedule": "cosine",
        "rate_floor": 0.04,
        "floor_reading": "restart",
        "momentum_after": "kept",
        "nesterov": True,
    },
    {
        "schedule": "linear",
        "rate_floor": 0.04,
        "floor_reading": "each-step",
        "momentum_after": "kept",
        "noise": 0.3,
    },
    {
        "schedule": "step",
        "milestones": [1, 3],
        "gamma": 0.2,
        "augment": True,
        "normalise": "channel",
    },
    {"schedule": "cosine", "warmup_epochs": 2.0, "momentum": 0.0, "momentum_after": "kept"},
]


@pytest.mark.parametrize("options", MLPS, ids=range(len(MLPS)))
def test_it_trains_as_a_usual_loop_would(options, tmp_path):
    """From the kept weights under the mask, with the dense run's data order and the rates by hand:
    the same end."""
    assert_as_usual(small(weight_decay=5e-4, epochs=4, **options), tmp_path, 1e-4, 2e-6, (0, 1, 3))


@pytest.mark.parametrize("momentum", ["zero", "kept"])
def test_a_convolutional_one_trains_as_a_usual_loop_would(
    momentum, tmp_path, place_set, one_thread
):
    """So does a ResNet with BatchNorm on cropped and flipped images: it goes on with the dense
    run's statistics and crops."""
    place_set(train=32, test=8)
    setup = small(
        **{
            "dataset": "cifar10",
            "train_examples": None,
            "test_examples": None,
            "network": "resnet-20",
            "width": 0.25,
            "augment": True,
        },
        **{
            "batch_size": 16,
            "lr": 0.02,
            "epochs": 4,
            "schedule": "cosine",
            "rate_floor": 0.015,
            "weight_decay": 1e-3,
        },
        momentum_after=momentum,
    )
    assert_as_usual(setup, tmp_path, 1e-3, 1e-5, (1, 3))


def test_what_momentum_and_floor_are_for(tmp_path):
    """The settings that the tests above distinguish do make different networks."""
    variants = [
        {},
        {"momentum_after": "kept"},
        {"rate_floor": 0.05},
        {"rate_floor": 0.05, "floor_reading": "each-step"},
    ]
    ends = []
    for number, options in enumerate(variants):
        dense = Run.dense(small(epochs=4, schedule="linear", **options), seed=0, keep=(3,))
        ends.append(
            outcomes([continued(dense, at=3, sparsity=0.5)], tmp_path / str(number))[0].tensors
        )
    assert all(torch.equal(ends[0]["mask"], end["mask"]) for end in ends)
    assert not any(
        torch.equal(a["weights"], b["weights"]) for i, a in enumerate(ends) for b in ends[:i]
    )


# -- the ends of the range -------------------------------------------------------------------------

NETWORKS = {
    "mlp": {"widths": [16]},
    "large mlp": {"widths": [300, 100], "train_examples": 70},
    "resnet": {"network": "resnet-20", "width": 0.25, "train_examples": 40, "augment": True},
}


@pytest.mark.parametrize("network", NETWORKS)
def test_to_prune_nothing_changes_nothing(network, store, one_thread):
    """At sparsity 0, with the momentum kept and no floor, the end is the dense run's to the bit,
    whenever it is 'pruned'."""
    recipe = {
        "epochs": 4,
        "schedule": "cosine",
        "weight_decay": 5e-4,
        "noise": 0.2,
        "momentum_after": "kept",
    }
    dense = Run.dense(small(**NETWORKS[network], **recipe), seed=3, keep=(0, 2, 4))
    runs = [continued(dense, at=at, sparsity=0.0) for at in (0, 2, 4)]
    last = results.final(carry_out([dense, *runs], store)).set_index("key")
    reference = store.get(dense.key).tensors
    measures = [
        name for name in last.columns if name.startswith(("train_", "test_", "clean_", "flipped_"))
    ]
    assert len(measures) >= 10
    for run in runs:
        tensors = store.get(run.key).tensors
        names = {"weights", "buffers", "mask"}
        same_tensors(tensors, {name: reference[name] for name in names})
        assert last.loc[run.key, measures].tolist() == last.loc[dense.key, measures].tolist()


def test_a_new_optimiser_is_another_path(store):
    """At sparsity 0 a momentum that begins at zero leaves the dense run's path, but not from its
    start, where it is zero anyway."""
    dense = Run.dense(small(epochs=4), seed=3, keep=(0, 2))
    first, middle = (continued(dense, at=at, sparsity=0.0) for at in (0, 2))
    carry_out([first, middle], store)
    weights = store.get(dense.key).tensors["weights"]
    assert torch.equal(store.get(first.key).tensors["weights"], weights)
    assert not torch.equal(store.get(middle.key).tensors["weights"], weights)


def test_pruned_at_epoch_0_it_trains_the_masked_start(tmp_path):
    """From Init-D under its own mask, with fresh optimiser, over all epochs: computed without
    anything that the dense run kept."""
    dense = Run.dense(small(epochs=3, schedule="cosine", rate_floor=1e-3), seed=2, keep=(0,))
    run = continued(dense, at=0, sparsity=0.7)
    tensors = outcomes([run], tmp_path)[0].tensors
    layout, images = layout_of(dense), images_of(dense)
    start = layout.row(initializers.dense(network_of(dense, images), "he", 2))
    weights, buffers, mask, _ = masked_at(
        dense, {"weights": start, "buffers": layout.fresh_buffers()}, "", 0.7
    )
    assert torch.equal(tensors["mask"], layout.row(mask))
    close(run, tensors, usual_loop(run, weights, buffers, mask), 1e-4, 2e-6)


@pytest.mark.parametrize("momentum", ["zero", "kept"])
@pytest.mark.parametrize("network", ["mlp", "resnet"])
def test_pruned_at_the_last_epoch_it_is_one_shot_pruning(network, momentum, store):
    """No step is trained: Sol-D under the mask, with its statistics, and one row of measures at
    epoch T."""
    dense = Run.dense(
        small(**NETWORKS[network], epochs=2, momentum_after=momentum), seed=2, keep=(2,)
    )
    run = continued(dense, at=2, sparsity=0.7)
    table = carry_out([run], store)
    parent, tensors = store.get(dense.key).tensors, store.get(run.key).tensors
    weights, _, mask, _ = masked_at(dense, parent, "", 0.7)
    layout = layout_of(run)
    same_tensors(
        tensors,
        {"weights": layout.row(weights), "buffers": parent["buffers"], "mask": layout.row(mask)},
    )
    assert table["epoch"].tolist() == [2]
    images, network = images_of(run), network_at(run, tensors)
    with torch.no_grad():
        parts = ((images.x_train, labels_of(run)), (images.x_test, images.y_test))
        accuracies = [network(x).argmax(1).eq(y).double().mean().item() for x, y in parts]
    assert table[["train_accuracy", "test_accuracy"]].iloc[0].tolist() == pytest.approx(accuracies)


def test_the_last_epoch_need_not_be_kept(tmp_path):
    """Sol-D is there anyway, and whether it was kept as well changes no weight."""
    found = []
    for keep in ((), (3,)):
        run = continued(Run.dense(small(), seed=0, keep=keep), at=3, sparsity=0.5)
        found.append(outcomes([run], tmp_path / str(len(keep)))[0].tensors)
    same_tensors(*found)


def test_pruning_at_the_best_epoch_is_for_others(tmp_path):
    """Sol-P begins at its epoch also in a setup whose Sol-F would start from the best one."""
    options = {"epochs": 6, "lr": 0.4}
    setups = [small(**options, prune_from=source) for source in ("final", "best-test")]
    dense = [Run.dense(setup, seed=1, keep=(1,)) for setup in setups]
    runs = [continued(run, at=at, sparsity=0.5) for run in dense for at in (1, 6)]
    ends = [done.tensors for done in outcomes(runs, tmp_path)]
    same_tensors(ends[0], ends[2])
    same_tensors(ends[1], ends[3])


# -- cohorts, clocks, masks ------------------------------------------------------------------------


def grid(momentum="kept", seeds=(0, 1), epochs=4, **options):
    """Runs pruned at every kept epoch and two sparsities."""
    setup = small(
        epochs=epochs,
        schedule="cosine",
        rate_floor=0.02,
        weight_decay=5e-4,
        momentum_after=momentum,
        **options,
    )
    dense = [Run.dense(setup, seed=seed, keep=(0, 1, 3, epochs)) for seed in seeds]
    return [
        continued(d, at=at, sparsity=s)
        for d in dense
        for at in (0, 1, 3, epochs)
        for s in (0.5, 0.9)
    ]


@pytest.mark.parametrize("network", NETWORKS)
def test_members_that_begin_at_different_epochs_share_a_cohort(
    network, tmp_path, trained, one_thread
):
    """And each has the bits and rows that it has alone, whatever the epochs, sparsities and momenta
    of those beside it."""
    runs = grid(seeds=(0,) if network == "resnet" else (0, 1), **NETWORKS[network])
    for run in runs[2:5:2]:  # pruned at 1 and at 3
        others = [other for other in runs if other != run]
        same_in_all(
            run, [others] if network == "resnet" else [others[:1], others], tmp_path / run.key
        )
    assert sorted(trained[-1]) == sorted(run.key for run in runs), "all of them in one cohort"


def test_other_momenta_beside_it(tmp_path):
    """A member that kept its velocity does not hand it to one that begins without."""
    zero, kept = (grid(momentum, seeds=(0,)) for momentum in ("zero", "kept"))
    same_in_all(zero[2], [kept[:4]], tmp_path / "zero")
    same_in_all(kept[2], [zero[:4]], tmp_path / "kept")


def test_epochs_are_the_dense_runs(store):
    """The history ends at epoch T wherever it began; the table says where, and counts what was
    trained."""
    runs = grid(seeds=(0,))
    cost = results.cost(runs, store).loc["sol_p"]
    assert (cost["networks"], cost["epochs each"]) == (8, "0 to 4")
    assert cost["image passes to go"] == 2 * (4 + 3 + 1 + 0) * 150
    table = carry_out(runs, store)
    last = table.groupby("key", sort=False).tail(1)
    assert last["epoch"].tolist() == [4] * 8
    assert last["prune_epoch"].tolist() == [0, 0, 1, 1, 3, 3, 4, 4]
    assert last["sparsity"].tolist() == [0.5, 0.9] * 4
    assert set(table["epoch"]) == {0, 4}  # the start only where it is the dense run's
    assert table[table["epoch"] == 0]["prune_epoch"].tolist() == [0, 0]
    assert last[["train_loss", "test_accuracy"]].notna().all(axis=None)
    assert (last["solution"] == "sol_p").all()


def test_seconds_are_those_it_trained(store):
    """What was never trained took no time."""
    runs = grid(seeds=(0,))
    carry_out(runs, store)
    spent = [store.get(run.key).info.get("seconds", 0.0) for run in runs]
    assert spent[-2:] == [0.0, 0.0]
    assert min(spent[:-2]) > 0


@pytest.mark.parametrize("nesterov", [False, True])
@pytest.mark.parametrize("network", ["mlp", "resnet"])
def test_pruned_weights_stay_zero(network, nesterov, store, after_every_step):
    """After every single step, though the dense run's velocity was not zero there: it is masked
    like the weights."""
    runs = grid(seeds=(0,), nesterov=nesterov, **NETWORKS[network])[2:6]
    carry_out([runs[0].parent], store)
    after_every_step.clear()
    carry_out(runs, store)
    assert len(after_every_step) >= 3
    assert all(alive == 0 and pruned > 0 for alive, pruned in after_every_step)
    parent = store.get(runs[0].parent.key).tensors
    for run in runs:
        tensors = store.get(run.key).tensors
        assert parent[f"velocity@{run.begin}"][~tensors["mask"]].count_nonzero() > 0
        assert tensors["weights"][~tensors["mask"]].count_nonzero() == 0
        assert tensors["weights"][tensors["mask"]].count_nonzero() > 0


def test_masks_are_those_of_their_moment(store):
    """Each run's mask has the weights that were largest at its epoch, exactly as many as asked for,
    and masks of one epoch nest."""
    runs = grid(seeds=(0,))
    table = carry_out(runs, store).groupby("key", sort=False).tail(1)
    parent = store.get(runs[0].parent.key).tensors
    for run in runs:
        mask = layout_of(run).row(masked_at(run.parent, parent, f"@{run.begin}", run.sparsity)[2])
        assert torch.equal(store.get(run.key).tensors["mask"], mask)
    assert table["pruned"].tolist() == [round(s * 64 * 16) for s in (0.5, 0.9)] * 4
    assert table.groupby("sparsity")["mask"].nunique().min() >= 3


def test_random_masks_differ_between_epochs(store):
    """A criterion's draws belong to the moment: two epochs do not share one random mask."""
    dense = Run.dense(small(epochs=2, criterion="random"), seed=0, keep=(0, 1))
    runs = [continued(dense, at=at, sparsity=0.5) for at in (0, 1, 2)]
    carry_out(runs, store)
    masks = [store.get(run.key).tensors["mask"].numpy() for run in runs]
    assert len({mask.tobytes() for mask in masks}) == 3
    assert all(np.sum(~mask) == 512 for mask in masks)


# -- death and divergence --------------------------------------------------------------------------


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    """(runs, table, store) of runs pruned at several epochs, and their watched dense ones, that
    nothing disturbed."""
    runs = grid(watch=["fisher", "kl_uniform"], watch_examples=40, noise=0.3)
    runs = [*dict.fromkeys(run.parent for run in runs), *runs]
    store = Store(tmp_path_factory.mktemp("undisturbed"))
    return runs, carry_out(runs, store), store


# The dense stage saves checkpoints 1 to 5, at epochs 0 to 4; the pruned one follows, and some of
# its members retire at once.
KILLS = [
    ("save_checkpoint", 3, True),
    ("save_checkpoint", 6, False),
    ("save_checkpoint", 7, True),
    ("put", 4, True),
]


@pytest.mark.parametrize(
    "kill", KILLS, ids=lambda k: f"{'after' if k[2] else 'before'}-{k[0]}-{k[1]}"
)
def test_killed_on_the_way(kill, undisturbed, store):
    """Killed while the dense ones train or while the pruned ones do, and carried out again: the
    same table, weights and signals."""
    runs, table, reference = undisturbed
    name, number, after = kill
    kill_at(runs, store.root, f"lib.runs.store.Store.{name}", number, after)
    same_table(carry_out(runs, store), table)
    same_results(runs, store, reference)


@pytest.mark.parametrize("source", ["final", "best-test"])
def test_nothing_is_pruned_of_a_diverged_run(source, store):
    """What hangs on it counts as diverged from its own epoch on; those of a sound dense run beside
    it are trained."""
    calm, wild = (
        Run.dense(small(lr=lr, prune_from=source), seed=0, keep=(0, 2)) for lr in (0.1, 1e20)
    )
    runs = [continued(dense, at=at, sparsity=0.5) for dense in (calm, wild) for at in (0, 2, 3)]
    table = carry_out(runs, store)
    last = table.groupby("key", sort=False).tail(1)
    assert last["diverged"].tolist() == [False] * 3 + [True] * 3
    assert last["epoch"].tolist() == [
        3,
        3,
        3,
        1,
        2,
        3,
    ]  # pruned before it diverged, one diverges by itself


# -- what is refused -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("at", "words"),
    [
        *((at, f"pruning epoch is {at}: it must be a number from 0 to 4") for at in (5, 400)),
        (-1, "continuation.at is -1: it should be greater than or equal to 0"),
        *((at, f"continuation.at is {at}: it should be a number") for at in (True, False)),
        (None, "continuation.at is None: it should be a valid number"),
        (math.nan, "continuation.at is nan: it should be a finite number"),
    ],
)
def test_epochs_that_are_none(at, words, store):
    """Beyond the last, negative, or no number: the error names the value and what is allowed, and
    nothing is trained."""
    dense = Run.dense(small(epochs=4), seed=0, keep=(0, 1, 2))
    with pytest.raises(ParameterError, match=words):
        continued(dense, at=at, sparsity=0.5)
    assert not store.root.exists()


@pytest.mark.parametrize(("momentum", "at"), [("zero", 1), ("zero", 0), ("kept", 1), ("kept", 4)])
def test_epochs_that_are_not_kept(momentum, at):
    """The error says which are; with the velocity kept, Sol-D's own epoch must be among them."""
    dense = Run.dense(small(epochs=4, momentum_after=momentum), seed=0, keep=(2, 3))
    with pytest.raises(
        ParameterError,
        match=rf"pruning epoch is {at}: .* keeps its weights at \[2, 3\] only; add it to its",
    ):
        continued(dense, at=at, sparsity=0.5)
    assert continued(dense, at=2, sparsity=0.5).begin == 2


@pytest.mark.parametrize("sparsity", [1.0, -0.1, math.nan, "most"])
def test_sparsities_that_are_none(sparsity):
    """As for the other sparse runs."""
    with pytest.raises(ParameterError, match=f"sparsity is {sparsity!r}"):
        continued(Run.dense(small(), seed=0), at=3, sparsity=sparsity)


def test_a_layer_that_would_be_empty(store):
    """Under the layer scope the counts are known beforehand: it is refused before even the dense
    run is trained."""
    dense = Run.dense(small(scope="layer", widths=[2], keep_dense=[], epochs=2), seed=0, keep=(1,))
    with pytest.raises(
        ValueError,
        match=r"sparsity 0.98 with scope 'layer' leaves no weight in '3.weight' \(20 weights\)",
    ):
        carry_out(
            [continued(dense, at=1, sparsity=0.9), continued(dense, at=1, sparsity=0.98)], store
        )
    assert not list(store.root.rglob("*.safetensors"))
    assert carry_out([continued(dense, at=1, sparsity=0.95)], store)[
        "pruned"
    ].unique().tolist() == [122 + 19]


REFUSED = [
    ("schedule", "staircase", "'constant', 'step', 'exponential', 'cosine' or 'linear'"),
    (
        "schedules",
        ["cosine", "staircase"],
        "'constant', 'step', 'exponential', 'cosine' or 'linear'",
    ),
    ("floor_reading", "scaled", "'scale', 'restart' or 'each-step'"),
    ("momentum_after", "some", "'zero' or 'kept'"),
    ("rate_floor", -0.1, "greater than or equal to 0"),
    ("rate_floor", "nan", "finite number"),
    ("watch", "fischer", "allowed are fisher, kl_uniform"),
    ("watch", '["kl_uniform", "fischer"]', "allowed are fisher, kl_uniform"),
    ("watch_examples", 0, "greater than or equal to 1"),
    ("score_examples", 0, "greater than or equal to 1"),
    ("criteria", ["magnitude", "luck"], "allowed are magnitude, random, fisher"),
    ("scopes", ["globall"], "allowed are global, layer"),
    ("prune_epochs", [0, 21], "none may lie beyond epochs, which is 20"),
    ("prune_epochs", "[0, 21]", "none may lie beyond epochs, which is 20"),
    ("prune_epochs", [-1], "greater than or equal to 0"),
    ("prune_epochs", [1, 1], "each value may stand once"),
    ("prune_epochs", [True], "it should be a number"),
    ("prune_epochs", ["late"], "valid number"),
    ("prune_epochs", "[]", "at least 1"),
    ("epochs", -1, "greater than or equal to 0"),
]


@pytest.mark.parametrize(("name", "value", "allowed"), REFUSED, ids=repr)
def test_settings_that_are_refused(name, value, allowed, store):
    """The message begins with the parameter, shows what is wrong with it and says what is
    allowed."""
    with pytest.raises(ParameterError) as caught:
        settings(
            "early_fig6_schedules" if name == "schedules" else "early_fig1_periods", **{name: value}
        )
    message = str(caught.value)
    assert message.startswith(name)
    wrong = [value] if not isinstance(value, list) else [value[-1], value]
    assert (
        any(f" is {shown!r}: " in message for shown in wrong)
        or "21]: " in message
        or "'fischer': " in message
        or "[]: " in message
    )
    assert allowed in message
    assert not store.root.exists()


@pytest.mark.parametrize("epochs", [20, "20", " 20 "])
def test_another_number_of_epochs_takes_the_grid_along(epochs):
    """The preset's pruning epochs stay the same shares of training, also where a number comes as
    text; those within an epoch stay, and given ones."""
    assert settings("early_fig1_periods", "desktop", epochs=epochs).prune_epochs == (
        0,
        0.25,
        0.5,
        1,
        2,
        4,
        6,
        8,
        10,
        12,
        14,
        16,
        18,
        20,
    )
    assert settings(
        "early_fig1_periods", "desktop", epochs=epochs, prune_epochs=[0, 19]
    ).prune_epochs == (0, 19)
    with pytest.raises(
        ParameterError, match=r"prune_epochs is \[0, 21\]: none may lie beyond epochs, which is 20"
    ):
        settings("early_fig1_periods", "desktop", epochs=epochs, prune_epochs=[0, 21])


def test_kept_velocities_need_room(store, monkeypatch):
    """The room asked for beforehand is enough for what is kept: weights, statistics and
    velocities."""
    asked = []
    monkeypatch.setattr(Store, "prepare", lambda self, need: asked.append(need))
    for momentum in ("zero", "kept"):
        carry_out(
            [Run.dense(small(momentum_after=momentum, widths=[200]), seed=0, keep=(0, 1, 2, 3))],
            store,
        )
    size = 4 * (64 * 200 + 200 + 200 * 10 + 10)
    assert asked[1] - asked[0] == pytest.approx(
        3 * 4 * size
    )  # finished, and the old and the new checkpoint
