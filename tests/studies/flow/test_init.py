"""The rules on Figure 1c and on variances and steps without training, on made-up tables."""

import numpy as np
import pandas as pd
import pytest
from support import QUICK

from studies import ledger, rules
from studies.decide import NOT_TESTED, REFUTED, SUPPORTED, UNDECIDED, decide
from studies.flow import init

SPARSITIES = (0.8, 0.845, 0.89, 0.935, 0.98)
SEEDS = range(12)


def row(part, seed, **more):
    return {
        "part": part,
        "seed": seed,
        "key": f"{part}{seed}",
        "dataset": "standard normal",
        "network": "mlp",
        "diverged": False,
        **more,
    }


def lenets(kept=1.0, masked=lambda s: (1 - s) ** 2, liu=1.0, kind="bounded"):
    """Output signals: the per-neuron form keeps ``kept`` of the dense one's at each sparsity."""
    rows = []
    for seed in SEEDS:
        common = {"scheme": "he", "kind": "", "form": "masked", "sparsity": 0.0}
        dense = 3.0 * (1 + 0.05 * (-1) ** seed)
        rows.append(row("signal", seed, **common, value=dense))
        for s in SPARSITIES:
            for form, share in (("masked", masked(s)), ("layer", liu), ("neuron", kept)):
                spread = 1 + 0.03 * (seed % 3 - 1)
                rows.append(
                    row(
                        "signal",
                        seed,
                        **{**common, "kind": kind, "form": form, "sparsity": s},
                        value=3.0 * share * spread,
                    )
                )
    return rows


def layers(part, growth=1.0, kind="uneven"):
    """Mean squares that grow by a factor from layer to layer, in the direction of the signal."""
    return [
        row(
            part,
            seed,
            kind=kind,
            form="neuron",
            layer=layer,
            expected=1.0,
            value=growth ** (layer if part == "forward" else -layer)
            * (1 + 0.02 * ((seed + layer) % 3)),
        )
        for seed in SEEDS
        for layer in range(1, 5)
    ]


def full(variance=0.0, draws=0.0, square=1.0):
    numbers = {"variance": variance, "draws": draws, "mean square": square}
    return [
        row(
            "full mask",
            seed,
            scheme=scheme,
            quantity=name,
            value=value + 0.001 * (seed - 2.5) * (name == "mean square"),
        )
        for seed in SEEDS
        for scheme in ("he", "glorot-normal")
        for name, value in numbers.items()
    ]


def fans(even=0.0, uneven=0.3):
    return [
        row("equal fan-in", seed, kind=kind, quantity=name, value=value)
        for seed in SEEDS
        for kind, name, value in (
            ("even", "variance", even),
            ("even", "draws", even),
            ("uneven", "mean difference", uneven),
        )
    ]


def moves(second=0.1, order=1.0):
    """Steps whose first-order error is step^order / 2, the second-order ``second`` of that."""
    rows = []
    for seed in SEEDS:
        for step in (0.001, 0.01, 0.1):
            error = step**order / 2 * (1 + 0.01 * seed)
            rows.append(
                row(
                    "step",
                    seed,
                    step=step,
                    value=-step,
                    first=-step * (1 + error),
                    second=-step * (1 + second * error),
                )
            )
    return rows


def verdicts(*parts):
    table = pd.DataFrame([each for part in parts for each in part])
    return ledger.verdicts("flow_fig1_init", table, made=QUICK).set_index("claim")["verdict"]


GOOD = (lenets(), layers("forward"), layers("backward"), full(), fans(), moves())


def test_what_holds_is_supported():
    assert (verdicts(*GOOD) == SUPPORTED).all()


@pytest.mark.parametrize(
    ("claim", "part", "change"),
    [
        ("flow-fig1c-signal", lenets, {"kept": 0.3}),
        ("flow-fig1c-signal", lenets, {"kept": 2.0}),
        ("flow-fig1c-signal", lenets, {"liu": 0.3}),
        ("flow-fig1c-signal", lenets, {"kept": 0.0}),  # networks that pass no signal count as zero
        ("flow-fig1c-signal", lenets, {"masked": lambda s: 1 / (1 - s)}),
        ("flow-init-forward-variance", layers, {"part": "forward", "growth": 0.6}),
        ("flow-init-forward-variance", layers, {"part": "forward", "growth": 1.5}),
        ("flow-init-backward-variance", layers, {"part": "backward", "growth": 0.6}),
        ("flow-init-reduces-to-dense", full, {"variance": 0.01}),
        ("flow-init-reduces-to-dense", full, {"draws": 0.01}),
        ("flow-init-reduces-to-dense", full, {"square": 1.2}),
        ("flow-liu-special-case", fans, {"even": 0.01}),
        ("flow-liu-special-case", fans, {"uneven": 0.0}),
        ("flow-descent-first-order", moves, {"second": 3.0}),
        ("flow-descent-first-order", moves, {"order": -0.5}),
    ],
)
def test_the_opposite_is_refuted(claim, part, change):
    assert verdicts(part(**change))[claim] == REFUTED
    assert (verdicts(part(**change)).drop(claim) == NOT_TESTED).all()


def test_what_a_table_cannot_say_is_not_tested():
    assert (verdicts([row("something", 0)]) == NOT_TESTED).all()
    assert verdicts(lenets(kind="uniform"))["flow-fig1c-signal"] == NOT_TESTED
    assert (
        verdicts([r for r in lenets() if r["form"] != "neuron"])["flow-fig1c-signal"] == NOT_TESTED
    )
    assert (
        verdicts([r for r in lenets() if r["sparsity"] in (0.0, 0.8)])["flow-fig1c-signal"]
        == NOT_TESTED
    )
    assert (
        verdicts([r for r in layers("forward") if r["layer"] < 3])["flow-init-forward-variance"]
        == NOT_TESTED
    )
    assert (
        verdicts([r | {"value": 0.0} for r in layers("forward")])["flow-init-forward-variance"]
        == NOT_TESTED
    )
    assert (
        verdicts([r for r in moves() if r["step"] == 0.1])["flow-descent-first-order"] == NOT_TESTED
    )


def test_a_wide_spread_decides_nothing():
    rows = [
        r | {"value": r["value"] * 4.0 ** (r["seed"] % 2)} if r["form"] == "neuron" else r
        for r in lenets(kept=0.6)
    ]
    assert verdicts(rows)["flow-fig1c-signal"] == UNDECIDED


def test_the_ratio_of_two_means():
    """Its mean is that ratio, and its standard error that of the bootstrap."""
    stream = np.random.default_rng(0)
    reference = stream.lognormal(0, 0.3, 400)
    numbers = 2 * reference * stream.lognormal(0, 0.2, 400)
    found = init.ratio_of_means(pd.Series(numbers), pd.Series(reference))
    assert found.mean() == pytest.approx(numbers.mean() / reference.mean())
    picks = stream.integers(0, 400, (4000, 400))
    ratios = numbers[picks].mean(1) / reference[picks].mean(1)
    assert found.std(ddof=1) / 20 == pytest.approx(ratios.std(), rel=0.1)


def test_the_same_rule_for_other_masks():
    rows = [
        decide(e)
        for e in rules.rows(init.kept("uniform"), pd.DataFrame(lenets(kept=0.3, kind="uniform")))
    ]
    assert [r["verdict"] for r in rows] == [SUPPORTED] + [REFUTED] * len(SPARSITIES) + [
        SUPPORTED
    ] * len(SPARSITIES)
    assert (rows[0]["kind"], rows[0]["effect"]) == ("count", 1)  # all seeds alike
    assert rows[1]["effect"] == pytest.approx(0.3 - 1.05, abs=0.02)
