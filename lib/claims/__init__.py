"""The ledger: what the studies claim, the rule that decides each claim, and its verdict from a table of runs.

``ledger/`` holds, a file per notebook, every claim in our words, its rule in words and the paper's numbers. The rule as code is
the function of the same name (dashes become underscores) in one of the modules here. Rules are written before the runs
they judge; where one was changed later, its entry says so under ``amended``.
"""

import functools
from pathlib import Path

import pandas as pd
import yaml

from lib.claims import (
    cosine,
    curvature,
    disagreement,
    dynamics,
    early,
    early_decay,
    early_variants,
    flow_gradients,
    flow_hessian,
    flow_init,
    flow_lottery,
    flow_methods,
    flow_settings,
    interpolation,
    noise,
    noise_fisher,
    regimes,
    signal,
    spectrum,
)
from lib.claims.decisions import NOT_TESTED, NotHere, combine, decide

_MODULES = (
    regimes, noise, dynamics, curvature, interpolation, disagreement, cosine, noise_fisher, signal, spectrum,
    early, early_decay, early_variants, flow_methods, flow_lottery, flow_init, flow_gradients,
    flow_hessian, flow_settings,
)  # fmt: skip
_STUDIES = ("price_", "early_", "flow_")
RULES = {
    name.replace("_", "-"): rule
    for module in _MODULES
    for name, rule in vars(module).items()
    if name.startswith(_STUDIES)
}

COLUMNS = [
    "claim",
    "says",
    "verdict",
    "rows",
    "what",
    "effect",
    "low",
    "high",
    "unit",
    "in_sd",
    "seeds",
    "note",
    "preset",
    "setting",
]


@functools.cache
def ledger() -> dict:
    """The contents of the ledger: claim -> entry, with the notebook that decides it as ``figure``."""
    claims = {}
    for path in sorted((Path(__file__).parent / "ledger").glob("*.yaml")):
        claims |= yaml.safe_load(path.read_text(encoding="utf-8"))
    return claims


def of_figure(figure: str) -> dict:
    """The entries that the notebook ``figure`` decides, in the order of the ledger."""
    return {name: entry for name, entry in ledger().items() if entry["figure"] == figure}


def paper_curves(figure: str) -> dict:
    """The curves that the paper prints for ``figure``, as read off its plots; empty where there are none."""
    merged = {}
    for entry in of_figure(figure).values():
        merged |= entry.get("curves", {})
    return merged


def rules(figure: str) -> pd.DataFrame:
    """Claim and decision rule in words, with what was amended: to be read before the data are seen."""
    rows = []
    for name, entry in of_figure(figure).items():
        amended = f" (Amended: {entry['amended']})" if "amended" in entry else ""
        rows.append({"claim": name, "says": entry["says"], "rule": entry["rule"] + amended})
    return pd.DataFrame(rows)


def evidence(figure: str, table: pd.DataFrame, *, preset: str) -> pd.DataFrame:
    """Every row of evidence for every claim of ``figure``: the effect, its interval, seeds and verdict."""
    rows = []
    where = ", ".join(
        f"{d} {n}"
        for d, n in table[["dataset", "network"]].drop_duplicates().itertuples(index=False)
    )
    healthy = table[~table["key"].isin(table.loc[table["diverged"], "key"])]
    for name in of_figure(figure):
        try:
            effects = RULES[name](healthy)
        except NotHere as reason:
            rows.append({"claim": name, "what": "", "verdict": NOT_TESTED, "note": str(reason)})
            continue
        rows += [{"claim": name, **decide(effect)} for effect in effects]
    return pd.DataFrame(rows).assign(preset=preset, setting=where)


def verdicts(figure: str, table: pd.DataFrame, *, preset: str) -> pd.DataFrame:
    """One row per claim: its verdict, and the row of evidence on which it hangs most (the weakest one)."""
    rows = []
    for name, group in evidence(figure, table, preset=preset).groupby("claim", sort=False):
        tested = group["verdict"].iloc[0] != NOT_TESTED
        verdict = combine(list(group["verdict"])) if tested else NOT_TESTED
        telling = group[group["verdict"] == verdict]
        # the interval nearest to its border, in units of its own length, is the one on which the verdict hangs
        doubt = (
            (telling["low"] / (telling["high"] - telling["low"])).abs()
            if tested
            else telling["note"].str.len()
        )
        weakest = telling.loc[doubt.idxmin()] if doubt.notna().any() else telling.iloc[0]
        rows.append(
            {
                **weakest,
                "claim": name,
                "verdict": verdict,
                "rows": len(group),
                "says": ledger()[name]["says"],
            }
        )
    return pd.DataFrame(rows).reindex(columns=COLUMNS)
