"""Initialisation, dense or aware of a mask, parameter by parameter, from named generators."""

import math

import torch
from torch import nn

from lib import registry, rng

SCHEMES = ("he", "he-fan-out", "glorot-normal", "glorot-uniform")
FORMS = ("masked", "layer", "neuron")
FANS = ("in", "out", "average")
PERTURBATIONS = ("signs", "noise", "shuffled")


def dense(
    network: nn.Module, scheme: str, seed: int, name: str = "init", fan: str | None = None
) -> dict[str, torch.Tensor]:
    """Fresh values for every parameter of ``network``, as a dict name -> CPU float32 tensor.

    Kernels follow ``scheme``; biases are 0; BatchNorm's scale is 1 and shift 0. Each kernel draws from its own
    generator ``(seed, name, parameter name)``, so that a change to one layer leaves the others as they were.

    ``he``              N(0, 2 / fan_in)                     (He et al. 2015, Eq. 10)
    ``he-fan-out``      N(0, 2 / fan_out) for convolutions, N(0, 0.01^2) for linear layers: what the price study's
                        released code does; meant for convolutional networks only
    ``glorot-normal``   N(0, 2 / (fan_in + fan_out))         (Glorot & Bengio 2010, Eq. 12)
    ``glorot-uniform``  U(+-sqrt(6 / (fan_in + fan_out)))    (ibid., Eq. 16)

    ``fan`` puts another one in the scheme's place: ``"in"`` keeps the variance of activations (forward), ``"out"`` that of
    gradients (backward), ``"average"`` is half of their sum (gradient-flow study, Eq. 2). The variance is then 2 / fan for He
    and 1 / fan for Glorot. Raises ``ValueError`` for an unknown scheme or fan, or a fan for ``he-fan-out``, which has its own.
    """
    return _drawn(network, scheme, seed, name, fan, lambda parameter, meta: (_fans(meta), 1.0))


def sparse(
    network: nn.Module,
    mask: dict[str, torch.Tensor],
    scheme: str,
    seed: int,
    name: str = "init",
    *,
    form: str = "neuron",
    fan: str | None = None,
) -> tuple[dict[str, torch.Tensor], dict[str, list[int]]]:
    """(fresh values for every parameter, neurons without any live input) of ``network`` under ``mask``.

    ``mask`` maps parameter names to CPU bool tensors; a parameter that it does not name lives wholly. Pruned weights are 0.
    The draws are those of ``dense`` for the same seed and name, scaled weight by weight: under a mask of ones the values are
    the same to the bit. ``scheme`` and ``fan`` as in ``dense``; ``form`` says whose connections count:

    ``masked``  all: the dense values under the mask (the study's "original")
    ``layer``   the dense variance over the layer's live share (Liu et al. 2019; gradient-flow study, section 3.1)
    ``neuron``  the live ones of each weight's own neurons: fan_in of the neuron that it leads to, fan_out of the one that it
                comes from, over all places of a convolution's kernel (gradient-flow study, Eqs. 1, 2, 14 and 24)

    A neuron without a live input has nothing to draw: its output is its bias, 0. Those are returned as parameter name -> their
    indices, for the layers that have any. Raises ``ValueError`` for an unknown form, scheme or fan, for a mask that does not fit
    the network, and for the scheme ``he-fan-out`` by neuron: its linear layers have no fan.
    """
    counted = _counted(network, mask, scheme, form)
    values = _drawn(network, scheme, seed, name, fan, counted)
    values = {
        parameter: value * mask[parameter] if parameter in mask else value
        for parameter, value in values.items()
    }
    idle = {parameter: _idle(live) for parameter, live in mask.items() if live.dim() > 1}
    return values, {parameter: neurons for parameter, neurons in idle.items() if neurons}


def variances(
    network: nn.Module,
    mask: dict[str, torch.Tensor],
    scheme: str,
    *,
    form: str = "neuron",
    fan: str | None = None,
) -> dict[str, torch.Tensor]:
    """The variance that ``sparse`` draws each weight of each kernel with, float64, by parameter name; 0 where ``mask`` has no weight."""
    found = {}
    for parameter, (variance, share) in _spreads(
        network, scheme, fan, _counted(network, mask, scheme, form)
    ).items():
        shape = network.get_parameter(parameter).shape
        live = mask[parameter] if parameter in mask else torch.ones(shape, dtype=torch.bool)
        found[parameter] = (
            torch.as_tensor(variance / share, dtype=torch.float64).expand(shape) * live
        )
    return found


def _counted(network, mask, scheme, form):
    """What ``sparse`` counts: a function that gives a kernel's (fan_in, fan_out), and the share of them that counts."""
    if form not in FORMS:
        raise ValueError(f"form {form!r} is unknown; there are {', '.join(FORMS)}")
    if form == "neuron" and scheme == "he-fan-out":
        raise ValueError(
            "init 'he-fan-out' has no form by neuron: its linear layers have no fan; use 'he' with fan 'out'"
        )
    shapes = {parameter: meta.shape for parameter, meta in network.named_parameters()}
    for parameter, live in mask.items():
        if parameter not in shapes:
            raise ValueError(
                f"the mask names {parameter!r}, and the network has no such parameter; it has {', '.join(shapes)}"
            )
        if live.shape != shapes[parameter] or live.dtype != torch.bool:
            raise ValueError(
                f"the mask of {parameter!r} is {live.dtype} {tuple(live.shape)}; it must be bool {tuple(shapes[parameter])}"
            )

    def counted(parameter, meta):
        live = mask.get(parameter)
        if live is None or form == "masked":
            return _fans(meta), 1.0
        if form == "layer":
            return _fans(meta), max(int(live.sum()), 1) / live.numel()
        return _live_fans(live), 1.0

    return counted


def perturbed(
    values: dict[str, torch.Tensor], mask: dict[str, torch.Tensor], kind: str, seed: int
) -> dict[str, torch.Tensor]:
    """``values`` with the live weights of each kernel changed (after Zhou et al. 2019 and Frankle et al. 2020c); all else as it was.

    ``signs``     the sign alone is kept: each has the root mean square of the kernel's live weights as its size
    ``noise``     Gaussian noise with this root mean square as its standard deviation is added
    ``shuffled``  they change places among themselves

    Each kernel draws from its own generator ``(seed, "perturbed", kind, parameter name)``. Raises ``ValueError`` for an unknown kind.
    """
    if kind not in PERTURBATIONS:
        raise ValueError(f"perturbation {kind!r} is unknown; there are {', '.join(PERTURBATIONS)}")
    changed = {}
    for name, value in values.items():
        changed[name] = value.clone()
        if value.dim() < 2:
            continue
        own, stream = value[mask[name]], rng.generator(seed, "perturbed", kind, name)
        size = own.square().mean().sqrt()
        if kind == "signs":
            changed[name][mask[name]] = size * own.sign()
        elif kind == "noise":
            changed[name][mask[name]] = own + size * torch.randn(own.shape, generator=stream)
        else:
            changed[name][mask[name]] = own[torch.randperm(len(own), generator=stream)]
    return changed


def _drawn(network, scheme, seed, name, fan, counted):
    """The draws of every parameter; ``counted(parameter, meta)`` gives its (fan_in, fan_out) and the share of them that counts."""
    spreads, values = _spreads(network, scheme, fan, counted), {}
    for parameter, meta in network.named_parameters():
        if parameter not in spreads:
            values[parameter] = torch.full(meta.shape, float(_is_scale(network, parameter)))
            continue
        variance, share = spreads[parameter]
        stream = rng.generator(seed, name, parameter)
        if scheme == "glorot-uniform":
            bound = _root(3 * variance / share)
            values[parameter] = torch.rand(meta.shape, generator=stream) * _single(
                2 * bound
            ) - _single(bound)
        else:
            values[parameter] = torch.randn(meta.shape, generator=stream) * _single(
                _root(variance / share)
            )
    return values


def _spreads(network, scheme, fan, counted):
    """By kernel, (variance of the fans that count, their share): a weight is drawn with variance / share."""
    if scheme not in SCHEMES:
        raise ValueError(f"init {scheme!r} is unknown; there are {', '.join(SCHEMES)}")
    if fan is not None and fan not in FANS:
        raise ValueError(f"fan {fan!r} is unknown; there are {', '.join(FANS)}")
    if fan is not None and scheme == "he-fan-out":
        raise ValueError(
            f"init 'he-fan-out' has a fan of its own, not {fan!r}; use 'he' with fan 'out'"
        )
    fan = fan or {"he": "in", "he-fan-out": "out"}.get(scheme, "average")
    spreads = {}
    for parameter, meta in network.named_parameters():
        if meta.dim() < 2:
            continue
        (fan_in, fan_out), share = counted(parameter, meta)
        units = {"in": fan_in, "out": fan_out, "average": (fan_in + fan_out) / 2}[fan]
        variance = (2 if scheme.startswith("he") else 1) / units
        if scheme == "he-fan-out" and meta.dim() == 2:
            variance = 0.01**2
        spreads[parameter] = variance, share
    return spreads


def _fans(meta):
    receptive = math.prod(meta.shape[2:])
    return meta.shape[1] * receptive, meta.shape[0] * receptive


def _live_fans(live):
    """Live inputs of each output neuron [o, 1, ...] and live outputs of each input neuron [1, i, ...], float64.

    At least 1, so that nothing is divided by zero: where there is none, there is no live weight to scale either.
    """
    places = tuple(range(2, live.dim()))
    return live.sum((1, *places), keepdim=True).double().clamp_min(1), live.sum(
        (0, *places), keepdim=True
    ).double().clamp_min(1)


def _root(value):
    return value.sqrt() if isinstance(value, torch.Tensor) else math.sqrt(value)


def _single(value):
    """A number, or a float64 tensor, as it multiplies a float32 tensor: both are rounded once."""
    return value.float() if isinstance(value, torch.Tensor) else value


def _idle(live):
    """Indices of the neurons without a live input."""
    return (~live.flatten(1).any(1)).nonzero().flatten().tolist()


def _is_scale(network: nn.Module, parameter: str) -> bool:
    owner, _, kind = parameter.rpartition(".")
    return kind == "weight" and isinstance(
        network.get_submodule(owner), nn.modules.batchnorm._BatchNorm
    )


registry.initializer._entries.update(dict.fromkeys(SCHEMES))
