"""The rules of Figures 8 to 10 on lines and cosines whose truth is known."""

import numpy as np
import pandas as pd
import pytest
from support import PAPER, QUICK, verdict

from studies import ledger
from studies.decide import NOT_TESTED, REFUTED, SUPPORTED
from studies.price import lines as lines_of

ALPHAS = [0.0, 0.2, 0.4, 0.5, 0.6, 0.8, 1.0]
SEEDS = range(12)


def run_columns(solution, seed, dataset="digits", network="mlp", sparsity=0.9):
    sparsity = 0.0 if solution == "sol_d" else sparsity
    return {
        **{
            "key": f"{solution}{seed}{sparsity}",
            "solution": solution,
            "sparsity": sparsity,
            "seed": seed,
        },
        **{"dataset": dataset, "network": network, "diverged": False},
    }


def lines(rise=0.0, lead=0.5, alphas=ALPHAS, **where):
    """Lines on which the loss first rises by ``rise``; Init-F is ahead by ``lead`` inside."""
    rows = []
    for seed in SEEDS:
        falling = 2.3 * (1 - np.array(alphas)) + 0.001 * seed
        falling[1] = falling[0] + rise * (1 + 0.01 * seed)
        both = {
            "init_s": falling,
            "init_f": falling - lead * np.array(alphas) * (1 - np.array(alphas)),
        }
        found = []
        for start, loss in both.items():
            measures = {c: loss.tolist() for c in lines_of.COLUMNS}
            found.append({"start": start, "bn": "reestimated", "alphas": list(alphas), **measures})
        rows.append({**run_columns("sol_f", seed, **where), "lines": found, "classes": 10})
        rows.append({**run_columns("sol_s", seed, **where), "lines": found[:1], "classes": 10})
    return lines_of.points(pd.DataFrame(rows))


@pytest.mark.parametrize(
    ("rise", "expected"), [(0.0, SUPPORTED), (0.05, SUPPORTED), (0.3, REFUTED)]
)
def test_almost_monotone_has_a_tolerance(rise, expected):
    row = verdict("price-interp-monotone", lines(rise))
    assert row["verdict"] == expected
    assert f"strictly monotone in {12 if rise == 0 else 0} of 12" in row["note"]


def test_bumps_rise_above_the_lowest_so_far():
    table = lines(0.3)
    found = lines_of.bumps("init_s", sparsity=0.9)(table)
    curves = lines_of.curves("init_s", sparsity=0.9)(table)
    assert list(found) == [
        max(value - min(row[: i + 1]) for i, value in enumerate(row)) for row in curves.to_numpy()
    ]
    assert (found > 0.2).all()


@pytest.mark.parametrize(("lead", "expected"), [(0.5, SUPPORTED), (-0.5, REFUTED)])
def test_which_line_falls_first(lead, expected):
    assert verdict("price-interp-init-f-faster", lines(lead=lead))["verdict"] == expected


def test_too_few_alphas_are_not_tested():
    table = lines(alphas=[0.0, 0.1, 1.0])
    for claim in ("price-interp-monotone", "price-interp-init-f-faster"):
        assert verdict(claim, table)["verdict"] == NOT_TESTED


def test_the_papers_own_ends_are_tested_on_its_own_data_alone():
    own = ledger.evidence(
        "fig8_interpolation", lines(dataset="cifar100", network="resnet-32"), made=PAPER
    )
    assert own["what"].str.contains("- 4, at 0.9").sum() == 1
    assert (
        not ledger.evidence("fig8_interpolation", lines(), made=QUICK)["what"]
        .str.contains("- 4, at")
        .any()
    )


def test_a_diverged_run_has_no_lines():
    measured = pd.DataFrame(
        [{**run_columns("sol_f", 0), "diverged": True, "lines": np.nan, "classes": np.nan}]
    )
    assert lines_of.points(measured).empty


# -- cosines ---------------------------------------------------------------------------------------


def verdicts(figure, rows):
    return ledger.verdicts(figure, pd.DataFrame(rows), made=QUICK).set_index("claim")["verdict"]


def base(solution, sparsity, seed, **more):
    return {**run_columns(solution, seed, sparsity=sparsity), **more}


def aligned(shift=0.0, second=(10, 10, 10, 70)):
    """Early cosines around ``shift``, late ones wide and positive; the leading classes given."""
    rows = []
    for seed in SEEDS:
        early = {
            "alpha": 0.3,
            "mean": shift + 1e-4 * seed,
            "std": 0.01,
            "above_zero": 0.5,
            "top": [90, 5, 3, 2],
        }
        late = {
            "alpha": 0.9,
            "mean": 0.05 + 1e-3 * seed,
            "std": 0.04,
            "above_zero": 0.9,
            "top": list(second),
        }
        rows += [base("sol_f", 0.9, seed, **early), base("sol_f", 0.9, seed, **late)]
    return rows


def test_cosine_rules():
    assert (verdicts("fig8_cosine", aligned()) == SUPPORTED).all()
    assert verdicts("fig8_cosine", aligned(shift=0.02))["price-cos-near-init-zero"] == REFUTED
    assert (
        verdicts("fig8_cosine", aligned(second=(90, 5, 3, 2)))[
            "price-cos-class-distribution-differs"
        ]
        == REFUTED
    )
    assert (
        verdicts("fig8_cosine", [row for row in aligned() if row["alpha"] > 0.5]) == NOT_TESTED
    ).all()


def test_chance_is_the_95_percent_quantile_of_two_samples_of_one_distribution():
    rng, share = np.random.default_rng(1), np.array([0.4, 0.3, 0.2, 0.1])
    pairs = rng.multinomial(200, share, size=(300, 2)).astype(float)
    beyond = np.mean([lines_of.distance(a, b) > lines_of.chance(a, b) for a, b in pairs])
    assert 0.02 < beyond < 0.09
    assert lines_of.distance(np.array([1.0, 0.0]), np.array([0.0, 4.0])) == 1
