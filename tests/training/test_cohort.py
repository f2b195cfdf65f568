"""A cohort's modules: views of its rows, and independent of each other while workers train several
at once."""

import threading

import torch
import torch.nn.functional as F

from lib.models import initializers, networks
from lib.training.cohort import Cohort, Layout, sgd_


def two_members():
    network = networks.build("resnet-20", (3, 8, 8), 3, width=0.25)
    layout = Layout(network)
    rows = torch.stack([layout.row(initializers.dense(network, "he", seed)) for seed in (0, 1)])
    cohort = Cohort(layout, rows, layout.fresh_buffers().repeat(2, 1), torch.ones_like(rows).bool())
    return network, cohort


def test_modules_are_views_of_the_rows():
    """A step on the rows is seen by the module, and a module's gradient lands in its row."""
    network, cohort = two_members()
    first, second = cohort.modules(network)
    x, y = torch.randn(4, 3, 8, 8), torch.tensor([0, 1, 2, 0])
    F.cross_entropy(first(x), y).backward()
    assert cohort.gradients[0].abs().sum() > 0
    assert cohort.gradients[1].abs().sum() == 0
    before = next(first.parameters()).clone()
    sgd_(cohort[0:1], 0.1, 0.0, False, 0.0)
    assert not torch.equal(next(first.parameters()), before)
    assert torch.equal(cohort.layout.row(dict(second.named_parameters())), cohort.weights[1])
    assert cohort.buffers[0].ne(cohort.buffers[1]).any(), (
        "BatchNorm's statistics did not move in the row"
    )


def test_one_members_step_does_not_disturb_anothers_graph():
    """What two workers do at once: a step of member 1 between the forward and the backward pass of
    member 0."""
    network, cohort = two_members()
    first, second = cohort.modules(network)
    x, y = torch.randn(4, 3, 8, 8), torch.tensor([0, 1, 2, 0])
    loss = F.cross_entropy(first(x), y)

    def other_worker():
        F.cross_entropy(second(x), y).backward()
        sgd_(cohort[1:2], 0.1, 0.9, True, 1e-4)

    worker = threading.Thread(target=other_worker)
    worker.start()
    worker.join()
    loss.backward()
    assert cohort.gradients[0].isfinite().all()
