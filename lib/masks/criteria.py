"""Scores for pruning: one function per criterion, and the weights with the lowest scores go.

A criterion takes the prunable weights (name -> tensor), a generator and the ``Task`` they serve,
and returns scores of the same names and shapes. To add one, write the function and decorate it;
every figure can then name it.

What each criterion would prune first of four weights, by index:

>>> network, weights = nn.Linear(2, 2).eval(), {"weight": torch.tensor([[3.0, 0.1], [1.0, 2.0]])}
>>> _ = network.load_state_dict({**weights, "bias": torch.zeros(2)})
>>> task = Task(lambda: network, torch.tensor([[1.0, 2.0]]), torch.tensor([0]), sparsity=0.5)
>>> score = {name: scores(name, weights, torch.Generator(), task) for name in criterion}
>>> {name: int(found["weight"].argmin()) for name, found in score.items()}
{'magnitude': 1, 'random': 0, 'fisher': 0, 'fisher_loss': 1, 'snip': 1, 'grasp': 0, 'synflow': 1}
"""

import copy
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import nn

from lib.checks import refuse
from lib.masks import masks
from lib.masks.masks import Named
from lib.metrics import fisher as fishers
from lib.metrics import gradients, hessian
from lib.models import networks
from lib.registry import criterion

ROUNDS = 100  # of SynFlow


@dataclass(frozen=True)
class Task:
    """What a criterion may look at beside the weights: the network, and examples with their labels.

    ``build`` makes the network when one asks for it: a module in eval mode on the device of ``x``.
    What prunes in rounds needs the ``sparsity`` and the ``scope`` that its scores are for.
    """

    build: Callable[[], nn.Module]
    x: torch.Tensor
    y: torch.Tensor
    sparsity: float | None = None
    scope: str = "global"

    @cached_property
    def network(self) -> nn.Module:
        """The network with its weights and BatchNorm statistics, in eval mode."""
        return self.build()


def scores(
    name: str, weights: Named, generator: torch.Generator, task: Task | None = None
) -> Named:
    """The scores of the criterion ``name``, which is handed copies of the ``weights``.

    Raises ``ValueError`` that names the criterion where it returns other names or shapes, or NaN.

    >>> scores("magnitude", {"a": torch.tensor([-2.0, 1.0])}, torch.Generator())["a"].tolist()
    [2.0, 1.0]
    """
    copies = {kernel: weight.clone() for kernel, weight in weights.items()}
    return masks.checked(f"criterion {name!r}", criterion[name](copies, generator, task), weights)


@criterion
def magnitude(weights: Named, generator: torch.Generator, task: Task) -> Named:
    """|w| (Zhu & Gupta 2017; the price study's section 2)."""
    return {name: weight.abs() for name, weight in weights.items()}


@criterion
def random(weights: Named, generator: torch.Generator, task: Task) -> Named:
    """Uniform scores: every mask of the wanted size is equally likely."""
    return {name: torch.rand(weight.shape, generator=generator) for name, weight in weights.items()}


@criterion
def fisher(weights: Named, generator: torch.Generator, task: Task) -> Named:
    """F_ii, each weight's own Fisher information, from one sampled label an example.

    The early-pruning study (section 4.2) names the criterion without a formula: this is the
    diagonal of its equation 2, estimated like its equation 4.
    """
    found = fishers.diagonal(task.network, task.x, generator=generator)
    return {name: found[name].cpu() for name in weights}


@criterion
def fisher_loss(weights: Named, generator: torch.Generator, task: Task) -> Named:
    """½ w² F_ii: what removing w changes to second order (LeCun et al. 1990; Theis et al. 2018)."""
    found = fisher(weights, generator, task)
    return {name: weights[name].square() * score / 2 for name, score in found.items()}


@criterion
def snip(weights: Named, generator: torch.Generator, task: Task) -> Named:
    """|w ∂L/∂w| of the mean cross-entropy L, for a network at its start (Lee et al. 2019, SNIP).

    Its division by the sum is left out, which changes no ranking. The paper takes one minibatch:
    the setting ``score_examples`` says how many examples.
    """
    slopes = gradients.loss_gradient(task.network, task.x, task.y, which="weights")
    return {n: (weight.double() * slopes[n].cpu().double()).abs() for n, weight in weights.items()}


@criterion
def grasp(weights: Named, generator: torch.Generator, task: Task) -> Named:
    """w · (H g), g and H gradient and Hessian of L in all kernels (Wang et al. 2020, sign turned).

    Removing a weight alone changes the gradient flow gᵀg by about -2 w (H g): the lowest scores go,
    those whose removal raises it most. The paper's code also divides the logits by 200, which its
    text does not say and we do not.
    """
    slopes = gradients.loss_gradient(task.network, task.x, task.y, which="weights")
    products = hessian.hvp(task.network, task.x, task.y, slopes, which="weights")
    return {n: weight.double() * products[n].cpu().double() for n, weight in weights.items()}


@criterion
def synflow(weights: Named, generator: torch.Generator, task: Task) -> Named:
    """|w| ∂R/∂|w| with R the sum over all paths of the products of their |w|, in 100 rounds.

    Tanaka et al. 2020, Algorithm 1. After round k a share (1 - sparsity)^(k / 100) lives, under the
    task's scope, and R is taken anew; in float64, as products of many layers leave float32. No
    data: the input is all ones. Biases and BatchNorm's shifts count as 0, its scales by their
    |γ| / σ, activations as the identity; max-pooling stays and follows the largest.

    The scores are those of the last round, and below them by round what earlier ones pruned, so
    that ``masks.prune`` gives the last round's mask. Raises ``ValueError`` without a sparsity, for
    a network that is more than paths, or where a round leaves no path (layer collapse); a layer
    that a shortcut passes by may end empty.
    """
    if task.sparsity is None:
        raise ValueError("synflow prunes in rounds, so its task must name the sparsity and scope")
    network = _linear(task.network)
    kernels = {name: network.get_parameter(name) for name in weights}
    ones = torch.ones(1, *task.x.shape[1:], dtype=torch.float64, device=task.x.device)
    refuse(
        not torch.allclose(network(2 * ones), 2 * network(ones)),
        "synflow adds up paths: this network has layers that are not linear",
    )
    found = {name: torch.zeros_like(kernel) for name, kernel in kernels.items()}
    mask = {name: torch.ones_like(kernel, dtype=torch.bool) for name, kernel in kernels.items()}
    for turn in range(1, ROUNDS + 1):
        slopes = torch.autograd.grad(network(ones).sum(), list(kernels.values()))
        for (name, kernel), slope in zip(kernels.items(), slopes, strict=True):
            gone = found[name].clamp(max=turn - ROUNDS - 2)  # earlier rounds' lie lower already
            found[name] = torch.where(mask[name], kernel.detach() * slope, gone)
        sparsity = task.sparsity if turn == ROUNDS else 1 - (1 - task.sparsity) ** (turn / ROUNDS)
        mask = masks.prune(found, sparsity, task.scope)
        with torch.no_grad():
            for name, kernel in kernels.items():
                kernel.mul_(mask[name])
            refuse(
                not network(ones).sum() > 0,
                f"synflow at sparsity {task.sparsity}: round {turn} of {ROUNDS} leaves no path "
                "from the input to the output (layer collapse: no weight in "
                f"{', '.join(masks.empty_layers(mask)) or 'the way'}); choose a lower one",
            )
    return {name: score.cpu() for name, score in found.items()}


def _linear(network):
    """A copy in float64 that adds up the products of |w| along all paths."""
    network = copy.deepcopy(network).double().eval()
    for module in list(network.modules()):
        for name, child in module.named_children():
            if isinstance(child, tuple(networks.ACTIVATIONS.values())):
                setattr(module, name, nn.Identity())
    with torch.no_grad():
        for name, value in network.named_parameters():
            value.abs_() if f".{name}".endswith(".weight") else value.zero_()
        for name, statistic in network.named_buffers():
            statistic.mul_(not name.endswith("running_mean"))
    return network
