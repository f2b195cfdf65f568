"""The rules on the Hessian at mask updates and along training, on made-up tables."""

import numpy as np
import pandas as pd
import pytest
from support import QUICK, judged

from studies import ledger, rules
from studies.decide import NotHere, decide

FIGURE = "flow_fig10_hessian"
STEPS, UPDATES, SEEDS = (100, 500, 1300), (500, 1000), 10
# the study's story along training: largest eigenvalue, size of the largest negative one, negative
# share
ALONG = {
    **{"baseline": (10.0, 2.0, 0.3), "small dense": (5.0, 2.5, 0.3)},
    **{
        "scratch": (10.0, 0.5, 0.2),
        "set": (9.0, 0.6, 0.2),
        "rigl": (11.0, 1.0, 0.25),
        "rigl-inverted": (10.0, 0.5, 0.2),
    },
}
# factors on the largest and on the largest negative eigenvalue after an update and when it has
# settled; the change of the spectrum
AT_UPDATES = {
    "set": (1.0, 1.1, 1.0, 0.1),
    "rigl": (2.0, 3.0, 1.0, 0.4),
    "rigl-inverted": (1.0, 1.0, 1.0, 0.01),
}


def made_up(along=None, updates=None, spread=0.05, network="lenet-5"):
    """The story, or what is given: ``along`` and ``updates`` map a method to another tuple."""
    rng, rows = np.random.default_rng(0), []
    along, updates = {**ALONG, **(along or {})}, {**AT_UPDATES, **(updates or {})}
    for row, (high, low, share) in along.items():
        for seed in range(SEEDS):
            run = {
                "key": f"{row}{seed}",
                "row": row,
                "seed": seed,
                "diverged": False,
                "dataset": "mnist",
                "network": network,
            }

            def near(value):
                return value * float(np.exp(spread * rng.standard_normal()))

            for step in STEPS:
                values = {
                    "largest": near(high),
                    "smallest": -near(low),
                    "negative_share": near(share),
                }
                rows.append({**run, "step": step, "moment": "along", **values})
            for step in UPDATES if row in updates else ():
                up, down, left, change = updates[row]
                for moment, higher, lower in (
                    ("before", 1, 1),
                    ("after", up, down),
                    ("settled", left, left),
                ):
                    values = {"largest": near(high * higher), "smallest": -near(low * lower)}
                    values |= {"change": near(change)} if moment == "after" else {}
                    rows.append({**run, "step": step, "moment": moment, **values})
    return pd.DataFrame(rows)


def test_the_studys_story_is_supported():
    found = ledger.verdicts(FIGURE, made_up(), made=QUICK)
    assert len(found) == 6
    assert (found["verdict"] == "supported").all(), found[["claim", "verdict"]]


REFUTED = [  # claim, what refutes it along training, or at updates
    ("flow-hessian-rigl-negative", {}, {"rigl": (2.0, 1.0, 1.0, 0.4)}),  # no growth
    ("flow-hessian-rigl-negative", {}, {"set": (1.0, 6.0, 1.0, 0.1)}),  # SET's is larger
    ("flow-hessian-rigl-positive-transient", {}, {"rigl": (1.0, 3.0, 1.0, 0.4)}),  # no rise
    ("flow-hessian-rigl-positive-transient", {}, {"rigl": (2.0, 3.0, 2.0, 0.4)}),  # it stays
    (
        "flow-hessian-rigl-positive-transient",
        {},
        {"rigl": (4.0, 3.0, 2.0, 0.4)},
    ),  # half of it stays
    ("flow-hessian-set-limited", {}, {"set": (1.0, 1.1, 1.0, 0.6)}),
    ("flow-hessian-set-limited", {}, {"set": (1.0, 1.1, 1.0, 0.4)}),
    ("flow-hessian-dense-negative-mass", {"baseline": (10.0, 2.0, 0.1)}, {}),
    (
        "flow-hessian-dense-negative-mass",
        {"baseline": (30.0, 2.0, 0.3)},
        {},
    ),  # the positive side is not alike
    ("flow-hessian-largest-negative", {"rigl": (11.0, 0.3, 0.25)}, {}),
    ("flow-hessian-largest-negative", {"rigl": (11.0, 0.6, 0.25)}, {}),  # alike
    ("flow-hessian-largest-negative", {"baseline": (10.0, 0.7, 0.3)}, {}),
    ("flow-hessian-small-dense-conditioning", {"small dense": (20.0, 2.5, 0.3)}, {}),
    ("flow-hessian-small-dense-conditioning", {"small dense": (5.0, 0.8, 0.3)}, {}),
]


@pytest.mark.parametrize(
    ("claim", "along", "updates"), REFUTED, ids=lambda v: v if isinstance(v, str) else "-".join(v)
)
def test_what_refutes_it(claim, along, updates):
    """One change to the story refutes this claim."""
    assert judged(claim, made_up(along, updates)) == "refuted"


@pytest.mark.parametrize("claim", [c for c in ledger.of_figure(FIGURE)])
def test_noise_leaves_it_undecided(claim):
    """Where seeds differ by far more than methods do, nothing is decided."""
    alike = {row: (10.0, 1.0, 0.25) for row in ALONG}
    assert (
        judged(claim, made_up(alike, {row: (1.1, 1.1, 1.0, 0.2) for row in AT_UPDATES}, spread=3.0))
        == "undecided"
    )


def test_what_is_not_there_is_not_tested():
    table = made_up()
    assert judged("flow-hessian-set-limited", table.drop(columns="change")) == "not tested here"
    assert (
        judged("flow-hessian-small-dense-conditioning", table[table["row"] != "small dense"])
        == "not tested here"
    )
    rule = ledger.RULES["flow-hessian-rigl-positive-transient"]
    with pytest.raises(NotHere, match="no largest of RigL, settled"):
        rules.rows(rule, table[table["moment"] != "settled"])


def test_numbers_by_hand():
    """The mean over moments of the logarithms' differences; a negative eigenvalue has a floor."""
    rows = []
    for row, moment, step, high, low in [
        *(
            ("rigl", "before", 500, 4.0, -1.0),
            ("rigl", "after", 500, 8.0, -3.0),
            ("rigl", "before", 1000, 2.0, 0.5),
        ),
        *(
            ("rigl", "after", 1000, 3.0, -1.0),
            ("set", "before", 500, 4.0, -1.0),
            ("set", "after", 500, 4.0, -2.0),
        ),
    ]:
        rows.append(
            {
                "row": row,
                "moment": moment,
                "step": step,
                "seed": 0,
                "largest": high,
                "smallest": low,
            }
        )
    first, second = rules.rows(ledger.RULES["flow-hessian-rigl-negative"], pd.DataFrame(rows))
    expected = (
        np.log(3) + np.log(1 / 0.002)
    ) / 2  # the smallest eigenvalue 0.5 counts as -0.001 * 2
    assert decide(first)["effect"] == pytest.approx(expected)
    assert decide(second)["effect"] == pytest.approx(expected - np.log(2))
