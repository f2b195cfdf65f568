"""Criteria that look at data: the scores that they claim to be, from the network at its moment and
the examples that they may see."""

import pytest
import torch
from support import carry_out, images_of, labels_of, layout_of, network_at, small
from torch import nn

from lib import rng
from lib.masks import criteria
from lib.metrics import fisher
from lib.models import networks
from lib.registry import criterion
from lib.specs.fields import ParameterError
from lib.specs.run import Run, continued, finetune, scratch
from studies.presets import settings

RESNET = {"network": "resnet-20", "width": 0.25, "train_examples": 40}


@pytest.fixture
def tiny():
    """A double-precision network with every kind of layer, nine examples, and the task that a
    criterion gets."""
    network = nn.Sequential(
        nn.Conv2d(1, 2, 3, stride=2, padding=1),
        nn.BatchNorm2d(2),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(18, 5),
        nn.Tanh(),
        nn.Linear(5, 4),
    )
    network = network.double().eval()
    for number, (_, tensor) in enumerate(
        [*network.named_parameters(), ("", network[1].running_mean)]
    ):
        nn.init.normal_(tensor, 0.2, 0.5, generator=rng.generator(number))
    x = torch.randn(9, 1, 6, 5, dtype=torch.float64, generator=rng.generator(0, "x"))
    weights = {f"{n}.weight": network[n].weight.detach().clone() for n in (0, 4, 6)}
    return network, weights, criteria.Task(lambda: network, x, torch.zeros(9, dtype=torch.int64))


def scores_of(name, weights, task, seed=7):
    return criterion[name](weights, rng.generator(seed), task)


def slow_diagonal(network, x, labels):
    """Mean over the examples of the squared gradient of log p(label), one backward pass an
    example."""
    total = {name: torch.zeros_like(p) for name, p in network.named_parameters()}
    for example, label in zip(x, labels, strict=True):
        network.zero_grad()
        torch.log_softmax(network(example[None]), 1)[0, label].backward()
        for name, p in network.named_parameters():
            total[name] += p.grad**2 / len(x)
    return total


def test_fisher_scores_example_by_example(tiny):
    """For the labels that the generator samples, F_ii is the mean squared gradient; biases and
    BatchNorm have no score."""
    network, weights, task = tiny
    p = torch.softmax(network(task.x), 1).detach()
    labels = torch.multinomial(p, 1, generator=rng.generator(7)).squeeze(1)
    assert labels.unique().numel() > 1
    expected, found = slow_diagonal(network, task.x, labels), scores_of("fisher", weights, task)
    assert found.keys() == weights.keys()
    for name, score in found.items():
        torch.testing.assert_close(score, expected[name], rtol=1e-10, atol=1e-14)
        assert score.shape == weights[name].shape
        assert not score.requires_grad


def test_fisher_scores_are_unbiased(tiny):
    """Over many draws of labels their mean is the expectation over all labels, from the
    probabilities and one pass a label."""
    network, weights, task = tiny
    p = torch.softmax(network(task.x), 1).detach()
    exact = 0.0
    for label in range(4):
        for n in range(9):
            gradients = slow_diagonal(network, task.x[n : n + 1], [label])
            exact += p[n, label] * torch.cat([gradients[name].flatten() for name in weights]) / 9
    many = torch.stack(
        [
            torch.cat([s.flatten() for s in scores_of("fisher", weights, task, seed).values()])
            for seed in range(200)
        ]
    )
    error = many.std(0) / len(many) ** 0.5
    assert ((many.mean(0) - exact).abs() < 4.5 * error + 1e-15).all()


def test_fisher_loss_is_half_the_square_times_fisher(tiny):
    """½ w² F_ii of the same labels."""
    _, weights, task = tiny
    plain, loss = (scores_of(name, weights, task) for name in ("fisher", "fisher_loss"))
    for name, weight in weights.items():
        torch.testing.assert_close(loss[name], 0.5 * weight**2 * plain[name], rtol=1e-14, atol=0)


def test_half_the_square_times_fisher_is_what_removal_costs(tiny):
    """KL between the predictions with and without a small weight, to second order."""
    network, _, task = tiny
    weight = network[4].weight
    with torch.no_grad():
        weight.mul_(1e-3)
        log_p = torch.log_softmax(network(task.x), 1)
    for place in ((0, 0), (2, 11), (4, 17)):
        predicted = (
            weight[place].item() ** 2
            / 2
            * fisher.diagonal(network, task.x)["4.weight"][place].item()
        )
        with torch.no_grad():
            before = weight[place].clone()
            weight[place] = 0.0
            log_q = torch.log_softmax(network(task.x), 1)
            weight[place] = before
        removed = (log_p.exp() * (log_p - log_q)).sum(1).mean().item()
        assert removed == pytest.approx(predicted, rel=0.02)


def test_a_network_is_made_once_and_only_for_those_who_ask():
    """Magnitude and random scores need none; one that looks twice gets the same."""
    made = []
    task = criteria.Task(lambda: made.append(nn.Identity()) or made[-1], None, None)
    weights = {"w": torch.tensor([-2.0, 1.0])}
    assert scores_of("magnitude", weights, task)["w"].tolist() == [2.0, 1.0]
    assert scores_of("random", weights, task)["w"].shape == (2,)
    assert made == []
    assert task.network is task.network
    assert len(made) == 1


def lowest(scores, sparsity):
    """The mask without the round(s·N) lowest scores, those of lower index first, as flat rows by
    name."""
    flat = torch.cat([score.flatten() for score in scores.values()]).tolist()
    gone = set(sorted(range(len(flat)), key=lambda i: (flat[i], i))[: round(sparsity * len(flat))])
    return torch.tensor([i not in gone for i in range(len(flat))]).split(
        [score.numel() for score in scores.values()]
    )


@pytest.mark.parametrize("name", ["fisher", "fisher_loss"])
@pytest.mark.parametrize("options", [{"widths": [16, 12]}, RESNET], ids=["mlp", "resnet"])
def test_a_run_pruned_by_fisher(options, name, store, one_thread):
    """Exactly as many weights as asked for, those of the lowest score at its moment: Sol-P at an
    epoch, Sol-F and Sol-S at the end."""
    dense = Run.dense(
        small(**options, criterion=name, epochs=2, sparse_epochs=1), seed=3, keep=(1,)
    )
    runs = [
        continued(dense, at=1, sparsity=0.7),
        finetune(dense, sparsity=0.7),
        scratch(dense, sparsity=0.7),
    ]
    table = carry_out(runs, store).groupby("key", sort=False).tail(1)
    assert (table["pruned"] == (0.7 * table["prunable"]).round()).all()
    assert table["mask"].tolist()[1] == table["mask"].tolist()[2] != table["mask"].tolist()[0]
    parent, layout = store.get(dense.key).tensors, layout_of(dense)
    for run, suffix, moment in ((runs[0], "@1", [1]), (runs[1], "", [])):
        network = network_at(dense, parent, suffix)
        names = networks.prunable(network, ("last",))
        task = criteria.Task(lambda network=network: network, images_of(dense).x_train, None)
        weights = {n: network.get_parameter(n).detach() for n in names}
        scores = criterion[name](weights, rng.generator(3, "criterion", name, *moment), task)
        live = layout.views(store.get(run.key).tensors["mask"])
        for n, expected in zip(names, lowest(scores, 0.7), strict=True):
            assert torch.equal(live[n].flatten(), expected)


@pytest.fixture
def saliency():
    """A criterion of one's own, |w · dL/dw| on the given labels (Lee et al. 2019), and what it
    saw."""
    seen = []

    @criterion(version="1")
    def saliency(weights, generator, task):
        network = task.network
        seen.append(
            (
                task,
                {**dict(network.named_parameters()), **dict(network.named_buffers())},
                network.training,
            )
        )
        loss = nn.functional.cross_entropy(network(task.x), task.y)
        gradients = torch.autograd.grad(loss, [network.get_parameter(name) for name in weights])
        return {name: (weights[name] * g).abs() for name, g in zip(weights, gradients, strict=True)}

    yield seen
    criterion.forget("saliency")


def test_a_criterion_of_ones_own(saliency, store):
    """Once it is decorated a figure can name it; it sees the network at its moment and the labels
    as given, wrong ones included."""
    assert settings("early_fig1_periods", criterion="saliency", criteria=["saliency"]).criteria == (
        "saliency",
    )
    dense = Run.dense(small(criterion="saliency", noise=0.4, epochs=2), seed=3, keep=(1,))
    run = continued(dense, at=1, sparsity=0.8)
    table = carry_out([run], store)
    (task, state, training), images, parent = (
        saliency[0],
        images_of(run),
        store.get(dense.key).tensors,
    )
    assert len(saliency) == 1
    assert not training
    assert torch.equal(task.x, images.x_train)
    assert torch.equal(task.y, labels_of(run))
    assert 0.2 < task.y.ne(images.y_train).float().mean() < 0.6
    layout = layout_of(run)
    assert torch.equal(layout.row(state), parent["weights@1"])
    network = network_at(dense, parent, "@1")
    nn.functional.cross_entropy(network(images.x_train), labels_of(run)).backward()
    weight = network.get_parameter("1.weight")
    expected = lowest({"1.weight": (weight * weight.grad).abs()}, 0.8)[0]
    assert torch.equal(
        layout.views(store.get(run.key).tensors["mask"])["1.weight"].flatten(), expected
    )
    assert table["pruned"].tolist() == [round(0.8 * 1024)]


def test_the_network_at_its_moment_has_its_statistics(saliency, store, one_thread):
    """BatchNorm too is as it was at the epoch of pruning, and what a criterion computes does not
    move it."""
    dense = Run.dense(small(**RESNET, criterion="saliency", epochs=3), seed=3, keep=(1, 2))
    runs = [continued(dense, at=at, sparsity=0.5) for at in (1, 2)]
    carry_out(runs, store)
    parent, layout = store.get(dense.key).tensors, layout_of(dense)
    for (_, state, _), at in zip(saliency, (1, 2), strict=True):
        assert torch.equal(
            torch.cat([state[name].flatten() for name in layout.buffers]), parent[f"buffers@{at}"]
        )
        assert torch.equal(layout.row(state), parent[f"weights@{at}"])


@pytest.mark.parametrize("start", [finetune, scratch])
def test_a_criterion_of_ones_own_for_the_other_solutions(saliency, start, store):
    """Sol-F's and Sol-S's masks come from Sol-D, with the same data."""
    dense = Run.dense(small(criterion="saliency", score_examples=20), seed=3)
    carry_out([start(dense, sparsity=0.5)], store)
    task, state, _ = saliency[0]
    assert torch.equal(layout_of(dense).row(state), store.get(dense.key).tensors["weights"])
    assert len(task.x) == len(task.y) == 20


def test_how_much_a_criterion_may_see(saliency, store):
    """The first ``score_examples`` training examples and their labels; another number is another
    run, and another mask."""
    setups = [
        small(criterion="saliency", score_examples=count, noise=0.4) for count in (20, 149, None)
    ]
    runs = [continued(Run.dense(setup, seed=3), at=3, sparsity=0.5) for setup in setups]
    table = carry_out(runs, store)
    images, labels = images_of(runs[0]), labels_of(runs[0])
    assert [len(task.x) for task, *_ in saliency] == [20, 149, 150]
    for task, *_ in saliency:
        assert torch.equal(task.x, images.x_train[: len(task.x)])
        assert torch.equal(task.y, labels[: len(task.x)])
    assert len({run.parent.key for run in runs}) == 1
    assert len({run.key for run in runs}) == table["mask"].nunique() == 3


def test_an_unknown_criterion_is_answered_with_all_there_are(saliency, store):
    """The one just registered among them."""
    with pytest.raises(
        ParameterError,
        match=r"criterion is 'salience': allowed are magnitude, random, fisher, .*saliency",
    ):
        settings("early_fig1_periods", criterion="salience")
    assert not store.root.exists()
