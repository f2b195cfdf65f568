"""When to prune: one curve of the early-pruning study, and the quantities that its rules compare.

The table has a row per run and measured epoch. Dense rows hold the signals ``fisher`` and
``kl_uniform`` of every look, at each epoch's end or within it; rows of runs pruned on their way
(``sol_p``) hold ``prune_epoch`` and the accuracy at the end of training. Columns such as ``scope``
tell variants apart. Places on the axis of epochs are in percent of training, so that 20 of 200
epochs and 4 of 40 are the same 10; accuracies in points.
"""

from dataclasses import dataclass

import numpy as np
import pandas as pd

from studies.decide import NotHere
from studies.quantities import Numbers, at_others_best, between, lift, numbers, of, part

VARIANTS = (
    "network", "criterion", "scope", "schedule", "weight_decay", "sparsity", "rate_floor",
)  # fmt: skip
PLAIN = {  # the study's own: magnitude pruning over all layers, a floor under the rate
    "criterion": "magnitude", "scope": "global",
    "rate_floor": lambda table: float(table["rate_floor"].max()),
}  # fmt: skip
LEAST = 5  # pruning epochs: among fewer a best one is no finding


@dataclass(frozen=True)
class Panel:
    """One curve of the study.

    ``accuracy`` [seed, pruning epoch] in points, ``dense`` [seed], and the dense runs' rows.
    """

    accuracy: pd.DataFrame
    dense: pd.Series
    rows: pd.DataFrame
    epochs: int

    @property
    def competing(self) -> pd.DataFrame:
        """Accuracies at the pruning epochs before the last one, after which nothing is trained."""
        return self.accuracy.loc[:, self.accuracy.columns < self.epochs]

    @property
    def best(self) -> pd.Series:
        """Each seed's best pruning epoch, in percent of training."""
        return 100 * self.competing.idxmax(axis=1) / self.epochs

    def half_step(self, name: str = "") -> float:
        """Half of the grid's step around the best epochs, in percent: what a place cannot tell.

        Of the signal ``name``: half of the step between two looks at it, around its peaks.
        """
        found, places = (
            (self.signal(name), self.peak(name)) if name else (self.competing, self.best)
        )
        grid = found.columns.to_numpy(dtype=float)
        if len(grid) < LEAST:
            raise NotHere(f"a best pruning epoch, or a peak, needs {LEAST} of them or more")
        steps = np.diff(grid, append=2 * grid[-1] - grid[-2])
        return 50 * np.interp(places * self.epochs / 100, grid, steps).mean() / self.epochs

    def signal(self, name: str) -> pd.DataFrame:
        """The dense run's ``name`` by seed and epoch."""
        return self.rows.pivot_table(index="seed", columns="epoch", values=name)

    def peak(self, name: str = "fisher") -> pd.Series:
        """Where each seed's signal is highest, in percent of training."""
        return 100 * self.signal(name).idxmax(axis=1) / self.epochs

    def held_out(self) -> pd.Series:
        """Each seed's accuracy at the pruning epoch that is best for the *other* seeds."""
        return at_others_best(self.competing)

    def correlation(self, name: str = "fisher") -> pd.Series:
        """Spearman's rho between accuracy and signal over the pruning epochs, one per seed."""
        signal = self.signal(name).reindex(columns=self.competing.columns, method="nearest")
        return self.competing.rank(axis=1).corrwith(signal.rank(axis=1), axis=1)


def panel(table: pd.DataFrame, **chosen) -> Panel:
    """The panel of the variant ``chosen`` (column=value).

    Raises ``NotHere`` if the table has none, and ``ValueError`` if it holds more than one.
    """
    rows = part(table, **chosen)
    pruned, dense = rows[rows["solution"] == "sol_p"], rows[rows["solution"] == "sol_d"]
    if pruned.empty or dense.empty:
        asked = (f"{name} {value}" for name, value in chosen.items())
        raise NotHere(f"not among the variants of this run: {', '.join(asked)}")
    last = pruned.sort_values("epoch").groupby("key").tail(1)
    if last.duplicated(["seed", "prune_epoch"]).any():
        raise ValueError(
            f"the table holds several variants beside {chosen}: choose among "
            f"{', '.join(name for name in VARIANTS if name in table)}"
        )
    accuracy = 100 * last.pivot_table(index="seed", columns="prune_epoch", values="test_accuracy")
    level = 100 * dense.sort_values("epoch").groupby("seed")["test_accuracy"].last()
    return Panel(accuracy.dropna(), level, dense, int(dense["epochs"].max()))


def main(table: pd.DataFrame, **chosen) -> Panel:
    """The panel of the study's own, as far as the table tells it apart and ``chosen`` does not.

    What is chosen may be a function of the table.
    """
    told = table.dropna(axis=1, how="all")
    wanted = {name: plain for name, plain in PLAIN.items() if name in told} | chosen
    return panel(table, **{name: of(value, table) for name, value in wanted.items()})


def values(table: pd.DataFrame, name: str) -> list:
    """The variants along the column ``name`` in the order of the table."""
    return list(table.loc[table["solution"] == "sol_p", name].dropna().unique())


def quantity(name: str):
    """A quantity of the panel as a maker of ``Numbers``: arguments are its own, names choose."""

    @numbers
    def read(table, *how, **chosen):
        asked = getattr(main(table, **chosen), name)
        return asked(*how) if callable(asked) else asked

    return read


best, dense, peak, half_step, signal, correlation, competing, epochs = map(
    quantity,
    ("best", "dense", "peak", "half_step", "signal", "correlation", "competing", "epochs"),
)


def held_out(low: float = 0.0, high: float = 100.0, **chosen) -> Numbers:
    """Each seed's accuracy at the pruning epoch that is best for the *other* seeds.

    Of those from ``low`` to ``high`` percent of training.
    """
    start, end = (share / 100 * epochs(**chosen) for share in (low, high))
    otherwise = f"no pruning epoch between {low:g}% and {high:g}% of training: give more"
    return lift(at_others_best)(between(competing(**chosen), start, end + 1e-6, otherwise))
