"""README and the tutorials run: their Python as it stands, their commands by the program."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import codesign
from codesign.cli import main

# Their programs run a few steps.
pytestmark = pytest.mark.usefixtures("quick_compilation")

ROOT = Path(__file__).parent.parent
TUTORIALS = ROOT / "docs" / "tutorials"
# Read one after another where the second goes on from the first.
READ = [
    ("README.md",),
    ("docs/tutorials/chip.md",),
    ("docs/tutorials/dress.md",),
    ("docs/tutorials/custom-parts.md",),
    ("docs/tutorials/checkpoint-and-data.md",),
    ("docs/tutorials/first-codesign.md", "docs/tutorials/report.md"),
]


def blocks(path: Path) -> Iterator[tuple[str, str]]:
    """(language, content) of each fenced block."""
    text = path.read_text(encoding="utf-8")
    yield from re.findall(r"^```(\w+)\n(.*?)^```", text, flags=re.MULTILINE | re.DOTALL)


def follow(path: Path) -> None:
    """Does what a reader does who types everything, in the working directory."""
    names: dict[str, object] = {"__name__": "__main__"}
    for number, (language, content) in enumerate(blocks(path)):
        if language == "python":
            exec(compile(content, f"{path.name}, block {number}", "exec"), names)
        for line in content.splitlines() if language == "sh" else ():
            if line.startswith("codesign "):
                assert main(shlex.split(line)[1:]) == 0, line


def test_every_tutorial_is_followed():
    known = {ROOT / page for pages in READ for page in pages}
    assert set(TUTORIALS.glob("*.md")) <= known


@pytest.mark.slow
@pytest.mark.parametrize("pages", READ, ids=lambda pages: pages[0])
def test_what_a_page_shows_runs(pages, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    for page in pages:
        follow(ROOT / page)
    assert capsys.readouterr().out


@pytest.mark.slow
def test_what_pages_show_is_typed_as_a_users_project_is(tmp_path):
    """In the strictest mode of mypy, for which the package has to say what it takes and gives."""
    pytest.importorskip("mypy")
    files = []
    for page in (ROOT / page for pages in READ for page in pages):
        code = [content for language, content in blocks(page) if language == "python"]
        files.append(tmp_path / f"{page.stem.replace('-', '_').lower()}.py")
        files[-1].write_text("\n".join(code), encoding="utf-8")
    home = Path(codesign.__file__).parents[1]
    path = {} if home.name == "site-packages" else {"MYPYPATH": str(home)}
    done = subprocess.run(
        # Optax says nothing of its types.
        [
            sys.executable,
            "-m",
            "mypy",
            "--strict",
            "--disable-error-code=import-untyped",
            "--follow-imports=silent",
            "--cache-dir",
            str(tmp_path / "cache"),
            *map(str, files),
        ],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env={**os.environ, **path},
    )
    assert done.returncode == 0, done.stdout + done.stderr
