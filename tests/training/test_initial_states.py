"""Where Sol-F and Sol-S start: one mask, made from Sol-D, on Sol-D's weights and on fresh ones."""

import pytest
import torch
from support import carry_out, layout_of, outcomes, small

from lib import registry, rng
from lib.masks import masks
from lib.models import initializers, networks
from lib.specs.run import Run, finetune, scratch


@pytest.fixture
def untrained():
    """Sparse runs of no epochs show where they start; the dense one trains."""
    return {"epochs": 2, "sparse_epochs": 0, "widths": [20, 10]}


@pytest.mark.parametrize("criterion", ["magnitude", "random"])
@pytest.mark.parametrize("scope", masks.SCOPES)
def test_starts(untrained, criterion, scope, tmp_path):
    """Init-F is Sol-D under the mask; Init-S is the (seed, "scratch") draw under the same mask;
    counts are exact."""
    dense = Run.dense(small(**untrained, criterion=criterion, scope=scope), seed=3)
    runs = [dense, finetune(dense, sparsity=0.7), scratch(dense, sparsity=0.7)]
    solution, init_f, init_s = (done.tensors for done in outcomes(runs, tmp_path))
    layout = layout_of(dense)
    network = networks.build("mlp", (1, 8, 8), 10, widths=(20, 10))
    weights = {
        n: layout.views(solution["weights"])[n] for n in ("1.weight", "3.weight")
    }  # the last layer is spared
    scores = registry.criterion[criterion](weights, rng.generator(3, "criterion", criterion), None)
    mask = layout.mask_row(masks.prune(scores, 0.7, scope))
    assert torch.equal(init_f["mask"], mask)
    assert torch.equal(init_s["mask"], mask)
    assert int((~mask).sum()) == round(0.7 * (64 * 20 + 20 * 10))
    assert torch.equal(init_f["weights"], solution["weights"] * mask)
    assert torch.equal(
        init_s["weights"], layout.row(initializers.dense(network, "he", 3, "scratch")) * mask
    )


def test_batchnorm_statistics(untrained, tmp_path):
    """Init-F goes on with Sol-D's statistics; Init-S begins with fresh ones."""
    dense = Run.dense(
        small(epochs=2, sparse_epochs=0, network="resnet-20", width=0.25, train_examples=40), seed=3
    )
    runs = [dense, finetune(dense, sparsity=0.7), scratch(dense, sparsity=0.7)]
    solution, init_f, init_s = (done.tensors["buffers"] for done in outcomes(runs, tmp_path))
    assert torch.equal(init_f, solution)
    assert torch.equal(init_s, layout_of(dense).fresh_buffers())
    assert not torch.equal(init_f, init_s)


def test_masks_of_rising_sparsity_nest(untrained, store):
    """Of one Sol-D, a weight that lives at a higher sparsity lives at every lower one; the table
    tells masks apart."""
    dense = Run.dense(small(**untrained), seed=3)
    runs = [finetune(dense, sparsity=s) for s in (0.3, 0.6, 0.9)]
    table = carry_out(runs, store)
    low, middle, high = (store.get(run.key).tensors["mask"] for run in runs)
    assert (low | ~middle).all()
    assert (middle | ~high).all()
    assert table["mask"].nunique() == 3
    assert table["pruned"].tolist() == [round(s * 1480) for s in (0.3, 0.6, 0.9)]
    assert table["density"].tolist() == pytest.approx(
        [1 - round(s * 1480) / 1480 for s in (0.3, 0.6, 0.9)]
    )


@pytest.mark.parametrize(
    ("keep_dense", "prunable"),
    [((), 1580), (("last",), 1480), (("first",), 300), (("first", "last"), 200)],
)
def test_spared_layers_stay_dense(untrained, keep_dense, prunable, store):
    """Layers that are spared have no pruned weight, and sparsity counts the others only."""
    dense = Run.dense(small(**untrained, keep_dense=list(keep_dense)), seed=3)
    run = finetune(dense, sparsity=0.5)
    table = carry_out([run], store)
    live = layout_of(dense).views(store.get(run.key).tensors["mask"])
    assert (table["prunable"].item(), table["pruned"].item()) == (prunable, prunable // 2)
    assert live["1.weight"].all() == ("first" in keep_dense)
    assert live["5.weight"].all() == ("last" in keep_dense)
    assert all(mask.all() for name, mask in live.items() if name.endswith("bias"))


def test_a_sparsity_that_empties_a_layer_is_refused(store):
    """The error names the sparsity, the layer and the seed."""
    dense = Run.dense(small(epochs=0, widths=[2], keep_dense=[]), seed=3)
    with pytest.raises(
        ValueError, match=r"sparsity 0.97 leaves no weight in .*\.weight.* \(seed 3\)"
    ):
        carry_out([finetune(dense, sparsity=0.97)], store)


@pytest.mark.parametrize("scope", ["layer", "uniform", "erk"])
def test_counts_by_layer_are_checked_before_any_training(scope, store):
    """Where the shapes tell that a layer would be empty, nothing is trained, not even the dense
    network."""
    dense = Run.dense(small(epochs=0, widths=[2], keep_dense=[], scope=scope), seed=3)
    with pytest.raises(
        ValueError, match=f"sparsity 0.999 with scope '{scope}' leaves no weight in '1.weight'"
    ):
        carry_out([finetune(dense, sparsity=0.999)], store)
    assert not store.has(dense.key)


# -- starts that take from others ------------------------------------------------------------------


def kernels_at_start(runs, root):
    """By run, the kernels' starting weights and the mask, by name."""
    for run, done in zip(runs, outcomes(runs, root), strict=True):
        views = layout_of(run).views
        weights, mask = views(done.tensors["weights"]), views(done.tensors["mask"])
        whole = networks.build("mlp", (1, 8, 8), 10, widths=(20, 10))
        names = networks.prunable(whole, run.setup.pruning.keep_dense)
        yield {name: weights[name] for name in names}, {name: mask[name] for name in names}


def test_signs_and_magnitudes_of_others(untrained, tmp_path):
    """The fresh start's own magnitudes with the signs of Init-F or Init-D, and the other way."""
    dense = Run.dense(small(**untrained), seed=3)

    def arm(**start):
        return scratch(dense, sparsity=0.7, form="neuron", start=start)

    runs = [scratch(dense, sparsity=0.7, form="neuron"), finetune(dense, sparsity=0.7)]
    runs += [arm(signs="init-f"), arm(signs="init-d"), arm(magnitudes="init-f")]
    runs += [arm(signs="init-f", magnitudes="init-f")]
    own, init_f, signs, of_d, sizes, both = kernels_at_start(runs, tmp_path)
    init_d = initializers.dense(networks.build("mlp", (1, 8, 8), 10, widths=(20, 10)), "he", 3)
    for name, live in own[1].items():
        assert all(torch.equal(live, arm[1][name]) for arm in (init_f, signs, of_d, sizes, both))
        n, f, d = own[0][name][live], init_f[0][name][live], init_d[name][live]
        assert torch.equal(signs[0][name][live], n.abs() * f.sign())
        assert torch.equal(of_d[0][name][live], n.abs() * d.sign())
        assert torch.equal(sizes[0][name][live], f.abs() * n.sign())
        assert torch.equal(both[0][name][live], f)


def test_shuffled_signs(untrained, tmp_path):
    """The control of signs: as many of each in each layer, the magnitudes in their places."""
    dense = Run.dense(small(**untrained), seed=3)
    start = {"form": "neuron", "start": {"signs": "init-f"}}
    runs = [scratch(dense, sparsity=0.7, **start, perturbed=p) for p in (None, "shuffled-signs")]
    (signs, mask), (shuffled, _) = kernels_at_start(runs, tmp_path)
    for name, live in mask.items():
        one, other = signs[name][live], shuffled[name][live]
        assert torch.equal(one.abs(), other.abs())
        assert (one > 0).sum() == (other > 0).sum()
        assert not torch.equal(one, other)


def test_units_that_fit(untrained, tmp_path):
    """Init-matched: the same draws in another order of units, nearer to Init-F than before."""
    dense = Run.dense(small(**untrained), seed=3)
    runs = [scratch(dense, sparsity=0.7, start=s) for s in ({}, {"units": "matched"})]
    runs += [finetune(dense, sparsity=0.7)]
    (own, mask), (fits, its_mask), (init_f, _) = kernels_at_start(runs, tmp_path)
    assert all(torch.equal(mask[name], its_mask[name]) for name in mask)
    near = [sum((w[n] * init_f[n]).sum() for n in mask) for w in (own, fits)]
    assert near[1] > near[0]


def test_masks_on_another_networks_start(untrained, tmp_path):
    """The mask with its units re-aligned, or in any order, on the guide's own draw: as many live
    weights in each layer, in other places."""
    setup = small(**untrained)
    dense, guide = Run.dense(setup, seed=3), Run.dense(setup, seed=4)
    runs = [scratch(dense, sparsity=0.7)]
    runs += [scratch(dense, sparsity=0.7, start={"mask": m}, guide=guide)
             for m in ("matched", "random")]  # fmt: skip
    (_, own), (matched, first), (_, second) = kernels_at_start(runs, tmp_path)
    init_d = initializers.dense(networks.build("mlp", (1, 8, 8), 10, widths=(20, 10)), "he", 4)
    for name, live in own.items():
        assert live.sum() == first[name].sum() == second[name].sum()
        assert not torch.equal(live, first[name])
        assert not torch.equal(first[name], second[name])
        assert torch.equal(matched[name], init_d[name] * first[name])


def test_a_mask_of_the_same_network_stays(untrained, tmp_path):
    """Re-aligned to the network that it comes from, a mask is as it was."""
    dense = Run.dense(small(**untrained), seed=3)
    arm = scratch(dense, sparsity=0.7, start={"mask": "matched"}, guide=dense)
    (_, mask), (_, own) = kernels_at_start([arm, scratch(dense, sparsity=0.7)], tmp_path)
    assert all(torch.equal(mask[name], own[name]) for name in own)
