"""Files that are none: pipes without a writer, names that no system takes, folders."""

from __future__ import annotations

import os
import threading
from pathlib import Path
from typing import Any

import pytest

from codesign.api.networks import load_network
from codesign.caches import cache_folder
from codesign.cli import main
from codesign.errors import UserError
from codesign.json_text import read_json
from codesign.models.formats.files import read_tensors
from codesign.openers import unwaiting
from codesign.runs import read_metrics, read_run
from codesign.train.data import SourceConfig, open_source
from simulators.limits import bounded


def run_with(name: str, folder: Path) -> Any:
    (folder / "config.json").write_text("{}")
    return read_run(folder) if (folder / name).exists() else None


READERS = {
    "design.json": lambda path: read_json(path),
    "metrics.jsonl": lambda path: run_with("metrics.jsonl", path.parent),
    "designs.json": lambda path: run_with("designs.json", path.parent),
    "model.pt": lambda path: read_tensors(path),
    "model.safetensors": lambda path: load_network(path.parent),
    "captions.csv": lambda path: open_source(SourceConfig(path=str(path.parent))),
    "a.tar": lambda path: open_source(SourceConfig(path=str(path.parent), split="all")),
}


@pytest.mark.parametrize("name", READERS)
def test_a_pipe_without_a_writer_is_an_empty_file(name: str, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / name)
    with bounded(20, 4 << 30):
        if name == "metrics.jsonl":
            assert read_metrics(tmp_path / name) == READERS[name](tmp_path / name).metrics == []
        else:
            with pytest.raises((UserError, ValueError)) as error:
                READERS[name](tmp_path / name)
            assert len(str(error.value).splitlines()) == 1


def test_a_pipe_with_a_writer_is_read_to_its_end(tmp_path: Path) -> None:
    reading, writing = os.pipe()
    path = Path(f"/dev/fd/{reading}")
    if not path.exists():
        pytest.skip("no /dev/fd here")
    text = "[" + "1, " * 100_000 + "2]"  # more than a pipe holds
    writer = threading.Thread(target=lambda: os.fdopen(writing, "w").write(text))
    writer.start()
    with bounded(20):
        assert len(read_json(path)) == 100_001
    writer.join()
    os.close(reading)
    with open(tmp_path / "file", "wb") as file:
        file.write(b"text")
    with open(tmp_path / "file", opener=unwaiting) as file:
        assert file.read() == "text"


@pytest.mark.parametrize(
    "command",
    [["cost"], ["report"], ["front"], ["cost", "--family"]],
)
def test_a_name_that_is_too_long_is_one_line(
    command: list[str], tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    (tmp_path / "d.json").write_text('{"architecture": {}, "accelerator": {}}')
    words = [str(tmp_path / "d.json")] if len(command) > 1 else []
    assert main([*command, "a" * 5000, *words]) == 1
    error = capsys.readouterr().err
    assert error.endswith(": File name too long\n") and len(error.splitlines()) == 1
    assert len(error) < 600


@pytest.mark.parametrize(
    "words",
    [
        ["eval", "~nobody-of-this-name/x", "--data", "digits"],
        ["convert", "~nobody-of-this-name/x", "out", "--to", "hf"],
    ],
)
def test_the_home_of_nobody_is_no_file(words: list[str], capsys: pytest.CaptureFixture) -> None:
    assert main(words) == 2
    error = capsys.readouterr().err
    assert "~nobody-of-this-name/x" in error and len(error.splitlines()) == 1


def test_one_without_a_home_has_a_cache_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """As a container's user of any number."""

    def fail() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(Path, "home", fail)
    for name in ("CODESIGN_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    assert str(os.getuid()) in str(cache_folder())
    monkeypatch.setenv("CODESIGN_CACHE", "~nobody-of-this-name/x")
    assert cache_folder() == Path("~nobody-of-this-name/x")
