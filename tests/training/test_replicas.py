"""Replicas of one specification: one start, other data orders; fresh ones have starts of their own;
perturbed tickets."""

import pytest
import torch
from support import (
    carry_out,
    images_of,
    layout_of,
    outcomes,
    same_in_all,
    same_table,
    same_tensors,
    small,
)

from lib import rng
from lib.models import initializers
from lib.specs.fields import ParameterError
from lib.specs.parts import MaskUpdate
from lib.specs.run import Run, finetune, gradually_pruned, scratch, ticket
from lib.training import loop

GRADUAL = MaskUpdate(method="gradual", every=1, start=2, end=8)


def pruned(replica=0, fresh=False, **settings):
    """A small network pruned to 0.8 in its second epoch of three."""
    return gradually_pruned(
        small(**settings), seed=3, sparsity=0.8, mask_update=GRADUAL, replica=replica, fresh=fresh
    )


def makers(parent):
    """Every way to make replicas of one start, by name."""
    return {
        "pruned": lambda r: pruned(replica=r),
        "ticket": lambda r: ticket(parent, replica=r),
        "finetune": lambda r: finetune(parent, sparsity=0.8, replica=r),
        "scratch": lambda r: scratch(parent, sparsity=0.8, replica=r),
    }


def untrained(run):
    """The same run without any training: where it starts. Its parent trains."""
    return run.model_copy(update={"recipe": run.recipe.model_copy(update={"epochs": 0})})


def test_the_first_replica_is_the_run_without_one():
    """Its specification, and so its key, says nothing of replicas; that of the others does."""
    parent = pruned()
    for make in makers(parent).values():
        assert not {"replica", "fresh"} & make(0).specification.keys()
        assert make(1).specification["replica"] == 1


@pytest.mark.parametrize("name", ["pruned", "ticket", "finetune", "scratch"])
def test_replicas_share_their_start_and_no_more(name, tmp_path):
    """One start and mask to the bit, ends that differ; replica 0 is the run without a replica."""
    make = makers(pruned())[name]
    runs = [make(r) for r in range(3)]
    starts = [
        done.tensors
        for done in outcomes(
            [untrained(run) for run in runs if name != "pruned"], tmp_path / "starts"
        )
    ]
    for other in starts[1:]:
        same_tensors(other, starts[0])
    ends = [done.tensors["weights"] for done in outcomes(runs, tmp_path / "ends")]
    assert not any(torch.equal(ends[i], ends[j]) for i in range(3) for j in range(i))
    plain = {
        "pruned": pruned,
        "ticket": lambda: ticket(pruned()),
        "finetune": lambda: finetune(pruned(), sparsity=0.8),
    }
    assert name not in plain or plain[name]().key == runs[0].key
    assert len({run.key for run in runs}) == 3


def test_a_gradually_pruned_replica_shares_its_dense_start(tmp_path):
    """It is the fresh ones that differ before training."""
    late = {"mask_update": MaskUpdate(method="gradual", every=1, start=1, end=2)}
    runs = [
        gradually_pruned(small(), seed=3, sparsity=0.8, keep=(0,), replica=r, fresh=f, **late)
        for r, f in ((0, 0), (1, 0), (1, 1))
    ]
    first = [done.tensors["weights@0"] for done in outcomes(runs, tmp_path)]
    assert torch.equal(first[0], first[1])
    assert not torch.equal(first[0], first[2])


def test_fresh_replicas_have_starts_of_their_own(tmp_path):
    """Under the same mask; the draw is that of (seed, name, replica), and a ticket of a fresh
    network has that network's start."""
    parent = pruned()
    runs = [
        scratch(parent, sparsity=0.8, replica=r, fresh=f) for f in (False, True) for r in (0, 1)
    ]
    found = [
        done.tensors for done in outcomes([untrained(run) for run in runs], tmp_path / "scratch")
    ]
    assert all(torch.equal(tensors["mask"], found[0]["mask"]) for tensors in found)
    assert torch.equal(found[0]["weights"], found[1]["weights"])
    assert not any(
        torch.equal(found[i]["weights"], found[j]["weights"])
        for i in range(1, 4)
        for j in range(1, i)
    )
    layout, network = layout_of(parent), loop.network_of(parent, images_of(parent))
    drawn = layout.row(initializers.dense(network, "he", 3, "scratch/replica/1"))
    assert torch.equal(found[3]["weights"], drawn * found[3]["mask"])
    (own,) = (
        done.tensors
        for done in outcomes(
            [untrained(ticket(pruned(replica=2, fresh=True)))], tmp_path / "ticket"
        )
    )
    assert torch.equal(
        own["weights"],
        layout.row(initializers.dense(network, "he", 3, "init/replica/2")) * own["mask"],
    )


def orders(runs, monkeypatch, tmp_path):
    """The names of the draws of data orders and crops in one epoch of these runs."""
    names, real = [], rng.generator

    def listen(seed, *name):
        if set(name) & {"order", "crop"}:
            names.append(name)
        return real(seed, *name)

    monkeypatch.setattr(rng, "generator", listen)
    outcomes(runs, tmp_path)
    return names


def test_order_and_crops_are_drawn_by_replica(monkeypatch, tmp_path):
    """Under the usual name for replica 0."""
    setup = small(epochs=0, sparse_epochs=1, train_examples=40, augment=True)
    dense = Run.dense(setup, seed=3)
    names = orders(
        [finetune(dense, sparsity=0.5, replica=r) for r in (0, 2)], monkeypatch, tmp_path
    )
    assert sorted(names) == [
        ("sol_f", kind, 0, *other) for kind in ("crop", "order") for other in ((), ("replica", 2))
    ]


@pytest.mark.parametrize("name", ["ticket", "scratch"])
def test_a_replica_does_not_depend_on_its_cohort(name, tmp_path):
    """Trained alone, or with other replicas and other solutions: the same bits."""
    parent = pruned()
    every = makers(parent)
    company = [every[other](r) for other in every for r in range(3)] + [
        scratch(parent, sparsity=0.8, replica=1, fresh=True)
    ]
    own = every[name](1)
    same_in_all(own, [[run for run in company if run.key != own.key]], tmp_path)


def test_replicas_are_trained_once(store, tmp_path):
    """One that is in the store already gives the same table beside a new one."""
    parent = pruned()
    runs = [ticket(parent, replica=r) for r in range(2)]
    carry_out(runs[:1], store)
    same_table(carry_out(runs, store), carry_out(runs, type(store)(tmp_path / "other")))


@pytest.mark.parametrize("bad", [-1, 0.5, "two"])
def test_a_bad_replica_is_refused(bad):
    """It is a number of replicas' counting, from 0."""
    with pytest.raises(ParameterError, match="replica"):
        ticket(pruned(), replica=bad)


# -- perturbed tickets -----------------------------------------------------------------------------


def test_perturbed_starts(tmp_path):
    """What each perturbation keeps: signs and size, the values, the size of the noise; never the
    mask, never the biases."""
    kinds = (None, *initializers.PERTURBATIONS)
    parent = pruned(widths=[60])
    runs = [untrained(ticket(parent, perturbed=kind)) for kind in kinds]
    layout, found = layout_of(parent), outcomes(runs, tmp_path)
    views = {
        kind: layout.views(done.tensors["weights"]) for kind, done in zip(kinds, found, strict=True)
    }
    mask = layout.views(found[0].tensors["mask"])
    assert all(torch.equal(done.tensors["mask"], found[0].tensors["mask"]) for done in found)
    for name, live in mask.items():
        own = {kind: view[name][live] for kind, view in views.items()}
        if live.dim() == 1:
            assert all(torch.equal(value, own[None]) for value in own.values())
            continue
        size = own[None].square().mean().sqrt()
        torch.testing.assert_close(own["signs"], size * own[None].sign())
        assert torch.equal(own["shuffled"].sort().values, own[None].sort().values)
        assert not torch.equal(own["shuffled"], own[None])
        assert torch.equal(own["shuffled-signs"].abs(), own[None].abs())
        assert not torch.equal(own["shuffled-signs"], own[None])
        noise = own["noise"] - own[None]
        assert abs(noise.std() / size - 1) < 5 / (2 * len(noise)) ** 0.5
        assert all(not view[name][~live].any() for view in views.values())


def test_perturbations_are_named():
    """An unknown one is refused with what there is; each makes another run."""
    with pytest.raises(
        ParameterError, match="perturbed is 'upside-down': allowed are signs, noise, shuffled"
    ):
        ticket(pruned(), perturbed="upside-down")
    assert (
        len({ticket(pruned(), perturbed=kind).key for kind in (None, *initializers.PERTURBATIONS)})
        == 5
    )
