"""Encoded pictures to pixels, by decoders that are trusted and within bounds of memory."""

from __future__ import annotations

import functools
import io
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from PIL.Image import Image

# What Pillow is let to decode. Not EPS, for one, which starts a program.
FORMATS = (
    "JPEG",
    "PNG",
    "WEBP",
    "AVIF",
    "GIF",
    "BMP",
    "DIB",
    "TIFF",
    "PPM",
    "JPEG2000",
    "TGA",
    "ICO",
    "QOI",
    "PCX",
    "SGI",
    "PSD",
    "DDS",
)
# A file of some KB may claim any number. Pillow's own limit, from which it warns; at 3 or 4 bytes
# a pixel and two copies, 0.7 GB of one thread.
MOST_PIXELS = 89_478_485


def decode(stored: bytes, mode: str, least_side: int | None = None) -> Image:
    """The picture in Pillow's `mode`, see `in_mode`.

    Args:
      stored: JPEG, PNG or another of `FORMATS`.
      mode: "RGB" or "L".
      least_side: of a JPEG, a half, quarter or eighth will do that has as many pixels a side.

    Raises:
      ValueError: no picture, one of more than `MOST_PIXELS`, or without an agreed range.
      Exception: whatever else Pillow's decoders raise of damaged pictures.
    """
    from PIL import Image, UnidentifiedImageError

    from codesign.models.formats.pixels import in_mode  # not above: it brings Flax and Orbax

    try:
        with Image.open(io.BytesIO(stored), formats=_decoders()) as opened:
            if least_side is not None:
                opened.draft(None, (least_side, least_side))
            if opened.width * opened.height > MOST_PIXELS:
                raise ValueError(
                    f"{opened.width} x {opened.height} pixels; up to {MOST_PIXELS:,} are decoded"
                )
            return in_mode(opened, mode)
    except UnidentifiedImageError:
        raise ValueError(f"{len(stored)} bytes that are no picture") from None


@functools.cache
def _decoders() -> tuple[str, ...]:
    """Those of `FORMATS` with which Pillow was built."""
    from PIL import Image

    Image.init()
    return tuple(kind for kind in FORMATS if kind in Image.OPEN)
