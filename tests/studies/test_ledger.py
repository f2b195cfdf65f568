"""The ledger and its rules in step; the scoreboard that is made of verdicts."""

import json

import numpy as np
import pandas as pd
import pytest
from support import QUICK

from studies import ledger
from studies.decide import NOT_TESTED
from studies.scoreboard import scoreboard


def table(gap=0.02, seeds=6):
    """Runs in which Sol-F beats Sol-S by a known gap."""
    rows = []
    for seed in range(seeds):
        for solution, less in (("sol_d", 0.0), ("sol_f", 0.01), ("sol_s", 0.01 + gap)):
            here = {"dataset": "digits", "network": "mlp", "noise": 0.0, "diverged": False}
            sparsity = 0.0 if solution == "sol_d" else 0.9
            run = {"key": f"{solution}{seed}", "solution": solution, "sparsity": sparsity}
            measures = {
                f"{part}_{m}": 0.9 for part in ("train", "test") for m in ("loss", "entropy")
            }
            measures |= {"train_accuracy": 1.0, "test_accuracy": 0.97 - less + 1e-3 * np.sin(seed)}
            rows.append({**here, **run, "seed": seed, "epoch": 9, "mask": "m", **measures})
    return pd.DataFrame(rows)


def test_every_ledger_entry_has_a_rule_and_every_rule_an_entry():
    assert set(ledger.RULES) == set(ledger.ledger())
    for name, entry in ledger.ledger().items():
        assert {"figure", "source", "says", "rule"} <= set(entry), name


def test_a_claim_stands_with_its_own_study():
    for home in ledger.HOMES:
        study = home.__name__.split(".")[-2]
        assert all(name.startswith(f"{study}-") for name in home.RULES), home
    assert sum(len(home.RULES) for home in ledger.HOMES) == len(ledger.RULES), "one is there twice"


def test_what_a_figure_decides_in_words():
    shown = ledger.rules("fig1_regimes").set_index("claim")
    assert list(shown.index) == list(ledger.of_figure("fig1_regimes"))
    amended = [name for name, entry in ledger.ledger().items() if "amended" in entry]
    one = ledger.rules(ledger.ledger()[amended[0]]["figure"]).set_index("claim")
    assert "(Amended: " in one.loc[amended[0], "rule"]
    assert "sparsity" in ledger.paper_curves("fig1_regimes")
    assert ledger.paper_curves("fig5_disagreement") == {}


def test_a_row_says_where_it_comes_from():
    found = ledger.verdicts("fig1_regimes", table(), made=QUICK)
    assert list(found.columns) == ledger.COLUMNS
    assert set(found["setting"]) == {"digits mlp"}
    assert set(found["preset"]) == {"quick"}
    row = found.set_index("claim").loc["price-regime-boundary"]
    assert row["verdict"] == NOT_TESTED
    assert row["note"] == "needs three sparsities or more"


def test_the_verdict_hangs_on_the_weakest_row():
    """Of two supported rows the one is shown whose interval begins nearest to 0, in its length."""
    close = table(0.002).assign(sparsity=0.95, key=lambda rows: rows["key"] + "b")
    close.loc[close["solution"] == "sol_s", "test_accuracy"] += 1e-3 * np.cos(close["seed"])
    both = pd.concat([table(0.02), close[close["solution"] != "sol_d"]])
    found = ledger.verdicts("fig1_regimes", both, made=QUICK).set_index("claim")
    row = found.loc["price-gap-test-acc"]
    assert row["rows"] == 2
    assert row["what"].endswith("at 0.95")


def test_scoreboard_is_generated_from_the_tables(tmp_path):
    for setting, gap in (("quick-digits", 0.02), ("desktop-digits", -0.02)):
        folder = tmp_path / "fig1_regimes" / setting
        folder.mkdir(parents=True)
        found = ledger.verdicts("fig1_regimes", table(gap), made=QUICK)
        found.to_csv(folder / "verdicts.csv", index=False)
        made = {"parameters": {"preset": "quick", "network": "mlp", "seeds": list(range(6))}}
        (folder / "manifest.json").write_text(json.dumps(made))
    text = scoreboard(tmp_path)
    (line,) = (line for line in text.splitlines() if line.startswith("| `price-gap-test-acc`"))
    _, claim, against, for_it, _ = line.split("|")
    assert ledger.ledger()["price-gap-test-acc"]["says"] in claim
    assert "**✘ refuted** test_accuracy: Sol-F - Sol-S at 0.9: -2 [-2, -2] points" in against
    assert "**✔ supported**" in for_it
    assert "| desktop-digits: mlp, 6 seeds | quick-digits: mlp, 6 seeds |" in text
    assert "– (needs three sparsities or more)" in text
    assert "tested would come out wrong by chance" in text


def test_verdicts_of_nothing_but_diverged_runs_are_not_supported():
    found = ledger.evidence("fig1_regimes", table().assign(diverged=True), made=QUICK)
    assert "supported" not in set(found["verdict"])


@pytest.mark.parametrize("claim", list(ledger.ledger()))
def test_a_rule_of_an_unfitting_table_says_so_or_fails_loudly(claim):
    """No rule supports its claim from a table that holds nothing of what it needs."""
    empty = table().head(0)
    try:
        found = [
            ledger.decide(effect) for effect in ledger.algebra.rows(ledger.RULES[claim], empty)
        ]
    except (ledger.NotHere, KeyError, ValueError, IndexError):
        return
    assert all(row["verdict"] != "supported" for row in found)
