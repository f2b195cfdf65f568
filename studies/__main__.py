"""The studies from a shell: ``python -m studies run fig6 --sparsity 0.95 --preset desktop``.

Every command takes a figure by the beginning of its name (``fig6``), or a part of it (``noise``),
and its parameters as ``--name value``. A wrong one is answered in one line before any work.
"""

import argparse
import ast
import difflib
import json
import shlex
import subprocess
import sys
from pathlib import Path

from lib import files

NOTEBOOKS = files.HOME / "notebooks"
REPOSITORY = "https://github.com/price-of-sparsity/price-of-sparsity"  # as in pyproject.toml


def notebook_of(short: str) -> Path:
    """The notebook that a ``short`` name means; raises ``ValueError`` for none, or for several.

    >>> notebook_of("fig6").stem, notebook_of("early_rule").stem, notebook_of("curvature").stem
    ('fig6_noise', 'early_rule', 'table2_curvature')
    """
    names = sorted(path.stem for path in NOTEBOOKS.glob("*.ipynb"))
    found = [name for name in names if f"{name}_".startswith(f"{short}_")] or [
        name for name in names if f"_{short}_" in f"_{name}_"
    ]
    if len(found) != 1:
        near = found or difflib.get_close_matches(short, names, cutoff=0.4) or names
        raise ValueError(f"figure is {short!r}: give one, such as {' or '.join(near)}")
    return NOTEBOOKS / f"{found[0]}.ipynb"


def pairs_of(words: list[str]) -> dict[str, str]:
    """Parameters by name from ``--name value`` or ``--name=value``; ``ValueError`` for others.

    >>> pairs_of(["--sparsity", "0.95", "--sparse-epochs=3"])
    {'sparsity': '0.95', 'sparse_epochs': '3'}
    """
    pairs = [p for w in words for p in (w.split("=", 1) if w.startswith("--") else [w])]
    names, values = pairs[::2], pairs[1::2]
    if len(names) != len(values) or not all(name.startswith("--") for name in names):
        raise ValueError(f"{shlex.join(words)!r}: give pairs, --name value, as --sparsity 0.95")
    return {n[2:].replace("-", "_"): value for n, value in zip(names, values, strict=True)}


def none_of(parameters: dict) -> None:
    """Raise ``ValueError`` where there are ``parameters``: what would be ignored is refused."""
    if parameters:
        raise ValueError(f"--{' --'.join(parameters)}: none is taken here; `run` takes them")


def cell_of(path: Path) -> list[str]:
    """The lines of a notebook's parameters cell."""
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    return next(c["source"] for c in cells if "parameters" in c["metadata"].get("tags", []))


def check(path: Path, parameters: dict) -> None:
    """Raise ``ValueError``, in one line, for parameters that a notebook does not take.

    One with presets has their check. Of another the names are those of its parameters cell, and
    values are checked where figures have the same parameter.
    """
    from studies import choices, presets

    if path.stem in presets.catalogue():
        presets.settings(path.stem, **parameters)
        return
    cell = ast.parse("".join(cell_of(path)))
    choices.known(parameters, [node.id for node in ast.walk(cell) if isinstance(node, ast.Name)])
    shared = parameters.keys() & presets.Given.model_fields.keys()
    presets.checked(**{name: parameters[name] for name in shared})


def run(path: Path, parameters: dict) -> int:
    """Check the parameters, then hand over to papermill; ``--out`` is where the copy goes."""
    out = Path(parameters.pop("out", f"out/{path.name}"))
    check(path, parameters)
    words = [word for pair in parameters.items() for word in ("-p", *pair)]
    command = ["papermill", str(path), str(out), *words]
    print(shlex.join(command), flush=True)
    out.parent.mkdir(parents=True, exist_ok=True)
    return subprocess.call([sys.executable, "-m", *command])


def params(path: Path, parameters: dict) -> int:
    """Print every parameter: its value, where that comes from, and what it means."""
    from studies import presets

    cell = cell_of(path)
    if path.stem not in presets.catalogue():
        none_of(parameters)  # its cell says all
        print("".join(cell))
        return 0
    chosen = presets.settings(path.stem, **parameters)
    told = {line.split(" =")[0]: line.partition("  # ")[2].strip() for line in cell}
    for name in presets.own(path.stem):
        preset = chosen.preset if name in chosen.model_fields_set else "default"
        source, value = "given" if name in parameters else preset, getattr(chosen, name)
        meaning = told.get(name) or presets.Settings.model_fields[name].description or ""
        print(f"{name:<18} {source:<8} {value!s:<28} {meaning}".rstrip())
    return 0


def cost(path: Path, parameters: dict) -> int:
    """Print what the figure's plan would train here, without training it."""
    from studies import cost

    check(path, parameters)
    print(cost.report(path, parameters))
    return 0


def verdicts(path: Path | None, parameters: dict) -> int:
    """Print the verdict on every claim, or on those of one figure, as the scoreboard has it."""
    none_of(parameters)
    board = (files.HOME / "results" / "scoreboard.md").read_text(encoding="utf-8")
    for section in board.split("\n## ")[1:]:
        lines = section.splitlines()
        for line in lines if path is None or lines[0] == path.stem else []:
            if line.startswith("| `"):
                claim, verdict, evidence, *_ = line.removeprefix("| ").split(" | ")
                print(f"{verdict.split('**')[1]:<17} {evidence.split(':')[0]:<9} {claim}")
    return 0


def main(words: list[str] | None = None) -> int:
    """The command line; returns the exit status, 2 for what it cannot do."""
    parser = argparse.ArgumentParser("sparsity", description=str(__doc__).split("\n\n")[1])
    commands = parser.add_subparsers(required=True)
    for do in (run, params, cost, verdicts):
        command = commands.add_parser(do.__name__, help=do.__doc__, description=do.__doc__)
        command.add_argument("figure", nargs="?" if do is verdicts else None)
        command.add_argument("parameters", nargs=argparse.REMAINDER, metavar="--name value")
        command.set_defaults(do=do)
    asked = parser.parse_args(words)
    try:
        if not NOTEBOOKS.is_dir():
            raise OSError(f"no notebooks are here: clone {REPOSITORY} and run this in its folder")
        path = notebook_of(asked.figure) if asked.figure else None
        return asked.do(path, pairs_of(asked.parameters))
    except (ValueError, OSError) as error:
        parser.exit(2, f"sparsity: {error}\n")


if __name__ == "__main__":
    sys.exit(main())
