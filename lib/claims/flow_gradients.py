"""Decision rules for gradient flow while training and at mask updates: the gradient-flow study's Figures 2, 3, 7, 8 and 9.

The table has a row per run and recorded step: ``row`` and ``form`` as in ``lib.claims.flow_methods``, ``step`` of ``steps``, ``flow`` of
the network as its optimiser steps left it, ``flow_after`` where the mask changed at that very step, and the run's final
``test_accuracy``. Rows of mask updates have ``before`` and ``after`` in place of ``flow``. Flow is a squared norm; its ratios are decided
on their logarithms, averaged over the recorded steps of a window of training. The change at an update is that of the norm itself.
"""

import numpy as np
import pandas as pd

from lib.claims.decisions import Effect, NotHere
from lib.claims.flow_methods import FORMS, MATCH

LEARNS = 0.01  # a norm of 0.1: ten times what chance imbalance among 1,000 examples' classes leaves in the last biases
EARLY = 500 / 11_719  # of training: the first 500 of the study's steps
ALIKE = np.log(1.5)  # flows within a factor of 1.5, norms within 1.22
DIFFERENT = np.log(1.25)
OWN = "neuron"
WINDOWS = {  # name -> (above this share of training, up to that one)
    "at the start": (-1.0, 0.0),
    "first 500 of 11,719 steps": (0.0, EARLY),
    "first half": (0.0, 0.5),
    "second half": (0.5, 1.0),
    "whole training": (0.0, 1.0),
}
START, FIRST_500, FIRST_HALF, SECOND_HALF, WHOLE = WINDOWS
SPARSE = [
    *((method, form) for method in ("scratch", "set", "rigl") for form in FORMS),
    ("rigl-inverted", OWN),
]


# -- from the table to one number per seed -----------------------------------------------------------------------------


def courses(table: pd.DataFrame, row: str, form: str = "", measure: str = "flow") -> pd.DataFrame:
    """``measure`` of one cell: a row per seed, a column per step. Raises ``NotHere`` if the table lacks it."""
    rows = table[(table["row"] == row) & (table["form"] == form)]
    wide = (
        rows.pivot_table(index="seed", columns="step", values=measure)
        if measure in rows
        else pd.DataFrame()
    )
    if wide.empty:
        raise NotHere(
            f"the table has no {measure} of {name(row, form)}: give flow_every, and the form among forms"
        )
    return wide


def name(row: str, form: str = "") -> str:
    """A cell in words: "scratch (original)"."""
    return f"{row} ({FORMS[form]})" if form else row


def level(
    table: pd.DataFrame, cell: tuple[str, ...], window: str, measure: str = "flow"
) -> pd.Series:
    """ln of gradient flow by seed, averaged over the recorded steps of a window of training."""
    wide = courses(table, *cell, measure=measure)
    low, high = (share * table["steps"].iloc[0] for share in WINDOWS[window])
    part = wide.loc[:, (wide.columns > low) & (wide.columns <= high)]
    if part.empty:
        raise NotHere(f"no recorded step in this window ({window}): give a smaller flow_every")
    return np.log(part.clip(lower=1e-12)).mean(axis=1)


def start(table: pd.DataFrame, row: str, form: str = "") -> pd.Series:
    """When learning starts, by seed: the first recorded step with a gradient flow of ``LEARNS``; the last step where there is none."""
    wide = courses(table, row, form)
    return (
        (wide >= LEARNS).idxmax(axis=1).where((wide >= LEARNS).any(axis=1), table["steps"].iloc[0])
    )


def accuracy(table: pd.DataFrame, row: str, form: str = "") -> pd.Series:
    """Final test accuracy by seed, in points."""
    rows = table[(table["row"] == row) & (table["form"] == form)]
    return 100 * rows.groupby("seed")["test_accuracy"].first()


def change(table: pd.DataFrame, row: str, form: str = OWN) -> pd.DataFrame:
    """Change of the gradient norm at each mask update: a row per seed, a column per step."""
    return np.sqrt(courses(table, row, form, "after")) - np.sqrt(
        courses(table, row, form, "before")
    )


def half(changes: pd.DataFrame, table: pd.DataFrame, second: bool = False) -> pd.Series:
    """Mean change in the first or the second half of training, by seed."""
    late = changes.columns > table["steps"].iloc[0] / 2
    if late.all() or not late.any():
        raise NotHere("needs mask updates in both halves of training: give a smaller update_every")
    return changes.loc[:, late == second].mean(axis=1)


def correlation(
    table: pd.DataFrame, cells: list[tuple[str, str]], window: str = FIRST_HALF
) -> pd.Series:
    """Spearman's rho between flow in a window and final accuracy over the ``cells``, one per seed."""
    flow = pd.DataFrame({cell: level(table, cell, window) for cell in cells}).dropna()
    ends = pd.DataFrame({cell: accuracy(table, *cell) for cell in cells}).dropna()
    seeds = flow.index.intersection(ends.index)
    return flow.loc[seeds].rank(axis=1).corrwith(ends.loc[seeds].rank(axis=1), axis=1)


# -- effects -----------------------------------------------------------------------------------------------------------


def _every(table):
    steps = np.unique(table.loc[table["flow"].notna(), "step"])
    return float(np.diff(steps).min()) if len(steps) > 1 else 0.0


def _ratio(table, first, second, window, claim="positive", margin=0.0):
    """The effect "flow of the cell ``first`` over that of ``second``", in a window."""
    gain = (level(table, first, window) - level(table, second, window)).dropna()
    after = (
        level(table, first, window, "flow_after") - level(table, second, window, "flow_after")
    ).dropna()
    note = f"flow × {np.exp(gain.mean()):.3g}"
    if not np.allclose(gain, after):
        note += f"; × {np.exp(after.mean()):.3g} where steps at which a mask changes are recorded after the change"
    what = f"ln(flow of {name(*first)} / {name(*second)}), {window}"
    return Effect(what, gain.to_numpy(), "ln", claim, margin, note=note)


def _later(table, first, second):
    """The effect "learning starts later in ``first`` than in ``second``", in steps; a place on their grid carries half a step of it."""
    first_start, second_start = start(table, *first), start(table, *second)
    note = f"medians {first_start.median():g} and {second_start.median():g}"
    what = f"start of learning: {name(*first)} - {name(*second)}"
    return Effect(
        what,
        (first_start - second_start).dropna().to_numpy(),
        "steps",
        resolution=_every(table) / 2,
        note=note,
    )


def _lenet(table):
    return set(table["dataset"]) == {"mnist"} and "lenet-5" in set(table["network"])


def _mlp(table):
    if not {"mlp", "lenet-300-100"} & set(table["network"]):
        raise NotHere(
            "a claim about the fully connected network: presets quick and desktop test it"
        )


# -- Figures 2, 7 and 9a: over training ---------------------------------------------------------------------------------


def flow_fig2_scratch_stalls(table):
    effects = [_later(table, ("scratch", "masked"), ("scratch", OWN))]
    if _lenet(table):
        began = start(table, "scratch", "masked")
        effects.append(
            Effect(
                "start of learning of scratch (original) - 1000",
                began.to_numpy() - 1000,
                "steps",
                "equal",
                600,
                _every(table) / 2,
                f"median {began.median():g}",
            )
        )
    return effects


def flow_fig2_init_raises_flow(table):
    return [
        _ratio(table, ("scratch", OWN), ("scratch", "masked"), window)
        for window in (START, FIRST_500)
    ]


def flow_fig2_resnet_early_only(table):
    raise NotHere("ResNet-50 on ImageNet: it needs that set and a GPU")


def flow_fig2_lr_drop_jump(table):
    raise NotHere(
        "VGG-16 and ResNet-50 on ImageNet, whose learning rate falls in steps: it needs that set and a GPU"
    )


def flow_fig2_small_dense_gap(table):
    effects = []
    for form in ("masked", OWN):
        gap = (
            level(table, ("small dense",), WHOLE) - level(table, ("scratch", form), WHOLE)
        ).dropna()
        others = (gap.sum() - gap) / max(
            len(gap) - 1, 1
        )  # which of the two is above is taken from the other seeds
        what = f"|ln(flow of small dense / {name('scratch', form)})|, {WHOLE}, its sign from the other seeds"
        note = f"flow of small dense × {np.exp(gap.mean()):.3g}"
        effects.append(
            Effect(what, (gap * np.sign(others)).to_numpy(), "ln", margin=DIFFERENT, note=note)
        )
    return effects


def flow_fig2_rigl_improves(table):
    return [
        _ratio(table, ("rigl", form), ("scratch", form), FIRST_HALF) for form in ("masked", OWN)
    ]


def flow_fig2_lt_no_improvement(table):
    effects = []
    for window in (START, FIRST_500):
        above = (
            level(table, ("lottery",), window) - level(table, ("scratch", OWN), window)
        ).dropna()
        what = f"ln 1.21 - ln(flow of lottery / {name('scratch', OWN)}), {window}"
        effects.append(
            Effect(
                what,
                np.log(1.21) - above.to_numpy(),
                "ln",
                note=f"flow × {np.exp(above.mean()):.3g}",
            )
        )
    return effects


def flow_t1_rigl_vs_small_dense(table):
    if not _lenet(table):
        raise NotHere("a claim about LeNet-5 on MNIST: preset paper tests it")
    behind = (accuracy(table, "small dense") - accuracy(table, "rigl", OWN)).dropna().to_numpy()
    return [
        Effect(f"test accuracy: small dense - {name('rigl', OWN)}", behind, "points", margin=MATCH),
        _ratio(table, ("rigl", OWN), ("small dense",), WHOLE),
    ]


def flow_rigl_above_small_dense_flow(table):
    rigl, small = courses(table, "rigl", OWN), courses(table, "small dense")
    seeds, steps = rigl.index.intersection(small.index), rigl.columns.intersection(small.columns)
    above = (rigl.loc[seeds, steps] > small.loc[seeds, steps]).mean(axis=1)
    note = f"above at {100 * above.mean():.0f}% of the recorded steps"
    return [
        Effect(
            "share of steps at which RigL (ours) is above small dense - 1/2",
            above.to_numpy() - 0.5,
            "share",
            note=note,
        )
    ]


def flow_dst_generalisation_link(table):
    methods = [(method, OWN) for method in ("scratch", "set", "rigl", "rigl-inverted")]
    effects = []
    for label, cells in (
        ("four methods (ours)", methods),
        (f"{len(SPARSE)} methods and initialisations", SPARSE),
    ):
        rho = correlation(table, cells)
        effects.append(
            Effect(
                f"Spearman(flow in the first half, test accuracy) over {label}",
                rho.to_numpy(),
                "rho",
            )
        )
    return effects


def flow_fig7a_dst_starts_earlier(table):
    effects = [_later(table, ("scratch", "masked"), ("rigl", "masked"))]
    for form in ("masked", OWN):
        effects.append(_ratio(table, ("rigl", form), ("scratch", form), FIRST_HALF))
        effects.append(_ratio(table, ("set", form), ("scratch", form), FIRST_HALF, "equal", ALIKE))
    return effects


def flow_fig7b_liu(table):
    gains = [
        _ratio(table, (method, "layer"), (method, "masked"), FIRST_500)
        for method in ("scratch", "set", "rigl")
    ]
    return [
        *gains,
        _ratio(table, ("rigl", "layer"), ("scratch", "layer"), FIRST_HALF, "equal", ALIKE),
    ]


def flow_fig9a_mlp_flow(table):
    _mlp(table)
    return [_ratio(table, ("scratch", OWN), ("scratch", "masked"), FIRST_500)]


# -- Figures 3, 8 and 9b: at mask updates -------------------------------------------------------------------------------


def _relative(table, row, form=OWN):
    """How the norm changes on average, as a factor, in words."""
    logs = np.log(courses(table, row, form, "after").clip(lower=1e-12)) - np.log(
        courses(table, row, form, "before").clip(lower=1e-12)
    )
    return f"{row}: norm × {np.exp(0.5 * logs.mean(axis=1).mean()):.3g}"


def flow_fig3_rigl_update_raises(table):
    changes = change(table, "rigl")
    early, late = half(changes, table), half(changes, table, second=True)
    return [
        Effect(
            "median change of the gradient norm at an update: rigl (ours)",
            changes.median(axis=1).to_numpy(),
            "norm",
        ),
        Effect(
            "mean change, first half - second half: rigl (ours)",
            (early - late).to_numpy(),
            "norm",
            note=f"{early.mean():.3g} and {late.mean():.3g}; {_relative(table, 'rigl')}",
        ),
    ]


def flow_fig3_set_weaker(table):
    more = (change(table, "rigl").mean(axis=1) - change(table, "set").mean(axis=1)).dropna()
    note = f"{_relative(table, 'rigl')}, {_relative(table, 'set')}"
    return [
        Effect(
            "mean change of the gradient norm: rigl - set (ours)",
            more.to_numpy(),
            "norm",
            note=note,
        )
    ]


def flow_fig3_inverted_none(table):
    rigl, random, inverted = (
        change(table, row).mean(axis=1) for row in ("rigl", "set", "rigl-inverted")
    )
    return [
        Effect(
            "a tenth of rigl's mean change - rigl-inverted's (ours)",
            (0.1 * rigl - inverted).dropna().to_numpy(),
            "norm",
            note=f"{rigl.mean():.3g} and {inverted.mean():.3g}; {_relative(table, 'rigl-inverted')}",
        ),
        Effect(
            "mean change of the gradient norm: set - rigl-inverted (ours)",
            (random - inverted).dropna().to_numpy(),
            "norm",
        ),
    ]


def flow_fig8_original_delay(table):
    changes, began = change(table, "rigl", "masked"), start(table, "rigl", "masked")
    sleeping = pd.DataFrame({step: step < began.reindex(changes.index) for step in changes.columns})
    before, after = changes.where(sleeping).mean(axis=1), changes.where(~sleeping).mean(axis=1)
    if before.isna().all():
        raise NotHere(
            f"learning starts before the first mask update, at step {changes.columns[0]}, in every run"
        )
    note = f"learning starts at step {began.median():g} (median); change before {before.mean():.3g}, after {after.mean():.3g}"
    return [
        Effect(
            "mean change of the gradient norm once learning has started: rigl (original)",
            after.to_numpy(),
            "norm",
        ),
        Effect(
            "a tenth of it - |mean change before that|",
            (0.1 * after - before.abs()).to_numpy(),
            "norm",
            note=note,
        ),
    ]


def flow_fig9b_mlp_rigl(table):
    _mlp(table)
    higher = [
        _ratio(table, ("rigl", OWN), ("scratch", OWN), window)
        for window in (FIRST_HALF, SECOND_HALF)
    ]
    mean = change(table, "rigl").mean(axis=1)
    return [
        *higher,
        Effect(
            "mean change of the gradient norm at an update: rigl (ours)", mean.to_numpy(), "norm"
        ),
    ]
