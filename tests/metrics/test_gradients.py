"""Per-example gradients, the Fisher and the Jacobian against torch.func in float64; what cannot be
measured is refused by name.
"""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.func import functional_call, grad, jacrev, vmap

from lib import rng
from lib.metrics import alignment, contract, fisher, gradients, jacobian
from lib.metrics.estimate import Estimate, MeasureError
from lib.models import initializers, networks

CLASSES = 5
# stride, padding, dilation, groups, BatchNorm in both shapes, layers without a bias
ALL_KINDS = nn.Sequential(
    nn.Conv2d(2, 4, (3, 2), stride=(2, 1), padding=(1, 2), bias=True), nn.BatchNorm2d(4), nn.ReLU(),
    nn.Conv2d(4, 6, 3, dilation=(1, 2), padding=2, groups=2, bias=False), nn.MaxPool2d(2),
    nn.Tanh(), nn.Flatten(),
    nn.Linear(72, 7, bias=False), nn.BatchNorm1d(7), nn.ReLU(), nn.Linear(7, CLASSES),
)  # fmt: skip
CASES = {
    "mlp": ((7,), {"widths": (9, 8)}),
    "wide mlp": ((30,), {"widths": (6,)}),
    "lenet-5": ((1, 16, 16), {}),
    "lenet-5, average pooling": ((1, 16, 16), {"pooling": "avg"}),
    "resnet-20": ((3, 8, 8), {"width": 0.25}),
    "all kinds": ((2, 8, 6), {}),
}


def made(case, dtype=torch.float64):
    """A network with random weights and statistics in eval mode, examples, labels, a mask and a
    direction.
    """
    shape, options = CASES[case]
    stream = rng.generator(0, case)
    if case == "all kinds":
        network = ALL_KINDS.to(dtype)
    else:
        network = (
            networks.build(case.split(",")[0].replace("wide ", ""), shape, CLASSES, **options)
            .to_empty(device="cpu")
            .to(dtype)
        )
    with torch.no_grad():
        for name, value in (*network.named_parameters(), *network.named_buffers()):
            if value.is_floating_point():
                value.copy_(torch.randn(value.shape, generator=stream, dtype=dtype) * 0.4)
                if name.endswith("running_var"):
                    value.abs_().add_(0.3)
    network.eval()
    mask = {
        n: torch.rand(p.shape, generator=stream) > 0.5
        for n, p in network.named_parameters()
        if p.dim() > 1
    }
    with torch.no_grad():
        for name, live in mask.items():
            network.get_parameter(name).mul_(live)
    x = torch.randn(6, *shape, generator=stream, dtype=dtype)
    y = torch.randint(CLASSES, (6,), generator=stream)
    direction = {
        n: torch.randn(p.shape, generator=stream, dtype=dtype)
        for n, p in network.named_parameters()
    }
    return network, x, y, mask, direction


def slow(network, x, labels):
    """Every example's gradient by torch.func, name -> [n, ...]."""
    buffers = dict(network.named_buffers())

    def loss(parameters, example, label):
        return F.cross_entropy(
            functional_call(network, (parameters, buffers), (example[None],)), label[None]
        )

    return vmap(grad(loss), (None, 0, 0))(
        {n: p.detach() for n, p in network.named_parameters()}, x, labels
    )


def per_example(network, x, labels, *, direction=None, **options):
    """(squared norms, dot products) of each example's loss gradient, put together from the parts
    that the estimators are made of.
    """
    mask, which, chunk = contract.check(network, x, labels, **options)
    wanted, found = gradients.asked(network, which, mask, direction), []
    for part, taken in gradients.passes(network, x, chunk, mask=mask):
        contract.check_labels(labels[part], *taken.logits.shape)
        cotangent = gradients.residual(taken.logits, labels[part])
        found += gradients.norms_and_dots(taken, cotangent, [wanted])
    return [torch.cat(values) for values in zip(*found, strict=True)]


def under(values, mask):
    return {n: v * mask[n] if mask and n in mask else v for n, v in values.items()}


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("which", ["all", "weights"])
@pytest.mark.parametrize("with_mask", [False, True])
def test_norms_dots_and_cosines(case, which, with_mask):
    """One pass gives what per-example gradients give, for every layer kind, with and without a
    mask, in chunks or whole.
    """
    network, x, y, mask, direction = made(case)
    mask = mask if with_mask else None
    counted = gradients.parameters(network, which)
    g = {n: v for n, v in under(slow(network, x, y), mask).items() if n in counted}
    d = {n: v for n, v in under(direction, mask).items() if n in counted}
    norms = sum(v.flatten(1).square().sum(1) for v in g.values())
    dots = sum((v * d[n]).flatten(1).sum(1) for n, v in g.items())
    for chunk in (None, 4, 1):
        ours = per_example(network, x, y, mask=mask, which=which, direction=direction, chunk=chunk)
        torch.testing.assert_close(ours[0], norms, rtol=1e-10, atol=1e-14)
        torch.testing.assert_close(ours[1], dots, rtol=1e-10, atol=1e-12)
    length = math.sqrt(sum(v.square().sum() for v in d.values()))
    torch.testing.assert_close(
        alignment.cosines(network, x, y, direction, masks=(mask,), which=which)[0],
        -dots / norms.sqrt() / length,
    )


@pytest.mark.parametrize("case", CASES)
def test_float32_is_close(case):
    """In float32 the squared norms agree with float64 to a few parts in 10^5."""
    network, x, y, mask, _ = made(case)
    exact = per_example(network, x, y, mask=mask)[0]
    single = per_example(network.float(), x.float(), y, mask=mask)[0]
    torch.testing.assert_close(single.double(), exact, rtol=5e-5, atol=1e-9)
    network.double()


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("with_mask", [False, True])
def test_the_exact_fisher(case, with_mask):
    """C - 1 backward passes give the expectation over all C labels: trace by example and layer, and
    the diagonal.
    """
    network, x, _, mask, _ = made(case)
    mask = mask if with_mask else None
    p = torch.softmax(network(x), -1).detach()
    trace, diagonal = 0.0, {}
    for c in range(CLASSES):
        g = under(slow(network, x, torch.full((len(x),), c)), mask)
        trace = trace + p[:, c] * sum(v.flatten(1).square().sum(1) for v in g.values())
        for n, v in g.items():
            diagonal[n] = diagonal.get(n, 0.0) + (
                p[:, c].view(-1, *[1] * (v.dim() - 1)) * v.square()
            ).mean(0)
    torch.testing.assert_close(fisher.exact(network, x, mask=mask), trace, rtol=1e-10, atol=1e-14)
    ours = fisher.diagonal(network, x, mask=mask)
    for n, v in diagonal.items():
        torch.testing.assert_close(ours[n], v, rtol=1e-9, atol=1e-14)
    assert sum(v.sum().item() for v in ours.values()) == pytest.approx(
        trace.mean().item(), rel=1e-9
    )


def test_large_networks_take_one_class_after_the_other(monkeypatch):
    """Where not all C - 1 gradients of 64 examples fit into memory, they go back one by one: the
    same sums.
    """
    network, x, _, mask, _ = made("resnet-20")
    assert gradients.at_once(network, x, CLASSES - 1) == CLASSES - 1
    together = fisher.exact(network, x, mask=mask, chunk=4)
    monkeypatch.setattr(gradients, "ACTIVATION_BYTES", 1000)
    assert gradients.at_once(network, x, CLASSES - 1) == 1
    apart = fisher.exact(network, x, mask=mask, chunk=4)
    torch.testing.assert_close(apart, together, rtol=1e-12, atol=0)


@pytest.mark.parametrize("case", CASES)
def test_the_jacobian(case):
    """The exact norm agrees with torch.func.jacrev, and its mean is an estimate over examples."""
    network, x, _, _, _ = made(case)
    full = vmap(jacrev(lambda example: network(example[None])[0]))(x).flatten(1).square().sum(1)
    torch.testing.assert_close(jacobian.exact(network, x, chunk=4), full.detach())
    assert jacobian.norm(network, x).value == pytest.approx(full.mean().item())


def test_sampled_labels_converge_within_their_error():
    """Over 80 repeated draws of labels and examples, the z-scores of the sampled trace have mean 0
    and standard deviation 1.
    """
    network, _, _, mask, _ = made("mlp")
    stream = rng.generator(0, "population")
    population = torch.randn(4000, 7, generator=stream, dtype=torch.float64)
    truth = fisher.exact(network, population, mask=mask).mean().item()
    z = []
    for draw in range(80):
        part = population[torch.randint(len(population), (150,), generator=stream)]
        e = fisher.trace(network, part, generator=rng.generator(draw, "labels"), mask=mask)
        assert e.samples == 150
        z.append((e.value - truth) / e.error)
    z = torch.tensor(z)
    assert abs(z.mean()) < 0.45
    assert 0.7 < z.std() < 1.4


def test_draws_average_and_the_diagonal_samples_the_same_thing():
    """Several draws are the mean of their squares; the sampled diagonal adds up to a trace."""
    network, x, _, mask, _ = made("lenet-5")
    exact = fisher.exact(network, x, mask=mask).mean().item()
    many = (
        fisher.sampled(network, x, generator=rng.generator(0, "l"), mask=mask, draws=300)
        .mean()
        .item()
    )
    diagonal = fisher.diagonal(network, x, generator=rng.generator(1, "l"), mask=mask, draws=300)
    assert many == pytest.approx(exact, rel=0.15)
    assert sum(v.sum().item() for v in diagonal.values()) == pytest.approx(exact, rel=0.15)


def test_confident_examples_keep_their_digits():
    """Where p of the label is 1 - 1e-9, the gradient norm in float32 is right to 1e-5 and not
    rounded to zero.
    """
    network = nn.Sequential(nn.Linear(2, 3, bias=False)).eval()
    with torch.no_grad():
        network[0].weight.copy_(torch.tensor([[20.0, 0.0], [0.0, 0.0], [0.0, 1.0]]))
    x, y = torch.tensor([[1.0, 0.5]]), torch.tensor([0])
    single = per_example(network, x, y)[0].item()
    double = per_example(network.double(), x.double(), y)[0].item()
    assert single > 0
    assert single == pytest.approx(double, rel=1e-5)
    assert fisher.exact(network.float(), x).item() == pytest.approx(
        fisher.exact(network.double(), x.double()).item(), rel=1e-5
    )


def test_gradient_flow():
    """The squared norm of the mean gradient, in chunks too, and parameters keep their
    requires_grad.
    """
    network, x, y, mask, _ = made("resnet-20")
    network.requires_grad_(False)
    mean = under({n: v.mean(0) for n, v in slow(network, x, y).items()}, mask)
    for chunk in (None, 4):
        assert gradients.flow(network, x, y, mask=mask, chunk=chunk) == pytest.approx(
            sum(v.square().sum().item() for v in mean.values())
        )
    assert not any(p.requires_grad for p in network.parameters())
    assert per_example(network, x, y)[0].isfinite().all()


def spoiled(value):
    network = nn.Sequential(nn.Linear(3, 3))
    with torch.no_grad():
        network[0].weight[0, 0] = value
    return network


BAD = {
    "nan": (spoiled(math.nan), {}, "'0.weight' holds values that are not finite"),
    "inf": (spoiled(math.inf), {}, "'0.weight' holds values that are not finite"),
    "mask shape": (
        nn.Sequential(nn.Linear(3, 3)),
        {"mask": {"0.weight": torch.ones(2, 3, dtype=torch.bool)}},
        r"mask of '0.weight'.*\(3, 3\)",
    ),
    "mask kind": (
        nn.Sequential(nn.Linear(3, 3)),
        {"mask": {"0.weight": torch.ones(3, 3)}},
        r"float32.*must be torch\.bool",
    ),
    "mask name": (
        nn.Sequential(nn.Linear(3, 3)),
        {"mask": {"1.weight": torch.ones(3, 3, dtype=torch.bool)}},
        "no such parameter",
    ),
    "which": (
        nn.Sequential(nn.Linear(3, 3)),
        {"which": "some"},
        "which is 'some'; allowed are all, weights",
    ),
    "chunk": (nn.Sequential(nn.Linear(3, 3)), {"chunk": 0}, "chunk is 0"),
}


@pytest.mark.parametrize("kind", BAD)
@pytest.mark.parametrize(
    "estimator",
    [
        fisher.exact,
        lambda n, x, mask=None, **k: alignment.cosines(
            n,
            x,
            torch.zeros(4, dtype=torch.int64),
            {name: torch.ones_like(p) for name, p in n.named_parameters()},
            masks=(mask,),
            **k,
        ),
    ],
)
def test_what_cannot_be_measured_is_refused(kind, estimator):
    """A clear error that names the layer, the parameter or the argument; never a silent number."""
    network, options, message = BAD[kind]
    with pytest.raises(MeasureError, match=message):
        estimator(network.eval(), torch.randn(4, 3, generator=rng.generator(0, "x")), **options)


def test_train_mode_no_examples_and_wrong_labels_are_refused():
    """Train mode, an empty set, labels out of range or of another number."""
    network, x, y, _, direction = made("resnet-20")
    with pytest.raises(MeasureError, match="train mode"):
        fisher.exact(network.train(), x)
    network.eval()
    with pytest.raises(MeasureError, match="no examples"):
        jacobian.exact(network, x[:0])
    with pytest.raises(MeasureError, match="labels hold 5; the network has 5 classes"):
        per_example(network, x, torch.full((6,), 5))
    with pytest.raises(MeasureError, match="labels hold -1"):
        gradients.flow(network, x, torch.full((6,), -1))
    with pytest.raises(MeasureError, match="for 6 examples"):
        per_example(network, x, y[:3])
    with pytest.raises(MeasureError, match="direction of"):
        alignment.cosines(network, x, y, {n: v[:1] for n, v in direction.items()})
    with pytest.raises(MeasureError, match="direction is zero"):
        alignment.cosines(network, x, y, {n: 0 * v for n, v in direction.items()})


def test_estimates():
    """Mean, standard error and count; one value has no error; it prints in a line."""
    e = Estimate.of(torch.tensor([1.0, 3.0]))
    assert (e.value, e.error, e.samples) == (2.0, pytest.approx(1.0), 2)
    assert Estimate.of(torch.tensor([1.0])).error == math.inf
    assert str(e) == "2 ± 1 (n = 2)"


def test_dense_init_reference():
    """A fresh LeNet-300-100 in float32: the exact trace is the mean of many sampled ones."""
    network = networks.build("lenet-300-100", (1, 28, 28), 10)
    weights = initializers.dense(network, "he", 0)
    network = network.to_empty(device="cpu").eval()
    with torch.no_grad():
        for name, p in network.named_parameters():
            p.copy_(weights[name])
    x = torch.randn(200, 1, 28, 28, generator=rng.generator(0, "x"))
    e = fisher.trace(network, x, generator=rng.generator(0, "labels"), draws=20)
    assert abs(e.value - fisher.exact(network, x).mean().item()) < 3 * e.error
