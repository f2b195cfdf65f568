"""What the price study's ledger and presets must hold as a whole."""

import numpy as np
import pytest

from lib.specs.fields import ParameterError
from studies import ledger, presets
from studies.decide import MIN_SEEDS

CLAIMS = {name: entry for name, entry in ledger.ledger().items() if name.startswith("price-")}


def test_every_rule_says_how_it_could_come_out_the_other_way():
    for name, entry in CLAIMS.items():
        assert entry["otherwise"].endswith("."), name


@pytest.mark.parametrize("figure", sorted({entry["figure"] for entry in CLAIMS.values()}))
def test_every_preset_has_seeds_that_decide(figure):
    for preset in presets.PRESETS:
        for dataset in (None, "mnist", "cifar10"):
            try:
                found = presets.settings(figure, preset=preset, dataset=dataset)
            except ParameterError:
                continue  # no preset of this set
            assert len(found.seeds) >= MIN_SEEDS, (preset, dataset)


def test_table_2_has_sparsities_enough_for_its_trends():
    for preset in presets.PRESETS:
        assert len(np.unique(presets.settings("table2_curvature", preset=preset).sparsities)) >= 5
