"""When to prune: what the decision rules of the early-pruning study are made of, and those of its Figures 1, 2, 4, 5, 9, 10 and 11.

The table has a row per run and measured epoch. Dense rows hold the signals ``fisher`` and ``kl_uniform`` of every epoch; rows of runs
pruned on their way (``sol_p``) hold ``prune_epoch`` and the accuracy at the end of training. Columns such as ``scope`` tell variants
apart. Places on the axis of epochs are in percent of training, so that 20 of 200 epochs and 4 of 40 are the same 10; accuracies in points.
"""

from dataclasses import dataclass

import numpy as np
import pandas as pd

from lib.claims.decisions import Effect, NotHere

MATCH = 0.5  # points: a difference of accuracy that does not matter
LATE = 70.0  # percent: the study's "late" pruning, epoch 140 of 200
EARLY = 50.0
NEAR, AROUND = 15.0, 20.0  # percent: 30 and 40 of 200 epochs
VARIANTS = ("network", "criterion", "scope", "schedule", "weight_decay", "sparsity", "rate_floor")


@dataclass(frozen=True)
class Panel:
    """One curve of the study: ``accuracy`` [seed, pruning epoch] in points, ``dense`` [seed], and the dense run's rows."""

    accuracy: pd.DataFrame
    dense: pd.Series
    rows: pd.DataFrame
    epochs: int

    @property
    def best(self) -> pd.Series:
        """Each seed's best pruning epoch, in percent of training; the last epoch (no training after it) does not compete."""
        return 100 * self.competing.idxmax(axis=1) / self.epochs

    @property
    def competing(self) -> pd.DataFrame:
        """Accuracies at the pruning epochs before the last epoch."""
        return self.accuracy.loc[:, self.accuracy.columns < self.epochs]

    @property
    def half_step(self) -> float:
        """Half of the grid's step around the best epochs, in percent: what a place on the grid cannot tell."""
        grid = self.competing.columns.to_numpy(dtype=float)
        steps = np.diff(grid, append=2 * grid[-1] - grid[-2]) if len(grid) > 1 else np.zeros(1)
        return float(
            np.mean(
                [
                    50 * steps[np.searchsorted(grid, b * self.epochs / 100)] / self.epochs
                    for b in self.best
                ]
            )
        )

    def signal(self, name: str) -> pd.DataFrame:
        """The dense run's ``name`` by seed and epoch."""
        return self.rows.pivot_table(index="seed", columns="epoch", values=name)

    def peak(self, name: str = "fisher") -> pd.Series:
        """Where each seed's signal is highest, in percent of training."""
        return 100 * self.signal(name).idxmax(axis=1) / self.epochs

    def held_out(self, low: float = 0.0, high: float = 100.0) -> pd.Series:
        """Each seed's accuracy at the pruning epoch, from ``low`` to ``high`` percent, that is best for the *other* seeds.

        The best of a seed's own noisy accuracies would be chosen for its noise.
        """
        share = 100 * self.competing.columns / self.epochs
        part = self.competing.loc[:, (share >= low) & (share <= high)]
        if part.empty:
            raise NotHere(
                f"no pruning epoch between {low:g}% and {high:g}% of training: give more prune_epochs"
            )
        chosen = {
            seed: part.drop(index=seed).mean().idxmax()
            if len(part) > 1
            else part.loc[seed].idxmax()
            for seed in part.index
        }
        return pd.Series({seed: part.loc[seed, epoch] for seed, epoch in chosen.items()})

    def correlation(self, name: str = "fisher") -> pd.Series:
        """Spearman's rho between accuracy and signal over the pruning epochs, one per seed."""
        signal = self.signal(name).reindex(columns=self.competing.columns)
        ranks = self.competing.rank(axis=1)
        return ranks.corrwith(signal.rank(axis=1), axis=1)


def panel(table: pd.DataFrame, **chosen) -> Panel:
    """The panel of the variant ``chosen`` (column=value); raises ``NotHere`` if the table has none, or holds more than one."""
    pruned, dense = table[table["solution"] == "sol_p"], table[table["solution"] == "sol_d"]
    for name, value in chosen.items():
        pruned = _where(pruned, name, value)
        if name in dense and dense[name].notna().any() and name not in ("sparsity", "rate_floor"):
            dense = _where(dense, name, value)
    if pruned.empty or dense.empty:
        raise NotHere(
            "not among the variants of this run: "
            + ", ".join(f"{name} {value}" for name, value in chosen.items())
        )
    last = pruned.sort_values("epoch").groupby("key").tail(1)
    if last.duplicated(["seed", "prune_epoch"]).any():
        raise ValueError(
            f"the table holds several variants beside {chosen}: choose among {', '.join(n for n in VARIANTS if n in table)}"
        )
    accuracy = 100 * last.pivot_table(index="seed", columns="prune_epoch", values="test_accuracy")
    accuracy.columns = accuracy.columns.astype(int)
    end = (
        dense.dropna(subset=["test_accuracy"])
        .sort_values("epoch")
        .groupby("seed")
        .tail(1)
        .set_index("seed")
    )
    return Panel(accuracy.dropna(), 100 * end["test_accuracy"], dense, int(dense["epochs"].max()))


def _where(rows, name, value):
    return rows[
        np.isclose(rows[name].astype(float), value)
        if isinstance(value, float)
        else rows[name] == value
    ]


def values(table: pd.DataFrame, name: str) -> list:
    """The variants along the column ``name`` in the order of the table."""
    return list(table.loc[table["solution"] == "sol_p", name].dropna().unique())


def main(table: pd.DataFrame, **chosen) -> Panel:
    """The panel of magnitude pruning over all layers, the study's own, where the table has those columns."""
    plain = {"criterion": "magnitude", "scope": "global"}
    return panel(
        table,
        **{name: value for name, value in plain.items() if name in table and name not in chosen},
        **chosen,
    )


def early(panel: Panel, label: str = "") -> Effect:
    """The best pruning epoch lies in the first half of training."""
    return Effect(
        f"50 - best pruning epoch{label}",
        (EARLY - panel.best).to_numpy(),
        "% of training",
        resolution=panel.half_step,
    )


def near(panel: Panel, signal: str = "fisher", within: float = AROUND, label: str = "") -> Effect:
    """The best pruning epoch lies within ``within`` percent of training of the signal's peak."""
    distance = (panel.best - panel.peak(signal)).abs().dropna()
    what = f"{within:g} - |best pruning epoch - peak of {signal}|{label}"
    note = f"best at {panel.best.mean():.0f}%, peak at {panel.peak(signal).mean():.0f}%"
    return Effect(
        what, (within - distance).to_numpy(), "% of training", resolution=panel.half_step, note=note
    )


# -- Figures 1, 2 and 9 --------------------------------------------------------------------------------------------------------------

_PRINTED = {  # (set, network, schedule): the dense test accuracy in points, where weight decay is 5e-4
    ("cifar10", "resnet-18", "exponential"): 95.3, ("cifar10", "vgg-11", "exponential"): 94.7,
    ("cifar100", "resnet-18", "exponential"): 77.3, ("cifar100", "vgg-11", "exponential"): 76.03,
}  # fmt: skip


def _own(table, dataset, network):
    """Raise ``NotHere`` unless the table is of this set and network, trained for the study's 200 epochs."""
    if (
        set(table["dataset"]) != {dataset}
        or set(table["network"]) != {network}
        or set(table["epochs"]) != {200}
    ):
        raise NotHere(
            f"a number of {dataset} with {network} after 200 epochs: preset paper can test it"
        )


def _figure_1(table, dataset, network, drop=None):
    _own(table, dataset, network)
    found = main(table)
    place = Effect(
        "10 - |best pruning epoch - 30|",
        (10 - (found.best - 30).abs()).to_numpy(),
        "% of training",
        resolution=found.half_step,
    )
    if drop is None:
        return [place]
    lost = (found.dense - found.held_out()).dropna().to_numpy()
    return [
        place,
        Effect(
            f"points lost against dense - {drop[0]}",
            lost - drop[0],
            "points",
            claim="equal",
            margin=drop[1],
        ),
    ]


def early_fig1_resnet18_cifar10(table):
    return _figure_1(table, "cifar10", "resnet-18", (0.2, 0.3))


def early_fig1_vgg11_cifar10(table):
    return _figure_1(table, "cifar10", "vgg-11")


def early_fig1_resnet18_cifar100(table):
    return _figure_1(table, "cifar100", "resnet-18", (1.8, 0.7))


def early_fig1_vgg11_cifar100(table):
    return _figure_1(table, "cifar100", "vgg-11")


def early_baselines(table):
    (where,) = set(
        zip(table["dataset"], table["network"], table["schedule"].dropna(), strict=False)
    ) or {None}
    if where not in _PRINTED or set(table["epochs"]) != {200}:
        raise NotHere(
            "a number of CIFAR with the study's networks after 200 epochs: preset paper can test it"
        )
    return [
        Effect(
            f"dense test accuracy - {_PRINTED[where]}",
            (main(table).dense - _PRINTED[where]).to_numpy(),
            "points",
            "equal",
            MATCH,
        )
    ]


def early_beats_late(table):
    found = main(table)
    gain = (found.held_out(high=EARLY) - found.held_out(low=LATE)).dropna()
    return [
        Effect(
            "best early - best late pruning + 0.5",
            (gain + MATCH).to_numpy(),
            "points",
            note=f"early - late: {gain.mean():.2f}",
        )
    ]


def early_not_at_start(table):
    found = main(table)
    start = found.competing.iloc[:, 0]
    return [
        Effect(
            f"best - pruned at epoch {found.competing.columns[0]}",
            (found.held_out() - start).dropna().to_numpy(),
            "points",
            margin=MATCH,
        )
    ]


def early_before_half(table):
    return [early(main(table))]


def early_90pct_cifar(table):
    dataset, networks = set(table["dataset"]), set(table["network"])
    if (
        not dataset <= {"cifar10", "cifar100"}
        or not all(name.startswith("resnet") for name in networks)
        or 0.9 not in values(table, "sparsity")
    ):
        raise NotHere(
            "a claim about ResNets on CIFAR at a sparsity of 0.9: desktop with dataset cifar10, or paper, can test it"
        )
    found, allowed = main(table, sparsity=0.9), 2.5 if dataset == {"cifar100"} else 0.5
    return [
        Effect(
            f"{allowed} - points lost against dense",
            (allowed - (found.dense - found.held_out())).dropna().to_numpy(),
            "points",
        )
    ]


def early_trf_two_phases(table):
    found = main(table)
    course, peak, half = found.signal("fisher"), found.peak(), 50 / found.epochs
    fall = np.log(0.5 * course.max(axis=1) / course.iloc[:, -1])
    return [
        Effect("peak of Tr(F) - 2.5", (peak - 2.5).to_numpy(), "% of training", resolution=half),
        Effect("90 - peak of Tr(F)", (90 - peak).to_numpy(), "% of training", resolution=half),
        Effect("ln(half of the highest Tr(F) / the last)", fall.to_numpy(), "ln"),
    ]


def early_peak_correlates_trf(table):
    found = main(table)
    rho = found.correlation().dropna().to_numpy()
    return [
        near(found, within=NEAR),
        Effect("Spearman(accuracy, Tr(F)) over pruning epochs", rho, "rho"),
    ]


def early_fisher_criterion_period(table):
    found = main(table, criterion="fisher")
    return [early(found), near(found)]


def early_magnitude_beats_fisher(table):
    gain = (main(table).held_out() - main(table, criterion="fisher").held_out()).dropna()
    return [
        Effect("best test accuracy: magnitude - fisher", gain.to_numpy(), "points", margin=MATCH)
    ]


def early_local_fig9(table):
    found = main(table, scope="layer")
    return [early(found), near(found)]


def early_kl_expansion(table):
    error = _of_dense(table, "kl_expansion_error")
    return [Effect("0.02 - |KL / (half dᵀFd) - 1|", 0.02 - error, "")]


def early_mc_fisher_accurate(table):
    return [
        Effect(
            "0.1 - relative error of the sampled Tr(F)",
            0.1 - _of_dense(table, "fisher_relative_error"),
            "",
        )
    ]


def _of_dense(table, column):
    """One number per seed that the notebook measured on the dense networks."""
    return table[table["solution"] == "sol_d"].groupby("seed")[column].first().to_numpy()


# -- Figures 4 and 10, 5 and 11 -------------------------------------------------------------------------------------------------------


def early_model_size(table):
    effects = []
    for name in values(table, "network"):
        found = main(table, network=name)
        effects += [early(found, f" of {name}"), near(found, label=f" of {name}")]
    return effects


def early_local_model_size(table):
    return [
        early(main(table, network=name, scope="layer"), f" of {name}")
        for name in values(table, "network")
    ]


def early_param_counts(table):
    printed = {"resnet-18": 11.2e6, "resnet-20": 0.27e6, "resnet-56": 0.85e6}
    counts = {name: table[f"parameters of {name}"].iloc[0] for name in printed}
    return [
        Effect(
            f"parameters of {name} / {printed[name]:g} - 1",
            np.full(5, count / printed[name] - 1),
            "",
            "equal",
            0.03,
            note="no chance in it",
        )
        for name, count in counts.items()
    ]


def early_compression_period(table):
    return [early(main(table, sparsity=s), f" at {s:g}") for s in sorted(values(table, "sparsity"))]


def early_local_compression(table):
    return [
        early(main(table, sparsity=s, scope="layer"), f" at {s:g}")
        for s in sorted(values(table, "sparsity"))
    ]


def early_compression_order(table):
    grid = sorted(values(table, "sparsity"))
    best = [main(table, sparsity=s).held_out() for s in grid]
    pairs = list(zip(grid, grid[1:], best, best[1:], strict=False))
    return [
        Effect(
            f"best accuracy at {a:g} - at {b:g}",
            (x - y).dropna().to_numpy(),
            "points",
            margin=MATCH,
        )
        for a, b, x, y in pairs
    ]


def early_95pct_accuracy(table):
    _own(table, "cifar10", "resnet-18")
    found = main(table, sparsity=0.95)
    return [
        Effect(
            "best test accuracy at 0.95 - 94.7",
            (found.held_out() - 94.7).to_numpy(),
            "points",
            "equal",
            0.3,
        ),
        Effect(
            "dense test accuracy - 95.3", (found.dense - 95.3).to_numpy(), "points", "equal", 0.3
        ),
    ]
