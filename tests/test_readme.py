"""What a visitor reads first: its length, and that every link and name leads somewhere."""

import re
import tomllib

import pytest

from lib import files
from studies.presets import own

PAGES = ["README.md", *(f"docs/{name}.md" for name in ("internals", "glossary", "release"))]
PAGES += [f"results/{name}.md" for name in ("README", "findings", "gap", "scoreboard", "rules")]


def read(name):
    return (files.HOME / name).read_text(encoding="utf-8")


def test_the_readme_is_short():
    lines = read("README.md").splitlines()
    assert len(lines) <= 125


@pytest.mark.parametrize("page", PAGES)
def test_links_within_the_repository(page):
    home = (files.HOME / page).parent
    text = read(page)
    links = re.findall(r"\]\((?!https?:|#)([^)\s#]+)", text) + re.findall(r'src="([^"]+)"', text)
    assert not [link for link in links if not (home / link).exists()]


def test_every_notebook_of_a_figure_stands_in_the_readme():
    listed = set(re.findall(r"\]\(notebooks/(\w+)\.ipynb\)", read("README.md")))
    there = {path.stem for path in (files.HOME / "notebooks").glob("*.ipynb")}
    assert listed <= there
    assert {name for name in there if re.match(r"fig|table|early|flow|appendix", name)} <= listed


def test_code_of_the_pages_is_python_and_names_real_parameters():
    for page in ("README.md", "docs/internals.md"):
        for block in re.findall(r"```python\n(.*?)```", read(page), re.DOTALL):
            compile(block, page, "exec")
    named = re.findall(r"fig6_noise\.ipynb \S+ ((?:-p \w+ \S+ ?)+)", read("README.md"))
    names = {name for words in named for name in re.findall(r"-p (\w+)", words)}
    assert names
    assert names <= set(own("fig6_noise"))


def test_binder_has_the_versions_of_the_whole_environment():
    """But for torch's CPU build."""
    pins = dict(re.findall(r"^([\w.-]+)==([\w.]+)", read("requirements.txt"), re.MULTILINE))
    binder = dict(
        re.findall(r"^([\w.-]+)==([\w.]+)", read("binder/requirements.txt"), re.MULTILINE)
    )
    assert {"torch", "ipykernel", "papermill"} <= binder.keys()
    assert not {name: pin for name, pin in binder.items() if pins[name] != pin}


def test_every_lower_bound_has_a_version():
    project = tomllib.loads(read("pyproject.toml"))["project"]
    extras = project["optional-dependencies"]
    asked = [*project["dependencies"], *extras["notebooks"], *extras["site"]]
    assert not [each for each in asked if ">=" not in each]
