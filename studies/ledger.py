"""The ledger: what the studies claim, the rule that decides each, and its verdict from a table.

A study's ``claims.yaml`` holds every claim in our words, its rule in words, the paper's numbers and
the notebook that decides it (``figure``). The rule as code is the entry of the same name in one of
the study's tables ``RULES``. Rules are written before the runs they judge; where one was changed
later, its entry says so under ``amended``.
"""

import functools
from pathlib import Path

import pandas as pd
import yaml

from studies import rules as algebra
from studies.decide import NOT_TESTED, NotHere, combine, decide
from studies.early import decay, schedules
from studies.early import rules as periods
from studies.flow import gradients, hessian, init, lottery, methods, settings
from studies.price import curvature, disagreement, lines, noise, regimes

HOMES = (
    regimes, curvature, disagreement, noise, lines, periods, decay, schedules,
    methods, gradients, hessian, init, lottery, settings,
)  # fmt: skip
RULES = {claim: rule for home in HOMES for claim, rule in home.RULES.items()}

COLUMNS = [
    "claim", "says", "verdict", "rows", "what", "effect", "low", "high", "unit", "in_sd", "seeds",
    "note", "preset", "setting",
]  # fmt: skip


@functools.cache
def ledger() -> dict:
    """Claim -> entry, over all studies."""
    claims: dict[str, dict] = {}
    for path in sorted(Path(__file__).parent.glob("*/claims.yaml")):
        claims |= yaml.safe_load(path.read_text(encoding="utf-8"))
    return claims


def of_figure(figure: str) -> dict:
    """The entries that the notebook ``figure`` decides, in the order of the ledger."""
    return {name: entry for name, entry in ledger().items() if entry["figure"] == figure}


def paper_curves(figure: str) -> dict:
    """The curves that the paper prints for ``figure``, as read off its plots; empty if none."""
    merged: dict[str, list | dict] = {}
    for entry in of_figure(figure).values():
        merged |= entry.get("curves", {})
    return merged


def rules(figure: str) -> pd.DataFrame:
    """Claim and decision rule in words, with what was amended: to be read before the data."""
    rows = []
    for name, entry in of_figure(figure).items():
        amended = f" (Amended: {entry['amended']})" if "amended" in entry else ""
        rows.append({"claim": name, "says": entry["says"], "rule": entry["rule"] + amended})
    return pd.DataFrame(rows)


def evidence(figure: str, table: pd.DataFrame, *, preset: str) -> pd.DataFrame:
    """Every row of evidence for every claim of ``figure``: effect, interval, seeds and verdict."""
    rows, places = [], table[["dataset", "network"]].drop_duplicates()
    where = ", ".join(f"{d} {n}" for d, n in places.itertuples(index=False))
    healthy = table[~table["key"].isin(table.loc[table["diverged"], "key"])]
    for name in of_figure(figure):
        try:
            effects = algebra.rows(RULES[name], healthy)
            if not effects:
                raise NotHere("the table has nothing that speaks of it")
        except NotHere as reason:
            rows.append({"claim": name, "what": "", "verdict": NOT_TESTED, "note": str(reason)})
            continue
        rows += [{"claim": name, **decide(effect)} for effect in effects]
    return pd.DataFrame(rows).assign(preset=preset, setting=where)


def verdicts(figure: str, table: pd.DataFrame, *, preset: str) -> pd.DataFrame:
    """One row per claim: its verdict, and the row of evidence on which it hangs most."""
    rows = []
    for name, group in evidence(figure, table, preset=preset).groupby("claim", sort=False):
        tested = group["verdict"].iloc[0] != NOT_TESTED
        verdict = combine(list(group["verdict"])) if tested else NOT_TESTED
        telling = group[group["verdict"] == verdict]
        # an interval near its border, in units of its own length, is where the verdict hangs
        length = telling["high"] - telling["low"] if tested else 1.0
        doubt = (telling["low"] / length).abs() if tested else telling["note"].str.len()
        weakest = telling.loc[doubt.idxmin()] if doubt.notna().any() else telling.iloc[0]
        whole = {"claim": name, "verdict": verdict, "rows": len(group)}
        rows.append({**weakest, **whole, "says": ledger()[name]["says"]})
    return pd.DataFrame(rows).reindex(columns=COLUMNS)
