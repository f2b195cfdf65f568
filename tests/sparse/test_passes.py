"""Estimators at the cost of the live weights: the same numbers as torch.func's and the dense
passes', in float64, whatever is cached.
"""

import gc
import math
import weakref

import pytest
import torch
from metrics.test_gradients import per_example, slow, under
from torch.func import jacrev, vmap

from lib import rng
from lib.metrics import alignment, fisher, gradients, hessian, jacobian
from lib.metrics.estimate import MeasureError
from lib.models import networks
from lib.sparse import live, passes
from lib.sparse.passes import LivePass

pytestmark = pytest.mark.skipif(
    not torch.backends.mkl.is_available(),
    reason="this build of torch has no products with sparse matrices",
)

CLASSES = 4
CASES = {
    "mlp": ("mlp", (3, 4), {"widths": (9, 7)}),
    "mlp, tanh": ("mlp", (20,), {"widths": (8,), "activation": "tanh"}),
    "lenet-5": ("lenet-5", (1, 16, 16), {}),
    "lenet-5, odd sides": (
        "lenet-5",
        (3, 19, 22),
        {"widths": (3, 4, 10, 6)},
    ),  # a pool leaves the last row or column out
    "lenet-5, average pooling": (
        "lenet-5",
        (2, 17, 16),
        {"widths": (3, 4, 10, 6), "pooling": "avg"},
    ),
    "lenet-5, tanh, average pooling": (
        "lenet-5",
        (1, 20, 17),
        {"widths": (2, 4, 5, 6), "activation": "tanh", "pooling": "avg"},
    ),
    "lenet-5, tanh": ("lenet-5", (2, 16, 16), {"widths": (3, 4, 10, 6), "activation": "tanh"}),
}
MASKS = ["weights", "weights and biases", "first layer dead", "a middle layer dead", "some layers"]


@pytest.fixture
def taken(monkeypatch):
    """These passes are taken wherever they can be; returns a list that grows by one in each."""
    made = []
    real = LivePass.__init__

    def noted(self, *arguments):
        made.append(self)
        real(self, *arguments)

    monkeypatch.setattr(live, "pays", lambda *_: True)
    monkeypatch.setattr(passes, "DENSEST", 1.0)
    monkeypatch.setattr(LivePass, "__init__", noted)
    return made


@pytest.fixture
def never(monkeypatch):
    """A function after which no pass is taken at the cost of the live weights."""
    return lambda: monkeypatch.setattr(passes, "_fits", lambda *_: False)


def made(case, kind="weights", density=0.4, dtype=torch.float64):
    """A network with its pruned weights at zero, images with equal pixels as real ones have,
    labels, the mask and a direction.
    """
    name, shape, options = CASES[case]
    stream = rng.generator(0, case, kind)
    network = (
        networks.build(name, shape, CLASSES, **options).to_empty(device="cpu").to(dtype).eval()
    )
    mask = {
        n: torch.rand(p.shape, generator=stream) < density for n, p in network.named_parameters()
    }
    for place, kept in enumerate(mask.values()):
        if kept.dim() == 1 and kind != "weights and biases":
            kept.fill_(True)
        if place == {"first layer dead": 0, "a middle layer dead": 2}.get(kind):
            kept.fill_(False)
    if kind == "some layers":
        mask = {n: live for n, live in list(mask.items())[2:] if live.dim() > 1}
    with torch.no_grad():
        for n, p in network.named_parameters():
            p.copy_(torch.randn(p.shape, generator=stream, dtype=dtype) * 0.4)
            p.mul_(mask.get(n, 1) if p.dim() > 1 else 1)
    x = torch.randn(7, *shape, generator=stream, dtype=dtype) * (
        torch.rand(7, *shape, generator=stream) < 0.6
    )
    y = torch.randint(CLASSES, (7,), generator=stream)
    direction = {
        n: torch.randn(p.shape, generator=stream, dtype=dtype)
        for n, p in network.named_parameters()
    }
    return network, x, y, mask, direction


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("kind", MASKS)
def test_norms_dots_and_cosines(case, kind, taken):
    """As single gradients give them: all parameters or the weights alone, in chunks or whole."""
    network, x, y, mask, direction = made(case, kind)
    single = under(slow(network, x, y), mask)
    for which in ("all", "weights"):
        counted = gradients.parameters(network, which)
        g = {n: v for n, v in single.items() if n in counted}
        norms = sum(v.flatten(1).square().sum(1) for v in g.values())
        d = under(direction, mask)
        dots = sum((v * d[n]).flatten(1).sum(1) for n, v in g.items())
        for chunk in (None, 3):
            ours = per_example(
                network, x, y, mask=mask, which=which, direction=direction, chunk=chunk
            )
            torch.testing.assert_close(ours[0], norms, rtol=1e-10, atol=1e-14)
            torch.testing.assert_close(ours[1], dots, rtol=1e-10, atol=1e-12)
        length = math.sqrt(sum(d[n].square().sum() for n in g))
        cosines = alignment.cosines(network, x, y, direction, masks=(mask,), which=which)[0]
        torch.testing.assert_close(cosines, -dots / norms.sqrt() / length, equal_nan=True)
    assert len(taken) == 2 * (1 + 3 + 1)


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("kind", MASKS)
def test_the_exact_fisher_and_the_jacobian(case, kind, taken):
    """The expectation over all labels by example, layer and weight; and the Jacobian, which finds
    the live weights itself.
    """
    network, x, _, mask, _ = made(case, kind)
    p = torch.softmax(network(x), -1).detach()
    trace, diagonal = 0.0, {}
    for c in range(CLASSES):
        for n, v in under(slow(network, x, torch.full((len(x),), c)), mask).items():
            squares = p[:, c].view(-1, *[1] * (v.dim() - 1)) * v.square()
            diagonal[n] = diagonal.get(n, 0.0) + squares.mean(0)
            trace = trace + squares.flatten(1).sum(1)
    for chunk in (None, 3):
        torch.testing.assert_close(
            fisher.exact(network, x, mask=mask, chunk=chunk), trace, rtol=1e-10, atol=1e-14
        )
    ours = fisher.diagonal(network, x, mask=mask)
    assert {n for n in diagonal if mask.get(n, torch.ones(1)).any()} == set(ours)
    for n, v in ours.items():
        torch.testing.assert_close(v, diagonal[n], rtol=1e-9, atol=1e-14)
    full = (
        vmap(jacrev(lambda example: network(example[None])[0]))(x)
        .flatten(1)
        .square()
        .sum(1)
        .detach()
    )
    for chunk in (None, 3):
        torch.testing.assert_close(
            jacobian.exact(network, x, chunk=chunk), full, rtol=1e-10, atol=1e-14
        )
    assert len(taken) == 1 + 3 + 1 + 3


def test_a_network_of_one_layer(taken):
    """Its Jacobian is its weights, and each gradient that of multinomial regression."""
    network = networks.build("mlp", (6,), CLASSES, widths=()).to_empty(device="cpu").double().eval()
    stream = rng.generator(0, "one layer")
    mask = {"1.weight": torch.rand(CLASSES, 6, generator=stream) < 0.5}
    with torch.no_grad():
        network[1].weight.copy_(
            torch.randn(CLASSES, 6, generator=stream, dtype=torch.float64) * mask["1.weight"]
        )
        network[1].bias.fill_(0.3)
    x, y = (
        torch.randn(5, 6, generator=stream, dtype=torch.float64),
        torch.randint(CLASSES, (5,), generator=stream),
    )
    torch.testing.assert_close(
        jacobian.exact(network, x), network[1].weight.detach().square().sum().expand(5)
    )
    delta = torch.softmax(network(x).detach(), 1) - torch.eye(CLASSES, dtype=torch.float64)[y]
    norms = (delta.unsqueeze(2) * x.unsqueeze(1) * mask["1.weight"]).square().sum(
        (1, 2)
    ) + delta.square().sum(1)
    torch.testing.assert_close(per_example(network, x, y, mask=mask)[0], norms)
    assert len(taken) == 2


@pytest.mark.parametrize("case", CASES)
def test_sampled_labels_are_those_of_the_dense_passes(case, taken, never):
    """One draw and several, the sampled diagonal and the trace of the Hessian: the same numbers
    from the same generator.
    """

    def values():
        found = [
            fisher.sampled(
                network, x, generator=rng.generator(1, "l"), mask=mask, draws=count, which=which
            )
            for count in (1, 6)
            for which in ("all", "weights")
        ]
        found += fisher.diagonal(
            network, x, generator=rng.generator(2, "l"), mask=mask, draws=5
        ).values()
        trace = hessian.trace(network, x, y, mask=mask, generator=rng.generator(3, "l"))
        return [*found, torch.tensor(trace.value)]

    network, x, y, mask, _ = made(case, "weights and biases")
    ours, count = values(), len(taken)
    never()
    for mine, dense in zip(ours, values(), strict=True):
        torch.testing.assert_close(mine, dense, rtol=1e-10, atol=1e-14)
    assert len(taken) == count >= 4


@pytest.mark.parametrize("case", ["mlp", "lenet-5"])
def test_float32_is_close_to_float64(case, taken):
    """In float32 the squared norms agree with float64 to a few parts in 10^5."""
    network, x, y, mask, _ = made(case)
    exact = per_example(network, x, y, mask=mask)[0]
    single = per_example(network.float(), x.float(), y, mask=mask)[0]
    assert len(taken) == 2
    torch.testing.assert_close(single.double(), exact, rtol=5e-5, atol=1e-9)


def test_what_is_known_of_a_network_changes_no_number(taken):
    """Other weights, another mask, a mask changed in place and another size of images: as if the
    network had not been seen before.
    """

    def values():
        return [
            fisher.exact(network, x, mask=mask),
            jacobian.exact(network, x),
            *fisher.diagonal(network, x, mask=mask).values(),
        ]

    network, x, _, mask, _ = made("lenet-5")
    values()
    known = passes._known[network]
    with torch.no_grad():
        network[0].weight.data.mul_(1.5)
    changed = values()
    assert passes._known[network] is known
    fresh = made("lenet-5")[0]
    fresh.load_state_dict(network.state_dict())
    network = fresh
    assert all(torch.equal(a, b) for a, b in zip(changed, values(), strict=True))
    mask["0.weight"].data[:2] = False  # in place, and unseen by the tensor's counter of versions
    network[0].weight.data[:2] = 0
    changed = values()
    assert passes._known[network] is not known
    passes._known.clear()
    assert all(torch.equal(a, b) for a, b in zip(changed, values(), strict=True))
    wide = networks.build("mlp", (12,), CLASSES, widths=(5,)).to_empty(device="cpu").eval()
    for p in wide.parameters():
        p.data.fill_(0.1)
    assert torch.equal(
        jacobian.exact(wide, torch.ones(2, 12)), jacobian.exact(wide, torch.ones(2, 3, 4))
    )


def test_a_network_is_not_kept_alive(taken):
    """What is known of it goes with it."""
    network, x, _, mask, _ = made("mlp")
    fisher.exact(network, x, mask=mask)
    assert network in passes._known
    gone = weakref.ref(network)
    taken.clear()
    del network
    gc.collect()
    assert gone() is None


@pytest.mark.parametrize("case", ["mlp", "lenet-5"])
def test_parts_draw_and_sum_as_the_whole(case, taken, monkeypatch):
    """However many examples pass at a time, each has the same sampled label and the same trace."""
    network, x, _, mask, _ = made(case)
    x = x.repeat(20, *[1] * (x.dim() - 1))  # 140 examples
    found = []
    for most in (len(x), 64, 1):
        monkeypatch.setattr(gradients, "LIVE", most)
        draws = rng.generator(0, "draws")
        found.append(fisher.sampled(network, x, mask=mask, generator=draws))
    assert len(taken) == 1 + 3 + len(x)
    for each in found[1:]:
        torch.testing.assert_close(each, found[0], rtol=1e-12, atol=0)


def test_where_dense_passes_are_taken(taken):
    """Without a mask, for several masks, among weights that live outside of the mask, for changed
    modules and unknown kinds.
    """
    network, x, y, mask, direction = made("lenet-5")
    exact = fisher.exact(network, x, mask=mask)
    taken.clear()
    per_example(network, x, y)
    alignment.cosines(network, x, y, direction, masks=(mask, None))
    seen = []
    hook = network[3].register_forward_hook(lambda *_: seen.append(1))
    torch.testing.assert_close(fisher.exact(network, x, mask=mask), exact)
    assert seen
    hook.remove()
    network[2] = torch.nn.ReLU(inplace=True)
    fisher.exact(network, x, mask=mask)
    network[2] = torch.nn.GELU()
    fisher.exact(network, x, mask=mask)
    assert not taken
    network, x, y, mask, _ = made("mlp")
    with torch.no_grad():
        network[3].weight.add_(1.0)
    trace = per_example(network, x, y, mask=mask)[0]
    single = under(slow(network, x, y), mask)
    torch.testing.assert_close(trace, sum(v.flatten(1).square().sum(1) for v in single.values()))
    residual = (
        networks.build("resnet-20", (3, 8, 8), CLASSES, width=0.25).to_empty(device="cpu").eval()
    )
    for value in residual.parameters():
        value.data.zero_()
    fisher.exact(residual, torch.ones(2, 3, 8, 8), mask={})
    assert not taken


def test_they_are_taken_where_they_pay(monkeypatch):
    """By default: for few live weights of a large layer, many examples at a time, and not for
    kernels that are nearly dense.
    """

    def chosen(name, shape, density, batch):
        network = networks.build(name, shape, 10).to_empty(device="cpu").eval()
        stream = rng.generator(0, "mask")
        mask = {
            n: torch.rand(p.shape, generator=stream) < density
            for n, p in network.named_parameters()
            if p.dim() > 1
        }
        for n, p in network.named_parameters():
            p.data.copy_(mask.get(n, torch.ones(())))
        return passes.patterns_of(network, torch.zeros(2, *shape), mask, batch) is not None

    assert chosen("lenet-300-100", (784,), 0.1, 128)
    assert chosen("lenet-5", (1, 28, 28), 0.1, 128)
    assert not chosen("lenet-300-100", (784,), 0.1, 1)
    assert not chosen("lenet-300-100", (784,), 0.9, 128)
    assert chosen("lenet-5", (1, 28, 28), 0.5, 128)
    assert not chosen("lenet-5", (1, 28, 28), 0.75, 128)


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_what_cannot_be_measured_is_refused(value, taken):
    """A diverged run, labels and inputs that do not fit, and a chunk of none: the errors of the
    dense passes.
    """
    network, x, y, mask, _ = made("lenet-5")
    with pytest.raises(MeasureError, match="chunk is 0"):
        fisher.exact(network, x, mask=mask, chunk=0)
    with pytest.raises(MeasureError, match="labels hold 4; the network has 4 classes"):
        per_example(network, x, torch.full((7,), 4), mask=mask)
    with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
        per_example(network, torch.zeros(7, 1, 20, 20, dtype=x.dtype), y, mask=mask)
    with torch.no_grad():
        network[3].weight[mask["3.weight"]] = value
    with pytest.raises(MeasureError, match=r"'3\.weight' holds values that are not finite"):
        fisher.exact(network, x, mask=mask)
    with pytest.raises(MeasureError, match="not finite"):
        jacobian.exact(network, x)
