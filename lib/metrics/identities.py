"""Three faces of the Fisher matrix, compared along random directions: outer products, second derivatives, divergence.

For log-likelihoods of a network with softmax outputs (price study, Lemma A.1, Corollaries A.1 and A.2, equation A.13):

* E[∇log p ∇log pᵀ] = -E[∇² log p], both expectations exact over all labels;
* both are the second derivative of KL(p_θ ‖ p_θ') in θ' at θ' = θ;
* KL(p_θ ‖ p_θ+ε) → ½ εᵀFε as ε → 0. The half belongs there; the study's equation 2.4 prints the relation without it.
"""

import copy
import warnings

import torch
from torch.func import functional_call, jvp

from lib.metrics.curvature import Curvature
from lib.metrics.layers import MeasureError

__all__ = ["MeasureError", "relative_errors"]


def relative_errors(
    network, x, *, generator: torch.Generator, mask=None, which="all", directions=4, step=1e-6
) -> dict[str, float]:
    """The largest relative error of each relation over random ``directions`` in the live weights, in float64.

    ``second_derivative`` and ``divergence`` compare vᵀFv by outer products with the other two; ``expansion`` and
    ``expansion_reversed`` compare KL(p_θ ‖ p_θ+ε), or KL(p_θ+ε ‖ p_θ), with ½ εᵀFε for ε of ``step`` times the length of the live
    weights; ``expansion_without_half`` leaves the half out, and so comes to 0.5. A unit whose inputs are all pruned and whose bias is
    zero lies on its ReLU's kink: no expansion holds along that bias, and ``which="weights"`` keeps away from it.
    """
    if directions < 1 or not step > 0:
        raise MeasureError(
            f"directions and step are {directions} and {step}; they must be at least 1 and above 0"
        )
    network, x = copy.deepcopy(network).double(), x.double()
    live = Curvature(network, x, mask=mask, which=which, of="fisher")
    start = {name: p.detach() for name, p in live.parameters.items()}
    length = live.flat(start).norm()
    worst = {}
    for _ in range(directions):
        v = torch.randn(live.size, generator=generator, dtype=torch.float64).to(live.device)
        along = live.named(v * length / v.norm())
        with (
            warnings.catch_warnings()
        ):  # torch's own use of a deprecated part of itself, on the first call
            warnings.filterwarnings("ignore", "`torch.jit.script` is deprecated", FutureWarning)
            errors = _errors(network, x, start, along, step)
        for name, error in errors.items():
            worst[name] = max(worst.get(name, 0.0), error)
    return worst


@torch.no_grad()
def _errors(network, x, start, along, step):
    def log_p(t):
        moved = {name: value + t * along[name] for name, value in start.items()}
        return torch.log_softmax(functional_call(network, moved, (x,)), -1)

    def derivative(function):
        return lambda t: jvp(function, (t,), (torch.ones_like(t),))[1]

    zero = x.new_zeros(())
    here = log_p(zero)
    p = here.exp()

    def divergence(t):
        return (p * (here - log_p(t))).sum(-1).mean()

    outer = (p * derivative(log_p)(zero).square()).sum(-1).mean()
    if not outer > 0:
        raise MeasureError(
            "the Fisher matrix vanishes along a random direction: the predictions are saturated on these examples"
        )
    second = -(p * derivative(derivative(log_p))(zero)).sum(-1).mean()
    curvature = derivative(derivative(divergence))(zero)
    there = log_p(zero + step)
    quadratic = step**2 * outer / 2
    forward, backward = _kl(here, there), _kl(there, here)
    pairs = {
        "second_derivative": second / outer,
        "divergence": curvature / outer,
        "expansion": forward / quadratic,
        "expansion_reversed": backward / quadratic,
        "expansion_without_half": forward / (2 * quadratic),
    }
    return {name: abs(ratio.item() - 1) for name, ratio in pairs.items()}


def _kl(a, b):
    """Mean KL divergence of log-probabilities, with the first-order terms, which cancel, taken out before the sum."""
    difference = b - a
    return (a.exp() * (torch.expm1(difference) - difference)).sum(-1).mean()
