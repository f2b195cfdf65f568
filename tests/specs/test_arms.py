"""Arms: what tells a run's selection, objective and start, and what cannot be."""

import pytest
from support import small

from lib import fisher_penalty, scratch
from lib.registry import objective, selection
from lib.specs.arms import Objective, Selection, Start
from lib.specs.fields import ParameterError
from lib.specs.run import Run, finetune


@pytest.fixture(scope="module")
def dense():
    return Run.dense(small(), seed=0)


def others(part, **values):
    """The part with each of these fields changed alone."""
    assert set(values) == set(type(part).model_fields), "every field needs another value here"
    return [part.model_copy(update={field: value}) for field, value in values.items()]


def test_every_field_changes_the_key(dense):
    """Of the selection, the objective, the start and the guide; and no two share one."""
    chosen = Selection(name="top_fisher")
    added = Objective(name="sam", weight=0.1)
    arms = [
        {},
        *({"selection": s} for s in [chosen, *others(
            chosen, name="bilevel", pool=3, until=0.2, labels="given", holdout=4)]),
        *({"objective": o} for o in [added, *others(
            added, name="jacobian", weight=0.2, until=0.5, fade=True)]),
        *({"start": {k: v}} for k, v in {
            "signs": "init-f", "magnitudes": "init-d", "units": "matched"}.items()),
        *({"start": {"mask": "random"}, "guide": Run.dense(small(), seed=s)} for s in (1, 2)),
    ]  # fmt: skip
    keys = {scratch(dense, sparsity=0.5, **arm).key for arm in arms}
    assert len(keys) == len(arms)


def test_a_name_will_do(dense):
    """A selection by its name is that with its defaults, and ``uniform`` is plain training."""
    plain = scratch(dense, sparsity=0.5)
    assert scratch(dense, sparsity=0.5, selection="uniform").key == plain.key
    named = scratch(dense, sparsity=0.5, selection="hard_first")
    assert named.selection == Selection(name="hard_first")
    assert finetune(dense, sparsity=0.5, selection="hard_first").selection == named.selection


def test_penalties_by_their_names():
    """The makers name what is registered."""
    made = [fisher_penalty(-0.01, until=0.1), fisher_penalty(1.0, reading="examples")]
    assert [m.name for m in made] == list(objective)[:2]
    assert made[0] == Objective(name="fisher_batch", weight=-0.01, until=0.1)


@pytest.mark.parametrize(
    ("fade", "weights"), [(False, [2.0, 2.0, 2.0, 0.0, 0.0]), (True, [2.0, 1.0, 0.5, 0.0, 0.0])]
)
def test_schedules_of_the_weight(fade, weights):
    """A step stays and drops at ``until``; a fade falls linearly to 0 there."""
    chosen = Objective(name="sam", weight=2.0, until=0.4, fade=fade)
    assert [chosen.at(t) for t in (0.0, 0.2, 0.3, 0.4, 1.0)] == pytest.approx(weights)
    assert Objective(name="sam", weight=2.0, until=0.0).at(0.0) == 0.0


@pytest.mark.parametrize(
    ("arm", "words"),
    [
        ({"selection": "hardest"}, "allowed are .*hard_first"),
        ({"selection": {"name": "top_fisher", "pool": 0}}, "pool is 0"),
        ({"selection": "path_oracle"}, "guide is missing"),
        ({"start": {"mask": "matched"}}, "guide is missing"),
        ({"start": {"mask": "random", "signs": "init-f"}}, "must then be its own"),
        ({"objective": {"name": "sam", "weight": float("nan")}}, "weight is nan"),
        ({"selecton": "hard_first"}, "selecton"),
    ],
)
def test_what_cannot_be_is_refused(dense, arm, words):
    """Before any work, with the name of what is wrong and what is allowed."""
    with pytest.raises(ParameterError, match=words):
        scratch(dense, sparsity=0.5, **arm)


def test_what_a_run_cannot_have(dense):
    """A guide that nobody looks at, a start of others for Sol-F, an objective on parts."""
    with pytest.raises(ParameterError, match="neither a selection nor"):
        scratch(dense, sparsity=0.5, guide=dense)
    with pytest.raises(ParameterError, match="only fresh weights"):
        finetune(dense, sparsity=0.5, start=Start(signs="init-f"))
    parts = Run.dense(small(micro_batch=5), seed=0)
    with pytest.raises(ParameterError, match="whole batches"):
        scratch(parts, sparsity=0.5, objective={"name": "sam", "weight": 0.1})


def test_a_users_rule_is_known_by_its_source(dense):
    """Its version is part of the key."""

    @selection(version="1")
    def easiest(pool):
        return pool.losses().argsort()[: pool.size]

    try:
        first = scratch(dense, sparsity=0.5, selection="easiest")
        selection(easiest, version="2")
        assert scratch(dense, sparsity=0.5, selection="easiest").key != first.key
    finally:
        selection.forget("easiest")
