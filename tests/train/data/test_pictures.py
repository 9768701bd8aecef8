"""Pictures of any mode, shape and size: decoded as documented, or skipped and named."""

from __future__ import annotations

import io
import os
import resource
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import transformers
from PIL import Image

from codesign.models.formats import ImageSettings, pixels
from codesign.models.formats.processor import make_processor
from codesign.train.data import (
    AugmentConfig,
    SourceConfig,
    TrainingStream,
    evaluation_batches,
    open_source,
    train_tokenizer,
)
from codesign.train.data.decode import FORMATS, MOST_PIXELS, decode
from codesign.train.data.sources.folders import IMAGE_SUFFIXES


def stored(image: Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def bomb(width: int, height: int) -> bytes:
    """A grey PNG of zeros, a thousandth of its pixels in bytes."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        check = zlib.crc32(kind + data).to_bytes(4, "big")
        return len(data).to_bytes(4, "big") + kind + data + check

    header = width.to_bytes(4, "big") + height.to_bytes(4, "big") + bytes([8, 0, 0, 0, 0])
    packer = zlib.compressobj()
    rows = b"".join(packer.compress(bytes(width + 1)) for _ in range(height)) + packer.flush()
    parts = chunk(b"IHDR", header) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + parts


def test_transparency_lies_on_white() -> None:
    half = Image.new("RGBA", (2, 1), (200, 0, 0, 255))
    half.putpixel((1, 0), (0, 0, 0, 0))
    grey = Image.new("LA", (2, 1), (60, 255))
    grey.putpixel((1, 0), (0, 128))
    for kind in ("PNG", "WEBP"):
        options = {"lossless": True, "exact": True} if kind == "WEBP" else {}
        found = np.asarray(decode(stored(half, kind, **options), "RGB"))
        assert found.tolist() == [[[200, 0, 0], [255, 255, 255]]]
    assert np.asarray(decode(stored(grey), "L")).tolist() == [[60, 127]]
    palette = Image.new("P", (2, 1))
    palette.putpalette([0, 0, 0, 9, 8, 7])
    palette.putpixel((1, 0), 1)
    for kind in ("PNG", "GIF"):
        found = np.asarray(decode(stored(palette, kind, transparency=0), "RGB"))
        assert found.tolist() == [[[255, 255, 255], [9, 8, 7]]]
    opaque = np.random.default_rng(0).integers(0, 256, (5, 7, 4), np.uint8)
    opaque[..., 3] = 255
    assert (np.asarray(decode(stored(Image.fromarray(opaque)), "RGB")) == opaque[..., :3]).all()


@pytest.mark.parametrize("kind", ["PNG", "PPM", "TIFF"])
def test_16_bit_greys_keep_their_range(kind: str) -> None:
    values = np.asarray([[0, 128, 129, 32768, 65535]], np.uint16)
    data = stored(Image.fromarray(values), kind)
    for mode in ("L", "RGB"):
        found = np.asarray(decode(data, mode)).reshape(5, -1)[:, 0]
        assert found.tolist() == [0, 0, 1, 128, 255]


@pytest.mark.parametrize("dtype", [np.float32, np.int32])
def test_pixels_without_a_range_are_refused(dtype: Any) -> None:
    image = Image.fromarray(np.zeros((2, 2), dtype))
    with pytest.raises(ValueError, match="no agreed white"):
        decode(stored(image, "TIFF"), "RGB")


def processor(size: int = 224, **more: Any) -> Any:
    return make_processor(ImageSettings(size, **more), train_tokenizer(["a"]), 4)


def huggingfaces(picture: Any, settings: ImageSettings) -> np.ndarray:
    """Resized and cut by transformers, uint8 [S, S, 3]."""
    kind = getattr(transformers, "CLIPImageProcessorPil", None) or transformers.CLIPImageProcessor
    resize = kind(**(settings.huggingface() | {"do_rescale": False, "do_normalize": False}))
    return np.moveaxis(resize([picture], return_tensors="np")["pixel_values"][0], 0, -1)


def difference(a: np.ndarray, b: np.ndarray) -> int:
    return int(np.abs(a.astype(int) - b.astype(int)).max())


@pytest.mark.parametrize("interpolation", ["bicubic", "bilinear"])
@pytest.mark.parametrize(
    "shape",
    [(30, 300), (300, 20), (3, 100), (100, 3), (1, 61), (40, 400), (400, 40), (700, 80), (33, 32)],
)
def test_the_middle_is_that_of_the_whole(shape: tuple[int, int], interpolation: str) -> None:
    """Noise, which shows in which order Pillow resizes the two directions."""
    noise = np.random.default_rng(0).integers(0, 256, (*shape, 3), np.uint8)
    size, short = 24, min(shape)
    height, width = (size if side == short else int(size * side / short) for side in shape)
    resampling = Image.Resampling[interpolation.upper()]
    whole = np.asarray(Image.fromarray(noise).resize((width, height), resampling))
    top, left = (height - size) // 2, (width - size) // 2
    middle = np.asarray(pixels.resized_middle(Image.fromarray(noise), size, interpolation))
    assert difference(middle, whole[top : top + size, left : left + size]) <= 1


@pytest.mark.parametrize("interpolation", ["bicubic", "bilinear"])
@pytest.mark.parametrize("shape", [(24, 240), (200, 20), (3, 100), (40, 330)])
def test_extreme_pictures_are_as_huggingface_has_them(
    shape: tuple[int, int], interpolation: str
) -> None:
    smooth = np.linspace(20, 230, shape[0] * shape[1] * 3).reshape(*shape, 3).astype(np.uint8)
    ours = processor(24, interpolation=interpolation)
    theirs = huggingfaces(Image.fromarray(smooth), ours.settings)
    assert pixels.is_extreme(Image.fromarray(smooth))
    assert difference(ours.pixels(smooth), theirs) <= 1


@pytest.mark.parametrize("shape", [(30, 240), (33, 41), (24, 24)])
def test_other_pictures_are_huggingfaces_to_the_bit(shape: tuple[int, int]) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (*shape, 3), np.uint8)
    ours = processor(24)
    theirs = huggingfaces(Image.fromarray(noise), ours.settings)
    assert (ours.pixels(noise) == theirs).all()


@pytest.mark.parametrize("resize", ["shortest", "squash", "longest"])
@pytest.mark.parametrize("shape", [(1, 100_000), (100_000, 1)])
def test_long_pictures_take_bounded_work(shape: tuple[int, int], resize: str) -> None:
    before = resource.getrusage(resource.RUSAGE_SELF)
    found = processor(resize=resize).pixels(np.full((*shape, 3), 7, np.uint8))
    after = resource.getrusage(resource.RUSAGE_SELF)
    assert found.shape == (224, 224, 3) and (found[110:114, 110:114] == 7).any()
    assert after.ru_utime - before.ru_utime < 2
    assert after.ru_maxrss - before.ru_maxrss < 300_000  # KiB


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_pixels_are_bounded() -> None:
    side = int(MOST_PIXELS**0.5) + 2
    data = bomb(side, side)
    assert len(data) < 200_000
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(ValueError, match=f"{side} x {side} pixels; up to 89,478,485 are decoded"):
        decode(data, "RGB")
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 50_000
    with pytest.raises(ValueError, match="no picture"):
        decode(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "RGB")
    assert "EPS" not in FORMATS


def test_suffixes_and_what_is_left_out(tmp_path: Path, picture: Callable, processor: Any) -> None:
    names = ["a.jfif", "b.JPE", "c.avif", "d.webp", "e.pgm", "f.jp2"]
    for name in names:
        (tmp_path / "cat").mkdir(exist_ok=True)
        (tmp_path / "cat" / name).write_bytes(picture(1))  # what it is, its bytes tell
    (tmp_path / "cat/x.heic").write_bytes(b"x")
    (tmp_path / "cat/notes.txt").write_text("not a picture")
    (tmp_path / "loose.png").write_bytes(picture(2))
    os.mkfifo(tmp_path / "cat/pipe.png")
    source = open_source(SourceConfig(str(tmp_path)))
    assert len(source) == 7 and {".jfif", ".jpe", ".avif"} < set(IMAGE_SUFFIXES)
    assert source.lost == (
        f"{tmp_path}/loose.png: in no class's folder",
        f"{tmp_path}/cat/x.heic: pictures of this kind are not read",
    )
    with evaluation_batches(source, processor, batch_size=4, threads=1) as batches:
        read = sum(len(chosen) for chosen, _ in batches)
        skipped = batches.skipped
    assert read == 6 and skipped.count == 3
    assert any("pipe.png: no regular file" in why for why in skipped.examples)


def test_training_skips_what_has_no_range(
    tmp_path: Path, picture: Callable, processor: Any
) -> None:
    (tmp_path / "cat").mkdir()
    for i in range(3):
        (tmp_path / f"cat/{i}.png").write_bytes(picture(i))
    floats = Image.fromarray(np.zeros((9, 9), np.float32))
    (tmp_path / "cat/float.tif").write_bytes(stored(floats, "TIFF"))
    source = open_source(SourceConfig(str(tmp_path)))
    augment = AugmentConfig(crop_scale=(1, 1))
    with TrainingStream(source, processor, batch_size=6, threads=0, augment=augment) as stream:
        next(stream)
        assert (
            stream.skipped.count >= 1 and "float.tif: floating-point" in stream.skipped.examples[0]
        )
