"""The explorer: what it finds, what it says where something is missing, a reader's own store."""

import subprocess
import sys
import types
from pathlib import Path

import nbformat
import pytest
import torch
from IPython.core.inputtransformer2 import TransformerManager

from binder import badges
from lib import files
from lib.runs.store import Finished, Store
from lib.specs.run import key_of

HERE = files.HOME
CELLS = nbformat.read(files.HOME / "notebooks" / "explore.ipynb", as_version=4).cells
CODE = [TransformerManager().transform_cell(c.source) for c in CELLS if c.cell_type == "code"]


def explored(namespace=None, **given):
    """The namespace of the notebook after all its cells, with these parameters."""
    namespace = {} if namespace is None else namespace
    for number, source in enumerate(CODE):
        exec(compile(source, f"cell {number}", "exec"), namespace)
        if not number:
            namespace |= given
    return namespace


@pytest.fixture
def alone(tmp_path, monkeypatch):
    """The packages without results, and an empty run store; returns its folder."""
    monkeypatch.setattr(files, "HOME", tmp_path / "packages")
    monkeypatch.setenv("SPARSITY_RUNS", str(tmp_path / "runs"))
    return tmp_path / "runs"


def keep(folder, accuracy, dataset="digits", solution="sol_d", seed=0, parent=None, **recipe):
    """Put a run of two measured epochs into a store; returns its key."""
    made = {
        "solution": solution, "seed": seed, "format": 2, "network": {"name": "mlp"},
        "data": {"name": dataset, "fingerprint": "0123"},
        "recipe": {"epochs": 1, "batch_size": 32, "lr": 0.1, **recipe},
    }  # fmt: skip
    if parent:
        made |= {"parent": parent, "pruning": {"sparsity": 0.9}}
    history = [{"epoch": t, "test_accuracy": accuracy * t} for t in (0, 1)]
    key = key_of(made)
    Store(folder).put(Finished(key, made, history, {}, lambda: {"weights": torch.ones(1)}))
    return key


def test_without_results_and_runs_it_says_what_to_do(alone, capsys):
    made = explored()
    said = capsys.readouterr().out
    assert "There are no committed results in" in said
    address, tag = badges.address()
    assert f"fetch them by git clone --depth 1 --branch {tag} {address} and open" in said
    assert f"The run store {alone} has no finished runs" in said
    assert made["RESULTS"] == {}


def test_without_results_ones_own_runs_are_shown(alone, capsys):
    keep(alone, 0.5)
    made = explored()
    assert "There are no committed results in" in capsys.readouterr().out
    assert [*made["RESULTS"]] == [made["OWN"]]
    assert bytes(made["sides"][0].image.value).startswith(b"\x89PNG")


def test_a_mistyped_folder_is_said_and_the_rest_is_shown(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("SPARSITY_RUNS", str(tmp_path))
    made = explored(results_folder="/none/here")
    assert "results_folder is '/none/here': no results lie there." in capsys.readouterr().out
    assert [side.where[1].value for side in made["sides"]] == ["fig6_noise", "fig6_noise"]
    assert made["OWN"] not in made["RESULTS"]


def test_ones_own_tables_stand_beside_the_committed_ones(tmp_path, monkeypatch, capsys):
    """Whether the folder itself is given or one above it."""
    monkeypatch.setenv("SPARSITY_RUNS", str(tmp_path / "none"))
    saved = files.HOME / "results" / "fig1_regimes" / "quick-digits"
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine").symlink_to(saved)
    made = explored(results_folder=str(tmp_path / "out"))
    left, right = made["sides"]
    assert [c.value for c in left.where] == ["price", "fig1_regimes", "yours: mine"]
    assert [c.value for c in right.where] == ["price", "fig1_regimes", "quick-digits"]
    assert left.image.value
    assert "no results lie there" not in capsys.readouterr().out


def test_runs_of_ones_own_are_chosen_by_data_and_told_apart(alone):
    """What they differ in is named, can be held, and lines drawn by it; no mean hides it."""
    for seed in (0, 1):
        slow = keep(alone, 0.4, seed=seed, lr=0.05)
        fast = keep(alone, 0.8, seed=seed)
        for parent in (slow, fast):
            keep(alone, 0.6, solution="sol_f", seed=seed, parent=parent, epochs=2)
    keep(alone, 0.9, dataset="bits12")
    made = explored()
    tables = made["figures_of"](made["OWN"])
    assert {name: [*under] for name, under in tables.items()} == {
        "bits12": ["mlp"],
        "digits": ["mlp"],
    }
    table = tables["digits"]["mlp"]
    assert table.attrs["settings"] == ["lr", "parent_lr"]  # epochs go with the solution
    assert made["measures"](table) == ["test_accuracy"]
    how = {"measure": "test_accuracy", "along": "epoch", "lines": "solution", "until": 1}
    assert (
        made["mixed"](table, held={}, **how) == "Means over seeds and over: lr (2), parent_lr (2)."
    )
    held = {"lr": 0.1}
    assert made["mixed"](table, held=held, **how) == "Means over seeds and over: parent_lr (2)."
    held["parent_lr"] = 0.05
    assert made["mixed"](table, held=held, **how) == "Means over seeds."
    found = made["numbers"](table, held={"solution": "sol_d"}, **{**how, "lines": "lr"})
    assert found[["lr", "test accuracy", "networks"]].to_numpy().tolist() == [
        [0.05, 0.4, 2],
        [0.1, 0.8, 2],
    ]
    side = made["Side"](made["OWN"], "digits", "mlp")
    assert side.held["lr"].options == ("all", 0.05, 0.1)
    assert side.held["lr"] in side.box.children
    assert side.where[1].description == "data set"
    assert "lr (2)" in side.told.value
    side.held["lr"].value = 0.05
    assert "<td>0.4</td>" in side.told.value
    side.where[1].value = "bits12"
    assert side.held["lr"] not in side.box.children
    assert "<td>0.9</td>" in side.told.value


def test_on_colab_the_results_are_fetched_at_the_tag(alone, monkeypatch, capsys):
    """By the address and tag from which the packages are installed there."""
    for name in ("google", "google.colab"):
        monkeypatch.setitem(sys.modules, name, types.ModuleType(name))
    said, namespace = [], {}

    def system(command):
        said.append(command.format(**{name: namespace[name] for name in ("CLONE", "FETCHED")}))
        place = Path(said[-1].split()[-1], "results", "fig6_noise")
        place.mkdir(parents=True)
        (place / "quick-digits").symlink_to(HERE / "results" / "fig6_noise" / "quick-digits")

    shell = types.SimpleNamespace(run_line_magic=lambda *words: said.append(words), system=system)
    explored(namespace, get_ipython=lambda: shell)
    address, tag = badges.address()
    assert said[0] == ("pip", f"install -q --no-deps git+{address}@{tag}")
    assert said[1].startswith(f"git clone --depth 1 --branch {tag} {address} ")
    assert namespace["RESULTS"]["price"]["fig6_noise"].keys() == {"quick-digits"}
    assert "no committed results" not in capsys.readouterr().out


def test_torch_is_not_imported_for_committed_results():
    """The time until something is seen."""
    script = "import sys\n" + "\n".join(CODE) + "\nassert 'torch' not in sys.modules"
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=HERE, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
