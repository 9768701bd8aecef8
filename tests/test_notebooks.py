"""The notebooks run from top to bottom, and lie in the repository without outputs."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

NOTEBOOKS = sorted((Path(__file__).parents[1] / "docs" / "notebooks").glob("*.ipynb"))
assert len(NOTEBOOKS) >= 3


def cells(notebook: Path, kind: str) -> list[dict]:
    read = json.loads(notebook.read_text(encoding="utf-8"))
    assert (read["nbformat"], read["metadata"]["kernelspec"]["name"]) == (4, "python3")
    return [cell for cell in read["cells"] if cell["cell_type"] == kind]


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_is_text_and_code_alone(notebook):
    assert cells(notebook, "markdown")[0]["source"][0].startswith("# ")
    code = cells(notebook, "code")
    assert len(code) >= 3
    assert all(cell["outputs"] == [] and cell["execution_count"] is None for cell in code)


@pytest.mark.slow
@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_runs(notebook, tmp_path):
    """As a kernel does: one process, one namespace, a cell after the other."""
    code = "\n".join("".join(cell["source"]) + "\n" for cell in cells(notebook, "code"))
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env={**os.environ, "MPLBACKEND": "agg"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout
    assert not list(tmp_path.iterdir())
