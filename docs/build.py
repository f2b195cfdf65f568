"""Build the site: ``python docs/build.py [FOLDER]``, into build/site unless told otherwise.

Its pages come from what stands in the repository already: README (question, findings, a card for
each row of its tables), the largest executed copy of each notebook, the scoreboard, docs/ and the
docstrings. Nothing is fetched and nothing is executed. A link to a file that is not there stops the
build, on the way in (Markdown, notebooks) and on the way out (HTML).
"""

import html
import json
import os
import pkgutil
import re
import shutil
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote

HOME = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(HOME))

from markdown_it import MarkdownIt  # noqa: E402

import lib  # noqa: E402
from binder.badges import MARKS, address, badges  # noqa: E402

REPOSITORY, TAG = address()
SOURCE = HOME / "build" / "site-source"
WIDGET = "application/vnd.jupyter.widget-view+json"
SIZES = ("paper", "imagenet", "desktop", "quick")
LINK = re.compile(r"\]\((?!https?:|mailto:|#)([^)\s]+)\)")
ROW = re.compile(
    r'^\| <img src="(?P<picture>[^"]+)"[^>]*> \| \[`(?P<name>\w+)`\]\([^)]*\) (?P<asks>.*?) \| '
    r"<!-- verdicts \w+ -->(?P<counts>.*?)<!-- /verdicts -->",
    re.MULTILINE,
)
IMAGE = re.compile(r'<img src="([^"]+)"[^>]*alt="([^"]*)"[^>]*>')
CENTRED = re.compile(r'<p align="center">(<img [^>]*>)<br><em>(.*?)</em></p>')
# pages that are Markdown in the repository: file -> where it stands on the site
PAGES = {
    "results/findings.md": "findings.md",
    "results/gap.md": "gap.md",
    "results/rules.md": "rules.md",
    "results/benchmarks.md": "benchmarks.md",
    "data/README.md": "data.md",
    "docs/internals.md": "internals.md",
    "docs/extending.md": "extending.md",
    "docs/glossary.md": "glossary.md",
}
PLACES = {**PAGES, "README.md": "index.md", "results/scoreboard.md": "scoreboard.md"}


def linked(text: str, home: Path, page: str) -> str:
    """Markdown of a file in ``home`` with its links as they must be on ``page`` of the site."""

    def moved(found):
        path, hashed, anchor = unquote(found[1]).partition("#")
        target = (home / path).resolve()
        if not target.is_relative_to(HOME) or not target.exists():
            raise SystemExit(f"{page}: the link {found[1]} leads nowhere")
        name = target.relative_to(HOME).as_posix()
        place = PLACES.get(name)
        if name.startswith("notebooks/") and name.endswith(".ipynb"):
            place = name
        if place is None:
            return f"]({REPOSITORY}/blob/{TAG}/{name})"
        return f"]({os.path.relpath(place, Path(page).parent)}{hashed}{anchor})"

    return LINK.sub(moved, text)


def pictured(text: str, home: Path) -> str:
    """Markdown with the pictures that it shows by HTML as Markdown's own, copied into the site."""

    def kept(found):
        name = "-".join(Path(found[1]).parts)
        shutil.copy(home / found[1], SOURCE / "pictures" / name)
        return f"![{found[2]}](pictures/{name})"

    return IMAGE.sub(kept, text)


def executed(name: str) -> Path:
    """The largest executed copy of a notebook: paper before desktop before quick, then by runs."""

    def size(path):
        manifest = json.loads((path.parent / "manifest.json").read_text(encoding="utf-8"))
        preset = path.parent.name.partition("-")[0]
        return -SIZES.index(preset), manifest["runs"]

    copies = sorted((HOME / "results" / name).glob("*/notebook.ipynb"))
    return max(copies, key=size, default=HOME / "notebooks" / f"{name}.ipynb")


def notebook_page(path: Path, name: str) -> None:
    """A notebook's copy as a page: no widgets, links that lead somewhere, badges of today."""
    content, page = json.loads(path.read_text(encoding="utf-8")), f"notebooks/{name}.ipynb"
    content["metadata"].pop("widgets", None)
    for cell in content["cells"]:
        source = "".join(cell["source"])
        if cell["cell_type"] == "markdown":
            source = MARKS.sub("", source.replace("[badges]", ""))
            source = source.replace("Run it on", launch(name))
            cell["source"] = linked(source, HOME / "notebooks", page)
        if "outputs" in cell:
            cell["outputs"] = [o for o in cell["outputs"] if WIDGET not in o.get("data", {})]
    (SOURCE / page).write_text(json.dumps(content), encoding="utf-8")


def launch(name: str) -> str:
    """Links to Binder, Colab and the folder of results of a notebook."""
    binder, colab = re.findall(r"\]\((https://[^)]*labpath[^)]*|https://colab[^)]*ipynb)\)",
                               badges(f"{name}.ipynb"))  # fmt: skip
    links = [f"[Binder]({binder})", f"[Colab]({colab})"]
    if (HOME / "results" / name).exists():
        links.append(f"[results]({REPOSITORY}/tree/{TAG}/results/{name})")
    return " · ".join(links)


def front(readme: str) -> str:
    """The front page: the question, one picture, the findings, a card for each figure."""
    readme = linked(readme, HOME, "index.md")
    findings = readme.partition("## Findings\n")[2].partition("\n## ")[0]
    findings = pictured(CENTRED.sub(r"\1\n\n*\2*", findings), HOME)
    about = readme.partition("# The price of sparsity\n")[2].partition("\n```")[0]
    studies = readme.partition("## The notebooks\n")[2].partition("\n## ")[0]
    picture = re.search(r'<img src="([^"]+)" height', readme)[1]
    shutil.copy(HOME / picture, SOURCE / "pictures" / "front.png")
    caption = re.search(r"</p>\n\n(\*MNIST.*?\*)\n\n", readme, re.DOTALL)[1]
    parts = ["# The price of sparsity", about, ":::{image} pictures/front.png",
             ":alt: accuracy, loss and entropy against sparsity", ":class: front", ":::", caption,
             "## Findings", findings]  # fmt: skip
    parts.append(re.match(r"\s*(A verdict is .*?\.)", studies)[1])
    for study in studies.split("\n\n**")[1:]:
        parts += [f"## {study.partition('**')[0]}", "", study.partition("**")[2][2:].split("\n")[0]]
        parts += ["", "::::{grid} 1 2 2 3", ":gutter: 3", ""]
        for row in ROW.finditer(study):
            name = row["name"]
            shutil.copy(HOME / row["picture"], SOURCE / "pictures" / f"{name}.png")
            words = row["asks"].replace("\\|", "|")
            title = f"[{titled(name)}](notebooks/{name})"
            parts += [
                f":::{{grid-item-card}} {title}", f":img-top: pictures/{name}.png", "", words, "",
                "+++", f"{row['counts']}<br>{launch(name)}", ":::", "",
            ]  # fmt: skip
        parts += ["::::", ""]
    return "\n".join(parts)


def titled(name: str) -> str:
    """The title of a notebook."""
    first = json.loads((HOME / "notebooks" / f"{name}.ipynb").read_text(encoding="utf-8"))
    return "".join(first["cells"][0]["source"]).splitlines()[0].removeprefix("# ")


def board() -> str:
    """The scoreboard as a table that can be filtered by study, verdict and kind of evidence."""
    text = (HOME / "results" / "scoreboard.md").read_text(encoding="utf-8")
    words = MarkdownIt()
    rows, kinds = [], {"study": set(), "verdict": set(), "evidence": set()}
    for section in text.split("\n## ")[1:]:
        figure, *lines = section.splitlines()
        for number, line in enumerate(line for line in lines if line.startswith("| `")):
            cells = [cell.replace("\\|", "|") for cell in line[2:-2].split(" | ")]
            of = {
                "study": cells[0][1:].partition("-")[0],
                "verdict": cells[1].split("**")[1],
                "evidence": cells[2].partition(":")[0].strip() or "none",
            }
            for name, value in of.items():
                kinds[name].add(value)
            cells = [linked(cell, HOME / "results", "scoreboard.md") for cell in cells]
            data = " ".join(f'data-{k}="{html.escape(v)}"' for k, v in of.items())
            cells = [words.renderInline(cell) for cell in cells]
            short, _, apart = cells[2].partition(":")
            if apart:
                kind = short.strip() or "none here"
                cells[2] = f"<details><summary>{kind}</summary>{apart}</details>"
            shown = (cells[1], cells[0], *cells[2:5])
            told = "".join(f"<td>{cell}</td>" for cell in shown)
            link = f'<td><a href="notebooks/{figure}.html">{figure}</a></td>'
            anchor = "" if number else f' id="{figure}"'
            rows.append(f"<tr{anchor} {data}>{told}{link}</tr>")
    filters = "".join(
        f'<label>{name} <select name="{name}"><option value="">all</option>'
        + "".join(f"<option>{html.escape(value)}</option>" for value in sorted(values))
        + "</select></label>"
        for name, values in kinds.items()
    )
    heads = "".join(f"<th>{h}</th>" for h in
                    ("verdict", "claim", "evidence", "effect", "seeds", "figure"))  # fmt: skip
    intro = text.partition("`studies/*/claims.yaml`")[0].partition("never edited. ")[2]
    about = f"# Scoreboard\n\n{intro}[`rules`](rules.md).\n\n"
    table = f'<table class="board"><thead><tr>{heads}</tr></thead><tbody>{"".join(rows)}</tbody>'
    parts = [f'<div class="filters">{filters}<output></output></div>',
             f'<div class="scroll">{table}</table></div>',
             '<script src="_static/board.js"></script>']  # fmt: skip
    return about + "```{raw} html\n" + "\n".join(parts) + "\n```\n"


def api() -> list[str]:
    """A page for each room of lib, of its modules' docstrings; returns their names."""
    (SOURCE / "api").mkdir()
    pages = []
    for room in pkgutil.iter_modules(lib.__path__):
        inside = Path(lib.__path__[0], room.name)
        names = sorted(p.stem for p in inside.glob("*.py") if p.stem != "__init__")
        modules = [f"lib.{room.name}", *(f"lib.{room.name}.{name}" for name in names)]
        lines = [f"{modules[0]}\n{'=' * 40}"]
        for number, module in enumerate(modules):
            head = f"{module}\n{'-' * 60}\n" if number else ""
            lines.append(f"{head}\n.. automodule:: {module}\n   :members:\n")
        (SOURCE / "api" / f"{room.name}.rst").write_text("\n".join(lines), encoding="utf-8")
        pages.append(f"api/{room.name}")
    return pages


class Links(HTMLParser):
    """What a page refers to, and the anchors that it has."""

    def __init__(self, text: str):
        super().__init__()
        self.links, self.anchors = [], set()
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        for name, value in attrs:
            if name in ("href", "src") and value:
                self.links.append(value)
            if name == "id":
                self.anchors.add(value)


def broken(site: Path) -> list[str]:
    """Every link within the built site that leads to no file, or to no anchor of it."""
    pages = {path: Links(path.read_text(encoding="utf-8")) for path in site.rglob("*.html")}
    found = []
    for path, page in pages.items():
        for link in page.links:
            if re.match(r"[a-z]+:|//", link):
                continue
            file, _, anchor = unquote(link).partition("#")
            target = (path.parent / file.partition("?")[0]).resolve() if file else path
            there = target.is_file() and (
                not anchor or target not in pages or anchor in pages[target].anchors
            )
            if not there:
                found.append(f"{path.relative_to(site)}: {link}")
    return found


def main() -> int:
    site = Path(sys.argv[1] if sys.argv[1:] else HOME / "build" / "site").resolve()
    shutil.rmtree(SOURCE, ignore_errors=True)
    (SOURCE / "notebooks").mkdir(parents=True)
    (SOURCE / "pictures").mkdir()
    shutil.copytree(HOME / "docs" / "static", SOURCE / "static")
    shutil.copy(HOME / "docs" / "conf.py", SOURCE / "conf.py")
    names = sorted(path.stem for path in (HOME / "notebooks").glob("*.ipynb"))
    for name in names:
        notebook_page(executed(name), name)
    pages = [page for file, page in PAGES.items() if (HOME / file).exists()]
    for file, page in PAGES.items():
        if (HOME / file).exists():
            text, home = (HOME / file).read_text(encoding="utf-8"), (HOME / file).parent
            text = pictured(linked(text, home, page), home)
            (SOURCE / page).write_text(text, encoding="utf-8")
    (SOURCE / "scoreboard.md").write_text(board(), encoding="utf-8")
    readme = (HOME / "README.md").read_text(encoding="utf-8")
    figures = {row["name"] for row in ROW.finditer(readme)}
    studies = {"Notebooks": [name for name in names if name not in figures]}
    for study in readme.split("\n\n**")[1:]:
        if rows := [row["name"] for row in ROW.finditer(study)]:
            studies[study.partition("**")[0]] = rows
    trees = {
        "Results": ["findings", "gap", "scoreboard", "rules"],
        **{study: [f"notebooks/{name}" for name in inside] for study, inside in studies.items()},
        "Your own": [p[:-3] for p in pages if p in ("extending.md", "internals.md", "data.md")],
        "Reference": ["glossary", "benchmarks", *api()],
    }
    tree = "\n".join(
        f"\n```{{toctree}}\n:hidden:\n:caption: {caption}\n\n" + "\n".join(inside) + "\n```\n"
        for caption, inside in trees.items()
    )
    (SOURCE / "index.md").write_text(front(readme) + tree, encoding="utf-8")
    environment = {**os.environ, "SPARSITY_STATIC": "static"}
    command = [sys.executable, "-m", "sphinx", "-q", "-b", "html", str(SOURCE), str(site)]
    done = subprocess.call(command, env=environment)
    lost = broken(site) if not done else []
    print("\n".join([*lost, f"{len(names)} notebooks in {site}; {len(lost)} broken links"]))
    return done or bool(lost)


if __name__ == "__main__":
    sys.exit(main())
