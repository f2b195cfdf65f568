"""Lines, distances and maps: against torch's own BatchNorm update and scikit-learn, and what must
hold of any line.
"""

import copy

import numpy as np
import pandas as pd
import pytest
import torch
import torch.nn.functional as F
from scipy.spatial.distance import pdist, squareform
from torch import nn
from torch.optim.swa_utils import update_bn

from lib import rng
from lib.metrics import geometry
from lib.metrics.estimate import MeasureError

ALPHAS = [0.0, 0.25, 0.5, 0.75, 1.0]


def plain(seed):
    """A small network without BatchNorm on inputs [n, 6], five classes."""
    return _drawn(nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 5)), seed)


def normalised(seed):
    """A small convolutional network with BatchNorm in two and one dimensions on images [n, 2, 6,
    6], five classes.
    """
    layers = [
        nn.Conv2d(2, 4, 3),
        nn.BatchNorm2d(4),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(64, 7),
        nn.BatchNorm1d(7),
        nn.ReLU(),
        nn.Linear(7, 5),
    ]
    return _drawn(nn.Sequential(*layers), seed)


def _drawn(network, seed):
    for name, value in network.state_dict().items():
        if value.is_floating_point():
            drawn = torch.randn(value.shape, generator=rng.generator(seed, name))
            value.copy_(drawn.abs() + 0.5 if name.endswith("running_var") else drawn)
    return network.eval()


def line(a, b, alphas, x, labels, chunk=None, **options):
    """Loss and accuracy at each of ``alphas`` between two networks, as a table."""
    rows = [
        (alpha, *geometry.evaluate(network, x, labels, chunk=chunk))
        for alpha, network in geometry.points(a, b, alphas, **options)
    ]
    return pd.DataFrame(rows, columns=["alpha", "loss", "accuracy"])


@pytest.fixture
def labels():
    return torch.randint(5, (50,), generator=rng.generator(0, "labels"))


@pytest.fixture
def vectors():
    return torch.randn(50, 6, generator=rng.generator(0, "x"))


@pytest.fixture
def images():
    return torch.randn(50, 2, 6, 6, generator=rng.generator(0, "images"))


def direct(network, x, labels):
    with torch.no_grad():
        logits = network(x)
    return F.cross_entropy(logits.double(), labels).item(), (
        logits.argmax(-1) == labels
    ).double().mean().item()


def test_a_line_is_what_its_formula_says(vectors, labels):
    a, b = plain(1), plain(2)
    table = line(a, b, ALPHAS, vectors, labels, chunk=7)
    assert table["alpha"].tolist() == ALPHAS
    for row in table.itertuples():
        between = copy.deepcopy(a)
        for name, value in between.state_dict().items():
            value.copy_((1 - row.alpha) * a.state_dict()[name] + row.alpha * b.state_dict()[name])
        loss, accuracy = direct(between, vectors, labels)
        assert row.loss == pytest.approx(loss, rel=1e-5)
        assert row.accuracy == pytest.approx(accuracy)


@pytest.mark.parametrize(("make", "inputs"), [(plain, "vectors"), (normalised, "images")])
def test_the_ends_of_a_line_are_its_networks(make, inputs, labels, request):
    x = request.getfixturevalue(inputs)
    a, b = make(1), make(2)
    table = line(a, b, [0.0, 1.0], x, labels, bn="interpolated")
    for row, network in zip(table.itertuples(), (a, b), strict=True):
        loss, accuracy = direct(network, x, labels)
        assert row.loss == pytest.approx(loss, rel=1e-12)
        assert row.accuracy == accuracy
    for alpha, network in geometry.points(a, b, [0.0, 1.0], bn="interpolated"):
        for name, value in (b if alpha else a).state_dict().items():
            assert torch.equal(network.state_dict()[name], value), name


@pytest.mark.parametrize("momentum", [0.1, 0.9])
def test_re_estimation_is_the_mean_over_batches(images, momentum):
    """50 images in batches of at most 16: four of nearly equal size; in both BatchNorm layers."""
    network = normalised(1)
    network[1].momentum = momentum
    geometry.reestimate(network, images, batch=16)
    plain = copy.deepcopy(network).train()
    with torch.no_grad():
        for place in (1, 5):
            z = [plain[:place](part).transpose(0, 1).flatten(1) for part in images.tensor_split(4)]
            for found, batches in (
                (network[place].running_mean, [part.mean(1) for part in z]),
                (network[place].running_var, [part.var(1) for part in z]),
            ):
                torch.testing.assert_close(found, torch.stack(batches).mean(0))
    assert network[1].momentum == momentum
    assert not any(module.training for module in network.modules())


def test_a_line_re_estimates_at_every_point(images, labels):
    a, b = normalised(1), normalised(2)
    table = line(a, b, ALPHAS, images[:20], labels[:20], examples=images, batch=25)
    for row in table.itertuples():
        between = copy.deepcopy(a)
        for name, value in between.state_dict().items():
            if value.is_floating_point():
                value.copy_(torch.lerp(a.state_dict()[name], b.state_dict()[name], row.alpha))
        update_bn(images.split(25), between)
        loss, accuracy = direct(between.eval(), images[:20], labels[:20])
        assert row.loss == pytest.approx(loss, rel=1e-10)
        assert row.accuracy == pytest.approx(accuracy)


def test_statistics_before_do_not_matter_and_their_kinds_differ(images, labels):
    a, b = normalised(1), normalised(2)
    shifted = copy.deepcopy(b)
    shifted[1].running_mean += 3.0
    lines = [line(a, end, ALPHAS, images, labels, examples=images)["loss"] for end in (b, shifted)]
    assert lines[0].tolist() == lines[1].tolist()
    mixed = [
        line(a, end, ALPHAS, images, labels, bn="interpolated")["loss"] for end in (b, shifted)
    ]
    assert mixed[0].iloc[-1] != mixed[1].iloc[-1]
    assert mixed[0].iloc[0] == mixed[1].iloc[0]


def test_odd_numbers_of_examples_leave_no_batch_of_one():
    network = normalised(1)
    x = torch.randn(9, 2, 6, 6, generator=rng.generator(0, "nine"))
    for count in range(2, 10):
        for batch in range(2, 10):
            geometry.reestimate(network, x[:count], batch)
            assert network[5].running_var.isfinite().all()


def test_a_line_leaves_its_networks_alone(images, labels):
    a, b = normalised(1), normalised(2)
    before = [copy.deepcopy(network.state_dict()) for network in (a, b)]
    line(a, b, ALPHAS, images, labels, examples=images)
    for network, state in zip((a, b), before, strict=True):
        for name, value in state.items():
            assert torch.equal(network.state_dict()[name], value), name
        assert not network.training
        assert all(p.requires_grad for p in network.parameters())


def test_cohort_members_can_be_ends_of_a_line(labels):
    from lib.models.networks import build
    from lib.training.cohort import Cohort, Layout

    pattern = build("resnet-20", (1, 8, 8), 5, width=0.25)
    layout = Layout(pattern)
    rows = 0.1 * torch.randn(2, layout.size, generator=rng.generator(0, "rows"))
    buffers = layout.fresh_buffers().repeat(2, 1)
    a, b = Cohort(layout, rows, buffers, torch.ones_like(rows, dtype=torch.bool)).modules(pattern)
    x = torch.randn(50, 1, 8, 8, generator=rng.generator(0, "x8"))
    table = line(a.eval(), b.eval(), [0.0, 0.5], x, labels, examples=x)
    assert np.isfinite(table["loss"]).all()
    assert torch.equal(buffers[0], layout.fresh_buffers())


def test_a_line_between_identical_networks_is_flat(images, labels):
    table = line(normalised(1), normalised(1), ALPHAS, images, labels, examples=images)
    assert table["loss"].nunique() == table["accuracy"].nunique() == 1


def test_distances_are_scipys(vectors):
    networks = [plain(seed) for seed in range(4)]
    rows = np.stack(
        [
            np.concatenate([p.detach().numpy().ravel() for p in network.parameters()])
            for network in networks
        ]
    )
    np.testing.assert_allclose(
        geometry.distances(networks).numpy(), squareform(pdist(rows.astype(float))), rtol=1e-12
    )
    assert geometry.distance(networks[0], networks[3]) == pytest.approx(
        np.linalg.norm(rows[0].astype(float) - rows[3])
    )
    weights = [
        np.concatenate([network[i].weight.detach().numpy().ravel() for i in (0, 2)])
        for network in networks
    ]
    assert geometry.distance(*networks[:2], which="weights") == pytest.approx(
        np.linalg.norm(weights[0].astype(float) - weights[1])
    )


def test_pruned_weights_do_not_count_in_a_distance():
    a, b = plain(1), plain(2)
    live = torch.rand(8, 6, generator=rng.generator(0, "mask")) < 0.3
    full = geometry.distance(a, b) ** 2
    gone = (a[0].weight - b[0].weight)[~live].double().square().sum().item()
    assert geometry.distance(a, b, {"0.weight": live}) ** 2 == pytest.approx(full - gone)


def broken(value):
    network = plain(1)
    network[2].bias.data[1] = value
    return network


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda x, y: line(plain(1), nn.Linear(6, 5), ALPHAS, x, y),
            "only one of the networks has 0.bias",
        ),
        (
            lambda x, y: line(nn.Linear(6, 4), nn.Linear(6, 5), ALPHAS, x, y),
            r"only one of the networks has .*weight \(4, 6\), weight \(5, 6\)",
        ),
        (lambda x, y: line(plain(1), plain(2), ALPHAS, x[:0], y[:0]), "no examples"),
        (
            lambda x, y: line(plain(1), plain(2), ALPHAS, x, y + 1),
            "the network has 5 classes, 0 to 4",
        ),
        (lambda x, y: line(plain(1), plain(2), ALPHAS, x, y[1:]), "for 50 examples"),
        (
            lambda x, y: line(plain(1), broken(torch.nan), ALPHAS, x, y),
            "2.bias of network_b is not finite",
        ),
        (
            lambda x, y: line(broken(torch.inf), plain(2), ALPHAS, x, y),
            "2.bias of network_a is not finite",
        ),
        (lambda x, y: line(plain(1), plain(2), [0.0, np.nan], x, y), "finite number"),
        (
            lambda x, y: line(plain(1), plain(2), ALPHAS, x, y, bn="frozen"),
            "bn is 'frozen'",
        ),
        (
            lambda x, y: line(normalised(1), normalised(2), ALPHAS, x, y),
            "examples is None",
        ),
        (
            lambda x, y: geometry.reestimate(normalised(1), torch.zeros(1, 2, 6, 6)),
            "at least two examples",
        ),
        (lambda x, y: geometry.distances([]), "no networks"),
        (lambda x, y: geometry.distance(plain(1), normalised(1)), "two architectures"),
        (
            lambda x, y: geometry.distance(plain(1), plain(2), {"9.weight": torch.ones(1)}),
            "names '9.weight'",
        ),
        (
            lambda x, y: geometry.distance(plain(1), plain(2), {"0.weight": torch.ones(1)}),
            r"the mask of '0.weight' is torch.float32 \(1,\); it must be torch.bool \(8, 6\)",
        ),
        (lambda x, y: geometry.distance(plain(1), plain(2), which="biases"), "which is 'biases'"),
    ],
)
def test_what_cannot_be_measured_is_named(call, message, vectors, labels):
    with pytest.raises(MeasureError, match=message):
        call(vectors, labels)
