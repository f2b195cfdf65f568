"""Sphinx's settings; ``python docs/build.py`` gathers the pages and runs it."""

import os
import re
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

project = "The price of sparsity"
html_title = project
extensions = ["myst_nb", "sphinx.ext.autodoc", "sphinx_design"]
html_theme = "furo"
html_static_path = [os.environ["SPARSITY_STATIC"]]
html_css_files = ["site.css"]
myst_enable_extensions = ["colon_fence", "dollarmath"]
myst_heading_anchors = 3
nb_execution_mode = "off"
nb_merge_streams = True
autodoc_member_order = "bysource"
autodoc_typehints = "description"
add_module_names = False
suppress_warnings = ["mystnb.unknown_mime_type", "misc.highlighting_failure", "design.card_legacy"]
suppress_warnings += ["myst.xref_missing"]  # anchors within raw HTML; build.py checks every link
html_show_sourcelink = html_copy_source = False


def plain(app, what, name, of, options, lines):
    """Docstrings are plain words: bars and stars in them are no markup, and words set in a column
    with what they mean beside them are a list of definitions."""
    found, example, inside = [], False, False
    for line in lines:
        example = bool(line.strip()) and (example or line.lstrip().startswith(">>>"))
        if not example:
            parts = line.split("``")
            parts[::2] = [re.sub(r"([|*])", r"\\\1", part) for part in parts[::2]]
            line = "``".join(parts)
        item = re.match(r"(``[^`]+``)  +(.*)", line)
        inside = bool(item) or (inside and line.startswith(" "))
        if item:
            found += [item[1], f"    {item[2]}"]
        else:
            found.append(f"    {line.strip()}" if inside else line)
    lines[:] = found


def setup(app):
    app.connect("autodoc-process-docstring", plain)
