"""Where a run starts: its weights, its BatchNorm statistics and its mask.

See the price study's Figure 2, and section 3 of the early-pruning study.
"""

import hashlib

import torch
from torch import nn

from lib import rng
from lib.data import sets
from lib.masks import criteria, masks
from lib.models import initializers, matching, networks
from lib.specs.run import Run
from lib.training import selection
from lib.training.cohort import Layout, Named, filled


@rng.on_threads(1)
def initial_state(
    run: Run, network: nn.Module, parent: Named | None, images: sets.ImageSet,
    guide: Named | None = None,
) -> tuple[Named, dict]:  # fmt: skip
    """The start of ``run``: "weights" and "velocity" float32 [P], "buffers" [B] and "mask" bool
    [P], and facts about the mask; and what a selection looks up (``selection.beforehand``).

    ``parent`` holds the tensors of its finished dense run ("weights", "buffers", and kept ones),
    ``guide`` those of another that it looks at.
    Init-D is drawn from (seed, "init"). A mask is made from the dense run's weights by the run's
    criterion (its draws come from (seed, "criterion")), which may look at the training examples of
    ``images``. Init-F is Sol-D under it, with Sol-D's BatchNorm statistics; Init-S is a draw from
    (seed, "scratch") under it, with fresh ones; a run pruned on its way starts from the dense run
    as it was at that epoch; a ticket from the start of the gradually pruned run whose mask it has,
    or from its weights at a later epoch, perturbed or not. A fresh replica draws under a name of
    its own. Raises ``ValueError`` where the sparsity empties a layer, or a criterion is at fault.
    """
    layout = Layout(network)
    init, seed = run.network.init, run.seed
    start = {"buffers": layout.fresh_buffers(), "velocity": torch.zeros(layout.size)}
    if parent is None or run.parent is None:
        weights = layout.row(initializers.dense(network, init, seed, _draw("init", run)))
        facts: dict = {"live": layout.size, "prunable": 0, "pruned": 0}
        return {**start, "weights": weights, "mask": layout.mask_row({})}, facts
    moment = _moment(run)
    weights, buffers = parent[f"weights{moment}"], parent[f"buffers{moment}"]
    row = parent["mask"]  # that of a gradually pruned run is there already
    if run.parent.solution != "sol_g":
        row = layout.mask_row(_mask(run, network, layout, weights, buffers, images))
    if run.start.mask != "own":
        row = _reordered(run, network, layout, weights, row, guide)
    facts = mask_facts(run, network, layout, row)
    empty = ", ".join(facts.get("empty layers", []))
    masks.refuse(
        empty,
        f"sparsity {run.sparsity} leaves no weight in {empty} (seed {seed}); choose a lower one",
    )
    if run.solution == "sol_s":
        mask = {name: live for name, live in layout.views(row).items() if live.dim() > 1}
        begun = (seed, _draw("scratch", run))
        if run.guide and run.start.mask != "own":
            begun = (run.guide.seed, _draw("init", run.guide))
        kernels, idle = initializers.sparse(network, mask, init, *begun, form=run.form)
        kernels = _taken(run, network, kernels, mask, layout.views(weights * row))
        weights, buffers = layout.row(kernels), start["buffers"]
        if run.form != "masked":
            facts["neurons without input"] = sum(map(len, idle.values()))
    elif run.solution == "sol_t" and not run.rewind:
        kernels = initializers.dense(network, init, seed, _draw("init", run.parent))
        weights, buffers = layout.row(kernels), start["buffers"]
    if run.perturbed:
        views = layout.views(weights), layout.views(row)
        weights = layout.row(initializers.perturbed(*views, run.perturbed, seed))
    if run.continuation and run.continuation.momentum == "kept":
        start["velocity"] = parent[f"velocity{moment}"] * row
    start |= {"weights": weights * row, "buffers": buffers, "mask": row}
    return start | selection.beforehand(
        run, network, start["weights"], parent, guide, images
    ), facts


def _reordered(run, network, layout, weights, row, guide):
    """The mask with its units as they fit the guide, or in any order (Adnan et al. 2025)."""
    if run.start.mask == "matched":
        order = matching.matched(
            network, layout.views(weights), layout.views(guide["weights"]), run.seed
        )
    else:
        order = [
            torch.randperm(len(layout.views(row)[name]), generator=rng.generator(run.seed, name))
            for name, _ in matching.hidden(network)
        ]
    return layout.row(matching.permuted(network, layout.views(row), order))


def _taken(run, network, own, mask, init_f):
    """A fresh start's weights with what ``run.start`` takes from others in its live kernels."""
    asked, init, draw = run.start, run.network.init, _draw("init", run.parent)
    kernels = networks.kernels(network)
    if asked.units == "matched":
        begun = (run.seed, _draw("scratch", run))
        whole = initializers.dense(network, init, *begun)
        order = matching.matched(network, whole, init_f, run.seed)
        usual = initializers.variances(network, {}, init, form="masked")
        scaled = initializers.variances(network, mask, init, form=run.form)
        whole = matching.permuted(network, whole, order)
        own = {n: whole[n] * (scaled[n] / usual[n]).sqrt().float() for n in kernels} | {
            n: value for n, value in own.items() if n not in kernels
        }
    if {asked.signs, asked.magnitudes} == {"own"}:
        return own
    init_d = initializers.dense(network, init, run.parent.seed, draw)
    found = {"own": own, "init-f": init_f, "init-d": init_d}
    signs, sizes = found[asked.signs], found[asked.magnitudes]
    taken = {n: sizes[n].abs() * torch.where(signs[n] < 0, -1.0, 1.0) for n in kernels}
    return {**own, **taken}


def _draw(name, run):
    """The name of the draw of fresh weights."""
    return f"{name}/replica/{run.replica}" if run.fresh else name


def mask_facts(run: Run, network: nn.Module, layout: Layout, row: torch.Tensor) -> dict:
    """What is kept about a mask ``row`` (bool [P]); "empty layers" if there are any."""
    spared, views = run.pruning.keep_dense if run.pruning else (), layout.views(row)
    mask = {name: views[name] for name in networks.prunable(network, spared)}
    empty = masks.empty_layers(mask)
    size = sum(m.numel() for m in mask.values())
    return {
        "live": int(row.sum()),
        "prunable": size,
        "pruned": size - sum(int(m.sum()) for m in mask.values()),
        "mask": hashlib.blake2b(row.numpy().tobytes(), digest_size=8).hexdigest(),
        **({"empty layers": empty} if empty else {}),
    }


def _moment(run):
    """The suffix of the parent's tensors at the moment at which it was pruned."""
    if run.continuation and (run.begin < run.parent.recipe.epochs or run.parent.keep_velocity):
        return f"@{run.begin}"
    if run.rewind:
        return f"@{run.rewind}"
    last = run.continuation or run.parent.solution == "sol_g"  # whose mask is that of its end
    return "@best" if run.pruning.source == "best-test" and not last else ""


def _mask(run, network, layout, weights, buffers, images):
    pruning, views = run.pruning, layout.views(weights)
    count = pruning.score_examples
    x = images.x_train if count is None else images.x_train[:count]
    y = labels_of(run, images)[0][:count]
    task = criteria.Task(
        lambda: filled(network, weights, buffers, x.device), x, y, pruning.sparsity, pruning.scope
    )
    moment = [run.begin] if run.continuation else []
    stream = rng.generator(run.seed, "criterion", pruning.criterion, *moment)
    kernels = {name: views[name] for name in networks.prunable(network, pruning.keep_dense)}
    scores = criteria.scores(pruning.criterion, kernels, stream, task)
    return masks.prune(scores, pruning.sparsity, pruning.scope)


def labels_of(run: Run, images: sets.ImageSet) -> tuple[torch.Tensor, torch.Tensor]:
    """The training labels as the run was given them, int64 [N], and which are wrong, bool [N]."""
    y = images.y_train
    if not run.data.noise:
        return y, torch.zeros_like(y, dtype=torch.bool)
    given, flipped = sets.noisy_labels(
        y, run.data.noise, images.classes, run.seed, run.data.noise_kind
    )
    return given.to(y.device), flipped.to(y.device)
