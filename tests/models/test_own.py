"""Networks of one's own: any sound module is built, drawn and pruned; an unsound one is refused."""

import math

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations

from lib.models import flops, initializers, networks
from lib.registry import initializer, network

SHAPE, CLASSES = (3, 8, 8), 5


@pytest.fixture
def register():
    """A function that registers a network as "mine" and builds it."""

    def built(entry, shape=SHAPE, **options):
        network(entry, name="mine", version="1")
        return networks.build("mine", shape, CLASSES, **options)

    yield built
    if "mine" in network:
        network.forget("mine")


class Transformer(nn.Module):
    """Patches, a class token, attention: parameters of every kind, some in raw form."""

    def __init__(self, shape, classes, *, width=1.0):
        super().__init__()
        channels, height, _ = shape
        size = round(8 * width)
        self.patches = nn.Conv2d(channels, size, 4, 4)
        self.token = nn.Parameter(torch.zeros(1, 1, size))
        self.place = nn.Parameter(0.02 * torch.randn(1, 1 + (height // 4) ** 2, size))
        self.scale = nn.Parameter(torch.full((size,), 0.1))
        self.attend = nn.MultiheadAttention(size, 2, batch_first=True)
        self.before, self.after = nn.LayerNorm(size), nn.LayerNorm(size)
        self.head = nn.Linear(size, classes)
        self.half = torch.tensor(0.5)

    def forward(self, x):
        x = self.patches(x).flatten(2).transpose(1, 2)
        x = torch.cat([self.token.expand(len(x), -1, -1), x], 1) + self.half * self.place
        y = self.before(x)
        x = x + self.scale * self.attend(y, y, y, need_weights=False)[0]
        return self.head(self.after(x)[:, 0])


def test_a_module_is_built_without_numbers(register):
    """Its shapes are its own, on the meta device; each call gives another module."""
    first, second = register(Transformer), networks.build("mine", SHAPE, CLASSES)
    assert first is not second
    assert all(p.device.type == "meta" for p in first.parameters())
    assert {n: p.shape for n, p in first.named_parameters()} == {
        n: p.shape for n, p in Transformer(SHAPE, CLASSES).named_parameters()
    }
    assert networks.options("mine") == {"width": 1.0}
    wide = networks.build("mine", SHAPE, CLASSES, width=2.0)
    assert wide.get_parameter("head.weight").shape == (CLASSES, 16)


def test_kernels_alone_are_pruned(register):
    """Of layers, whatever else has two or more dimensions."""
    made = register(Transformer)
    assert networks.prunable(made) == ["patches.weight", "attend.out_proj.weight", "head.weight"]
    assert networks.prunable(made, ("first", "last")) == ["attend.out_proj.weight"]

    def one_layer(shape, classes):
        return nn.Linear(shape[0], classes)

    assert networks.kernels(register(one_layer, shape=(7,))) == ["weight"]

    def normed(shape, classes):
        layer = parametrizations.weight_norm(nn.Linear(math.prod(shape), 4))
        return nn.Sequential(nn.Flatten(), layer, nn.Linear(4, classes))

    assert networks.kernels(register(normed)) == ["2.weight"]


def test_what_is_no_kernel_has_its_constructors_values(register):
    """Kernels by the scheme, their biases 0, all else as constructed under the run's own seed."""
    made = register(Transformer)
    state = torch.get_rng_state()
    values, again, other = (initializers.dense(made, "he", seed) for seed in (1, 1, 2))
    assert torch.equal(torch.get_rng_state(), state)
    assert list(values) == [name for name, _ in made.named_parameters()]
    assert all(torch.equal(values[name], again[name]) for name in values)
    drawn = {"patches.weight", "attend.out_proj.weight", "head.weight"}
    drawn |= {"place", "attend.in_proj_weight"}
    assert drawn == {name for name in values if not torch.equal(values[name], other[name])}
    for name in ("patches.bias", "head.bias", "attend.out_proj.bias", "before.bias", "token"):
        assert (values[name] == 0).all()
    assert (values["before.weight"] == 1).all()
    assert (values["scale"] == torch.tensor(0.1)).all()
    assert 0 < values["place"].std() < 0.04
    bound = math.sqrt(6 / (8 + 24))  # Xavier's, as nn.MultiheadAttention draws it
    assert 0.8 * bound < values["attend.in_proj_weight"].abs().max() <= bound
    assert abs(values["patches.weight"].std() / math.sqrt(2 / 48) - 1) < 0.15
    mask = {"head.weight": torch.rand(CLASSES, 8) < 0.5}
    sparse, _ = initializers.sparse(made, mask, "he", 1)
    assert all(torch.equal(sparse[n], values[n]) for n in values if n != "head.weight")
    assert (sparse["head.weight"][~mask["head.weight"]] == 0).all()


def test_a_module_that_nobody_constructed_is_refused():
    """A module on the meta device alone cannot say how its raw parameters were meant."""
    with torch.device("meta"):
        bare = nn.Sequential(nn.Embedding(3, 4), nn.Linear(4, 2))
    with pytest.raises(
        ValueError, match=r"'0.weight' is no kernel, bias or scale: .* build it by net"
    ):
        initializers.dense(bare, "he", 0)


def test_its_layers_cost_flops(register):
    """A linear layer at each place of a sequence, a convolution of one dimension."""

    def sequence(shape, classes):
        layers = nn.Flatten(2), nn.Conv1d(3, 6, 4, 4), nn.ReLU(), nn.Linear(16, 7)
        return nn.Sequential(*layers, nn.Flatten(), nn.Linear(42, classes, bias=False))

    made = register(sequence)
    assert flops.uses(made, SHAPE) == {"1.weight": 16, "3.weight": 6, "5.weight": 1}
    assert flops.forward(made, SHAPE) == 2 * (16 * 6 * 3 * 4 + 6 * 16 * 7 + 42 * CLASSES)


def test_an_edited_network_is_built_anew(register):
    """What was built under the same name before is not taken, nor when what it uses has changed."""
    sizes = [3]
    for size in (3, 4):
        made = register(lambda shape, classes: Head(sizes[0], classes))
        assert made.get_parameter("layers.1.weight").shape == (size, 192)
        sizes[0] += 1
    made = networks.build("mine", SHAPE, CLASSES)
    assert made.get_parameter("layers.1.weight").shape == (5, 192)


class Head(nn.Module):
    """Two linear layers, and whatever a test adds to them."""

    def __init__(self, size=4, classes=CLASSES, **more):
        super().__init__()
        self.layers = nn.Sequential(nn.Flatten(), nn.Linear(192, size), nn.Linear(size, classes))
        for name, value in more.items():
            setattr(self, name, value)

    def forward(self, x):
        return self.layers(x)


class Buffered(Head):
    def __init__(self, shape, classes):
        super().__init__()
        self.register_buffer("table", torch.arange(3.0))


class Viewing(Head):
    def forward(self, x):
        return self.layers(x.view(len(x), -1))


class Noisy(Head):
    def forward(self, x):
        return self.layers(x + torch.randn_like(x))


def tied(shape, classes):
    layer = nn.Linear(5, 5)
    return nn.Sequential(nn.Flatten(), nn.Linear(192, 5), layer, nn.ReLU(), layer)


REFUSED = [
    (tied, "shares parameters between modules, .*: 4.bias, 4.weight"),
    (Buffered, "holds buffers other than running statistics .*: table"),
    (
        lambda shape, classes: Head(extra=nn.Parameter(torch.zeros(2), requires_grad=False)),
        "holds parameters that are frozen or not float32: extra",
    ),
    (
        lambda shape, classes: Head(extra=nn.Parameter(torch.zeros(2, dtype=torch.float64))),
        "holds parameters that are frozen or not float32: extra",
    ),
    (
        lambda shape, classes: Head(extra=nn.BatchNorm1d(4, momentum=None)),
        "has running statistics without a momentum: extra",
    ),
    (
        lambda shape, classes: nn.Sequential(Head(), nn.Dropout(0.1)),
        r"draws random numbers that no seed of a run reaches: in its forward pass \(dropout\?\)",
    ),
    (lambda shape, classes: Noisy(), "draws random numbers"),
    (
        lambda shape, classes: Head(classes=7),
        r"must return logits \[n, 5\] for n images of shape \[3, 8, 8\]: for n = 2 it .*\[2, 7\]",
    ),
    (lambda shape, classes: nn.Sequential(nn.Linear(8, 5)), r"must return logits \[n, 5\]"),
    (lambda shape, classes: nn.LSTM(8, 5), "cannot be made .*: ValueError: LSTM"),
    (lambda shape, classes: "an mlp", "is a str: it must be, or give, a torch.nn.Module"),
    (
        lambda shape, classes: Viewing(),
        r"cannot be made .* two images of shape \[3, 8, 8\]: .*reshape",
    ),
    (lambda shape, classes, depth: Head(), "cannot be made .*: TypeError: .*'depth'"),
    (lambda: Head(), "cannot be made for 5 classes .*: TypeError: "),
]


@pytest.mark.parametrize("number", range(len(REFUSED)), ids=lambda n: REFUSED[n][1][:30])
def test_what_cannot_be_trained_is_refused(register, number):
    """Before any training, with the name of the network and what is wrong with it."""
    entry, says = REFUSED[number]
    state = torch.get_rng_state()
    with pytest.raises(ValueError, match=f"network 'mine' {says}"):
        register(entry)
    assert torch.equal(torch.get_rng_state(), state)


def test_an_initializer_of_ones_own():
    """It draws each kernel from the kernel's generator, dense and by neuron.

    What it cannot, it says.
    """

    @initializer(name="lecun", version="1")
    def lecun(shape, fan_in, fan_out, generator):
        return torch.randn(shape, generator=generator) / torch.as_tensor(fan_in).float().sqrt()

    @initializer(name="broken", version="1")
    def broken(shape, fan_in, fan_out, generator):
        return torch.zeros(2)

    try:
        made = networks.build("mlp", (400,), 10, widths=(300,))
        values, he = (initializers.dense(made, scheme, 3) for scheme in ("lecun", "he"))
        torch.testing.assert_close(values["1.weight"] * math.sqrt(2), he["1.weight"])
        mask = {"1.weight": torch.rand(300, 400, generator=torch.Generator()) < 0.2}
        ours, theirs = (initializers.sparse(made, mask, s, 3)[0] for s in ("lecun", "he"))
        torch.testing.assert_close(ours["1.weight"] * math.sqrt(2), theirs["1.weight"])
        with pytest.raises(ValueError, match="init 'lecun' has no known variance: he, he-fan-out"):
            initializers.variances(made, mask, "lecun")
        with pytest.raises(ValueError, match=r"'broken' gives '1.weight' of shape \[300, 400\]"):
            initializers.dense(made, "broken", 0)
    finally:
        initializer.forget("lecun")
        initializer.forget("broken")
