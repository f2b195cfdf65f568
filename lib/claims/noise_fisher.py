"""Decision rules of the price study's Figure 7, as code: the Fisher trace on the clean and on the mislabelled part over training.

The table has a row per run and kept epoch, with Tr(F) on both parts as ``clean`` and ``flipped``, and the epoch
``first_fall`` at which the learning rate first falls. Epochs of the paper are told by that one, its epoch 40.
"""

import numpy as np

from lib.claims.decisions import Effect, NotHere
from lib.claims.tables import name

PARTS = ("clean", "flipped")


def _curve(table, solution, part):
    """Tr(F) on a part: a row per seed, a column per kept epoch from 1 on, where the paper's curves begin."""
    rows = table[(table["solution"] == solution) & (table["noise"] > 0) & (table["epoch"] > 0)]
    if rows.empty:
        raise NotHere("needs label noise above 0")
    return rows.pivot_table(index="seed", columns="epoch", values=part)


def _fall(table):
    """The epoch at which the learning rate first falls."""
    epoch = table["first_fall"].iloc[0]
    if not np.isfinite(epoch):
        raise NotHere("needs a learning rate that falls in steps")
    return epoch


def _between(wide, begin, end=np.inf):
    chosen = wide.loc[:, (wide.columns >= begin) & (wide.columns < end)]
    if chosen.shape[1] == 0:
        raise NotHere("keep_epochs holds no epoch in that part of training")
    return np.log(chosen)


def price_noisy_fisher_noisy_above_clean(table):
    begin, effects = _fall(table) / 2, []
    for solution in ("sol_d", "sol_s"):
        gap = _between(_curve(table, solution, "flipped"), begin) - _between(
            _curve(table, solution, "clean"), begin
        )
        note = f"highest ratio {np.exp(gap.mean().max()):.3g}, lowest {np.exp(gap.mean().min()):.3g} of all epochs"
        effects.append(
            Effect(
                f"{name(solution)}: ln(Tr(F) flipped / clean), mean over epochs from {begin:g}",
                gap.mean(axis=1).to_numpy(),
                "ln",
                note=note,
            )
        )
    return effects


def price_noisy_fisher_scratch_rises(table):
    _fall(table)
    effects = []
    for part in PARTS:
        dense, scratch = _curve(table, "sol_d", part), _curve(table, "sol_s", part)
        peaks = dense.idxmax(axis=1)
        left = (scratch.iloc[:, -1] / scratch.max(axis=1)).to_numpy()
        higher = np.log(scratch.iloc[:, -1] / dense.iloc[:, -1]).dropna().to_numpy()
        note = f"peak at epoch {peaks.mean():.0f} ({peaks.min():g} to {peaks.max():g})"
        effects += [
            Effect(
                f"{part}: 0.2 - end / peak of Sol-D",
                0.2 - (dense.iloc[:, -1] / dense.max(axis=1)).to_numpy(),
                "of the peak",
                note=note,
            ),
            Effect(f"{part}: end / peak of Sol-S - 0.9", left - 0.9, "of the peak"),
            Effect(f"{part}: ln(Sol-S / Sol-D) at the end", higher, "ln"),
        ]
    return effects


def price_noisy_early_fisher_similar(table):
    fall, effects = _fall(table), []
    scratch = {part: _between(_curve(table, "sol_s", part), fall / 4, fall) for part in PARTS}
    for part in PARTS:
        dense = _between(_curve(table, "sol_d", part), fall / 4, fall)
        below = (dense - scratch[part]).mean(axis=1).dropna().to_numpy()
        effects.append(
            Effect(
                f"{part}: ln(Sol-D / Sol-S), mean over epochs {fall / 4:g} to {fall:g}", below, "ln"
            )
        )
    gap = (scratch["flipped"] - scratch["clean"]).mean(axis=1).to_numpy()
    return [
        *effects,
        Effect(
            "ln 1.4 - ln(flipped / clean) of Sol-S, mean over the same", np.log(1.4) - gap, "ln"
        ),
    ]
