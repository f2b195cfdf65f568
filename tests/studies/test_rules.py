"""The algebra of rules: quantities by hand; rules that repeat, wait and name places."""

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from studies import quantities as q
from studies import rules as r
from studies.decide import Effect, NotHere


def table():
    """Two seeds, two sparsities, two epochs; Sol-D measured too. loss = 10 seed + 2 epoch + ..."""
    rows = []
    for seed in (0, 1):
        for solution, s in (
            ("sol_d", 0.0),
            *((k, s) for k in ("sol_f", "sol_s") for s in (0.5, 0.9)),
        ):
            for epoch in (0, 1):
                loss = 10 * seed + 2 * epoch + s + (0.25 if solution == "sol_s" else 0.0)
                cell = {
                    "key": f"{solution}{s}{seed}",
                    "solution": solution,
                    "sparsity": s,
                    "seed": seed,
                }
                rows.append({**cell, "epoch": epoch, "loss": loss, "accuracy": loss / 100})
    return pd.DataFrame(rows).assign(dataset="digits", network="mlp")


# -- quantities ------------------------------------------------------------------------------------


def test_a_cell_keeps_the_dense_runs_of_every_sparsity():
    chosen = q.part(table(), sparsity=0.9)
    assert set(chosen["solution"]) == {"sol_d", "sol_f", "sol_s"}
    assert set(chosen.loc[chosen["solution"] != "sol_d", "sparsity"]) == {0.9}
    variants = table().assign(
        scope=lambda rows: np.where(rows["solution"] == "sol_d", None, "layer")
    )
    assert set(q.part(variants, scope="layer")["solution"]) == {"sol_d", "sol_f", "sol_s"}
    assert set(q.part(variants, scope="global")["solution"]) == {"sol_d"}
    assert set(
        q.part(table(), solution="sol_f", sparsity=lambda rows: rows["sparsity"].max())["key"]
    ) == {
        "sol_f0.90",
        "sol_f0.91",
    }


def test_rates_are_chosen_though_they_are_not_exact():
    near = table().assign(sparsity=lambda rows: rows["sparsity"] + 1e-12)
    assert len(q.part(near, solution="sol_f", sparsity=0.9)) == 4


@pytest.mark.parametrize(
    ("how", "expected"), [("final", 2.5), ("max", 2.5), ("min", 0.5), ("mean", 1.5)]
)
def test_epochs_become_one_number(how, expected):
    found = q.pick("loss", how, solution="sol_f", sparsity=0.5)(
        table().sample(frac=1, random_state=0)
    )
    assert found.to_dict() == {0: expected, 1: expected + 10}


def test_a_course_is_along_epochs_or_at_the_end_of_runs():
    along = q.course("loss", solution="sol_s", sparsity=0.9)(table())
    assert along.loc[1].to_dict() == {0: 11.15, 1: 13.15}
    ends = q.course("loss", "sparsity", solution="sol_s")(table())
    assert ends.loc[0].to_dict() == pytest.approx({0.5: 2.75, 0.9: 3.15})


def test_numbers_pair_over_the_seeds_that_both_have():
    here = table()
    here = here[~((here["solution"] == "sol_s") & (here["seed"] == 0))]
    gap = q.pick("loss", solution="sol_s", sparsity=0.5) - q.pick(
        "loss", solution="sol_f", sparsity=0.5
    )
    assert gap(here).to_dict() == {1: 0.25}
    bent = (2 * gap + 1) / 4 - 0.5 * gap
    assert bent(here).to_dict() == {1: pytest.approx(0.25)}
    assert (1 - gap)(here).to_dict() == {1: 0.75}
    assert (1 / gap)(here).to_dict() == {1: 4.0}
    assert abs(-gap)(here).to_dict() == {1: 0.25}
    assert [(gap > 0.2)(here)[1], (gap >= 0.3)(here)[1], (~(gap < 0.3))(here)[1]] == [
        True,
        False,
        False,
    ]


def test_a_value_that_is_missing_is_kept_until_it_is_known():
    here = table()
    here.loc[(here["solution"] == "sol_f") & (here["seed"] == 0), "loss"] = np.nan
    numbers = q.pick("loss", solution="sol_f", sparsity=0.5)
    assert numbers(here).isna().tolist() == [True, False]
    assert q.known(numbers)(here).to_dict() == {1: 12.5}


def test_courses_are_paired_over_places_too():
    here = table()
    here = here[~((here["solution"] == "sol_s") & (here["epoch"] == 0))]
    gap = q.course("loss", solution="sol_s", sparsity=0.5) - q.course(
        "loss", solution="sol_f", sparsity=0.5
    )
    assert gap(here).to_dict() == {1: {0: 0.25, 1: 0.25}}


def wide(*rows):
    return q.Numbers(lambda table: pd.DataFrame(rows, columns=[0, 1, 2, 4][: len(rows[0])]))


@pytest.mark.parametrize(
    ("reduced", "expected"),
    [(q.first, 3), (q.last, 2), (q.highest, 5), (q.lowest, 1), (q.mean, 2.75), (q.peak, 2)],
)
def test_reductions(reduced, expected):
    assert reduced(wide([3.0, 1.0, 5.0, 2.0]))(table())[0] == expected
    with pytest.raises(NotHere, match="lacks"):
        reduced(q.Numbers(lambda table: pd.DataFrame()))(table())


def test_rank_correlations_are_scipys():
    one, other = [3.0, 1.0, 5.0, 2.0], [1.0, 2.0, 2.0, 9.0]
    assert q.trend(wide(one))(table())[0] == pytest.approx(
        stats.spearmanr(one, [0, 1, 2, 4]).statistic
    )
    found = q.agreement(wide(one), wide(other))(table())[0]
    assert found == pytest.approx(stats.spearmanr(one, other).statistic)
    with pytest.raises(NotHere, match="three sparsities"):
        q.trend(wide([1.0, 2.0]))(table())


def test_since_is_the_place_from_which_on_it_holds():
    held = wide([True, False, True, True], [False, False, False, False], [True, True, True, True])
    assert q.since(held > 0, 9)(table()).tolist() == [2, 9, 0]


def test_a_part_of_a_course():
    inside = q.between(wide([3.0, 1.0, 5.0, 2.0]), 1, 4)
    assert list(inside(table()).columns) == [1, 2]
    with pytest.raises(NotHere, match="nothing there"):
        q.between(wide([3.0, 1.0]), 5, 7, otherwise="nothing there")(table())


def test_the_others_best_place_is_not_picked_for_its_noise():
    course = pd.DataFrame([[1.0, 2.0, 9.0], [1.0, 2.0, 0.0], [1.0, 2.0, 0.0]])
    assert q.at_others_best(course).tolist() == [2.0, 0.0, 0.0]
    assert q.at_others_best(course.head(1)).tolist() == [9.0]


def test_an_empty_cell_can_be_refused():
    with pytest.raises(NotHere, match="no tickets"):
        q.needed(q.pick("loss", solution="ticket"), "no tickets")(table())


# -- rules -----------------------------------------------------------------------------------------

LOSS = q.pick("loss", solution="sol_s") - q.pick("loss", solution="sol_f")


def numbers(effect):
    return list(effect.values)


def test_rules_are_effects_functions_or_lists():
    effect = Effect("one", np.ones(2))
    assert r.rows([effect, lambda table: [effect, [effect]], []], table()) == [effect] * 3


def test_words_and_margins_may_come_from_the_table():
    rule = r.equal(
        r.says("gap of {} seeds", lambda table: table["seed"].nunique()),
        q.pick("loss", solution="sol_f", sparsity=0.5),
        "nats",
        margin=q.average(q.pick("loss", solution="sol_f", sparsity=0.9)),
        note=r.says("{:.1f} at {:g}", q.pick("loss", solution="sol_f", sparsity=0.5), 0.5),
    )
    (effect,) = r.rows(rule, table())
    assert (effect.what, effect.claim, effect.note) == ("gap of 2 seeds", "equal", "7.5 at 0.5")
    assert effect.margin == pytest.approx(7.9)


def test_each_place_is_named_behind_or_where_the_words_want_it():
    rules = [r.more("gap", LOSS), r.more("at s{sparsity}: gap", LOSS)]
    found = r.rows(r.each("sparsity", rules, [0.5, 0.9]), table())
    assert [e.what for e in found] == [
        "gap at 0.5",
        "at s at 0.5: gap",
        "gap at 0.9",
        "at s at 0.9: gap",
    ]
    assert all(numbers(e) == pytest.approx([0.25, 0.25]) for e in found)
    inner = r.each("epoch", r.more("{epoch}{sparsity}", LOSS), [0, 1], "epoch {}")
    nested = r.rows(r.each("sparsity", inner), table())
    assert [e.what for e in nested] == [f"epoch {k} at {s}" for s in (0.5, 0.9) for k in (0, 1)]


def test_places_where_something_holds():
    low = r.where(q.average(q.pick("loss", solution="sol_f")) < 7.6, "none so low")
    assert low(table()) == [0.5]
    with pytest.raises(NotHere, match="none so low"):
        low(table().assign(loss=20.0))


def test_a_chain_is_its_pairs_in_the_units_of_the_measure():
    here = q.part(table(), sparsity=0.9)
    found = r.rows(r.chain("accuracy", "sol_s", "sol_f", "sol_d", how="max"), here)
    assert [e.what for e in found] == ["max accuracy: Sol-S - Sol-F", "max accuracy: Sol-F - Sol-D"]
    assert [numbers(e) for e in found] == [
        pytest.approx([0.25] * 2),
        pytest.approx([0.9] * 2),
    ]
    assert {(e.unit, e.margin) for e in found} == {("points", r.MATCH)}  # no dense error here
    nats = here.rename(columns={"loss": "test_loss"})
    (effect,) = r.rows(r.above("test_loss", "sol_s", "sol_f"), nats)
    assert (effect.unit, effect.margin) == ("nats", 0.0)
    assert numbers(effect) == pytest.approx([0.25, 0.25])


def test_a_ratio_is_told_on_its_logarithm():
    (effect,) = r.rows(r.ratio("a / b", wide([2.0]), wide([1.0])), table())
    assert (effect.what, effect.unit) == ("ln(a / b)", "ln")
    assert numbers(effect) == pytest.approx([np.log(2)])


def test_conditions_narrow_refuse_or_leave_out():
    rule = r.more("gap", q.pick("loss", solution="sol_f"))
    half = r.only(lambda table: table["sparsity"] == 0.5, "nothing at 0.5")
    late = r.needs(lambda table: table["epoch"].max() > 5, "too short")
    (effect,) = r.rows(r.given(half, rule), table())
    assert numbers(effect) == [2.5, 12.5]
    with pytest.raises(NotHere, match="too short"):
        r.rows(r.given(half, late, rule), table())
    with pytest.raises(NotHere, match="nothing at"):
        r.rows(r.given(half, rule), table().assign(sparsity=0.9))
    assert r.rows(r.if_any(late, rule), table()) == []
    assert len(r.rows(r.if_any(half, rule), table())) == 1


def test_a_printed_number_needs_its_own_setting():
    own = r.own("cifar10", "resnet-32")
    with pytest.raises(
        NotHere, match="a number of cifar10 with resnet-32: preset paper can test it"
    ):
        own(table())
    assert len(own(table().assign(dataset="cifar10", network="resnet-32"))) == len(table())


# -- kinds of evidence -----------------------------------------------------------------------------

SOL_F, SOL_S = (q.pick("loss", solution=solution, sparsity=0.5) for solution in ("sol_f", "sol_s"))


def test_a_count_is_of_seeds():
    (effect,) = r.rows(r.counted("high", SOL_F > 5, chance=0.1), table())
    assert (effect.kind, effect.chance, numbers(effect)) == ("count", 0.1, [0.0, 1.0])
    assert effect.note == "1 of 2 seeds"


def test_paired_counts_are_of_the_seeds_that_differ():
    (effect,) = r.rows(r.discordant("higher", SOL_F > 2.6, SOL_S > 2.6), table())
    assert (effect.kind, numbers(effect)) == ("count", [0.0])  # seed 0: Sol-S alone
    assert effect.note == "the arms differ in 1 of 2 seeds"


def test_a_trend_needs_its_places():
    course = wide([3.0, 1.0, 5.0, 2.0])
    (effect,) = r.rows(r.rises("loss", course, least=4), table())
    assert (effect.kind, effect.unit) == ("trend", "rho")
    assert numbers(effect) == pytest.approx([stats.spearmanr([3, 1, 5, 2], range(4)).statistic])
    (steady,) = r.rows(r.rises("loss", -course, least_rho=0.9, least=4), table())
    assert (steady.kind, numbers(steady)) == ("count", [0.0])
    with pytest.raises(NotHere, match="5 places or more"):
        r.rows(r.rises("loss", course), table())


def test_a_place_is_told_to_half_a_step():
    (effect,) = r.rows(r.at_place("best", SOL_F, "epochs", resolution=0.5), table())
    assert (effect.kind, effect.resolution) == ("place", 0.5)
    (more,) = r.rows(r.more("best", SOL_F, resolution=0.5), table())
    assert more.kind == "place"


def test_a_fact_is_a_number_and_its_tolerance():
    (near,) = r.rows(r.fact("count", 0.02, 0.03), table())
    assert (near.kind, near.claim, numbers(near)) == ("fact", "equal", [0.02])
    assert near.margin == pytest.approx(0.03)
    (above,) = r.rows(r.fact("rate", SOL_F), table())
    assert (above.claim, numbers(above)) == ("positive", [2.5, 12.5])


def test_a_size_that_the_claim_names_is_in_the_ratio():
    (effect,) = r.rows(r.ratio("a / b", wide([6.0]), wide([1.0]), times=2), table())
    assert effect.what == "ln(a / b) - ln 2"
    assert numbers(effect) == pytest.approx([np.log(3)])


@pytest.mark.parametrize(
    ("dense", "printed", "expected"),
    [(0.90, None, 0.5), (0.97, None, 0.3), (0.9955, None, 0.1), (0.90, -0.6, 0.2), (None, 3, 0.5)],
)
def test_what_matters_is_a_tenth_of_the_error_or_a_third_of_print(dense, printed, expected):
    rows = table().assign(test_accuracy=dense)
    rows = rows if dense else rows[rows["solution"] != "sol_d"].drop(columns="test_accuracy")
    assert r.matters(printed)(rows) == pytest.approx(expected)
