"""Passes at the cost of the live weights: equal to autograd's, taken where they pay, and in
training as good as any others.
"""

import pytest
import torch
import torch.nn.functional as F
from support import outcomes, same_in_all, same_results, small
from training.test_loop import CONVOLUTIONAL, MLPS, assert_as_usual, name_of
from training.test_mask_updates import assert_as_by_hand, moving, pruned

from lib.models import networks
from lib.runs import sweep
from lib.runs.store import Store
from lib.sparse import live
from lib.specs.run import Run, finetune, scratch
from lib.training import engines, loop
from lib.training.cohort import Cohort, Layout, filled

pytestmark = pytest.mark.skipif(
    not torch.backends.mkl.is_available(),
    reason="this build of torch has no products with sparse matrices",
)


@pytest.fixture
def everywhere(monkeypatch):
    """Sparse members take these passes however small they are; returns the groups that did."""
    made = []

    class Noted(live.LiveOnly):
        def __init__(self, group, *rest):
            made.append(group)
            super().__init__(group, *rest)

    monkeypatch.setattr(
        live,
        "pays",
        lambda network, mask, *_: (
            type(network) in live.DENSE and not all(m.all() for m in mask.values())
        ),
    )
    monkeypatch.setattr(live, "LiveOnly", Noted)
    return made


def group_of(network, density, members=2, seed=0):
    """A cohort of random weights and masks; the biases live."""
    rng = torch.Generator().manual_seed(seed)
    layout = Layout(network)
    masks = [
        layout.row(
            {
                n: torch.rand(s, generator=rng) < (density if len(s) > 1 else 2)
                for n, s in layout.parameters.items()
            }
        )
        for _ in range(members)
    ]
    mask = torch.stack(masks)
    return Cohort(
        layout,
        torch.randn(members, layout.size, generator=rng) * 0.2 * mask,
        torch.zeros(members, 0),
        mask,
    )


NETWORKS = [
    networks.build("mlp", (6, 6), 5, widths=(9, 7)),
    networks.build("mlp", (20,), 3, widths=(8,), activation="tanh"),
    networks.build("lenet-5", (1, 28, 28), 10),
    networks.build(
        "lenet-5", (3, 19, 22), 4, widths=(3, 4, 10, 6)
    ),  # odd sides: a pool leaves the last row or column out
    networks.build(
        "lenet-5", (2, 16, 16), 4, widths=(3, 4, 10, 6), activation="tanh", pooling="avg"
    ),
    networks.build("lenet-5", (1, 16, 16), 4, widths=(3, 4, 10, 6), activation="tanh"),
]
IDS = ["mlp", "mlp-tanh", "lenet-5", "lenet-5-odd", "lenet-5-avg", "lenet-5-tanh"]
SHAPES = [(6, 6), (20,), (1, 28, 28), (3, 19, 22), (2, 16, 16), (1, 16, 16)]


@pytest.mark.parametrize("density", [0.03, 0.3, 1.0])
@pytest.mark.parametrize(("network", "shape"), list(zip(NETWORKS, SHAPES, strict=True)), ids=IDS)
def test_losses_gradients_and_logits_are_autograds(network, shape, density):
    """For each member, with images that have equal pixels as real ones do, and with layers that are
    nearly or wholly dead.
    """
    group = group_of(network, density)
    rng = torch.Generator().manual_seed(1)
    x = torch.rand(2, 11, *shape, generator=rng) * (torch.rand(2, 11, *shape, generator=rng) < 0.4)
    classes = len(list(network.parameters())[-1])
    y = torch.randint(classes, (2, 11), generator=rng)
    engine = live.LiveOnly(group, network, shape)
    losses, logits = engine.gradients(x, y), engine.logits(x[0])
    for k in range(2):
        plain = filled(network, group.weights[k], group.buffers[k])
        loss = F.cross_entropy(plain(x[k]), y[k])
        loss.backward()
        torch.testing.assert_close(losses[k], loss.detach(), rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(logits[k], plain(x[0]).detach(), rtol=1e-4, atol=1e-5)
        mask = group.layout.views(group.mask[k])
        for name, found in group.layout.views(group.gradients[k]).items():
            expected = plain.get_parameter(name).grad * mask[name]
            torch.testing.assert_close(
                found, expected, rtol=1e-4, atol=1e-6, msg=lambda text, name=name: f"{name}: {text}"
            )


def test_a_changed_mask_changes_the_passes():
    """Weights that are new live, those that are gone leave no gradient behind."""
    network = NETWORKS[2]
    group = group_of(network, 0.1, members=1)
    engine = live.LiveOnly(group, network, SHAPES[2])
    x, y = torch.rand(1, 8, 1, 28, 28), torch.randint(10, (1, 8))
    engine.gradients(x, y)
    other = group_of(network, 0.1, members=1, seed=5)
    group.mask[0], group.weights[0] = other.mask[0], other.weights[0]
    engine.changed(0)
    engine.gradients(x, y)
    fresh = live.LiveOnly(other, network, SHAPES[2])
    fresh.gradients(x, y)
    assert torch.equal(group.gradients, other.gradients)
    assert not group.gradients[~group.mask].any()


def test_they_are_taken_where_they_pay():
    """For few live weights of a large layer: not for small networks, not for dense ones, not for
    unknown kinds.
    """

    def pays(name, shape, density, batch=128, **options):
        network = networks.build(name, shape, 10, **options)
        generator = torch.Generator().manual_seed(0)
        mask = {
            n: torch.rand(p.shape, generator=generator) < density
            for n, p in network.named_parameters()
        }
        return live.pays(network, mask, shape, batch)

    assert pays("lenet-300-100", (784,), 0.02)
    assert pays("lenet-5", (1, 28, 28), 0.05)
    assert not pays("lenet-300-100", (784,), 1.0)
    assert not pays("lenet-5", (1, 28, 28), 1.0)
    assert not pays("lenet-300-100", (64,), 0.02, batch=16)
    assert not pays("resnet-20", (3, 32, 32), 0.02)


@pytest.mark.parametrize("network", [*MLPS, *CONVOLUTIONAL[:2]], ids=name_of)
def test_members_train_as_usual(network, tmp_path, place_set, everywhere, one_thread):
    """Dense and sparse members side by side end where plain loops end."""
    place_set()
    assert_as_usual(
        small(**network, lr=0.02, momentum=0.9, weight_decay=1e-3), tmp_path, rtol=1e-3, atol=1e-5
    )
    assert everywhere


@pytest.mark.parametrize("form", ["mlp", "lenet-5"])
def test_members_with_changing_masks_train_as_written_out(
    form, tmp_path, place_set, everywhere, one_thread
):
    """Gradually pruned, SET, RigL and its inverse: steps and updates as a plain loop takes them."""
    if form == "mlp":
        assert_as_by_hand(
            small(schedule="cosine", weight_decay=0.01, scope="layer", widths=[20, 12]),
            3,
            tmp_path,
            1e-4,
            2e-6,
            "rate",
        )
    else:
        place_set("mnist", shape=(28, 28), classes=10, train=48, test=16)
        shape = {
            "dataset": "mnist",
            "network": "lenet-5",
            "widths": [4, 8, 30, 20],
            "train_examples": None,
            "test_examples": None,
        }
        setup = small(**shape, batch_size=16, lr=0.05, weight_decay=1e-3, scope="layer")
        assert_as_by_hand(setup, 5, tmp_path, 1e-3, 1e-5, "rate", every=2, end=8)
    assert everywhere


def test_a_member_does_not_depend_on_its_cohort(tmp_path, everywhere):
    """To the bit the same alone and among dense, pruned and changing members, whose places the
    grouping may change.
    """
    setup = small(widths=[40, 30], scope="layer")
    dense = [Run.dense(setup, seed=seed) for seed in range(3)]
    gradual = pruned(setup)
    others = [
        scratch(dense[1], sparsity=0.9),
        dense[2],
        *moving(gradual),
        finetune(dense[0], sparsity=0.5),
        gradual,
    ]
    same_in_all(finetune(dense[0], sparsity=0.8), [others[:1], others[:4], others], tmp_path)
    same_in_all(gradual, [dense[1:], others], tmp_path / "gradual")


def test_an_interrupted_cohort_goes_on(tmp_path, everywhere, monkeypatch):
    """Stopped in the fourth epoch, when gradual pruning has made members change places, and
    resumed: the same bits.
    """
    setup = small(widths=[24], scope="layer", epochs=5, sparse_epochs=5)
    gradual = [pruned(setup, seed=seed, sparsity=s) for seed, s in ((0, 0.5), (1, 0.8))]
    runs = [gradual[0], Run.dense(setup, seed=0), gradual[1], Run.dense(setup, seed=1)]
    outcomes(runs, tmp_path / "whole")
    real, orders = loop.Training.run_epoch, []

    def stopping(self, *rest):
        orders.append([member.run for member in self.members])
        if len(orders) == 4:
            raise KeyboardInterrupt
        real(self, *rest)

    monkeypatch.setattr(loop.Training, "run_epoch", stopping)
    monkeypatch.setattr(sweep, "CHECKPOINT_SECONDS", -1.0)
    with pytest.raises(KeyboardInterrupt):
        outcomes(runs, tmp_path / "stopped")
    assert orders[3] != orders[0]
    outcomes(runs, tmp_path / "stopped")
    assert len(orders) == 6, "it went on where it had stopped"
    same_results(runs, Store(tmp_path / "whole"), Store(tmp_path / "stopped"))


def test_the_engine_of_a_group():
    """Given the shape of the inputs a group takes these passes, otherwise the batched ones or
    autograd's.
    """
    network = NETWORKS[0]
    assert isinstance(
        engines.engine(group_of(network, 0.1), network, live_inputs=(6, 6)), live.LiveOnly
    )
    assert isinstance(engines.engine(group_of(network, 0.1), network), engines.BatchedMLP)
    assert isinstance(engines.engine(group_of(NETWORKS[2], 0.1), NETWORKS[2]), engines.InTurn)
