"""What a person waits for and pays in memory: imports in fresh interpreters, and a quick
notebook."""

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from benchmarks.timing import Row, Spread

HOME = Path(__file__).resolve().parent.parent
NOTEBOOKS = sorted(path.name for path in (HOME / "notebooks").glob("*.ipynb"))
SECONDS = {"fig1_regimes.ipynb": 20, "fig6_noise.ipynb": 20}  # the others may take 30
PATIENCE = 180  # seconds that a quick notebook may take before it is given up

_IMPORT = """
import time
begin = time.perf_counter()
import torch
torch_seconds = time.perf_counter() - begin
begin = time.perf_counter()
{statement}
print(torch_seconds, time.perf_counter() - begin)
"""

# A lean process starts the kernel: the highest memory of its children is the kernel's, and its own
# is left out.
_EXECUTE = """
import json, resource, sys, time
import papermill
begin = time.perf_counter()
papermill.execute_notebook(sys.argv[1], sys.argv[2], cwd=sys.argv[3], progress_bar=False, log_output=False)
peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
print(json.dumps({"seconds": time.perf_counter() - begin, "bytes": peak}))
"""


def imports(quick: bool) -> list[Row]:
    """Seconds that ``import lib`` takes after ``import torch``, in fresh interpreters that take
    turns.

    The second statement loads what a notebook uses (``carry_out`` and all below it); there is
    no target for it.
    """
    statements = ["import lib", "from lib import carry_out"]
    seconds = {statement: [] for statement in ["import torch", *statements]}
    for number in range((2 if quick else 6) + 1):
        for statement in statements:
            command = [sys.executable, "-c", _IMPORT.format(statement=statement)]
            output = subprocess.run(
                command, capture_output=True, text=True, check=True, cwd=HOME
            ).stdout
            both = [float(value) for value in output.split()]
            if number:  # the first interpreter of each fills the disk cache
                seconds["import torch"].append(both[0])
                seconds[statement].append(both[1])
    spreads = {name: Spread.of(values) for name, values in seconds.items()}
    return [
        Row(
            f"`{statement}` after `import torch` (itself {spreads['import torch'].median:.2f} s)",
            spreads[statement],
            0.2,
            "s",
            upper=True,
        )
        for statement in statements
    ]


def torch_alone() -> float:
    """Peak memory in GB of an interpreter that has only imported torch: what no notebook here
    can go below."""
    code = "import resource, sys, torch; print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == 'darwin' else 1024))"
    # a small parent: Linux counts it in
    lean = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {code!r}], check=True)"
    return (
        int(
            subprocess.run(
                [sys.executable, "-c", lean], capture_output=True, text=True, check=True
            ).stdout
        )
        / 1e9
    )


def notebooks(quick: bool) -> tuple[list[Row], list[str]]:
    """Peak memory of the kernel and wall time, kernel start included, with an empty store; and what
    was skipped.

    Each notebook runs at its defaults (preset quick, embedded data). Memory is the highest
    resident set.
    """
    rows, skipped = [], []
    for name in NOTEBOOKS:
        notebook = HOME / "notebooks" / name
        if not notebook.exists():
            skipped.append(f"{name}: there is no such notebook yet")
            continue
        results = []
        for _ in range(1):
            with tempfile.TemporaryDirectory() as folder:
                command = [
                    sys.executable,
                    "-c",
                    _EXECUTE,
                    str(notebook),
                    str(Path(folder, "out.ipynb")),
                    str(notebook.parent),
                ]
                environment = {**os.environ, "SPARSITY_RUNS": str(Path(folder, "runs"))}
                try:
                    done = subprocess.run(
                        command, capture_output=True, text=True, env=environment, timeout=PATIENCE
                    )
                except subprocess.TimeoutExpired:
                    skipped.append(f"{name}: it had not finished after {PATIENCE} s")
                    break
            if done.returncode:
                skipped.append(
                    f"{name}: it failed: {(done.stderr.strip().splitlines() or ['no message'])[-1][:200]}"
                )
                break
            results.append(json.loads(done.stdout.splitlines()[-1]))
        else:
            rows.append(
                Row(
                    f"{name}: peak memory of the kernel",
                    Spread.of(r["bytes"] / 1e9 for r in results),
                    1,
                    "GB",
                    upper=True,
                )
            )
            allowed = SECONDS.get(name, 30)
            rows.append(
                Row(
                    f"{name}: wall time with kernel start",
                    Spread.of(r["seconds"] for r in results),
                    allowed,
                    "s",
                    upper=True,
                )
            )
    return rows, skipped
