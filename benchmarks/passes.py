"""A step at the cost of the live weights (``lib.sparse.live``) against the same step with
masked dense weights, by sparsity, on one thread."""

import time

import torch

from benchmarks.timing import race
from lib import rng
from lib.masks import criteria, masks
from lib.models import initializers, networks
from lib.sparse import live
from lib.training import engines
from lib.training.cohort import Cohort, Layout, sgd_

TASKS = {
    "LeNet-300-100": ("lenet-300-100", (784,), {}),
    "LeNet-5": ("lenet-5", (1, 28, 28), {}),
    "LeNet-5, twice as wide, CIFAR": ("lenet-5", (3, 32, 32), {"widths": (12, 32, 240, 168)}),
}
SPARSITIES = (0.5, 0.8, 0.9, 0.95, 0.98)
SCOPES = ("global", "uniform")
BATCH = 128


def run(quick: bool) -> list[dict]:
    """A line per network, sparsity and kind of mask: images per second of one member by either
    passes, their ratio, and which ``lib`` chooses.

    Masks are those of runs: the lowest magnitudes of He-initialised weights go. Ranked over the
    whole network, "global", that leaves the first convolution half dense; "uniform" prunes every
    layer alike.
    """
    if not torch.backends.mkl.is_available():
        return [{"network": "skipped: this build of torch has no MKL"}]
    with rng.on_threads(1):
        return [
            _line(title, *task, sparsity, scope, quick)
            for title, task in TASKS.items()
            for scope in SCOPES
            for sparsity in (SPARSITIES[1::2] if quick else SPARSITIES)
        ]


def _line(title, name, shape, options, sparsity, scope, quick):
    network = networks.build(name, shape, 10, **options)
    layout, stream = Layout(network), rng.generator(0, "benchmark", sparsity)
    start = initializers.dense(network, "he", 0)
    prunable = {n: start[n] for n in networks.prunable(network, ("last",))}
    scores = criteria.magnitude(prunable, stream, None)
    mask = masks.prune(scores, sparsity, scope)
    row = layout.mask_row(mask)
    weights = layout.row(start) * row
    x, y = (
        torch.rand(1, BATCH, *shape, generator=stream),
        torch.randint(10, (1, BATCH), generator=stream),
    )

    def stepping(make):
        member = Cohort(layout, weights[None].clone(), torch.zeros(1, 0), row[None])
        engine = make(member)

        def step():
            engine.gradients(x, y)
            sgd_(member, 1e-4, 0.9, False, 1e-4)
            return BATCH

        return step

    contenders = {
        "live": stepping(lambda member: live.LiveOnly(member, network, shape)),
        "dense": stepping(lambda member: engines.engine(member, network)),
    }
    rates = race(contenders, 3 if quick else 7, 0.1 if quick else 0.5, time.process_time)
    return {
        "network": title,
        "mask": scope,
        "sparsity": f"{sparsity:g}",
        "of the first layer": f"{1 - next(iter(mask.values())).float().mean():.2f}",
        "live weights alone, images/s": str(rates.rate("live")),
        "masked dense weights, images/s": str(rates.rate("dense")),
        "live / dense": str(rates.ratio("live", "dense")),
        "chosen": "live" if live.pays(network, layout.views(row), shape, BATCH) else "dense",
    }
