"""Signal and noise of minibatch gradients by layer: Figure 11 of the price study's workshop version.

The table has a row per run, kept epoch and layer, with the norms ``mean`` and ``std`` and their
ratio ``snr``, and the accuracies of the run where they were measured.
"""

import numpy as np
import pandas as pd

from studies.decide import NotHere
from studies.price.regimes import PAIR, furthest, lowest
from studies.quantities import course, first, highest, last, lift, ln, mean, numbers, sparsities
from studies.rules import above, each, given, more, needs, says

BUMP = (
    0.05,
    0.20,
)  # the paper's window for the bump: epochs 10 to 40 of 200, as shares of training

two_regimes = needs(
    lambda table: len(sparsities(table)) >= 2, "needs two sparsities, one in each regime"
)


def layers(solution: str):
    """The layers of a solution in order of depth."""
    return lambda table: table.loc[table["solution"] == solution, "layer"].unique()


@numbers
def kept(table: pd.DataFrame, measure: str, **cell) -> pd.DataFrame:
    """A measure of one layer over the kept epochs, which must hold the start and two later ones."""
    wide = course(measure, **cell)(table)
    if wide.empty or wide.columns[0] != 0 or wide.shape[1] < 3:
        raise NotHere("needs the start, epoch 0, and two later epochs among keep_epochs")
    return wide


@numbers
def _late_noise(table, solution):
    """The mean logarithm of the noise in the last quarter of training, by seed and layer."""
    noise = {}
    for layer in layers(solution)(table):
        wide = kept("std", solution=solution, layer=layer)(table)
        noise[layer] = np.log(wide.loc[:, wide.columns >= 0.75 * wide.columns[-1]]).mean(axis=1)
    return pd.DataFrame(noise)


D, F, S = (_late_noise(solution) for solution in ("sol_d", "sol_f", "sol_s"))
QUIETER = lift(lambda gap: np.exp(gap.mean(axis=None)))(S - F)

SCRATCH = kept("mean", solution="sol_s")
PLACE = lift(lambda course: course.idxmax(axis=1) / course.columns[-1])(SCRATCH)


@lift
def _half_step(course):
    """Half the largest step between epochs in the window of the bump, as a share of training."""
    end = course.columns[-1]
    return max(np.diff(course.columns[course.columns <= BUMP[1] * end]), default=end) / 2 / end


@lift
def _bump(places):
    if (places < 1).all():
        return f"bump at {places.mean():.2f} of training"
    return "some seed has its maximum at the end"


AT_BUMP = {"resolution": _half_step(SCRATCH), "note": _bump(PLACE)}


def _noisier(where, solution):
    """The signal-to-noise ratio falls from the start to the end, in every layer."""
    snr = kept("snr", solution=solution)
    what = f"{where}, {{layer}}: ln(SNR at the start / at the end)"
    return each("layer", more(what, ln(first(snr) / last(snr)), "ln"), layers(solution), "{}")


RULES = {
    "price-snr-lenet-accuracies": each("sparsity", above("test_accuracy", *PAIR)),
    "price-snr-gen-regime-std": given(
        two_regimes,
        each(
            "sparsity",
            more(
                "share of layers - 1/2",
                mean((S < F) & (S < D)) - 0.5,
                "share",
                note=says("Sol-S's is {:.2f} times Sol-F's, mean over layers", QUIETER),
            ),
            lambda table: [lowest(table)],
        ),
    ),
    "price-snr-opt-regime-hike": given(
        two_regimes,
        each(
            "sparsity",
            each(
                "layer",
                [
                    more(
                        "{layer}: ln(mean gradient at the start, Sol-D / Sol-S)",
                        ln(first(kept("mean", solution="sol_d")) / first(SCRATCH)),
                        "ln",
                    ),
                    more(
                        "{layer}: ln(bump / start) - ln 3",
                        ln(highest(SCRATCH) / first(SCRATCH)) - np.log(3),
                        "ln",
                    ),
                    more(
                        f"{{layer}}: place of the bump - {BUMP[0]:g}",
                        PLACE - BUMP[0],
                        "training",
                        **AT_BUMP,
                    ),
                    more(
                        f"{{layer}}: {BUMP[1]:g} - place of the bump",
                        BUMP[1] - PLACE,
                        "training",
                        **AT_BUMP,
                    ),
                ],
                layers("sol_s"),
                "{}",
            ),
            lambda table: [furthest(table)],
            "",
        ),
    ),
    "price-snr-two-phases": [
        _noisier("Sol-D", "sol_d"),
        each("sparsity", _noisier("Sol-S{sparsity}", "sol_s")),
    ],
}
