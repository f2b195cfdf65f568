"""``python -m benchmarks.gpu``, or ``make gpu``: whether a GPU computes what the CPU does, how fast,
and what of it misses its target; writes ``results/gpu.md``. Where there is none it says so, and
ends with 2.

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

RESULTS = Path(__file__).resolve().parent.parent / "results" / "gpu.md"


def main(arguments: list[str] | None = None) -> int:
    """Correctness first, then speed. 1 if a check fails, 2 where there is no GPU, else 0."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu", description=__doc__)
    parser.add_argument("--device", default="cuda", help="cuda, or cpu for a rehearsal")
    parser.add_argument("--checks", action="store_true", help="correctness alone")
    parser.add_argument("--output", type=Path, help="write the page here")
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
    begin, device, sections = time.perf_counter(), options.device, []

    def shown(title, text, lines):
        print(f"\n{title}\n{report.table(lines)}", flush=True)
        sections.append((title, text, lines))

    names = ("mlp",) if quick else tuple(gpu_checks.NETWORKS)
    checks = gpu_checks.of_runs(device, names, arms=True)
    checks += gpu_checks.of_estimators(device, names)
    checks += gpu_checks.of_resuming(device)
    few = {"seeds": 2, "epochs": 2, "sparse_epochs": 2} if quick else {}
    checks += gpu_checks.of_notebook(device, **few)
    wrong = [line for line in checks if line["verdict"] in ("DIFFERS", "PLAIN", "FAILS")]
    shown(
        "What is wrong",
        "Checks that did not hold. Nothing below counts while there are any.",
        wrong,
    )
    shown(
        "Checks", "In float32, the device against the CPU; see `benchmarks/gpu_checks.py`.", checks
    )
    if not options.checks:
        rows, speeds = gpu_speed.run(device, quick)
        figure, cohorts = gpu_speed.figure_1(device, quick)
        shown("Targets", _words([*rows, *figure]), [*rows, *figure])
        shown("Images per second", "ResNets in bfloat16, ours with crops and flips.", speeds)
        shown("Figure 1 of the price study", "What its minutes are made of.", cohorts)
    target = options.output or (None if quick or options.checks else RESULTS)
    if target:
        seconds = time.perf_counter() - begin
        target.write_text(_page(sections, device, quick, seconds), encoding="utf-8")
        print(f"\nwritten to {target}")
    return int(bool(wrong))


def _words(rows):
    missed = [row.what for row in rows if row.verdict.startswith("missed")]
    return f"Missed: {'; '.join(missed)}." if missed else "All targets are met."


def _page(sections, device, quick, seconds):
    facts = report.machine()
    if device != "cpu":
        properties = torch.cuda.get_device_properties(device)
        words = f"{properties.name}, {properties.total_memory / 2**30:.0f} GiB, CUDA {torch.version.cuda}"
        facts.insert(0, {"": "GPU", "machine": words})
    rehearsal = (
        "\n**A rehearsal on the CPU: nothing is to be concluded from it.**\n" if quick else ""
    )
    parts = [
        f"# One GPU\n\nWritten by `make gpu` in {seconds / 60:.1f} minutes; do not edit by hand.\n{rehearsal}",
        report.table(facts),
    ]
    for title, text, lines in sections:
        parts += [f"\n## {title}\n", f"{text}\n", report.table(lines) if lines else "None."]
    return "\n".join(parts) + "\n"


if __name__ == "__main__":
    sys.exit(main())
