"""Notebooks that train the same networks follow one another in one worker, so that they share them.

The first that runs leaves them in the run store; side by side each would train its own.
"""

import pytest

from studies import presets

SHARED = ("dataset", "network", "widths", "epochs", "lr", "weight_decay", "noise")


def pytest_collection_modifyitems(items):
    """Mark each cell with the group of its notebook, for ``--dist loadgroup``."""
    for item in items:
        quick = presets.catalogue().get(item.path.stem, {}).get("quick")
        group = [quick.get(name) for name in SHARED] if quick else item.path.stem
        item.add_marker(pytest.mark.xdist_group(str(group)))
