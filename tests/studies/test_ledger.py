"""The ledger and its rules in step; the scoreboard that is made of verdicts."""

import json

import numpy as np
import pandas as pd
import pytest
from support import QUICK

from studies import ledger, notebook
from studies.decide import NOT_TESTED
from studies.scoreboard import _line, scoreboard


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
        assert {"figure", "source", "says", "rule", "otherwise"} <= set(entry), name


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
    """Of two supported rows that with the least slack is shown, of refuted ones the clearest."""
    close = table(0.002).assign(key=lambda rows: rows["key"] + "b")
    close = close[close["solution"] != "sol_d"].assign(sparsity=0.95)
    close.loc[close["solution"] == "sol_s", "test_accuracy"] += 1e-3 * np.cos(close["seed"])
    far = table(0.02)
    far.loc[far["solution"] == "sol_s", "test_accuracy"] += 1e-3 * np.cos(far["seed"])
    for sign, shown in ((1, "at 0.95"), (-1, "at 0.9")):
        both = pd.concat([far, close])
        scratch = both["solution"] == "sol_s"
        better = both["test_accuracy"].where(~scratch | (sign > 0), 1.92 - both["test_accuracy"])
        both = pd.concat([both.assign(test_accuracy=better)] * 2)
        again = np.arange(len(both)) >= len(better)
        both.loc[again, "seed"] += 6
        found = ledger.verdicts("fig1_regimes", both.reset_index(drop=True), made=QUICK)
        row = found.set_index("claim").loc["price-gap-test-acc"]
        assert row["rows"] == 2
        assert row["what"].endswith(shown)


def results(folder, figure, setting, runs, made, rules=None, **more):
    """A folder of results as notebooks leave them, by the rules of now but for ``rules``."""
    place = folder / figure / setting
    place.mkdir(parents=True)
    found = ledger.verdicts(figure, runs, made=made)
    found.to_csv(place / "verdicts.csv", index=False)
    now = {claim: held["hash"] for claim, held in ledger.held("rules.lock").items()}
    made = {"parameters": made, "rules": now | (rules or {})}
    made |= {"notebook": ledger.notebook_hash(figure), **more}
    (place / "manifest.json").write_text(json.dumps(made))
    return found


def line_of(text, claim):
    (line,) = (line for line in text.splitlines() if line.startswith(f"| `{claim}`"))
    return [cell.strip() for cell in line.replace("\\|", "¦").split("|")[1:-1]]


def test_the_scoreboard_has_a_line_a_claim(tmp_path):
    """The best kind of evidence decides; what contradicts it is named, and what is stale."""
    digits, mnist = table(-0.02, 10), table(0.02, 10).assign(dataset="mnist")
    desktop = {"preset": "desktop", "dataset": "mnist", "network": "mlp"}
    other = {"price-regime1-train-match": "another"}
    results(tmp_path, "fig1_regimes", "quick-digits", digits, QUICK)
    results(tmp_path, "fig1_regimes", "desktop-mnist", mnist, desktop, other)
    text = scoreboard(tmp_path)
    claim, verdict, kind, effect, seeds, printed, place = line_of(text, "price-gap-test-acc")
    assert ledger.ledger()["price-gap-test-acc"]["says"] in claim
    assert verdict == "**✔ supported**; toy (quick-digits): refuted"
    assert kind == "analogue: mlp on mnist"
    assert effect.startswith("test_accuracy: Sol-F - Sol-S at 0.9: ")
    assert (seeds, printed[:27]) == ("10", "Sol-F / Sol-S 77.5 / 74.9% ")
    assert place == "[desktop-mnist](fig1_regimes/desktop-mnist)"
    assert "rule changed since" in line_of(text, "price-regime1-train-match")[-1]
    assert line_of(text, "price-regime-boundary")[1] == "**– not tested here**"
    assert line_of(text, "price-capacity-control")[2] == "fact"
    assert line_of(text, "price-capacity-control")[5] == "in words: long section 3.2"
    assert "| price | fact | 1 | 0 | 0 | 0 |" in text
    assert "claims tested are refuted wrongly" in text


def test_a_verdict_stands_under_the_rule_that_gave_it_alone(tmp_path):
    """Once the rule has changed it is what an earlier one called it; what is undecided stays so."""
    made = {"rules": {"price-gap-test-acc": "another"}, "notebook": ""}
    results(tmp_path, "fig1_regimes", "quick-digits", table(0.02, 10), QUICK, **made)
    _, verdict, _, effect, *_, place = line_of(scoreboard(tmp_path), "price-gap-test-acc")
    assert verdict == "**? undecided**"
    assert effect.endswith("; supported by an earlier rule")
    assert "rule changed since" in place


def test_another_network_does_not_decide_a_claim_that_names_one(tmp_path, monkeypatch):
    monkeypatch.setitem(ledger.ledger()["price-gap-test-acc"], "names", True)
    results(tmp_path, "fig1_regimes", "quick-digits", table(0.02, 10), QUICK)
    cells = line_of(scoreboard(tmp_path), "price-gap-test-acc")
    assert cells[1] == "**– not tested here**; toy: supported"
    assert cells[-1] == "[quick-digits](fig1_regimes/quick-digits)"


def test_bars_are_escaped():
    assert _line("|a|", 1) == "| \\|a\\| | 1 |"


def test_verdicts_of_nothing_but_diverged_runs_are_not_supported():
    """Facts apart: the masks of a diverged pair are the same."""
    found = ledger.evidence("fig1_regimes", table().assign(diverged=True), made=QUICK)
    assert set(found["claim"][found["verdict"] == "supported"]) == {"price-capacity-control"}


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


def test_all_rows_can_be_shown():
    """An index of rows that are told apart, as the styled table needs."""
    found = ledger.evidence("fig1_regimes", table(), made=QUICK)
    assert found.index.is_unique
    assert "rows of evidence" in notebook.show_evidence(found).data
