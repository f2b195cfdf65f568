"""What the estimators cost in passes: one forward and backward pass of the mean loss over the same
examples.

Batch 128, BatchNorm in eval mode, networks 0.9 sparse, with the mask for all who take one. The
contenders of a network take turns in one process. The public tools are optional: one that is
not installed, or that fails on a network, is named as skipped.
"""

import contextlib
import io
import statistics
import warnings
from unittest import mock

import torch
import torch.nn.functional as F
from torch import nn

from benchmarks import ours, usual
from benchmarks.timing import Row, race
from lib.metrics import alignment, fisher, hessian, jacobian
from lib.rng import generator

TASKS = {
    "LeNet-5": ours.Task("lenet-5", (1, 28, 28), 128),
    "LeNet-300-100": ours.Task("lenet-300-100", (1, 28, 28), 128),
    "ResNet-20": ours.Task("resnet-20", (3, 32, 32), 128),
}


class Subject:
    """A network with its mask and a batch: what is measured."""

    def __init__(self, task: ours.Task):
        self.task, self.network = task, usual.network(task).eval()
        self.x, self.y = task.images.x_train.contiguous(), task.images.y_train
        self.mask = {
            name: live.bool() for name, live in task.layout.views(task.start(0)[0]["mask"]).items()
        }
        self.weights = {name: p.detach() for name, p in self.network.named_parameters()}
        self.draw = generator(0, "benchmark")
        self.direction = {
            name: torch.randn(p.shape, generator=self.draw) for name, p in self.weights.items()
        }

    def copy(self) -> nn.Module:
        """A network of its own for a tool that hangs hooks into it."""
        return usual.network(self.task).eval()

    def logits(self, weights, x):
        """The network as a function of its weights, for one example."""
        return torch.func.functional_call(self.network, weights, (x.unsqueeze(0),))

    def per_example(self, labels):
        """Masked gradients of each example by ``vmap(grad)``."""
        one = torch.func.grad(lambda w, x, y: F.cross_entropy(self.logits(w, x), y.unsqueeze(0)))
        each = torch.func.vmap(one, (None, 0, 0))(self.weights, self.x, labels)
        return {name: (g * self.mask[name]).flatten(1) for name, g in each.items()}


# -- contenders: a function of the subject that returns the work to be timed -----------------------


def _pass(s):
    parameters = list(s.network.parameters())
    return lambda: torch.autograd.grad(F.cross_entropy(s.network(s.x), s.y), parameters)


def _fisher(s):
    return lambda: fisher.trace(s.network, s.x, generator=s.draw, mask=s.mask).value


def _exact(s):
    return lambda: hessian.trace(s.network, s.x, s.y, mask=s.mask).value


def _hutchinson(s):
    return lambda: (
        hessian.hutchinson(s.network, s.x, s.y, generator=s.draw, probes=10, mask=s.mask).value
    )


def _vmap_fisher(s):
    def work():
        p = torch.softmax(s.network(s.x).detach(), -1)
        each = s.per_example(torch.multinomial(p, 1, generator=s.draw).squeeze(1))
        return sum(g.square().sum(1) for g in each.values()).mean().item()

    return work


def _backpack_fisher(s):
    import backpack
    from backpack.extensions import DiagGGNMC

    network = backpack.extend(
        s.copy(), use_converter=any(isinstance(m, nn.BatchNorm2d) for m in s.network.modules())
    )
    loss = backpack.extend(nn.CrossEntropyLoss())
    live = list(s.mask.values())

    def work():
        network.zero_grad()
        with backpack.backpack(DiagGGNMC(mc_samples=1)):
            loss(network(s.x), s.y).backward()
        return sum(
            (p.diag_ggn_mc * m).sum() for p, m in zip(network.parameters(), live, strict=True)
        ).item()

    return work


def _nngeometry_fisher(s):
    from nngeometry.metrics import FIM_MonteCarlo
    from nngeometry.object import PMatDiag
    from torch.utils.data import DataLoader, TensorDataset

    network, loader = s.copy(), DataLoader(TensorDataset(s.x, s.y), batch_size=len(s.x))
    return lambda: (
        FIM_MonteCarlo(network, loader, PMatDiag, variant="classif_logits", device="cpu")
        .trace()
        .item()
    )


def _vmap_cosines(s):
    def work():
        each = s.per_example(s.y)
        dots = sum(g @ s.direction[name].flatten() for name, g in each.items())
        return dots / sum(g.square().sum(1) for g in each.values()).sqrt()

    return work


def _vmap_jacobian(s):
    one = torch.func.jacrev(lambda x: s.logits(s.weights, x).squeeze(0))
    return lambda: torch.func.vmap(one)(s.x).square().flatten(1).sum(1).mean().item()


def _curvlinops_trace(s):
    from curvlinops import HessianLinearOperator, hutchinson_trace

    network = s.copy()
    parameters = [p.requires_grad_() for p in network.parameters()]
    loss, batch = nn.CrossEntropyLoss(), [(s.x, s.y)]

    def work():
        operator = HessianLinearOperator(
            network, loss, parameters, batch, check_deterministic=False
        )
        return hutchinson_trace(operator, num_matvecs=10).item()

    return work


def _pyhessian(s, of):
    import pyhessian

    network, loss = s.copy(), nn.CrossEntropyLoss()

    def eig(matrix, eigenvectors):  # which PyHessian 0.1 calls, and torch has no longer
        values, vectors = torch.linalg.eigh(matrix)
        return torch.stack([values, torch.zeros_like(values)], 1), vectors

    def work():
        with mock.patch.object(torch, "eig", eig, create=True):
            return of(pyhessian.hessian(network, loss, data=(s.x, s.y), cuda=False))

    return work


QUANTITIES = {  # what: (our contender, targets in passes for the networks in order, public tools)
    "Tr(F), one sampled label": (
        _fisher, (1.2, 1.2, 1.5), {"BackPACK": _backpack_fisher, "vmap(grad)": _vmap_fisher, "nngeometry": _nngeometry_fisher},
    ),
    "per-example cosines": (
        lambda s: lambda: alignment.cosines(s.network, s.x, s.y, s.direction, masks=(s.mask,)),
        (1.3, 1.6, 1.7),
        {"vmap(grad)": _vmap_cosines},
    ),
    "Tr(H) = Tr(F), exact": (
        _exact, (6, 3.5, 10),
        {
            "our Hutchinson, 10 probes": _hutchinson,
            "curvlinops, 10 probes": _curvlinops_trace,
            "PyHessian, 10 probes": lambda s: _pyhessian(s, lambda h: sum(h.trace(maxIter=10, tol=0)) / 10),
        },
    ),
    "mean ‖J‖², exact": (lambda s: lambda: jacobian.norm(s.network, s.x), (5, 2.2, 4), {"vmap(jacrev)": _vmap_jacobian}),
    "40 Lanczos steps": (
        lambda s: lambda: hessian.spectrum(s.network, s.x, s.y, generator=s.draw, steps=40, mask=s.mask), (85, 85, None),
        {
            "ours, all weights live": lambda s: lambda: hessian.spectrum(s.network, s.x, s.y, generator=s.draw, steps=40),
            "PyHessian, all weights live": lambda s: _pyhessian(s, lambda h: h.density(iter=40, n_v=1)),
        },
    ),
}  # fmt: skip


def run(quick: bool) -> tuple[list[Row], list[dict], list[dict], list[str]]:
    """Rows with targets; the cost of every contender; the error at equal cost; and what was
    skipped."""
    rows, costs, errors, skipped = [], [], [], []
    for place, (title, task) in enumerate(TASKS.items()):
        subject = Subject(task)
        for what, (mine, targets, others) in QUANTITIES.items():
            if targets[place] is None or (quick and place == 2):
                continue
            works = {"pass": _pass(subject), "ours": mine(subject)}
            works |= _ready(subject, others, f"{title}, {what}", skipped)
            rates = race(
                {name: _quiet(work) for name, work in works.items()},
                2 if quick else 5,
                0.05 if quick else 0.5,
            )
            passes = {name: rates.ratio("pass", name) for name in works}
            rows.append(
                Row(f"{title}: {what}", passes["ours"], targets[place], "passes", upper=True)
            )
            line = {"network": title, "quantity": what}
            costs += [
                {**line, "contender": name, "passes": str(passes[name])}
                for name in works
                if name != "pass"
            ]
            if what.startswith("Tr(H)"):
                errors += _errors(
                    title, subject, passes, rates.ratio("pass", "ours"), 6 if quick else 30
                )
    return rows, costs, errors, skipped


def _quiet(work):
    """One call counts one; what a tool prints or warns of is kept out of the table."""

    def once():
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            work()
        return 1

    return once


def _ready(subject, others, where, skipped):
    """The contenders that can be run here; a line for each that cannot."""
    works = {}
    for name, make in others.items():
        try:
            work = make(subject)
            _quiet(work)()
        except ImportError as error:
            skipped.append(f"{where}: {name} is not installed ({error})")
        except Exception as error:  # another project's code may fail in any way
            skipped.append(
                f"{where}: {name} fails ({type(error).__name__}: {(str(error).splitlines() or [''])[0][:120]})"
            )
        else:
            works[name] = work
    return works


def _errors(title, subject, passes, exact, draws):
    """Tr(H) of these 128 examples: the spread of each estimator over repeated draws, and at the
    cost of one pass."""
    label = race(
        {"pass": _quiet(_pass(subject)), "label": _quiet(_fisher(subject))}, 3, 0.05
    ).ratio("pass", "label")
    truth = hessian.trace(subject.network, subject.x, subject.y, mask=subject.mask).value
    lines = []
    for name, make, cost in (
        ("Fisher, one sampled label", _fisher, label),
        ("ten Hutchinson probes", _hutchinson, passes["our Hutchinson, 10 probes"]),
        ("exact", None, exact),
    ):
        values = [make(subject)() for _ in range(draws)] if make else [truth, truth]
        spread = statistics.stdev(values) / abs(truth)
        lines.append(
            {
                "network": title,
                "estimator of Tr(H)": name,
                "passes": str(cost),
                "relative standard deviation": f"{spread:.2%}",
                "at the cost of ten passes": f"{spread * (cost.median / 10) ** 0.5:.2%}",
                "mean / exact": f"{statistics.mean(values) / truth:.4f}",
            }
        )
    return lines
