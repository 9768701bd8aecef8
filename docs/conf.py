"""The documentation site, by Sphinx: `sphinx-build -W --keep-going docs build/docs`."""

import importlib.metadata
from pathlib import Path
from typing import Any

from sphinx.application import Sphinx

ROOT = Path(__file__).parents[1]

project = "codesign"
author = "The codesign maintainers"
copyright = author
version = release = importlib.metadata.version("codesign")

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
exclude_patterns = ["Thumbs.db", ".DS_Store"]
html_theme = "furo"
html_title = "codesign"

myst_heading_anchors = 3
# Docstrings have `code` between single backticks.
default_role = "code"
autodoc_typehints = "description"
autodoc_typehints_description_target = "documented"
autodoc_preserve_defaults = True
autodoc_member_order = "bysource"
napoleon_numpy_docstring = False
napoleon_use_ivar = True
napoleon_use_rtype = False

# Pages that are files of the repository's root, where forges and package indices look for them.
FROM_ROOT = {"index": "README.md", "contributing": "CONTRIBUTING.md", "changelog": "CHANGELOG.md"}
# Where the links of those files lead, from a page of this folder.
LINKS = {
    "](docs/": "](",
    "](CONTRIBUTING.md": "](contributing.md",
    "](CHANGELOG.md": "](changelog.md",
    "](CITATION.cff": "](../CITATION.cff",
}


def from_root(app: Sphinx, page: str, source: list[str]) -> None:
    """Puts the root's file in the place of the page's first paragraph, which links to it."""
    if page not in FROM_ROOT:
        return
    file = ROOT / FROM_ROOT[page]
    app.env.note_dependency(str(file))
    text = file.read_text(encoding="utf-8")
    for link, here in LINKS.items():
        text = text.replace(link, here)
    _, _, rest = source[0].partition("\n\n")
    source[0] = f"{text}\n{rest}"


def code_of(app: Sphinx, what: str, name: str, obj: Any, options: Any, lines: list[str]) -> None:
    """Marks the indented blocks among a docstring's paragraphs as code, which they are."""
    marked: list[str] = []
    last = ""  # line with text
    for line in lines:
        begins = bool(marked) and not marked[-1] and line.startswith("    ")
        if begins and not last.startswith(" "):
            marked += ["::", ""]
        marked.append(line)
        last = line if line.strip() else last
    lines[:] = marked


def setup(app: Sphinx) -> None:
    """Sphinx's hook."""
    app.connect("source-read", from_root)
    # Before Napoleon reads the sections, at 500.
    app.connect("autodoc-process-docstring", code_of, priority=400)
