"""Two worker processes on this machine beside one process that has both cores."""

import tempfile
from functools import partial

from benchmarks.timing import Row, race
from lib import Run, carry_out
from lib.data import sets
from lib.runs import cluster as clusters
from lib.runs.store import Store
from studies.presets import Settings, setup_of

# what trains -> its settings; sixteen networks each, so that a worker has a cohort too
PLANS = {
    "LeNet-300-100, batch 128": {"network": "lenet-300-100", "epochs": 40, "batch_size": 128},
    "ResNet-20 of half width, batch 64": {
        "network": "resnet-20",
        "width": 0.5,
        "epochs": 1,
        "batch_size": 64,
    },
}
MEMBERS = 16
TWO = "local:2"


def train(settings: dict, cluster: str | None) -> int:
    """Train sixteen networks on the digits from an empty store; how many images they saw."""
    given = Settings(dataset="digits", lr=0.05, momentum=0.9, seeds=1, **settings)
    images = sets.load("digits", normalise=given.normalise)
    runs = [Run.dense(setup_of(given, images.fingerprint), seed=seed) for seed in range(MEMBERS)]
    with tempfile.TemporaryDirectory() as folder:
        carry_out(runs, store=Store(folder), cluster=cluster, progress=False, device="cpu")
    return MEMBERS * given.epochs * len(images.y_train)


def run(quick: bool) -> list[Row]:
    """Images a second of two workers over those of one process, round by round. The workers stay
    from the warm-up on."""
    with clusters._client(TWO).cluster:
        return _rows(quick)


def _rows(quick):
    rows = []
    for name, settings in PLANS.items():
        rates = race(
            {place: partial(train, settings, at) for place, at in (("one", None), ("two", TWO))},
            rounds=1 if quick else 5,
            seconds=0 if quick else 8,
        )  # fmt: skip
        rows.append(
            Row(f"{name}: two workers / one process", rates.ratio("two", "one"), 0.9, "times")
        )
    return rows
