"""The study's claims: each can fail, and those that name a network are decided by it alone."""

import pytest

from studies import ledger
from studies.evidence import DECIDING, kind

FLOW = {name: entry for name, entry in ledger.ledger().items() if name.startswith("flow-")}
NETWORKS = ("LeNet-5", "VGG-16", "ResNet-50", "fully connected network", "MNIST", "300-100")


@pytest.mark.parametrize("claim", FLOW)
def test_each_says_how_it_could_come_out_the_other_way(claim):
    assert FLOW[claim]["otherwise"].strip()


@pytest.mark.parametrize(
    "claim", [c for c, e in FLOW.items() if any(n in e["says"] for n in NETWORKS)]
)
def test_what_names_a_network_or_a_set_is_decided_by_it_alone(claim):
    """Digits decide none of them; an identity holds in any network."""
    entry = FLOW[claim]
    made = {"preset": "quick", "dataset": "digits", "network": "mlp"}
    assert entry.get("names") or entry.get("about") == "any"
    assert entry.get("about") == "any" or kind(entry, made)[0] not in DECIDING
