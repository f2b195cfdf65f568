"""The decision rules of the price study: claim -> rule."""

from studies.price import regimes

RULES = regimes.RULES
