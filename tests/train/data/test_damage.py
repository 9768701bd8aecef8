"""Data of which some bytes are others: one line, or what can be read is, and the rest counted."""

from __future__ import annotations

import io
import json
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from codesign.errors import UserError
from codesign.train.data import SourceConfig, TrainingStream, open_source
from codesign.train.data.decode import FORMATS, decode
from simulators.limits import bounded
from simulators.mutations import damaged

pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]

CAPTIONS = [f"picture {i} of a" for i in range(6)]


@pytest.fixture
def folder(tmp_path: Path, picture: Callable) -> Path:
    """data/ with the pictures 0.png to 5.png."""
    (tmp_path / "data").mkdir()
    for i in range(6):
        (tmp_path / "data" / f"{i}.png").write_bytes(picture(i))
    return tmp_path / "data"


def batch_of(path: Path, processor: Any, **more: Any) -> int:
    """Reads a batch; how many samples are lost by then."""
    source = open_source(SourceConfig(str(path), **more))
    with TrainingStream(source, processor, batch_size=4, threads=0) as stream:
        batch = next(stream)
        assert batch.images.shape == (4, 8, 8, 3) and batch.images.dtype == np.uint8
        assert batch.ids.shape == (4, 6) and (batch.labels >= -1).all()
        return stream.skipped.count


def outcomes(
    read: Callable[[], int], file: Path, end: int | None = None, times: int = 250
) -> list[int]:
    """Of so many damaged files: how many samples were lost; -1 where the file was refused."""
    data, rng = file.read_bytes(), np.random.default_rng(0)
    found: list[int] = []
    told: list[str] = []
    for _ in range(times):
        file.write_bytes(damaged(data, rng, end))
        with bounded(20):
            try:
                found.append(read())
            except UserError as error:
                told.append(str(error))
                found.append(-1)
    file.write_bytes(data)
    assert all(len(line.splitlines()) == 1 and len(line) < 1000 for line in told)
    return found


TABLES = {
    "metadata.csv": "file_name,caption\n"
    + "".join(f'{i}.png,"a, {CAPTIONS[i]}"\n' for i in range(6)),
    "metadata.tsv": "filepath\ttitle\n" + "".join(f"{i}.png\t{CAPTIONS[i]}\n" for i in range(6)),
    "metadata.jsonl": "".join(
        json.dumps({"image": f"{i}.png", "text": [CAPTIONS[i], "é"]}) + "\n" for i in range(6)
    ),
}


@pytest.mark.parametrize("name", TABLES)
def test_tables(name: str, folder: Path, processor: Any) -> None:
    (folder / name).write_text(TABLES[name], encoding="utf-8")
    found = outcomes(lambda: batch_of(folder, processor), folder / name)
    assert found.count(-1) > 10 and found.count(0) > 25


def test_parquet(tmp_path: Path, picture: Callable, processor: Any, monkeypatch: Any) -> None:
    library = pytest.importorskip("datasets")
    monkeypatch.setattr(library.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    monkeypatch.setattr(library.config, "HF_HUB_OFFLINE", True)
    library.disable_progress_bars()
    rows = {
        "image": [{"bytes": picture(i), "path": None} for i in range(6)],
        "caption": CAPTIONS,
        "label": list(range(6)),
    }
    library.Dataset.from_dict(rows).to_parquet(str(tmp_path / "rows.parquet"))
    file = tmp_path / "rows.parquet"
    found = outcomes(lambda: batch_of(file, processor), file, times=100)
    assert found.count(-1) > 20


@pytest.mark.parametrize("where", ["headers", "anywhere"])
def test_shards(
    where: str, tmp_path: Path, write_tar: Callable, picture: Callable, processor: Any
) -> None:
    members = {}
    for i in range(6):
        members |= {
            f"{i:03}.png": picture(i),
            f"{i:03}.txt": CAPTIONS[i].encode(),
            f"{i:03}.cls": str(i).encode(),
            f"{i:03}.json": b'{"caption": "x"}',
        }
    file = write_tar("data/0.tar", members)
    end = 2048 if where == "headers" else None
    found = outcomes(lambda: batch_of(file, processor), file, end)
    assert found.count(-1) > 10 and any(count > 0 for count in found)


def test_lists_beside(folder: Path, processor: Any, tmp_path: Path) -> None:
    """Class folders with a list of names and one of templates."""
    for i in range(6):
        (folder / str(i)).mkdir()
        (folder / f"{i}.png").rename(folder / str(i) / "0.png")
    names, templates = tmp_path / "names.txt", tmp_path / "templates.txt"
    names.write_text("".join(f"class {i}\n" for i in range(6)))
    templates.write_text("a photo of a {}.\nthe {}.\n")
    as_json = tmp_path / "names.json"
    as_json.write_text(json.dumps({str(i): f"class {i}" for i in range(6)}))
    more = {"templates": str(templates)}
    for file in (names, as_json):
        read = lambda file=file: batch_of(folder, processor, classes=str(file), **more)  # noqa: E731
        assert outcomes(read, file, times=150).count(-1) > 5
    read = lambda: batch_of(folder, processor, classes=str(names), **more)  # noqa: E731
    assert outcomes(read, templates, times=150).count(-1) > 5


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF", "PPM"])
def test_pictures(kind: str) -> None:
    """Pixels, or an error that the reader of pictures counts; no abort, no gigabytes, no hang."""
    assert kind in FORMATS
    pixels = np.random.default_rng(1).integers(0, 256, (40, 50, 3), np.uint8)
    stored, rng, errors = io.BytesIO(), np.random.default_rng(0), 0
    Image.fromarray(pixels).save(stored, kind)
    for i in range(300):
        data = damaged(stored.getvalue(), rng, None if i % 3 else 200)
        with bounded(10, 3 << 29), warnings.catch_warnings():
            try:
                found = decode(data, "RGB")
            except Exception:
                errors += 1
            else:
                assert found.mode == "RGB"
    assert errors > 5
