"""Initialisation, dense or aware of a mask, parameter by parameter, from named generators.

An initialiser is a function under ``@initializer`` that draws a kernel of ``shape`` from a
generator. Under a mask, ``fan_in`` and ``fan_out`` may be float64 tensors that broadcast to it::

    @initializer
    def lecun(shape, fan_in, fan_out, generator):
        return torch.randn(shape, generator=generator) / fan_in**0.5
"""

import math

import torch
from torch import nn

from lib import rng
from lib.checks import refuse
from lib.models import networks
from lib.registry import initializer

Named = dict[str, torch.Tensor]

VARIANCES = {  # of a weight in a kernel [outputs, ...], by the project's own initialisers
    "he": lambda shape, into, out: 2 / into,
    "he-fan-out": lambda shape, into, out: 2 / out if shape[2:] else 0.01**2 * (shape[0] / out),
    "glorot-normal": lambda shape, into, out: 2 / (into + out),
    "glorot-uniform": lambda shape, into, out: 2 / (into + out),
}
FORMS = ("masked", "layer", "neuron")
FANS = {
    "in": lambda into, out: into,
    "out": lambda into, out: out,
    "average": lambda into, out: (into + out) / 2,
}


def _shuffled(w, stream):
    return w[torch.randperm(len(w), generator=stream)]


PERTURBATIONS = {  # of a kernel's live weights w, with their root mean square
    "signs": lambda w, size, stream: size * w.sign(),
    "noise": lambda w, size, stream: w + size * torch.randn(w.shape, generator=stream),
    "shuffled": lambda w, size, stream: _shuffled(w, stream),
    "shuffled-signs": lambda w, size, stream: w.abs() * _shuffled(w, stream).sign(),
}


def _draw(scheme, shape, fan_in, fan_out, generator):
    variance = torch.as_tensor(VARIANCES[scheme](shape, fan_in, fan_out), dtype=torch.float64)
    if scheme == "glorot-uniform":
        bound = (3 * variance).sqrt()
        return torch.rand(shape, generator=generator) * (2 * bound).float() - bound.float()
    return torch.randn(shape, generator=generator) * variance.sqrt().float()


for scheme in VARIANCES:
    initializer(lambda *of, scheme=scheme: _draw(scheme, *of), name=scheme)


def dense(
    network: nn.Module, scheme: str, seed: int, name: str = "init", fan: str | None = None
) -> Named:
    """Fresh values for every parameter of ``network``, as a dict name -> CPU float32 tensor.

    Kernels (``networks.kernels``) follow ``scheme``; their biases are 0; scales of normalisation
    are 1 and shifts 0. Whatever else a network of one's own holds has the values that its own
    constructor gives it under the seed (seed, name). Each kernel draws from its own generator
    (seed, name, parameter name), so that a change to one layer leaves the others as they were.

    ``he``              N(0, 2 / fan_in)                     (He et al. 2015, Eq. 10)
    ``he-fan-out``      N(0, 2 / fan_out) for convolutions, N(0, 0.01^2) for linear layers: what the
                        price study's released code does; for convolutional networks only
    ``glorot-normal``   N(0, 2 / (fan_in + fan_out))         (Glorot & Bengio 2010, Eq. 12)
    ``glorot-uniform``  U(+-sqrt(6 / (fan_in + fan_out)))    (ibid., Eq. 16)

    ``fan`` puts another one in the scheme's place: ``"in"`` keeps the variance of activations,
    ``"out"`` that of gradients, ``"average"`` is half of their sum (gradient-flow study, Eq. 2);
    the variance is then 2 / fan for He and 1 / fan for Glorot. Raises ``ValueError`` for an unknown
    scheme or fan, and a fan for ``he-fan-out``, which has its own.

    >>> network = networks.build("mlp", (50,), 2, widths=(40,))
    >>> bool(abs(dense(network, "he", seed=0)["1.weight"].std() - (2 / 50) ** 0.5) < 0.01)
    True
    """
    return sparse(network, {}, scheme, seed, name, form="masked", fan=fan)[0]


def sparse(
    network: nn.Module, mask: Named, scheme: str, seed: int, name: str = "init", *,
    form: str = "neuron", fan: str | None = None,
) -> tuple[Named, dict[str, list[int]]]:  # fmt: skip
    """(fresh values for every parameter, neurons without any live input) of ``network``.

    ``mask`` maps parameter names to CPU bool tensors; a parameter that it does not name lives
    wholly. Pruned weights are 0. The draws are those of ``dense``, scaled weight by weight: under a
    mask of ones they are the same to the bit. ``form`` says whose connections count:

    ``masked``  all: the dense values under the mask (the study's "original")
    ``layer``   the layer's live share of the fans (Liu et al. 2019; gradient-flow study, 3.1)
    ``neuron``  the live ones of each weight's own neurons: fan_in of the neuron that it leads to,
                fan_out of the one that it comes from, over all places of a convolution's kernel
                (gradient-flow study, Eqs. 1, 2, 14 and 24); ``he-fan-out`` has no such form

    A neuron without a live input has nothing to draw: its output is its bias, 0. Those are returned
    as parameter name -> their indices, for the layers that have any. Raises ``ValueError`` for what
    is unknown, and a mask that does not fit the network.
    """
    draw, fans = initializer[scheme], _fans(network, mask, scheme, form, fan)
    constructed, values = networks.constructed(network, rng.derived_seed(seed, name)), {}
    for parameter, meta in network.named_parameters():
        owner, _, kind = parameter.rpartition(".")
        if parameter in fans:
            counted, share = fans[parameter]
            stream = rng.generator(seed, name, parameter)
            value = draw(meta.shape, *(units * share for units in counted), stream).float()
            refuse(
                value.shape != meta.shape or not value.isfinite().all(),
                f"init {scheme!r} gives {parameter!r} of shape {list(meta.shape)} values that are "
                f"not finite or of shape {list(value.shape)}",
            )
        elif constructed and not isinstance(network.get_submodule(owner), networks.KERNELS):
            value = constructed[parameter]
        else:
            refuse(
                meta.dim() > 1 or kind not in ("weight", "bias"),
                f"{parameter!r} is no kernel, bias or scale: only its network's constructor knows "
                "its values; register it, and build it by networks.build",
            )
            value = torch.full(meta.shape, float(kind == "weight"))
        values[parameter] = value * mask[parameter] if parameter in mask else value
    idle = {
        parameter: (~live.flatten(1).any(1)).nonzero().flatten().tolist()
        for parameter, live in mask.items()
        if live.dim() > 1
    }
    return values, {parameter: neurons for parameter, neurons in idle.items() if neurons}


def variances(
    network: nn.Module, mask: Named, scheme: str, *, form: str = "neuron", fan: str | None = None
) -> Named:
    """The variance of each weight of each kernel as ``sparse`` draws it, float64, by name.

    0 where ``mask`` has no weight. Raises ``ValueError`` for what ``sparse`` refuses, and for a
    scheme of one's own, whose variance nobody has told.
    """
    refuse(
        scheme not in VARIANCES,
        f"init {scheme!r} has no known variance: {', '.join(VARIANCES)} have",
    )
    found = {}
    for parameter, (counted, share) in _fans(network, mask, scheme, form, fan).items():
        shape = network.get_parameter(parameter).shape
        variance = VARIANCES[scheme](shape, *counted) / share
        live = mask.get(parameter, torch.ones(shape, dtype=torch.bool))
        found[parameter] = torch.as_tensor(variance, dtype=torch.float64) * live
    return found


def perturbed(values: Named, mask: Named, kind: str, seed: int) -> Named:
    """``values`` with the live weights of each kernel changed, and all else as it was.

    ``signs``     the sign alone is kept: each has the root mean square of the kernel's live weights
    ``noise``     Gaussian noise with this root mean square as its standard deviation is added
    ``shuffled``  they change places among themselves
    ``shuffled-signs``  their signs do, and their magnitudes stay

    After Zhou et al. 2019 and Frankle et al. 2020c. Each parameter of two or more dimensions draws
    from its own generator (seed, "perturbed", kind, parameter name).
    """
    changed = {name: value.clone() for name, value in values.items()}
    for name, value in changed.items():
        if value.dim() > 1:
            live, stream = value[mask[name]], rng.generator(seed, "perturbed", kind, name)
            value[mask[name]] = PERTURBATIONS[kind](live, live.square().mean().sqrt(), stream)
    return changed


def _fans(network, mask, scheme, form, fan):
    """By kernel, (fan_in, fan_out), and the share of them that counts."""
    shapes = {parameter: meta.shape for parameter, meta in network.named_parameters()}
    misfits = [
        f"{parameter!r} is {live.dtype} {tuple(live.shape)}"
        for parameter, live in mask.items()
        if live.shape != shapes.get(parameter) or live.dtype != torch.bool
    ]
    refuse(form not in FORMS, f"form {form!r} is unknown; there are {', '.join(FORMS)}")
    refuse(fan not in (None, *FANS), f"fan {fan!r} is unknown; there are {', '.join(FANS)}")
    refuse(
        scheme == "he-fan-out" and (form == "neuron" or fan),
        f"init 'he-fan-out' has no form by neuron and a fan of its own, and form is {form!r}, fan "
        f"{fan!r}; use 'he' with fan 'out'",
    )
    refuse(
        misfits,
        f"the mask of {', '.join(misfits)}; masks must be bool, and of "
        f"{', '.join(f'{name} {tuple(shape)}' for name, shape in shapes.items())}",
    )
    fans = {}
    for kernel in networks.kernels(network):
        shape, live, share = shapes[kernel], mask.get(kernel), 1.0
        counted = tuple(math.prod(shape[2:]) * side for side in (shape[1], shape[0]))
        if live is not None and form == "layer":
            share = max(int(live.sum()), 1) / live.numel()
        elif live is not None and form == "neuron":
            # at least 1, so that nothing is divided by zero where no live weight is to be scaled
            counted = tuple(
                live.sum((others, *range(2, live.dim())), keepdim=True).double().clamp_min(1)
                for others in (1, 0)
            )
        fans[kernel] = (FANS[fan](*counted),) * 2 if fan else counted, share
    return fans
