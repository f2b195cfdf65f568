"""The decision rules of the gradient-flow study: claim -> rule."""

from studies.flow import gradients, hessian, methods, updates

RULES = methods.RULES | gradients.RULES | updates.RULES | hessian.RULES
