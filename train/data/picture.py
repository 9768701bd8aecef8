"""One picture of a source: decoded, captioned, and varied at random."""

from __future__ import annotations

import dataclasses
import math
from typing import TYPE_CHECKING

import numpy as np

from codesign.train.data.captions import captions as class_captions
from codesign.train.data.config import AugmentConfig, DataError
from codesign.train.data.decode import decode
from codesign.train.data.sources.base import Source

if TYPE_CHECKING:
    from PIL.Image import Image

    from codesign.models.formats.processor import Pictures

# Width over height of random crops, as everywhere since Szegedy et al., 2015.
_CROP_RATIO = (3 / 4, 4 / 3)
_CROP_TRIES = 10


@dataclasses.dataclass(frozen=True)
class Unreadable:
    """A picture that cannot be read: "where: why"."""

    why: str


def check_augment(augment: AugmentConfig) -> None:
    """Refuses variations that there are not.

    Raises:
      DataError: shares or pixels out of range.
    """
    low, high = augment.crop_scale
    if not 0 < low <= high <= 1:
        raise DataError(f"crop_scale is ({low}, {high}): two shares, 0 < least <= largest <= 1")
    if augment.shift < 0:
        raise DataError(f"shift is {augment.shift}: it must be at least 0 pixels")


def least_side_of(augment: AugmentConfig, size: int) -> int | None:
    """Pixels along a picture's sides that leave every crop twice `size`; None: keep them all."""
    if augment.crop_scale == (1, 1):
        return None  # then pictures are to be exactly those of evaluation
    least_share = math.sqrt(augment.crop_scale[0] * _CROP_RATIO[0])
    return math.ceil(2 * size / least_share)


def decoded(
    source: Source, index: int, mode: str, least_side: int | None = None
) -> Image | np.ndarray | Unreadable:
    """Picture `index` in Pillow's `mode`; of exact levels of grey, f32 [H,W], as it is.

    Of a larger JPEG, the decoder may give a half, quarter or eighth, if still of `least_side`:
    a photograph of 2048 x 1536 takes half the time.
    """
    from codesign.models.formats.pixels import in_mode  # not above: it brings Flax and Orbax

    try:
        stored = source.image(index)
        if isinstance(stored, np.ndarray):
            from PIL import Image

            if stored.dtype == np.float32 and mode == "L":
                return stored
            stored = np.rint(stored).astype(np.uint8)
            return in_mode(Image.fromarray(stored), mode)
        return decode(stored, mode, least_side)
    # Pillow's decoders, fed with noise, raise nearly everything: SyntaxError, struct.error, ...
    except Exception as error:
        lines = str(error).strip().splitlines() or [type(error).__name__]
        return Unreadable(f"{source.where(index)}: {lines[0]}")


def caption_of(source: Source, index: int, rng: np.random.Generator) -> str:
    """One of the picture's captions, else its class in one of the templates; "" for neither."""
    known, label = source.captions(index), int(source.labels[index])
    if known:
        return known[rng.integers(len(known))]
    if label < 0 or not source.class_names or not source.templates:
        return ""
    template = source.templates[rng.integers(len(source.templates))]
    return class_captions([source.class_names[label]], [template])[0][0]


def pixels_of(picture: Image | np.ndarray, processor: Pictures) -> np.ndarray:
    """What `decoded` gave as a network reads it: uint8 [S, S, C], or f32 of exact levels."""
    if isinstance(picture, np.ndarray):
        size = processor.settings.size
        if picture.shape == (size, size):
            return picture[..., None]
        picture = np.rint(picture).astype(np.uint8)
    return processor.pixels(picture)


def augmented(
    picture: Image | np.ndarray,
    processor: Pictures,
    augment: AugmentConfig,
    rng: np.random.Generator,
) -> np.ndarray:
    """A picture at random: cut, resized, mirrored, shifted; uint8 [S, S, C]."""
    from PIL import Image

    if isinstance(picture, np.ndarray):  # as 8-bit images have them
        picture = Image.fromarray(np.rint(picture).astype(np.uint8))
    settings = processor.settings
    size = settings.size
    if augment.crop_scale != (1, 1):
        box = random_box(picture.width, picture.height, augment.crop_scale, rng)
        code = Image.Resampling[settings.interpolation.upper()]
        picture = picture.resize((size, size), code, box)
    pixels = processor.pixels(picture)
    if augment.flip and rng.random() < 0.5:
        pixels = pixels[:, ::-1]
    if augment.shift:
        shifts = rng.integers(-augment.shift, augment.shift + 1, size=2)
        rows, columns = (np.clip(np.arange(size) + by, 0, size - 1) for by in shifts)
        pixels = pixels[rows][:, columns]
    return pixels


def random_box(
    width: int, height: int, scale: tuple[float, float], rng: np.random.Generator
) -> tuple[int, int, int, int]:
    """Corners of a random part: its share of the area uniform in `scale`, its ratio in the log.

    Where no part drawn fits, the largest in the middle that keeps to the ratios.
    """
    low, high = _CROP_RATIO
    for _ in range(_CROP_TRIES):
        area = width * height * rng.uniform(*scale)
        ratio = math.exp(rng.uniform(math.log(low), math.log(high)))
        w, h = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if 0 < w <= width and 0 < h <= height:
            left, top = int(rng.integers(width - w + 1)), int(rng.integers(height - h + 1))
            return left, top, left + w, top + h
    w = min(width, max(1, round(height * high)))
    h = min(height, max(1, round(width / low)))
    left, top = (width - w) // 2, (height - h) // 2
    return left, top, left + w, top + h
