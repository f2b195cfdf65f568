"""Masks that change while training: their moments, their counts, what is dropped and what grows, by
hand and against slow rules."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from support import images_of, small

from lib import rng
from lib.masks import dynamic, masks
from lib.metrics import gradients
from lib.models import initializers, networks
from lib.registry import mask_update
from lib.specs.run import Run
from lib.training import engines
from lib.training.cohort import Cohort, Layout, filled, sgd_

DROPPING = ("set", "rigl", "rigl-inverted")


def stream(*name):
    return rng.generator(0, "test", *name)


def change(gradient=None, fraction=0.0, sparsity=0.0, scope="layer"):
    """What a rule sees of an update; it fails where a rule asks for a gradient that is not
    given."""

    def slope():
        assert gradient is not None, "nothing was to ask for the gradient"
        return gradient

    return dynamic.Change(slope, fraction, sparsity, scope)


def update(method, weights, mask, gradient, fraction, generator=None):
    """The new mask of a network of one layer."""
    of = [None if value is None else {"a": value} for value in (weights, mask, gradient)]
    return dynamic.updated(method, *of[:2], generator, change(of[2], fraction))["a"]


def pruned(weights, mask, sparsity, scope="layer"):
    return dynamic.updated("gradual", weights, mask, None, change(sparsity=sparsity, scope=scope))


# -- RigL by hand ----------------------------------------------------------------------------------
# A layer of eight weights, five of them live; 0.4 of five are two. The smallest live ones are
# -0.1 and 0.2, so that 0.5, -0.7
# and 0.9 are kept. Of the three dead and the two dropped, the gradients are 3 (dead), -4 (dead),
# 0.5 (dead), 1 (-0.1) and -3.5 (0.2).
WEIGHTS = torch.tensor([0.5, -0.1, 0.0, 0.2, 0.0, -0.7, 0.0, 0.9])
MASK = torch.tensor([1, 1, 0, 1, 0, 1, 0, 1]).bool()
GRADIENT = torch.tensor([9.0, 1.0, 3.0, -3.5, -4.0, 9.0, 0.5, -9.0])


@pytest.mark.parametrize(
    ("method", "expected"),
    [
        ("rigl", [1, 0, 0, 1, 1, 1, 0, 1]),  # -4 grows, and 0.2 with -3.5, just dropped, comes back
        ("rigl-inverted", [1, 1, 0, 0, 0, 1, 1, 1]),  # 0.5 grows, and -0.1 with 1 comes back
    ],
)
def test_an_update_by_hand(method, expected):
    """The new mask, and what becomes of weights and velocity."""
    new = update(method, WEIGHTS, MASK, GRADIENT, 0.4)
    assert new.int().tolist() == expected
    weights, velocity = WEIGHTS.clone(), torch.arange(1.0, 9.0) * MASK
    dynamic.apply_(weights, velocity, MASK, new)
    both = (MASK & new).tolist()  # a weight that came back keeps what it had
    assert weights.tolist() == [
        w if lives else 0.0 for w, lives in zip(WEIGHTS.tolist(), both, strict=True)
    ]
    assert velocity.tolist() == [float(i + 1) if lives else 0.0 for i, lives in enumerate(both)]


def test_what_grows_starts_at_zero_without_momentum():
    """Also where something had been left in its place; what is dropped is zero even if it was
    NaN."""
    weights, velocity = (
        torch.tensor([1.0, math.nan, 3.0, 4.0]),
        torch.tensor([1.0, 2.0, math.nan, 4.0]),
    )
    dynamic.apply_(
        weights,
        velocity,
        torch.tensor([True, True, False, True]),
        torch.tensor([True, False, True, True]),
    )
    assert weights.tolist() == [1.0, 0.0, 0.0, 4.0]
    assert velocity.tolist() == [1.0, 0.0, 0.0, 4.0]


def test_ties_fall_by_index():
    """Among equals the lower index is dropped first, and grown first."""
    ones, live = torch.ones(8), torch.tensor([0, 1, 1, 1, 1, 0, 0, 0]).bool()
    assert update(
        "rigl", ones, live, torch.tensor([1.0, 0, 0, 1, 1, 1, 1, 1]), 0.5
    ).int().tolist() == [1, 0, 0, 1, 1, 1, 0, 0]
    assert update("rigl-inverted", ones, live, ones, 0.5).int().tolist() == [
        1,
        1,
        0,
        1,
        1,
        0,
        0,
        0,
    ]


@pytest.mark.parametrize(
    ("fraction", "dropped"), [(0.0, 0), (0.29, 29), (0.299, 29), (0.5, 50), (1.0, 100)]
)
def test_the_count_is_rounded_down(fraction, dropped):
    """As in the study's code; 0.29 of 100 are 29, whatever floating point says."""
    weights, live = torch.arange(1.0, 201), torch.arange(200) < 100
    new = update("rigl", weights, live, weights, fraction)
    assert int((~new[:100]).sum()) == dropped
    assert int(new.sum()) == 100


# -- against slow rules ----------------------------------------------------------------------------

few = st.sampled_from([0.0, -0.0, 0.5, -0.5, 2.0])
numbers = st.one_of(few, st.floats(width=32))
entries = st.lists(st.tuples(numbers, st.booleans(), numbers), min_size=1, max_size=25)


def finite(value):
    return 0.0 if math.isnan(value) else min(abs(value), 3.4028234663852886e38)


def slow_update(method, layer, fraction):
    """Indices that live after the update, one decision after the other."""
    live = {i for i, (_, lives, _) in enumerate(layer) if lives}
    count = int(fraction * len(live) + 1e-9)
    kept = live - set(sorted(live, key=lambda i: (finite(layer[i][0]), i))[:count])
    sign = -1 if method == "rigl" else 1
    candidates = sorted(
        set(range(len(layer))) - kept, key=lambda i: (sign * finite(layer[i][2]), i)
    )
    return kept | set(candidates[:count])


@given(entries, st.floats(0, 1), st.sampled_from(DROPPING))
def test_updates_are_those_of_the_slow_rules(layer, fraction, method):
    """Dropped are the smallest, grown the wished for; density is the same to the weight, with NaN
    and infinity too."""
    weights, mask, gradient = (torch.tensor(column) for column in zip(*layer, strict=True))
    new = update(method, weights, mask, gradient, fraction, stream("grow"))
    assert int(new.sum()) == int(mask.sum())
    if method == "set":
        count = int(fraction * int(mask.sum()) + 1e-9)
        assert int((mask & ~new).sum()) <= count
    else:
        assert set(new.nonzero().flatten().tolist()) == slow_update(method, layer, fraction)


@pytest.mark.parametrize("method", DROPPING)
def test_layers_change_by_themselves(method):
    """Layers of different density, NaN in one of them; a full one drops what it grows again."""
    weights = {name: torch.randn(5, 10, generator=stream("w", name)) for name in "abc"}
    gradient = {name: torch.randn(5, 10, generator=stream("g", name)) for name in "abc"}
    live = (
        torch.rand(3, 5, 10, generator=stream("m")) < torch.tensor([0.1, 0.5, 1.0])[:, None, None]
    )
    mask = dict(zip("abc", live, strict=True))
    weights["b"][:2] = math.nan
    new = dynamic.updated(method, weights, mask, stream("grow"), change(gradient, 0.5))
    assert all(new[name].sum() == mask[name].sum() for name in mask)
    assert not torch.equal(new["b"], mask["b"])
    assert new["c"].all()
    if method == "set":  # layer after layer from one generator
        assert torch.equal(
            new["a"], update(method, weights["a"], mask["a"], None, 0.5, stream("grow"))
        )
    else:
        for name in mask:
            alone = update(method, weights[name], mask[name], gradient[name], 0.5)
            assert torch.equal(new[name], alone)


def test_set_grows_each_candidate_as_often():
    """Over many updates each of the 15 dead and 5 dropped weights is grown in 5 of 20, within five
    standard errors."""
    weights, mask, updates = torch.arange(1.0, 31), torch.arange(30) < 15, 2000
    generators = [rng.generator(seed, "grow") for seed in range(updates)]
    new = [update("set", weights, mask, None, 1 / 3, generator) for generator in generators]
    share = torch.stack(new).double().mean(0)
    assert (share[5:15] == 1).all()
    candidates = torch.cat([share[:5], share[15:]])
    assert (candidates - 0.25).abs().max() < 5 * math.sqrt(0.25 * 0.75 / updates)


# -- rules of one's own ----------------------------------------------------------------------------


@pytest.fixture
def mine():
    """Registers a rule under the name "mine", as a notebook does."""
    names = []

    def register(rule):
        names.append("mine")
        mask_update(name="mine", version="1")(rule)

    yield register
    for name in names[:1]:
        mask_update.forget(name)


def by_salience(weights, mask, generator, change):
    """Drop by |w g|, grow at random."""
    worth = {name: (weight * change.gradient[name]).abs() for name, weight in weights.items()}
    wish = {name: torch.rand(weight.shape, generator=generator) for name, weight in weights.items()}
    return dynamic.regrown(mask, worth, wish, change.fraction)


def test_a_rule_of_ones_own(mine):
    """It is called as the project's own are, and may spoil what it is handed."""
    mine(by_salience)
    new = update("mine", WEIGHTS, MASK, GRADIENT, 0.4, stream("grow"))
    kept = [0, 5, 7]  # |w g| is 4.5, 0.1, 0.7, 6.3, 8.1 where it lives
    drawn = torch.rand(8, generator=stream("grow"))
    drawn[kept] = -1.0
    assert set(new.nonzero().flatten().tolist()) == {*kept, *drawn.topk(2).indices.tolist()}

    def spoiling(weights, mask, generator, change):
        weights["a"].zero_()
        mask["a"].copy_(mask["a"].flip(0))
        return mask

    before = WEIGHTS.clone(), MASK.clone()
    mine(spoiling)
    assert torch.equal(update("mine", WEIGHTS, MASK, None, 0.4), MASK.flip(0))
    assert torch.equal(WEIGHTS, before[0])
    assert torch.equal(MASK, before[1])


@pytest.mark.parametrize(
    ("result", "message"),
    [
        (None, "gives a NoneType, not a tensor by weight's name"),
        ({}, r"gives for 'a' the shape none, not \(8,\)"),
        ({"a": MASK, "b": MASK}, r"gives for 'b' the shape \(8,\), not none"),
        ({"a": MASK[:7]}, r"gives for 'a' the shape \(7,\), not \(8,\)"),
        ({"a": WEIGHTS}, "gives torch.float32, not bool"),
        ({"a": ~MASK}, "leaves 3 weights alive: there were 5"),
    ],
    ids=str,
)
def test_a_rule_that_returns_no_such_mask_is_refused(mine, result, message):
    """With its name and the step."""
    mine(lambda *_: result)
    with pytest.raises(ValueError, match=f"mask_update 'mine' at step 0 {message}"):
        update("mine", WEIGHTS, MASK, None, 0.4)


# -- gradual pruning -------------------------------------------------------------------------------


def test_the_cubic_schedule():
    """Values worked out by hand: at a quarter, half and three quarters, 1 - left^3 is 37/64, 7/8
    and 63/64."""
    at = {
        step: dynamic.gradual(step, start=3000, end=7000, final=0.96)
        for step in (0, 3000, 4000, 5000, 6000, 7000, 9000)
    }
    assert at == pytest.approx(
        {0: 0, 3000: 0, 4000: 0.96 * 37 / 64, 5000: 0.84, 6000: 0.945, 7000: 0.96, 9000: 0.96}
    )
    assert at[7000] == at[9000] == 0.96  # exactly


@pytest.mark.parametrize("scope", masks.SCOPES)
def test_gradual_masks_nest_and_end_exactly(scope):
    """While the weights move between updates, no pruned one comes back, and each mask has the count
    of its sparsity."""
    weights = {
        "a": torch.randn(20, 30, generator=stream("a")),
        "b": torch.randn(8, 3, 3, 3, generator=stream("b")),
    }
    mask = {name: torch.ones_like(weight, dtype=torch.bool) for name, weight in weights.items()}
    for step in range(10, 31):
        sparsity = dynamic.gradual(step, start=10, end=30, final=0.95)
        new = pruned(weights, mask, sparsity, scope)
        assert all((mask[name] | ~live).all() for name, live in new.items())
        if scope == "layer":
            assert {n: int((~m).sum()) for n, m in new.items()} == {
                n: round(sparsity * m.numel()) for n, m in new.items()
            }
        else:
            assert sum(int((~m).sum()) for m in new.values()) == round(sparsity * 816)
        mask = new
        weights = {
            n: (w + 0.5 * torch.randn(w.shape, generator=stream(n, step))) * mask[n]
            for n, w in weights.items()
        }
        weights["a"][mask["a"].nonzero()[0].unbind()] = (
            0.0  # a live weight at zero still goes after the pruned ones
        )


def test_a_gradual_update_by_hand():
    """The smallest of the live ones go; the pruned ones stay pruned."""
    weights = {"a": torch.tensor([0.0, 0.3, -0.1, 0.0, 0.2])}
    mask = {"a": torch.tensor([True, True, True, False, True])}
    assert pruned(weights, mask, 0.4)["a"].int().tolist() == [0, 1, 1, 0, 1]
    assert pruned(weights, mask, 0.6)["a"].int().tolist() == [0, 1, 0, 0, 1]


# -- when and how much -----------------------------------------------------------------------------


def test_drop_fractions():
    """Cosine to zero at the end, in proportion to the rate, or constant."""
    assert [
        dynamic.drop_fraction("cosine", 0.3, step=s, end=400) for s in (0, 100, 200, 400, 500)
    ] == pytest.approx([0.3, 0.15 * (1 + math.sqrt(0.5)), 0.15, 0, 0])
    assert dynamic.drop_fraction("rate", 0.3, rate=0.025, highest=0.05) == pytest.approx(0.15)
    assert dynamic.drop_fraction("rate", 0.3, rate=0.0, highest=0.05) == 0
    assert dynamic.drop_fraction("constant", 0.3, step=7) == 0.3


def moments(method, steps=1000, **settings):
    return [step for step in range(steps + 1) if dynamic.due(method, step, steps=steps, **settings)]


def test_updates_are_due_at_their_moments():
    """DST as in the study's code: after every so many steps, not before the first and not after the
    last; gradual at both its ends."""
    assert moments("rigl", every=300, start=0, end=1000) == [300, 600, 900]
    assert moments("set", every=250, start=0, end=1000) == [250, 500, 750]
    assert moments("rigl", every=250, start=100, end=600) == [100, 350, 600]
    assert moments("gradual", every=250, start=0, end=1000) == [0, 250, 500, 750, 1000]


SENSIBLE = dict(method="rigl", every=100, start=0, end=1000, steps=1000, fraction=0.3)
SENSELESS = [
    (
        dict(every=1500),
        "frequency is 1500 steps from 0 to 1000: in a run of 1000 steps no update would come",
    ),
    (dict(every=1000), "in a run of 1000 steps no update would come"),
    (dict(end=1200), "end at step 1200: the run has only 1000 steps"),
    (dict(start=-1), "start at step -1 and end at 1000"),
    (dict(start=600, end=500), "start at step 600 and end at 500"),
    (dict(fraction=None), r"drop fraction is None: it must lie in \[0, 1\]"),
    (
        dict(method="gradual", every=300),
        "from step 0 to 1000 every 300 steps: the last update must fall on the end",
    ),
    (dict(method="gradual", start=1000), "the last update must fall on the end"),
]


@pytest.mark.parametrize(("wrong", "message"), SENSELESS, ids=lambda value: str(value)[:40])
def test_senseless_plans_are_refused(wrong, message):
    """In people's words; what is right in all else passes."""
    dynamic.check(**SENSIBLE)
    dynamic.check(**{**SENSIBLE, "method": "gradual", "fraction": None})
    with pytest.raises(ValueError, match=message):
        dynamic.check(**{**SENSIBLE, **wrong})


def test_senseless_calls_are_refused():
    """Unknown rules, and fractions that are none."""
    for method, fraction, message in (
        ("rigged", 0.3, "'rigged': allowed are gradual"),
        ("rigl", -0.1, r"-0.1: it must lie in \[0, 1\]"),
        ("set", math.nan, "the drop fraction is nan"),
    ):
        with pytest.raises(ValueError, match=message):
            update(method, WEIGHTS, MASK, GRADIENT, fraction, stream("grow"))


# -- between the steps of a cohort -----------------------------------------------------------------


def trained(method, source, seeds):
    """A sparse cohort of MLPs on digits, 40 steps of SGD with momentum and weight decay, its masks
    changed every 5; checked at each."""
    run = Run.dense(small(), seed=0)
    images = images_of(run)
    network = networks.build("mlp", images.shape, images.classes, widths=(16,))
    layout, names = Layout(network), networks.prunable(network)
    weights = torch.stack([layout.row(initializers.dense(network, "he", seed)) for seed in seeds])
    ones = {name: torch.ones(layout.parameters[name], dtype=torch.bool) for name in names}
    start = 0.0 if method == "gradual" else 0.9

    def named(row):
        views = layout.views(row)
        return {name: views[name] for name in names}

    found = [pruned(named(row), ones, start, "uniform") for row in weights]
    mask = torch.stack([layout.mask_row(m) for m in found])
    cohort = Cohort(layout, weights * mask, torch.zeros(len(seeds), 0), mask.clone())
    engine = engines.engine(cohort, network)
    plan = dict(every=5, start=0, end=40, steps=40)
    dynamic.check(method, **plan, fraction=0.3)
    for step in range(1, 41):
        batch = torch.stack(
            [
                torch.randint(150, (32,), generator=rng.generator(seed, "batch", step))
                for seed in seeds
            ]
        )
        engine.gradients(images.x_train[batch], images.y_train[batch])
        dense_gradient = cohort.gradients.clone()  # of the training batch, before the step masks it
        sgd_(cohort, 0.1, 0.9, False, 1e-3)
        if dynamic.due(method, step, **plan):
            if source == "held":
                modules = [filled(network, row, torch.zeros(0)) for row in cohort.weights]
                held = (images.x_train[:100], images.y_train[:100])
                slopes = [gradients.loss_gradient(module, *held) for module in modules]
                dense_gradient = torch.stack([layout.row(slope) for slope in slopes])
            fraction = dynamic.drop_fraction("cosine", 0.3, step=step, end=40)
            sparsity, new = dynamic.gradual(step, start=0, end=40, final=0.9), cohort.mask.clone()
            for k, seed in enumerate(seeds):
                due = change(named(dense_gradient[k]), fraction, sparsity, "uniform")
                own = (named(cohort.weights[k]), named(cohort.mask[k]), rng.generator(seed, step))
                for name, live in dynamic.updated(method, *own, due).items():
                    named(new[k])[name].copy_(live)
            if method == "gradual":
                assert (cohort.mask | ~new).all()
                assert (~new).sum(1).tolist() == [round(sparsity * 1184)] * len(seeds)
            for old, live in zip(cohort.mask, new, strict=True):
                counts = [[int(m.sum()) for m in named(of).values()] for of in (old, live)]
                assert method == "gradual" or counts[0] == counts[1]
            dynamic.apply_(cohort.weights, cohort.velocity, cohort.mask, new)
            for k, row in enumerate(new):
                cohort.remask(k, row)
        assert not cohort.weights[~cohort.mask].any()
        assert not cohort.velocity[~cohort.mask].any()
    assert cohort.weights.isfinite().all()
    assert not torch.equal(cohort.mask, mask)
    return cohort


@pytest.mark.parametrize(
    ("method", "source"),
    [
        ("gradual", "batch"),
        ("set", "batch"),
        ("rigl", "batch"),
        ("rigl", "held"),
        ("rigl-inverted", "batch"),
    ],
)
def test_members_change_as_if_alone(method, source):
    """Density holds and pruned weights stay zero through momentum and decay; each of three members
    ends as it does in another cohort."""
    three, one = trained(method, source, (0, 1, 2)), trained(method, source, (1,))
    assert torch.equal(three.mask[1], one.mask[0])
    torch.testing.assert_close(three.weights[1], one.weights[0], rtol=1e-4, atol=1e-6)
