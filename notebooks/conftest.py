"""Notebooks that train the same networks follow one another in one worker, so that they share them.

The first that runs leaves them in the run store; side by side each would train its own.
"""

import pytest

from studies import presets

SHARED = ("dataset", "network", "widths", "epochs", "lr", "weight_decay", "noise")


def networks(figure):
    """What the networks of a figure's preset quick have in common; its name if it has no preset."""
    quick = presets.catalogue().get(figure, {}).get("quick")
    return tuple(str(quick.get(name)) for name in SHARED) if quick else figure


@pytest.hookimpl(tryfirst=True)  # before xdist reads the marks
def pytest_collection_modifyitems(items):
    """Mark each cell with the first notebook of its kind, for ``--dist loadgroup``."""
    first = {}
    for item in items:
        group = first.setdefault(networks(item.path.stem), item.path.stem)
        item.add_marker(pytest.mark.xdist_group(group))
