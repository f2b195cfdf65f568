"""Random masks, and how a signal runs through a network as it was drawn, by neuron: Figure 1.

Mean squares of activations and of gradients: measured over examples, of the network as it is;
expected over draws of its weights, in closed form. With weights and inputs of mean zero a mean
square is a variance (Glorot & Bengio 2010; He et al. 2015; gradient-flow study, appendix A).
"""

import torch
from torch import nn

from lib.checks import refuse
from lib.masks.masks import Named, Shapes, prune
from lib.metrics.contract import check, require
from lib.metrics.gradients import Pass

KINDS = ("uniform", "bounded", "uneven", "even")


def random_mask(shapes: Shapes, sparsity: float, kind: str, generator: torch.Generator) -> Named:
    """A random mask of layers [outputs, inputs, *kernel], with round(s * n) zeros in each of them.

    ``uniform``  every weight is as likely to live
    ``bounded``  those with the lowest draws from U(0, k) go, k = 1, 2, ... along the outputs: the
                 first have few inputs or none, the last have many (what the gradient-flow study's
                 released code does for its Figure 1c)
    ``uneven``   each neuron has a share of its own, from about 1/2 to 2 times the mean, for its
                 inputs and another for its outputs
    ``even``     every output has as many live inputs: round(s * inputs) of them are zero, which
                 may differ from round(s * n)

    Raises ``ValueError`` for an unknown kind, a sparsity outside [0, 1), or one that leaves a layer
    without any weight.

    >>> random_mask({"a": (3, 8)}, 0.5, "even", torch.Generator())["a"].sum(1).tolist()
    [4, 4, 4]
    """
    refuse(kind not in KINDS, f"kind of mask {kind!r} is unknown; there are {', '.join(KINDS)}")

    def draw(*shape):
        return torch.rand(shape, generator=generator, dtype=torch.float64)

    scores = {name: draw(*shape) for name, shape in shapes.items()}
    if kind == "even":
        rows = {
            name: prune({str(o): row for o, row in enumerate(score)}, sparsity, "layer")
            for name, score in scores.items()
        }
        return {name: torch.stack(list(each.values())) for name, each in rows.items()}
    for score in scores.values():
        outputs, inputs, *sides = score.shape
        if kind == "bounded":
            score.mul_(torch.arange(1, outputs + 1).view(-1, *[1] * (score.dim() - 1)))
        elif kind == "uneven":
            # the largest u^(1/w) are a draw without replacement in proportion to w
            # (Efraimidis & Spirakis 2006)
            own = [4 ** (draw(count) - 0.5) for count in (outputs, inputs)]
            score.log_().div_(torch.outer(*own).view(outputs, inputs, *[1] * len(sides)))
    return prune(scores, sparsity, "layer")


def forward(network: nn.Module, x: torch.Tensor) -> Named:
    """The mean square of every neuron's z, before its activation: kernel name -> float64 [outputs].

    In order of depth; the mean is over the examples ``x``, and the places of a convolution.

    >>> network = nn.Sequential(nn.Linear(1, 1, bias=False)).eval()
    >>> _ = nn.init.ones_(network[0].weight)
    >>> forward(network, torch.tensor([[1.0], [3.0]]))
    {'0.weight': tensor([5.], dtype=torch.float64)}
    """
    check(network, x)
    taken = Pass(network, x)
    names = (f"{name}.weight" for name in taken.layers)
    return dict(zip(names, map(_squares, taken.outputs), strict=True))


def backward(network: nn.Module, x: torch.Tensor, cotangent: torch.Tensor) -> Named:
    """The mean square of dL/dz of every neuron, as ``forward`` gives that of z.

    For a loss whose gradient in the outputs is ``cotangent`` [n, outputs]: each example's own
    gradient, not its share of a mean over examples.

    >>> network = nn.Sequential(nn.Linear(1, 1)).eval()
    >>> backward(network, torch.ones(2, 1), torch.tensor([[1.0], [3.0]]))
    {'0.weight': tensor([5.], dtype=torch.float64)}
    """
    check(network, x)
    taken = Pass(network, x)
    require(
        cotangent.shape == taken.logits.shape,
        f"the cotangent has shape {tuple(cotangent.shape)}; the outputs have "
        f"{tuple(taken.logits.shape)}",
    )
    return {f"{name}.weight": _squares(delta[0]) for name, _, delta in taken.deltas([cotangent])}


def _squares(values):
    return values.detach().double().square().mean((0, *range(2, values.dim())))


def expected_forward(variances: Named, inputs: float = 1.0) -> Named:
    """E z² of every neuron of a ReLU network of linear layers, over draws of its weights.

    v_i = Σ_j Var(w_ij) E a_j², E a_j² = v_j / 2. ``variances`` has each kernel's [outputs, inputs],
    0 where the mask has no weight (``lib.models.initializers.variances``), in order of depth;
    ``inputs`` is the mean square of each input. Exact for independent weights with symmetric
    distributions, without biases (gradient-flow study, Eqs. 8 and 14, without the assumption that
    all neurons of a layer are alike).

    >>> expected_forward({"0": torch.full((1, 4), 0.5), "1": torch.full((1, 1), 2.0)})
    {'0': tensor([2.]), '1': tensor([2.])}
    """
    signal, found = None, {}
    for name, variance in variances.items():
        require(
            variance.dim() == 2,
            f"{name!r} has shape {tuple(variance.shape)}; the closed form is of linear layers",
        )
        signal = variance.new_full((variance.shape[1],), inputs) if signal is None else signal / 2
        signal = found[name] = variance @ signal
    return found


def expected_backward(variances: Named, outputs: float = 1.0) -> Named:
    """E (dL/dz)² of every neuron of the network of ``expected_forward``.

    From a mean square of ``outputs`` at each output. A neuron's derivative is on for one half of
    the draws, and never where no signal reaches it. That weights and derivatives above it are
    independent is an assumption here (gradient-flow study, Eq. 20): it becomes true with width.

    >>> variances = {"0": torch.ones(1, 4).double(), "1": torch.full((3, 1), 2.0).double()}
    >>> expected_backward(variances)["0"]
    tensor([3.], dtype=torch.float64)
    """
    reached = {name: (v > 0).double() / 2 for name, v in expected_forward(variances).items()}
    *_, last = variances.values()
    signal, found = last.new_full((last.shape[0],), outputs), {}
    for name, variance in reversed(variances.items()):
        signal = found[name] = signal if variance is last else reached[name] * signal
        signal = variance.t() @ signal
    return dict(reversed(found.items()))
