"""Write the Binder and Colab badges into README and notebooks, from the address in pyproject.toml.

usage: python -m binder.badges [--check]

The address stands once, as ``Repository`` in pyproject.toml, with the version as the tag.
``--check`` changes nothing and fails if a file is out of date.
"""

import json
import re
import sys
import tomllib
from pathlib import Path

HOME = Path(__file__).resolve().parent.parent
MARKS = re.compile(r"<!-- badges(?: (?P<notebook>\S+))? -->.*?<!-- /badges -->", re.DOTALL)
INSTALL = re.compile(r"git\+https://[^@\s]+@\S+")


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


def stamped(path: Path) -> str:
    """A README or notebook with its badges and the address to install from brought up to date."""
    text = path.read_text(encoding="utf-8")
    if path.suffix != ".ipynb":
        return MARKS.sub(
            lambda mark: badges(mark["notebook"]) if mark["notebook"] else mark[0], text
        )
    content = json.loads(text)
    repository, tag = address()
    for cell in content["cells"]:
        source = "".join(cell["source"])
        changed = MARKS.sub(lambda mark: badges(path.name), source)
        changed = INSTALL.sub(f"git+{repository}@{tag}", changed)
        if changed != source:
            cell["source"] = changed.splitlines(keepends=True)
    return json.dumps(content, indent=1, ensure_ascii=False) + "\n"


def main() -> int:
    stale = 0
    for path in [HOME / "README.md", *sorted((HOME / "notebooks").glob("*.ipynb"))]:
        text = stamped(path)
        if text == path.read_text(encoding="utf-8"):
            continue
        stale += 1
        if "--check" in sys.argv:
            print(f"{path.relative_to(HOME)}: badges are out of date; run python -m binder.badges")
        else:
            path.write_text(text, encoding="utf-8")
            print(f"{path.relative_to(HOME)}: badges written")
    return 1 if stale and "--check" in sys.argv else 0


if __name__ == "__main__":
    sys.exit(main())
