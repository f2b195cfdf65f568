"""Dense initialisation, parameter by parameter, from named generators."""

import math

import torch
from torch import nn

from lib import draws

SCHEMES = ("he", "he-fan-out", "glorot-normal", "glorot-uniform")


def dense(network: nn.Module, scheme: str, seed: int, name: str = "init") -> dict[str, torch.Tensor]:
    """Fresh values for every parameter of ``network``, as a dict name -> CPU float32 tensor.

    Kernels follow ``scheme``; biases are 0; BatchNorm's scale is 1 and shift 0. Each kernel draws from its own
    generator ``(seed, name, parameter name)``, so that a change to one layer leaves the others as they were.

    ``he``              N(0, 2 / fan_in)                     (He et al. 2015, Eq. 10)
    ``he-fan-out``      N(0, 2 / fan_out) for convolutions, N(0, 0.01^2) for linear layers: what the price study's
                        released code does; meant for convolutional networks only
    ``glorot-normal``   N(0, 2 / (fan_in + fan_out))         (Glorot & Bengio 2010, Eq. 12)
    ``glorot-uniform``  U(+-sqrt(6 / (fan_in + fan_out)))    (ibid., Eq. 16)

    Raises ``ValueError`` for an unknown scheme.
    """
    if scheme not in SCHEMES:
        raise ValueError(f"init {scheme!r} is unknown; there are {', '.join(SCHEMES)}")
    values = {}
    for parameter, meta in network.named_parameters():
        if meta.dim() < 2:
            values[parameter] = torch.full(meta.shape, float(_is_scale(network, parameter)))
            continue
        receptive = math.prod(meta.shape[2:])
        fan_in, fan_out = meta.shape[1] * receptive, meta.shape[0] * receptive
        rng = draws.generator(seed, name, parameter)
        if scheme == "glorot-uniform":
            bound = math.sqrt(6 / (fan_in + fan_out))
            values[parameter] = torch.rand(meta.shape, generator=rng) * (2 * bound) - bound
            continue
        std = {
            "he": math.sqrt(2 / fan_in),
            "he-fan-out": math.sqrt(2 / fan_out) if meta.dim() > 2 else 0.01,
            "glorot-normal": math.sqrt(2 / (fan_in + fan_out)),
        }[scheme]
        values[parameter] = torch.randn(meta.shape, generator=rng) * std
    return values


def _is_scale(network: nn.Module, parameter: str) -> bool:
    owner, _, kind = parameter.rpartition(".")
    return kind == "weight" and isinstance(network.get_submodule(owner), nn.modules.batchnorm._BatchNorm)
