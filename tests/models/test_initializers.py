"""Initial weights have the distributions of their schemes, and each kernel draws for itself."""

import math

import pytest
import torch

from lib import rng
from lib.models import initializers, networks

LINEAR = networks.build("mlp", (400,), 10, widths=(300, 200))
CONVOLUTIONAL = networks.build("resnet-20", (3, 32, 32), 10)


def expected_std(scheme, shape):
    receptive = math.prod(shape[2:])
    fan_in, fan_out = shape[1] * receptive, shape[0] * receptive
    return {
        "he": math.sqrt(2 / fan_in),
        "he-fan-out": math.sqrt(2 / fan_out) if len(shape) > 2 else 0.01,
        "glorot-normal": math.sqrt(2 / (fan_in + fan_out)),
        "glorot-uniform": math.sqrt(
            2 / (fan_in + fan_out)
        ),  # the standard deviation of U(+-sqrt(6 / sum))
    }[scheme]


@pytest.mark.parametrize("scheme", initializers.VARIANCES)
@pytest.mark.parametrize("network", [LINEAR, CONVOLUTIONAL], ids=["linear", "convolutional"])
def test_moments(network, scheme):
    """Mean and variance of every kernel are those of the scheme, within five standard errors."""
    values = initializers.dense(network, scheme, seed=3)
    assert list(values) == [n for n, _ in network.named_parameters()]
    kurtosis = 1.8 if scheme == "glorot-uniform" else 3
    for name, value in values.items():
        if value.dim() < 2:
            continue
        std, n = expected_std(scheme, value.shape), value.numel()
        assert abs(value.mean()) < 5 * std / math.sqrt(n), name
        assert abs(value.var() / std**2 - 1) < 5 * math.sqrt((kurtosis - 1) / n), name


def test_glorot_uniform_is_bounded():
    """Its values fill the interval and do not leave it."""
    value = initializers.dense(LINEAR, "glorot-uniform", 0)["1.weight"]
    bound = math.sqrt(6 / (400 + 300))
    assert 0.999 * bound < value.abs().max() <= bound


def test_biases_and_batchnorm():
    """Biases and BatchNorm's shifts are 0, its scales 1."""
    values = initializers.dense(CONVOLUTIONAL, "he", 0)
    kinds = {
        n: networks.nn.BatchNorm2d
        for n, m in CONVOLUTIONAL.named_modules()
        if isinstance(m, networks.nn.BatchNorm2d)
    }
    flat = {n: v for n, v in values.items() if v.dim() == 1}
    assert len(flat) == 2 * len(kinds) + 1
    for name, value in flat.items():
        owner, _, kind = name.rpartition(".")
        assert (value == float(owner in kinds and kind == "weight")).all(), name


def test_draws_are_named():
    """The same seed and name give the same bits; another seed or name gives others."""
    first, again = (initializers.dense(LINEAR, "he", 5) for _ in range(2))
    assert all(torch.equal(first[n], again[n]) for n in first)
    for other in (
        initializers.dense(LINEAR, "he", 6),
        initializers.dense(LINEAR, "he", 5, "scratch"),
    ):
        assert not any(torch.equal(first[n], other[n]) for n in first if first[n].dim() > 1)


def test_a_kernel_does_not_depend_on_the_other_layers():
    """The first kernel is the same whatever comes after it, and equal kernels of one network
    differ.
    """
    wide, narrow = (
        initializers.dense(networks.build("mlp", (40,), 10, widths=w), "he", 5)
        for w in ((30, 30, 30), (30, 7))
    )
    assert torch.equal(wide["1.weight"], narrow["1.weight"])
    assert not torch.equal(wide["3.weight"], wide["5.weight"])


def test_unknown_scheme():
    """An unknown scheme is answered with the known ones."""
    with pytest.raises(
        ValueError,
        match="'hee': allowed are he, he-fan-out, glorot-normal, glorot-uniform",
    ):
        initializers.dense(LINEAR, "hee", 0)


def test_seeds_derive_from_every_part_of_the_name():
    """No two of many names share a generator, and the parts do not run into each other."""
    names = [
        (s, *n)
        for s in range(5)
        for n in [
            ("init",),
            ("scratch",),
            ("order", 1),
            ("order", 11),
            ("order", 1, 1),
            ("sol_d", "order", 1),
        ]
    ]
    seeds = {rng.derived_seed(*name) for name in names}
    assert len(seeds) == len(names)
    assert all(0 <= s < 2**63 for s in seeds)


# -- under a mask ----------------------------------------------------------------------------------


def uneven_mask(network, seed=0):
    """A random mask in which each neuron has a density of its own, from almost 0 to almost 1."""
    stream, mask = rng.generator(seed, "mask"), {}
    for name, p in network.named_parameters():
        if p.dim() > 1:
            rows, columns = (torch.rand(count, generator=stream) for count in p.shape[:2])
            share = torch.outer(rows, columns).view(*p.shape[:2], *[1] * (p.dim() - 2))
            mask[name] = torch.rand(p.shape, generator=stream) < share.sqrt()
    return mask


def counted_by_hand(live, o, i):
    """Live inputs of output neuron ``o`` and live outputs of input neuron ``i``, over all places of
    the kernel.
    """
    fan_in = sum(place for channel in live[o].view(live.shape[1], -1).tolist() for place in channel)
    fan_out = sum(
        place for channel in live[:, i].reshape(live.shape[0], -1).tolist() for place in channel
    )
    return fan_in, fan_out


@pytest.mark.parametrize("form", initializers.FORMS)
@pytest.mark.parametrize("scheme", initializers.VARIANCES)
@pytest.mark.parametrize("network", [LINEAR, CONVOLUTIONAL], ids=["linear", "convolutional"])
def test_under_a_full_mask_it_is_the_dense_one(network, scheme, form):
    """Bit for bit, and no neuron is without inputs; also where the mask names some layers only."""
    if (scheme, form) == ("he-fan-out", "neuron"):
        with pytest.raises(
            ValueError, match=r"'he-fan-out' has no form by neuron .*, and form is 'neuron'"
        ):
            initializers.sparse(network, {}, scheme, 3)
        return
    full = {
        name: torch.ones(p.shape, dtype=torch.bool)
        for name, p in network.named_parameters()
        if p.dim() > 1
    }
    for fan in (None,) if scheme == "he-fan-out" else (None, *initializers.FANS):
        expected = initializers.dense(network, scheme, 3, "scratch", fan=fan)
        for mask in (full, dict(list(full.items())[1:]), {}):
            values, idle = initializers.sparse(
                network, mask, scheme, 3, "scratch", form=form, fan=fan
            )
            assert list(values) == list(expected)
            assert all(torch.equal(values[name], expected[name]) for name in expected)
            assert idle == {}


@pytest.mark.parametrize("fan", initializers.FANS)
@pytest.mark.parametrize("scheme", ["he", "glorot-normal", "glorot-uniform"])
@pytest.mark.parametrize("shape", [(40, 30), (12, 10, 3, 3)], ids=["linear", "convolution"])
def test_each_weight_has_the_variance_of_its_own_neurons(shape, scheme, fan):
    """Eq. 2: the draws of the dense one, times the root of scale / fan with the fan counted by
    hand; and so their variance.
    """
    with torch.device("meta"):
        network = torch.nn.Sequential(
            torch.nn.Linear(*shape[::-1])
            if len(shape) == 2
            else torch.nn.Conv2d(shape[1], shape[0], 3)
        )
    live = uneven_mask(network)["0.weight"]
    values, _ = initializers.sparse(network, {"0.weight": live}, scheme, 3, fan=fan)
    counts = [[counted_by_hand(live, o, i) for i in range(shape[1])] for o in range(shape[0])]
    units = torch.tensor(
        [[{"in": a, "out": b, "average": (a + b) / 2}[fan] for a, b in row] for row in counts]
    )
    units = units.view(*shape[:2], *[1] * (len(shape) - 2))
    std = ((2 if scheme == "he" else 1) / units.clamp_min(1)).sqrt()
    stream = rng.generator(3, "init", "0.weight")
    standard = (
        (2 * torch.rand(shape, generator=stream) - 1) * 3**0.5
        if scheme == "glorot-uniform"
        else torch.randn(shape, generator=stream)
    )
    torch.testing.assert_close(
        values["0.weight"], standard * std * live, rtol=1e-4, atol=1e-6
    )  # near 0 the uniform loses digits
    ratio = (values["0.weight"] / std)[live]
    kurtosis = 1.8 if scheme == "glorot-uniform" else 3
    assert abs(ratio.var() - 1) < 5 * math.sqrt((kurtosis - 1) / len(ratio))


def test_by_layer_it_is_the_dense_one_over_the_live_share():
    """Liu et al.: dense / sqrt(density).

    And where all neurons have as many inputs, by neuron it is the same (He).
    """
    stream = rng.generator(0, "test")
    even = torch.zeros(300, 400, dtype=torch.bool)
    for row in even:
        row[torch.randperm(400, generator=stream)[:20]] = True
    dense = initializers.dense(LINEAR, "he", 3)["1.weight"]
    by_layer, by_neuron = (
        initializers.sparse(LINEAR, {"1.weight": even}, "he", 3, form=form)[0]["1.weight"]
        for form in ("layer", "neuron")
    )
    torch.testing.assert_close(by_layer, dense * even / 0.05**0.5)
    torch.testing.assert_close(by_layer, by_neuron)
    masked = initializers.sparse(LINEAR, {"1.weight": even}, "he", 3, form="masked")[0]["1.weight"]
    assert torch.equal(masked, dense * even)


DEEP = networks.build("mlp", (400,), 400, widths=(400,) * 6)


def variances(fan, form, backward):
    """Mean square of the signal behind each layer of a deep ReLU network under an uneven mask, from
    standard normal inputs, over seeds.
    """
    found = []
    for seed in range(10):
        values, _ = initializers.sparse(
            DEEP, uneven_mask(DEEP, seed), "he", seed, form=form, fan=fan
        )
        weights = [value for value in values.values() if value.dim() == 2]
        signal = torch.randn(100, 400, generator=rng.generator(seed, "signal"))
        on = (
            torch.rand((len(weights), 100, 400), generator=rng.generator(seed, "on")) < 0.5
        )  # a unit's derivative is 1 or 0
        squares = []
        for depth, weight in enumerate(reversed(weights) if backward else weights):
            signal = signal @ weight if backward else signal @ weight.t()
            squares.append(signal.square().mean())
            signal = signal * on[depth] if backward else signal.relu()
        found.append(torch.stack(squares))
    return torch.stack(found).mean(0)


@pytest.mark.parametrize(
    ("fan", "backward"), [("in", False), ("out", True)], ids=["forward", "backward"]
)
def test_signals_keep_their_variance(fan, backward):
    """By neuron the variance holds from layer to layer, of activations with fan-in and of gradients
    with fan-out; masked, it vanishes.
    """
    own = variances(fan, "neuron", backward)
    steps = own[1:] / own[:-1]
    assert ((steps > 0.8) & (steps < 1.25)).all(), steps
    masked = variances(fan, "masked", backward)
    assert (masked[1:] / masked[:-1] < 0.7).all()


def test_one_layer_keeps_the_variance_within_sampling_error():
    """z of every neuron with live inputs, over many draws: E z² = scale · mean of its live a² (Eq.

    11), within five standard errors.
    """
    network = networks.build("mlp", (50,), 30, widths=())
    mask = uneven_mask(network)
    live = mask["1.weight"]
    a = torch.randn(50, generator=rng.generator(0, "a"))
    z = torch.stack(
        [
            initializers.sparse(network, mask, "glorot-normal", seed, fan="in")[0]["1.weight"] @ a
            for seed in range(400)
        ]
    )
    expected = (live * a.square()).sum(1) / live.sum(1).clamp_min(1)
    kept = live.any(1)
    ratio = (z.square() / expected)[:, kept]
    assert abs(ratio.mean() - 1) < 5 * math.sqrt(2 / ratio.numel())
    assert (z[:, ~kept] == 0).all()


@pytest.mark.parametrize("form", initializers.FORMS)
def test_neurons_without_live_inputs_are_told(form):
    """They stay at zero and are named by layer; everything is finite, an empty layer included."""
    network = networks.build("lenet-5", (1, 16, 16), 10)
    mask = {
        name: torch.ones(p.shape, dtype=torch.bool)
        for name, p in network.named_parameters()
        if p.dim() > 1
    }
    first, second, *_, last = mask
    mask[first][2] = False
    mask[second][[1, 5]] = False
    mask[second][:, 3] = False  # a neuron without live outputs is none without inputs
    mask[last][:] = False
    values, idle = initializers.sparse(network, mask, "he", 0, form=form)
    assert idle == {first: [2], second: [1, 5], last: list(range(10))}
    for name, live in mask.items():
        assert values[name].isfinite().all()
        assert (values[name][~live] == 0).all()
        assert (values[name][live] != 0).all()


def test_what_does_not_fit_is_refused():
    """Unknown forms and fans, and masks of other parameters or shapes, are answered with what there
    is.
    """
    good = {"1.weight": torch.ones(300, 400, dtype=torch.bool)}
    for arguments, message in (
        (dict(form="neurone"), "'neurone' is unknown; there are masked, layer, neuron"),
        (dict(fan="inn"), "'inn' is unknown; there are in, out, average"),
        (dict(scheme="hee"), "'hee': allowed are he"),
        (
            dict(scheme="he-fan-out", form="layer", fan="in"),
            "and a fan of its own, .* fan 'in'; use 'he'",
        ),
        (
            dict(mask={"2.weight": good["1.weight"]}),
            r"'2.weight' is torch.bool .*; masks must be bool, and of 1.weight \(300, 400\), 1.b",
        ),
        (
            dict(mask={"1.weight": good["1.weight"].t()}),
            r"'1.weight' is torch.bool \(400, 300\); masks must be bool, and of 1.weight \(300, 4",
        ),
        (dict(mask={"1.weight": good["1.weight"].float()}), "'1.weight' is torch.float32"),
    ):
        with pytest.raises(ValueError, match=message):
            initializers.sparse(LINEAR, **{"mask": good, "scheme": "he", "seed": 0, **arguments})
