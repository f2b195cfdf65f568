"""The parts of the benchmark: each runs what it measures and says how to read it. ``(title,
text, rows)`` for each table."""

from benchmarks import (
    arms,
    clusters,
    cohorts,
    estimators,
    general,
    passes,
    processes,
    threads,
    training,
)


def _training(quick):
    rows, speeds = training.run(quick)
    text = (
        "Batch 128. *Bare* is a forward and a backward pass over tensors that lie ready, with PyTorch's default threads and memory "
        "format, without optimiser, mask, order or augmentation; ours has all of these. The *DataLoader* loop is the usual "
        "pattern: PIL images and torchvision transforms, SGD, mask re-applied, loss and accuracy at each step, with the faster "
        "of 0 and 2 worker processes. Images of all members count. A member computes on one thread, unless it is said otherwise."
    )
    alone = (
        "One member and bare passes, in time on the processor. *Convolutions alone* are bare passes of the same network without "
        "BatchNorm and ReLU: what is between them and the others is all that fusing those could save."
    )
    return [
        ("The training loop on one thread", alone, training.on_one_thread(quick)),
        ("The training loop with masks", text, rows),
        ("The training loop: images per second", "All contenders.", speeds),
    ]


def _cohorts(quick):
    rows, speeds = cohorts.against_usual(quick)
    text = (
        "Images per second of all 32 members together, against one network in a plain PyTorch loop with optimiser and mask: "
        "from tensors (shuffled slices, nothing read off), and with a `DataLoader(TensorDataset)`, loss and accuracy at each step."
    )
    return [
        ("A cohort of 32, per network", text, rows),
        ("A cohort of 32: images per second", "All contenders.", speeds),
    ]


def _one_by_one(quick):
    text = "The same four networks as one cohort and one after the other, both by our own loop. Narrow networks, small images."
    return [("Never slower than one by one", text, cohorts.against_one_by_one(quick))]


def _estimators(quick):
    rows, costs, errors, skipped = estimators.run(quick)
    text = (
        "Cost in passes: one forward and backward pass of the mean loss over the same 128 examples, BatchNorm in eval mode; networks 0.9 "
        "sparse, with the mask for all who take one."
    )
    missing = " ".join(
        ["Public tools beside ours.", *(f"Skipped: {reason}." for reason in skipped)]
    )
    equal = (
        "Each estimator of Tr(H) for the same 128 examples, over repeated draws of its labels or probes. The last but one column scales "
        "its spread to a budget of ten passes; the Fisher trace may stand in for the Hessian's because they are the same here."
    )
    return [
        ("Estimators", text, rows),
        ("Estimators: all contenders", missing, costs),
        ("Estimators: error at equal cost", equal, errors),
    ]


def _general(quick):
    text = (
        "Networks that no formula covers, 0.9 sparse, for images [1, 28, 28]: one pass is a forward and a backward pass of the mean loss over "
        "the same 128 examples. One thread, processor time. The loop goes over 32 of them, and is counted as if over all."
    )
    return [("Estimators for any network", text, general.run(quick))]


def _imports(quick):
    return [
        (
            "Imports",
            "Fresh interpreters in turns; seconds beside `import torch`.",
            processes.imports(quick),
        )
    ]


def _notebooks(quick):
    rows, skipped = processes.notebooks(quick)
    text = (
        "Each in a kernel of its own at its defaults, with an empty store. Memory is the highest resident set of the kernel; "
        f"an interpreter that only imports torch has {processes.torch_alone():.2f} GB here (builds with CUDA load its libraries)."
    )
    return [
        ("Quick notebooks", " ".join([text, *(f"Skipped: {reason}." for reason in skipped)]), rows)
    ]


def _threads(quick):
    text = (
        "What `lib.training.plan` chooses for each size of work, beside one thread for everything, and one worker that spreads "
        "each operation over all threads."
    )
    return [("Threads", text, threads.run(quick))]


def _passes(quick):
    text = (
        "Optimiser steps of one member on one thread, in time on the processor, batch 128: the sparse products of `lib.sparse.live` "
        "against the dense ones with zeros in them, and which of the two a run takes. Masks by magnitude, ranked over the whole "
        "network (*global*, as runs have them: the first layer stays half dense) or pruned alike in every layer (*uniform*)."
    )
    first = (
        "Examples a second, in time on the processor, through the first convolution with its pool and ReLU, forward and back, in masks of "
        "0.95 ranked over the whole network: whether dense products would serve that layer better than sparse ones."
    )
    return [
        ("Steps at the cost of the live weights", text, passes.run(quick)),
        ("The first convolution, which stays half dense", first, passes.first_layer(quick)),
    ]


def _arms(quick):
    rows, costs = arms.run(quick)
    text = (
        "Per-example Fisher traces of a pool under the mask, against one forward pass and the gradients in the layers' outputs alone; and "
        "against a loop over examples. Networks 0.9 sparse, one thread, processor time."
    )
    return [
        ("Scores of a pool", text, rows),
        ("Objectives", "Batch 128; one pass is a forward and a backward pass of the loss.", costs),
    ]


def _cluster(quick):
    text = (
        'Sixteen networks on the digits, from an empty store to finished runs: two processes of `cluster="local:2"`, a thread each, '
        "beside one process with both."
    )
    return [("A cluster on one machine", text, clusters.run(quick))]


PARTS = {
    "training": _training,
    "cohorts": _cohorts,
    "one-by-one": _one_by_one,
    "threads": _threads,
    "passes": _passes,
    "estimators": _estimators,
    "general": _general,
    "arms": _arms,
    "cluster": _cluster,
    "imports": _imports,
    "notebooks": _notebooks,
}
