"""Networks that no formula covers: the same quantities as by plain autograd in float64, one example
after the other; a warning, once; what has no right answer is refused by name.
"""

import math
import warnings

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.utils import parametrizations

from lib import rng
from lib.masks import criteria, masks
from lib.metrics import alignment, fisher, gradient_snr, gradients, hessian, jacobian, passes
from lib.metrics.estimate import MeasureError
from lib.models import networks

SHAPE, CLASSES = (2, 6, 6), 4


class Grouped(nn.Module):
    """Convolutions with GroupNorm and functional activations."""

    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Conv2d(2, 4, 3), nn.Conv2d(4, 6, 3, stride=2)
        self.norm, self.head = nn.GroupNorm(2, 4), nn.Linear(6, CLASSES)

    def forward(self, x):
        x = F.relu(self.norm(self.first(x)))
        return self.head(F.relu(self.second(x)).mean((2, 3)))


class Transformer(nn.Module):
    """Patches, a class token and a layer of torch's own encoder: raw parameters and attention."""

    def __init__(self):
        super().__init__()
        self.patches = nn.Conv2d(2, 8, 3, 3)
        self.token, self.place = nn.Parameter(torch.zeros(1, 1, 8)), nn.Parameter(torch.zeros(5, 8))
        self.temperature = nn.Parameter(torch.tensor(1.0))
        self.layer = nn.TransformerEncoderLayer(8, 2, 12, dropout=0.0, batch_first=True)
        self.head = nn.Linear(8, CLASSES)

    def forward(self, x):
        x = self.patches(x).flatten(2).transpose(1, 2)
        x = torch.cat([self.token.expand(len(x), -1, -1), x], 1) + self.place
        return self.temperature * self.head(self.layer(x)[:, 0])


class Twice(nn.Module):
    """A layer used twice in a pass, and another whose weight is used once more outside of it."""

    def __init__(self, layer_twice=True):
        super().__init__()
        self.into, self.layer, self.out = nn.Linear(72, 5), nn.Linear(5, 5), nn.Linear(5, CLASSES)
        self.layer_twice = layer_twice

    def forward(self, x):
        x = self.layer(torch.tanh(self.into(x.flatten(1))))
        again = self.layer if self.layer_twice else lambda x: x @ self.layer.weight
        return self.out(again(torch.tanh(x)))


class Recurrent(nn.Module):
    """A recurrent layer of torch's own, which returns more than one tensor."""

    def __init__(self):
        super().__init__()
        self.layer, self.head = nn.LSTM(36, 5, batch_first=True), nn.Linear(5, CLASSES)

    def forward(self, x):
        return self.head(self.layer(x.flatten(2))[0][:, -1])


class Around(nn.Module):
    """Layers of which only the weights are used, never they themselves."""

    def __init__(self):
        super().__init__()
        self.into, self.out = nn.Linear(72, 5), nn.Linear(5, CLASSES)

    def forward(self, x):
        return self.out(F.linear(x.flatten(1), self.into.weight, self.into.bias).relu())


def dense(*layers):
    return nn.Sequential(nn.Flatten(), nn.Linear(72, 5), *layers, nn.Linear(5, CLASSES))


def tied():
    network = dense(nn.Linear(5, 5), nn.Tanh(), nn.Linear(5, 5), nn.Tanh())
    network[4].weight = network[2].weight
    return network


def doubled():
    network = dense(nn.Linear(5, 5), nn.ReLU())
    network[2].register_forward_hook(lambda module, inputs, output: 2 * output)
    return network


CASES = {
    "GroupNorm": (Grouped, "layer 'norm' is a GroupNorm"),
    "attention": (Transformer, "layer '.the network itself.' is a Transformer"),
    "LayerNorm": (lambda: dense(nn.LayerNorm(5), nn.GELU()), "layer '2' is a LayerNorm"),
    "PReLU": (lambda: dense(nn.PReLU()), "layer '2' is a PReLU"),
    "layer used twice": (Twice, "layer 'layer' is used more than once"),
    "weight used twice": (lambda: Twice(False), "parameter 'layer.weight' is used elsewhere"),
    "weights alone": (Around, "parameter 'into.weight' is used elsewhere"),
    "tied weights": (tied, "two layers share a parameter"),
    "a hook": (doubled, "layer '2' has hooks"),
    "in place": (lambda: dense(nn.ReLU(inplace=True)), "layer '1' is changed in place"),
    "weight norm": (
        lambda: dense(parametrizations.weight_norm(nn.Linear(5, 5))),
        "layer '2' is a ParametrizedLinear",
    ),
    "weight norm, as it was": (
        lambda: dense(nn.utils.weight_norm(nn.Linear(5, 5))),
        "layer '2' has hooks, or its weights in another form",
    ),
    "a sequence": (
        lambda: nn.Sequential(nn.Flatten(2), nn.Linear(36, 3), nn.Flatten(), nn.Linear(6, CLASSES)),
        r"a Linear layer is applied to inputs of shape \(1, 2, 36\)",
    ),
}  # fmt: skip


def made(case):
    """Its network in eval mode and float64, pruned by a mask; examples, labels, and that mask."""
    stream = rng.generator(0, "general")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the old weight norm is deprecated
        network = CASES[case][0]().double().eval()
    with torch.no_grad():
        for p in network.parameters():
            p.copy_(torch.randn(p.shape, generator=stream, dtype=torch.float64) * 0.5)
    mask = {
        name: torch.rand(network.get_parameter(name).shape, generator=stream) > 0.4
        for name in networks.kernels(network)
        if name in dict(network.named_parameters())
    }
    with torch.no_grad():
        for name, live in mask.items():
            network.get_parameter(name).mul_(live)
    x = torch.randn(5, *SHAPE, generator=stream, dtype=torch.float64)
    return network, x, torch.randint(CLASSES, (5,), generator=stream), mask


def gradient(network, loss):
    """By parameter name, by plain autograd."""
    named = dict(network.named_parameters())
    found = torch.autograd.grad(loss, list(named.values()), allow_unused=True)
    pairs = zip(named.items(), found, strict=True)
    return {name: torch.zeros_like(p) if g is None else g for (name, p), g in pairs}


def each(network, x, labels, mask):
    """Every example's masked loss gradient, name -> [n, ...], one pass for each."""
    rows = [
        gradient(network, F.cross_entropy(network(x[i : i + 1]), labels[i : i + 1]))
        for i in range(len(x))
    ]
    stacked = {name: torch.stack([row[name] for row in rows]) for name in rows[0]}
    return {name: g * mask[name] if name in mask else g for name, g in stacked.items()}


def norms(found):
    return sum(g.reshape(len(g), -1).square().sum(1) for g in found.values())


@pytest.mark.parametrize("case", CASES)
def test_the_fisher_and_cosines(case):
    """Trace by example, diagonal, and cosines, in chunks or whole."""
    network, x, y, mask = made(case)
    p = torch.softmax(network(x), -1).detach()
    trace, diagonal = 0.0, {}
    for c in range(CLASSES):
        found = each(network, x, torch.full((len(x),), c), mask)
        trace = trace + p[:, c] * norms(found)
        for name, g in found.items():
            weighted = p[:, c].view(-1, *[1] * (g.dim() - 1)) * g.square()
            diagonal[name] = diagonal.get(name, 0.0) + weighted.mean(0)
    for chunk in (None, 2):
        torch.testing.assert_close(
            fisher.exact(network, x, mask=mask, chunk=chunk), trace, rtol=1e-10, atol=1e-14
        )
    ours = fisher.diagonal(network, x, mask=mask)
    assert ours.keys() == diagonal.keys()
    for name, value in diagonal.items():
        torch.testing.assert_close(ours[name], value, rtol=1e-9, atol=1e-14)
    direction = {
        n: torch.randn(v.shape, generator=rng.generator(1, n), dtype=v.dtype)
        for n, v in network.named_parameters()
    }
    found = each(network, x, y, mask)
    ahead = {n: d * mask[n] if n in mask else d for n, d in direction.items()}
    dots = sum((found[n] * d).reshape(len(x), -1).sum(1) for n, d in ahead.items())
    length = math.sqrt(sum(d.square().sum() for d in ahead.values()))
    torch.testing.assert_close(
        alignment.cosines(network, x, y, direction, masks=(mask,))[0],
        -dots / norms(found).sqrt() / length,
    )


@pytest.mark.parametrize("case", ["attention", "tied weights", "weight used twice"])
def test_the_weights_alone(case):
    """Those of convolutions and linear layers; a shared one counts once."""
    network, x, y, mask = made(case)
    kernels = [n for n in networks.kernels(network) if n in dict(network.named_parameters())]
    found, p = 0.0, torch.softmax(network(x), -1).detach()
    for c in range(CLASSES):
        g = each(network, x, torch.full((len(x),), c), mask)
        found = found + p[:, c] * norms({name: g[name] for name in kernels})
    torch.testing.assert_close(fisher.exact(network, x, mask=mask, which="weights"), found)
    assert list(gradients.loss_gradient(network, x, y, which="weights")) == kernels


@pytest.mark.parametrize("case", CASES)
def test_what_plain_passes_give(case):
    """The mean gradient, its flow and its signal, the Jacobian, and products with the Hessian."""
    network, x, y, mask = made(case)
    mean = {name: g.mean(0) for name, g in each(network, x, y, mask).items()}
    ours = gradients.loss_gradient(network, x, y, mask=mask, chunk=2)
    for name, value in mean.items():
        torch.testing.assert_close(ours[name], value, rtol=1e-10, atol=1e-14)
    assert gradients.flow(network, x, y, mask=mask) == pytest.approx(
        sum(value.square().sum().item() for value in mean.values())
    )
    layers = gradient_snr.by_layer(network, x, y, batch_size=2, mask=mask)
    four = {name: g[:4].mean(0) for name, g in each(network, x, y, mask).items()}
    assert sum(layer.mean**2 for layer in layers.values()) == pytest.approx(
        sum(value.square().sum().item() for value in four.values())
    )
    inputs = x.clone().requires_grad_()
    logits = network(inputs).sum(0)
    rows = [torch.autograd.grad(logit, inputs, retain_graph=True)[0] for logit in logits]
    torch.testing.assert_close(
        jacobian.exact(network, x), sum(row.flatten(1).square().sum(1) for row in rows)
    )


@pytest.mark.parametrize("case", ["GroupNorm", "attention", "tied weights", "weight used twice"])
def test_the_hessian(case):
    """A product against the second backward pass, and the trace against the whole matrix."""
    network, x, y, mask = made(case)
    with torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH):
        loss = F.cross_entropy(network(x), y)
    named = dict(network.named_parameters())
    first = torch.autograd.grad(loss, list(named.values()), create_graph=True, allow_unused=True)
    vector = {
        n: torch.randn(p.shape, generator=rng.generator(2, n)).double() for n, p in named.items()
    }
    ahead = {n: v * mask[n] if n in mask else v for n, v in vector.items()}
    dot = sum((g * v).sum() for g, v in zip(first, ahead.values(), strict=True))
    second = gradient(network, dot)
    ours = hessian.hvp(network, x, y, vector, mask=mask)
    for name, value in second.items():
        expected = value * mask[name] if name in mask else value
        torch.testing.assert_close(ours[name], expected, rtol=1e-9, atol=1e-12)
    assert not hessian.identity_holds(network)[0]
    drawn = {"generator": rng.generator(0, "probes"), "probes": 200}
    found = hessian.trace(network, x, y, mask=mask, **drawn)
    exact = hessian.exact(network, x, y, mask=mask).trace().item()
    assert abs(found.value - exact) < 4 * found.error


@pytest.mark.parametrize("case", CASES)
def test_it_says_why_once(case):
    """A warning names the layer, at the first estimate and never again; numbers do not depend on
    it."""
    gradients._say.cache_clear()
    says = CASES[case][1]
    network, x, _, mask = made(case)
    with pytest.warns(UserWarning, match=f"{says}.*: no formula covers this network"):
        first = fisher.exact(network, x, mask=mask)
    with warnings.catch_warnings():
        warnings.filterwarnings("error", ".*no formula")
        assert torch.equal(fisher.exact(network, x, mask=mask), first)
        assert jacobian.exact(network, x).isfinite().all()


def test_what_formulas_cover_passes_by_them():
    """Activations by functions, and modules of a reader's own, need no formula."""

    class Own(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.norm = nn.Conv2d(2, 4, 3), nn.BatchNorm2d(4)
            self.head = nn.Linear(4, CLASSES)

        def forward(self, x):
            return self.head(F.silu(self.norm(self.first(x))).amax((2, 3)))

    network, x = Own().eval(), torch.randn(5, *SHAPE, generator=rng.generator(0, "x"))
    assert passes.examined(network, x)[0] == ""
    network.norm.register_forward_hook(lambda module, inputs, output: output)
    assert (
        passes.examined(network, x)[0] == "layer 'norm' has hooks, or its weights in another form"
    )


def test_large_networks_pass_in_chunks(monkeypatch):
    """Every example's gradient counts as memory, so that fewer pass at a time."""
    network, x, _, mask = made("attention")
    whole = fisher.exact(network, x, mask=mask)
    held = passes.examined(network, x)[1]
    assert held > sum(p.nbytes for p in network.parameters())
    monkeypatch.setattr(gradients, "ACTIVATION_BYTES", 6 * held)
    sizes = [part.stop - part.start for part, _ in gradients.passes(network, x, None)]
    assert max(sizes) == 2
    torch.testing.assert_close(fisher.exact(network, x, mask=mask), whole, rtol=1e-12, atol=0)


class Centred(nn.Module):
    """Examples that are centred on those that pass with them."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(72, CLASSES)

    def forward(self, x):
        return self.layer((x - x.mean(0)).flatten(1))


REFUSED = [
    (lambda: Centred().eval(), "logits of an example depend on the others"),
    (lambda: dense(nn.BatchNorm1d(5, track_running_stats=False)).eval(), "depend on the others"),
    (lambda: dense(nn.BatchNorm1d(5)).train(), "train mode"),
    (lambda: dense(nn.Dropout1d()), "train mode"),
]


@pytest.mark.parametrize("number", range(len(REFUSED)))
def test_examples_that_depend_on_one_another_are_refused(number):
    """None has a gradient, or a Jacobian, of its own."""
    network, says = REFUSED[number][0](), REFUSED[number][1]
    x = torch.randn(5, *SHAPE, generator=rng.generator(0, "x"))
    for estimator in (fisher.exact, jacobian.exact):
        with pytest.raises(MeasureError, match=says):
            estimator(network, x)


class Branching(Grouped):
    """A network whose way depends on the numbers that pass."""

    def forward(self, x):
        return super().forward(x if x.sum() > 0 else -x)


@pytest.mark.parametrize("kind", [Branching, Recurrent])
def test_a_network_that_torch_func_cannot_take_is_refused(kind):
    """What one pass for all gives, it still has."""
    network = kind().double().eval()
    x = torch.randn(1, *SHAPE, generator=rng.generator(0, "x"), dtype=torch.float64)
    x, y = x.expand(5, -1, -1, -1), torch.zeros(5, dtype=torch.int64)
    with pytest.raises(MeasureError, match=r"torch\.func cannot take each example's gradient"):
        fisher.exact(network, x)
    slopes = gradient(network, F.cross_entropy(network(x), y))
    for name, value in gradients.loss_gradient(network, x, y).items():
        torch.testing.assert_close(value, slopes[name])


@pytest.mark.parametrize("criterion", ["fisher", "fisher_loss", "snip", "grasp"])
@pytest.mark.parametrize("case", ["GroupNorm", "attention"])
def test_they_are_pruned_by_every_criterion_that_needs_gradients(case, criterion):
    """To the exact sparsity; SynFlow adds up paths, and refuses what is more than those."""
    network, x, y, _ = made(case)
    weights = {n: network.get_parameter(n).detach() for n in networks.prunable(network)}
    task = criteria.Task(lambda: network, x, y, 0.5)
    scores = criteria.scores(criterion, weights, rng.generator(0, "scores"), task)
    mask = masks.prune(scores, 0.5, "global")
    assert sum(int((~live).sum()) for live in mask.values()) == round(
        0.5 * sum(live.numel() for live in mask.values())
    )
    with pytest.raises(ValueError, match="synflow"):
        criteria.scores("synflow", weights, rng.generator(0, "scores"), task)
