"""The decision rules of the gradient-flow study: claim -> rule."""

from studies.flow import methods

RULES = methods.RULES
