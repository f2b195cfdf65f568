"""The lock of the rules: in step with them, and every change accounted for."""

import ast

import locks
import pytest
from locks import ALL, code_hashes, definitions, hashes, relocked, unaccounted

from studies import ledger


def test_the_lock_is_that_of_the_rules():
    locked = {claim: held["hash"] for claim, held in ledger.held("rules.lock").items()}
    changed = [claim for claim, found in hashes().items() if locked.get(claim) != found]
    assert not changed, "write what changed under amended, then: python -m tests.locks"
    assert set(locked) == {*ledger.ledger(), ALL}


def test_every_change_has_an_entry():
    amendments = ledger.held("amendments.yaml")
    assert not unaccounted(ledger.held("rules.lock"), ledger.ledger(), amendments)


def test_what_decides_for_all_claims_is_locked_too(monkeypatch):
    """A floor of evidence, a statistic, and what an entry says of its evidence."""
    before = locks.shared()
    source = (locks.STUDIES / "evidence.py").read_text(encoding="utf-8")
    lower = definitions(source.replace("ABOVE_CHANCE = 2.0", "ABOVE_CHANCE = 1.0"))
    real = locks.defined
    monkeypatch.setattr(locks, "defined", lambda m: lower if m == "studies.evidence" else real(m))
    assert locks.shared() != before
    monkeypatch.undo()
    monkeypatch.setitem(ledger.ledger()["price-gap-test-acc"], "names", True)
    assert locks.shared() != before
    monkeypatch.undo()
    assert locks.shared() == before
    lock = relocked({ALL: {"hash": "old", "changes": 0}}, {ALL: "new"}, "2026-01-01", "c")
    assert unaccounted(lock, ledger.ledger(), {}) == [ALL]
    assert not unaccounted(lock, ledger.ledger(), {"2026-01-01": {"claims": [ALL]}})


SOURCES = {
    "studies.a": '''
from studies.b import shared as together, apart
SIZE = 3
def small(table):
    """What it says does not matter."""
    return together(table) + SIZE
RULES = {"a": small, "b": apart(1), "c": [apart(2), small], **{n: apart(3) for n in "de"}}
''',
    "studies.b": """
def shared(table):
    return deep(table)
def deep(table):
    return 1
def apart(number):
    return number
""",
}


def found(**edits):
    """The hashes of made-up rules after an edit: module letter=(old, new)."""
    sources = dict(SOURCES)
    for letter, (old, new) in edits.items():
        assert old in sources[f"studies.{letter}"]
        sources[f"studies.{letter}"] = sources[f"studies.{letter}"].replace(old, new)
    parsed = {name: definitions(source) for name, source in sources.items()}
    return code_hashes("studies.a", "abcde", parsed.__getitem__)


@pytest.mark.parametrize(
    ("edit", "changed"),
    [
        ({"a": ('"b": apart(1)', '"b": apart(7)')}, "b"),
        ({"a": ("SIZE = 3", "SIZE = 4")}, "ac"),
        ({"b": ("return 1", "return 2")}, "ac"),
        ({"b": ("return number", "return -number")}, "bcde"),
        ({"a": ("apart(3)", "apart(4)")}, "de"),
        ({"a": ("What it says", "This docstring")}, ""),
        ({"b": ("def apart(number):", "def apart(number):  # a comment")}, ""),
    ],
)
def test_an_edit_changes_the_rules_that_use_it(edit, changed):
    before, after = found(), found(**edit)
    assert "".join(claim for claim in before if before[claim] != after[claim]) == changed


def test_a_real_rule_reaches_what_it_uses():
    """A shared helper's hash is part of the rules that use it, and of no other."""
    from locks import defined, expressions, uses

    (node,) = expressions("studies.price.regimes")["price-gap-test-acc"]
    names = set(uses("studies.price.regimes", node))
    assert {"studies.rules.above", "studies.rules.matters", "studies.quantities.pick"} <= names
    assert "studies.rules.discordant" not in names
    assert isinstance(defined("studies.price.regimes")["RULES"], ast.Assign)


def test_a_changed_rule_needs_an_entry_of_its_date():
    old = relocked({}, {"a": "1", "b": "2"}, "2026-01-01", "c0")
    assert old["a"] == {"hash": "1", "date": "2026-01-01", "after": "c0", "changes": 0}
    new = relocked(old, {"a": "1", "b": "3"}, "2026-02-02", "c1")
    assert new["a"] == old["a"]
    assert new["b"] == {"hash": "3", "date": "2026-02-02", "after": "c1", "changes": 1}
    entries: dict = {"a": {}, "b": {"amended": "On 2026-01-05 something else."}}
    assert unaccounted(new, entries, {}) == ["b"]
    assert unaccounted(new, {**entries, "b": {"amended": "2026-02-02: why"}}, {}) == []
    assert unaccounted(new, entries, {"2026-02-02": {"claims": ["b"]}}) == []
    assert unaccounted(new, entries, {"2026-02-02": {"claims": ["a"]}}) == ["b"]
