"""Label smoothing and micro-batches: the gradients are those of PyTorch's own loss over the whole
batch."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from lib.models import networks
from lib.specs.parts import Recipe
from lib.training import engines
from lib.training.cohort import Cohort, Layout, filled


def cohort_of(network, members=2):
    """Members with small random weights, fresh statistics and no mask."""
    layout, rng = Layout(network), torch.Generator().manual_seed(0)
    weights = torch.randn(members, layout.size, generator=rng) * 0.2
    return Cohort(
        layout,
        weights,
        layout.fresh_buffers().repeat(members, 1),
        torch.ones(members, layout.size, dtype=torch.bool),
    )


def recipe(**given):
    return Recipe(epochs=1, batch_size=6, lr=0.1, **given)


SMOOTH = nn.Sequential(nn.Conv2d(1, 3, 3), nn.ReLU(), nn.Flatten(), nn.Linear(3 * 4, 5)).to("meta")


@pytest.mark.parametrize(
    "network",
    [networks.build("mlp", (1, 4, 4), 5, widths=(7,)), SMOOTH],
    ids=["batched", "in turn"],
)
@pytest.mark.parametrize(
    "given",
    [{}, {"label_smoothing": 0.1}, {"micro_batch": 4}, {"label_smoothing": 0.3, "micro_batch": 4}],
    ids=str,
)
def test_gradients_are_those_of_the_whole_batch(network, given):
    """Loss and gradient of each member equal autograd's of ``F.cross_entropy`` with that smoothing;
    6 examples are parts of 4 and 2."""
    cohort, rng = cohort_of(network), torch.Generator().manual_seed(1)
    x, y = torch.randn(2, 6, 1, 4, 4, generator=rng), torch.randint(5, (2, 6), generator=rng)
    losses = engines.engine(cohort, network, recipe(**given)).gradients(x, y)
    for k in range(2):
        module = filled(network, cohort.weights[k], cohort.buffers[k])
        loss = F.cross_entropy(
            module(x[k]), y[k], label_smoothing=given.get("label_smoothing", 0.0)
        )
        truth = torch.autograd.grad(loss, list(module.parameters()))
        torch.testing.assert_close(losses[k], loss.detach())
        torch.testing.assert_close(
            cohort.gradients[k], torch.cat([part.flatten() for part in truth])
        )


def test_batchnorm_normalises_over_a_micro_batch():
    """The gradient is the mean over two halves that are each normalised by themselves, and the
    running statistics have seen both."""
    network = nn.Sequential(
        nn.Flatten(), nn.Linear(9, 4, bias=False), nn.BatchNorm1d(4), nn.ReLU(), nn.Linear(4, 3)
    ).to("meta")
    cohort, rng = cohort_of(network, 1), torch.Generator().manual_seed(1)
    x, y = torch.randn(1, 8, 1, 3, 3, generator=rng), torch.randint(3, (1, 8), generator=rng)
    module = filled(network, cohort.weights[0], cohort.buffers[0]).train()
    loss = sum(
        F.cross_entropy(module(x[0, half]), y[0, half]) / 2 for half in (slice(0, 4), slice(4, 8))
    )
    truth = torch.autograd.grad(loss, list(module.parameters()))
    (found,) = engines.engine(cohort, network, recipe(micro_batch=4)).gradients(x, y)
    torch.testing.assert_close(found, loss.detach())
    torch.testing.assert_close(cohort.gradients[0], torch.cat([part.flatten() for part in truth]))
    torch.testing.assert_close(
        cohort.buffers[0], torch.cat([module[2].running_mean, module[2].running_var])
    )


class Attentive(nn.Module):
    """What no fast path covers: attention, LayerNorm, GroupNorm, BatchNorm and raw parameters."""

    def __init__(self):
        super().__init__()
        self.stem, self.groups = nn.Conv2d(1, 4, 2, 2), nn.GroupNorm(2, 4)
        self.first = nn.Parameter(torch.zeros(1, 1, 4))
        self.scale = nn.Parameter(torch.tensor(1.0))
        self.norm, self.attention = nn.LayerNorm(4), nn.MultiheadAttention(4, 2, batch_first=True)
        self.batch, self.head = nn.BatchNorm1d(4), nn.Linear(4, 3)

    def forward(self, x):
        places = self.groups(self.stem(x)).flatten(2).transpose(1, 2)
        x = torch.cat([self.first.expand(len(x), -1, -1), places], 1)
        normed = self.norm(x)
        x = x + self.scale * self.attention(normed, normed, normed, need_weights=False)[0]
        return self.head(self.batch(x[:, 0]))


@pytest.mark.parametrize("align", [None, 8])
def test_any_module_trains_in_turn(align, monkeypatch):
    """Losses, gradients, running statistics and logits are those of the module itself; on a GPU by
    way of copies, in which each parameter begins where cuDNN can read it."""
    if align:
        monkeypatch.setitem(engines.ALIGN, "cpu", align)
    with torch.device("meta"):
        network = Attentive()
    cohort, rng = cohort_of(network), torch.Generator().manual_seed(1)
    x, y = torch.randn(2, 6, 1, 4, 4, generator=rng), torch.randint(3, (2, 6), generator=rng)
    modules = [filled(network, *rows) for rows in zip(cohort.weights, cohort.buffers, strict=True)]
    assert modules[0].scale.shape == ()
    engine = engines.engine(cohort, network)
    assert isinstance(engine, engines.InTurn)
    for module in engine.modules if align else ():
        for tensor in module.state_dict(keep_vars=True).values():
            places = tensor.data_ptr(), getattr(tensor.grad, "data_ptr", int)()
            assert all(place % 32 == 0 for place in places) or not tensor.is_floating_point()
    losses = engine.gradients(x, y)
    for k, module in enumerate(modules):
        loss = F.cross_entropy(module.train()(x[k]), y[k])
        truth = torch.autograd.grad(loss, list(module.parameters()))
        assert torch.equal(losses[k], loss.detach())
        assert torch.equal(cohort.gradients[k], torch.cat([part.flatten() for part in truth]))
        views = cohort.layout.views(cohort.buffers[k], buffers=True)
        assert all(torch.equal(views[name], module.get_buffer(name)) for name in views)
    seen = torch.stack([module.eval()(x[0]) for module in modules])
    assert torch.equal(engine.logits(x[0]), seen)


def test_what_extends_an_mlp_is_none():
    """A subclass may pass its inputs on otherwise: it is no case for the batched products."""

    class Doubled(networks.MLP):
        def forward(self, x):
            return super().forward(2 * x)

    network = networks.build("mlp", (1, 4, 4), 5, widths=(7,))
    network.__class__ = Doubled
    assert isinstance(engines.engine(cohort_of(network), network), engines.InTurn)
