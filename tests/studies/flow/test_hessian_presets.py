"""The presets of the Hessian's notebook."""

import pytest

from lib.data import sets
from lib.models.networks import build, prunable
from lib.specs.fields import ParameterError
from lib.specs.parts import MaskUpdate
from lib.specs.run import gradually_pruned
from studies import presets
from studies.presets import settings, setup_of

FIGURE = "flow_fig10_hessian"


@pytest.mark.parametrize("preset", presets.PRESETS)
def test_presets(preset):
    """Moments lie within the run and updates on its mask's; small dense has about as many
    parameters as live in the sparse networks."""
    s = settings(FIGURE, preset)
    count, shape = sets.size(s.dataset), {"digits": (1, 8, 8), "mnist": (1, 28, 28)}[s.dataset]
    steps = s.epochs * -(-count // s.batch_size)
    assert setup_of(s, "fingerprint").sparse.epochs == s.epochs
    assert max(*s.snapshots, *(step + s.settle for step in s.around)) <= steps
    assert s.prune_end < steps
    assert (s.prune_end - s.prune_start) % s.prune_every == 0
    assert len(s.seeds) >= 5
    network = build(s.network, shape, 10, widths=s.widths)
    small = build("lenet-5" if s.network == "lenet-5" else "mlp", shape, 10, widths=s.small_widths)
    kernels = [network.get_parameter(name).numel() for name in prunable(network, s.keep_dense)]
    total = sum(p.numel() for p in network.parameters())
    live = total - sum(round(s.sparsity * n) for n in kernels)
    assert sum(p.numel() for p in small.parameters()) == pytest.approx(live, rel=0.02)


def test_the_pruned_networks_of_the_paper_preset_are_those_of_table_1():
    """Its sparse runs hang on the same specifications, so that what one notebook has pruned the
    other finds in the store."""
    keys = set()
    for figure in (FIGURE, "flow_table1_methods"):
        s = settings(figure, "paper")
        mask_update = MaskUpdate(
            method="gradual", every=s.prune_every, start=s.prune_start, end=s.prune_end
        )
        keys.add(
            gradually_pruned(
                setup_of(s, "fingerprint"), seed=0, sparsity=s.sparsity, mask_update=mask_update
            ).key
        )
    assert len(keys) == 1


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"around": [250]}, r"around is \[250\]: no mask changes at 250; give multiples of 100"),
        ({"around": [500, 200]}, r"around is \[500, 200\]: these optimiser steps must rise"),
        (
            {"snapshots": [50, 50]},
            r"snapshots is \[50, 50\]: these optimiser steps must rise, each may stand once",
        ),
        ({"snapshots": [0, 50]}, r"snapshots\[0\] is 0: .*greater than or equal to 1"),
        ({"settle": 100}, "settle is 100: it must lie in 1 to 99, before the next mask update"),
        ({"exact_examples": 0}, "exact_examples is 0: .*greater than or equal to 1"),
        ({"forms": ["layer"]}, "forms"),
    ],
    ids=lambda v: v if isinstance(v, str) else "-".join(v),
)
def test_bad_moments_are_refused(given, said):
    with pytest.raises(ParameterError, match=said):
        settings(FIGURE, **given)
