"""Notebooks that train the same networks follow one another in one worker, so that they share them.

The first that runs leaves them in the run store; side by side each would train its own.
"""

from pathlib import Path

from xdist.scheduler import LoadScopeScheduling

from studies import presets

SHARED = ("dataset", "network", "widths", "epochs", "lr", "weight_decay", "noise")


class ByNetworks(LoadScopeScheduling):
    """Cells of notebooks whose preset quick has the same networks go to one worker."""

    def _split_scope(self, nodeid):
        figure = Path(nodeid.split("::")[0]).stem
        quick = presets.catalogue().get(figure, {}).get("quick")
        return str([quick.get(name) for name in SHARED]) if quick else figure


def pytest_xdist_make_scheduler(config, log):
    return ByNetworks(config, log)
