"""The command line: short names, errors of one line, and what it says of a figure."""

import re
import shutil
import subprocess
import sys

import pytest

from binder import badges
from lib import files
from studies import presets
from studies.__main__ import main

FIGURE = "fig6"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["run", "fig66"], r"figure is 'fig66': give one, such as fig6_noise"),
        (["run", "fig8"], r"figure is 'fig8': give one, such as fig8_cosine or fig8_interpolation"),
        (["params", "fig6", "--sparsity"], r"'--sparsity': give pairs, --name value"),
        (["run", "fig6", "--sparsty", "0.9"], r"'sparsty' .*did you mean 'sparsity'"),
        (["run", "fig6", "--sparsity=1.5"], r"sparsity is '1.5': it should be less than 1"),
        (["cost", "fig6", "--preset", "papre"], r"preset is 'papre'; allowed are quick"),
        (["run", "your_own", "--sparsty", "0.5"], r"'sparsty' .*did you mean 'sparsity'.* seeds,"),
        (["run", "your_own", "--sparsity", "1.5"], r"sparsity is '1.5': it should be less than 1"),
        (["cost", "your_own", "--lr", "0.5"], r"'lr' \(= '0.5'\) does not exist here; there are"),
        (["run", "explore", "--results", "x"], r"'results' .*did you mean 'results_folder'"),
        (["params", "your_own", "--sparsity", "7"], r"--sparsity: none is taken here"),
        (["verdicts", "early_rule", "--foo", "1"], r"--foo: none is taken here"),
    ],
)
def test_what_cannot_be_done_is_said_in_one_line(words, said, capsys, monkeypatch):
    monkeypatch.setattr(subprocess, "call", lambda *_, **__: pytest.fail("papermill began"))
    with pytest.raises(SystemExit) as ended:
        main(words)
    (line,) = capsys.readouterr().err.splitlines()
    assert ended.value.code == 2
    assert re.search(said, line)


@pytest.mark.parametrize("words", [["params", "fig6"], ["verdicts"], ["run", "your_own"]])
def test_beside_no_notebooks_it_says_where_they_are(words, tmp_path):
    """The packages alone, as they are installed; the address is that of pyproject.toml."""
    for package in ("lib", "studies"):
        shutil.copytree(files.HOME / package, tmp_path / package)
    asked = [sys.executable, "-m", "studies", *words]
    done = subprocess.run(asked, cwd=tmp_path, capture_output=True, text=True)
    (line,) = done.stderr.splitlines()
    assert done.returncode == 2
    assert f"no notebooks are here: clone {badges.address()[0]} and" in line


def test_good_parameters_of_a_notebook_without_presets_are_handed_on(monkeypatch, tmp_path):
    called = []
    monkeypatch.setattr(subprocess, "call", lambda words: called.append(words) or 0)
    out = str(tmp_path / "copy.ipynb")
    assert main(["run", "your_own", "--sparsity", "0.5", "--seeds=2", "--out", out]) == 0
    assert called[0][5:] == ["-p", "sparsity", "0.5", "-p", "seeds", "2"]


def test_papermill_is_called_as_it_says(capsys, monkeypatch, tmp_path):
    called = []
    monkeypatch.setattr(subprocess, "call", lambda words: called.append(words) or 3)
    out = tmp_path / "there" / "copy.ipynb"
    assert main(["run", FIGURE, "--sparsity", "0.95", "--out", str(out), "--sparse-epochs=2"]) == 3
    (words,) = called
    notebook = files.HOME / "notebooks" / "fig6_noise.ipynb"
    parameters = ["-p", "sparsity", "0.95", "-p", "sparse_epochs", "2"]
    assert words[1:] == ["-m", "papermill", str(notebook), str(out), *parameters]
    assert out.parent.is_dir()
    assert capsys.readouterr().out.startswith("papermill ")


def test_parameters_say_where_they_come_from(capsys):
    """A given one, one of the preset, a default; and what they mean."""
    assert main(["params", FIGURE, "--preset", "paper", "--seeds", "2"]) == 0
    lines = {line.split()[0]: line for line in capsys.readouterr().out.splitlines()}
    assert re.search(r"given +\(0, 1\) +a number of seeds, or a list", lines["seeds"])
    assert re.search(r"paper +none +What is done to the pixels", lines["normalise"])
    assert re.search(r"default +magnitude +Whose lowest scores go\.", lines["criterion"])


@pytest.mark.parametrize("figure", presets.catalogue())
def test_every_parameter_has_a_meaning(figure, capsys):
    """Behind its name, source and value: words, by the notebook's cell or by the setting."""
    assert main(["params", figure]) == 0
    chosen = presets.settings(figure)
    for line in capsys.readouterr().out.splitlines():
        name, behind = re.fullmatch(r"(\w+) +\w+ +(.*)", line).groups()
        assert behind.removeprefix(str(getattr(chosen, name))).strip(), line


def test_a_notebook_without_presets_shows_its_cell(capsys):
    assert main(["params", "your_own"]) == 0
    assert "sparsity = 0.9  # of the sparse networks" in capsys.readouterr().out


def test_cost_counts_what_the_notebook_plans(capsys, tmp_path):
    """Three networks a seed, with noise and without; the FLOPs by hand; nothing is trained."""
    words = {"seeds": 2, "epochs": 3, "sparse_epochs": 5, "widths": "[10]", "runs_folder": tmp_path}
    assert main(["cost", FIGURE, *(f"--{name}={value}" for name, value in words.items())]) == 0
    said = capsys.readouterr().out
    for solution, epochs in {"sol_d": 3, "sol_f": 5, "sol_s": 5}.items():
        assert re.search(rf"^{solution} +4 +4 +{epochs} +{4000 * epochs}$", said, re.MULTILINE)
    total = 6 * (64 * 10 + 10 * 10) * 1000 * 4 * (3 + 5 + 5)
    assert f"FLOPs:  {total:.2g}," in said
    assert re.search(r"time:   0:\d\d:\d\d on cpu in plain", said)
    assert re.search(r"memory: [\de.-]+ GB for weights", said)
    assert not list(tmp_path.glob("finished/*"))


@pytest.mark.parametrize("figure", ["fig1_regimes", "flow_fig2_gradient_flow"])
def test_what_a_notebook_imports_is_no_parameter_of_its_plan(figure, capsys):
    """Rules and printed tables stand beside the parameters when its plan is made."""
    assert main(["cost", figure, "--seeds=1"]) == 0
    assert "FLOPs:" in capsys.readouterr().out


def test_verdicts_of_a_figure_are_those_of_the_scoreboard(capsys):
    assert main(["verdicts", FIGURE]) == 0
    lines = capsys.readouterr().out.splitlines()
    board = (files.HOME / "results" / "scoreboard.md").read_text()
    section = board.partition("## fig6_noise\n")[2].partition("\n## ")[0].splitlines()
    rows = {row.split("`")[1]: row for row in section if row.startswith("| `")}
    found = {}
    for line in lines:
        mark, verdict = line.split()[:2]
        claim = re.search(r"`(price-[\w-]+)`: ", line).group(1)
        found[claim] = f"**{mark} {verdict}"
    assert found.keys() == rows.keys()
    assert all(found[claim] in row for claim, row in rows.items())


@pytest.mark.parametrize("words", [["--sparsty", "0.9"], ["--sparsity", "2"], ["--seeds", "0"]])
def test_mistyped_names_and_numbers_are_told_without_torch(words):
    """Its import takes a second or more, and an error should not."""
    asked = ["-X", "importtime", "-m", "studies", "run", FIGURE, *words]
    done = subprocess.run([sys.executable, *asked], cwd=files.HOME, capture_output=True, text=True)
    assert done.returncode == 2
    assert "pydantic" in done.stderr
    assert not re.search(r"\| +torch$", done.stderr, re.MULTILINE)
