"""What is added to the loss: gradients exact by finite differences, under the mask, on schedule."""

import math

import pytest
import torch
from support import (
    carry_out,
    images_of,
    kill_at,
    layout_of,
    network_at,
    outcomes,
    same_in_all,
    same_results,
    small,
)
from torch.nn.functional import cross_entropy

from lib import fisher_penalty, registry, rng
from lib.metrics import fisher
from lib.metrics import jacobian as jacobians
from lib.models import networks
from lib.runs.store import Store
from lib.specs.arms import Objective
from lib.specs.run import Run, scratch
from lib.training import plan
from lib.training.objectives import Step

STORE = "lib.runs.store.Store"
NETWORKS = {
    "mlp": ("mlp", (1, 4, 4), {"widths": (6, 5), "activation": "tanh"}),
    "lenet": ("lenet-5", (1, 16, 16), {"widths": (2, 3, 6, 5), "pooling": "avg"}),
    "resnet": ("resnet-20", (1, 8, 8), {"width": 0.125}),
}
PENALTIES = ("fisher_batch", "fisher_examples", "jacobian", "jacobian_exact")


@pytest.fixture(params=NETWORKS)
def case(request):
    """(network in float64 under a mask, the mask, examples, labels)."""
    name, shape, options = NETWORKS[request.param]
    stream = rng.generator(0, "objective")
    network = networks.build(name, shape, 3, **options).to_empty(device="cpu").double()
    mask = {}
    for key, p in network.named_parameters():
        # without shifts, dead channels would lie on the kink of the ReLU behind them
        mask[key] = torch.rand(p.shape, generator=stream) < (0.7 if p.dim() > 1 else 2.0)
        p.data.copy_(torch.randn(p.shape, generator=stream) / 2 * mask[key])
    for key, buffer in network.named_buffers():
        buffer.fill_(float(key.endswith("running_var")))
    x = torch.rand(6, *shape, generator=stream, dtype=torch.float64)
    return network, mask, x, torch.arange(6) % 3


def step_of(case, smoothing=0.0):
    network, mask, x, y = case
    statistics = {name: buffer.clone() for name, buffer in network.named_buffers()}
    loss = cross_entropy(network.train()(x), y, label_smoothing=smoothing)
    parameters = dict(network.named_parameters())
    found = torch.autograd.grad(loss, list(parameters.values()))
    network.load_state_dict(statistics, strict=False)  # those of before: values are compared
    gradient = dict(zip(parameters, found, strict=True))
    draws = rng.generator(1, "draws")
    return Step(network, mask, x, y, gradient, smoothing, draws)


def value(name, case, weight=0.3):
    """(the objective's scalar, its gradient by name)."""
    step = step_of(case)
    found = registry.objective[name](step, weight)
    leaves = list(step.weights.values())
    gradients = torch.autograd.grad(found, leaves, materialize_grads=True)
    return found.item(), dict(zip(step.weights, gradients, strict=True))


@pytest.mark.parametrize("name", PENALTIES)
def test_gradients_are_exact(name, case):
    """By central differences in float64 along random directions, and none where a weight is
    pruned."""
    network, mask, *_ = case
    _, gradient = value(name, case)
    assert all((g[~mask[n]] == 0).all() for n, g in gradient.items())
    assert any(g.abs().max() > 1e-6 for g in gradient.values())
    parameters, h = dict(network.named_parameters()), 1e-7
    for number in range(3):
        stream = rng.generator(number, "direction")
        way = {n: torch.randn(p.shape, generator=stream) * mask[n] for n, p in parameters.items()}
        ends = []
        for sign in (1, -1):
            for n, p in parameters.items():
                p.data += sign * h * way[n]
            ends.append(value(name, case)[0])
            for n, p in parameters.items():
                p.data -= sign * h * way[n]
        slope = sum((gradient[n] * way[n]).sum().item() for n in way)
        assert slope == pytest.approx((ends[0] - ends[1]) / (2 * h), rel=2e-4, abs=1e-7)


def test_penalties_are_the_quantities_they_are_named_after(case):
    """The mean of sampled traces, the exact Jacobian norm (with BatchNorm: in eval mode alone)."""
    network, mask, x, _ = case
    found = value("fisher_examples", case, 1.0)[0]
    draws, network = rng.generator(1, "draws"), network.eval()
    usual = fisher.sampled(network, x, generator=draws, mask=mask).mean().item()
    assert found == pytest.approx(usual, rel=1e-6)
    if not any("bn" in name for name, _ in network.named_buffers()):
        exact = jacobians.norm(network, x).value
        assert value("jacobian_exact", case, 1.0)[0] == pytest.approx(exact, rel=1e-6)


def test_a_batch_reading_is_the_norm_of_the_mean(case):
    """Of one example the two readings of the Fisher penalty agree, but for BatchNorm."""
    network, mask, x, y = case
    if any(True for _ in network.named_buffers()):
        pytest.skip("BatchNorm sees batches")
    one = (network, mask, x[:1], y[:1])
    assert value("fisher_batch", one)[0] == pytest.approx(value("fisher_examples", one)[0])


def test_one_random_vector_is_unbiased():
    """Its mean over many draws is the exact norm."""
    network = networks.build("mlp", (1, 4, 4), 3, widths=(6,)).to_empty(device="cpu").double()
    stream = rng.generator(0, "numbers")
    for p in network.parameters():
        p.data.copy_(torch.randn(p.shape, generator=stream))
    x, y = torch.rand(5, 1, 4, 4, dtype=torch.float64), torch.arange(5) % 3
    mask = {n: torch.ones(p.shape, dtype=torch.bool) for n, p in network.named_parameters()}
    step = Step(network, mask, x, y, {}, 0.0, rng.generator(2, "draws"))
    draws = torch.stack([registry.objective["jacobian"](step, 1.0).detach() for _ in range(2000)])
    error = draws.std() / math.sqrt(len(draws))
    assert abs(draws.mean() - jacobians.norm(network.eval(), x).value) < 4 * error


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_sam_is_the_gradient_nearby(smoothing, case):
    """With the loss's own gradient it adds up to the loss's at θ + ρ g / ‖g‖, g masked."""
    network, mask, x, y = case
    step = step_of(case, smoothing)
    size = math.sqrt(sum(g.square().sum() for g in step.gradient.values()))
    change = torch.autograd.grad(registry.objective["sam"](step, 0.2), list(step.weights.values()))
    with torch.no_grad():
        for n, p in network.named_parameters():
            p += 0.2 * step.gradient[n] / size
    loss = cross_entropy(network.train()(x), y, label_smoothing=smoothing)
    there = torch.autograd.grad(loss, list(network.parameters()))
    for name, own, found in zip(step.weights, change, there, strict=True):
        torch.testing.assert_close(step.gradient[name] + own, found * mask[name])


def test_batchnorm_keeps_its_statistics(case):
    """A penalty's passes leave running statistics as the step's own pass left them."""
    network, *_ = case
    step = step_of(case)
    before = {n: b.clone() for n, b in network.named_buffers()}
    for name in registry.objective:
        registry.objective[name](step, 1.0)
    assert all(torch.equal(b, before[n]) for n, b in network.named_buffers())


# -- in training -----------------------------------------------------------------------------------


def arm(dense, name, **more):
    return scratch(dense, sparsity=0.7, objective=Objective(name=name, weight=0.05, **more))


def test_a_step_descends_the_sum(tmp_path):
    """One step of SGD is minus the rate times the gradient of loss and penalty, masked."""
    setup = small(epochs=1, sparse_epochs=1, batch_size=150, momentum=0.0, lr=0.1)
    dense = Run.dense(setup, seed=0)
    start = scratch(dense.under(small(epochs=1, sparse_epochs=0)), sparsity=0.7)
    plain, penalised = scratch(dense, sparsity=0.7), arm(dense, "jacobian_exact")
    begun, one, other = (d.tensors for d in outcomes([start, plain, penalised], tmp_path))
    network = networks.build("mlp", (1, 8, 8), 10, widths=(16,)).to_empty(device="cpu")
    layout = layout_of(dense)
    for n, w in layout.views(begun["weights"]).items():
        network.get_parameter(n).data.copy_(w)
    x = images_of(dense).x_train
    step = Step(network, layout.views(begun["mask"]), x, x, {}, 0.0, rng.generator(0))
    extra = registry.objective["jacobian_exact"](step, 0.05)
    change = torch.autograd.grad(extra, list(step.weights.values()), materialize_grads=True)
    row = layout.row(dict(zip(step.weights, change, strict=True)))
    torch.testing.assert_close(other["weights"], one["weights"] - 0.1 * row, rtol=1e-4, atol=1e-6)


def test_off_it_is_plain_training(tmp_path):
    """Of weight 0, or until the start of training alone, it has the bits of none."""
    dense = Run.dense(small(), seed=0)
    runs = [arm(dense, "fisher_batch", until=0.0), scratch(dense, sparsity=0.7)]
    one, other = outcomes(runs, tmp_path)
    assert torch.equal(one.tensors["weights"], other.tensors["weights"])
    assert "penalised" not in one.info


def test_signs_of_the_fisher_penalty(tmp_path):
    """Where it ends a positive weight has a lower trace than a negative one; passes are counted."""
    dense = Run.dense(small(epochs=4, sparse_epochs=4), seed=0)
    penalties = [fisher_penalty(weight, until=0.75) for weight in (0.05, -0.05)]
    runs = [scratch(dense, sparsity=0.7, objective=penalty, keep=(3,)) for penalty in penalties]
    done, traces = outcomes(runs, tmp_path), []
    for run, end in zip(runs, done, strict=True):
        network = network_at(run, end.tensors, "@3")
        traces.append(fisher.exact(network, images_of(run).x_train).mean().item())
        assert end.info["penalised"] == 9 * 150 * 3
    assert traces[0] < traces[1]


@pytest.mark.parametrize("network", ["mlp", "resnet-20"])
def test_in_any_company(network, tmp_path, one_thread):
    """Members with different objectives and none train in lock-step, with their bits alone."""
    tiny = {"network": network, "width": 0.25, "train_examples": 40, "batch_size": 8, "epochs": 1}
    tiny |= {"sparse_epochs": 1, "test_examples": 20}
    dense = Run.dense(small(**(tiny if network != "mlp" else {})), seed=0)
    names = list(registry.objective) if network == "mlp" else ["sam", "fisher_batch"]
    company = [*(arm(dense, name) for name in names), scratch(dense, sparsity=0.7)]
    for run in (company[-1], arm(dense, "sam"), arm(dense, "fisher_batch")):
        same_in_all(run, [[each for each in company if each != run]], tmp_path / run.key)


def test_anothers_mask_may_change_meanwhile(store, monkeypatch):
    """Another worker may change its member's mask between a penalty's passes forward and back."""
    cohorts, arranged, logits = [], plan.arranged, Step.logits

    def noted(*arguments):
        cohorts.append(arranged(*arguments))
        return cohorts[-1]

    def meddled(step, *arguments):
        found = logits(step, *arguments)
        mask = cohorts[-1][0].mask
        mask.copy_(mask.clone())
        return found

    monkeypatch.setattr(plan, "arranged", noted)
    monkeypatch.setattr(Step, "logits", meddled)
    carry_out([arm(Run.dense(small(epochs=1, sparse_epochs=1), seed=0), "fisher_batch")], store)


def test_killed_and_resumed(store, tmp_path):
    """SAM and a penalty that draws end with the same bits after a death."""
    dense = Run.dense(small(), seed=0)
    runs = [arm(dense, "sam"), arm(dense, "fisher_batch")]
    undisturbed = Store(tmp_path / "undisturbed")
    carry_out(runs, undisturbed)
    kill_at(runs, store.root, f"{STORE}.save_checkpoint", 6, True)
    carry_out(runs, store)
    same_results(runs, store, undisturbed)


def test_both_at_once(store):
    """A selection and an objective in one arm, as documented: named in the table, counted in its
    facts."""
    run = scratch(
        Run.dense(small(), seed=0), sparsity=0.95, form="neuron",
        selection={"name": "hard_first", "pool": 3}, objective=fisher_penalty(-0.01, until=0.1),
    )  # fmt: skip
    table = carry_out([run], store)
    assert set(table["selection"] + " " + table["objective"]) == {"hard_first fisher_batch"}
    info = store.get(run.key).info
    assert (info["scored"], info["penalised"]) == (2 * 96, 2 * 9 * 32)  # of 2 of 15 steps
