"""The distribution of cosines: its moments, its quantiles, and the classes at its upper end."""

import pytest
import torch
import torch.nn.functional as F
from metrics.test_gradients import per_example
from support import of_notebook
from torch import nn

from lib import rng
from lib.metrics import alignment, gradients
from lib.metrics.estimate import MeasureError

distribution = of_notebook("fig8_cosine", "distribution")


def setting(dtype=torch.float64, sharpness=1.0):
    """A small network, 12 examples at their own predictions, a direction and a mask."""
    stream = rng.generator(0, "alignment")
    network = nn.Sequential(
        nn.Conv2d(1, 3, 3), nn.BatchNorm2d(3), nn.ReLU(), nn.Flatten(), nn.Linear(48, 5)
    ).eval()
    with torch.no_grad():
        for p in network.parameters():
            p.copy_(torch.randn(p.shape, generator=stream) / 2)
        network[4].weight *= sharpness
    x = torch.randn(12, 1, 6, 6, generator=stream)
    mask = {
        n: torch.rand(p.shape, generator=stream) < 0.5
        for n, p in network.named_parameters()
        if p.dim() > 1
    }
    direction = {
        n: torch.randn(p.shape, generator=stream).to(dtype) for n, p in network.named_parameters()
    }
    network, x = network.to(dtype), x.to(dtype)
    return network, x, network(x).argmax(1), direction, mask


def one_by_one(network, x, labels, direction, mask, which, loss=F.cross_entropy):
    """The same cosines from one backward pass an example."""
    names = [n for n, p in network.named_parameters() if which == "all" or p.dim() > 1]
    live = {n: (mask or {}).get(n, torch.ones_like(direction[n], dtype=torch.bool)) for n in names}
    d, values = torch.cat([direction[n][live[n]] for n in names]), []
    for i in range(len(x)):
        g = torch.autograd.grad(
            loss(network(x[i : i + 1]), labels[i : i + 1]),
            [network.get_parameter(n) for n in names],
        )
        g = torch.cat([value[live[n]] for n, value in zip(names, g, strict=True)])
        values.append(-(g @ d) / (g.norm() * d.norm()))
    return torch.stack(values)


def plain(network, x, labels, direction, mask=None, which="all"):
    """The cosines from the unscaled gradients."""
    norms, dots = per_example(network, x, labels, mask=mask, which=which, direction=direction)
    counted = gradients.parameters(network, which)
    ahead = {n: d * (mask or {}).get(n, 1) for n, d in direction.items() if n in counted}
    length = sum(v.square().sum() for v in ahead.values()).sqrt()
    return -dots / norms.sqrt() / length


@pytest.mark.parametrize("which", ["all", "weights"])
def test_cosines_against_single_backward_passes(which):
    """With and without a mask, in one call; and equal to the unscaled ones."""
    network, x, labels, direction, mask = setting()
    found = alignment.cosines(
        network, x, labels, direction, masks=(mask, None), which=which, chunk=5
    )
    for values, given in zip(found, (mask, None), strict=True):
        assert torch.allclose(
            values, one_by_one(network, x, labels, direction, given, which), rtol=1e-10
        )
        assert torch.allclose(
            values, plain(network, x, labels, direction, mask=given, which=which), rtol=1e-10
        )


def test_confident_examples_keep_their_cosines():
    """Where the gradient of the loss underflows, that of the log-odds in double precision still
    knows its direction.
    """

    def log_odds(logits, labels):
        return (
            torch.logsumexp(logits.scatter(1, labels.unsqueeze(1), -torch.inf), 1)
            - logits.gather(1, labels.unsqueeze(1))[:, 0]
        ).sum()

    network, x, labels, direction, mask = setting(torch.float32, sharpness=25)
    exact = one_by_one(*setting(sharpness=25)[:4], mask, "all", log_odds)
    (found,) = alignment.cosines(network, x, labels, direction, masks=(mask,))
    assert plain(network, x, labels, direction, mask=mask).isnan().any(), (
        "no example here is confident enough"
    )
    assert (found - exact).abs().max() < 1e-5


def test_a_direction_between_parameters_that_train():
    """A difference of two networks' parameters may carry a graph: it is read as numbers."""
    network, x, labels, direction, mask = setting()
    carried = {name: d.clone().requires_grad_() for name, d in direction.items()}
    (truth,), (found,) = (
        alignment.cosines(network, x, labels, ahead, masks=(mask,), chunk=5)
        for ahead in (direction, carried)
    )
    assert torch.equal(truth, found)
    assert not found.requires_grad


def test_a_direction_of_zero_has_no_cosine():
    network, x, labels, direction, _ = setting()
    with pytest.raises(MeasureError, match="direction is zero"):
        alignment.cosines(network, x, labels, {n: 0 * d for n, d in direction.items()})
    with pytest.raises(MeasureError, match="labels hold 9"):
        alignment.cosines(network, x, labels * 0 + 9, direction)
    with pytest.raises(MeasureError, match="train mode"):
        alignment.cosines(network.train(), x, labels, direction)


def test_numbers_of_a_known_distribution():
    """1,000 evenly spaced cosines whose highest 50 belong to classes 0 and 2 in equal parts."""
    cosines = torch.linspace(-0.5, 0.5, 1000, dtype=torch.float64)
    labels = torch.ones(1000, dtype=torch.int64)
    labels[-50:] = torch.tensor([0, 2]).repeat(25)
    found = distribution(cosines, labels, 4)
    assert found["mean"] == pytest.approx(0, abs=1e-12)
    assert found["std"] == pytest.approx(cosines.std().item())
    assert found["above_zero"] == 0.5
    assert found["quantiles"] == pytest.approx(torch.linspace(-0.5, 0.5, 201).tolist(), abs=1e-7)
    assert (found["top"], found["all"]) == ([25, 0, 25, 0], [25, 950, 25, 0])


def test_the_order_of_the_examples_does_not_matter():
    stream = rng.generator(0, "order")
    cosines, labels, order = (
        torch.rand(500, generator=stream),
        torch.randint(5, (500,), generator=stream),
        torch.randperm(500, generator=stream),
    )
    one, other = (
        distribution(cosines, labels, 5),
        distribution(cosines[order], labels[order], 5),
    )
    assert one["top"] == other["top"]
    assert one["mean"] == pytest.approx(other["mean"])


def test_examples_without_a_gradient_have_no_cosine():
    cosines = torch.linspace(0, 1, 100)
    cosines[::2] = torch.nan
    found = distribution(cosines, torch.zeros(100, dtype=torch.int64), 2)
    assert (found["undefined"], sum(found["all"]), sum(found["top"])) == (50, 50, 2)
    assert found["mean"] == pytest.approx(cosines[1::2].mean().item())


@pytest.mark.parametrize("count", [0, 19])
def test_too_few_examples(count):
    with pytest.raises(ValueError, match="too few"):
        distribution(torch.ones(count), torch.zeros(count, dtype=torch.int64), 2)
    with pytest.raises(ValueError, match="too few"):
        distribution(torch.full((100,), torch.nan), torch.zeros(100, dtype=torch.int64), 2)
