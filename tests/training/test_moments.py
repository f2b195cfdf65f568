"""Moments within an epoch: monitors every few steps, weights kept there, and runs pruned there."""

import pytest
import torch
from support import (
    carry_out,
    images_of,
    kill_at,
    network_at,
    outcomes,
    same_results,
    same_table,
    same_tensors,
    small,
)

from lib import rng
from lib.metrics import fisher
from lib.runs.store import Store
from lib.specs.fields import ParameterError
from lib.specs.parts import Continuation, Recipe
from lib.specs.run import Run, continued
from lib.training import schedules

BOTH = ["fisher", "kl_uniform"]
RESNET = {"network": "resnet-20", "width": 0.25, "train_examples": 150, "augment": True}
WITHIN = (0.4, 1.2, 1.6, 2.8)  # 150 digits in batches of 32 are 5 steps an epoch


def watched(seed=0, keep=(0, 1, 2, *WITHIN), **options):
    given = {"watch": BOTH, "watch_examples": 40, "watch_every": 2, **options}
    return Run.dense(small(**given), seed=seed, keep=tuple(sorted(keep)))


def test_looks_and_kept_weights_are_those_of_their_step(store, one_thread):
    """Each look is that of the monitors on the weights after its step, which a snapshot of the
    plain step number holds too."""
    run = Run.dense(
        small(watch=BOTH, watch_examples=40, watch_every=2), seed=4, keep=(0.4, 0.8, 1.4, 1.8, 2.4),
        snapshots=(2, 4, 7, 9, 12, 14),
    )  # fmt: skip
    table, tensors = carry_out([run], store), store.get(run.key).tensors
    assert table["epoch"].tolist() == [0, 0.4, 0.8, 1, 1.4, 1.8, 2, 2.4, 2.8, 3]
    assert table["train_loss"].notna().tolist() == [not e % 1 for e in table["epoch"]]
    x = images_of(run).x_train[:40]
    for moment, step in zip(run.keep, (2, 4, 7, 9, 12), strict=True):
        assert torch.equal(tensors[f"weights@{moment}"], tensors[f"weights@step{step}"])
        stream = rng.generator(4, "signal", "fisher", moment)
        ours = fisher.trace(network_at(run, tensors, f"@{moment}"), x, generator=stream)
        row = table[table["epoch"] == moment].iloc[0]
        assert row["fisher"] == pytest.approx(ours.value, rel=1e-5)
    assert table["fisher"].nunique() == len(table)


@pytest.mark.parametrize("options", [{}, RESNET], ids=["mlp", "resnet"])
def test_looking_changes_nothing_but_the_key(options, store, one_thread):
    """Weights, and measures and signals at the epochs' ends, are the bits of a run that looks and
    keeps at these alone."""
    apart = watched(keep=(1,), watch_every=None, **options), watched(**options)
    tables = [carry_out([run], store) for run in apart]
    ends = [table[table["epoch"] % 1 == 0].drop(columns="key") for table in tables]
    same_table(ends[0], ends[1].reset_index(drop=True).astype(ends[0].dtypes))
    one, other = (store.get(run.key).tensors for run in apart)
    same_tensors(one, {name: other[name] for name in one})
    assert apart[0].key != apart[1].key


@pytest.mark.parametrize("options", [{}, RESNET], ids=["mlp", "resnet"])
def test_to_prune_nothing_changes_nothing(options, store, one_thread):
    """At sparsity 0, with the momentum kept and no floor, what is pruned within an epoch takes the
    steps of it that are left, on the same examples at the same rates: the dense run's bits."""
    recipe = {"schedule": "cosine", "weight_decay": 5e-4, "noise": 0.2, "momentum_after": "kept"}
    dense = Run.dense(small(**recipe, **options), seed=3, keep=WITHIN)
    runs = [continued(dense, at=at, sparsity=0.0) for at in WITHIN]
    table = carry_out([dense, *runs], store)
    reference = store.get(dense.key).tensors
    for run in runs:
        tensors = store.get(run.key).tensors
        same_tensors(tensors, {name: reference[name] for name in ("weights", "buffers", "mask")})
    last = table.groupby("key", sort=False).tail(1)
    assert last["prune_epoch"].tolist()[1:] == list(WITHIN)
    assert last["epoch"].tolist() == [3] * 5


def test_alone_and_in_company(tmp_path):
    """Those pruned at other moments are in other cohorts, and change nothing."""
    dense = watched()
    runs = [continued(dense, at=at, sparsity=0.6) for at in (0, 1, *WITHIN)]
    together = outcomes(runs, tmp_path / "all")
    for run, found in zip(runs[1:4], together[1:4], strict=True):
        same_tensors(outcomes([run], tmp_path / run.key)[0].tensors, found.tensors)


# of 15 steps each: the dense runs', then those of the runs pruned at 2, at 0.4 and at 1.6
KILLS = [("monitors.within", 3, True), ("monitors.within", 8, False), ("monitors.within", 12, True),
         ("steps.sgd_", 18, True), ("steps.sgd_", 24, False)]  # fmt: skip


@pytest.mark.parametrize(("function", "number", "after"), KILLS)
def test_killed_within_an_epoch(function, number, after, tmp_path):
    """Killed at a step within an epoch of the dense runs or of the pruned ones, and carried out
    again: the same table, weights and signals."""
    dense = [watched(seed) for seed in (0, 1)]
    runs = [*dense, *(continued(d, at=at, sparsity=0.6) for d in dense for at in (0.4, 1.6, 2))]
    reference, store = Store(tmp_path / "undisturbed"), Store(tmp_path / "killed")
    table = carry_out(runs, reference)
    kill_at(runs, store.root, f"lib.training.{function}", number, after)
    same_table(carry_out(runs, store), table)
    same_results(runs, store, reference)


def test_nothing_is_pruned_behind_a_divergence(store):
    """Found within the epoch: what was kept before it is pruned, what comes after has diverged."""
    calm, wild = watched(lr=0.1), watched(lr=1e20)
    runs = [continued(d, at=at, sparsity=0.5) for d in (calm, wild) for at in (0, 0.4, 1.2)]
    last = carry_out([calm, wild, *runs], store).groupby("key", sort=False).tail(1)
    assert last["diverged"].tolist() == [False, True, *[False] * 3, *[True] * 3]
    assert 0 < store.get(wild.key).info["diverged"] < 1


@pytest.mark.parametrize("reading", ["scale", "restart", "each-step"])
def test_the_rate_goes_on_from_where_it_is(reading):
    """The first step after the moment has max(floor, LR there), whatever the reading."""
    recipe = Recipe(epochs=4, batch_size=1, lr=0.1, schedule="linear")
    for at, floor in ((1.25, 0.0), (1.5, 0.08), (0.75, 0.01)):
        c = Continuation(at=at, floor=floor, reading=reading)
        first = schedules.step_of(at, 4)
        rate = schedules.rates(recipe, int(at), 4, c)[first].item()
        assert rate == pytest.approx(max(floor, 0.1 * (1 - at / 4)))


def test_whole_numbers_stay_whole():
    """2.0 and "2" are the epoch 2, in the key too; who looks at ends alone has the old key."""
    runs = [Run.dense(small(), seed=0, keep=keep) for keep in ((0, 2), (0.0, 2.0), ("0", "2"))]
    assert {run.key for run in runs} == {runs[0].key}
    assert [type(at) for at in runs[1].specification["keep"]] == [int, int]
    assert (
        continued(runs[0], at=2.0, sparsity=0.5).key == continued(runs[1], at=2, sparsity=0.5).key
    )
    assert "watch_every" not in runs[0].specification


REFUSED = [
    ({"watch_every": 5}, (), "watch_every is 5: an epoch has only 5 steps"),
    ({}, (1.01,), r"keep holds \[1.01\]: no step lies there, an epoch has only 5 of them"),
]


@pytest.mark.parametrize(("options", "keep", "words"), REFUSED)
def test_moments_without_a_step(options, keep, words, store):
    """Before anything is trained."""
    with pytest.raises(ValueError, match=words):
        carry_out([watched(keep=keep, **options)], store)
    assert not store.root.exists() or not list(store.root.rglob("*.safetensors"))
    with pytest.raises(ParameterError, match=r"pruning epoch is 1.5: .* keeps its weights at"):
        continued(watched(), at=1.5, sparsity=0.5)
