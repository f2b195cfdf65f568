"""The decision rules of the price study: claim -> rule."""

from studies.price import (
    cosine,
    curvature,
    disagreement,
    dynamics,
    gradients,
    interpolation,
    noise,
    noise_fisher,
    regimes,
)

RULES = (
    regimes.RULES
    | dynamics.RULES
    | curvature.RULES
    | disagreement.RULES
    | noise.RULES
    | noise_fisher.RULES
    | interpolation.RULES
    | cosine.RULES
    | gradients.RULES
)
