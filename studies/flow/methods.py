"""Methods and initialisations: the gradient-flow study's Tables 1 and 5.

The table has a column ``row``, the method ("baseline", "lottery", "small dense", "pruned",
"scratch", "set", "rigl", "rigl-inverted"), and ``form``, how fresh weights take account of the
mask: masked (the study's Original), layer (Liu et al.), neuron (its own).
"""

import pandas as pd

from studies.quantities import Numbers, lift, needed, pick, spread
from studies.rules import MATCH, Condition, Rule, equal, given, if_any, more, needs, says

FORMS = {"masked": "original", "layer": "liu", "neuron": "ours"}
OWN = "neuron"
SPARSE = ("scratch", "set", "rigl")
IMAGES = 1_281_167  # of ImageNet's training set

# The study's Tables 1 and 5: (data, network) -> cell -> mean and standard deviation, percent
PRINTED = {
    ("mnist", "lenet-5"): {
        ("baseline", ""): (99.21, 0.07),
        ("lottery", ""): (98.26, 0.27),
        ("small dense", ""): (98.21, 0.46),
        ("scratch", "masked"): (62.99, 42.16),
        ("scratch", "layer"): (96.64, 0.83),
        ("scratch", "neuron"): (97.70, 0.09),
        ("set", "masked"): (63.33, 42.44),
        ("set", "layer"): (97.77, 0.31),
        ("set", "neuron"): (98.16, 0.06),
        ("rigl", "masked"): (80.82, 34.74),
        ("rigl", "layer"): (98.14, 0.17),
        ("rigl", "neuron"): (98.13, 0.09),
    },
    ("mnist", "lenet-300-100"): {
        ("baseline", ""): (98.55, 0.04),
        ("lottery", ""): (97.73, 0.11),
        ("small dense", ""): (91.69, 1.85),
        ("scratch", "masked"): (94.40, 4.00),
        ("scratch", "layer"): (96.66, 0.18),
        ("scratch", "neuron"): (96.70, 0.12),
        ("set", "masked"): (96.49, 0.36),
        ("set", "layer"): (96.56, 0.22),
        ("set", "neuron"): (96.48, 0.10),
        ("rigl", "masked"): (96.82, 0.25),
        ("rigl", "layer"): (96.76, 0.19),
        ("rigl", "neuron"): (96.94, 0.12),
    },
    ("ImageNet", "vgg-16"): {
        ("baseline", ""): (69.25, 0.13),
        ("lottery", ""): (0.10, 0.01),
        ("small dense", ""): (61.75, 0.09),
        ("scratch", "masked"): (51.81, 3.02),
        ("scratch", "layer"): (62.71, 0.05),
        ("scratch", "neuron"): (62.52, 0.10),
        ("set", "masked"): (53.55, 1.03),
        ("set", "layer"): (63.19, 0.26),
        ("set", "neuron"): (63.13, 0.15),
        ("rigl", "masked"): (37.15, 26.20),
        ("rigl", "layer"): (63.69, 0.02),
        ("rigl", "neuron"): (63.56, 0.06),
    },
    ("ImageNet", "resnet-50"): {
        ("baseline", ""): (76.75, 0.12),
        ("lottery", ""): (75.75, 0.12),
        ("small dense", ""): (71.95, 0.24),
        ("scratch", "masked"): (70.58, 0.18),
        ("scratch", "layer"): (70.72, 0.16),
        ("scratch", "neuron"): (70.63, 0.22),
        ("set", "masked"): (72.93, 0.27),
        ("set", "layer"): (72.77, 0.27),
        ("set", "neuron"): (72.56, 0.14),
        ("rigl", "masked"): (74.41, 0.05),
        ("rigl", "layer"): (74.38, 0.10),
        ("rigl", "neuron"): (74.38, 0.01),
    },
}


def data_of(table: pd.DataFrame) -> str:
    """The table's data by name; a folder of images is ImageNet if it has its size."""
    names = set(table["dataset"])
    if names == {"folder"} and "train_images" in table and set(table["train_images"]) == {IMAGES}:
        return "ImageNet"
    return " and ".join(sorted(names))


def printed(table: pd.DataFrame) -> dict:
    """What the study prints for this data and network: cell -> (mean, SD) in percent, or nothing.

    >>> printed(pd.DataFrame({"dataset": ["mnist"], "network": ["lenet-5"]}))["lottery", ""]
    (98.26, 0.27)
    """
    return PRINTED.get((data_of(table), table["network"].iloc[0]), {})


def accuracy(row: str, form: str = "", how: str = "final") -> Numbers:
    """Final test accuracy in points by seed; raises ``NotHere`` if the table lacks the row."""
    missing = f"the table has no row {row} {FORMS.get(form, '')}".rstrip()
    return needed(100 * pick("test_accuracy", how, row=row, form=form), missing)


def named(row: str, form: str = "") -> str:
    """A cell in words: "scratch (original)"."""
    return f"{row} ({FORMS[form]})" if form else row


def gain(method: str, form: str, over: str) -> Numbers:
    """How much better a method is with one form than with another, in points."""
    return accuracy(method, form) - accuracy(method, over)


def better(first: tuple, second: tuple) -> Rule:
    """The cell ``first`` is above the cell ``second``, paired over seeds."""
    what = f"{named(*first)} - {named(*second)}"
    return more(what, accuracy(*first) - accuracy(*second), "points", margin=MATCH)


def not_below(first: str, second: str, form: str) -> Rule:
    """The method ``first`` is not half a point or more below ``second``."""
    what = f"{first} - {second} + {MATCH} ({FORMS[form]})"
    return more(what, accuracy(first, form) - accuracy(second, form) + MATCH, "points")


def alike(method: str, over: str = "layer") -> Rule:
    """The study's own form gives the same accuracy as another."""
    what = f"{method}: ours - {FORMS[over]}"
    return equal(what, gain(method, OWN, over), "points", margin=MATCH)


def cell(where: tuple, least: float) -> list[Rule]:
    """Every cell is the printed one within two of its standard deviations, or ``least`` points."""
    return [
        equal(
            f"{named(*place)}: ours - printed",
            accuracy(*place) - mean,
            "points",
            margin=max(2 * sd, least),
            note=says(
                f"ours {{:.2f}} ± {{:.2f}}, printed {mean:.2f} ± {sd:.2f}",
                accuracy(*place),
                spread(accuracy(*place)),
            ),
        )
        for place, (mean, sd) in PRINTED[where].items()
    ]


def failing(method: str) -> Rule:
    """Some runs of a method from masked dense weights fail to train."""
    failed = accuracy(method, "masked") < 50
    return more(
        f"share of runs of {method} (original) that fail to train",
        failed,
        "share",
        note=says("{} of {}", lift(sum)(failed), lift(len)(failed)),
    )


def set_alike(table: pd.DataFrame) -> Rule:
    """The best and the worst start of SET are alike."""
    means = {form: accuracy("set", form)(table).mean() for form in FORMS}
    high, low = max(means, key=means.get), min(means, key=means.get)
    what = f"set: {FORMS[high]} - {FORMS[low]}"
    return equal(what, gain("set", high, low), "points", margin=0.3)


def about(data: str, network: str, tested: str) -> Condition:
    """The condition that the table is of this data and network; ``tested`` says what would be."""
    return needs(
        lambda table: data_of(table) == data and network in set(table["network"]),
        f"a claim about {network} on {data}: preset {tested}",
    )


LENET = about("mnist", "lenet-5", "paper tests it")
LENET_300 = about("mnist", "lenet-300-100", "desktop tests it")
VGG = about("ImageNet", "vgg-16", "imagenet_vgg16 tests it, with that set and a GPU")
RESNET = about("ImageNet", "resnet-50", "imagenet_resnet50 tests it, with that set and a GPU")
NOT_RESNET = needs(
    lambda table: "resnet-50" not in set(table["network"]),
    "the study excepts ResNet-50, see flow-t1-resnet-init-neutral",
)
# for scratch on LeNet-5 the study itself prints a difference of a point
NOT_LENET = needs(lambda table: "lenet-5" not in set(table["network"]), "not of LeNet-5")
MLP = needs(
    lambda table: bool({"mlp", "lenet-300-100"} & set(table["network"])),
    "a claim about the fully connected network: presets quick and desktop test it",
)

RULES = {
    "flow-table1": given(LENET, cell(("mnist", "lenet-5"), 1.0)),
    "flow-table5": given(LENET_300, cell(("mnist", "lenet-300-100"), MATCH)),
    "flow-t1-lenet-init-scratch": given(
        NOT_RESNET, [better(("scratch", form), ("scratch", "masked")) for form in ("layer", OWN)]
    ),
    "flow-t1-lenet-init-dst": given(
        NOT_RESNET,
        [
            better((method, form), (method, "masked"))
            for method in ("set", "rigl")
            for form in ("layer", OWN)
        ],
    ),
    "flow-t1-original-fails-sometimes": given(LENET, [failing(method) for method in SPARSE]),
    "flow-t1-vgg-init": given(
        VGG,
        [
            equal(
                f"{method}: ours - original - {printed}",
                gain(method, OWN, "masked") - printed,
                "points",
                margin=3.0,
            )
            for method, printed in (("scratch", 10.71), ("set", 9.58))
        ],
    ),
    "flow-t1-resnet-init-neutral": given(RESNET, [alike(method, "masked") for method in SPARSE]),
    "flow-t1-lottery-vgg-fails": given(
        VGG, equal("lottery - 0.1", accuracy("lottery") - 0.1, "points", margin=0.05)
    ),
    "flow-t1-liu-matches-ours": [
        if_any(NOT_LENET, alike("scratch")),
        alike("set"),
        alike("rigl"),
    ],
    "flow-t1-dst-order": [
        [better(("set", form), ("scratch", form)), not_below("rigl", "set", form)]
        for form in ("layer", OWN)
    ],
    "flow-t1-lottery-near-baseline": given(
        LENET,
        equal(
            "baseline - lottery - 0.95",
            accuracy("baseline") - accuracy("lottery") - 0.95,
            "points",
            margin=0.5,
        ),
    ),
    "flow-t1-small-dense": given(LENET, better(("small dense",), ("scratch", OWN))),
    "flow-inverted-accuracy": better(("rigl", OWN), ("rigl-inverted", OWN)),
    "flow-t5-scratch-gain": given(
        MLP,
        [
            better(("scratch", OWN), ("scratch", "masked")),
            better(("lottery",), ("scratch", OWN)),
            not_below("rigl", "scratch", OWN),
        ],
    ),
    "flow-t5-set-neutral": given(MLP, set_alike),
    "flow-t5-small-dense-poor": given(
        MLP,
        more(
            "scratch (ours) - small dense - 2",
            accuracy("scratch", OWN) - accuracy("small dense") - 2,
            "points",
        ),
    ),
    "flow-rewinding-limited": more(
        "prune restart - lottery + 0.1",
        accuracy("restart") - accuracy("lottery") + 0.1,
        "points",
        note=says("without the 0.1: {:.2f}", accuracy("restart") - accuracy("lottery")),
    ),
}
