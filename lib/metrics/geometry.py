"""Networks as points: lines between them, barriers on these lines, distances, and a map in two dimensions.

A line goes straight from the parameters of network a (alpha 0) to those of network b (alpha 1). BatchNorm's running
statistics lie on no line: they are re-estimated at each point from given training examples, or, for comparison,
interpolated as the parameters are (price study, Figure 8a; re-estimation: its code, and Izmailov et al. 2018).
``MeasureError`` names what cannot be measured.
"""

import copy
import inspect
from collections.abc import Iterable, Iterator, Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from lib.metrics.gradients import MeasureError

STATISTICS = ("reestimated", "interpolated")
PIXELS = (
    1 << 20
)  # numbers of the input in a chunk that is chosen: some hundred MiB in the widest network here
Mask = dict[str, torch.Tensor] | None


def points(
    network_a: nn.Module,
    network_b: nn.Module,
    alphas: Sequence[float],
    *,
    bn: str = "reestimated",
    examples: torch.Tensor | None = None,
    batch: int = 128,
) -> Iterator[tuple[float, nn.Module]]:
    """(alpha, network) for each of ``alphas``, in eval mode: (1 - alpha) a + alpha b. The ends are exact.

    One and the same module is given each time: use it before asking for the next. ``bn``: "reestimated" runs
    ``reestimate`` on ``examples`` (training inputs [n, ...]) at every point, the ends included; "interpolated" mixes
    the running statistics as if they were weights. Without BatchNorm, ``bn`` changes nothing. The two networks stay
    as they are. Raises ``MeasureError`` for networks of two architectures, weights that are not finite, an alpha that
    is not, or missing ``examples``.
    """
    if bn not in STATISTICS:
        raise MeasureError(f"bn is {bn!r}; it can be {' or '.join(STATISTICS)}")
    a, b = _state(network_a, "network_a"), _state(network_b, "network_b")
    _check_same(a, b)
    if not all(np.isfinite(alphas)):
        raise MeasureError(f"alphas is {list(alphas)}: each must be a finite number")
    network = copy.deepcopy(network_a).eval().requires_grad_(False)
    normalised = any(isinstance(module, _NORMS) for module in network.modules())
    if normalised and bn == "reestimated" and examples is None:
        raise MeasureError(
            "examples is None: the statistics of BatchNorm can only be re-estimated on training examples"
        )
    state = _state(network, "network")
    for alpha in alphas:
        with torch.no_grad():
            for name, value in state.items():
                value.copy_(torch.lerp(a[name], b[name], float(alpha)))
        if normalised and bn == "reestimated":
            reestimate(network, examples, batch)
        yield alpha, network


_NORMS = nn.modules.batchnorm._BatchNorm


def reestimate(network: nn.Module, x: torch.Tensor, batch: int = 128) -> None:
    """Set BatchNorm's running statistics to those of ``x`` under the present weights, in place.

    They become the plain mean of the batches' statistics over one pass (a cumulative average: it remembers nothing of
    the statistics before). The batches are ``x`` in its order, cut into parts of nearly equal size and at most ``batch``
    examples. All other layers stay in the mode they are in. Raises ``MeasureError`` for fewer than two examples.
    """
    norms = [
        module
        for module in network.modules()
        if isinstance(module, _NORMS) and module.track_running_stats
    ]
    if not norms:
        return
    if len(x) < 2 or batch < 2:
        raise MeasureError(
            f"{len(x)} examples in batches of {batch}: statistics need at least two examples at a time"
        )
    before = [(norm.training, norm.momentum, norm.num_batches_tracked) for norm in norms]
    try:
        for norm in norms:
            norm.num_batches_tracked = torch.zeros((), dtype=torch.long, device=x.device)
            norm.momentum = None  # cumulative
            norm.train()
        with torch.no_grad():
            for part in x.tensor_split(
                min(-(-len(x) // batch), len(x) // 2)
            ):  # none with a single example
                network(part)
    finally:
        for norm, (training, momentum, count) in zip(norms, before, strict=True):
            norm.momentum, norm.num_batches_tracked = momentum, count
            norm.train(training)


def evaluate(
    network: nn.Module, x: torch.Tensor, labels: torch.Tensor, *, chunk: int | None = None
) -> tuple[float, float]:
    """Mean cross-entropy in nats and accuracy of ``network`` on ``x`` [n, ...] with ``labels`` int64 [n]."""
    if len(x) == 0:
        raise MeasureError("x is empty: there is no loss on no examples")
    if labels.shape != (len(x),):
        raise MeasureError(
            f"labels of shape {tuple(labels.shape)} for {len(x)} examples: one label for each is needed"
        )
    chunk = chunk or max(16, min(4096, PIXELS // max(1, x[0].numel())))
    loss = hits = 0.0
    with torch.no_grad():
        for inputs, targets in zip(x.split(chunk), labels.split(chunk), strict=True):
            logits = network(inputs)
            low, high = int(targets.min()), int(targets.max())
            if low < 0 or high >= logits.shape[-1]:
                raise MeasureError(
                    f"labels from {low} to {high}: with {logits.shape[-1]} classes they are 0 to {logits.shape[-1] - 1}"
                )
            loss += F.cross_entropy(logits.double(), targets, reduction="sum").item()
            hits += (logits.argmax(-1) == targets).sum().item()
    return loss / len(x), hits / len(x)


def line(
    network_a: nn.Module,
    network_b: nn.Module,
    alphas: Sequence[float],
    x: torch.Tensor,
    labels: torch.Tensor,
    *,
    bn: str = "reestimated",
    examples: torch.Tensor | None = None,
    batch: int = 128,
    chunk: int | None = None,
):
    """Loss (nats) and accuracy on ``x``, ``labels`` at each of ``alphas`` between two networks: a DataFrame.

    Columns alpha, loss, accuracy (price study, Figure 8a). For ``bn`` and ``examples`` (training inputs, whatever
    ``x`` is) see ``points``. In memory are one network more and ``chunk`` examples at a time (None: chosen by their size).
    """
    import pandas as pd

    rows = []
    for alpha, network in points(
        network_a, network_b, alphas, bn=bn, examples=examples, batch=batch
    ):
        loss, accuracy = evaluate(network, x, labels, chunk=chunk)
        rows.append({"alpha": float(alpha), "loss": loss, "accuracy": accuracy})
    return pd.DataFrame(rows, columns=["alpha", "loss", "accuracy"])


def barrier(alphas: Sequence[float], losses: Sequence[float]) -> float:
    """The most by which the loss rises above the straight line between its two ends; 0 where it never does.

    Between two solutions of equal loss this is the instability of Frankle et al. (2020), who take the mean of the ends.
    ``alphas`` rise from 0 to 1. Raises ``MeasureError`` where they do not, or for as many losses as alphas there are not.
    """
    alphas, losses = _curve(alphas, losses)
    if alphas[0] != 0 or alphas[-1] != 1:
        raise MeasureError(
            f"alphas from {alphas[0]:g} to {alphas[-1]:g}: a barrier needs both ends, 0 and 1"
        )
    return float((losses - ((1 - alphas) * losses[0] + alphas * losses[-1])).max())


def bump(alphas: Sequence[float], losses: Sequence[float]) -> float:
    """The largest rise of the loss above its lowest value so far, along rising ``alphas``; 0 where it never rises."""
    _, losses = _curve(alphas, losses)
    return float((losses - np.minimum.accumulate(losses)).max())


def _curve(alphas, losses):
    alphas, losses = np.asarray(alphas, dtype=float), np.asarray(losses, dtype=float)
    if alphas.shape != losses.shape or alphas.ndim != 1 or not len(alphas):
        raise MeasureError(
            f"{alphas.size} alphas and {losses.size} losses: one loss for each of at least one alpha is needed"
        )
    if (np.diff(alphas) <= 0).any():
        raise MeasureError(f"alphas is {alphas.tolist()}: they must rise")
    return alphas, losses


def distance(
    network_a: nn.Module, network_b: nn.Module, mask: Mask = None, which: str = "all"
) -> float:
    """The L2 distance of two networks in the live parameters (``which``: "all", or the "weights" of conv and linear layers).

    ``mask``: parameter name -> bool, what lives; parameters that it does not name do. BatchNorm's statistics do not count.
    """
    return distances([network_a, network_b], mask, which)[0, 1].item()


def distances(networks: Iterable[nn.Module], mask: Mask = None, which: str = "all") -> torch.Tensor:
    """All L2 distances between networks of one architecture: float64 [m, m] on the CPU; see ``distance``."""
    networks = list(networks)
    if not networks:
        raise MeasureError("no networks: there are no distances between none")
    first = _state(networks[0], "network 0")
    for i, network in enumerate(networks):
        _check_same(first, _state(network, f"network {i}"))
    squares = torch.zeros(len(networks), len(networks), dtype=torch.float64)
    for name in _counted(networks[0], mask, which):
        live = None if mask is None or name not in mask else mask[name]
        rows = [network.get_parameter(name).detach() for network in networks]
        rows = [
            (row if live is None else row[live.to(row.device)]).double().flatten() for row in rows
        ]
        for i, a in enumerate(rows):
            for j in range(i):
                squares[i, j] += (a - rows[j]).square().sum().cpu()
    return (squares + squares.T).sqrt()


def embed(distances, seed: int = 0) -> np.ndarray:
    """Places [m, 2] in the plane whose distances come near ``distances`` [m, m]: metric MDS of scikit-learn.

    Centred; the axes have no meaning of their own. The best of eight starts that ``seed`` draws.
    """
    from sklearn.manifold import MDS

    matrix = np.asarray(distances, dtype=float)
    if matrix.ndim != 2 or matrix.shape[0] != matrix.shape[1] or len(matrix) < 2:
        raise MeasureError(
            f"distances of shape {matrix.shape}: a square of at least two networks is needed"
        )
    if not np.isfinite(matrix).all() or not np.allclose(matrix, matrix.T):
        raise MeasureError("distances must be finite and symmetric")
    scale = matrix.max() or 1.0  # scikit-learn's stopping rule is no relative one in every version
    named = inspect.signature(MDS).parameters
    kind = (
        {"metric_mds": True, "metric": "precomputed"}
        if "metric_mds" in named
        else {"metric": True, "dissimilarity": "precomputed"}
    )
    start = {"init": "random"} if "init" in named else {}
    mds = MDS(
        2,
        n_init=8,
        max_iter=1000,
        eps=1e-9,
        random_state=seed,
        normalized_stress=False,
        **kind,
        **start,
    )
    places = mds.fit_transform(matrix / scale) * scale
    return places - places.mean(0)


def _counted(network, mask, which):
    """The names of the parameters that count."""
    if which not in ("all", "weights"):
        raise MeasureError(f"which is {which!r}; it can be all or weights")
    shapes = {name: parameter.shape for name, parameter in network.named_parameters()}
    for name, live in (mask or {}).items():
        if name not in shapes:
            raise MeasureError(f"the mask names {name!r}, which is no parameter of this network")
        if live.shape != shapes[name]:
            raise MeasureError(
                f"the mask of {name!r} has shape {tuple(live.shape)}, the parameter {tuple(shapes[name])}"
            )
    if which == "all":
        return list(shapes)
    kinds = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)
    return [
        f"{name}.weight" if name else "weight"
        for name, module in network.named_modules()
        if isinstance(module, kinds)
    ]


def _state(network, called):
    """Parameters and running statistics by name; refuses values that are not finite."""
    state = dict(network.named_parameters())
    state |= {name: value for name, value in network.named_buffers() if value.is_floating_point()}
    for name, value in state.items():
        if not value.isfinite().all():
            raise MeasureError(
                f"{name} of {called} is not finite: the network has diverged and lies nowhere"
            )
    return {name: value.detach() for name, value in state.items()}


def _check_same(a, b):
    if a.keys() != b.keys():
        odd = sorted(a.keys() ^ b.keys())
        raise MeasureError(f"two architectures: only one of the networks has {', '.join(odd[:3])}")
    for name, value in a.items():
        if value.shape != b[name].shape:
            raise MeasureError(
                f"two architectures: {name} is {tuple(value.shape)} in one and {tuple(b[name].shape)} in the other"
            )
