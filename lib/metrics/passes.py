"""Forward passes that lead to each example's gradient: by formulas, or for any network.

``examined`` says whether the formulas of ``lib.metrics.layers`` cover a network. Where they do not
(normalisation by group or layer, attention, raw parameters, layers used twice, weights that are
shared), ``GeneralPass`` takes each example's gradient itself.
"""

import warnings
import weakref
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from lib.metrics.contract import Named, beyond, leaves, require
from lib.metrics.estimate import MeasureError
from lib.metrics.layers import KINDS, Explicit

# attention has no batched form: it goes example by example, which costs time alone
warnings.filterwarnings("ignore", "There is a performance drop", UserWarning)
# network -> what was asked -> what ``examined`` found
_examined: weakref.WeakKeyDictionary = weakref.WeakKeyDictionary()


def hooked(
    network: nn.Module, x: Tensor, hooks: Mapping[nn.Module, Callable], own: Named | None = None
) -> Tensor:
    """The network's output for ``x``, with a forward hook on each of these modules meanwhile.

    With ``own`` parameters in place of its own.
    """
    handles = [module.register_forward_hook(hook) for module, hook in hooks.items()]
    try:
        return torch.func.functional_call(network, own, (x,)) if own else network(x)
    finally:
        for handle in handles:
            handle.remove()


class Pass:
    """One forward pass of ``x`` that keeps what the formulas need; ``deltas`` goes back."""

    def __init__(self, network: nn.Module, x: Tensor, own: Named | None = None):
        self.layers, self.outputs, versions = dict[str, Any](), list[Tensor](), []
        names = {module: name for name, module in network.named_modules() if type(module) in KINDS}

        def keep(module, inputs, output):
            name = names[module]
            require(
                name not in self.layers,
                f"layer {name!r} is used more than once in a pass",
            )
            output.requires_grad_()  # the first layer's of a frozen network does not yet
            self.layers[name] = KINDS[type(module)](module, inputs[0].detach())
            self.outputs.append(output)
            versions.append(output._version)

        with torch.enable_grad():
            self.logits = hooked(network, x, dict.fromkeys(names, keep), own)
        for name, output, version in zip(self.layers, self.outputs, versions, strict=True):
            require(
                output._version == version,
                f"the output of layer {name!r} is changed in place (an activation with "
                "inplace=True?)",
            )

    def deltas(self, cotangents: list[Tensor], more: bool = False) -> Iterator:
        """(name, layer, δ [k, n, ...]) of each layer for k ``cotangents`` [n, C] in the logits.

        ``more`` if others follow.
        """
        last = len(cotangents) - 1
        found = [
            torch.autograd.grad(self.logits, self.outputs, c, retain_graph=more or i < last)
            for i, c in enumerate(cotangents)
        ]
        for number, (name, layer) in enumerate(self.layers.items()):
            every = [deltas[number] for deltas in found]
            yield name, layer, torch.stack(every) if last else every[0].unsqueeze(0)


class GeneralPass:
    """A pass of ``x`` by ``torch.func``, for any module that its ``vmap`` can take.

    It stands in for ``Pass``, with every example's gradients [k, n, *shape] in the place of δ, so
    that each estimator gives the same quantity: at the cost, in time and memory, of all these
    gradients in all parameters.
    """

    def __init__(self, network: nn.Module, x: Tensor):
        self.network, self.x = network, x
        self.own = {name: p.detach() for name, p in network.named_parameters()}
        with torch.no_grad():
            self.logits = network(x)

    def deltas(self, cotangents: list[Tensor], more: bool = False) -> Iterator:
        """(name, layer, gradients) of each layer for k ``cotangents`` [n, C] in the logits."""

        def of_one(x, along):
            def logits(own):
                return torch.func.functional_call(self.network, own, (x.unsqueeze(0),)).squeeze(0)

            back = torch.func.vjp(logits, self.own)[1]
            return [back(cotangent)[0] for cotangent in along]

        try:
            found = torch.func.vmap(of_one)(self.x, torch.stack(cotangents, 1))
        except (RuntimeError, ValueError) as error:
            raise MeasureError(
                "no formula covers this network, and torch.func cannot take each example's "
                f"gradient: {error}"
            ) from error
        layers: dict[str, Named] = {}
        for name in self.own:
            layer, _, kind = name.rpartition(".")
            layers.setdefault(layer, {})[kind] = torch.stack([each[name] for each in found])
        for layer, kinds in layers.items():
            yield layer, Explicit(), kinds


def uses(logits: Tensor) -> Counter[Tensor]:
    """How many operations between its leaves and ``logits`` take each leaf.

    >>> weight = torch.ones(2, 2, requires_grad=True)
    >>> uses((weight @ weight).sum())[weight]
    2
    """
    found, seen = Counter[Tensor](), set[Any]()
    nodes: list[Any] = [logits.grad_fn]
    while nodes:
        for node, _ in nodes.pop().next_functions:
            if hasattr(node, "variable"):
                found[node.variable] += 1
            if node is not None and node not in seen:
                seen.add(node)
                nodes.append(node)
    return found


def examined(network: nn.Module, x: Tensor) -> tuple[str, int]:
    """(why no formula covers the network, or "", bytes that a pass takes for one example).

    Modules tell a part of it (``contract.beyond``); one example that passes tells the rest, once
    for a network and a shape: a layer used twice, a weight used outside of its layer. Raises
    ``MeasureError`` where examples depend on one another, so that none has a gradient of its own.
    """
    reason = beyond(network)
    asked = x.shape[1:], len(x) > 1, reason, *map(id, network.modules())
    kept = _examined.setdefault(network, {})
    if asked not in kept:
        with torch.no_grad():
            first, pair = x[:1], x[[0, -1]]
            same, mixed = network(first.expand_as(pair))[0], network(pair)[0]
        require(
            torch.allclose(same, mixed, rtol=1e-3, atol=1e-3, equal_nan=True),
            "the logits of an example depend on the others that pass with it (batch statistics, "
            "in eval mode too?): it has no gradient of its own",
        )
        kept[asked] = _tried(network, first, reason)
    return kept[asked]


def _tried(network, x, reason):
    every = leaves(network, "all", None)
    try:
        require(not reason, reason)
        taken = Pass(network, x, every)
        found = uses(taken.logits)
        for name, p in every.items():
            in_layer = name.rpartition(".")[0] in taken.layers
            require(found[p] == in_layer, f"parameter {name!r} is used elsewhere than in its layer")
        return "", sum(z.nbytes for z in taken.outputs)
    except MeasureError as error:
        return str(error), outputs_bytes(network, x) + sum(p.nbytes for p in every.values())


def outputs_bytes(network: nn.Module, x: Tensor) -> int:
    """The memory that the outputs of all innermost modules take for one example of ``x``."""
    sizes: list[int] = []
    modules = [m for m in network.modules() if not any(m.children())]
    with torch.no_grad():
        note = dict.fromkeys(modules, lambda _, x, z: sizes.append(getattr(z, "nbytes", 0)))
        hooked(network, x, note)
    return sum(sizes) // len(x)
