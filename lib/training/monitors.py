"""What is watched while a dense network trains, to tell when it may be pruned.

A monitor takes the network in eval mode, examples and a generator, after every epoch of the dense
run, and returns its columns. To add one, write the function and decorate it; every figure can then
watch it (setting ``watch``). Tr(F) and KL(uniform || p) are the early-pruning study's proposals.
"""

import torch
from torch import nn

from lib.metrics import fisher as fishers
from lib.metrics import predictions
from lib.registry import monitor

CHUNK = 500  # examples at a time in a forward pass


@monitor
def fisher(network: nn.Module, x: torch.Tensor, generator: torch.Generator) -> dict[str, float]:
    """Tr(F) by one sampled label an example (early-pruning study, equation 4), and its error."""
    estimate = fishers.trace(network, x, generator=generator)
    return {"fisher": estimate.value, "fisher_error": estimate.error}


@monitor
def kl_uniform(network: nn.Module, x: torch.Tensor, generator: torch.Generator) -> dict[str, float]:
    """Mean KL(uniform || p) in nats (early-pruning study, equation 5): forward passes alone."""
    with torch.no_grad():
        values = torch.cat([predictions.kl_uniform(network(part)) for part in x.split(CHUNK)])
    return {"kl_uniform": values.double().mean().item()}
