"""Signals through a network as drawn, and one step against the gradient: against numpy."""

import copy
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from support import of_notebook

from lib import rng
from lib.metrics import geometry, gradients
from lib.metrics.curvature import Curvature
from lib.metrics.estimate import MeasureError
from lib.models import initializers, networks

NAMES = ("random_mask", "forward", "backward", "expected_forward", "expected_backward")
untrained = SimpleNamespace(**{name: of_notebook("flow_fig1_init", name) for name in NAMES})
DEEP = networks.build("mlp", (60,), 60, widths=(60,) * 4)
LENET = networks.build("lenet-5", (3, 16, 16), 10)


def kernels(network):
    return {name: p.shape for name, p in network.named_parameters() if p.dim() > 1}


def made(network, values):
    """The meta-device ``network`` with these values."""
    network = copy.deepcopy(network)
    network.load_state_dict(values, assign=True)
    return network.eval().requires_grad_(False)


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
    mask = untrained.random_mask(kernels(DEEP), sparsity, kind, rng.generator(seed, "mask"))
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
        (untrained.forward(network, x), z),
        (untrained.backward(network, x, cotangent), delta),
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
        untrained.forward(network, x),
        untrained.backward(network, x, torch.ones(3, 10)),
    )
    layers = list(network)
    z = torch.nn.Sequential(*layers[:4])(x).requires_grad_()
    (gradient,) = torch.autograd.grad(torch.nn.Sequential(*layers[4:])(z).sum(), z)
    for values, wanted in ((found, z.detach()), (back, gradient)):
        np.testing.assert_allclose(
            values["3.weight"].numpy(), wanted.square().mean((0, 2, 3)).numpy(), rtol=1e-4
        )
    with pytest.raises(MeasureError, match="the cotangent has shape"):
        untrained.backward(network, x, torch.ones(3, 9))


@pytest.mark.parametrize("form", initializers.FORMS)
@pytest.mark.parametrize("kind", ["uneven", "bounded"])
def test_the_closed_form_is_the_mean_over_draws(kind, form):
    """Every layer's mean square under one mask, over 300 draws of its weights and inputs.

    By numpy, within four standard errors. For gradients 3% more, as their closed form takes weights
    and derivatives as independent.
    """
    mask = untrained.random_mask(kernels(DEEP), 0.8, kind, rng.generator(5, "mask"))
    stream = np.random.default_rng(0)
    for fan, expected in (
        ("in", untrained.expected_forward),
        ("out", untrained.expected_backward),
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
    """Fan-in keeps 2 in every neuron that has inputs, whatever the mask, if none is idle; fan-out
    keeps 1 for gradients.
    """
    mask = untrained.random_mask(kernels(DEEP), 0.8, "uneven", rng.generator(0, "mask"))
    for layer in untrained.expected_forward(
        initializers.variances(DEEP, mask, "he", fan="in")
    ).values():
        torch.testing.assert_close(layer, torch.full_like(layer, 2.0))
    for layer in untrained.expected_backward(
        initializers.variances(DEEP, mask, "he", fan="out")
    ).values():
        torch.testing.assert_close(layer, torch.ones_like(layer))


def test_idle_neurons_pass_nothing_in_either_direction():
    variances = {
        "a": torch.tensor([[1.0, 1.0], [0.0, 0.0]]).double(),
        "b": torch.tensor([[1.0, 1.0]]).double(),
    }
    assert {name: v.tolist() for name, v in untrained.expected_forward(variances).items()} == {
        "a": [2.0, 0.0],
        "b": [1.0],
    }
    assert {
        name: v.tolist() for name, v in untrained.expected_backward(variances, 4.0).items()
    } == {"a": [2.0, 0.0], "b": [4.0]}
    with pytest.raises(MeasureError, match="linear layers"):
        untrained.expected_forward({"c": torch.zeros(2, 3, 5, 5)})


# -- steps -----------------------------------------------------------------------------------------


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
    given = torch.tensor(x), torch.tensor(y)
    mask = {"1.weight": torch.tensor(live)}
    gradient = gradients.loss_gradient(network, *given, mask=mask)
    hessian = Curvature(network, *given, mask=mask)
    flat = hessian.flat(gradient)
    assert (flat @ flat).item() == pytest.approx(slope)
    assert (flat @ (hessian @ flat)).item() == pytest.approx(bend)
    before = geometry.evaluate(network, *given)[0]
    for size in (1.0, 0.1, 0.001):
        moved = copy.deepcopy(network)
        for name, value in gradient.items():
            moved.get_parameter(name).sub_(size * value)
        assert geometry.evaluate(moved, *given)[0] - before == pytest.approx(
            loss(weight - size * g, -size * g_bias) - loss(weight, 0), abs=1e-12
        )
