"""Masks have exact counts, break ties by index, and nest; criteria give the scores that they
name."""

import math
from fractions import Fraction

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.nn.utils import prune as reference

from lib import rng
from lib.masks import criteria, masks

few_values = st.sampled_from([0.0, -0.0, 0.25, 1.0])
any_values = st.floats(allow_nan=False, width=32)
layer = st.one_of(
    *(st.lists(values, min_size=1, max_size=30) for values in (few_values, any_values))
)
layers = st.lists(layer, min_size=1, max_size=4)
sparsities = st.floats(0, 1, exclude_max=True)


def scores_of(values):
    return {f"layer{i}": torch.tensor(v) for i, v in enumerate(values)}


def lowest(values, count):
    """Which of a list of numbers go: the lowest, and among equals the first."""
    return set(sorted(range(len(values)), key=lambda i: (values[i], i))[:count])


@given(layers, sparsities)
def test_global_scope_removes_exactly_the_lowest(values, sparsity):
    """Over all layers together the round(s N) lowest scores go, ties by index, whatever the
    scores."""
    mask = masks.prune(scores_of(values), sparsity)
    flat = [v for part in values for v in part]
    gone = {i for i, live in enumerate(torch.cat(list(mask.values())).tolist()) if not live}
    assert gone == lowest(flat, round(sparsity * len(flat)))


@given(layers, sparsities)
def test_layer_scope_removes_exactly_the_lowest_of_each(values, sparsity):
    """In each layer the round(s n) lowest go; a sparsity that would empty a layer is refused."""
    if any(round(sparsity * len(part)) == len(part) for part in values):
        with pytest.raises(ValueError, match="leaves no weight in 'layer"):
            masks.prune(scores_of(values), sparsity, "layer")
        return
    mask = masks.prune(scores_of(values), sparsity, "layer")
    for part, live in zip(values, mask.values(), strict=True):
        assert {i for i, kept in enumerate(live.tolist()) if not kept} == lowest(
            part, round(sparsity * len(part))
        )


@given(layers, sparsities, sparsities)
def test_masks_nest(values, one, other):
    """Every weight that lives at the higher sparsity lives at the lower one."""
    low, high = (masks.prune(scores_of(values), s) for s in sorted((one, other)))
    assert all((low[name] | ~high[name]).all() for name in low)


shapes = st.lists(
    st.lists(st.integers(1, 6), min_size=1, max_size=4).map(tuple), min_size=1, max_size=5
)
allocations = st.sampled_from(["uniform", "erk"])


def one_by_one(claims, sizes, total):
    """Counts by layer where weights are given out one at a time, each to the first layer with the
    largest claim / (2 * live + 1)."""
    live = [0] * len(sizes)
    for _ in range(total):
        open_layers = [i for i in range(len(sizes)) if live[i] < sizes[i]]
        live[max(open_layers, key=lambda i: (Fraction(claims[i], 2 * live[i] + 1), -i))] += 1
    return live


def allocated(sizes, sparsity, scope):
    """What ``allocation`` gives, or None where it would leave a layer empty."""
    try:
        return masks.allocation(sizes, sparsity, scope)
    except ValueError:
        return None


@given(shapes, sparsities, allocations)
def test_allocations_meet_the_total_exactly(found, sparsity, scope):
    """They are those of giving out weights one by one; none is negative or more than its layer has;
    an empty layer is refused."""
    named, sizes = (
        {f"layer{i}": shape for i, shape in enumerate(found)},
        [math.prod(shape) for shape in found],
    )
    total = sum(sizes) - round(sparsity * sum(sizes))
    expected = one_by_one(
        sizes if scope == "uniform" else [sum(shape) for shape in found], sizes, total
    )
    assert sum(expected) == total
    if 0 in expected:
        with pytest.raises(
            ValueError, match=f"with scope '{scope}' leaves no weight in 'layer{expected.index(0)}'"
        ):
            masks.allocation(named, sparsity, scope)
        return
    assert list(masks.allocation(named, sparsity, scope).values()) == expected


@given(shapes, sparsities, sparsities, allocations)
def test_allocations_nest(found, one, other, scope):
    """No layer has fewer live weights at the lower sparsity: so masks from the same scores nest."""
    named = {f"layer{i}": shape for i, shape in enumerate(found)}
    low, high = (allocated(named, s, scope) for s in sorted((one, other)))
    if high is not None:
        assert low is not None
        assert all(low[name] >= high[name] for name in named)
        scores = {
            name: torch.randn(shape, generator=rng.generator(0, name))
            for name, shape in named.items()
        }
        low, high = (masks.prune(scores, s, scope) for s in sorted((one, other)))
        assert all((low[name] | ~high[name]).all() for name in named)


LENET = {
    "conv1": (6, 1, 5, 5),
    "conv2": (16, 6, 5, 5),
    "fc1": (120, 256),
    "fc2": (84, 120),
    "fc3": (10, 84),
}


def test_allocations_by_layer():
    """Under the layer scope each has n - round(s n); the global one gives no counts to layers."""
    assert masks.allocation(LENET, 0.95, "layer") == {
        "conv1": 8,
        "conv2": 120,
        "fc1": 1536,
        "fc2": 504,
        "fc3": 42,
    }
    with pytest.raises(
        ValueError, match="'global' gives no counts to layers; layer, uniform, erk do"
    ):
        masks.allocation(LENET, 0.95, "global")


def test_largest_remainders_would_not_nest():
    """The 20th live weight of LeNet-5 would take one away from its last layer; here each layer
    keeps what it has."""
    sizes = [math.prod(shape) for shape in LENET.values()]

    def remainders(total):
        shares = [Fraction(total * size, sum(sizes)) for size in sizes]
        first = sorted(range(len(sizes)), key=lambda i: (math.floor(shares[i]) - shares[i], i))[
            : total - sum(map(math.floor, shares))
        ]
        return [math.floor(share) + (i in first) for i, share in enumerate(shares)]

    assert (remainders(19), remainders(20)) == ([0, 1, 13, 4, 1], [0, 1, 14, 5, 0])
    before = [0] * len(sizes)
    for total in range(0, sum(sizes) + 1, 37):
        live = masks._apportioned(sizes, sizes, total)
        assert sum(live) == total
        assert all(now >= then for now, then in zip(live, before, strict=True))
        before = live


def test_erk_of_lenet():
    """At 0.95 each density is level * (sum of the shape) / (its product); at 0.5 the small layers
    are full and the others share the rest.

    Claims are 17, 32, 376, 204 and 94; 0.95 leaves 2,210 of 44,190 weights, so that the level is
    2210 / 723. At 0.5 conv1 (150) and fc3 (840) are full, and conv2, fc1 and fc2 share 22,095 - 990
    = 21,105 by 32 : 376 : 204, which is 1,103.53, 12,966.47 and 7,035.
    """
    assert masks.allocation(LENET, 0.95, "erk") == {
        "conv1": 52,
        "conv2": 98,
        "fc1": 1149,
        "fc2": 624,
        "fc3": 287,
    }
    assert masks.allocation(LENET, 0.5, "erk") == {
        "conv1": 150,
        "conv2": 1104,
        "fc1": 12966,
        "fc2": 7035,
        "fc3": 840,
    }
    assert masks.allocation(LENET, 0.0, "erk") == {
        name: math.prod(shape) for name, shape in LENET.items()
    }
    assert masks.allocation(LENET, 0.95, "uniform") == {
        "conv1": 8,
        "conv2": 120,
        "fc1": 1536,
        "fc2": 504,
        "fc3": 42,
    }


@given(layers, sparsities, allocations)
def test_allocated_scopes_remove_exactly_the_lowest_of_each(values, sparsity, scope):
    """round(s N) weights go together, and in each layer the lowest, ties by index."""
    live = allocated({f"layer{i}": (len(part),) for i, part in enumerate(values)}, sparsity, scope)
    if live is None:
        return
    mask = masks.prune(scores_of(values), sparsity, scope)
    for part, (name, kept) in zip(values, mask.items(), strict=True):
        assert {i for i, lives in enumerate(kept.tolist()) if not lives} == lowest(
            part, len(part) - live[name]
        )
    flat = torch.cat(list(mask.values()))
    assert int((~flat).sum()) == round(sparsity * len(flat))


def test_ties_fall_by_index():
    """Masks written by hand for equal scores: the first of the equals go first, across and within
    layers."""
    scores = {"a": torch.tensor([[1.0, 0.0], [1.0, 1.0]]), "b": torch.tensor([1.0, 0.0, 2.0])}

    def at(sparsity, scope):
        return {name: m.int().tolist() for name, m in masks.prune(scores, sparsity, scope).items()}

    assert at(2 / 7, "global") == {"a": [[1, 0], [1, 1]], "b": [1, 0, 1]}
    assert at(4 / 7, "global") == {"a": [[0, 0], [0, 1]], "b": [1, 0, 1]}
    assert at(6 / 7, "global") == {"a": [[0, 0], [0, 0]], "b": [0, 0, 1]}
    assert at(0.5, "layer") == {"a": [[0, 0], [1, 1]], "b": [0, 0, 1]}


def test_ties_fall_by_index_in_large_layers():
    """The same for so many scores of so few values that a sort would take another way."""
    scores = torch.randint(3, (200_000,), generator=rng.generator(0, "test")).float()
    mask = masks.prune({"a": scores}, 0.5)["a"]
    gone = lowest(scores.tolist(), 100_000)
    assert set((~mask).nonzero().flatten().tolist()) == gone


@pytest.mark.parametrize(
    ("sparsity", "size", "count"),
    [(0, 10, 0), (0.5, 5, 2), (0.5, 7, 4), (0.95, 266_200, 252_890), (0.999, 3, 3)],
)
def test_pruned_count(sparsity, size, count):
    """round(s N) with ties to even, as DESIGN's words define sparsity."""
    assert masks.pruned_count(sparsity, size) == count


@pytest.fixture
def network():
    stream = rng.generator(7, "test")
    layers = nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.Flatten(), nn.Linear(50, 40), nn.ReLU(), nn.Linear(40, 10)
    )
    with torch.no_grad():
        for p in layers.parameters():
            p.copy_(torch.randn(p.shape, generator=stream))
    return layers


@pytest.mark.parametrize("sparsity", [0.1, 0.5, 0.8, 0.95, 0.99])
def test_global_magnitude_agrees_with_torch(network, sparsity):
    """torch.nn.utils.prune's global L1 pruning gives the same mask on random weights."""
    weights = {n: p.detach().clone() for n, p in network.named_parameters() if n.endswith("weight")}
    mask = masks.prune(criteria.magnitude(weights, None, None), sparsity)
    modules = [(network[i], "weight") for i in (0, 2, 4)]
    reference.global_unstructured(modules, pruning_method=reference.L1Unstructured, amount=sparsity)
    for (module, _), ours in zip(modules, mask.values(), strict=True):
        assert torch.equal(module.weight_mask.bool(), ours)


@pytest.mark.parametrize("sparsity", [0.1, 0.5, 0.8, 0.95])
def test_layer_magnitude_agrees_with_torch(network, sparsity):
    """torch.nn.utils.prune's L1 pruning of one layer gives the same mask on random weights."""
    weights = {n: p.detach().clone() for n, p in network.named_parameters() if n.endswith("weight")}
    mask = masks.prune(criteria.magnitude(weights, None, None), sparsity, "layer")
    for i in (0, 2, 4):
        reference.l1_unstructured(network[i], "weight", amount=sparsity)
        assert torch.equal(network[i].weight_mask.bool(), mask[f"{i}.weight"])


def test_empty_layers():
    """They are named."""
    mask = {"a": torch.tensor([True, False, False]), "b": torch.tensor([[False]])}
    assert masks.empty_layers(mask) == ["b"]


@pytest.mark.parametrize("sparsity", [1.0, 1.5, -0.1, math.nan, math.inf])
def test_sparsity_outside_its_range_is_refused(sparsity):
    """The error names the value and the range."""
    with pytest.raises(ValueError, match=rf"sparsity is {sparsity}.*\[0, 1\)"):
        masks.prune({"a": torch.ones(4)}, sparsity)


def test_bad_scores_and_scopes_are_refused():
    """NaN cannot be ranked, and an unknown scope is answered with the known ones."""
    with pytest.raises(ValueError, match="'a' hold NaN"):
        masks.prune({"a": torch.tensor([1.0, math.nan])}, 0.5)
    with pytest.raises(ValueError, match="'gobal' is unknown; there are global, layer"):
        masks.prune({"a": torch.ones(4)}, 0.5, "gobal")


def test_random_scores_are_uniform_and_named():
    """The random criterion ignores the weights, follows its generator, and is uniform on [0, 1]."""
    weights = {"a": torch.zeros(200, 200), "b": torch.ones(50)}
    scores = criteria.random(weights, rng.generator(0, "criterion", "random"), None)
    again = criteria.random(
        {k: w + 1 for k, w in weights.items()}, rng.generator(0, "criterion", "random"), None
    )
    other = criteria.random(weights, rng.generator(1, "criterion", "random"), None)
    assert {k: s.shape for k, s in scores.items()} == {k: w.shape for k, w in weights.items()}
    assert all(torch.equal(scores[k], again[k]) for k in weights)
    assert not torch.equal(scores["a"], other["a"])
    shares = torch.histc(scores["a"], bins=10, min=0, max=1) / 40_000
    assert (shares - 0.1).abs().max() < 6 * math.sqrt(0.1 * 0.9 / 40_000)  # six standard errors
