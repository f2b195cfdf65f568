"""From a table of runs to one number per seed: what the decision rules are made of.

Differences are paired over seeds. Accuracies and shares are in points, losses and entropies in nats.
"""

import numpy as np

from lib.claims.decisions import Effect, NotHere

MARGIN = 0.005  # half a point: differences of accuracy below it are smaller than the spread that the study itself plots


def final(table):
    """The last measured epoch of every run."""
    return table.sort_values("epoch").groupby("key", sort=False).tail(1)


def at(table, solution, measure, sparsity=None, how="final"):
    """One number per seed: ``measure`` of ``solution`` at its final epoch, or its max or min over epochs."""
    rows = table[table["solution"] == solution]
    if sparsity is not None:
        rows = rows[np.isclose(rows["sparsity"], sparsity)]
    if how == "final":
        return final(rows).set_index("seed")[measure].sort_index()
    return rows.groupby("seed")[measure].agg(how).sort_index()


def difference(table, measure, first, second, sparsity=None, how="final"):
    """``first`` minus ``second`` by seed. Accuracies and shares are in points."""
    a = at(table, first, measure, None if first == "sol_d" else sparsity, how)
    b = at(table, second, measure, None if second == "sol_d" else sparsity, how)
    return (a - b).dropna().to_numpy() * scale(measure)


def scale(measure):
    """100 for accuracies and shares (to points), 1 for losses and entropies."""
    return 1.0 if measure.endswith(("_loss", "_entropy")) else 100.0


def unit(measure):
    """The unit in which effects on ``measure`` are given."""
    return "nats" if measure.endswith(("_loss", "_entropy")) else "points"


def direction(table, measure, first, second, sparsity=None, how="final", label=None):
    """The effect "``first`` is above ``second`` in ``measure``", at one sparsity if one is given."""
    what = label or f"{measure}: {name(first)} - {name(second)}"
    if sparsity is not None:
        what += f" at {sparsity:g}"
    points = scale(measure) == 100.0
    margin = 100 * MARGIN if points else 0.0
    return Effect(
        what, difference(table, measure, first, second, sparsity, how), unit(measure), margin=margin
    )


def name(solution):
    """The paper's name of a solution: sol_f is Sol-F."""
    return solution.replace("_", "-").title()


def grid(table):
    """The sparsities of the table, rising."""
    return sorted(table.loc[table["solution"] == "sol_f", "sparsity"].unique())


def own_setting(table, dataset, network):
    """Raise ``NotHere`` unless the table is of the paper's own data and network: only there its numbers can be tested."""
    if set(table["dataset"]) != {dataset} or set(table["network"]) != {network}:
        raise NotHere(f"a number of {dataset} with {network}: preset paper can test it")
