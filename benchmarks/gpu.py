"""``python -m benchmarks.gpu``, or ``make gpu``: whether a GPU computes what the CPU does, how fast,
and what of it misses its target; writes ``results/gpu-checks.md`` and ``results/gpu-speed.md``,
each table as it is measured. Where there is no GPU it says so, and ends with 2.

``--device cpu`` rehearses it in tiny sizes: every line runs, nothing is to be concluded.
"""

import argparse
import sys
import time
from pathlib import Path
from unittest import mock

import torch

from benchmarks import gpu_checks, gpu_speed, report
from lib.training import steps

RESULTS = Path(__file__).resolve().parent.parent / "results"


def main(arguments: list[str] | None = None) -> int:
    """Correctness first, then speed. 1 if a check fails, 2 where there is no GPU, else 0."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu", description=__doc__)
    parser.add_argument("--device", default="cuda", help="cuda, or cpu for a rehearsal")
    parser.add_argument("--only", choices=tuple(PARTS), help="one of the two alone")
    parser.add_argument("--output", type=Path, help="write the pages into this folder")
    options = parser.parse_args(arguments)
    if options.device != "cpu" and not torch.cuda.is_available():
        print("There is no GPU here that PyTorch can use: nothing was run.")
        return 2
    if options.device != "cpu":
        torch.backends.cudnn.allow_tf32 = False  # as lib does: the other sides too
        return _run(options, quick=False)
    again = {"cpu": lambda step: step}  # in place of a recorder: the step is executed once more
    with mock.patch.dict(steps.RECORDERS, again):
        return _run(options, quick=True)


def _run(options, quick):
    folder = options.output or (None if quick else RESULTS)
    wrong: list[dict] = []
    for part in [options.only] if options.only else PARTS:
        shown = _page(folder, part, options.device, quick)
        wrong += PARTS[part](options.device, quick, shown)
    return int(bool(wrong))


def _checks(device, quick, shown):
    """Show all; the checks that did not hold."""
    names = ("mlp",) if quick else tuple(gpu_checks.NETWORKS)
    checks = gpu_checks.of_runs(device, names, arms=True)
    checks += gpu_checks.of_estimators(device, names)
    checks += gpu_checks.of_resuming(device)
    few = {"seeds": 2, "epochs": 2, "sparse_epochs": 2} if quick else {}
    checks += gpu_checks.of_notebook(device, **few)
    wrong = [line for line in checks if line["verdict"] in ("DIFFERS", "PLAIN", "FAILS")]
    words = "In float32, the device against the CPU; see `benchmarks/gpu_checks.py`."
    shown("Checks", words, checks)
    shown("What is wrong", "Checks that did not hold. No speed counts while there are any.", wrong)
    return wrong


def _speed(device, quick, shown):
    """Show all. A target that is missed is told, and nothing wrong."""
    figure, cohorts = gpu_speed.figure_1(device, quick)
    shown("Figure 1 of the price study", "What its minutes are made of.", cohorts)
    tasks, rows = gpu_speed.tasks(device, quick), list(figure)
    for title, task in tasks.items():
        found, speeds = gpu_speed.run(title, task, quick)
        rows += found
        shown(title, "Images a second; ResNets in bfloat16, ours with crops and flips.", speeds)
    shown("Targets", _words(rows), rows)
    for title, task in tasks.items():
        shown(f"{title}, compiled", "As above.", gpu_speed.compiled(title, task, quick))
    return []


PARTS = {"checks": _checks, "speed": _speed}


def _words(rows):
    missed = [row.what for row in rows if row.verdict.startswith("missed")]
    return f"Missed: {'; '.join(missed)}." if missed else "All targets are met."


def _page(folder, part, device, quick):
    """A function that prints a table (title, text, lines), and writes the page anew with it."""
    facts, begin = report.machine(), time.perf_counter()
    if device != "cpu":
        properties = torch.cuda.get_device_properties(device)
        words = f"{properties.name}, {properties.total_memory / 2**30:.0f} GiB, CUDA {torch.version.cuda}"
        facts.insert(0, {"": "GPU", "machine": words})
    told = "\n**A rehearsal on the CPU: nothing is to be concluded from it.**\n" if quick else ""
    tables: list[str] = []

    def shown(title, text, lines):
        table = report.table(lines) if lines else "None."
        print(f"\n{title}\n{table}", flush=True)
        tables.extend([f"\n## {title}\n", f"{text}\n", table])
        if folder:
            minutes = (time.perf_counter() - begin) / 60
            head = f"# One GPU: {part}\n\nWritten by `make gpu` in {minutes:.1f} minutes; do not edit by hand.\n{told}"
            page = "\n".join([head, report.table(facts), *tables]) + "\n"
            (folder / f"gpu-{part}.md").write_text(page, encoding="utf-8")

    return shown


if __name__ == "__main__":
    sys.exit(main())
