"""How a signal runs through a network as it was drawn: mean squares of activations and of gradients by neuron, and what to expect.

Measured over examples, of the network as it is; expected over draws of its weights, in closed form. With weights and inputs of mean
zero a mean square is a variance (Glorot & Bengio 2010; He et al. 2015; gradient-flow study, appendix A).
"""

import torch
from torch import nn

from lib.metrics.gradients import Pass, check
from lib.metrics.layers import MeasureError, Named


def forward(network: nn.Module, x: torch.Tensor) -> Named:
    """The mean square of every neuron's z, before its activation: kernel name -> float64 [outputs], in order of depth.

    The mean is over the examples ``x``, and over the places of a convolution.
    """
    check(network, x)
    taken = Pass(network, x)
    return {
        f"{name}.weight": _squares(z.detach())
        for name, z in zip(taken.layers, taken.outputs, strict=True)
    }


def backward(network: nn.Module, x: torch.Tensor, cotangent: torch.Tensor) -> Named:
    """The mean square of dL/dz of every neuron, as ``forward`` gives that of z, for a loss whose gradient in the outputs is ``cotangent``.

    ``cotangent`` [n, outputs] holds each example's own gradient, not its share of a mean over examples.
    """
    check(network, x)
    taken = Pass(network, x)
    if cotangent.shape != taken.logits.shape:
        raise MeasureError(
            f"the cotangent has shape {tuple(cotangent.shape)}; the outputs have {tuple(taken.logits.shape)}"
        )
    return {f"{name}.weight": _squares(delta[0]) for name, _, delta in taken.deltas([cotangent])}


def _squares(values):
    return values.double().square().mean((0, *range(2, values.dim())))


def expected_forward(variances: Named, inputs: float = 1.0) -> Named:
    """E z² of every neuron of a ReLU network of linear layers, over draws of its weights: v_i = Σ_j Var(w_ij) E a_j², E a_j² = v_j / 2.

    ``variances`` has each kernel's [outputs, inputs], 0 where the mask has no weight (``lib.models.initializers.variances``), in order of depth;
    ``inputs`` is the mean square of each input. Exact for independent weights with symmetric distributions, without biases
    (gradient-flow study, Eqs. 8 and 14, without the assumption that all neurons of a layer are alike).
    """
    signal, found = None, {}
    for name, variance in _linear(variances):
        signal = variance.new_full((variance.shape[1],), inputs) if signal is None else signal / 2
        signal = found[name] = variance @ signal
    return found


def expected_backward(variances: Named, outputs: float = 1.0) -> Named:
    """E (dL/dz)² of every neuron of the network of ``expected_forward``, from a mean square of ``outputs`` at each output.

    A neuron's derivative is on for one half of the draws, and never where no signal reaches it. That weights and derivatives above
    it are independent is an assumption here (gradient-flow study, Eq. 20): it becomes true with width.
    """
    reached = {
        name: (signal > 0).double() / 2 for name, signal in expected_forward(variances).items()
    }
    found, signal, above = {}, None, None
    for name, variance in reversed(list(_linear(variances))):
        signal = (
            variance.new_full((variance.shape[0],), outputs)
            if signal is None
            else reached[name] * (above.t() @ signal)
        )
        found[name], above = signal, variance
    return dict(reversed(found.items()))


def _linear(variances):
    for name, variance in variances.items():
        if variance.dim() != 2:
            raise MeasureError(
                f"{name!r} has shape {tuple(variance.shape)}; the closed form is that of linear layers"
            )
        yield name, variance
