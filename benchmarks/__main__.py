"""``python -m benchmarks``: run every benchmark, print its table, and write ``results/benchmarks.md``."""

import argparse
import os
import time
from pathlib import Path

from benchmarks import cohorts, estimators, processes, report, threads, training

RESULTS = Path(__file__).resolve().parent.parent / "results" / "benchmarks.md"


def _training(quick):
    rows, speeds = training.run(quick)
    text = (
        "Batch 128. *Bare* is a forward and a backward pass over tensors that lie ready, with PyTorch's default threads and memory "
        "format, without optimiser, mask, order or augmentation; ours has all of these. The *DataLoader* loop is the usual "
        "pattern: PIL images and torchvision transforms, SGD, mask re-applied, loss and accuracy at each step, with the faster "
        "of 0 and 2 worker processes. Images of all members count."
    )
    return [("The training loop with masks", text, rows), ("The training loop: images per second", "All contenders.", speeds)]


def _cohorts(quick):
    rows, speeds = cohorts.against_usual(quick)
    text = (
        "Images per second of all 32 members together, against one network in a plain PyTorch loop with optimiser and mask: "
        "from tensors (shuffled slices, nothing read off), and with a `DataLoader(TensorDataset)`, loss and accuracy at each step."
    )
    return [("A cohort of 32, per network", text, rows), ("A cohort of 32: images per second", "All contenders.", speeds)]


def _one_by_one(quick):
    text = "The same four networks as one cohort and one after the other, both by our own loop. Narrow networks, small images."
    return [("Never slower than one by one", text, cohorts.against_one_by_one(quick))]


def _estimators(quick):
    rows, costs, errors, skipped = estimators.run(quick)
    text = (
        "Cost in passes: one forward and backward pass of the mean loss over the same 128 examples, BatchNorm in eval mode; networks 0.9 "
        "sparse, with the mask for all who take one."
    )
    missing = " ".join(["Public tools beside ours.", *(f"Skipped: {reason}." for reason in skipped)])
    equal = (
        "Each estimator of Tr(H) for the same 128 examples, over repeated draws of its labels or probes. The last but one column scales "
        "its spread to a budget of ten passes; the Fisher trace may stand in for the Hessian's because they are the same here."
    )
    return [("Estimators", text, rows), ("Estimators: all contenders", missing, costs), ("Estimators: error at equal cost", equal, errors)]


def _imports(quick):
    return [("Imports", "Fresh interpreters in turns; seconds beside `import torch`.", processes.imports(quick))]


def _notebooks(quick):
    rows, skipped = processes.notebooks(quick)
    text = (
        "Each in a kernel of its own at its defaults, with an empty store. Memory is the highest resident set of the kernel; "
        f"an interpreter that only imports torch has {processes.torch_alone():.2f} GB here (builds with CUDA load its libraries)."
    )
    return [("Quick notebooks", " ".join([text, *(f"Skipped: {reason}." for reason in skipped)]), rows)]


def _threads(quick):
    text = (
        "What `lib.training.plan` chooses for each size of work, beside one thread for everything, and one worker that spreads "
        "each operation over all threads."
    )
    return [("Threads", text, threads.run(quick))]


PARTS = {
    "training": _training,
    "cohorts": _cohorts,
    "one-by-one": _one_by_one,
    "threads": _threads,
    "estimators": _estimators,
    "imports": _imports,
    "notebooks": _notebooks,
}


def main(arguments: list[str] | None = None) -> None:
    """Run the parts asked for; only a run of all parts replaces the results file (``--output`` names another)."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=main.__doc__)
    parser.add_argument("--quick", action="store_true", help="a rehearsal with few and short rounds; results are printed only")
    parser.add_argument("--only", nargs="+", choices=PARTS, default=list(PARTS), help="these parts only; results are printed only")
    parser.add_argument("--output", type=Path, help="write the page here, whatever was run")
    options = parser.parse_args(arguments)
    begin, facts, sections = time.perf_counter(), report.machine(), []
    print(report.table(facts), flush=True)
    for name in options.only:
        since = time.perf_counter()
        done = PARTS[name](options.quick)
        for title, _, lines in done:
            print(f"\n{title}\n{report.table(lines)}", flush=True)
        print(f"({name}: {time.perf_counter() - since:.0f} s)", flush=True)
        sections += done
    page = report.page(sections, options.quick, time.perf_counter() - begin, facts)
    whole = set(options.only) == set(PARTS) and not options.quick
    target = options.output or (RESULTS if whole else None)
    if target:
        target.parent.mkdir(parents=True, exist_ok=True)
        partial = target.with_name(f".{target.name}.partial")
        partial.write_text(page, encoding="utf-8")
        os.replace(partial, target)
        print(f"\nwritten to {target}")


if __name__ == "__main__":
    main()
