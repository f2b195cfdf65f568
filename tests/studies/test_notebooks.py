"""The notebooks as papermill, a shell and a reader meet them: their form, their parameters, and wrong ones."""

import json
import os
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest
from papermill.cli import _resolve_type
from papermill.iorw import load_notebook_node
from papermill.parameterize import parameterize_notebook

from lib import claims, files
from lib.specs.fields import ParameterError
from studies import presets

NOTEBOOKS = sorted((files.HOME / "notebooks").glob("*.ipynb"))
FIGURES = [path for path in NOTEBOOKS if path.stem in presets.catalogue()]


def read(path):
    return nbformat.read(path, as_version=4)


def tagged(notebook, tag):
    return [c for c in notebook.cells if tag in c.metadata.get("tags", [])]


def test_every_figure_has_a_notebook_and_its_claims():
    assert {path.stem for path in FIGURES} == set(presets.catalogue())
    for path in FIGURES:
        assert claims.of_figure(path.stem)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)
def test_form(path):
    """One cell of parameters, literals only, one ``=`` a line; saved with its outputs, a figure and no error."""
    notebook = read(path)
    (cell,) = tagged(notebook, "parameters")
    for line in cell.source.splitlines():
        assert line.count("=") == 1, line
        compile(line.split("=", 1)[1].strip(), str(path), "eval")
    code = [c for c in notebook.cells if c.cell_type == "code"]
    assert all(c.execution_count for c in code), "saved without having been run"
    outputs = [o for c in code for o in c.outputs]
    assert not [o for o in outputs if o.output_type == "error"]
    assert [o for o in outputs if "image/png" in o.get("data", {})], (
        "a reader on the web sees no figure"
    )
    assert tagged(notebook, "nbval-check-output"), "no invariant is checked"
    assert str(Path.home()) not in json.dumps(notebook), "a path of the machine that made it"


def validate(path, **given):
    """Run a notebook's cells up to its validation, as papermill would with ``-p name value``; returns its settings."""
    given = {name: _resolve_type(value) for name, value in given.items()}
    notebook = parameterize_notebook(load_notebook_node(str(path)), given)
    namespace = {"__name__": "__main__"}
    for cell in notebook.cells:
        if cell.cell_type == "code":
            exec(compile(cell.source, path.name, "exec"), namespace)
        if "p" in namespace:
            return namespace["p"]
    raise AssertionError("no cell made the settings p")


FIG6 = next(path for path in FIGURES if path.stem == "fig6_noise")


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"sparsity": "1.5"}, ["sparsity", "1.5", "less than 1"]),
        ({"sparsity": "-0.1"}, ["sparsity", "-0.1", "greater than or equal to 0"]),
        ({"sparsity": "abc"}, ["sparsity", "abc", "number"]),
        ({"sparsity": "nan"}, ["sparsity", "nan", "finite"]),
        ({"preset": "papre"}, ["preset", "papre", "quick, desktop, paper"]),
        ({"dataset": "imagenette"}, ["dataset", "imagenette", "digits, bits12, mnist"]),
        ({"epochs": "-3"}, ["epochs", "-3", "greater than or equal to 0"]),
        ({"seeds": "0"}, ["seeds", "0", "at least 1"]),
        ({"seeds": "[1,1]"}, ["seeds", "once"]),
        ({"seeds": "[1,x]"}, ["seeds", "[1,x]", "no list"]),
        ({"sparsty": "0.9"}, ["sparsty", "0.9", "did you mean 'sparsity'"]),
        ({"sparsities": "[0.9]"}, ["sparsities", "does not exist here"]),
        ({"noise": "1.2"}, ["noise", "1.2", "less than or equal to 1"]),
    ],
)
def test_wrong_parameters_stop_before_any_work(given, said, monkeypatch):
    """Each names the parameter, its value and what is allowed, and nothing is trained."""
    monkeypatch.setattr(
        "lib.training.loop.Training.__init__", lambda *_: pytest.fail("training began")
    )
    with pytest.raises(ParameterError) as caught:
        validate(FIG6, **given)
    for part in said:
        assert part in str(caught.value)


@pytest.mark.parametrize(
    ("given", "name", "value"),
    [
        ({"seeds": "3"}, "seeds", (0, 1, 2)),
        ({"seeds": "[1,2]"}, "seeds", (1, 2)),
        ({"sparsity": "0.9"}, "sparsity", 0.9),
        ({"widths": "[30, 20]"}, "widths", (30, 20)),
        ({"widths": "30"}, "widths", (30,)),
        (
            {"nesterov": "true"},
            "nesterov",
            True,
        ),  # a setting that the parameters cell does not list
        ({"milestones": "[]"}, "milestones", ()),
        ({"preset": "paper", "epochs": "2"}, "batch_size", 128),
    ],
)
def test_meaningful_parameters_arrive(given, name, value):
    assert getattr(validate(FIG6, **given), name) == value


def papermill(folder, *arguments):
    """papermill in another folder than the project's, as a shell would call it."""
    command = [
        sys.executable,
        "-m",
        "papermill",
        str(FIG6),
        "out.ipynb",
        "--no-progress-bar",
        *arguments,
    ]
    environment = {**os.environ, "SPARSITY_RUNS": str(folder / "runs")}
    return subprocess.run(
        command,
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )


def test_a_wrong_parameter_on_the_command_line(tmp_path):
    """The whole way: papermill fails, says why, and no run exists."""
    done = papermill(tmp_path, "-p", "sparsty", "0.9", "-p", "seeds", "1")
    assert done.returncode != 0
    assert (
        "parameter 'sparsty' (= 0.9) does not exist here (did you mean 'sparsity'?)" in done.stderr
    )
    assert not list(tmp_path.glob("runs/finished/*/*"))


def test_more_examples_than_there_are(tmp_path):
    done = papermill(tmp_path, "-p", "train_examples", "5000")
    assert done.returncode != 0
    assert "train_examples is 5000; 'digits' has 1 to 1000 train examples" in done.stderr
    assert not list(tmp_path.glob("runs/finished/*/*"))


def test_the_command_of_the_readme_from_another_folder(tmp_path):
    """A small version end to end, with its tables and manifest saved: the invariants hold in what was written."""
    import pandas as pd

    small = {
        "sparsity": 0.95,
        "seeds": 2,
        "epochs": 4,
        "sparse_epochs": 4,
        "widths": "[20]",
        "save_to": str(tmp_path / "saved"),
    }
    done = papermill(
        tmp_path, *(word for name, value in small.items() for word in ("-p", name, str(value)))
    )
    assert done.returncode == 0, done.stderr
    made = json.loads((tmp_path / "saved" / "manifest.json").read_text())
    final = pd.read_csv(tmp_path / "saved" / "final.csv")
    assert made["runs"] == len(final) == 12
    assert made["parameters"]["sparsity"] == 0.95
    assert (
        final.loc[final["solution"] != "sol_d", "pruned"] == round(0.95 * final["prunable"].max())
    ).all()
    assert (tmp_path / "saved" / "figure.png").stat().st_size > 10_000
    assert set(made["verdicts"]) == set(claims.of_figure("fig6_noise"))


def test_badges_are_in_step_with_the_address():
    done = subprocess.run(
        [sys.executable, "-m", "binder.badges", "--check"],
        cwd=files.HOME,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout
