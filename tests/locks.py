"""The lock of the decision rules: ``python -m tests.locks`` writes studies/rules.lock anew.

A rule's hash is that of its words (what the claim says, the rule) and of its code: its expression
in ``RULES`` and all of the studies' definitions that it uses, in turn, without docstrings and
layout. Under ``ALL`` stands what decides for all claims alike: how effects are judged, what counts
as evidence, and what entries say of that. Where a hash has changed, its date and the commit that it
came after change with it, and the claim needs an entry under ``amended`` (or in amendments.yaml) of
that date.
"""

import ast
import datetime
import functools
import hashlib
import json
import subprocess
from pathlib import Path

from studies import ledger

STUDIES = Path(ledger.__file__).parent
ALL, SHARED = "*", ("studies.decide", "studies.evidence")


@functools.cache
def defined(module: str) -> dict:
    """What a module of the studies defines, by name: a node, or (module, name) where imported."""
    path = STUDIES.parent.joinpath(*module.split("."))
    path = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
    return definitions(path.read_text(encoding="utf-8"))


def definitions(source: str) -> dict:
    """The same of a source."""
    tree, found = ast.parse(source), {}
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.ClassDef) and ast.get_docstring(node) is not None:
            node.body = node.body[1:] or [ast.Pass()]
    for node in tree.body:
        if isinstance(node, ast.ImportFrom) and node.module.startswith("studies"):
            found |= {alias.asname or alias.name: (node.module, alias.name) for alias in node.names}
        elif isinstance(node, ast.FunctionDef | ast.ClassDef):
            found[node.name] = node
        elif isinstance(node, ast.Assign | ast.AnnAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            names = [name for target in targets for name in ast.walk(target)]
            found |= {name.id: node for name in names if isinstance(name, ast.Name)}
    return found


def written(node) -> str:
    """A syntax tree in words that every Python writes alike, as ``ast.unparse`` does not."""
    if isinstance(node, list):
        return f"[{', '.join(map(written, node))}]"
    if not isinstance(node, ast.AST):
        return repr(node)
    fields = (
        f"{name}={written(value)}"
        for name, value in ast.iter_fields(node)
        if value not in (None, [])
    )
    return f"{type(node).__name__}({', '.join(fields)})"


def uses(module: str, node, lookup=defined, seen=None) -> dict[str, str]:
    """All definitions of the studies that a node uses, in turn: name -> source."""
    seen = {} if seen is None else seen
    for name in sorted({part.id for part in ast.walk(node) if isinstance(part, ast.Name)}):
        home, found = module, lookup(module).get(name)
        while isinstance(found, tuple):
            home, name = found
            found = lookup(home).get(name)
        if found is not None and f"{home}.{name}" not in seen:
            seen[f"{home}.{name}"] = written(found)
            uses(home, found, lookup, seen)
    return seen


def expressions(module: str, lookup=defined) -> dict[str, list]:
    """Claim -> the expression of its rule; "**" -> those that make several."""
    table = lookup(module)["RULES"].value
    found: dict[str, list] = {"**": []}
    for key, value in zip(table.keys, table.values, strict=True):
        if isinstance(key, ast.Constant):
            found[key.value] = [value]
        else:
            found["**"].append(value)
    return found


def digest(*texts: str) -> str:
    return hashlib.blake2b("\n".join(texts).encode(), digest_size=8).hexdigest()


def code_hashes(module: str, claims, lookup=defined) -> dict[str, str]:
    """Claim -> the hash of its rule's code."""
    of, found = expressions(module, lookup), {}
    for claim in claims:
        nodes = of.get(claim, of["**"])
        used: dict[str, str] = {}
        for node in nodes:
            uses(module, node, lookup, used)
        found[claim] = digest(*map(written, nodes), *(used[name] for name in sorted(used)))
    return found


def hashes() -> dict[str, str]:
    """Claim -> the hash of its rule, words and code."""
    found = {}
    for home in ledger.HOMES:
        for claim, code in code_hashes(home.__name__, home.RULES).items():
            entry = ledger.ledger()[claim]
            found[claim] = digest(entry["says"], entry["rule"], code)
    return {claim: found[claim] for claim in ledger.ledger()} | {ALL: digest(*shared())}


def shared() -> list[str]:
    """The sources of what decides for all claims alike, and the entries' words for it."""
    nodes = (node for module in SHARED for node in defined(module).values())
    code = [written(node) for node in nodes if isinstance(node, ast.AST)]
    words = ("about", "names", "floor", "untrained")
    said = {
        claim: {key: entry[key] for key in words if key in entry}
        for claim, entry in ledger.ledger().items()
    }
    told = {claim: what for claim, what in said.items() if what}  # a new claim may say nothing
    return [*code, json.dumps(told, sort_keys=True)]


def relocked(old: dict, new: dict[str, str], date: str, commit: str) -> dict:
    """The lock with what is new in it: changed rules have date, commit, and one change more."""
    lock = {}
    for claim, found in new.items():
        was = old.get(claim)
        if was and was["hash"] == found:
            lock[claim] = was
        else:
            changes = was["changes"] + 1 if was else 0
            lock[claim] = {"hash": found, "date": date, "after": commit, "changes": changes}
    return lock


def unaccounted(lock: dict, entries: dict, amendments: dict) -> list[str]:
    """Claims whose rule was changed without an entry of that date."""
    general = {str(date): tuple(said["claims"]) for date, said in amendments.items()}
    return [
        claim
        for claim, held in lock.items()
        if held["changes"]
        and held["date"] not in str(entries.get(claim, {}).get("amended", ""))
        and not claim.startswith(general.get(held["date"], ()))
    ]


def main() -> None:
    path = STUDIES / "rules.lock"
    old = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    head = ["git", "rev-parse", "--short", "HEAD"]
    commit = subprocess.run(head, cwd=STUDIES, capture_output=True, text=True).stdout.strip()
    lock = relocked(old, hashes(), datetime.date.today().isoformat(), commit)
    lines = [f"{json.dumps(claim)}: {json.dumps(held)}" for claim, held in lock.items()]
    path.write_text("{\n" + ",\n".join(lines) + "\n}\n", encoding="utf-8")
    changed = [claim for claim in lock if lock[claim] != old.get(claim)]
    print(f"{len(changed)} rules are new or changed: {', '.join(changed) or 'none'}")
    for claim in unaccounted(lock, ledger.ledger(), ledger.held("amendments.yaml")):
        print(
            f"{claim} needs an entry of {lock[claim]['date']} under amended: what, why, its effect"
        )


if __name__ == "__main__":
    main()
