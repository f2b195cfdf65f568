"""What the estimators cost where no formula covers a network, and ``torch.func`` takes each
example's gradient (``lib.metrics.passes.GeneralPass``): in passes of plain training, beside a loop
over the examples. One thread, processor time, so that what computes beside it counts less.
"""

import time
import warnings

import torch
import torch.nn.functional as F
from torch import nn

from benchmarks.timing import race
from lib.masks import masks
from lib.metrics import alignment, fisher, passes
from lib.models import networks
from lib.rng import generator

BATCH, FEW, SPARSITY = 128, 32, 0.9


def grouped() -> nn.Module:
    """Two convolutions with GroupNorm, for images [1, 28, 28]."""
    return nn.Sequential(
        nn.Conv2d(1, 16, 3, padding=1), nn.GroupNorm(4, 16), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(16, 32, 3, padding=1), nn.GroupNorm(4, 32), nn.ReLU(), nn.MaxPool2d(2),
        nn.Flatten(), nn.Linear(32 * 49, 10),
    )  # fmt: skip


class Transformer(nn.Module):
    """A small vision transformer: 16 patches of [1, 28, 28], two layers of torch's own encoder."""

    def __init__(self, size: int = 32):
        super().__init__()
        self.patches = nn.Conv2d(1, size, 7, 7)
        self.place = nn.Parameter(torch.zeros(16, size))
        layer = nn.TransformerEncoderLayer(size, 4, 2 * size, dropout=0.0, batch_first=True)
        self.layers = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.head = nn.Linear(size, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Logits [n, 10]."""
        x = self.patches(x).flatten(2).transpose(1, 2) + self.place
        return self.head(self.layers(x).mean(1))


NETWORKS = {"GroupNorm, 2 convolutions": grouped, "vision transformer, 2 layers": Transformer}


def run(quick: bool) -> list[dict]:
    """A line for each network and quantity: ours, and one example after the other."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that no formula covers the network
            return [line for title in NETWORKS for line in _costs(title, 2 if quick else 5)]
    finally:
        torch.set_num_threads(threads)


def _costs(title, rounds):
    torch.manual_seed(0)
    network, stream = NETWORKS[title]().eval(), generator(0, "benchmark")
    named = dict(network.named_parameters())
    scores = {n: torch.rand(named[n].shape, generator=stream) for n in networks.prunable(network)}
    mask = masks.prune(scores, SPARSITY, "layer")
    with torch.no_grad():
        for name, live in mask.items():
            named[name].mul_(live)
    x = torch.rand(BATCH, 1, 28, 28, generator=stream)
    y = torch.randint(10, (BATCH,), generator=stream)
    direction = {n: torch.randn(p.shape, generator=stream) for n, p in named.items()}
    assert passes.examined(network, x)[0], "a formula covers it"

    def gradient(begin, end, labels):
        found = torch.autograd.grad(
            F.cross_entropy(network(x[begin:end]), labels[begin:end]), list(named.values())
        )
        return {n: g * mask.get(n, 1) for n, g in zip(named, found, strict=True)}

    def alone(labels):
        return [gradient(i, i + 1, labels) for i in range(FEW)]

    def squares(each):
        return torch.stack([sum(g.square().sum() for g in one.values()) for one in each])

    def traces():
        labels = fisher.drawn(network(x).detach(), stream)
        return squares(alone(labels)).mean()

    def cosines():
        each = alone(y)
        dots = torch.stack([sum((g * direction[n]).sum() for n, g in one.items()) for one in each])
        return dots / squares(each).sqrt()

    quantities = {
        "Tr(F), one sampled label": (
            lambda: fisher.trace(network, x, generator=stream, mask=mask), traces,
        ),
        "per-example cosines": (
            lambda: alignment.cosines(network, x, y, direction, masks=(mask,)), cosines,
        ),
    }  # fmt: skip

    def counted(work, examples):
        def once():
            work()
            return examples

        return once

    plain = counted(lambda: gradient(0, BATCH, y), BATCH)
    for what, (ours, loop) in quantities.items():
        contenders = {"pass": plain, "ours": counted(ours, BATCH), "loop": counted(loop, FEW)}
        rates = race(contenders, rounds, 0.3, time.process_time)
        yield {
            "network": title,
            "parameters": f"{sum(p.numel() for p in named.values()):,}",
            "quantity": what,
            "by torch.func, passes": str(rates.ratio("pass", "ours")),
            "one example after the other, passes": str(rates.ratio("pass", "loop")),
        }
