"""Decision rules for the gradient-flow study's Tables 1 and 5: methods and initialisations.

The table has a column ``row``, the method ("baseline", "lottery", "small dense", "pruned", "scratch", "set", "rigl", "rigl-inverted"), and
``form``, how fresh weights take account of the mask: masked (the study's Original), layer (Liu et al.), neuron (its own).
"""

import numpy as np

from lib.claims.decisions import Effect, NotHere
from lib.claims.tables import final

FORMS = {"masked": "original", "layer": "liu", "neuron": "ours"}
SPARSE = ("scratch", "set", "rigl")
MATCH = 0.5

TABLE_1 = {  # LeNet-5 at 95%: mean and standard deviation, percent
    ("baseline", ""): (99.21, 0.07), ("lottery", ""): (98.26, 0.27), ("small dense", ""): (98.21, 0.46),
    ("scratch", "masked"): (62.99, 42.16), ("scratch", "layer"): (96.64, 0.83), ("scratch", "neuron"): (97.70, 0.09),
    ("set", "masked"): (63.33, 42.44), ("set", "layer"): (97.77, 0.31), ("set", "neuron"): (98.16, 0.06),
    ("rigl", "masked"): (80.82, 34.74), ("rigl", "layer"): (98.14, 0.17), ("rigl", "neuron"): (98.13, 0.09),
}  # fmt: skip
TABLE_5 = {  # the fully connected network at 98%
    ("baseline", ""): (98.55, 0.04), ("lottery", ""): (97.73, 0.11), ("small dense", ""): (91.69, 1.85),
    ("scratch", "masked"): (94.40, 4.00), ("scratch", "layer"): (96.66, 0.18), ("scratch", "neuron"): (96.70, 0.12),
    ("set", "masked"): (96.49, 0.36), ("set", "layer"): (96.56, 0.22), ("set", "neuron"): (96.48, 0.10),
    ("rigl", "masked"): (96.82, 0.25), ("rigl", "layer"): (96.76, 0.19), ("rigl", "neuron"): (96.94, 0.12),
}  # fmt: skip
IMAGENET = {  # the other columns of Table 1, at 80%
    "vgg-16": {
        ("baseline", ""): (69.25, 0.13), ("lottery", ""): (0.10, 0.01), ("small dense", ""): (61.75, 0.09),
        ("scratch", "masked"): (51.81, 3.02), ("scratch", "layer"): (62.71, 0.05), ("scratch", "neuron"): (62.52, 0.10),
        ("set", "masked"): (53.55, 1.03), ("set", "layer"): (63.19, 0.26), ("set", "neuron"): (63.13, 0.15),
        ("rigl", "masked"): (37.15, 26.20), ("rigl", "layer"): (63.69, 0.02), ("rigl", "neuron"): (63.56, 0.06),
    },
    "resnet-50": {
        ("baseline", ""): (76.75, 0.12), ("lottery", ""): (75.75, 0.12), ("small dense", ""): (71.95, 0.24),
        ("scratch", "masked"): (70.58, 0.18), ("scratch", "layer"): (70.72, 0.16), ("scratch", "neuron"): (70.63, 0.22),
        ("set", "masked"): (72.93, 0.27), ("set", "layer"): (72.77, 0.27), ("set", "neuron"): (72.56, 0.14),
        ("rigl", "masked"): (74.41, 0.05), ("rigl", "layer"): (74.38, 0.10), ("rigl", "neuron"): (74.38, 0.01),
    },
}  # fmt: skip
IMAGES = 1_281_167  # of ImageNet's training set


def _is_imagenet(table):
    """Whether the runs are on ImageNet, and not on another folder of images."""
    return (
        set(table["dataset"]) == {"folder"}
        and "train_images" in table
        and set(table["train_images"]) == {IMAGES}
    )


def printed(table) -> dict:
    """The study's own table for this data and network, (row, form) -> (mean, standard deviation) in percent; empty for others."""
    if _is_imagenet(table):
        return IMAGENET.get(table["network"].iloc[0], {})
    if set(table["dataset"]) != {"mnist"}:
        return {}
    return {"lenet-5": TABLE_1, "lenet-300-100": TABLE_5}.get(table["network"].iloc[0], {})


def accuracy(table, row, form=""):
    """Final test accuracy in points by seed; raises ``NotHere`` if the table lacks the row."""
    rows = final(table[(table["row"] == row) & (table["form"] == form)])
    if rows.empty:
        raise NotHere(f"the table has no row {row} {FORMS.get(form, '')}".rstrip())
    return 100 * rows.set_index("seed")["test_accuracy"].sort_index()


def _more(table, first, second, label=None):
    """The effect "the cell ``first`` is above the cell ``second``", paired over seeds."""
    gain = (accuracy(table, *first) - accuracy(table, *second)).dropna()
    name = label or f"{_name(first)} - {_name(second)}"
    return Effect(name, gain.to_numpy(), "points", margin=MATCH)


def _name(cell):
    return " ".join([cell[0], *([f"({FORMS[cell[1]]})"] if len(cell) > 1 and cell[1] else [])])


def _cells(table, reference, least):
    """Every cell equal to the printed one within two of its standard deviations, or ``least`` points."""
    effects = []
    for cell, (mean, spread) in reference.items():
        ours = accuracy(table, *cell)
        note = f"ours {ours.mean():.2f} ± {ours.std():.2f}, printed {mean:.2f} ± {spread:.2f}"
        effects.append(
            Effect(
                f"{_name(cell)}: ours - printed",
                (ours - mean).to_numpy(),
                "points",
                "equal",
                max(2 * spread, least),
                note=note,
            )
        )
    return effects


def _own(table, network, dataset="mnist"):
    if set(table["dataset"]) != {dataset} or network not in set(table["network"]):
        raise NotHere(
            f"a claim about {network} on {dataset}: preset {'paper' if network == 'lenet-5' else 'desktop'} tests it"
        )


def _on_imagenet(table, network):
    if not _is_imagenet(table) or network not in set(table["network"]):
        raise NotHere(
            f"a claim about {network} on ImageNet: preset imagenet_{network.replace('-', '')} tests it, with that set and a GPU"
        )


def _not_resnet(table):
    if "resnet-50" in set(table["network"]):
        raise NotHere("the study excepts ResNet-50, see flow-t1-resnet-init-neutral")


def _mlp(table):
    if not {"mlp", "lenet-300-100"} & set(table["network"]):
        raise NotHere(
            "a claim about the fully connected network: presets quick and desktop test it"
        )


def flow_table1(table):
    _own(table, "lenet-5")
    return _cells(table, TABLE_1, 1.0)


def flow_table5(table):
    _own(table, "lenet-300-100")
    return _cells(table, TABLE_5, MATCH)


def flow_t1_lenet_init_scratch(table):
    _not_resnet(table)
    return [_more(table, ("scratch", form), ("scratch", "masked")) for form in ("layer", "neuron")]


def flow_t1_lenet_init_dst(table):
    _not_resnet(table)
    return [
        _more(table, (method, form), (method, "masked"))
        for method in ("set", "rigl")
        for form in ("layer", "neuron")
    ]


def flow_t1_original_fails_sometimes(table):
    _own(table, "lenet-5")
    effects = []
    for method in SPARSE:
        failed = accuracy(table, method, "masked") < 50
        effects.append(
            Effect(
                f"share of runs of {method} (original) that fail to train",
                failed.to_numpy(dtype=float),
                "share",
                note=f"{failed.sum()} of {len(failed)}",
            )
        )
    return effects


def flow_t1_vgg_init(table):
    _on_imagenet(table, "vgg-16")
    effects = []
    for method, gain in (("scratch", 10.71), ("set", 9.58)):
        beyond = (
            accuracy(table, method, "neuron") - accuracy(table, method, "masked") - gain
        ).dropna()
        effects.append(
            Effect(f"{method}: ours - original - {gain}", beyond.to_numpy(), "points", "equal", 3.0)
        )
    return effects


def flow_t1_resnet_init_neutral(table):
    _on_imagenet(table, "resnet-50")
    gains = {
        method: (accuracy(table, method, "neuron") - accuracy(table, method, "masked")).dropna()
        for method in SPARSE
    }
    return [
        Effect(f"{method}: ours - original", gain.to_numpy(), "points", "equal", MATCH)
        for method, gain in gains.items()
    ]


def flow_t1_lottery_vgg_fails(table):
    _on_imagenet(table, "vgg-16")
    return [
        Effect(
            "lottery - 0.1", (accuracy(table, "lottery") - 0.1).to_numpy(), "points", "equal", 0.05
        )
    ]


def flow_t1_liu_matches_ours(table):
    effects = []
    for method in SPARSE:
        if method == "scratch" and set(table["network"]) & {"lenet-5"}:
            continue  # where the study itself prints a difference of a point
        gain = (
            (accuracy(table, method, "neuron") - accuracy(table, method, "layer"))
            .dropna()
            .to_numpy()
        )
        effects.append(Effect(f"{method}: ours - liu", gain, "points", "equal", MATCH))
    return effects


def flow_t1_dst_order(table):
    effects = []
    for form in ("layer", "neuron"):
        effects.append(_more(table, ("set", form), ("scratch", form)))
        gain = (
            (accuracy(table, "rigl", form) - accuracy(table, "set", form) + MATCH)
            .dropna()
            .to_numpy()
        )
        effects.append(Effect(f"rigl - set + 0.5 ({FORMS[form]})", gain, "points"))
    return effects


def flow_t1_lottery_near_baseline(table):
    _own(table, "lenet-5")
    lost = (accuracy(table, "baseline") - accuracy(table, "lottery")).dropna().to_numpy()
    return [Effect("baseline - lottery - 0.95", lost - 0.95, "points", "equal", 0.5)]


def flow_t1_small_dense(table):
    _own(table, "lenet-5")
    return [_more(table, ("small dense",), ("scratch", "neuron"))]


def flow_inverted_accuracy(table):
    return [_more(table, ("rigl", "neuron"), ("rigl-inverted", "neuron"))]


def flow_t5_scratch_gain(table):
    _mlp(table)
    above = (
        (accuracy(table, "rigl", "neuron") - accuracy(table, "scratch", "neuron") + MATCH)
        .dropna()
        .to_numpy()
    )
    return [
        _more(table, ("scratch", "neuron"), ("scratch", "masked")),
        _more(table, ("lottery",), ("scratch", "neuron")),
        Effect("rigl - scratch + 0.5 (ours)", above, "points"),
    ]


def flow_t5_set_neutral(table):
    _mlp(table)
    forms = {form: accuracy(table, "set", form) for form in FORMS}
    means = {form: values.mean() for form, values in forms.items()}
    high, low = max(means, key=means.get), min(means, key=means.get)
    return [
        Effect(
            f"set: {FORMS[high]} - {FORMS[low]}",
            (forms[high] - forms[low]).dropna().to_numpy(),
            "points",
            "equal",
            0.3,
        )
    ]


def flow_t5_small_dense_poor(table):
    _mlp(table)
    behind = (
        (accuracy(table, "scratch", "neuron") - accuracy(table, "small dense") - 2)
        .dropna()
        .to_numpy()
    )
    return [Effect("scratch (ours) - small dense - 2", behind, "points")]


def flow_rewinding_limited(table):
    gain = (accuracy(table, "restart") - accuracy(table, "lottery") + 0.1).dropna()
    return [
        Effect(
            "prune restart - lottery + 0.1",
            gain.to_numpy(),
            "points",
            note=f"without the 0.1: {np.mean(gain) - 0.1:.2f}",
        )
    ]
