"""Starts without training: random masks, variances and signals against numpy, and the rules of Figure 1c on made-up tables."""

import copy

import numpy as np
import pandas as pd
import pytest
import torch

from lib import claims, rng
from lib.claims import flow_init
from lib.claims.decisions import NOT_TESTED, REFUTED, SUPPORTED, UNDECIDED, decide
from lib.masks import masks
from lib.metrics import descent, propagation
from lib.metrics.estimate import MeasureError
from lib.models import initializers, networks

DEEP = networks.build("mlp", (60,), 60, widths=(60,) * 4)
LENET = networks.build("lenet-5", (3, 16, 16), 10)


def kernels(network):
    return {name: p.shape for name, p in network.named_parameters() if p.dim() > 1}


def made(network, values):
    """The meta-device ``network`` with these values."""
    network = copy.deepcopy(network)
    network.load_state_dict(values, assign=True)
    return network.eval().requires_grad_(False)


# -- random masks ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["uniform", "bounded", "uneven"])
@pytest.mark.parametrize("sparsity", [0.0, 0.37, 0.8, 0.98])
def test_random_masks_are_exact_in_each_layer(kind, sparsity):
    mask = masks.random(kernels(LENET), sparsity, kind, rng.generator(0, "mask"))
    assert list(mask) == list(kernels(LENET))
    for name, live in mask.items():
        assert live.shape == kernels(LENET)[name]
        assert int((~live).sum()) == round(sparsity * live.numel())


def test_even_masks_give_every_neuron_as_many_inputs():
    for live in masks.random(kernels(LENET), 0.9, "even", rng.generator(0, "mask")).values():
        inputs = live[0].numel()
        assert set(live.flatten(1).sum(1).tolist()) == {inputs - round(0.9 * inputs)}


def test_masks_follow_their_generator():
    first, again, other = (
        masks.random(kernels(DEEP), 0.9, "uneven", rng.generator(seed, "mask"))
        for seed in (0, 0, 1)
    )
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not any(torch.equal(first[name], other[name]) for name in first)
    with pytest.raises(
        ValueError, match="'odd' is unknown; there are uniform, bounded, uneven, even"
    ):
        masks.random(kernels(DEEP), 0.9, "odd", rng.generator(0, "mask"))


def test_bounded_masks_are_those_of_the_study():
    """Zeros in proportion to min(1, t / k) for output neuron k, with t such that their mean is the sparsity; as its code draws them."""
    outputs, inputs, sparsity = 20, 5000, 0.9
    live = masks.random({"w": (outputs, inputs)}, sparsity, "bounded", rng.generator(0, "mask"))[
        "w"
    ]
    levels = np.linspace(0, outputs, 200_001)
    shares = np.minimum(1, levels[:, None] / np.arange(1, outputs + 1))
    expected = shares[np.searchsorted(shares.mean(1), sparsity)]
    found = 1 - live.double().mean(1).numpy()
    assert np.abs(found - expected).max() < 5 * np.sqrt(0.25 / inputs)
    assert (found[expected == 1] == 1).all()
    # the study's own drawing: uniform numbers up to k in output channel k, the lowest go
    stream = np.random.default_rng(0)
    drawn = stream.uniform(high=np.arange(1, outputs + 1), size=(inputs, outputs))
    theirs = (drawn <= np.sort(drawn.flatten())[int(sparsity * drawn.size)]).mean(0)
    assert np.abs(found - theirs).max() < 5 * np.sqrt(0.5 / inputs)


def test_uneven_masks_have_unequal_neurons_without_idle_ones():
    live = masks.random({"w": (200, 200)}, 0.9, "uneven", rng.generator(0, "mask"))["w"]
    for fans in (live.sum(1), live.sum(0)):
        assert fans.min() > 0
        assert fans.max() > 3 * fans.min()
    uniform = masks.random({"w": (200, 200)}, 0.9, "uniform", rng.generator(0, "mask"))["w"]
    assert live.sum(1).double().std() > 1.5 * uniform.sum(1).double().std()


# -- variances ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", initializers.FORMS)
@pytest.mark.parametrize("scheme", ["he", "glorot-normal", "glorot-uniform"])
def test_variances_are_those_of_the_draws(scheme, form):
    """Mean square of each neuron's weights over many draws against the closed form: within five standard errors."""
    network = networks.build("mlp", (20,), 8, widths=())
    mask = masks.random(kernels(network), 0.5, "uneven", rng.generator(1, "mask"))
    found = initializers.variances(network, mask, scheme, form=form)["1.weight"]
    draw = torch.stack(
        [
            initializers.sparse(network, mask, scheme, seed, form=form)[0]["1.weight"]
            for seed in range(2000)
        ]
    )
    live = mask["1.weight"]
    assert (found[~live] == 0).all()
    error = (draw.double().square().mean(0) / found - 1)[live]
    assert error.abs().max() < 5 * np.sqrt(2 / 2000)


@pytest.mark.parametrize("fan", initializers.FANS)
def test_variances_counted_with_numpy(fan):
    """Eq. 2 of the study for a convolution, from the mask alone."""
    mask = masks.random(kernels(LENET), 0.8, "bounded", rng.generator(2, "mask"))
    found = initializers.variances(LENET, mask, "he", fan=fan)
    for name, live in mask.items():
        alive = live.numpy().reshape(*live.shape[:2], -1)
        fan_in, fan_out = (np.maximum(alive.sum(axes), 1) for axes in ((1, 2), (0, 2)))
        units = {
            "in": fan_in[:, None] + 0 * fan_out,
            "out": fan_out + 0 * fan_in[:, None],
            "average": (fan_in[:, None] + fan_out) / 2,
        }[fan]
        np.testing.assert_allclose(
            found[name].numpy().reshape(alive.shape), alive * (2 / units)[..., None], rtol=1e-12
        )


def test_variances_under_a_full_mask_and_without_one():
    for name, value in initializers.variances(LENET, {}, "he").items():
        assert (value == 2 / kernels(LENET)[name][1:].numel()).all()
    with pytest.raises(ValueError, match="'odd' is unknown"):
        initializers.variances(LENET, {}, "he", form="odd")


# -- signals -----------------------------------------------------------------------------------------------------------


def by_hand(weights, x, cotangent):
    """z of every layer of a ReLU network without biases, and its gradient, with numpy."""
    z, a = [], x
    for weight in weights:
        z.append(a @ weight.T)
        a = np.maximum(z[-1], 0)
    delta = [cotangent]
    for weight, below in zip(weights[:0:-1], z[-2::-1], strict=True):
        delta.append((delta[-1] @ weight) * (below > 0))
    return z, delta[::-1]


def deep(seed, kind="uneven", form="neuron", fan="in", sparsity=0.8):
    """(network, its weights with numpy, the variances of its draws)."""
    mask = masks.random(kernels(DEEP), sparsity, kind, rng.generator(seed, "mask"))
    values, _ = initializers.sparse(DEEP, mask, "he", seed, form=form, fan=fan)
    weights = [value.double().numpy() for value in values.values() if value.dim() > 1]
    return made(DEEP, values), weights, initializers.variances(DEEP, mask, "he", form=form, fan=fan)


def test_mean_squares_against_numpy():
    network, weights, _ = deep(0)
    x, cotangent = (
        torch.randn(40, 60, generator=rng.generator(0, name)) for name in ("x", "cotangent")
    )
    z, delta = by_hand(weights, x.double().numpy(), cotangent.double().numpy())
    for found, expected in (
        (propagation.forward(network, x), z),
        (propagation.backward(network, x, cotangent), delta),
    ):
        assert list(found) == list(kernels(DEEP))
        for values, wanted in zip(found.values(), expected, strict=True):
            np.testing.assert_allclose(values.numpy(), (wanted**2).mean(0), rtol=1e-4, atol=1e-9)


def test_mean_squares_of_convolutions():
    """Over examples and places, against the layers one after the other and autograd."""
    network, x = (
        made(LENET, initializers.dense(LENET, "he", 0)),
        torch.randn(3, 3, 16, 16, generator=rng.generator(0, "x")),
    )
    found, back = (
        propagation.forward(network, x),
        propagation.backward(network, x, torch.ones(3, 10)),
    )
    layers = list(network)
    z = torch.nn.Sequential(*layers[:4])(x).requires_grad_()
    (gradient,) = torch.autograd.grad(torch.nn.Sequential(*layers[4:])(z).sum(), z)
    for values, wanted in ((found, z.detach()), (back, gradient)):
        np.testing.assert_allclose(
            values["3.weight"].numpy(), wanted.square().mean((0, 2, 3)).numpy(), rtol=1e-4
        )
    with pytest.raises(MeasureError, match="the cotangent has shape"):
        propagation.backward(network, x, torch.ones(3, 9))


@pytest.mark.parametrize("form", initializers.FORMS)
@pytest.mark.parametrize("kind", ["uneven", "bounded"])
def test_the_closed_form_is_the_mean_over_draws(kind, form):
    """Every layer's mean square under one mask, over 300 draws of its weights and inputs, by numpy: within four standard errors.

    For gradients 3% more, as their closed form takes weights and derivatives as independent.
    """
    mask = masks.random(kernels(DEEP), 0.8, kind, rng.generator(5, "mask"))
    stream = np.random.default_rng(0)
    for fan, expected in (
        ("in", propagation.expected_forward),
        ("out", propagation.expected_backward),
    ):
        rows = []
        for seed in range(300):
            values, _ = initializers.sparse(DEEP, mask, "he", seed, form=form, fan=fan)
            x, cotangent = stream.standard_normal((2, 50, 60))
            z, delta = by_hand(
                [value.double().numpy() for value in values.values() if value.dim() > 1],
                x,
                cotangent,
            )
            rows.append([(layer**2).mean() for layer in (z if fan == "in" else delta)])
        rows = np.array(rows)
        means = np.array(
            [
                layer.mean()
                for layer in expected(
                    initializers.variances(DEEP, mask, "he", form=form, fan=fan)
                ).values()
            ]
        )
        allowed = 4 * rows.std(0, ddof=1) / np.sqrt(len(rows)) + (
            0.03 * means if fan == "out" else 0
        )
        assert (np.abs(rows.mean(0) - means) < allowed).all(), (rows.mean(0) / means, fan)


def test_the_closed_form_by_neuron_is_a_constant():
    """Fan-in keeps 2 in every neuron that has inputs, whatever the mask, if none is idle; fan-out keeps 1 for gradients."""
    mask = masks.random(kernels(DEEP), 0.8, "uneven", rng.generator(0, "mask"))
    for layer in propagation.expected_forward(
        initializers.variances(DEEP, mask, "he", fan="in")
    ).values():
        torch.testing.assert_close(layer, torch.full_like(layer, 2.0))
    for layer in propagation.expected_backward(
        initializers.variances(DEEP, mask, "he", fan="out")
    ).values():
        torch.testing.assert_close(layer, torch.ones_like(layer))


def test_idle_neurons_pass_nothing_in_either_direction():
    variances = {
        "a": torch.tensor([[1.0, 1.0], [0.0, 0.0]]).double(),
        "b": torch.tensor([[1.0, 1.0]]).double(),
    }
    assert {name: v.tolist() for name, v in propagation.expected_forward(variances).items()} == {
        "a": [2.0, 0.0],
        "b": [1.0],
    }
    assert {
        name: v.tolist() for name, v in propagation.expected_backward(variances, 4.0).items()
    } == {"a": [2.0, 0.0], "b": [4.0]}
    with pytest.raises(MeasureError, match="linear layers"):
        propagation.expected_forward({"c": torch.zeros(2, 3, 5, 5)})


# -- steps -------------------------------------------------------------------------------------------------------------


def test_a_step_on_softmax_regression():
    """One linear layer: the loss, its gradient and its Hessian written out with numpy."""
    stream = np.random.default_rng(0)
    x, y, weight = (
        stream.standard_normal((30, 4)),
        stream.integers(0, 3, 30),
        stream.standard_normal((3, 4)),
    )
    live = stream.random((3, 4)) < 0.6
    weight *= live
    network = made(
        networks.build("mlp", (4,), 3, widths=()),
        {"1.weight": torch.tensor(weight), "1.bias": torch.zeros(3).double()},
    )

    def loss(w, b):
        logits = x @ w.T + b
        return (np.log(np.exp(logits).sum(1)) - logits[np.arange(30), y]).mean()

    logits = x @ weight.T
    p = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    residual = p - np.eye(3)[y]
    g, g_bias = (residual.T @ x / 30) * live, residual.mean(0)
    moved = x @ g.T + g_bias
    bend = ((p * moved**2).sum(1) - (p * moved).sum(1) ** 2).mean()
    slope = (g**2).sum() + (g_bias**2).sum()
    sizes = [1.0, 0.1, 0.001]
    found = descent.steps(
        network, torch.tensor(x), torch.tensor(y), sizes, mask={"1.weight": torch.tensor(live)}
    )
    for step, size in zip(found, sizes, strict=True):
        assert step.size == size
        assert step.change == pytest.approx(
            loss(weight - size * g, -size * g_bias) - loss(weight, 0), abs=1e-12
        )
        assert step.first == pytest.approx(-size * slope)
        assert step.second == pytest.approx(-size * slope + size**2 / 2 * bend)
    assert torch.equal(network[1].weight, torch.tensor(weight))  # left as it was


# -- rules -------------------------------------------------------------------------------------------------------------

SPARSITIES = (0.8, 0.89, 0.98)
SEEDS = range(6)


def row(part, seed, **more):
    return {
        "part": part,
        "seed": seed,
        "key": f"{part}{seed}",
        "dataset": "standard normal",
        "network": "mlp",
        "diverged": False,
        **more,
    }


def lenets(kept=1.0, masked=lambda s: (1 - s) ** 2, liu=1.0, kind="bounded"):
    """Output signals: the per-neuron form keeps ``kept`` of the dense one's at each sparsity."""
    rows = []
    for seed in SEEDS:
        common = {"scheme": "he", "kind": "", "form": "masked", "sparsity": 0.0}
        dense = 3.0 * (1 + 0.05 * (-1) ** seed)
        rows.append(row("signal", seed, **common, value=dense))
        for s in SPARSITIES:
            for form, share in (("masked", masked(s)), ("layer", liu), ("neuron", kept)):
                spread = 1 + 0.03 * (seed % 3 - 1)
                rows.append(
                    row(
                        "signal",
                        seed,
                        **{**common, "kind": kind, "form": form, "sparsity": s},
                        value=3.0 * share * spread,
                    )
                )
    return rows


def layers(part, growth=1.0, kind="uneven"):
    """Mean squares that grow by a factor from layer to layer, in the direction of the signal."""
    return [
        row(
            part,
            seed,
            kind=kind,
            form="neuron",
            layer=layer,
            expected=1.0,
            value=growth ** (layer if part == "forward" else -layer)
            * (1 + 0.02 * ((seed + layer) % 3)),
        )
        for seed in SEEDS
        for layer in range(1, 5)
    ]


def full(variance=0.0, draws=0.0, square=1.0):
    numbers = {"variance": variance, "draws": draws, "mean square": square}
    return [
        row(
            "full mask",
            seed,
            scheme=scheme,
            quantity=name,
            value=value + 0.001 * (seed - 2.5) * (name == "mean square"),
        )
        for seed in SEEDS
        for scheme in ("he", "glorot-normal")
        for name, value in numbers.items()
    ]


def fans(even=0.0, uneven=0.3):
    return [
        row("equal fan-in", seed, kind=kind, quantity=name, value=value)
        for seed in SEEDS
        for kind, name, value in (
            ("even", "variance", even),
            ("even", "draws", even),
            ("uneven", "mean difference", uneven),
        )
    ]


def moves(second=0.1, order=1.0):
    """Steps whose first-order error is step^order / 2, and whose second-order error is ``second`` of that."""
    rows = []
    for seed in SEEDS:
        for step in (0.001, 0.01, 0.1):
            error = step**order / 2 * (1 + 0.01 * seed)
            rows.append(
                row(
                    "step",
                    seed,
                    step=step,
                    value=-step,
                    first=-step * (1 + error),
                    second=-step * (1 + second * error),
                )
            )
    return rows


def verdicts(*parts):
    table = pd.DataFrame([each for part in parts for each in part])
    return claims.verdicts("flow_fig1_init", table, preset="quick").set_index("claim")["verdict"]


GOOD = (lenets(), layers("forward"), layers("backward"), full(), fans(), moves())


def test_what_holds_is_supported():
    assert (verdicts(*GOOD) == SUPPORTED).all()


@pytest.mark.parametrize(
    ("claim", "part", "change"),
    [
        ("flow-fig1c-signal", lenets, {"kept": 0.3}),
        ("flow-fig1c-signal", lenets, {"kept": 2.0}),
        ("flow-fig1c-signal", lenets, {"liu": 0.3}),
        ("flow-fig1c-signal", lenets, {"kept": 0.0}),  # networks that pass no signal count as zero
        ("flow-fig1c-signal", lenets, {"masked": lambda s: 1 / (1 - s)}),
        ("flow-init-forward-variance", layers, {"part": "forward", "growth": 0.6}),
        ("flow-init-forward-variance", layers, {"part": "forward", "growth": 1.5}),
        ("flow-init-backward-variance", layers, {"part": "backward", "growth": 0.6}),
        ("flow-init-reduces-to-dense", full, {"variance": 0.01}),
        ("flow-init-reduces-to-dense", full, {"draws": 0.01}),
        ("flow-init-reduces-to-dense", full, {"square": 1.2}),
        ("flow-liu-special-case", fans, {"even": 0.01}),
        ("flow-liu-special-case", fans, {"uneven": 0.0}),
        ("flow-descent-first-order", moves, {"second": 3.0}),
        ("flow-descent-first-order", moves, {"order": -0.5}),
    ],
)
def test_the_opposite_is_refuted(claim, part, change):
    assert verdicts(part(**change))[claim] == REFUTED
    assert (verdicts(part(**change)).drop(claim) == NOT_TESTED).all()


def test_what_a_table_cannot_say_is_not_tested():
    assert (verdicts([row("something", 0)]) == NOT_TESTED).all()
    assert verdicts(lenets(kind="uniform"))["flow-fig1c-signal"] == NOT_TESTED
    assert (
        verdicts([r for r in lenets() if r["form"] != "neuron"])["flow-fig1c-signal"] == NOT_TESTED
    )
    assert (
        verdicts([r for r in lenets() if r["sparsity"] in (0.0, 0.8)])["flow-fig1c-signal"]
        == NOT_TESTED
    )
    assert (
        verdicts([r for r in layers("forward") if r["layer"] < 3])["flow-init-forward-variance"]
        == NOT_TESTED
    )
    assert (
        verdicts([r | {"value": 0.0} for r in layers("forward")])["flow-init-forward-variance"]
        == NOT_TESTED
    )
    assert (
        verdicts([r for r in moves() if r["step"] == 0.1])["flow-descent-first-order"] == NOT_TESTED
    )


def test_a_wide_spread_decides_nothing():
    rows = [
        r | {"value": r["value"] * 4.0 ** (r["seed"] % 2)} if r["form"] == "neuron" else r
        for r in lenets(kept=0.6)
    ]
    assert verdicts(rows)["flow-fig1c-signal"] == UNDECIDED


def test_the_ratio_of_two_means():
    """Its mean is that ratio, and its standard error that of the bootstrap."""
    stream = np.random.default_rng(0)
    reference = stream.lognormal(0, 0.3, 400)
    numbers = 2 * reference * stream.lognormal(0, 0.2, 400)
    found = flow_init.ratio_of_means(numbers, reference)
    assert found.mean() == pytest.approx(numbers.mean() / reference.mean())
    picks = stream.integers(0, 400, (4000, 400))
    ratios = numbers[picks].mean(1) / reference[picks].mean(1)
    assert found.std(ddof=1) / 20 == pytest.approx(ratios.std(), rel=0.1)


def test_the_same_rule_for_other_masks():
    rows = [
        decide(e)
        for e in flow_init.signal_effects(pd.DataFrame(lenets(kept=0.3, kind="uniform")), "uniform")
    ]
    assert [r["verdict"] for r in rows] == [SUPPORTED] + [REFUTED] * len(SPARSITIES) + [
        SUPPORTED
    ] * len(SPARSITIES)
    assert rows[0]["low"] == rows[0]["high"] == pytest.approx(1)
    assert rows[1]["effect"] == pytest.approx(0.3 - 1.05, abs=0.02)
