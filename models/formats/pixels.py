"""A picture's colours in one mode, and its middle cut out with bounded work."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from PIL.Image import Image

# Longer side over shorter, from which the middle is cut before it is resized.
EXTREME_ASPECT = 8
# Pixels on either side that a filter weighs, of the coarser of both grids.
_SUPPORT = {"bilinear": 1.0, "bicubic": 2.0}
# Formats whose 32-bit pixels are 16-bit ones, which Pillow has widened.
_WIDENED = ("PNG", "PPM")
_16_BITS = 65535


def in_mode(picture: Image, mode: str) -> Image:
    """The picture in Pillow's `mode`, "RGB" or "L", 8 bits a colour.

    Transparency is laid on white: a page shows it so, and img2dataset, which made OpenCLIP's
    training sets, stores it so. 16-bit greys keep their range. The first frame of several counts.

    Raises:
      ValueError: pixels of no agreed range, floating point or 32 bits.
      OSError: pixels that cannot be decoded.
    """
    if picture.mode == "F" or (picture.mode == "I" and picture.format not in _WIDENED):
        kind = "floating-point" if picture.mode == "F" else "32-bit"
        raise ValueError(f"{kind} pixels have no agreed white; save it with 8 or 16 bits")
    if picture.mode.startswith("I"):
        picture = _from_16_bits(picture)
    elif picture.mode in ("RGBA", "RGBa", "LA", "La", "PA") or "transparency" in picture.info:
        picture = _on_white(picture)
    if picture.mode == mode:
        picture.load()
        return picture
    return picture.convert(mode)


def _from_16_bits(picture: Image) -> Image:
    from PIL import Image

    values = np.asarray(picture)
    if values.size and (values.min() < 0 or values.max() > _16_BITS):
        raise ValueError("grey pixels of more than 16 bits have no agreed white")
    return Image.fromarray(((values.astype(np.uint32) + 128) // 257).astype(np.uint8))


def _on_white(picture: Image) -> Image:
    from PIL import Image

    with_alpha = picture.convert("RGBA")
    white = Image.new("RGBA", picture.size, "white")
    return Image.alpha_composite(white, with_alpha).convert("RGB")


def is_extreme(picture: Image) -> bool:
    """Whether resizing the whole of it would mostly make pixels to be cut off."""
    short, long = sorted(picture.size)
    return long > EXTREME_ASPECT * short


def beginning_of_middle(side: int, size: int, half_pixel: str) -> int:
    """Pixels to cut off before the middle `size` of a side.

    Args:
      side: pixels, at least `size`.
      size: of the middle.
      half_pixel: "down" or "even", of an odd number to cut; see `ImageSettings`.
    """
    return round((side - size) / 2) if half_pixel == "even" else (side - size) // 2


def resized_and_cut(picture: Image, size: int, interpolation: str, half_pixel: str) -> Image:
    """The middle square, once the shorter side is resized to `size`.

    Args:
      picture: in mode "RGB" or "L".
      size: side S of the result, pixels.
      interpolation: "bicubic" or "bilinear".
      half_pixel: as of `beginning_of_middle`.
    """
    from PIL import Image

    short = min(picture.size)
    width, height = (int(size * side / short) for side in picture.size)
    whole = picture.resize((width, height), Image.Resampling[interpolation.upper()])
    left, top = (beginning_of_middle(side, size, half_pixel) for side in whole.size)
    return whole.crop((left, top, left + size, top + size))


def resized_middle(
    picture: Image, size: int, interpolation: str, half_pixel: str = "down"
) -> Image:
    """`resized_and_cut` of a picture of any aspect, with bounded work.

    Only what the filter can reach is read, so the work depends on `size` and the shorter side,
    where a picture of 20,000 x 1 pixels would become one of 4,480,000 x 224 first. Some pixels
    differ by 1 of 255 from those of the long way: Pillow places its box in single precision.

    Args:
      picture: in mode "RGB" or "L".
      size: side S of the result, pixels.
      interpolation: "bicubic" or "bilinear".
      half_pixel: as of `beginning_of_middle`.
    """
    from PIL import Image

    short, long = sorted(picture.size)
    whole = int(size * long / short)
    scale = long / whole
    first = beginning_of_middle(whole, size, half_pixel)
    begin, end = first * scale, (first + size) * scale
    reach = _SUPPORT[interpolation] * max(scale, 1) + 1
    low, high = max(0, math.floor(begin - reach)), min(long, math.ceil(end + reach))
    code = Image.Resampling[interpolation.upper()]
    # One direction after the other, each cut for itself, in the order that Pillow would take.
    if picture.width == long:
        rows = picture.crop((low, 0, high, short))
        rows = rows.resize((size, short), code, (begin - low, 0, end - low, short))
        return rows.resize((size, size), code)
    rows = picture.crop((0, low, short, high))
    if _columns_first(long - whole, short - size):
        columns = rows.resize((short, size), code, (0, begin - low, short, end - low))
        return columns.resize((size, size), code)
    rows = rows.resize((size, high - low), code)
    return rows.resize((size, size), code, (0, begin - low, size, end - low))


def _columns_first(lost_rows: int, lost_columns: int) -> bool:
    """Whether Pillow resizes along the columns first, where both directions are resized.

    It rounds to 8 bits between, so the order is seen in the pixels. Always along the rows before
    version 13; since then (ImagingResample of Resample.c) columns first where they lose more than
    twice as many pixels.
    """
    from PIL import __version__

    return int(__version__.partition(".")[0]) >= 13 and lost_rows > max(0, 2 * lost_columns)
