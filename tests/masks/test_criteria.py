"""Criteria that look at gradients and paths: their scores by hand on a small network, SynFlow's
rounds, and whole runs by them."""

import math
from itertools import product

import pytest
import torch
from support import carry_out, images_of, small
from torch import nn

from lib import registry, rng
from lib.masks import criteria, masks
from lib.models import initializers, networks
from lib.specs.run import Run, continued
from lib.training.cohort import Layout, filled

# Two inputs, two hidden units with ReLU, two classes, no biases; two examples.
FIRST, SECOND = [[1.0, -2.0], [0.5, 0.0]], [[3.0, 0.0], [-1.0, 2.0]]
X, Y = torch.tensor([[1.0, 2.0], [3.0, 1.0]]).double(), torch.tensor([0, 1])


def by_hand(sparsity=None, scope="global", biases=(0.0, 0.0)):
    """(weights, task) of that network in float64."""
    network = nn.Sequential(nn.Linear(2, 2), nn.ReLU(), nn.Linear(2, 2)).double().eval()
    weights = {"0.weight": torch.tensor(FIRST).double(), "2.weight": torch.tensor(SECOND).double()}
    network.load_state_dict(
        {**weights, "0.bias": torch.full((2,), biases[0]), "2.bias": torch.full((2,), biases[1])}
    )
    return weights, criteria.Task(lambda: network, X, Y, sparsity, scope)


def scores(name, weights, task):
    return registry.criterion[name](weights, rng.generator(0, "criterion"), task)


def test_snip_by_hand():
    """With q = e / (1 + e), the share that the larger logit has when it leads by one.

    Example 1, label 0: hidden (-3 -> 0, 1/2), logits (0, 1), p - y = (-q, q). Example 2, label 1:
    hidden (1, 3/2), logits (3, 2), p - y = (q, -q). Gradients of the mean: in the second layer 1/2
    ((q, q), (-q, -q)), and through Wᵀ(p - y) = (., 2q) and (4q, -2q) in the first one 1/2 ((12q,
    4q), (-4q, 2q)).
    """
    q = math.e / (1 + math.e)
    found = scores("snip", *by_hand())
    torch.testing.assert_close(
        found["0.weight"], q * torch.tensor([[6.0, 4.0], [1.0, 0.0]]).double()
    )
    torch.testing.assert_close(
        found["2.weight"], q * torch.tensor([[1.5, 0.0], [0.5, 1.0]]).double()
    )


def test_grasp_is_the_product_with_the_whole_hessian():
    """w · (H g), with H from differentiating a loss written out here twice; and removing a little
    of a weight changes the flow so."""
    weights, task = by_hand()
    theta = torch.cat([weight.flatten() for weight in weights.values()])

    def loss(flat):
        logits = (X @ flat[:4].view(2, 2).t()).relu() @ flat[4:].view(2, 2).t()
        return (logits.exp().sum(1).log() - logits.gather(1, Y.unsqueeze(1)).squeeze(1)).mean()

    def gradient(flat):
        return torch.autograd.functional.jacobian(loss, flat)

    expected = theta * (torch.autograd.functional.hessian(loss, theta) @ gradient(theta))
    found = torch.cat([score.flatten() for score in scores("grasp", weights, task).values()])
    torch.testing.assert_close(found, expected)
    for i in range(8):
        shrunk = theta.clone()
        shrunk[i] *= 1 - 1e-6
        change = gradient(shrunk).square().sum() - gradient(theta).square().sum()
        assert change.item() == pytest.approx(-2e-6 * expected[i].item(), rel=1e-5, abs=1e-14)


@pytest.mark.parametrize("biases", [(0.0, 0.0), (-5.0, 7.0)])
def test_synflow_by_hand(monkeypatch, biases):
    """One round: a weight times what reaches it and what leads on from it. Biases, signs and
    activations do not count.

    Into the hidden units flow 1 + 2 = 3 and 1/2, out of them lead 3 + 1 = 4 and 0 + 2 = 2; each
    layer adds up to R = 13.
    """
    monkeypatch.setattr(criteria, "ROUNDS", 1)
    found = scores("synflow", *by_hand(sparsity=0.25, biases=biases))
    assert found["0.weight"].tolist() == [[4.0, 8.0], [1.0, 0.0]]
    assert found["2.weight"].tolist() == [[9.0, 0.0], [3.0, 1.0]]
    assert found["0.weight"].dtype == torch.float64


def paths(weights, live):
    """SynFlow's scores by adding up every path of a network of linear layers, one after the
    other."""
    found = [torch.zeros_like(weight) for weight in weights]
    sizes = [weights[0].shape[1], *(weight.shape[0] for weight in weights)]
    for path in product(*(range(size) for size in sizes)):
        steps = [(layer, path[layer + 1], path[layer]) for layer in range(len(weights))]
        value = math.prod(
            abs(weights[layer][o, i].item()) * bool(live[layer][o, i]) for layer, o, i in steps
        )
        for layer, o, i in steps:
            found[layer][o, i] += value
    return found


@pytest.mark.parametrize("scope", masks.SCOPES)
@pytest.mark.parametrize("activation", ["relu", "tanh"])
def test_synflow_in_rounds(scope, activation):
    """A hundred rounds over three layers give the mask that adding up the paths in each round
    gives."""
    network = networks.build("mlp", (3,), 2, widths=(4, 3), activation=activation)
    layout = Layout(network)
    row = layout.row(initializers.dense(network, "he", 5))
    names = networks.prunable(network)
    weights = {name: layout.views(row)[name] for name in names}
    task = criteria.Task(
        lambda: filled(network, row, torch.zeros(0)),
        torch.randn(2, 3),
        torch.tensor([0, 1]),
        0.6,
        scope,
    )
    mask = masks.prune(scores("synflow", weights, task), 0.6, scope)
    live = {name: torch.ones_like(weight, dtype=torch.bool) for name, weight in weights.items()}
    for turn in range(1, 101):
        found = paths([weight.double() for weight in weights.values()], list(live.values()))
        ranked = {
            name: torch.where(live[name], score, -1.0)
            for name, score in zip(names, found, strict=True)
        }
        live = masks.prune(ranked, 0.6 if turn == 100 else 1 - 0.4 ** (turn / 100), scope)
    assert all(torch.equal(mask[name], live[name]) for name in names)


def test_synflow_conserves_flow_and_looks_at_no_data():
    """With BatchNorm, shortcuts and average pooling the scores of a layer still add up to the same
    R where every path passes it."""
    for name, shape, options, layers in (
        ("resnet-20", (3, 32, 32), {"width": 0.25}, ("0.0.weight", "6.weight")),
        ("lenet-5", (1, 28, 28), {"pooling": "avg"}, None),
    ):
        network = networks.build(name, shape, 10, **options)
        layout = Layout(network)
        buffers = layout.fresh_buffers() + 0.3 * torch.rand(
            layout.buffer_size, generator=rng.generator(0, "buffers")
        )
        row = layout.row(initializers.dense(network, "he", 5))
        weights = {kernel: layout.views(row)[kernel] for kernel in networks.prunable(network)}
        found = []
        for seed in (0, 1):
            x = torch.randn(2, *shape, generator=rng.generator(seed, "x"))
            task = criteria.Task(
                lambda r=row, n=network, b=buffers: filled(n, r, b), x, torch.tensor([0, 1]), 0.0
            )
            found.append(scores("synflow", weights, task))
        assert all(torch.equal(found[0][kernel], found[1][kernel]) for kernel in weights)
        sums = [found[0][kernel].sum().item() for kernel in layers or weights]
        assert sums == pytest.approx([sums[0]] * len(sums))


def test_synflow_in_float64():
    """Thirty layers of small weights: their products vanish in float32, and the mask is still exact
    and leaves no layer empty."""
    network = networks.build("mlp", (20,), 2, widths=(20,) * 30)
    layout = Layout(network)
    row = layout.row(initializers.dense(network, "he", 5)) / 100
    weights = {name: layout.views(row)[name] for name in networks.prunable(network)}
    task = criteria.Task(
        lambda: filled(network, row, torch.zeros(0)), torch.randn(2, 20), torch.tensor([0, 1]), 0.95
    )
    found = scores("synflow", weights, task)
    assert torch.cat([score.flatten() for score in found.values()]).abs().max() < 1e3
    mask = masks.prune(found, 0.95)
    assert not masks.empty_layers(mask)
    assert sum(int((~live).sum()) for live in mask.values()) == round(
        0.95 * sum(weight.numel() for weight in weights.values())
    )


def test_synflow_notices_a_collapse():
    """More than one path cannot be pruned away: the layer and the round are named. Without a
    sparsity there are no rounds."""
    with pytest.raises(
        ValueError,
        match=r"synflow at sparsity 0.9: round \d+ of 100 leaves no path .* no weight in \d.weight"
        r"\); choose a lower",
    ):
        scores("synflow", *by_hand(sparsity=0.9))
    with pytest.raises(ValueError, match="its task must name the sparsity"):
        scores("synflow", *by_hand())
    weights, task = by_hand(sparsity=0.25)
    with torch.no_grad():
        task.network[2].weight.zero_()
    with pytest.raises(ValueError, match="leaves no path from the input to the output"):
        scores("synflow", weights, task)


@pytest.mark.parametrize("criterion", ["snip", "grasp", "synflow"])
def test_runs_by_these_criteria(criterion, store):
    """A network pruned before training: the mask is that of the criterion's scores at its start,
    and its count is exact."""
    dense = Run.dense(
        small(criterion=criterion, score_examples=40, keep_dense=[], widths=[20, 10], epochs=1),
        seed=3,
        keep=(0,),
    )
    run = continued(dense, at=0, sparsity=0.8)
    table = carry_out([run], store)
    assert (table["pruned"] == round(0.8 * 1580)).all()
    assert not table["diverged"].any()
    network = networks.build("mlp", (1, 8, 8), 10, widths=(20, 10))
    layout, images = Layout(network), images_of(run)
    row = layout.row(initializers.dense(network, "he", 3))
    weights = {name: layout.views(row)[name] for name in networks.prunable(network)}
    task = criteria.Task(
        lambda: filled(network, row, torch.zeros(0)), images.x_train[:40], images.y_train[:40], 0.8
    )
    mask = masks.prune(scores(criterion, weights, task), 0.8)
    assert torch.equal(store.get(run.key).tensors["mask"], layout.mask_row(mask))


@pytest.mark.parametrize(
    ("result", "message"),
    [
        (torch.ones(2, 2), "gives a Tensor, not a tensor by weight's name"),
        ({"0.weight": torch.ones(2, 2)}, r"gives for '2.weight' the shape none, not \(2, 2\)"),
        (
            {"0.weight": torch.ones(2, 2), "2.weight": torch.ones(4)},
            r"gives for '2.weight' the shape \(4,\), not \(2, 2\)",
        ),
        (
            {"0.weight": torch.ones(2, 2), "2.weight": torch.full((2, 2), math.nan)},
            "gives NaN for '2.weight'",
        ),
    ],
    ids=str,
)
def test_scores_that_are_none_are_refused(result, message):
    """A criterion of one's own that returns no scores of the weights is named; it may spoil what it
    is handed, and order it as it likes."""
    weights, task = by_hand()

    @registry.criterion(name="mine", version="1")
    def mine(weights, generator, task):
        weights["0.weight"].zero_()
        return result

    with pytest.raises(ValueError, match=f"criterion 'mine' {message}"):
        criteria.scores("mine", weights, rng.generator(0), task)
    assert weights["0.weight"].tolist() == FIRST
    result = {name: torch.full((2, 2), 1.0 * len(name)) for name in reversed(weights)}
    assert list(criteria.scores("mine", weights, rng.generator(0), task)) == list(weights)
    registry.criterion.forget("mine")


def test_synflow_needs_a_network_of_paths():
    """Where layers do not only add up, its scores would mean nothing."""
    network = nn.Sequential(nn.Linear(2, 2), nn.LayerNorm(2), nn.Linear(2, 2)).double().eval()
    weights = {f"{n}.weight": network[n].weight.detach() for n in (0, 2)}
    task = criteria.Task(lambda: network, X, Y, 0.5)
    with pytest.raises(ValueError, match=r"synflow adds up paths: .* layers that are not linear"):
        scores("synflow", weights, task)
