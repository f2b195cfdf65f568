"""Hidden units in one order: the function stays, and a shuffled network is found again."""

import pytest
import torch

from lib import rng
from lib.models import matching, networks

CASES = {
    "mlp": ((1, 8, 8), {"widths": (20, 12, 7)}),
    "lenet-5": ((1, 16, 16), {"widths": (4, 6, 12, 9)}),
}


@pytest.fixture(params=CASES)
def network(request):
    shape, options = CASES[request.param]
    network = networks.build(request.param, shape, 10, **options).to_empty(device="cpu").eval()
    for name, p in network.named_parameters():
        p.data.copy_(torch.randn(p.shape, generator=rng.generator(0, name)) / 3)
    return network


def orders(network, seed):
    sizes = [len(network.get_parameter(into)) for into, _ in matching.hidden(network)]
    return [torch.randperm(n, generator=rng.generator(seed, k)) for k, n in enumerate(sizes)]


def test_permuted_units_compute_the_same(network):
    """Another order of units is the same function, whatever the layers between them."""
    own = {name: p.detach() for name, p in network.named_parameters()}
    changed = matching.permuted(network, own, orders(network, 1))
    assert any(not torch.equal(own[name], changed[name]) for name in own)
    shape = CASES["mlp" if type(network) is networks.MLP else "lenet-5"][0]
    x = torch.rand(5, *shape, generator=rng.generator(0, "x"))
    found = torch.func.functional_call(network, changed, (x,))
    torch.testing.assert_close(found, network(x), rtol=1e-4, atol=1e-5)


def test_masks_are_permuted_alike(network):
    """A mask moves with the weights that it is made from, and keeps its count in each layer."""
    own = {name: p.detach() for name, p in network.named_parameters()}
    order = orders(network, 2)
    mask = {name: value > 0.1 for name, value in own.items()}
    moved = matching.permuted(network, mask, order)
    again = matching.permuted(network, own, order)
    for name, live in moved.items():
        assert torch.equal(live, again[name] > 0.1)
        assert live.sum() == mask[name].sum()


def test_a_shuffled_network_is_matched_back(network):
    """Weight matching finds the order in which a network was shuffled, noise or not."""
    own = {name: p.detach() for name, p in network.named_parameters()}
    for noise in (0.0, 0.05):
        moved = matching.permuted(network, own, orders(network, 3))
        moved = {
            n: v + noise * torch.randn(v.shape, generator=rng.generator(4, n))
            for n, v in moved.items()
        }
        back = matching.permuted(network, moved, matching.matched(network, moved, own, seed=5))
        near = sum((back[n] - own[n]).square().sum() for n in own)
        assert near <= sum(noise**2 * v.numel() for v in own.values()) * 1.5 + 1e-9


def test_other_networks_are_refused():
    """Residual sums tie orders of layers together: not here."""
    with pytest.raises(ValueError, match="ResNet cannot be matched"):
        matching.hidden(networks.build("resnet-20", (3, 8, 8), 10, width=0.25))
