"""A step at the cost of the live weights (``lib.sparse.live``) against the same step with
masked dense weights, by sparsity, on one thread."""

import time

import torch

from benchmarks.timing import race
from lib import rng
from lib.masks import criteria, masks
from lib.models import initializers, networks
from lib.sparse import live
from lib.sparse.patterns import Pattern
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


def first_layer(quick: bool) -> list[dict]:
    """What a step spends in the first convolution of LeNet-5, with its pool and ReLU, 0.95 sparse by
    a global mask: as a sparse matrix, and, all weights computed with, in two dense ways."""
    lines = []
    with rng.on_threads(1):
        for title, (name, shape, options) in list(TASKS.items())[1:]:
            network = networks.build(name, shape, 10, **options)
            layout, start = Layout(network), initializers.dense(network, "he", 0)
            names, stream = networks.prunable(network, ("last",)), rng.generator(0, "benchmark")
            scores = criteria.magnitude({n: start[n] for n in names}, stream, None)
            row = layout.mask_row(masks.prune(scores, 0.95, "global"))
            member = Cohort(layout, (layout.row(start) * row)[None], torch.zeros(1, 0), row[None])
            x = torch.rand(BATCH, *shape, generator=stream)
            steps = live.LiveOnly(member, network, shape).steps[0][:3]
            native = torch.nn.Sequential(*list(next(member.modules(network)).children())[:3])
            contenders = {
                "sparse matrix": _through(steps, x),
                "torch's convolution": _natively(native, x),
                "product with gathered patches": _through(
                    [_Gathered(native[0].weight.detach(), shape), *steps[1:]], x
                ),
            }
            rates = race(contenders, 3 if quick else 7, 0.1 if quick else 0.5, time.process_time)
            density = row[: native[0].weight.numel()].float().mean()
            said = {name: str(rates.rate(name)) for name in contenders}
            lines.append({"network": title, "of its weights live": f"{density:.2f}", **said})
    return lines


def _through(steps, x):
    @torch.inference_mode()
    def work():
        out, backs = live.through(steps, x.flatten(1).t().contiguous())
        delta = torch.ones_like(out)
        for back in backs:
            delta = back(delta)
        return BATCH

    return work


def _natively(module, x):
    def work():
        out = module(x)
        columns = out.detach().flatten(1).t().contiguous()  # as the next layer takes them
        out.backward(columns.t().reshape(out.shape))
        return BATCH

    return work


class _Gathered:
    """A convolution [outputs, inputs] of batches in columns, a row of output places at a time, so
    that the patches stay in the cache; its backward pass gives the gradient in the weights."""

    def __init__(self, weight, shape):
        self.weight, self.blocks = weight.flatten(1), 4  # of the outputs that a 2x2 pool compares
        full = Pattern("all", torch.ones_like(weight, dtype=torch.bool), shape)
        reads = full.reads[: self.weight.shape[1]].unflatten(1, (self.blocks, -1))
        side = int(reads.shape[2] ** 0.5)
        self.parts = [
            (block, place, reads[:, block, place : place + side].flatten())
            for block in range(self.blocks)
            for place in range(0, reads.shape[2], side)
        ]
        self.shape, self.side = (self.blocks, len(weight), reads.shape[2]), side

    def __call__(self, x):
        out = x.new_empty(*self.shape, x.shape[1])
        for block, place, index in self.parts:
            patches = x.index_select(0, index).view(self.weight.shape[1], -1)
            product = (self.weight @ patches).unflatten(1, (self.side, -1))
            out[block, :, place : place + self.side] = product

        def back(delta):
            delta, gradient = delta.view(out.shape), torch.zeros_like(self.weight)
            for block, place, index in self.parts:
                patches = x.index_select(0, index).view(self.weight.shape[1], -1)
                behind = delta[block, :, place : place + self.side].flatten(1)
                gradient.addmm_(behind, patches.t())
            return gradient

        return out.flatten(0, 2), back
