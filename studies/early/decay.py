"""Weight decay and the early period: Figures 8 and 13 of the early-pruning study."""

from studies.decide import NotHere
from studies.early.panels import (
    best, correlation, half_step, held_out, peak, signal, values,
)  # fmt: skip
from studies.early.shapes import (
    AFTER_START, LATE, MOVED, OF_TRAINING, better, not_at_start,
)  # fmt: skip
from studies.quantities import between, highest, known, last, ln, of
from studies.rules import each, matters, more


def decays(table) -> list:
    """The weak, the middle and the strong weight decay."""
    grid = sorted(values(table, "weight_decay"))
    if len(grid) != 3:
        raise NotHere("it compares three weight decays: give weight_decays as three values")
    return grid


WEAK, MIDDLE, STRONG = (
    {"weight_decay": lambda table, rank=rank: float(decays(table)[rank])} for rank in range(3)
)
OTHERS = {"strong": STRONG, "weak": WEAK}


def off_peak(**chosen):
    """How far the best epoch lies from the peak."""
    return abs(best(**chosen) - peak(**chosen))


def ends(measure, decay):
    """Where a measure of the dense networks ends, in points."""
    return 100 * last(signal(measure, **decay))


def strongest(decay):
    """The highest Tr(F) once training has begun: before, the networks are the same."""
    return highest(between(signal("fisher", **decay), 1e-6))


def off_regime(rule_of):
    """A rule for each of the weak and strong decay that under- or overfits: with which dense
    networks test worse than with the middle one, by what matters, on average."""

    def rule(table):
        gains = {
            name: of(ends("test_accuracy", MIDDLE) - ends("test_accuracy", decay), table).mean()
            for name, decay in OTHERS.items()
        }
        worse = [name for name in OTHERS if gains[name] >= matters()(table)]
        if not worse:
            raise NotHere(
                "no decay under- or overfits here: dense test accuracy with the middle one is "
                + ", ".join(f"{gain:.2g} points above the {name}" for name, gain in gains.items())
            )
        return [rule_of(OTHERS[name], name) for name in worse]

    return rule


RULES = {
    "early-wd-baselines": [
        more(
            f"dense {part} accuracy: middle - {name} decay",
            known(ends(f"{part}_accuracy", MIDDLE) - ends(f"{part}_accuracy", decay)),
            "points",
            margin=matters(),
        )
        for part, name, decay in (
            ("test", "strong", STRONG),
            ("test", "weak", WEAK),
            ("train", "strong", STRONG),
        )
    ],
    "early-wd-all-have-period": each(
        "weight_decay",
        [
            not_at_start(),
            more(
                "best - best late pruning",
                known(held_out(AFTER_START, LATE - AFTER_START) - held_out(LATE)),
                "points",
                margin=matters(),
            ),
        ],
        decays,
        " (decay {:g})",
    ),
    "early-wd-weak-correlation": off_regime(
        lambda decay, name: more(
            f"|best - peak|: {name} - middle decay",
            known(off_peak(**decay) - off_peak(**MIDDLE)),
            OF_TRAINING,
            resolution=half_step(**MIDDLE),
        )
    ),
    "early-wd-over-period-late": [
        more(
            "peak of Tr(F): middle - weak decay",
            known(peak(**MIDDLE) - peak(**WEAK)),
            OF_TRAINING,
            resolution=half_step("fisher", **WEAK),
            margin=MOVED,
        ),
        more(
            "weak decay: best pruning epoch - peak - 10",
            best(**WEAK) - peak(**WEAK) - 10,
            OF_TRAINING,
            resolution=half_step(**WEAK),
        ),
    ],
    "early-wd-under-peak-late": [
        more(
            "peak of Tr(F): strong - middle decay",
            known(peak(**STRONG) - peak(**MIDDLE)),
            OF_TRAINING,
            resolution=half_step("fisher", **STRONG),
            margin=MOVED,
        ),
        more(
            "strong decay: peak - best pruning epoch",
            known(peak(**STRONG) - best(**STRONG)),
            OF_TRAINING,
            resolution=half_step(**STRONG),
        ),
    ],
    "early-wd-trf-magnitude": more(
        "ln(highest Tr(F): strong / middle decay)",
        known(ln(strongest(STRONG) / strongest(MIDDLE))),
        "ln",
    ),
    "early-local-stronger-correlation": off_regime(
        lambda decay, name: more(
            f"Spearman(accuracy, Tr(F)): layer - global ({name} decay)",
            known(correlation(**decay, scope="layer") - correlation(**decay)),
            "rho",
        )
    ),
    "early-local-underfit-late": more(
        "layer scope, best pruning epoch: strong - middle decay",
        known(best(**STRONG, scope="layer") - best(**MIDDLE, scope="layer")),
        OF_TRAINING,
        resolution=half_step(**STRONG, scope="layer"),
    ),
    "early-local-better-off-regime": off_regime(
        lambda decay, name: more(
            f"best accuracy: layer - global ({name} decay)",
            better({"scope": "layer"}, {}, **decay),
            "points",
            margin=matters(),
        )
    ),
}
