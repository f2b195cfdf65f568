"""States kept around mask updates: against a plain loop, after a death, alone and in company, and
what is refused."""

import numpy as np
import pytest
import torch
from support import (
    carry_out,
    images_of,
    kill_at,
    layout_of,
    network_at,
    outcomes,
    same_results,
    same_tensors,
    small,
)

from lib import rng
from lib.files import StorageError
from lib.runs import sweep
from lib.runs.evaluate import mask_of, measure, module_of
from lib.runs.store import Store
from lib.specs.parts import MaskUpdate
from lib.specs.run import Run, gradually_pruned, scratch
from lib.training import threads
from lib.training.cohort import Layout

KINDS = ("weights", "buffers", "mask")
SETUP = {
    "keep_dense": [],
    "momentum": 0.0,
}  # 150 digits in batches of 32 are 5 steps an epoch, 15 in all
STEPS = (3, 6, 8, 12)


def parent_of(seed=0, **options):
    mask_update = MaskUpdate(method="gradual", every=4, start=0, end=12)
    return gradually_pruned(
        small(**SETUP, **options), seed=seed, sparsity=0.8, mask_update=mask_update
    )


def moving(parent, method="rigl", snapshots=STEPS):
    """A run whose mask changes after the steps 6 and 12."""
    mask_update = MaskUpdate(method=method, every=6, end=15, fraction=0.4, drop="constant", held=60)
    return scratch(parent, sparsity=0.8, mask_update=mask_update, snapshots=snapshots)


def states_of(tensors):
    return {name.split("@")[1] for name in tensors if name.startswith("weights@")}


def by_hand(run, start, mask):
    """Every state of a RigL run, a plain loop on one module: (step, "before" or "after") ->
    (weights, mask) by name."""
    images, network = images_of(run), network_at(run, start)
    mask = {name: live.clone() for name, live in mask.items()}
    names, states, step = [n for n, _ in network.named_parameters() if n.endswith("weight")], {}, 0

    def gradient(x, y):
        network.zero_grad()
        torch.nn.functional.cross_entropy(network(x), y).backward()

    def record(when):
        states[step, when] = (
            {n: p.detach().clone() for n, p in network.named_parameters()},
            dict(mask),
        )

    for epoch in range(run.recipe.epochs):
        order = torch.randperm(
            len(images.y_train), generator=rng.generator(run.seed, "sol_s", "order", epoch)
        )
        for batch in order.split(run.recipe.batch_size):
            gradient(images.x_train[batch], images.y_train[batch])
            with torch.no_grad():
                for name, p in network.named_parameters():
                    p -= run.recipe.lr * p.grad * mask.get(name, torch.tensor(True))
            step += 1
            record("before")
            if step % 6 == 0:
                gradient(images.x_train[:60], images.y_train[:60])
                for name in names:
                    p, live = network.get_parameter(name), mask[name].flatten()
                    size, slope = p.detach().abs().flatten().numpy(), p.grad.abs().flatten().numpy()
                    count = int(0.4 * live.sum())
                    dropped = sorted(
                        live.nonzero().flatten().tolist(), key=lambda i, size=size: (size[i], i)
                    )[:count]
                    new = live.clone()
                    new[dropped] = False
                    new[
                        sorted(
                            (~new).nonzero().flatten().tolist(),
                            key=lambda i, slope=slope: (-slope[i], i),
                        )[:count]
                    ] = True
                    p.data.mul_((live & new).view(p.shape))
                    mask[name] = new.view(p.shape)
                record("after")
    return states


def test_snapshots_are_the_states_of_a_plain_loop(tmp_path):
    """Weights and mask before and after each update, and one state on the steps between; on the way
    it is trained as without them."""
    parent = parent_of()
    run, without = moving(parent), moving(parent, snapshots=())
    store = Store(tmp_path)
    carry_out([run, without], store)
    tensors, layout = store.get(run.key).tensors, layout_of(run)
    assert states_of(tensors) == {
        "step3",
        "step6-before",
        "step6-after",
        "step8",
        "step12-before",
        "step12-after",
    }
    assert {name: tensors[name].dtype for name in KINDS} == {
        name: tensors[f"{name}@step8"].dtype for name in KINDS
    }
    mask = layout.views(store.get(parent.key).tensors["mask"])
    start = scratch(parent, sparsity=0.8, keep=(0,))
    carry_out([start], store)
    begun = store.get(start.key).tensors
    by_name = {name: live for name, live in mask.items() if live.dim() > 1}
    expected = by_hand(run, {"weights": begun["weights@0"], "buffers": begun["buffers@0"]}, by_name)
    for state in states_of(tensors):
        number, _, when = state.removeprefix("step").partition("-")
        weights, masks = expected[int(number), when or "before"]
        for name, value in layout.views(tensors[f"weights@{state}"]).items():
            torch.testing.assert_close(
                value,
                weights[name],
                rtol=1e-4,
                atol=2e-6,
                msg=lambda m, s=state, n=name: f"{s}, {n}: {m}",
            )
        for name, live in layout.views(tensors[f"mask@{state}"]).items():
            assert torch.equal(live, masks.get(name, torch.ones_like(live))), f"{state}, {name}"
    for name in KINDS:
        assert torch.equal(tensors[name], store.get(without.key).tensors[name])


@pytest.mark.parametrize("method", ["set", "rigl", "rigl-inverted"])
def test_an_update_changes_only_the_connections_it_replaces(method, store):
    """What lives before and after keeps its weight to the bit; what went or came is zero; the
    number of live weights stays."""
    run = moving(parent_of(), method)
    carry_out([run], store)
    tensors = store.get(run.key).tensors
    for step in (6, 12):
        before, after = (
            {k: tensors[f"{k}@step{step}-{when}"] for k in KINDS} for when in ("before", "after")
        )
        both = before["mask"] & after["mask"]
        assert torch.equal(before["weights"][both], after["weights"][both])
        assert not after["weights"][~both].any()
        assert not before["weights"][~before["mask"]].any()
        assert int(before["mask"].sum()) == int(after["mask"].sum())
        changed = int((before["mask"] & ~after["mask"]).sum())
        assert (
            changed > 0 or method == "rigl-inverted"
        )  # that one may grow what it has just dropped


def test_a_gradually_pruned_and_a_dense_run(store):
    """Where nothing changes there is one state, the dense run's with a mask of ones; gradual
    updates have two, the later one sparser."""
    mask_update = MaskUpdate(method="gradual", every=4, start=0, end=12)
    gradual = gradually_pruned(
        small(), seed=0, sparsity=0.8, mask_update=mask_update, snapshots=(8, 9)
    )
    dense = Run.dense(small(), seed=0, snapshots=(8, 15))
    carry_out([gradual, dense], store)
    found, plain = store.get(gradual.key).tensors, store.get(dense.key).tensors
    assert states_of(found) == {"step8-before", "step8-after", "step9"}
    assert int(found["mask@step8-after"].sum()) < int(found["mask@step8-before"].sum())
    assert torch.equal(found["mask@step9"], found["mask@step8-after"])
    assert states_of(plain) == {"step8", "step15"}
    assert plain["mask@step8"].all()
    assert torch.equal(plain["weights@step15"], plain["weights"])
    assert not torch.equal(plain["weights@step8"], plain["weights"])


def test_snapshots_of_a_convolutional_network_with_batchnorm(store, place_set, one_thread):
    """Its statistics are kept with its weights: the module of a snapshot predicts as the network
    did."""
    place_set("cifar10")
    setup = small(
        dataset="cifar10",
        network="resnet-20",
        width=0.125,
        train_examples=40,
        test_examples=20,
        batch_size=20,
        epochs=1,
    )
    run = Run.dense(setup, seed=0, keep=(1,), snapshots=(1, 2))
    carry_out([run], store)
    tensors = store.get(run.key).tensors
    for name in ("weights", "buffers"):
        assert torch.equal(tensors[f"{name}@step2"], tensors[f"{name}@1"])
        assert not torch.equal(tensors[f"{name}@step1"], tensors[f"{name}@1"])


def family(seed):
    parent = parent_of(seed)
    return [
        parent,
        Run.dense(small(**SETUP), seed=seed, snapshots=(2, 7)),
        moving(parent),
        moving(parent, "set"),
        moving(parent, snapshots=()),
    ]


@pytest.mark.parametrize(
    ("point", "count"),
    [
        ("lib.training.mask_updates.after", 16 + 1 + 8),
        ("lib.runs.store.Store.save_checkpoint", 7),
    ],
)
def test_a_resumed_run_has_the_same_snapshots(point, count, tmp_path, store):
    """Killed in the middle of the second generation's second epoch, and at a checkpoint that holds
    snapshots."""
    runs = family(0)
    reference = Store(tmp_path / "undisturbed")
    table = carry_out(runs, reference)
    kill_at(runs, store.root, point, count, True)
    [path] = (store.root / "interrupted").rglob("*.safetensors")
    held = {name.split("/")[1] for name in store.checkpoint(path.stem)[0] if "/" in name}
    assert "mask@step3" in held
    assert carry_out(runs, store).equals(table)
    same_results(runs, store, reference)


def test_snapshots_do_not_depend_on_the_company(tmp_path, monkeypatch):
    """Alone, or among others in groups of two."""
    run = moving(parent_of(3))
    alone = outcomes([run], tmp_path / "alone")[0]
    monkeypatch.setattr(
        threads, "plan", lambda members, *_: ([2] * (members // 2) + [1] * (members % 2), 1, 1)
    )
    together = outcomes([*family(1), run, *family(2)], tmp_path / "together")[5]
    same_tensors(alone.tensors, together.tensors)


def test_a_snapshot_is_measured_with_its_own_mask(store):
    """Module and mask of a moment, through ``measure`` too; a moment that was not kept is named
    with those that were."""
    run = moving(parent_of())
    carry_out([run], store)
    finished, images = store.get(run.key), images_of(run)
    layout = Layout(module_of(run, finished, images))
    for state in states_of(finished.tensors):
        live = layout.row(
            {name: m.float() for name, m in mask_of(run, finished, images, state).items()}
        ).bool()
        assert torch.equal(live, finished.tensors[f"mask@{state}"])
        weights = layout.row(
            {n: p.detach() for n, p in module_of(run, finished, images, state).named_parameters()}
        )
        assert torch.equal(weights, finished.tensors[f"weights@{state}"])

    def live_weights(network, mask, run, images):
        return {
            "outside": int(sum((p[~mask[n]] != 0).sum() for n, p in network.named_parameters()))
        }

    rows = measure(
        [run],
        "outside",
        live_weights,
        store=store,
        at=["step6-before", "step6-after", None],
        progress=False,
    )
    assert list(rows["outside"]) == [0, 0, 0]
    assert list(rows["epoch"]) == ["step6-before", "step6-after", 3]
    with pytest.raises(
        ValueError,
        match=r"at is 'step7': .* kept the weights of step12-after, step12-before, step3",
    ):
        module_of(run, finished, images, "step7")


@pytest.mark.parametrize(
    ("steps", "message"),
    [
        (
            (4, 16),
            "snapshots holds step 16: the run has only 15 steps .3 epochs of 150 examples in "
            "batches of 32.",
        ),
        ((4, 4), r"snapshots is \(4, 4\): these optimiser steps must rise, each may stand once"),
        ((5, 4), r"snapshots is \(5, 4\): these optimiser steps must rise"),
        ((0, 4), r"snapshots\[0\] is 0: .*greater than or equal to 1"),
        ((-3,), r"snapshots\[0\] is -3: .*greater than or equal to 1"),
        ((2.5,), r"snapshots\[0\] is 2.5: .*valid integer"),
    ],
)
def test_bad_steps_stop_before_any_training(steps, message, store):
    """The message names them and what is allowed; nothing is stored, not even the parent."""
    with pytest.raises(ValueError, match=f"(?s){message}"):
        carry_out([moving(parent_of(), snapshots=steps)], store)
    assert not list(store.root.rglob("*.safetensors"))


def test_keys_without_snapshots_stay():
    """A run without snapshots has no such field in its specification; with them each list is
    another run."""
    parent = parent_of()
    assert all(
        "snapshots" not in run.specification
        for run in (parent, moving(parent, snapshots=()), Run.dense(small(), seed=0))
    )
    assert moving(parent).specification["snapshots"] == list(STEPS)
    assert len({moving(parent, snapshots=steps).key for steps in ((), (3,), (6,), (3, 6))}) == 4


def test_room_for_snapshots(store, monkeypatch):
    """What two snapshots take is asked for: two states of weights and mask each, finished and in
    two checkpoints."""
    asked = []

    def full(need):
        asked.append(need)
        raise StorageError(28, "full")

    monkeypatch.setattr(store, "prepare", full)
    for steps in ((), (3, 6)):
        with pytest.raises(StorageError):
            sweep.carry_out(
                [Run.dense(small(), seed=0, snapshots=steps)],
                store=store,
                device="cpu",
                progress=False,
            )
    size = 64 * 16 + 16 + 16 * 10 + 10
    assert asked[1] - asked[0] == pytest.approx(size * 2 * 2 * 5 * 3)
    assert np.isfinite(asked).all()
