"""The ledger: what the studies claim, the rule that decides each, and its verdict from a table.

A study's ``claims.yaml`` holds every claim in our words, its rule in words, the paper's numbers,
the notebook that decides it (``figure``), and what it is a claim about (see ``evidence``). The rule
as code is the entry of the same name in one of the study's tables ``RULES``. Rules are written
before the runs they judge; where one was changed later, its entry says so under ``amended``, with
the date, and ``amendments.yaml`` where many were. ``rules.lock`` holds each rule's hash, with the
date and commit of its last change (``python -m tests.locks`` writes it, and a test compares).
"""

import functools
import hashlib
import json
from pathlib import Path

import numpy as np
import pandas as pd

from studies import rules as algebra
from studies.decide import NOT_TESTED, REFUTED, NotHere, combine, decide
from studies.early import decay, schedules
from studies.early import rules as periods
from studies.evidence import at_chance, kind, lost, trained
from studies.flow import gradients, hessian, init, lottery, methods, settings
from studies.gap import arms
from studies.presets import held
from studies.price import curvature, disagreement, lines, noise, regimes, remedies

HOMES = (
    regimes, curvature, disagreement, noise, lines, remedies, arms, periods, decay, schedules,
    methods, gradients, hessian, init, lottery, settings,
)  # fmt: skip
RULES = {claim: rule for home in HOMES for claim, rule in home.RULES.items()}

STUDIES = ("early", "flow", "gap", "price")
COLUMNS = [
    "claim", "says", "verdict", "evidence", "rows", "what", "effect", "low", "high", "t_low",
    "t_high", "unit", "in_sd", "seeds", "kind", "note", "preset", "setting", "apart",
]  # fmt: skip


@functools.cache
def ledger() -> dict:
    """Claim -> entry, over all studies."""
    return {
        claim: entry for study in STUDIES for claim, entry in held(f"{study}/claims.yaml").items()
    }


def notebook_hash(figure: str) -> str:
    """A hash of the code of a figure's notebook; empty where it is out of reach."""
    path = Path(__file__).parent.parent / "notebooks" / f"{figure}.ipynb"
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"] if path.exists() else []
    code = ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]
    return hashlib.blake2b("\n".join(code).encode(), digest_size=8).hexdigest() if code else ""


def of_figure(figure: str) -> dict:
    """The entries that the notebook ``figure`` decides, in the order of the ledger."""
    return {name: entry for name, entry in ledger().items() if entry["figure"] == figure}


def paper_curves(figure: str) -> dict:
    """The curves that the paper prints for ``figure``, as read off its plots; empty if none."""
    drawn = [entry.get("curves", {}) for entry in of_figure(figure).values()]
    return {name: curve for curves in drawn for name, curve in curves.items()}


def rules(figure: str) -> pd.DataFrame:
    """Claim and decision rule in words, with what was amended: to be read before the data."""
    entries = pd.DataFrame(of_figure(figure).values(), index=of_figure(figure))
    amended = entries.reindex(columns=["amended"])["amended"].map(" (Amended: {})".format, "ignore")
    words = entries.assign(rule=entries["rule"] + amended.fillna(""))
    return words.rename_axis("claim").reset_index()[["claim", "says", "rule"]]


def evidence(figure: str, table: pd.DataFrame, *, made) -> pd.DataFrame:
    """Every row of evidence for every claim of ``figure``: effect, interval, seeds and verdict.

    ``made`` are the settings of the notebook, from which the kind of evidence follows. Diverged
    runs count, as failures.
    """
    made = made if isinstance(made, dict) else made.model_dump(mode="json")
    places = table[["dataset", "network"]].drop_duplicates().itertuples(index=False)
    where = "; ".join([", ".join(f"{d} {n}" for d, n in places), *lost(table)])
    rows, counted = [], at_chance(table)
    for name, entry in of_figure(figure).items():
        found = pd.DataFrame(_judged(name, entry, counted, made))
        facts = set(found.get("kind", [])) == {"fact"}
        of, apart = ("fact", "") if facts else kind(entry, made)
        rows.append(found.assign(claim=name, evidence=of, apart=apart))
    table = pd.concat(rows, ignore_index=True).assign(preset=made["preset"], setting=where)
    return table.reindex(columns=[*COLUMNS, "slack"])


def _judged(name, entry, table, made):
    try:
        seen, left_out = trained(table, entry, made)
        effects = algebra.rows(RULES[name], seen)
        if not any(len(effect.values) for effect in effects):
            raise NotHere("the table has nothing that speaks of it")
    except NotHere as reason:
        effects, left_out = [], [str(reason)]
    among = max(1, sum(effect.kind != "fact" for effect in effects))
    untested = [{"what": "", "verdict": NOT_TESTED, "note": why} for why in left_out]
    return [decide(effect, among) for effect in effects] + untested


def verdicts(figure: str, table: pd.DataFrame, *, made) -> pd.DataFrame:
    """One row per claim: its verdict, and the row of evidence on which that hangs.

    A claim that all rows must support hangs on the one with the least slack; one that a single row
    refutes, on the one with the most.
    """
    rows = []
    for name, group in evidence(figure, table, made=made).groupby("claim", sort=False):
        verdict = combine(list(group["verdict"]))
        telling = group[[combine([one]) == verdict for one in group["verdict"]]]
        slack = telling["slack"].fillna(-np.inf)
        weakest = telling.iloc[(slack if verdict == REFUTED else -slack).argmax()]
        whole = {"claim": name, "verdict": verdict, "rows": len(group)}
        if weakest["verdict"] != verdict:
            whole["note"] = "; ".join(filter(None, [weakest["verdict"], weakest["note"]]))
        rows.append({**weakest, **whole, "says": ledger()[name]["says"]})
    return pd.DataFrame(rows).reindex(columns=COLUMNS)


def account(verdicts: pd.DataFrame) -> str:
    """How many claims came out how, facts apart, and how many would by chance."""
    facts = verdicts["evidence"] == "fact"
    parts = [("", verdicts[~facts]), ("facts: ", verdicts[facts])]
    said = "; ".join(
        head + ", ".join(f"{n} {verdict}" for verdict, n in part["verdict"].value_counts().items())
        for head, part in parts
        if len(part)
    )
    tested = verdicts["rows"][~facts & (verdicts["verdict"] != NOT_TESTED)]
    return (
        f"{said}. By chance, at most {0.05 * len(tested):.1f} of the {len(tested)} claims tested "
        f"are refuted wrongly ({tested.sum():.0f} rows, the k of a claim at 5%/k each), and "
        f"{0.025 * len(tested):.1f} supported wrongly (all rows must be)."
    )
