"""The decision rules of the early-pruning study: claim -> rule.

Figures 1, 2, 4, 5, 9, 10 and 11 (when to prune); the others stand in ``decay`` and ``schedules``.
"""

from itertools import pairwise

from studies.early.panels import (
    best, correlation, dense, half_step, held_out, peak, signal, values,
)  # fmt: skip
from studies.early.shapes import (
    EARLY, LATE, NEAR, OF_TRAINING, better, early, near, not_at_start, on, period, variants,
)  # fmt: skip
from studies.quantities import Numbers, highest, known, last, ln, numbers, pick
from studies.rules import MATCH, Rule, each, equal, fact, given, is_own, matters, more, needs, says

PRINTED = {  # (set, network, schedule): the dense test accuracy, where weight decay is 5e-4
    ("cifar10", "resnet-18", "exponential"): 95.3, ("cifar10", "vgg-11", "exponential"): 94.7,
    ("cifar100", "resnet-18", "exponential"): 77.3, ("cifar100", "vgg-11", "exponential"): 76.03,
}  # fmt: skip
PARAMETERS = {"resnet-18": 11.2e6, "resnet-20": 0.27e6, "resnet-56": 0.85e6}  # printed


def after_200(dataset: str, network: str):
    """The condition that a printed number needs: its set and network, trained for 200 epochs."""
    return needs(
        lambda table: is_own(table, dataset, network) and set(table["epochs"]) == {200},
        f"a number of {dataset} with {network} after 200 epochs: preset paper can test it",
    )


def printed(table) -> float | None:
    """The printed dense accuracy of the table's only setting."""
    where = set(zip(table["dataset"], table["network"], table["schedule"].dropna(), strict=False))
    return PRINTED.get(where.pop()) if len(where) == 1 and set(table["epochs"]) == {200} else None


@numbers
def excess(table, name: str, count: float) -> float:
    """The share by which a network has more parameters than the study prints; no chance in it."""
    return table[f"parameters of {name}"].iloc[0] / count - 1


def figure_1(dataset: str, network: str, lost: float | None = None, within: float = 0.0) -> Rule:
    """The best epoch is near 30% of training; so many points are lost against dense there."""
    near_30 = 10 - abs(best(sparsity=0.9) - 30)
    words, half = "10 - |best pruning epoch - 30|", half_step(sparsity=0.9)
    place = more(words, near_30, OF_TRAINING, resolution=half)
    drop = equal(f"points lost against dense - {lost}", LOST - (lost or 0), "points", margin=within)
    return given(after_200(dataset, network), [place] if lost is None else [place, drop])


def order(table) -> Rule:
    """The best accuracy falls from each sparsity to the next."""
    return [
        more(
            f"best accuracy at {low:g} - at {high:g}",
            known(held_out(sparsity=float(low)) - held_out(sparsity=float(high))),
            "points",
            margin=matters(),
        )
        for low, high in pairwise(sorted(values(table, "sparsity")))
    ]


LOST = known(dense(sparsity=0.9) - held_out(sparsity=0.9))
ALLOWED = Numbers(lambda table: 2.5 if on("cifar100")(table) else 0.5)
EARLY_OVER_LATE = known(held_out(0.0, EARLY) - held_out(LATE, 100.0))
TRACE, FINE = signal("fisher"), half_step("fisher")


RULES = {
    # when to prune
    "early-fig1-resnet18-cifar10": figure_1("cifar10", "resnet-18", 0.2, 0.3),
    "early-fig1-vgg11-cifar10": figure_1("cifar10", "vgg-11"),
    "early-fig1-resnet18-cifar100": figure_1("cifar100", "resnet-18", 1.8, 0.7),
    "early-fig1-vgg11-cifar100": figure_1("cifar100", "vgg-11"),
    "early-baselines": given(
        needs(
            lambda table: printed(table) is not None,
            "a number of CIFAR with the study's networks after 200 epochs: "
            "preset paper can test it",
        ),
        equal(
            lambda table: f"dense test accuracy - {printed(table)}",
            dense() - Numbers(printed),
            "points",
            margin=MATCH,
        ),
    ),
    "early-beats-late": more(
        "best early - best late pruning + what matters",
        EARLY_OVER_LATE + Numbers(matters()),
        "points",
        note=says("early - late: {:.2f}", EARLY_OVER_LATE),
    ),
    "early-not-at-start": not_at_start(),
    "early-before-half": early(),
    "early-90pct-cifar": given(
        needs(
            lambda table: (
                on("cifar10", "cifar100")(table)
                and table["network"].str.startswith("resnet").all()
                and 0.9 in values(table, "sparsity")
            ),
            "a claim about ResNets on CIFAR at a sparsity of 0.9: "
            "desktop with dataset cifar10, or paper, can test it",
        ),
        more(
            says("{} - points lost against dense", ALLOWED),
            ALLOWED - LOST,
            "points",
        ),
    ),
    "early-trf-two-phases": [
        more("peak of Tr(F) - 2.5", peak() - 2.5, OF_TRAINING, resolution=FINE),
        more("90 - peak of Tr(F)", 90 - peak(), OF_TRAINING, resolution=FINE),
        more(
            "ln(half of the highest Tr(F) / the last)",
            ln(0.5 * highest(TRACE) / last(TRACE)),
            "ln",
        ),
    ],
    "early-peak-correlates-trf": [
        near(within=NEAR),
        more(
            "Spearman(accuracy, Tr(F)) over pruning epochs",
            known(correlation()),
            "rho",
            kind="trend",
        ),
    ],
    "early-fisher-criterion-period": [period(criterion="fisher"), near(criterion="fisher")],
    "early-magnitude-beats-fisher": more(
        "best test accuracy: magnitude - fisher",
        better({}, {"criterion": "fisher"}),
        "points",
        margin=matters(),
    ),
    "early-local-fig9": [period(scope="layer"), near(scope="layer")],
    "early-kl-expansion": fact(
        "|KL / (half dᵀFd) - 1| of the dense networks",
        pick("kl_expansion_error", "first", solution="sol_d"),
        0.02,
    ),
    "early-mc-fisher-accurate": more(
        "0.1 - relative error of the sampled Tr(F)",
        0.1 - pick("fisher_relative_error", "first", solution="sol_d"),
    ),
    # sizes and sparsities
    "early-model-size": each("network", [period(), near()], variants("network"), " of {}"),
    "early-local-model-size": each("network", period(scope="layer"), variants("network"), " of {}"),
    "early-param-counts": [
        fact(f"parameters of {name} / {count:g} - 1", excess(name, count), 0.03)
        for name, count in PARAMETERS.items()
    ],
    "early-compression-period": each("sparsity", period(), variants("sparsity")),
    "early-local-compression": each("sparsity", period(scope="layer"), variants("sparsity")),
    "early-compression-order": order,
    "early-95pct-accuracy": given(
        after_200("cifar10", "resnet-18"),
        [
            equal(
                "best test accuracy at 0.95 - 94.7",
                held_out(sparsity=0.95) - 94.7,
                "points",
                margin=0.3,
            ),
            equal("dense test accuracy - 95.3", dense(sparsity=0.95) - 95.3, "points", margin=0.3),
        ],
    ),
}
