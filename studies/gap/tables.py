"""The table of the gap study, from finished runs: arms, costs, shares of the gap, choices.

What has a row per run and epoch is as ``carry_out`` gives it, with the column ``arm``.
"""

from collections.abc import Hashable, Iterable, Mapping

import numpy as np
import pandas as pd
import torch

from lib.data.sets import ImageSet
from lib.metrics import fisher
from lib.runs import evaluate
from lib.runs.ledgers import ledgers
from lib.runs.store import Store
from lib.specs.run import Run
from studies.decide import MIN_SEEDS, fieller, sign_flip
from studies.gap.arms import lead, level
from studies.quantities import part, sparsities

Arms = Mapping[str, list[Run]]


def table_of(arms: Arms, trained: pd.DataFrame, store: Store) -> pd.DataFrame:
    """The rows of ``trained`` by arm: a run that is in several stands once in each.

    Beside its columns those of ``lib.runs.ledgers``, and ``chosen_wrong``: the share of wrong
    labels among all examples that a rule chose, each time that it did. Raises ``KeyError`` for a
    run that the store lacks.
    """
    runs = list(dict.fromkeys(run for members in arms.values() for run in members))
    wrong = [_wrong(store.finished(run.key).info.get("chosen", [])) for run in runs]
    each = ledgers(runs, store).assign(chosen_wrong=wrong)
    rows = [
        trained[trained["key"].isin([run.key for run in members])].assign(arm=name)
        for name, members in arms.items()
    ]
    return pd.concat(rows, ignore_index=True).merge(each, on="key", how="left")


def _wrong(chosen):
    counts = [examples for _, examples, _, _ in chosen]
    return np.average([share for *_, share, _ in chosen], weights=counts) if counts else np.nan


def with_fisher(
    table: pd.DataFrame, runs: list[Run], store: Store, at: Iterable[int], examples: int,
    device: str = "auto",
) -> pd.DataFrame:  # fmt: skip
    """The table with ``fisher``: Tr(F) of live weights over the first ``examples`` training
    examples, exact, of these runs at the epochs ``at``, which they keep and at which the table has
    rows. Elsewhere it is missing."""

    def trace(network, mask, run, images):
        found = fisher.exact(network, images.x_train[:examples], mask=mask)
        return {"fisher": found.mean().item()}

    measured = evaluate.measure(
        runs, "fisher-exact-mean", trace, store=store, settings={"examples": examples}, at=at,
        device=device,
    )  # fmt: skip
    columns = ["key", "epoch", "fisher"]
    return table.merge(measured.reindex(columns=columns), on=columns[:2], how="left")


def shares(table: pd.DataFrame, by=level) -> pd.DataFrame:
    """How much of the gap each arm closes, a row per sparsity and arm.

    ``lead`` is its mean lead over Sol-S in ``by`` (``level`` or ``fit`` of ``studies.gap.arms``),
    from ``lead_low`` to ``lead_high`` (95%, sign-flip); ``share`` that over Sol-F's lead, from
    ``low`` to ``high`` (95%, Fieller): missing where the gap's own interval holds 0, or fewer seeds
    tell than decide.
    """
    rows = []
    for sparsity in sparsities(table):
        here = part(table, sparsity=sparsity)
        gap = lead("sol_f", "sol_s", by=by)(here)
        there = len(gap) >= MIN_SEEDS and sign_flip(gap.to_numpy(), 0.95)[0][0] > 0
        for arm in here["arm"].unique():
            own = lead(arm, "sol_s", by=by)(here)
            paired = own.index.intersection(gap.index)
            low, high = sign_flip(own.to_numpy(), 0.95)[0]
            share = fieller(own[paired], gap[paired]) if there else (np.nan,) * 3
            rows.append([sparsity, arm, len(own), own.mean(), low, high, *share])
    columns = ["sparsity", "arm", "seeds", "lead", "lead_low", "lead_high", "share", "low", "high"]
    return pd.DataFrame(rows, columns=columns)


def on_validation(
    tried: Mapping[Hashable, list[Run]], store: Store, images: ImageSet, examples: int
) -> pd.Series:
    """Mean accuracy of each candidate's runs on the last ``examples`` training examples, percent.

    ``images`` is the whole set; the runs trained on it without these. ``.idxmax()`` is what is
    chosen, the first of equals.
    """
    x, y = images.x_train[-examples:], images.y_train[-examples:]

    def accuracy(run):
        network = evaluate.module_of(run, store.finished(run.key), images)
        with torch.no_grad():
            predicted = torch.cat([network(some).argmax(1) for some in x.split(500)])
        return 100 * (predicted == y).double().mean().item()

    return pd.Series({name: np.mean([*map(accuracy, runs)]) for name, runs in tried.items()})
