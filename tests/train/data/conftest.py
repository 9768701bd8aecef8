"""Small pictures that tell which they are, in the formats that sources read."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from codesign.models.formats.image_settings import ImageSettings
from codesign.models.formats.processor import make_processor
from codesign.train.data import Source, train_tokenizer


def encoded(number: int, kind: str = "PNG", size: tuple[int, int] = (10, 12)) -> bytes:
    """A picture whose colour tells `number`, from 0 to 999."""
    buffer = io.BytesIO()
    colour = (25 * (number // 100), 25 * (number // 10 % 10), 25 * (number % 10))
    Image.new("RGB", size, colour).save(buffer, kind)
    return buffer.getvalue()


@pytest.fixture(scope="session")
def picture() -> Callable[..., bytes]:
    """(number, kind, size) -> an encoded picture of a colour of its own."""
    return encoded


@pytest.fixture(scope="session")
def number_of() -> Callable[[Any], int]:
    """The number that an encoded picture, or pixels [H, W, 3], tell."""

    def number(image: Any) -> int:
        pixels = np.asarray(Image.open(io.BytesIO(image)) if isinstance(image, bytes) else image)
        red, green, blue = np.rint(pixels[0, 0] / 25).astype(int)
        return int(100 * red + 10 * green + blue)

    return number


@pytest.fixture(scope="session")
def processor() -> Any:
    """8 x 8 pixels, and a token for every number."""
    tokenizer = train_tokenizer(["picture of a " + " ".join(map(str, range(1000)))])
    return make_processor(ImageSettings(8), tokenizer, 6)


@pytest.fixture(scope="session")
def numbered() -> Callable[..., Source]:
    """(n, broken, captions): n pictures in memory, of which some are no pictures."""

    def make(n: int, broken: tuple[int, ...] = (), captions: int = 1, **more: Any) -> Source:
        images = [b"junk" if i in broken else encoded(i) for i in range(n)]
        return Source(
            name="numbers",
            labels=np.arange(n, dtype=np.int32) % 3,
            captions=lambda i: tuple(f"picture {i}" + " of a" * c for c in range(captions)),
            image=lambda i: images[i],
            where=lambda i: f"number {i}",
            **more,
        )

    return make


@pytest.fixture
def write_tar(tmp_path: Path) -> Callable[..., Path]:
    """(name, {member: bytes}) -> a tar file under tmp_path."""

    def write(name: str, members: Mapping[str, bytes], **options: Any) -> Path:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        with tarfile.open(path, "w", **options) as tar:
            for member, data in members.items():
                info = tarfile.TarInfo(member)
                info.size = len(data)
                tar.addfile(info, io.BytesIO(data))
        return path

    return write


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The user's cache folder, within the test's own."""
    monkeypatch.setenv("CODESIGN_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "shards"
