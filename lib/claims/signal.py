"""Decision rules of the price study's workshop Figure 11, as code: signal and noise of minibatch gradients by layer.

The table has a row per run, kept epoch and layer, with the norms ``mean`` and ``std`` and their ratio ``snr``
(``lib.metrics.signal``), and the accuracies of the run where they were measured.
"""

import numpy as np

from lib.claims import tables
from lib.claims.decisions import Effect, NotHere
from lib.claims.tables import name

BUMP = (
    0.05,
    0.20,
)  # the paper's window for the bump: epochs 10 to 40 of 200, as shares of training


def _curves(table, solution, measure, sparsity=None):
    """(layer, its curves: a row per seed, a column per epoch) in order of depth."""
    rows = table[table["solution"] == solution]
    if sparsity is not None:
        rows = rows[np.isclose(rows["sparsity"], sparsity)]
    for layer in rows["layer"].unique():
        wide = rows[rows["layer"] == layer].pivot_table(
            index="seed", columns="epoch", values=measure
        )
        if wide.empty or wide.columns[0] != 0 or wide.shape[1] < 3:
            raise NotHere("needs the start, epoch 0, and two later epochs among keep_epochs")
        yield layer, wide


def _ends(table):
    """The lowest and the highest sparsity: one for each regime."""
    grid = tables.grid(table)
    if len(grid) < 2:
        raise NotHere("needs two sparsities, one in each regime")
    return grid[0], grid[-1]


def price_snr_lenet_accuracies(table):
    return [
        tables.direction(table, "test_accuracy", "sol_f", "sol_s", s) for s in tables.grid(table)
    ]


def price_snr_gen_regime_std(table):
    low, _ = _ends(table)
    logs = {}
    for solution in ("sol_d", "sol_f", "sol_s"):
        curves = dict(_curves(table, solution, "std", None if solution == "sol_d" else low))
        logs[solution] = {
            layer: np.log(wide.loc[:, wide.columns >= 0.75 * wide.columns[-1]]).mean(axis=1)
            for layer, wide in curves.items()
        }
    layers = [layer for layer in logs["sol_s"] if layer in logs["sol_f"] and layer in logs["sol_d"]]
    below = [
        (logs["sol_s"][k] < logs["sol_f"][k]) & (logs["sol_s"][k] < logs["sol_d"][k])
        for k in layers
    ]
    gap = np.mean([logs["sol_s"][k] - logs["sol_f"][k] for k in layers])
    note = f"Sol-S's is {np.exp(gap):.2f} times Sol-F's, mean over layers"
    return [
        Effect(
            f"share of layers - 1/2 at {low:g}", np.mean(below, axis=0) - 0.5, "share", note=note
        )
    ]


def price_snr_opt_regime_hike(table):
    _, high = _ends(table)
    dense, effects = dict(_curves(table, "sol_d", "mean")), []
    for layer, wide in _curves(table, "sol_s", "mean", high):
        last, places = wide.columns[-1], wide.idxmax(axis=1) / wide.columns[-1]
        early = wide.columns[wide.columns <= BUMP[1] * last]
        step = max(np.diff(early), default=last) / 2 / last
        note = (
            f"bump at {places.mean():.2f} of training"
            if (places < 1).all()
            else "some seed has its maximum at the end"
        )
        above = np.log(dense[layer][0] / wide[0]).dropna().to_numpy()
        effects += [
            Effect(f"{layer}: ln(mean gradient at the start, Sol-D / Sol-S)", above, "ln"),
            Effect(
                f"{layer}: ln(bump / start) - ln 3",
                np.log(wide.max(axis=1) / wide[0]).to_numpy() - np.log(3),
                "ln",
            ),
            Effect(
                f"{layer}: place of the bump - {BUMP[0]:g}",
                (places - BUMP[0]).to_numpy(),
                "training",
                resolution=step,
                note=note,
            ),
            Effect(
                f"{layer}: {BUMP[1]:g} - place of the bump",
                (BUMP[1] - places).to_numpy(),
                "training",
                resolution=step,
                note=note,
            ),
        ]
    return effects


def price_snr_two_phases(table):
    effects = []
    for solution, sparsity in [("sol_d", None), *(("sol_s", s) for s in tables.grid(table))]:
        where = name(solution) + (f" at {sparsity:g}" if sparsity is not None else "")
        for layer, wide in _curves(table, solution, "snr", sparsity):
            effects.append(
                Effect(
                    f"{where}, {layer}: ln(SNR at the start / at the end)",
                    np.log(wide.iloc[:, 0] / wide.iloc[:, -1]).to_numpy(),
                    "ln",
                )
            )
    return effects
