"""When to prune: decision rules for weight decay (Figures 8 and 13 of the early-pruning study)."""

import numpy as np

from lib.claims.decisions import Effect, NotHere
from lib.claims.early import MATCH, main, values


def _decays(table):
    grid = sorted(values(table, "weight_decay"))
    if len(grid) != 3:
        raise NotHere("it compares three weight decays: give weight_decays as three values")
    return grid


def _three(table, **chosen):
    """The panels of the weak, the middle and the strong weight decay."""
    return [main(table, weight_decay=float(w), **chosen) for w in _decays(table)]


def early_wd_baselines(table):
    weak, middle, strong = _three(table)
    train = [
        100
        * f.rows.dropna(subset=["train_accuracy"])
        .sort_values("epoch")
        .groupby("seed")["train_accuracy"]
        .last()
        for f in (middle, strong)
    ]
    return [
        Effect(
            "dense test accuracy: middle - strong decay",
            (middle.dense - strong.dense).dropna().to_numpy(),
            "points",
        ),
        Effect(
            "dense test accuracy: middle - weak decay",
            (middle.dense - weak.dense).dropna().to_numpy(),
            "points",
        ),
        Effect(
            "dense training accuracy: middle - strong decay",
            (train[0] - train[1]).dropna().to_numpy(),
            "points",
        ),
    ]


def early_wd_all_have_period(table):
    effects = []
    for decay, found in zip(_decays(table), _three(table), strict=True):
        gain = (found.held_out() - found.competing.iloc[:, -1]).dropna().to_numpy()
        effects.append(Effect(f"best - latest pruning (decay {decay:g})", gain, "points"))
    return effects


def early_wd_weak_correlation(table):
    off = [(f.best - f.peak()).abs() for f in _three(table)]
    half = _three(table)[1].half_step
    return [
        Effect(
            f"|best - peak|: {name} - middle decay",
            (off[k] - off[1]).dropna().to_numpy(),
            "% of training",
            resolution=half,
        )
        for k, name in ((2, "strong"), (0, "weak"))
    ]


def early_wd_over_period_late(table):
    weak, middle, _ = _three(table)
    return [
        Effect(
            "peak of Tr(F): middle - weak decay",
            (middle.peak() - weak.peak()).dropna().to_numpy(),
            "% of training",
            resolution=50 / weak.epochs,
        ),
        Effect(
            "weak decay: best pruning epoch - peak - 10",
            (weak.best - weak.peak() - 10).to_numpy(),
            "% of training",
            resolution=weak.half_step,
        ),
    ]


def early_wd_under_peak_late(table):
    _, middle, strong = _three(table)
    half = strong.half_step
    return [
        Effect(
            "peak of Tr(F): strong - middle decay",
            (strong.peak() - middle.peak()).dropna().to_numpy(),
            "% of training",
            resolution=50 / strong.epochs,
        ),
        Effect(
            "strong decay: peak - best pruning epoch",
            (strong.peak() - strong.best).dropna().to_numpy(),
            "% of training",
            resolution=half,
        ),
    ]


def early_wd_trf_magnitude(table):
    _, middle, strong = _three(table)
    ratio = np.log(
        strong.signal("fisher").max(axis=1) / middle.signal("fisher").max(axis=1)
    ).dropna()
    return [Effect("ln(highest Tr(F): strong / middle decay)", ratio.to_numpy(), "ln")]


def early_local_stronger_correlation(table):
    layered, plain = _three(table, scope="layer"), _three(table)
    return [
        Effect(
            f"Spearman(accuracy, Tr(F)): layer - global ({name} decay)",
            (layered[k].correlation() - plain[k].correlation()).dropna().to_numpy(),
            "rho",
        )
        for k, name in ((0, "weak"), (2, "strong"))
    ]


def early_local_underfit_late(table):
    _, middle, strong = _three(table, scope="layer")
    later = (strong.best - middle.best).dropna().to_numpy()
    return [
        Effect(
            "layer scope, best pruning epoch: strong - middle decay",
            later,
            "% of training",
            resolution=strong.half_step,
        )
    ]


def early_local_better_off_regime(table):
    layered, plain = _three(table, scope="layer"), _three(table)
    return [
        Effect(
            f"best accuracy: layer - global + 0.5 ({name} decay)",
            (layered[k].held_out() - plain[k].held_out() + MATCH).dropna().to_numpy(),
            "points",
        )
        for k, name in ((0, "weak"), (2, "strong"))
    ]
