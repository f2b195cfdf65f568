"""A step at the cost of the live weights (``lib.sparse.live``) against the same step with
masked dense weights, by sparsity, on one thread."""

import torch

from benchmarks.timing import race
from lib import rng
from lib.models import networks
from lib.sparse import live
from lib.training import engines
from lib.training.cohort import Cohort, Layout, sgd_

TASKS = {"LeNet-300-100": ("lenet-300-100", (784,)), "LeNet-5": ("lenet-5", (1, 28, 28))}
SPARSITIES = (0.5, 0.8, 0.9, 0.95, 0.98)
BATCH = 128


def run(quick: bool) -> list[dict]:
    """A line per network and sparsity: images per second of one member by either passes, their
    ratio, and which ``lib`` chooses."""
    if not torch.backends.mkl.is_available():
        return [{"network": "skipped: this build of torch has no MKL"}]
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        return [
            _line(title, *task, sparsity, quick)
            for title, task in TASKS.items()
            for sparsity in SPARSITIES
        ]
    finally:
        torch.set_num_threads(threads)


def _line(title, name, shape, sparsity, quick):
    network = networks.build(name, shape, 10)
    layout, stream = Layout(network), rng.generator(0, "benchmark", sparsity)
    mask = {
        n: torch.rand(s, generator=stream) >= (sparsity if len(s) > 1 else -1)
        for n, s in layout.parameters.items()
    }
    row = layout.mask_row(mask)
    weights = 0.05 * torch.randn(layout.size, generator=stream) * row
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
    rates = race(contenders, 3 if quick else 7, 0.1 if quick else 0.5)
    return {
        "network": title,
        "sparsity": f"{sparsity:g}",
        "live weights alone, images/s": str(rates.rate("live")),
        "masked dense weights, images/s": str(rates.rate("dense")),
        "live / dense": str(rates.ratio("live", "dense")),
        "chosen": "live" if live.pays(network, mask, shape, BATCH) else "dense",
    }
