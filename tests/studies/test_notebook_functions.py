"""Functions that notebooks define in the open: against scipy and by hand."""

import math
from itertools import combinations

import numpy as np
import pytest
import torch
from scipy import stats
from scipy.spatial.distance import jensenshannon, pdist, squareform
from sklearn.manifold import MDS
from support import of_notebook, probabilities

from lib.metrics import comparisons

KNOWN = {"torch": torch, "comparisons": comparisons, "combinations": combinations}
within, against = (
    of_notebook("flow_table2_functions", name, **KNOWN) for name in ("within", "against")
)
pruning_epoch = of_notebook("early_rule", "pruning_epoch")


def test_how_alike_networks_are_among_themselves_and_to_another(logits, labels):
    """Means over pairs, counted out."""
    found = within(logits[:3], labels)
    p = probabilities(logits)
    pairs = [(i, j) for i in range(3) for j in range(3) if i != j]
    chosen = logits.argmax(-1)
    assert found["accuracy"] == pytest.approx((chosen[:3] == labels).double().mean().item())
    assert found["ensemble"] == np.mean(p[:3].mean(0).argmax(-1) == labels.numpy())
    assert found["disagreement"] == pytest.approx(
        np.mean([(chosen[i] != chosen[j]).double().mean() for i, j in pairs])
    )
    assert found["kl"] == pytest.approx(
        np.mean([stats.entropy(p[i], p[j], axis=-1).mean() for i, j in pairs]), rel=1e-9
    )
    assert found["js"] == pytest.approx(
        np.mean([jensenshannon(p[i], p[j], axis=-1) ** 2 for i, j in pairs]), rel=1e-9
    )
    assert found["js_all"] == comparisons.js_all(logits[:3])
    other = against(logits[:3], logits[3])
    both = [(i, 3) for i in range(3)] + [(3, i) for i in range(3)]
    assert other["disagreement"] == pytest.approx(
        np.mean([(chosen[i] != chosen[3]).double().mean() for i in range(3)])
    )
    assert other["kl"] == pytest.approx(
        np.mean([stats.entropy(p[i], p[j], axis=-1).mean() for i, j in both]), rel=1e-9
    )
    assert other["js"] == pytest.approx(
        np.mean([jensenshannon(p[i], p[3], axis=-1) ** 2 for i in range(3)]), rel=1e-9
    )


@pytest.mark.parametrize("notebook", ["fig8_interpolation", "flow_fig5_lottery"])
def test_the_map_recovers_distances_of_the_plane(notebook):
    on_a_map = of_notebook(notebook, "on_a_map", MDS=MDS)
    places = np.random.default_rng(0).normal(size=(7, 2))
    distances = squareform(pdist(places))
    found = on_a_map(torch.from_numpy(distances))
    np.testing.assert_allclose(squareform(pdist(found)), distances, atol=1e-3)
    np.testing.assert_allclose(found.mean(0), 0, atol=1e-12)
    scaled = on_a_map(1000 * distances)
    np.testing.assert_allclose(squareform(pdist(scaled)), 1000 * distances, atol=1.0)


# -- the online rule -------------------------------------------------------------------------------


def says(values, patience, tolerance=0.0, step=1.0):
    """When the rule says so, of values that are ``step`` epochs apart."""
    looks = [(step * number, value) for number, value in enumerate(values)]
    return pruning_epoch(looks, patience=patience, tolerance=tolerance)


def test_the_rule_waits_for_its_patience():
    """It speaks ``patience`` epochs after the peak, and not before; of a signal that only rises it
    never does; within epochs likewise."""
    hill = [0, 1, 5, 9, 7, 6, 5, 4]
    assert [says(hill, patience) for patience in (0, 1, 2, 3)] == [4, 4, 5, 6]
    assert [says(hill, patience, step=0.25) for patience in (0.25, 0.4, 1)] == [1, 1.25, 1.75]
    assert says(range(50), 1) is None
    assert says([9, *range(8)], 3) == 3, "highest before training"


def test_the_rule_sees_no_future():
    """What comes after its word changes nothing."""
    past = [0, 3, 9, 8, 7]
    assert says(past, 2) == says([*past, 1e9, -1e9, math.nan], 2) == 4


def test_a_plateau_is_a_turn():
    """A signal that rises by less than the tolerance has turned; one that rises faster has not;
    what is no number is no rise."""
    slow, fast = (np.cumsum([1.0] + [step] * 30) for step in (0.001, 0.1))
    assert says(slow, 3, 0.01) is not None
    assert says(fast[:20], 3, 0.01) is None
    assert says([0, 1, 2, math.nan, math.nan], 2) == 4
    assert says([math.nan] * 5, 1) is None
