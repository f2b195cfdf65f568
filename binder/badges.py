"""Write badges and counts of verdicts into README and notebooks.

usage: python -m binder.badges [--check]

The address stands once, as ``Repository`` in pyproject.toml, with the version as the tag; verdicts
are those of results/scoreboard.md. ``--check`` changes nothing and fails if a file is out of date,
or a notebook has not exactly one mark for its badges.
"""

import json
import re
import sys
import tomllib
from pathlib import Path

HOME = Path(__file__).resolve().parent.parent
MARKS = re.compile(r"<!-- badges(?: (?P<notebook>\S+))? -->.*?<!-- /badges -->", re.DOTALL)
COUNTS = re.compile(r"<!-- verdicts (?P<figure>\w+) -->.*?<!-- /verdicts -->", re.DOTALL)
INSTALL = re.compile(r"git\+https://[^@\s]+@\S+")
CLONE = re.compile(r"--branch \S+ https://[^\s\"]+")


def address() -> tuple[str, str]:
    """(repository address, tag), from pyproject.toml."""
    project = tomllib.loads((HOME / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    return project["urls"]["Repository"].rstrip("/"), f"v{project['version']}"


def badges(notebook: str) -> str:
    """The two badges of a notebook, as Markdown between their marks."""
    repository, tag = address()
    path = repository.split("github.com/", 1)[1]
    binder = f"https://mybinder.org/v2/gh/{path}/{tag}?labpath=notebooks%2F{notebook}"
    colab = f"https://colab.research.google.com/github/{path}/blob/{tag}/notebooks/{notebook}"
    return (
        f"<!-- badges {notebook} -->"
        f"[![Binder](https://mybinder.org/badge_logo.svg)]({binder}) "
        f"[![Colab](https://colab.research.google.com/assets/colab-badge.svg)]({colab})"
        "<!-- /badges -->"
    )


def counts(figure: str) -> str:
    """How many claims of a figure came out how, between their marks: "4 ✔ 1 ✘"."""
    board = (HOME / "results" / "scoreboard.md").read_text(encoding="utf-8")
    section = board.partition(f"\n## {figure}\n")[2].partition("\n## ")[0]
    found = {mark: section.count(f"| **{mark} ") for mark in "✔✘?–"}
    told = " ".join(f"{count}\xa0{mark}" for mark, count in found.items() if count)
    return f"<!-- verdicts {figure} -->{told}<!-- /verdicts -->"


def stamped(path: Path) -> str:
    """A README or notebook with its badges, counts and the address to install from up to date.

    Raises ``ValueError`` for a notebook that has not exactly one mark for its badges.
    """
    text = path.read_text(encoding="utf-8")
    if path.suffix != ".ipynb":
        text = COUNTS.sub(lambda mark: counts(mark["figure"]), text)
        return MARKS.sub(
            lambda mark: badges(mark["notebook"]) if mark["notebook"] else mark[0], text
        )
    content = json.loads(text)
    repository, tag = address()
    marks = 0
    for cell in content["cells"]:
        source = "".join(cell["source"])
        changed, here = MARKS.subn(lambda mark: badges(path.name), source)
        changed = INSTALL.sub(f"git+{repository}@{tag}", changed)
        changed = CLONE.sub(f"--branch {tag} {repository}", changed)
        marks += here
        if changed != source:
            cell["source"] = changed.splitlines(keepends=True)
    if marks != 1:
        raise ValueError(f"it has {marks} marks <!-- badges --><!-- /badges -->, and needs one")
    return json.dumps(content, indent=1, ensure_ascii=False) + "\n"


def main() -> int:
    stale, check = 0, "--check" in sys.argv
    for path in [HOME / "README.md", *sorted((HOME / "notebooks").glob("*.ipynb"))]:
        try:
            text = stamped(path)
        except ValueError as error:
            stale += 1
            print(f"{path.relative_to(HOME)}: {error}")
            continue
        if text == path.read_text(encoding="utf-8"):
            continue
        if check:
            stale += 1
            print(f"{path.relative_to(HOME)} is out of date; run python -m binder.badges")
        else:
            path.write_text(text, encoding="utf-8")
            print(f"{path.relative_to(HOME)}: written")
    return 1 if stale else 0


if __name__ == "__main__":
    sys.exit(main())
