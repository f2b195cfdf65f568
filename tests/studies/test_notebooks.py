"""The notebooks as papermill, a shell and a reader meet them: form, parameters, and wrong ones."""

import json
import os
import subprocess
import sys
from pathlib import Path

import matplotlib.pyplot as plt
import nbformat
import pandas as pd
import pytest
from IPython.core.interactiveshell import InteractiveShell
from papermill.cli import _resolve_type
from papermill.iorw import load_notebook_node
from papermill.parameterize import parameterize_notebook
from traitlets.config import Config

from lib import files
from lib.specs.fields import ParameterError
from studies import notebook as glue
from studies import presets

NOTEBOOKS = sorted((files.HOME / "notebooks").glob("*.ipynb"))
FIGURES = [path for path in NOTEBOOKS if path.stem in presets.catalogue()]
FIG6 = next(path for path in FIGURES if path.stem == "fig6_noise")


def read(path):
    return nbformat.read(path, as_version=4)


def tagged(notebook, tag):
    return [c for c in notebook.cells if tag in c.metadata.get("tags", [])]


def test_every_figure_has_a_notebook_and_its_claims():
    ledger = pytest.importorskip("studies.ledger")
    assert {path.stem for path in FIGURES} == set(presets.catalogue())
    for path in FIGURES:
        assert ledger.of_figure(path.stem)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)
def test_form(path):
    """One cell of parameters, literals only, one ``=`` a line; saved with a figure and no error."""
    notebook = read(path)
    (cell,) = tagged(notebook, "parameters")
    for line in cell.source.splitlines():
        assert line.count("=") == 1, line
        compile(line.split("=", 1)[1].strip(), str(path), "eval")
    code = [c for c in notebook.cells if c.cell_type == "code"]
    assert all(c.execution_count for c in code), "saved without having been run"
    outputs = [o for c in code for o in c.outputs]
    assert not [o for o in outputs if o.output_type == "error"]
    assert [o for o in outputs if "image/png" in o.get("data", {})], "no figure on the web"
    assert tagged(notebook, "nbval-check-output"), "no invariant is checked"
    assert str(Path.home()) not in json.dumps(notebook), "a path of the machine that made it"


@pytest.mark.parametrize("path", FIGURES, ids=lambda p: p.stem)
def test_first_cells(path):
    """The parameters are the figure's own; the project is found in at most five lines."""
    notebook = read(path)
    (cell,) = tagged(notebook, "parameters")
    names = [line.split(" = ")[0] for line in cell.source.splitlines()]
    assert set(names) <= set(presets.own(path.stem))
    assert {"preset", "plugin", "device", "save_to"} <= set(names)
    code = [c.source for c in notebook.cells if c.cell_type == "code"]
    finds = [line for line in code[1].splitlines() if line and not line.startswith("#")]
    assert len(finds) <= 5
    assert all(len(line) <= 100 for source in code[:2] for line in source.splitlines())


@pytest.mark.parametrize("path", FIGURES, ids=lambda p: p.stem)
def test_titles_and_the_discussion_say_of_what_they_speak(path):
    """Titles come from the settings, and a line above the static discussion says of which run."""
    cells = read(path).cells
    code = "\n".join(cell.source for cell in cells if cell.cell_type == "code")
    assert "notebook.title(p" in code
    discussed = next(n for n, cell in enumerate(cells) if cell.source.startswith("## What agrees"))
    assert cells[discussed - 1].source == "notebook.speaks_of(p)"


def test_a_title_names_every_setting_that_is_not_the_presets():
    made = presets.settings("fig6_noise")
    assert glue.title(made) == f"digits, mlp, preset quick, {len(made.seeds)} seeds"
    given = {"criterion": "random", "sparsity": 0.9, "seeds": 2}
    made = presets.settings("fig6_noise", **given)
    table = pd.DataFrame({"key": ["a", "a", "b"], "diverged": [True, True, False]})
    assert glue.title(made, table, "sparsity 0.9") == (
        "digits, mlp, sparsity 0.9, preset quick, 2 seeds, criterion random, seeds [0, 1], "
        "1 of 2 runs diverged"
    )
    row = presets.settings("fig6_noise", seeds=[20, 21, 22, 23])
    assert glue.title(row) == "digits, mlp, preset quick, 4 seeds, seeds 20 to 23"
    desktop = presets.settings("fig6_noise", "desktop", device="cpu", save_to="x", seeds=5)
    assert glue.title(desktop).startswith("mnist, lenet-300-100, preset desktop, 5 seeds")
    assert "device" not in glue.title(desktop)
    sizes = presets.settings("early_fig4_sizes")
    assert glue.title(sizes).startswith("digits, mlp, lenet-300-100, preset")


def test_a_network_of_another_kind_has_its_own_widths():
    """They are no departure from the preset; the network stands in the title anyway."""
    made = presets.settings("fig6_noise", network="lenet-300-100")
    assert glue.title(made) == f"digits, lenet-300-100, preset quick, {len(made.seeds)} seeds"


def test_the_parameters_in_effect_are_printed_with_stars(capsys):
    """Every one of the figure's that has a value, once; a star where it is not the preset's."""
    made = presets.settings("fig6_noise", sparsity=0.9, save_to="there")
    glue.describe(made)
    lines = capsys.readouterr().out.splitlines()
    table = " ".join(lines[3:]).split("  ")
    told = dict(entry.strip().split(" ", 1) for entry in table if entry.strip())
    assert told["sparsity"] == "0.9*"
    assert (told["lr"], told["dataset"], told["widths"]) == ("0.1", "digits", "(200, 200)")
    assert len(lines) < 20
    assert not {"save_to", "figure", "noise_std", "init_scale"} & told.keys()


def test_an_explorer_leaves_a_picture(kernel):
    """It stands in the saved outputs, and changes in place when a menu does."""
    from IPython.utils.capture import capture_output

    drawn = []

    def draw(n):
        drawn.append(n)
        return plt.figure()

    kernel("pass")
    with capture_output() as said:
        glue.explorer(draw, n=[1, 2])
    picture, menus = said.outputs
    assert "image/png" in picture.data
    assert menus.data["text/plain"] == "menus, where a kernel runs: n"
    assert "application/vnd.jupyter.widget-view+json" in menus.data
    plt.close("all")
    assert drawn == [1]


def test_the_discussion_speaks_of_the_notebook_as_committed(capsys):
    glue.speaks_of(presets.settings("fig6_noise"))
    assert capsys.readouterr().out.endswith("This run is that preset, as it is now.\n")
    glue.speaks_of(presets.settings("fig6_noise", dataset="mnist", lr=0.5))
    assert capsys.readouterr().out.endswith("This run is another: dataset mnist; lr 0.5.\n")


# -- which names are parameters ----------------------------------------------------------------


@pytest.fixture
def kernel():
    """A kernel's shell, with its history in memory; a cell's error is raised."""
    config = Config()
    config.HistoryManager.hist_file = ":memory:"
    shell = InteractiveShell.instance(config=config)
    path = list(sys.path)

    def run(*cells, store_history=True):
        for cell in cells:
            shell.run_cell(cell, store_history=store_history).raise_error()
        return shell.user_ns.get("p")

    yield run
    InteractiveShell.clear_instance()
    sys.path[:] = path


def beginning(path, **given):
    """The cells of a notebook up to its validation, as papermill makes them of its ``-p``."""
    given = {name: _resolve_type(value) for name, value in given.items()}
    notebook = load_notebook_node(str(path))
    notebook = parameterize_notebook(notebook, given) if given else notebook
    code = [cell.source for cell in notebook.cells if cell.cell_type == "code"]
    calls = ("notebook.parameters(", "checked(")  # of notebooks with presets and without
    last = next(n for n, source in enumerate(code) if any(call in source for call in calls))
    return code[: last + 1]


# What a notebook leaves behind: names of parameters, others, a cell of plain values at its end.
LEFT_BEHIND = [
    "noise, scope, rewind = [str(each) for each in range(3)]\nrows = []",
    "for sparsity in ('a', 'b'):\n    widths = sparsity",
    "def half(x):\n    return x / 2",
    "p = p.model_copy(update={'epochs': 3})",
    "limit = 3\nsparsty = 0.9",
]


@pytest.mark.parametrize("path", FIGURES, ids=lambda p: p.stem)
def test_run_all_twice(path, kernel):
    """A second pass in the same kernel has the parameters of the first, whatever that assigned."""
    cells = beginning(path)
    first = kernel(*cells)
    assert first == presets.settings(path.stem)
    assert kernel(*LEFT_BEHIND) != first
    assert kernel(*cells) == first


def test_a_kernel_that_keeps_no_history(kernel):
    """nbval's: the parameters cell counts there too."""
    parameters, *rest = beginning(FIG6)
    edited = parameters.replace("seeds = None", "seeds = [4, 5]")
    assert kernel(edited, *rest, store_history=False).seeds == (4, 5)


def test_a_stray_name_in_a_kernel_that_keeps_no_history(kernel):
    with pytest.raises(ParameterError, match=r"'sparsty' .= 0.5. does not exist here"):
        kernel(*beginning(FIG6, sparsty="0.5"), store_history=False)


def test_run_all_twice_with_papermills_cell(kernel):
    """What it injected holds in both passes."""
    cells = beginning(FIG6, seeds="2", preset="desktop")
    first = kernel(*cells)
    assert (first.seeds, first.preset) == ((0, 1), "desktop")
    kernel(*LEFT_BEHIND)
    assert kernel(*cells) == first


def test_an_edited_cell_and_a_part_run_again(kernel):
    """The parameters cell as it was last run, also where the call alone is run after it."""
    parameters, *between, call = beginning(FIG6)
    kernel(parameters, *between, call, *LEFT_BEHIND)
    edited = parameters.replace("seeds = None", "seeds = [4, 5]")
    assert kernel(edited, call).seeds == (4, 5)
    kernel("for seeds in (7, 8):\n    pass")  # the notebook's own use of the name
    assert kernel(call).seeds == (4, 5)
    assert kernel(parameters, call).seeds == presets.settings("fig6_noise").seeds
    computed = parameters.replace("seeds = None", "seeds = list(range(3))")
    assert kernel(computed, *between, call).seeds == (0, 1, 2)


def test_a_cell_of_ones_own_below_the_parameters(kernel):
    """Plain values between the parameters cell and the call are a reader's parameters."""
    parameters, *rest = beginning(FIG6)
    assert kernel(parameters, "sparsity = 0.5\nseeds = 1", *rest).sparsity == 0.5
    with pytest.raises(ParameterError, match=r"'sparsty' .= 0.5. does not exist here"):
        kernel(parameters, "sparsty = 0.5", *rest)


STRAYS = ["data", "claims", "_seeds", "sparsty", "figure", "p", "In", "notebook", "patience"]


@pytest.mark.parametrize("name", STRAYS)
def test_a_stray_name_stops_the_run(name, kernel):
    """Also one that the notebook's own imports then take, or that begins with an underscore."""
    with pytest.raises(ParameterError, match=f"parameter '{name}' .* does not exist here"):
        kernel(*beginning(FIG6, **{name: "mnist"}))


def test_a_scripts_names_are_its_parameters():
    """Without a kernel the namespace tells: modules, functions and classes aside."""
    assert glue.parameters("fig6_noise", {"seeds": 2, "pd": pd, "run": read}).seeds == (0, 1)
    with pytest.raises(ParameterError, match="'_seeds'"):
        glue.parameters("fig6_noise", {"_seeds": 2, "__name__": "__main__"})


def test_parameters_of_a_notebook_without_presets(capsys):
    """Text, as papermill passes it, is understood; a wrong value ends the notebook with a line."""
    chosen = glue.checked(seeds="2", sparsity="0.9", runs_folder=None)
    assert (chosen.seeds, chosen.sparsity, chosen.runs_folder) == ((0, 1), 0.9, None)
    assert capsys.readouterr().out == "sparsity 0.9, seeds (0, 1), runs_folder None\n"
    with pytest.raises(glue.WrongParameterError, match="sparsity is 2: it should be less") as wrong:
        glue.checked(seeds=2, sparsity=2)
    assert len(wrong.value._render_traceback_()) == 1


WITHOUT_PRESETS = {"your_own": {"sparsity": "2"}, "explore": {"runs_folder": "3"}}


def test_every_notebook_has_presets_or_checks_its_parameters():
    assert {path.stem for path in NOTEBOOKS} - {path.stem for path in FIGURES} == {*WITHOUT_PRESETS}


@pytest.mark.parametrize("name", WITHOUT_PRESETS)
def test_notebooks_without_presets(name, kernel, capsys):
    """They print every parameter, and a wrong one ends them with a line."""
    path = FIG6.with_name(f"{name}.ipynb")
    (cell,) = tagged(read(path), "parameters")
    kernel(*beginning(path))
    told = capsys.readouterr().out.strip().splitlines()[-1]
    for line in cell.source.splitlines():
        assert f"{line.split(' = ')[0]} " in told
    wrong_one = WITHOUT_PRESETS[name]
    with pytest.raises(ParameterError, match=rf"^{next(iter(wrong_one))} is ") as wrong:
        kernel(*beginning(path, **wrong_one))
    assert len(wrong.value._render_traceback_()) == 1


def test_a_plugin_comes_with_the_parameters(kernel, tmp_path, monkeypatch):
    """Seen from the kernel's folder: papermill's caller's, or the notebook's."""
    from lib.registry import criterion

    monkeypatch.chdir(tmp_path)
    lines = ["from lib import criterion", "@criterion", "def mine(weights, generator, task):"]
    Path("own.py").write_text("\n".join([*lines, "    return weights"]))
    try:
        found = kernel(*beginning(FIG6, plugin="own.py", criterion="mine"))
        assert found.criterion == "mine"
    finally:
        criterion.forget("mine")


# -- wrong values ------------------------------------------------------------------------------


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
        ({"lr": "True"}, ["lr", "True", "a number"]),
        ({"seeds": "1000000000"}, ["seeds", "1000000000", "at most 10,000"]),
        ({"save_to": "/proc/none/here"}, ["save_to", "/proc/none/here", "can be written"]),
        ({"save_to": __file__}, ["save_to", __file__, "can be written"]),
        ({"plugin": "none.py"}, ["plugin", "none.py", ".py file"]),
    ],
)
def test_wrong_parameters_stop_before_any_work(given, said, kernel, monkeypatch):
    """Each names the parameter, its value and what is allowed, and nothing is trained."""
    monkeypatch.setattr(
        "lib.training.loop.Training.__init__", lambda *_: pytest.fail("training began")
    )
    with pytest.raises(ValueError) as caught:  # noqa: PT011
        kernel(*beginning(FIG6, **given))
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
def test_meaningful_parameters_arrive(given, name, value, kernel):
    assert getattr(kernel(*beginning(FIG6, **given)), name) == value


def papermill(folder, *arguments, path=FIG6):
    """papermill in another folder than the project's, as a shell would call it."""
    command = [
        sys.executable,
        "-m",
        "papermill",
        str(path),
        "out.ipynb",
        "--no-progress-bar",
        *arguments,
    ]
    environment = {**os.environ, "SPARSITY_RUNS": str(folder / "runs")}
    environment["PYTHONPATH"] = str(files.HOME)  # this tree, wherever it is installed from
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


SMALL = {"seeds": "1", "epochs": "2", "sparse_epochs": "2", "widths": "[10]"}


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"noise": "0"}, "no run has flipped_memorised; noise is 0."),
        ({"lr": "1e6", "widths": "[200, 200]"}, None),
    ],
)
def test_a_run_with_nothing_to_show_ends_with_a_sentence(given, said, tmp_path):
    """Without a measure the notebook says so; where all diverge it goes on, at chance."""
    words = [word for name, value in {**SMALL, **given}.items() for word in ("-p", name, value)]
    done = papermill(tmp_path, *words)
    assert (done.returncode == 0) == (said is None), done.stderr
    assert "KeyError" not in done.stderr
    if said:
        assert f"The notebook ends here: {said}" in done.stderr
        assert "evidence.py" not in done.stderr  # no traceback
    else:
        assert r"\"diverged\": 6" in Path(tmp_path, "out.ipynb").read_text()  # in its manifest


@pytest.mark.parametrize(
    ("figure", "said"),
    [
        ("flow_fig2_gradient_flow", None),
        ("flow_fig3_mask_updates", "no run has before and after; they are recorded at every mask"),
    ],
)
def test_flow_where_all_runs_diverge(figure, said, tmp_path):
    """The notebook goes on to its manifest, or ends with a sentence; its titles count them."""
    path = FIG6.with_name(f"{figure}.ipynb")
    done = papermill(tmp_path, "-p", "lr", "1e6", "-p", "seeds", "1", path=path)
    if said:
        assert f"The notebook ends here: {said}" in done.stderr
        assert "evidence.py" not in done.stderr  # no traceback
    else:
        assert done.returncode == 0, done.stderr
        assert r"\"diverged\": 15" in Path(tmp_path, "out.ipynb").read_text()


def test_more_examples_than_there_are(tmp_path):
    done = papermill(tmp_path, "-p", "train_examples", "5000")
    assert done.returncode != 0
    assert "train_examples is 5000: there are 1000 training examples" in done.stderr
    assert "notebook.py" not in done.stderr  # a line, no traceback
    assert not list(tmp_path.glob("runs/finished/*/*"))


def test_the_command_of_the_readme_from_another_folder(tmp_path):
    """A small version end to end, its tables and manifest saved: the invariants hold in them."""
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
    assert made["verdicts"]


# -- what is saved -----------------------------------------------------------------------------


CONTENT = {"table.csv": pd.DataFrame({"a": [1]}), "manifest.json": {"runs": 1}}


def test_what_is_saved_appears_whole_or_not_at_all(tmp_path):
    """A failure while writing leaves no folder, and an earlier one as it was."""
    place = tmp_path / "deep" / "saved"
    with pytest.raises(AttributeError):
        glue._save(place, {**CONTENT, "figure.png": "no figure"})
    assert not list(place.parent.iterdir())
    glue._save(place, {**CONTENT, "figure.png": plt.figure()})
    assert {path.name for path in place.iterdir()} == {*CONTENT, "figure.png"}
    (place / "notes.txt").write_text("a reader's own")
    before = (place / "table.csv").read_text()
    with pytest.raises(AttributeError):
        glue._save(place, {"table.csv": pd.DataFrame({"b": [2]}), "figure.png": "no figure"})
    assert (place / "table.csv").read_text() == before
    assert (place / "manifest.json").exists()
    glue._save(place, {**CONTENT, "table.csv": pd.DataFrame({"b": [2]})})
    assert (place / "table.csv").read_text() == "b\n2\n"
    assert (place / "notes.txt").exists()
    assert [path.name for path in place.parent.iterdir()] == ["saved"]
    plt.close("all")


def test_a_folder_to_save_to_is_tried_before_any_work(tmp_path):
    """And not made: what is there afterwards is whole."""
    place = tmp_path / "new" / "saved"
    assert glue.parameters("fig6_noise", {"save_to": str(place)}).save_to == str(place)
    assert not place.parent.exists()
    for bad in (f"{__file__}/inside", "/proc/none/here", "x\0y"):
        with pytest.raises(ParameterError, match=r"save_to is .*: it must name a folder that"):
            glue.parameters("fig6_noise", {"save_to": bad})


def test_badges_are_in_step_with_the_address():
    done = subprocess.run(
        [sys.executable, "-m", "binder.badges", "--check"],
        cwd=files.HOME,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout
