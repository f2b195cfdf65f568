"""Networks as points: lines between them, and distances.

A line goes straight from the parameters of network a (alpha 0) to those of network b (alpha 1).
BatchNorm's running statistics lie on no line: they are re-estimated at each point from given
training examples, or, for comparison, interpolated as the parameters are (price study, Figure 8a;
re-estimation: its code, and Izmailov et al. 2018). ``MeasureError`` names what cannot be measured.
"""

import copy
from collections.abc import Iterable, Iterator, Sequence
from itertools import combinations

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim.swa_utils import update_bn

from lib.metrics.contract import NORMS, Named, check_labels, check_named, parameters
from lib.metrics.estimate import MeasureError, require

STATISTICS = ("reestimated", "interpolated")
PIXELS = 1 << 20  # numbers of the input in a chunk that is chosen: some hundred MiB at most here


def points(
    network_a: nn.Module,
    network_b: nn.Module,
    alphas: Sequence[float],
    *,
    bn: str = "reestimated",
    examples: Tensor | None = None,
    batch: int = 128,
) -> Iterator[tuple[float, nn.Module]]:
    """(alpha, network) for each of ``alphas``, in eval mode: (1 - alpha) a + alpha b.

    The ends are exact. One and the same module is given each time: use it before asking for the
    next. ``bn``: "reestimated" runs ``reestimate`` on ``examples`` (training inputs [n, ...]) at
    every point, the ends included; "interpolated" mixes the running statistics as if they were
    weights. Without BatchNorm, ``bn`` changes nothing. The two networks stay as they are. Raises
    ``MeasureError`` for networks of two architectures, weights that are not finite, an alpha that
    is not, or missing ``examples``.

    >>> a, b = nn.Linear(1, 1), nn.Linear(1, 1)
    >>> _ = nn.init.zeros_(a.weight), nn.init.ones_(b.weight)
    >>> [round(network.weight.item(), 2) for alpha, network in points(a, b, [0.0, 0.25, 1.0])]
    [0.0, 0.25, 1.0]
    """
    require(bn in STATISTICS, f"bn is {bn!r}; it can be {' or '.join(STATISTICS)}")
    require(np.isfinite(alphas).all(), f"alphas is {list(alphas)}: each must be a finite number")
    network = copy.deepcopy(network_a).eval().requires_grad_(False)
    a, b, state = _states({"network_a": network_a, "network_b": network_b, "network": network})
    for alpha in alphas:
        for name, value in state.items():
            value.copy_(torch.lerp(a[name], b[name], float(alpha)))
        if bn == "reestimated":
            reestimate(network, examples, batch)
        yield alpha, network


def reestimate(network: nn.Module, x: Tensor | None, batch: int = 128) -> None:
    """Set BatchNorm's running statistics to those of ``x`` under the present weights, in place.

    They become the plain mean of the batches' statistics over one pass (a cumulative average: it
    remembers nothing of the statistics before). The batches are ``x`` in its order, cut into parts
    of nearly equal size and at most ``batch`` examples. The network is in train mode meanwhile.
    Raises ``MeasureError`` for fewer than two examples.

    >>> network = nn.Sequential(nn.BatchNorm1d(1)).eval()
    >>> reestimate(network, torch.tensor([[1.0], [3.0]]))
    >>> network[0].running_mean, network[0].running_var
    (tensor([2.]), tensor([2.]))
    """
    norms = [module for module in network.modules() if isinstance(module, NORMS)]
    if not norms:
        return
    if x is None:
        raise MeasureError("examples is None: BatchNorm's statistics are those of examples")
    require(
        len(x) >= 2 and batch >= 2,
        f"{len(x)} examples in batches of {batch}: statistics need at least two examples at a time",
    )
    for norm in norms:  # a cohort's count no batches
        norm.num_batches_tracked = torch.zeros((), dtype=torch.long, device=x.device)
    # no batch has a single example
    update_bn(x.tensor_split(min(-(-len(x) // batch), len(x) // 2)), network)


def evaluate(
    network: nn.Module, x: Tensor, labels: Tensor, *, chunk: int | None = None
) -> tuple[float, float]:
    """Mean cross-entropy in nats and accuracy of ``network`` on ``x`` [n, ...], int64 ``labels``.

    >>> network = nn.Linear(1, 2)
    >>> _ = nn.init.zeros_(network.weight), nn.init.zeros_(network.bias)
    >>> evaluate(network, torch.ones(4, 1), torch.tensor([0, 0, 0, 1]))
    (0.6931471805599453, 0.75)
    """
    check_labels(labels, len(x))
    chunk = chunk or max(16, min(4096, PIXELS // max(1, x[0].numel())))
    loss = hits = 0.0
    with torch.no_grad():
        for inputs, targets in zip(x.split(chunk), labels.split(chunk), strict=True):
            logits = network(inputs)
            check_labels(targets, *logits.shape)
            loss += nn.functional.cross_entropy(logits.double(), targets, reduction="sum").item()
            hits += (logits.argmax(-1) == targets).sum().item()
    return loss / len(x), hits / len(x)


def distance(
    network_a: nn.Module, network_b: nn.Module, mask: Named | None = None, which: str = "all"
) -> float:
    """The L2 distance of two networks in the live parameters that count; see ``distances``.

    >>> distance(nn.Linear(1, 1), nn.Linear(1, 1), {"weight": torch.tensor([[False]])}, "weights")
    0.0
    """
    return distances([network_a, network_b], mask, which)[0, 1].item()


def distances(
    networks: Iterable[nn.Module], mask: Named | None = None, which: str = "all"
) -> Tensor:
    """All L2 distances between networks of one architecture: float64 [m, m] on the CPU.

    ``mask`` and ``which`` as in ``lib.metrics.contract``. BatchNorm's statistics do not count.

    >>> a, b = nn.Linear(1, 1, bias=False), nn.Linear(1, 1, bias=False)
    >>> _ = nn.init.zeros_(a.weight), nn.init.ones_(b.weight)
    >>> distances([a, b])
    tensor([[0., 1.],
            [1., 0.]], dtype=torch.float64)
    """
    networks = list(networks)
    require(networks, "no networks: there are no distances between none")
    states = _states({f"network {i}": network for i, network in enumerate(networks)})
    check_named(networks[0], mask or {}, "mask", torch.bool)
    squares = torch.zeros(len(networks), len(networks), dtype=torch.float64)
    for name in parameters(networks[0], which):
        live = (mask or {}).get(name, ...)
        rows = [state[name][live].double().flatten() for state in states]
        for i, j in combinations(range(len(rows)), 2):
            squares[i, j] += (rows[j] - rows[i]).square().sum().cpu()
    return (squares + squares.T).sqrt()


def _states(networks):
    """Parameters and running statistics by name; refuses values that are not finite."""
    states, shapes = [], []
    for called, network in networks.items():
        every = (*network.named_parameters(), *network.named_buffers())
        states.append({name: v.detach() for name, v in every if v.is_floating_point()})
        shapes.append({f"{name} {tuple(value.shape)}" for name, value in states[-1].items()})
        odd = sorted(shapes[0] ^ shapes[-1])
        require(not odd, f"two architectures: only one of the networks has {', '.join(odd[:4])}")
        for name, value in states[-1].items():
            require(
                value.isfinite().all(),
                f"{name} of {called} is not finite: the network has diverged and lies nowhere",
            )
    return states
