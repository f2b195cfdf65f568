"""Which examples a step sees: the rules, their scores, and their bits in any company."""

import dataclasses

import pytest
import torch
from support import (
    carry_out,
    images_of,
    kill_at,
    labels_of,
    network_at,
    outcomes,
    same_in_all,
    same_results,
    small,
)

from lib import registry, rng
from lib.metrics import alignment, fisher
from lib.models import networks
from lib.runs.store import Store
from lib.specs.arms import Selection
from lib.specs.run import Run, finetune, scratch
from lib.training import arms, selection
from lib.training.initial_states import initial_state
from lib.training.selection import Pool

STORE = "lib.runs.store.Store"
GUIDED = ("reducible_fisher", "reducible_fisher_raw", "path_oracle")


def arm(dense, name, **more):
    """Sol-S under a rule, with the guide that it needs; pools of three batches."""
    guide = {}
    if name == "path_oracle":
        guide = {"guide": finetune(dense, sparsity=0.7)}
    elif name in GUIDED:
        guide = {"guide": Run.dense(small(train_examples=20, widths=[4]), seed=dense.seed)}
        more["holdout"] = 20
    chosen = {"name": name, "pool": 3, "until": 0.5, **more}
    return scratch(dense, sparsity=0.7, form="neuron", selection=chosen, **guide)


@dataclasses.dataclass
class Scored:
    """A pool whose scores are given."""

    fishers: torch.Tensor
    hard: torch.Tensor
    size: int = 2
    progress: float = 0.0
    until: float = 0.5
    known: torch.Tensor | None = None
    guesses: torch.Tensor | None = None

    def __post_init__(self):
        self.generator = rng.generator(0, "score")
        self.x = self.fishers
        self.y = torch.zeros(len(self.x), dtype=torch.int64)

    def fisher(self, among=None):
        return self.fishers if among is None else self.fishers[among]

    def losses(self):
        return self.hard


FISHERS, HARD = torch.tensor([5.0, 1, 4, 2, 3, 6]), torch.tensor([1.0, 6, 5, 4, 3, 2])


@pytest.mark.parametrize(
    ("name", "known", "chosen"),
    [
        ("random_subset", None, [0, 1]),
        ("low_fisher_first", None, [1, 3]),
        ("top_fisher", None, [5, 0]),
        ("reducible_fisher", [60.0, 10, 20, 30, 40, 50], [2, 5]),  # ranks differ by -1 0 2 -1 -1 1
        ("reducible_fisher_raw", [4.0, 0, 1, 2, 3, 4], [2, 5]),  # traces by 1 1 3 0 0 2
        ("bilevel", None, [2, 3]),  # the hardest half is 1, 2, 3
        ("bilevel_low", None, [5, 0]),
        ("hard_phase", None, [1, 2]),
    ],
)
def test_rules(name, known, chosen):
    """What each takes of six examples whose traces and losses are known."""
    pool = Scored(FISHERS, HARD, known=None if known is None else torch.tensor(known))
    assert registry.selection[name](pool).tolist() == chosen


@pytest.mark.parametrize("name", ["low_fisher_first", "hard_first", "hard_phase"])
def test_after_the_first_phase_batches_are_ordinary(name):
    """Algorithm 1's second phase is ordinary SGD."""
    assert registry.selection[name](Scored(FISHERS, HARD, progress=0.5)) is None


def test_hardness_falls():
    """``hard_first`` begins with the hardest alone, and its mean hardness falls to the pool's."""
    hard = torch.arange(100.0)
    means = []
    for progress in (0.0, 0.1, 0.25, 0.4, 0.499):
        pool = Scored(hard, hard, size=20, progress=progress)
        found = [hard[registry.selection["hard_first"](pool)].mean() for _ in range(200)]
        means.append(torch.stack(found).mean().item())
    assert means[0] == hard[-20:].mean().item()
    assert means == sorted(means, reverse=True)
    assert means[-1] == pytest.approx(hard.mean().item(), abs=1.0)


def test_hard_and_disagreeing():
    """Half of the hardest, half of the hardest where Sol-D sees another class; then the next."""
    pool = Scored(FISHERS, HARD, size=4, known=torch.tensor([0, 0, 0, 0, 1, 0]))
    pool.logits = lambda: torch.stack([HARD * -1, torch.full((6,), -9.0)], 1)
    assert registry.selection["hard_disagreeing"](pool).tolist() == [1, 2, 4, 3]


@pytest.fixture
def at_work(monkeypatch):
    """(rule, pool, chosen) of every choice in training."""
    seen = []

    def watched(name):
        def rule(pool):
            chosen = selection.selection[name](pool)
            seen.append((name, pool, chosen))
            return chosen

        return rule

    class Rules(dict):
        def __missing__(self, name):
            return watched(name)

    monkeypatch.setattr(arms, "selection", Rules())
    return seen


@pytest.mark.parametrize("name", ["random_subset", "top_fisher", "path_oracle", "reducible_fisher"])
def test_pools(name, at_work, tmp_path):
    """A pool is of distinct examples outside the holdout, with their own labels, and is drawn anew
    for each step; a batch has its size."""
    dense = Run.dense(small(noise=0.3), seed=0)
    run = arm(dense, name)
    outcomes([run], tmp_path)
    x, y = images_of(run).x_train, labels_of(run)
    first, pools = run.selection.holdout, []
    for _, pool, chosen in at_work:
        index = [(x == image).flatten(1).all(1).nonzero().item() for image in pool.x]
        pools.append(index)
        assert len(set(index)) == len(index) == 96
        assert min(index) >= first
        assert torch.equal(pool.y, y[index])
        assert len(set(chosen.tolist())) == len(chosen) == pool.size
    assert len(pools) == 15
    assert [pool.size for _, pool, _ in at_work[:5]] == [32] * 4 + [22]
    assert pools[0] != pools[1]
    assert [round(pool.progress, 3) for _, pool, _ in at_work[:2]] == [0.0, round(1 / 15, 3)]


def test_scores_are_those_of_the_estimators():
    """The Fisher trace under the mask by sampled or given labels, losses, and cosines."""
    network = networks.build("mlp", (1, 8, 8), 10, widths=(16,)).to_empty(device="cpu").eval()
    stream = rng.generator(0, "numbers")
    mask = {}
    for name, p in network.named_parameters():
        mask[name] = torch.rand(p.shape, generator=stream) < 0.5
        p.data.copy_(torch.randn(p.shape, generator=stream) * mask[name])
    x, y = torch.rand(40, 1, 8, 8, generator=stream), torch.arange(40) % 10
    for labels in ("sampled", "given"):
        chosen = Selection(name="top_fisher", labels=labels)
        pool = Pool(network, mask, x, y, 8, chosen, 0.0, rng.generator(1, "score"))
        found = pool.fisher()
        many = {"sampled": fisher.sampled, "given": fisher.empirical}[labels]
        how = {"generator": rng.generator(1, "score")} if labels == "sampled" else {"labels": y}
        assert torch.equal(found, many(network, x, mask=mask, **how))
        assert pool.passes == 80
    each = torch.func.vmap(
        torch.func.grad(
            lambda w, a, b: torch.nn.functional.cross_entropy(
                torch.func.functional_call(network, w, (a.unsqueeze(0),)), b.unsqueeze(0)
            )
        ),
        (None, 0, 0),
    )(dict(network.named_parameters()), x, y)
    exact = sum((g * mask[n]).flatten(1).square().sum(1) for n, g in each.items())
    torch.testing.assert_close(found, exact, rtol=1e-4, atol=1e-6)
    expected = torch.nn.functional.cross_entropy(network(x), y, reduction="none")
    torch.testing.assert_close(pool.losses(), expected)
    pool.ahead = {n: p.detach() for n, p in network.named_parameters()}
    order = alignment.cosines(network, x, y, pool.ahead, masks=[mask])[0].argsort(descending=True)
    assert registry.selection["path_oracle"](pool).tolist() == order[:8].tolist()


def test_what_is_looked_up(store):
    """Sol-D's predictions; the guide's traces; the way from the start to Sol-F."""
    dense = Run.dense(small(), seed=0)
    runs = {n: arm(dense, n) for n in ("hard_disagreeing", "path_oracle", "reducible_fisher")}
    carry_out(list(runs.values()), store)
    images = images_of(dense)

    def start(run):
        others = [other and store.get(other.key).tensors for other in (run.parent, run.guide)]
        return initial_state(run, networks.build("mlp", (1, 8, 8), 10, widths=(16,)), others[0],
                             images, others[1])[0]  # fmt: skip

    sol_d = network_at(dense, store.get(dense.key).tensors)
    assert torch.equal(start(runs["hard_disagreeing"])["known"], sol_d(images.x_train).argmax(1))
    oracle = start(runs["path_oracle"])
    sol_f = store.get(runs["path_oracle"].guide.key).tensors["weights"]
    assert torch.equal(oracle["ahead"], sol_f - oracle["weights"])
    guide = runs["reducible_fisher"].guide
    small_one = network_at(guide, store.get(guide.key).tensors)
    traces = fisher.sampled(small_one, images.x_train, generator=rng.generator(0, "guide"))
    torch.testing.assert_close(start(runs["reducible_fisher"])["known"], traces)


def test_the_oracle_gets_nearer(store):
    """Its steps end nearer to Sol-F than random ones of the same pools do."""
    dense = Run.dense(small(), seed=0)
    runs = [arm(dense, "path_oracle"), arm(dense, "random_subset")]
    carry_out(runs, store)
    end = store.get(runs[0].guide.key).tensors["weights"]
    oracle, random = ((store.get(run.key).tensors["weights"] - end).norm() for run in runs)
    assert oracle < random


def test_the_facts_tell_what_was_chosen(store):
    """Examples, wrong labels and classes by epoch, and the passes that scoring took."""
    run = arm(Run.dense(small(noise=0.3), seed=0), "top_fisher", until=0.2)
    carry_out([run], store)
    info = store.get(run.key).info
    assert [row[:2] for row in info["chosen"]] == [[1, 150], [2, 150], [3, 150]]
    assert all(sum(row[3]) == 150 and 0 < row[2] < 0.7 for row in info["chosen"])
    assert info["scored"] == 15 * 96 * 2
    plain = scratch(run.parent, sparsity=0.7)
    carry_out([plain], store)
    assert not {"chosen", "scored"} & store.get(plain.key).info.keys()


@pytest.mark.parametrize("network", ["mlp", "resnet-20"])
def test_in_any_company(network, tmp_path, one_thread):
    """Members with different rules train in lock-step, and each ends with its bits alone."""
    tiny = {"network": network, "width": 0.25, "train_examples": 40, "batch_size": 8, "epochs": 2}
    tiny |= {"sparse_epochs": 2, "test_examples": 20}
    dense = Run.dense(small(**(tiny if network != "mlp" else {"noise": 0.2})), seed=0)
    rules = ["low_fisher_first", "hard_first"]
    rules += [] if network != "mlp" else ["bilevel", "hard_disagreeing", "path_oracle"]
    company = [arm(dense, name) for name in rules]
    plain = scratch(dense, sparsity=0.7, form="neuron")
    for run in (*company[:2], plain):
        others = [each for each in (*company, plain) if each != run]
        same_in_all(run, [others], tmp_path / run.key)


def test_plain_members_never_notice(tmp_path):
    """After the first phase a rule's batches are those of the member's own order."""
    dense = Run.dense(small(), seed=0)
    never, plain = (
        arm(dense, "low_fisher_first", until=0.0),
        scratch(dense, sparsity=0.7, form="neuron"),
    )
    one, other = outcomes([never, plain], tmp_path)
    assert torch.equal(one.tensors["weights"], other.tensors["weights"])


def test_killed_and_resumed(store, tmp_path):
    """A cohort of rules that dies after an epoch ends with the same bits."""
    dense = Run.dense(small(noise=0.2), seed=0)
    runs = [arm(dense, n) for n in ("top_fisher", "hard_first", "reducible_fisher")]
    undisturbed = Store(tmp_path / "undisturbed")
    carry_out(runs, undisturbed)
    kill_at(runs, store.root, f"{STORE}.save_checkpoint", 8, True)
    carry_out(runs, store)
    same_results(runs, store, undisturbed)
    for run in runs:
        assert store.get(run.key).info["chosen"] == undisturbed.get(run.key).info["chosen"]


def test_a_pool_beyond_the_data_is_refused(store):
    """Before any training."""
    run = arm(Run.dense(small(), seed=0), "top_fisher", pool=5)
    with pytest.raises(ValueError, match=r"selection.* is 160: there are only 150"):
        carry_out([run], store)


def test_crops_of_chosen_examples(store):
    """With augmentation, chosen examples are cropped as others are: training goes through."""
    setup = small(
        augment=True, network="resnet-20", width=0.25, train_examples=40, batch_size=8,
        epochs=1, sparse_epochs=1,
    )  # fmt: skip
    table = carry_out([arm(Run.dense(setup, seed=0), "random_subset")], store)
    assert table["train_loss"].notna().all()
