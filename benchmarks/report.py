"""The machine, and the tables as Markdown."""

import datetime
import os
import platform
import sys
from pathlib import Path

import torch
import torchvision

from benchmarks.timing import Row


def machine() -> list[dict]:
    """What the numbers were taken on, and when."""
    load = f"{os.getloadavg()[0]:.2f}" if hasattr(os, "getloadavg") else "unknown"
    facts = {
        "processor": f"{_processor()} ({torch.backends.cpu.get_cpu_capability()})",
        "cores": f"{os.cpu_count()}, of which PyTorch uses {torch.get_num_threads()}",
        "memory": _memory(),
        "system": f"{platform.system()} {platform.machine()}, Python {sys.version.split()[0]}",
        "torch, torchvision": f"{torch.__version__}, {torchvision.__version__}",
        "load before the start": load,
        "date": f"{datetime.datetime.now(datetime.UTC):%Y-%m-%d %H:%M} UTC",
    }
    return [{"": name, "machine": value} for name, value in facts.items()]


def _processor():
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(
            line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")
        )
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def _memory():
    try:
        return f"{os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES') / 1e9:.0f} GB"
    except (AttributeError, ValueError):
        return "unknown"


def table(lines: list[dict | Row]) -> str:
    """A Markdown table of dicts with the same keys, or of rows with targets."""
    cells = [line.cells() if isinstance(line, Row) else line for line in lines]
    if not cells:
        return "(nothing was measured)"
    heads = list(cells[0])
    body = [[str(line[head]).replace("|", "\\|") for head in heads] for line in cells]
    widths = [max(len(row[i]) for row in [heads, *body]) for i in range(len(heads))]
    lines = [heads, ["-" * width for width in widths], *body]
    return "\n".join(
        "| "
        + " | ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True))
        + " |"
        for line in lines
    )


def page(
    sections: list[tuple[str, str, list]], quick: bool, seconds: float, facts: list[dict]
) -> str:
    """The whole file: a section is (title, text, lines of its table)."""
    command = "python -m benchmarks --quick" if quick else "python -m benchmarks"
    head = f"# Benchmarks\n\nWritten by `{command}` in {seconds / 60:.1f} minutes; do not edit by hand.\n"
    if quick:
        head += "\n**A rehearsal: few and short rounds. Nothing is to be concluded from these numbers.**\n"
    head += (
        "\nEvery speed is a ratio of contenders that took turns in one process; the median over the rounds stands with the lowest "
        "and the highest. Networks are 0.9 sparse on both sides. Images are random tensors of the real shapes, the 12-bit task is "
        "the real one; evaluation is on neither side.\n"
    )
    parts = [head, table(facts)]
    for title, text, lines in sections:
        parts += [f"\n## {title}\n", f"{text}\n", table(lines)]
    return "\n".join(parts) + "\n"
