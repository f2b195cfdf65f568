"""What selections and objectives cost: scores of a pool against its forward pass and output
gradients, and the passes of penalties, on one thread, in processor time."""

import time

import torch

from benchmarks.timing import Row, Spread
from lib import rng
from lib.masks import masks
from lib.metrics import fisher, gradients
from lib.models import initializers, networks
from lib.registry import objective
from lib.training.objectives import Step

TASKS = {
    "LeNet-5": ("lenet-5", (1, 28, 28)),
    "LeNet-300-100": ("lenet-300-100", (784,)),
    "ResNet-20": ("resnet-20", (3, 32, 32)),
}
POOL, BATCH, FEW, SPARSITY = 1280, 128, 64, 0.9


def run(quick: bool) -> tuple[list[Row], list[dict]]:
    """Rows with targets for pools, and the cost of each objective beside the plain pass."""
    rows, costs = [], []
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        for title, task in TASKS.items():
            rows += _pools(title, *_network(*task), 2 if quick else 7)
            costs += _penalties(title, *_network(*task), 2 if quick else 5)
    finally:
        torch.set_num_threads(threads)
    return rows, costs


def _network(name, shape):
    """(network under a random mask, the mask, a pool of its inputs)."""
    network = networks.build(name, shape, 10)
    values = initializers.dense(network, "he", 0)
    stream = rng.generator(0, "benchmark")
    scores = {
        n: torch.rand(values[n].shape, generator=stream)
        for n in networks.prunable(network, ("last",))
    }
    mask = masks.prune(scores, SPARSITY, "layer")
    network = network.to_empty(device="cpu").eval()
    for name, buffer in network.named_buffers():
        buffer.fill_(float(name.endswith("running_var")))
    for name, p in network.named_parameters():
        p.data.copy_(values[name] * mask.get(name, 1))
    whole = {
        n: mask.get(n, torch.ones_like(p, dtype=torch.bool)) for n, p in network.named_parameters()
    }
    return network, whole, torch.rand(POOL, *shape, generator=stream)


def _ratios(one, other, rounds):
    """Processor time of one thing over another's, in turns, after a first of each."""

    def seconds(work):
        begin = time.process_time()
        work()
        return time.process_time() - begin

    one(), other()
    return Spread.of(seconds(one) / seconds(other) for _ in range(rounds))


def _pools(title, network, mask, x, rounds):
    draws = rng.generator(0, "draws")

    def scored():
        fisher.sampled(network, x, generator=draws, mask=mask)

    def outputs():
        for _, taken in gradients.passes(network, x, None):
            logits = taken.logits
            list(taken.deltas([gradients.residual(logits, fisher.drawn(logits, draws))]))

    def loop():
        for one in x[:FEW].split(1):
            fisher.sampled(network, one, generator=draws, mask=mask)

    yield Row(f"{title}, pool of {POOL}: scores / forward and output gradients",
              _ratios(scored, outputs, rounds), 1.2, upper=True)  # fmt: skip
    each = _ratios(loop, scored, rounds)
    times = Spread(*(value * POOL / FEW for value in (each.median, each.low, each.high)))
    yield Row(f"{title}, pool of {POOL}: one example after the other / at once", times, 1.0)


def _penalties(title, network, mask, x, rounds):
    x, y = x[:BATCH], torch.arange(BATCH) % 10

    def plain():
        loss = torch.nn.functional.cross_entropy(network.train()(x), y)
        return torch.autograd.grad(loss, list(network.parameters()))

    gradient = dict(zip(mask, plain(), strict=True))
    for name in objective:

        def penalised(name=name):
            step = Step(network, mask, x, y, gradient, 0.0, rng.generator(0, "draws"))
            value = objective[name](step, 0.1)
            torch.autograd.grad(value, list(step.weights.values()), materialize_grads=True)

        seen = _ratios(penalised, plain, rounds)
        yield {"network": title, "objective": name, "passes beyond the plain one": str(seen)}
