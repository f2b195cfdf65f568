"""The decision rules of the price study: claim -> rule."""

from studies.price import curvature, disagreement, lines, noise, regimes

RULES = regimes.RULES | curvature.RULES | disagreement.RULES | noise.RULES | lines.RULES
