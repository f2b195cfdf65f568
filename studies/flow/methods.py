"""Methods and initialisations: the gradient-flow study's Tables 1 and 5.

The table has a column ``row``, the method ("baseline", "lottery", "small dense", "pruned",
"scratch", "set", "rigl", "rigl-inverted"), and ``form``, how fresh weights take account of the
mask: masked (the study's Original), layer (Liu et al.), neuron (its own).
"""

from itertools import combinations

import numpy as np
import pandas as pd

from studies.quantities import Numbers, needed, pick, spread
from studies.rules import (
    MATCH, Condition, Rule, counted, equal, given, if_any, matters, more, needs, says,
)  # fmt: skip

FORMS = {"masked": "original", "layer": "liu", "neuron": "ours"}
OWN = "neuron"
GIVEN = ("layer", OWN)  # the forms that take account of the mask
SPARSE = ("scratch", "set", "rigl")
SOMETIMES = 0.05  # the share of runs above which a method fails sometimes: one in twenty
# points: a larger printed standard deviation is that of a cell of which some runs stayed at chance
CONVERGED = 10.0
RUNS = 5  # that a printed mean is of: so the study says of section 4.3, and nothing of its Table 1
IMAGES = 1_281_167  # of ImageNet's training set

CELLS = [
    *((row, "") for row in ("baseline", "lottery", "small dense")),
    *((method, form) for method in SPARSE for form in FORMS),
]
# The study's Tables 1 and 5, by data and network: mean and standard deviation of each of CELLS,
# percent; a line for the dense-start rows and one for each method's original, liu and ours
PRINTED = {
    where: dict(zip(CELLS, zip(found[::2], found[1::2], strict=True), strict=True))
    for where, found in {
        ("mnist", "lenet-5"): [
            99.21, 0.07, 98.26, 0.27, 98.21, 0.46,
            62.99, 42.16, 96.64, 0.83, 97.70, 0.09,
            63.33, 42.44, 97.77, 0.31, 98.16, 0.06,
            80.82, 34.74, 98.14, 0.17, 98.13, 0.09,
        ],
        ("mnist", "lenet-300-100"): [
            98.55, 0.04, 97.73, 0.11, 91.69, 1.85,
            94.40, 4.00, 96.66, 0.18, 96.70, 0.12,
            96.49, 0.36, 96.56, 0.22, 96.48, 0.10,
            96.82, 0.25, 96.76, 0.19, 96.94, 0.12,
        ],
        ("ImageNet", "vgg-16"): [
            69.25, 0.13, 0.10, 0.01, 61.75, 0.09,
            51.81, 3.02, 62.71, 0.05, 62.52, 0.10,
            53.55, 1.03, 63.19, 0.26, 63.13, 0.15,
            37.15, 26.20, 63.69, 0.02, 63.56, 0.06,
        ],
        ("ImageNet", "resnet-50"): [
            76.75, 0.12, 75.75, 0.12, 71.95, 0.24,
            70.58, 0.18, 70.72, 0.16, 70.63, 0.22,
            72.93, 0.27, 72.77, 0.27, 72.56, 0.14,
            74.41, 0.05, 74.38, 0.10, 74.38, 0.01,
        ],
    }.items()
}  # fmt: skip


def data_of(table: pd.DataFrame) -> str:
    """The table's data by name; a folder of images is ImageNet if it has its size."""
    name = " and ".join(sorted(set(table["dataset"])))
    whole = set(table.get("train_images", [])) == {IMAGES}
    return "ImageNet" if name == "folder" and whole else name


def printed(table: pd.DataFrame) -> dict:
    """What the study prints for this data and network: cell -> (mean, SD) in percent, or nothing.

    >>> printed(pd.DataFrame({"dataset": ["mnist"], "network": ["lenet-5"]}))["lottery", ""]
    (98.26, 0.27)
    """
    return PRINTED.get((data_of(table), table["network"].iloc[0]), {})


def named(row: str, form: str = "") -> str:
    """A cell in words: "scratch (original)"."""
    return f"{row} ({FORMS[form]})" if form else row


def accuracy(row: str, form: str = "", *, how: str = "final") -> Numbers:
    """Final test accuracy in points by seed; raises ``NotHere`` if the table lacks the row."""
    return needed(
        100 * pick("test_accuracy", how, row=row, form=form),
        f"the table has no row {row} {FORMS.get(form, '')}".rstrip(),
    )


def gap(first: tuple, second: tuple) -> Numbers:
    """How much better one cell is than another, in points."""
    return accuracy(*first) - accuracy(*second)


def better(first: tuple, second: tuple, printed: float | None = None) -> Rule:
    """The cell ``first`` is above the cell ``second``, in the paper by ``printed`` points."""
    what = f"{named(*first)} - {named(*second)}"
    return more(what, gap(first, second), "points", margin=matters(printed))


def not_below(first: str, second: str, form: str) -> Rule:
    """The method ``first`` is not below ``second`` by as much as would matter."""
    apart = gap((first, form), (second, form))
    what = f"{first} - {second} + what matters ({FORMS[form]})"
    return more(what, apart + Numbers(matters()), "points", note=says("without it: {:.2f}", apart))


def alike(method: str, one: str, other: str, margin: float = MATCH) -> Rule:
    """One form gives the same accuracy as another."""
    apart = gap((method, one), (method, other))
    return equal(f"{method}: {FORMS[one]} - {FORMS[other]}", apart, "points", margin=margin)


def as_printed(what: str, ours: Numbers, mean: float, sd: float | None, least: float) -> Rule:
    """Ours is a printed mean within ``least`` points, or two of its standard errors if more."""
    found, printed = "ours {:.2f} ± {:.2f}", f"{mean:.2f}" + (f" ± {sd:.2f}" if sd else "")
    return equal(
        f"{what}: ours - printed",
        ours - mean,
        "points",
        margin=max(2 * (sd or 0) / np.sqrt(RUNS), least),
        note=says(f"{found}, printed {printed}", ours, spread(ours)),
    )


def whole(where: tuple, least: float) -> list[Rule]:
    """Every cell of a printed table whose runs converged."""
    return [
        as_printed(named(*cell), accuracy(*cell), mean, sd, least)
        for cell, (mean, sd) in PRINTED[where].items()
        if sd < CONVERGED
    ]


def without(network: str, otherwise: str) -> Condition:
    """The condition that the table is not of a network."""
    return needs(lambda table: network not in set(table["network"]), otherwise)


def about(*where: tuple[str, str], tested: str) -> Condition:
    """The condition that the table is of one of these data and networks; ``tested`` says how."""
    words = " or ".join(f"{network} on {data}" for data, network in where)
    return needs(
        lambda table: any((data_of(table), network) in where for network in set(table["network"])),
        f"a claim about {words}: {tested}",
    )


GPU = "it needs that set and a GPU"
LENET = about(("mnist", "lenet-5"), tested="preset paper tests it")
VGG = about(("ImageNet", "vgg-16"), tested=f"{GPU} (imagenet_vgg16 of flow_table1_methods)")
RESNET = about(
    ("ImageNet", "resnet-50"), tested=f"{GPU} (imagenet_resnet50 of flow_table1_methods)"
)
SEVERAL = "presets paper and imagenet_* of flow_table1_methods test it"
NOT_RESNET = without("resnet-50", "the study excepts ResNet-50, see flow-t1-resnet-init-neutral")
MLP = needs(
    lambda table: bool({"mlp", "lenet-300-100"} & set(table["network"])),
    "a claim about the fully connected network: presets quick and desktop test it",
)
BASELINE, LOTTERY, SMALL = (("baseline",), ("lottery",), ("small dense",))
AGAIN = gap(("restart",), LOTTERY)

RULES = {
    "flow-table1": given(LENET, whole(("mnist", "lenet-5"), 1.0)),
    "flow-table5": given(about(("mnist", "lenet-300-100"), tested="preset desktop tests it"),
                         whole(("mnist", "lenet-300-100"), MATCH)),
    "flow-t1-lenet-init-scratch": given(
        NOT_RESNET, [better(("scratch", form), ("scratch", "masked")) for form in GIVEN]),
    "flow-t1-lenet-init-dst": given(NOT_RESNET, [better((dst, form), (dst, "masked"))
                                                 for dst in SPARSE[1:] for form in GIVEN]),
    "flow-t1-original-fails-sometimes": given(
        about(("mnist", "lenet-5"), ("ImageNet", "vgg-16"), tested=SEVERAL),
        [if_any(condition, [counted(f"runs of {method} (original) that fail to train",
                                    accuracy(method, "masked") < failed, SOMETIMES)
                            for method in methods])
         for condition, failed, methods in ((LENET, 50, SPARSE), (VGG, 10, ("rigl",)))]),
    "flow-t1-vgg-init": given(VGG, [equal(f"{method}: ours - original - {gain}",
                                          gap((method, OWN), (method, "masked")) - gain, "points",
                                          margin=3.0)
                                    for method, gain in (("scratch", 10.71), ("set", 9.58))]),
    "flow-t1-resnet-init-neutral": given(RESNET, [alike(method, OWN, "masked")
                                                  for method in SPARSE]),
    "flow-t1-lottery-vgg-fails": given(VGG, equal("lottery - 0.1", accuracy("lottery") - 0.1,
                                                  "points", margin=0.05)),
    # for scratch on LeNet-5 the study itself prints a difference of a point
    "flow-t1-liu-matches-ours": [if_any(without("lenet-5", ""), alike("scratch", OWN, "layer")),
                                 alike("set", OWN, "layer"), alike("rigl", OWN, "layer")],
    "flow-t1-dst-order": [[better(("set", form), ("scratch", form), 0.46),
                           not_below("rigl", "set", form)] for form in GIVEN],
    "flow-t1-lottery-near-baseline": given(
        about(("mnist", "lenet-5"), ("ImageNet", "resnet-50"), tested=SEVERAL),
        [if_any(condition, equal(f"baseline - lottery - {printed}",
                                 gap(BASELINE, LOTTERY) - printed, "points", margin=margin))
         for condition, printed, margin in ((LENET, 0.95, 0.5), (RESNET, 1.0, 0.4))]),
    "flow-t1-small-dense": given(
        about(("mnist", "lenet-5"), ("ImageNet", "resnet-50"), tested=SEVERAL),
        better(SMALL, ("scratch", OWN), 0.51)),
    "flow-inverted-accuracy": better(("rigl", OWN), ("rigl-inverted", OWN), 5.42),
    "flow-t5-scratch-gain": given(MLP, [better(("scratch", OWN), ("scratch", "masked"), 2.3),
                                        better(LOTTERY, ("scratch", OWN), 1.03),
                                        not_below("rigl", "scratch", OWN)]),
    "flow-t5-set-neutral": given(MLP, [alike("set", *pair, 0.3)
                                       for pair in combinations(FORMS, 2)]),
    "flow-t5-small-dense-poor": given(MLP, more("scratch (ours) - small dense - 2",
                                                gap(("scratch", OWN), SMALL) - 2, "points")),
    "flow-rewinding-limited": more("prune restart - lottery + 0.1", AGAIN + 0.1, "points",
                                   note=says("without the 0.1: {:.2f}", AGAIN)),
}  # fmt: skip
