"""What the documents say of the repository: files, tests and fields that they name exist."""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from codesign.design_file import parse_design
from codesign.renamed import RENAMED

ROOT = Path(__file__).parent.parent
DOCUMENTS = [*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").rglob("*.md"))]
README = ROOT / "README.md"
FOLDERS = "tests|benchmarks|codesign|configs|models|train|docs"
# What else is called test_...: arrays of a file of images.
NO_TESTS = {"test_images", "test_labels"}


@functools.cache
def test_names() -> frozenset[str]:
    """Functions of all test files."""
    sources = (path.read_text(encoding="utf-8") for path in (ROOT / "tests").rglob("test_*.py"))
    return frozenset(name for text in sources for name in re.findall(r"def (test_\w+)", text))


test_names.__test__ = False  # type: ignore[attr-defined]


def missing(text: str) -> Iterator[str]:
    """Paths, files of tests and names of tests in a document's text that there are none of."""
    for path in re.findall(rf"(?<![\w./-])(?:{FOLDERS})/[\w./-]*[\w/]", text):
        if not (ROOT / path).exists():
            yield path
    for name in re.findall(r"(?<![\w/])test_\w+\.py", text):
        if not list((ROOT / "tests").rglob(name)):
            yield name
    for name in re.findall(r"(?<![\w/])test_\w+(?![\w.]*\.py)", text):
        if name not in NO_TESTS and name not in test_names():
            yield name


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_what_a_document_names_exists(document):
    assert list(missing(document.read_text(encoding="utf-8"))) == []


def local_links(document: Path) -> Iterator[tuple[str, Path]]:
    """Links and pictures of a document that lead to the repository, and where."""
    text = re.sub(r"```.*?```", "", document.read_text(encoding="utf-8"), flags=re.DOTALL)
    for link in re.findall(r"\]\(([^)\s]+)\)", text):
        if not re.match(r"\w+:|#", link):
            yield link, document.parent / link.partition("#")[0]


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_links_lead_to_files(document):
    assert [link for link, place in local_links(document) if not place.exists()] == []


def test_readme_is_read_in_three_minutes():
    text = README.read_text(encoding="utf-8")
    assert len(text.split()) < 1000


def test_every_page_is_reached_from_the_index():
    docs = ROOT / "docs"
    index = (docs / "index.md").read_text(encoding="utf-8")
    listed = {
        line
        for block in re.findall(r"```\{toctree\}\n(.*?)```", index, flags=re.DOTALL)
        for line in block.split()
        if not line.startswith(":")
    }
    pages = {str(path.relative_to(docs).with_suffix("")) for path in docs.rglob("*.md")}
    assert pages - {"index"} <= listed


def test_readme_is_on_the_command_line_what_the_program_is():
    """Its table of commands is the program's list."""
    from codesign.cli import _COMMANDS

    text = README.read_text(encoding="utf-8")
    assert re.findall(r"^\| `codesign (\w+) ", text, flags=re.MULTILINE) == list(_COMMANDS)


def test_names_of_nothing_are_found():
    text = (
        "`tests/codesign/cost/test_costs.py`, "
        "`tests/train/search/test_subnets.py::test_none_such`, see "
        "`test_workload_torch.py` (`test_docs.py`), `benchmarks/none.py`, `codesign/cost/`, "
        "test_names_of_nothing_are_found and test_nothing."
    )
    assert list(missing(text)) == [
        "benchmarks/none.py",
        "test_workload_torch.py",
        "test_none_such",
        "test_nothing",
    ]


def test_modules_and_tables_of_the_cost_model_exist():
    """It names the modules of codesign/, and the tables of their data folders, in short."""
    text = (ROOT / "docs" / "cost-model.md").read_text(encoding="utf-8")
    modules = set(re.findall(r"`((?:\w+/)*\w+\.py)`", text))
    tables = set(re.findall(r"`(?:\w+/)*(data/\w+\.csv)`", text))
    assert len(modules) > 15 and len(tables) > 5
    folders = [ROOT / name for name in FOLDERS.split("|")]  # not all of .venv
    for name in modules | tables:
        assert (ROOT / name).exists() or any(list(at.rglob(name)) for at in folders), name


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_fields_go_by_their_present_names(document):
    words = set(re.findall(r"\w+", document.read_text(encoding="utf-8")))
    assert not words & set(RENAMED)


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_design_files_in_documents_are_read(document):
    text = document.read_text(encoding="utf-8")
    for block in re.findall(r"```json\n(.*?)```", text, flags=re.DOTALL):
        found = json.loads(block)
        if "architecture" in found and "accelerator" in found:
            parse_design(found, document.name)
