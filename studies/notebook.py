"""What every notebook does around its experiment: parameters, where it runs, a manifest."""

import ast
import datetime
import importlib
import json
import platform
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch

from lib.files import whole_folder
from lib.runs import cluster, results
from lib.runs.store import Store
from lib.runs.sweep import choose_device
from lib.specs.fields import ParameterError
from studies import ledger, presets
from studies.evidence import lost
from studies.figures import png
from studies.given import WrongParameterError
from studies.given import checked as checked
from studies.presets import Settings
from studies.shown import explorer as explorer
from studies.shown import show_evidence as show_evidence
from studies.shown import show_rules as show_rules
from studies.shown import show_verdicts as show_verdicts


def parameters(figure: str, namespace: dict) -> Settings:
    """The validated settings of a notebook; ``namespace`` is its ``globals()``.

    Parameters are what the parameters cell assigns, as it was last run, and what cells of plain
    values between it and this one put over it: papermill's, or a reader's. What other cells
    assigned is none, so that a notebook can be run again, whole or in part. ``None`` means the
    preset's value. papermill only warns of a misspelt name, and Jupyter says nothing: here it stops
    the notebook. Raises ``ParameterError`` naming each wrong parameter, its value and what is
    allowed.
    """
    given = _given(namespace)
    try:
        chosen = presets.settings(figure, **{**given, "preset": given.get("preset") or "quick"})
        cluster.chosen = chosen.cluster and cluster.where(chosen.cluster)
        if chosen.save_to:
            _check_folder(chosen.save_to)
    except ParameterError as error:
        raise WrongParameterError(str(error)) from None
    return chosen


def _given(namespace: dict) -> dict:
    """The parameters by name, from the history of the kernel.

    Where a kernel keeps none (nbval's), or the namespace is no kernel's (a script's, a test's), all
    plain values there are, but for constants in capitals.
    """
    shell: Any = sys.modules["IPython"].get_ipython() if "IPython" in sys.modules else None
    here = shell is not None and shell.user_ns is namespace
    history = shell.history_manager.input_hist_parsed[1:] if here else []
    if not history:
        return {
            name: value
            for name, value in namespace.items()
            if isinstance(value, str | int | float | list | tuple | dict | None)
            and name.islower() and not name.startswith("__")
            and name not in (shell.user_ns_hidden if here else ())
        }  # fmt: skip
    given: dict = {}
    for cell in reversed(history):
        assigned, plain = _assigned(cell, namespace)
        injected = cell.startswith("# Parameters")  # as papermill heads its cell
        if plain or injected or "preset" in assigned:
            given = {**assigned, **given}
            if "preset" in assigned and not injected:
                break  # that was the parameters cell
    return given


def _assigned(cell: str, namespace: dict) -> tuple[dict, bool]:
    """(name -> value of what a cell assigns by itself, whether it does nothing but that)."""
    try:
        body = ast.parse(cell).body
    except SyntaxError:
        return {}, False
    found: dict = {}
    plain = True
    for statement in body:
        names = [
            node.id
            for node in ast.walk(statement)
            if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)
        ]
        found |= {name: namespace.get(name) for name in names}
        try:  # a literal is what the cell says, whatever became of the name since
            value = ast.literal_eval(getattr(statement, "value", statement))
            if len(names) == len(getattr(statement, "targets", ())):  # no unpacking
                found |= dict.fromkeys(names, value)
        except (ValueError, TypeError):
            plain = False
    return found, plain and bool(found)


def _check_folder(folder: str) -> None:
    """Raise ``ParameterError`` unless ``folder`` can be made, or written into."""
    try:
        path = Path(folder).expanduser().absolute()
        there = next(place for place in (path, *path.parents) if place.exists())
        tempfile.TemporaryDirectory(dir=there, prefix=f".{path.name}.").cleanup()
    except (OSError, ValueError) as error:
        raise ParameterError(
            f"save_to is {folder!r}: it must name a folder that can be written ({error})"
        ) from error


# Parameters that change no number: where things lie, and what computes.
_PLACES = {"save_to", "runs_folder", "folder", "plugin", "device", "cluster"}


def _apart(settings, usual):
    """What of ``settings`` is not as in the ``usual`` ones, in words; seeds in a row as a range."""
    apart = {n: v for n, v in settings if n not in _PLACES and v != getattr(usual, n)}
    apart = {n: list(v) if isinstance(v, tuple) else v for n, v in apart.items()}  # as one types it
    seeds = apart.get("seeds", [])
    if len(seeds) > 2 and seeds == [*range(seeds[0], seeds[-1] + 1)]:
        apart["seeds"] = f"{seeds[0]} to {seeds[-1]}"
    return [f"{name.replace('_', ' ')} {value}" for name, value in apart.items()]


def title(settings: Settings, table=None, *said: str) -> str:
    """The title of a figure: data, network, what else is ``said`` of it, preset and seeds, every
    setting that is not the preset's, and how many runs of the ``table`` diverged."""
    named = {"dataset", "network"} & set(presets.own(settings.figure))
    here = settings.model_dump(include=named)
    usual = presets.settings(settings.figure, settings.preset, **here)
    parts = [
        settings.dataset,
        ", ".join(settings.networks or [settings.network]),
        *said,
        f"preset {settings.preset}",
        f"{len(settings.seeds)} seed{'s' * (len(settings.seeds) > 1)}",
        *_apart(settings, usual),
        *lost(table),
    ]
    return ", ".join(dict.fromkeys(parts))


def speaks_of(settings: Settings) -> None:
    """Print how this run differs from the preset of which the discussion below was written."""
    apart = "; ".join(_apart(settings, presets.settings(settings.figure)))
    here = f"This run is another: {apart}." if apart else "This run is that preset, as it is now."
    print(f"The discussion below was written of preset quick and of results that it names. {here}")


def describe(settings: Settings) -> None:
    """Print preset, data, network, device and versions, and the parameters in effect, with a star
    where they are not the preset's: what a reader must know of a figure."""
    device, name = choose_device(settings.device), f"{torch.get_num_threads()} threads of the CPU"
    if device.type == "cuda":
        name = torch.cuda.get_device_name(device)
    print(title(settings))
    print(f"on {name}; Python {platform.python_version()}, torch {torch.__version__}")
    usual = presets.settings(settings.figure, settings.preset)
    own = set(presets.own(settings.figure)) - _PLACES
    told = [
        f"{name:>17} {value}{'*' * (value != getattr(usual, name))}"
        for name, value in settings.model_dump(include=own, exclude_none=True).items()
    ]
    told.sort(key=lambda line: len(line) > 32)  # the long ones below
    print("parameters in effect (*: not the preset's):")
    for begin in range(0, len(told), 3):
        print("".join(f"{line:<33}" for line in told[begin : begin + 3]).rstrip())


def account(verdicts) -> None:
    """Print how many claims came out how, and how many would by chance."""
    print(ledger.account(verdicts))


def manifest(
    settings: Settings,
    table,
    verdicts,
    seconds: float,
    figures: dict | None = None,
    tables: dict | None = None,
) -> dict:
    """The last word of a notebook: parameters, keys, versions, verdicts, the machines that
    networks were trained on and the seconds of all sittings; that it is there says that all ran.

    With the parameter ``save_to``, the manifest, the final table, the measures by epoch, the
    verdicts and the ``figures`` and further ``tables`` (file name -> figure, or DataFrame) appear
    in that folder, together. Returns the manifest.
    """
    hidden, store = _PLACES - {"device"}, Store(settings.runs_folder)
    there = [key for key in table["key"].unique() if store.has(key)]  # none of untrained networks
    infos = [store.finished(key).info for key in there]
    content = {
        "parameters": settings.model_dump(mode="json", exclude=hidden),
        "runs": len(table["key"].unique()),
        "diverged": int(table.groupby("key")["diverged"].first().sum()),
        "keys": sorted(table["key"].unique()),
        "verdicts": dict(zip(verdicts["claim"], verdicts["verdict"], strict=True)),
        "rules": {claim: ledger.held("rules.lock")[claim]["hash"] for claim in verdicts["claim"]},
        "notebook": ledger.notebook_hash(ledger.ledger()[verdicts["claim"].iloc[0]]["figure"]),
        **_provenance(),
        "device": str(choose_device(settings.device)),
        "trained_on": sorted({info["device"] for info in infos}),
        "notebook_seconds": round(seconds, 1),
        "training_seconds": round(sum(info.get("seconds", 0.0) for info in infos), 1),
    }
    if settings.save_to:
        by_epoch = table.sort_values("epoch", kind="stable").groupby("key", sort=False)
        last = results.final(table) if "train_loss" in table else by_epoch.tail(1)
        each = table.drop(columns=["mask", "pruned", "prunable"])
        saved = {"final.csv": last, "by_epoch.csv.gz": each, "verdicts.csv": verdicts}
        contents = {**saved, **(tables or {}), **(figures or {}), "manifest.json": content}
        _save(Path(settings.save_to).expanduser(), contents)
    shown = {name: value for name, value in content.items() if name not in ("keys", "verdicts")}
    shown["parameters"] = settings.model_dump(mode="json", exclude=hidden, exclude_unset=True)
    print(json.dumps(shown))
    keys = content["keys"]
    print(f"{len(keys)} runs, keys {keys[0][:8]} to {keys[-1][:8]}; every cell ran")
    return content


def _provenance() -> dict:
    """Commit (None outside a checkout), whether the tree was clean, date, versions, processor."""

    def said(*command, otherwise=None):
        done = subprocess.run(command, cwd=Path(__file__).parent, capture_output=True, text=True)
        return otherwise if done.returncode else done.stdout.strip()

    model = said("grep", "-m1", "model name", "/proc/cpuinfo", otherwise=platform.processor())
    return {
        "commit": said("git", "rev-parse", "HEAD"),
        "clean": said("git", "status", "--porcelain") == "",
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "lib": importlib.import_module("lib").__version__,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "processor": model.rpartition(": ")[2],
    }


def _save(place: Path, contents: dict) -> None:
    """Each of ``contents`` (file name -> table, figure, values) in one folder: all, or none."""
    with whole_folder(place, "manifest.json") as folder:
        for name, held in contents.items():
            if hasattr(held, "to_csv"):
                held.to_csv(folder / name, index=False, float_format="%.6g")
            elif isinstance(held, dict):
                (folder / name).write_text(json.dumps(held, indent=1) + "\n", encoding="utf-8")
            else:
                (folder / name).write_bytes(png(held))
