"""What a table can be evidence of: its kind, whether its networks trained, and what diverged.

``about`` of a claim's entry in the ledger says of which ``data`` and ``network`` it is, and by set
which ``preset`` is the study's own setting, where these are not those of its figure's ``paper``;
``about: any`` is a claim about every network (an identity). ``names: true`` marks a claim that
names an architecture or a data set: evidence of kind own or near alone decides it. ``floor`` and
``untrained: true`` change or lift what ``trained`` asks of the networks.
"""

import functools

import numpy as np
import pandas as pd

from lib.data import sets
from studies import presets
from studies.decide import NotHere
from studies.quantities import dense, final_rows

KINDS = ("own", "near", "analogue", "toy")  # best first
DECIDING = ("own", "near", "fact")  # what decides a claim that names an architecture or a set
# What makes a setting another one; grids, seeds and what is measured do not.
SETTING = (
    "train_examples", "normalise", "augment", "noise", "noise_kind", "widths", "width",
    "activation", "pooling", "init", "epochs", "sparse_epochs", "batch_size", "lr",
    "momentum", "weight_decay", "decay", "schedule", "milestones", "gamma", "warmup_epochs",
    "prune_from", "masks_from", "criterion", "scope", "keep_dense", "drop_fraction",
    "update_every",
)  # fmt: skip
CLASSES = {"bits12": 2, "digits": 10, "mnist": 10, "cifar10": 10, "cifar100": 100, "folder": 1000}
# (Training, test) accuracy of the best dense setting below which a network has not learned its set,
# and the test accuracy where it saw fewer than half of the examples. The whole sets: a little below
# what the papers print or any textbook recipe gives (bits12 0.99/0.95; MNIST 0.98 to 0.99; CIFAR-10
# 0.92 for the smallest ResNet, 0.95 for ResNet-18; CIFAR-100 0.77; ImageNet 0.69 and more). Parts:
# supervised baselines of the literature on few labels (4,000 of CIFAR-10: 0.8, 1,000: about 0.5).
FLOORS = {
    ("digits", "mlp"): (0.99, 0.93, 0.90), ("bits12", "mlp"): (0.95, 0.90, 0.80),
    ("mnist", "mlp"): (0.99, 0.97, 0.93), ("mnist", "lenet"): (0.99, 0.97, 0.93),
    ("cifar10", "resnet"): (0.99, 0.90, 0.60), ("cifar10", "vgg"): (0.99, 0.90, 0.60),
    ("cifar100", "resnet"): (0.95, 0.65, 0.30), ("cifar100", "vgg"): (0.95, 0.60, 0.30),
    ("folder", "resnet"): (0.70, 0.65, 0.30), ("folder", "vgg"): (0.65, 0.60, 0.30),
}  # fmt: skip
ABOVE_CHANCE = 2.0  # times chance: a sparse network below that has learned nothing to compare
MOST = 0.6  # and of two classes this share, where twice chance is all there is
PARTS, WHERE = ("train_accuracy", "test_accuracy"), ("dataset", "network")
CELL = (  # the first four are compared, the others are variants, of which the best counts
    "sparsity", "dataset", "solution", "network", "row", "form", "criterion", "scope", "schedule",
    "weight_decay", "rate_floor", "prune_epoch", "setting", "value", "noise",
)  # fmt: skip


def family(network: str) -> str:
    """The family of a network: resnet, vgg, mlp, lenet; of a reader's own, its name."""
    return "mlp" if network == "lenet-300-100" else network.split("-")[0]


@functools.cache
def _setting(figure, preset):
    return presets.settings(figure, preset).model_dump(mode="json")


def kind(entry: dict, made: dict) -> tuple[str, str]:
    """The kind of evidence that a setting (a notebook's parameters) is for a claim, and how so.

    That is, in words, what of it is not the paper's own.
    """
    said = entry.get("about", {})
    if said == "any":
        return "own", ""
    theirs = _setting(entry["figure"], said.get("preset", {}).get(made["dataset"], "paper"))
    networks = said.get("network", theirs["networks"] or [theirs["network"]])
    here = made.get("networks") or [made["network"]]
    named = " and ".join(here)
    alike = set(map(family, here)) & set(map(family, networks))
    if made["dataset"] not in said.get("data", [theirs["dataset"]]) or not alike:
        toy = made["dataset"] == "digits" or made["preset"] == "quick"
        return ("toy" if toy else "analogue"), f"{named} on {made['dataset']}"
    apart = ([] if set(here) <= set(networks) else [named]) + [
        f"{name.replace('_', ' ')} {made[name]} for {'all' if wanted is None else wanted}"
        for name, wanted in ((name, theirs[name]) for name in SETTING)
        if made.get(name, wanted) != wanted and (wanted is not None or name == "train_examples")
    ]
    return ("near" if apart else "own"), ", ".join(apart)


def lost(table: pd.DataFrame | None) -> list[str]:
    """How many runs of a table diverged, in words; nothing where none did."""
    runs = pd.Series() if table is None else table.groupby("key")["diverged"].first()
    return [f"{runs.sum()} of {len(runs)} runs diverged"] if runs.any() else []


class NothingToShow(NotHere):
    """Ends a notebook with a sentence: IPython prints no traceback."""

    def _render_traceback_(self):
        return [str(self)]


def shown(table: pd.DataFrame, *measures: str, why: str = "") -> pd.DataFrame:
    """The rows that have all of ``measures``; raises ``NothingToShow`` where there are none."""
    rows = table.reindex(columns=table.columns.union(measures, sort=False)).dropna(subset=measures)
    if rows.empty:
        said = "; ".join(
            [f"no run has {' and '.join(measures)}", *filter(None, [why]), *lost(table)]
        )
        raise NothingToShow(f"The notebook ends here: {said}.")
    return rows


def at_chance(table: pd.DataFrame) -> pd.DataFrame:
    """The table with diverged runs as what they are, failures: accuracies at chance, 1 / classes,
    losses at ln(classes). What was estimated on them stays as it is, without a value; so do both on
    a reader's own set, whose classes are not known here."""
    classes = table["dataset"].map(CLASSES)
    levels = {"accuracy": 1 / classes, "loss": np.log(classes)}
    columns = table.filter(regex=f"_({'|'.join(levels)})$")
    counted = {c: table[c].mask(table["diverged"], levels[c.rpartition("_")[2]]) for c in columns}
    return table.assign(**counted)


def trained(table: pd.DataFrame, entry: dict, made: dict) -> tuple[pd.DataFrame, list[str]]:
    """The rows of networks that trained; and which sparsities are left out, and why.

    Raises ``NotHere`` where the dense networks did not train, or nothing sparse is left. Where
    several dense settings are compared the best of them counts; with noisy labels none is asked.
    """
    if entry.get("untrained") or not {"test_accuracy", "train_accuracy", "noise"} <= set(table):
        return table, []
    cells = [column for column in CELL if column in table]
    best = final_rows(table).groupby(["key", *cells], dropna=False)[[*PARTS]].max()
    means = best.groupby(cells, dropna=False).mean().reset_index()
    for (dataset, network), found in _best(dense(means[means["noise"] == 0]), *WHERE):
        train, test, few = FLOORS.get((dataset, family(network)), (0.0, 0.0, 0.0))
        part = (made.get("train_examples") or np.inf) < sets.size(dataset) / 2
        floors = entry.get("floor", [train, few if part else test])
        if (found < floors).any():
            ends = "{:.1%} of the training and {:.1%} of the test set".format(*found)
            least = "{:.1%} and {:.1%}".format(*floors)
            raise NotHere(f"the dense networks ({network}) end at {ends}, below {least}: untrained")
    left_out = []
    for (sparsity, dataset, *who), found in _best(means[means["sparsity"] > 0], *cells[:4]):
        chance = 1 / CLASSES.get(dataset, np.inf)
        if found["test_accuracy"] < min(ABOVE_CHANCE * chance, MOST):
            end = f"{' '.join(who)} ends at {found['test_accuracy']:.1%}, chance is {chance:.1%}"
            left_out.append((sparsity, f"at {sparsity:g} {end}"))
    kept, said = table[~table["sparsity"].isin(dict(left_out))], [end for _, end in left_out]
    if said and not (kept["sparsity"] > 0).any():
        raise NotHere("; ".join(said))
    return kept, said


def _best(means, *columns):
    """The best of what the columns do not tell apart: ((their values), accuracies)."""
    return means.groupby(list(columns))[[*PARTS]].max().iterrows()
