"""The decision rules of the gradient-flow study: claim -> rule."""

from studies.flow import gradients, hessian, init, lottery, methods, settings

RULES = (
    methods.RULES | gradients.RULES | hessian.RULES | init.RULES | lottery.RULES | settings.RULES
)
