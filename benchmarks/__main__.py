"""``python -m benchmarks``: run every benchmark, print its table, and write ``results/benchmarks.md``."""

import argparse
import multiprocessing
import os
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

from benchmarks import report
from benchmarks.parts import PARTS

RESULTS = Path(__file__).resolve().parent.parent / "results" / "benchmarks.md"


def main(arguments: list[str] | None = None) -> None:
    """Run the parts asked for; only a run of all parts replaces the results file (``--output``
    names another)."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=main.__doc__)
    parser.add_argument(
        "--quick",
        action="store_true",
        help="a rehearsal with few and short rounds; results are printed only",
    )
    parser.add_argument(
        "--only",
        nargs="+",
        choices=PARTS,
        default=list(PARTS),
        help="these parts only; results are printed only",
    )
    parser.add_argument("--output", type=Path, help="write the page here, whatever was run")
    options = parser.parse_args(arguments)
    begin, facts, sections = time.perf_counter(), report.machine(), []
    print(report.table(facts), flush=True)
    for name in options.only:
        since = time.perf_counter()
        # a process for each part: threads that an earlier one has left would compete with its own
        with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
            done = pool.submit(PARTS[name], options.quick).result()
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
