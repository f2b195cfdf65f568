"""The decision rules of the gradient-flow study: claim -> rule."""

from studies.flow import functions, gradients, hessian, init, lottery, methods, settings

MODULES = (methods, gradients, hessian, init, lottery, functions, settings)
RULES = {claim: rule for module in MODULES for claim, rule in module.RULES.items()}
