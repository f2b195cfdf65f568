"""Where a run starts: its weights, its BatchNorm statistics and its mask (price study, Figure 2)."""

import hashlib
from dataclasses import dataclass

import torch
from torch import nn

from lib import criteria, draws, init, masks, networks
from lib.cohort import Layout
from lib.runs import Run


@dataclass(frozen=True)
class Start:
    """``weights`` float32 [P], ``buffers`` float32 [B], ``mask`` bool [P], and facts about the mask."""

    weights: torch.Tensor
    buffers: torch.Tensor
    mask: torch.Tensor
    facts: dict


def start(run: Run, network: nn.Module, layout: Layout, parent: dict[str, torch.Tensor] | None) -> Start:
    """The start of ``run``; ``parent`` holds the tensors of its finished Sol-D ("weights", "buffers").

    Init-D is drawn from (seed, "init"). A mask is made from Sol-D's weights by the run's criterion (random scores
    come from (seed, "criterion")). Init-F is Sol-D under it, with Sol-D's BatchNorm statistics; Init-S is a draw
    from (seed, "scratch") under it, with fresh ones. Raises ``ValueError`` where the sparsity empties a layer.
    """
    if run.solution == "sol_d":
        weights = layout.row(init.dense(network, run.network.init, run.seed))
        mask = torch.ones(layout.size, dtype=torch.bool)
        return Start(weights, layout.fresh_buffers(), mask, {"live": layout.size, "prunable": 0, "pruned": 0})
    suffix = "@best" if run.pruning.source == "best-test" else ""
    trained = layout.views(parent[f"weights{suffix}"])
    names = networks.prunable(network, run.pruning.keep_dense)
    rng = draws.generator(run.seed, "criterion", run.pruning.criterion)
    scores = criteria.CRITERIA[run.pruning.criterion]({name: trained[name] for name in names}, rng)
    mask = masks.prune(scores, run.pruning.sparsity, run.pruning.scope)
    if empty := masks.empty_layers(mask):
        raise ValueError(f"sparsity {run.pruning.sparsity} leaves no weight in {', '.join(empty)} (seed {run.seed}); choose a lower one")
    row = layout.mask_row(mask)
    if run.solution == "sol_f":
        weights, buffers = layout.row(trained), parent[f"buffers{suffix}"]
    else:
        weights, buffers = layout.row(init.dense(network, run.network.init, run.seed, "scratch")), layout.fresh_buffers()
    size = sum(m.numel() for m in mask.values())
    facts = {
        "live": int(row.sum()),
        "prunable": size,
        "pruned": size - sum(int(m.sum()) for m in mask.values()),
        "mask": hashlib.blake2b(row.numpy().tobytes(), digest_size=8).hexdigest(),
    }
    return Start(weights * row, buffers, row, facts)
