"""Three faces of the Fisher matrix, compared along random directions.

For log-likelihoods of a network with softmax outputs (price study, Lemma A.1, Corollaries A.1 and
A.2, equation A.13):

* E[∇log p ∇log pᵀ] = -E[∇² log p], both expectations exact over all labels;
* both are the second derivative of KL(p_θ ‖ p_θ') in θ' at θ' = θ;
* KL(p_θ ‖ p_θ+ε) → ½ εᵀFε as ε → 0; the study's equation 2.4 prints it without the half.
"""

import copy
import warnings

import torch
from torch import Generator, Tensor, nn

from lib.metrics.contract import require
from lib.metrics.curvature import Curvature

# torch's use of a deprecated part of itself, at the first derivative forward
warnings.filterwarnings("ignore", "`torch.jit.script` is deprecated", FutureWarning)


def relative_errors(
    network: nn.Module,
    x: Tensor,
    *,
    generator: Generator,
    directions: int = 4,
    step: float = 1e-6,
    **options,
) -> dict[str, float]:
    """The largest relative error of each relation over random ``directions``, in float64.

    ``second_derivative`` and ``divergence`` compare vᵀFv by outer products with the other two;
    ``expansion`` and ``expansion_reversed`` compare KL(p_θ ‖ p_θ+ε), or KL(p_θ+ε ‖ p_θ), with
    ½ εᵀFε for ε of ``step`` times the length of the live weights; ``expansion_without_half`` leaves
    the half out, and so comes to 0.5. A unit whose inputs are all pruned and whose bias is zero
    lies on its ReLU's kink: no expansion holds along that bias, and ``which="weights"`` keeps away
    from it. Arguments and errors: see ``lib.metrics.contract``.

    >>> network, x = nn.Linear(2, 3).eval(), torch.ones(4, 2)
    >>> found = relative_errors(network, x, generator=Generator().manual_seed(0))
    >>> found["divergence"] < 1e-9, round(found["expansion_without_half"], 2)
    (True, 0.5)
    """
    require(
        directions >= 1 and step > 0,
        f"directions and step are {directions} and {step}; they must be at least 1 and above 0",
    )
    network, x = copy.deepcopy(network).double(), x.double()
    live = Curvature(network, x, of="fisher", **options)
    start = {name: p.detach() for name, p in live.parameters.items()}
    length, found = live.flat(start).norm(), []
    for _ in range(directions):
        v = torch.randn(live.size, generator=generator, dtype=torch.float64).to(live.device)
        along = live.named(v * length / v.norm())
        found.append(_errors(network, x, start, along, step))
    return {name: max(errors[name] for errors in found) for name in found[0]}


@torch.no_grad()
def _errors(network, x, start, along, step):
    def log_p(t):
        moved = {name: value + t * along[name] for name, value in start.items()}
        return torch.log_softmax(torch.func.functional_call(network, moved, (x,)), -1)

    def derivative(function):
        return lambda t: torch.func.jvp(function, (t,), (torch.ones_like(t),))[1]

    def divergence(t):
        return (p * (here - log_p(t))).sum(-1).mean()

    zero = x.new_zeros(())
    here, there = log_p(zero), log_p(zero + step)
    p = here.exp()
    outer = (p * derivative(log_p)(zero).square()).sum(-1).mean()
    require(
        outer > 0,
        "the Fisher matrix vanishes along a random direction: the predictions are saturated on "
        "these examples",
    )
    forward, backward = (kl / (step**2 * outer / 2) for kl in (_kl(here, there), _kl(there, here)))
    ratios = {
        "second_derivative": -(p * derivative(derivative(log_p))(zero)).sum(-1).mean() / outer,
        "divergence": derivative(derivative(divergence))(zero) / outer,
        "expansion": forward,
        "expansion_reversed": backward,
        "expansion_without_half": forward / 2,
    }
    return {name: abs(ratio.item() - 1) for name, ratio in ratios.items()}


def _kl(a, b):
    """Mean KL divergence of log-probabilities; the first-order terms, which cancel, are out."""
    difference = b - a
    return (a.exp() * (torch.expm1(difference) - difference)).sum(-1).mean()
