"""How a checkpoint's pictures become pixels, as configs of HuggingFace's and OpenCLIP's say it.

HuggingFace says it in processor_config.json, before transformers 5 in preprocessor_config.json,
OpenCLIP in "preprocess_cfg" of open_clip_config.json; where nothing is said it is as OpenAI has it,
which nearly every CLIP kept. Where both are said, what is of the weights' format counts.
"""

from __future__ import annotations

import dataclasses
import os
import re
import warnings
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from codesign.bounds import Ge, Le, MaxLen, MinLen
from codesign.decode import decode
from codesign.errors import UserError
from codesign.json_text import read_json
from codesign.models.dialect import Size
from codesign.models.formats.files import (
    HF_PREPROCESSOR,
    HF_PROCESSOR,
    OPENCLIP_CONFIG,
    in_openclips_names,
)
from codesign.runs import write_json

_RESAMPLE = {"bicubic": 3, "bilinear": 2}  # Pillow's codes

# One for each colour. Pixels are in [0, 1], so a mean or deviation far beyond is none.
_FEW = (MinLen(1), MaxLen(3))
Means = Annotated[tuple[Annotated[float, Ge(-100), Le(100)], ...], *_FEW]
Deviations = Annotated[tuple[Annotated[float, Ge(1e-6), Le(100)], ...], *_FEW]
Grey = Annotated[int, Ge(0), Le(255)]

HalfPixel = Literal["down", "even"]
# In configs of another's own where a side is not cut as its program cuts it.
_HALF_PIXEL = "half_pixel"
# Image processors of transformers that do no more than CLIP's, and whether they cut the middle out
# where a config does not say.
_PLAIN = {
    "CLIP": True,
    "ViT": False,
    "Siglip": False,
    "Blip": False,
    "DeiT": True,
    "Bit": True,
    "ChineseCLIP": True,
}
# Where HuggingFace's processor_config.json and OpenCLIP's config have what they say of pictures.
_NESTED, _PREPROCESS = "image_processor", "preprocess_cfg"

Config = TypeVar("Config")


@dataclasses.dataclass(frozen=True)
class ImageSettings:
    """How a picture becomes numbers.

    Attributes:
      size: side of the result, pixels.
      mean: subtracted from each colour in [0, 1]: three numbers, or one for grey pictures.
      std: divides the difference.
      resize: "shortest": the shorter side becomes `size`, the rest is cut off around the
        centre; "squash": both sides become `size`; "longest": the longer side becomes `size`,
        and `fill` fills the rest.
      interpolation: "bicubic" or "bilinear", by Pillow, which antialiases.
      fill: grey value 0..255 for "longest".
      half_pixel: where the middle is, of a side that is cut by an odd number of pixels: "down": a
        pixel more is cut off at the end, as transformers does; "even": at the end or at the
        beginning, so that an even number is cut there, as torchvision and with it OpenCLIP does.
    """

    size: Size = 224
    mean: Means = (0.48145466, 0.4578275, 0.40821073)
    std: Deviations = (0.26862954, 0.26130258, 0.27577711)
    resize: Literal["shortest", "squash", "longest"] = "shortest"
    interpolation: Literal["bicubic", "bilinear"] = "bicubic"
    fill: Grey = 0
    half_pixel: HalfPixel = "down"

    def __post_init__(self) -> None:
        if len(self.mean) != len(self.std) or len(self.mean) not in (1, 3):
            raise ValueError(
                f"{len(self.mean)} means and {len(self.std)} deviations; give one of each, or three"
            )

    @property
    def channels(self) -> int:
        """Colours of a picture: 3, or 1 where it is grey."""
        return len(self.mean)

    @property
    def mode(self) -> str:
        """Pillow's name for such pictures."""
        return "L" if self.channels == 1 else "RGB"

    def huggingface(self) -> dict[str, Any]:
        """preprocessor_config.json; for "longest", what remains to be done after padding.

        HuggingFace has no word for "longest", so OpenCLIP's say it beside its own; nor for the
        middle that is not its own.
        """
        side = {"height": self.size, "width": self.size}
        shortest = self.resize == "shortest"
        longest = {"resize_mode": "longest", "fill_color": self.fill}
        return {
            "image_processor_type": "CLIPImageProcessor",
            "do_convert_rgb": self.mode == "RGB",
            "do_resize": self.resize != "longest",
            "size": {"shortest_edge": self.size} if shortest else side,
            "resample": _RESAMPLE[self.interpolation],
            "do_center_crop": shortest,
            "crop_size": side,
            "do_rescale": True,
            "rescale_factor": 1 / 255,
            "do_normalize": True,
            "image_mean": list(self.mean),
            "image_std": list(self.std),
            **(longest if self.resize == "longest" else {}),
            **({_HALF_PIXEL: self.half_pixel} if self.half_pixel != "down" else {}),
        }

    def openclip(self) -> dict[str, Any]:
        """OpenCLIP's preprocess_cfg."""
        return {
            "size": self.size,
            "mode": self.mode,
            "mean": list(self.mean),
            "std": list(self.std),
            "interpolation": self.interpolation,
            "resize_mode": self.resize,
            "fill_color": self.fill,
            **({_HALF_PIXEL: self.half_pixel} if self.half_pixel != "even" else {}),
        }


def write_image_settings(folder: Path, settings: ImageSettings) -> None:
    """Writes HuggingFace's config, and into others there that might be read before it."""
    write_json(folder / HF_PREPROCESSOR, settings.huggingface())
    for name, key, said in (
        (HF_PROCESSOR, _NESTED, settings.huggingface()),
        (OPENCLIP_CONFIG, _PREPROCESS, settings.openclip()),
    ):
        other = folder / name
        if not other.is_file():
            continue
        there = read_json(other)
        kept = there if isinstance(there, dict) else {}
        if name == HF_PROCESSOR or key in kept:
            write_json(other, kept | {key: said})


def image_settings(folder: Path, checkpoint: str | os.PathLike[str] | None = None) -> ImageSettings:
    """What the configs in a checkpoint's folder say of pictures; OpenAI's settings by default.

    Args:
      folder: where the configs are.
      checkpoint: as a user names it; where it is a file, the weights are that one.

    Warns:
      UserWarning: HuggingFace's and OpenCLIP's configs differ; that of the weights' format counts.

    Raises:
      UserError: settings that are not supported.
    """
    nested, huggingface, openclip = (
        folder / name for name in (HF_PROCESSOR, HF_PREPROCESSOR, OPENCLIP_CONFIG)
    )
    # As transformers does: what version 5 nests in the processor's config comes first.
    first = nested if _says(nested, _NESTED) else huggingface
    if not first.is_file():
        return _settings_in(openclip) if openclip.is_file() else ImageSettings()
    if not _says(openclip, _PREPROCESS):
        return _settings_in(first)
    file = Path(os.path.expanduser(folder if checkpoint is None else checkpoint))
    of_openclip = in_openclips_names(file if file.is_file() else folder)
    taken, other = (openclip, first) if of_openclip else (first, openclip)
    settings = _settings_in(taken)
    difference = _difference(settings, other)
    if difference:
        warnings.warn(
            f"{taken} and {other.name} beside it say different things of pictures ({difference}); "
            f"taken is {taken.name}, as the weights are of its format",
            stacklevel=3,
        )
    return settings


def _says(path: Path, key: str) -> bool:
    """Whether a config has a key; of one that cannot be read, its reader tells."""
    try:
        found = read_json(path) if path.is_file() else {}
    except UserError:
        return True
    return not isinstance(found, dict) or found.get(key) is not None


def _settings_in(path: Path) -> ImageSettings:
    if path.name == OPENCLIP_CONFIG:
        return _from_openclip(_read(_OpenclipConfig, path).preprocess_cfg or _Openclip(), path)
    if path.name == HF_PREPROCESSOR:
        return _from_huggingface(_read(_Huggingface, path), path)
    return _from_huggingface(
        _read(_HuggingfaceProcessor, path).image_processor or _Huggingface(), path
    )


def _difference(settings: ImageSettings, other: Path) -> str:
    """What another config says otherwise, but of the size, which is the network's."""
    try:
        there = _settings_in(other)
    except UserError as error:
        return str(error)
    return "; ".join(
        f"{field.name} {mine} and {theirs}"
        for field in dataclasses.fields(settings)
        if field.name not in ("size", "half_pixel")
        and (mine := getattr(settings, field.name)) != (theirs := getattr(there, field.name))
    )


@dataclasses.dataclass(frozen=True)
class _Sides:
    """A size in HuggingFace's words."""

    shortest_edge: Size | None = None
    longest_edge: Size | None = None
    height: Size | None = None
    width: Size | None = None


@dataclasses.dataclass(frozen=True)
class _Huggingface:
    """What is looked at in a preprocessor_config.json; left out, it is as CLIP's has it."""

    image_processor_type: str | None = None
    feature_extractor_type: str | None = None
    size: Size | _Sides | None = None
    crop_size: Size | _Sides | None = ImageSettings.size
    pad_size: Size | tuple[Size, Size] | _Sides | None = None
    default_to_square: bool | None = None
    use_square_size: bool | None = None
    do_pad: bool | None = None
    do_resize: bool | None = True
    do_rescale: bool | None = True
    do_normalize: bool | None = True
    do_center_crop: bool | None = None
    resample: int | None = None
    rescale_factor: float = 1 / 255
    image_mean: Means = ()  # left out, which null is not
    image_std: Deviations = ()
    resize_mode: str | None = None
    fill_color: Grey = ImageSettings.fill
    half_pixel: HalfPixel = "down"

    @property
    def kind(self) -> str:
        """Of the processor, "CLIP" of a CLIPImageProcessor or a CLIPFeatureExtractor."""
        named = self.image_processor_type or self.feature_extractor_type or "CLIP"
        return re.split("ImageProcessor|FeatureExtractor", named)[0]


@dataclasses.dataclass(frozen=True)
class _HuggingfaceProcessor:
    """What is looked at in a processor_config.json."""

    image_processor: _Huggingface | None = None


@dataclasses.dataclass(frozen=True)
class _Openclip:
    """What is looked at in OpenCLIP's preprocess_cfg."""

    size: Size | tuple[Size, Size] = ImageSettings.size
    mode: Literal["RGB", "L"] | None = None
    mean: Means = ImageSettings.mean
    std: Deviations = ImageSettings.std
    interpolation: Literal["bicubic", "bilinear", "random"] = ImageSettings.interpolation
    resize_mode: Literal["shortest", "squash", "longest"] = ImageSettings.resize
    fill_color: Grey = ImageSettings.fill
    half_pixel: HalfPixel = "even"


@dataclasses.dataclass(frozen=True)
class _OpenclipConfig:
    preprocess_cfg: _Openclip | None = None


def _read(kind: type[Config], path: Path) -> Config:
    return decode(kind, read_json(path), f"{path}: the image preprocessing cannot be read")


def _from_huggingface(said: _Huggingface, path: Path) -> ImageSettings:
    said = _with_defaults(said, path)
    longest = said.resize_mode == "longest"
    size = _sides(said.size, square=bool(said.default_to_square))
    crop, pad = _sides(said.crop_size), _sides(said.pad_size)
    squash = size.height is not None
    side = size.height if squash else size.shortest_edge
    codes: dict[int | None, str] = {code: name for name, code in _RESAMPLE.items()}
    supported = {
        "size": side is not None and (size.width == side if squash else size.longest_edge is None),
        "do_resize": said.do_resize or longest,
        "do_rescale": said.do_rescale,
        "do_normalize": said.do_normalize,
        "rescale_factor": abs(said.rescale_factor - 1 / 255) < 1e-9,
        "resample": said.resample in codes,
        "do_center_crop": squash or said.do_center_crop,
        "crop_size": not said.do_center_crop or (crop.height, crop.width) == (side, side),
        # Filled up to the size that they have.
        "do_pad": not said.do_pad or pad == _Sides() or (pad.height, pad.width) == (side, side),
        # Transformers 5 takes its own size for it, and versions before the config's.
        "use_square_size": not said.use_square_size or side == ImageSettings.size,
    }
    odd = next((name for name, right in supported.items() if not right), None)
    if side is None or odd is not None:
        raise UserError(
            f"{path}: only resizing to one size, cutting its centre, scaling to [0, 1] and "
            f"normalising are supported; this config asks for another preprocessing by its {odd}"
        )
    return _settings(
        path,
        side,
        said.image_mean,
        said.image_std,
        "longest" if longest else "squash" if squash else "shortest",
        codes[said.resample],
        said.fill_color if longest else ImageSettings.fill,
        said.half_pixel,
    )


def _with_defaults(said: _Huggingface, path: Path) -> _Huggingface:
    """With what CLIP's processor takes where a config leaves it out.

    Raises:
      UserError: another processor, which does or takes something else there.
    """
    clip = said.kind == "CLIP"
    if said.kind not in _PLAIN:
        raise UserError(
            f"{path}: what a {said.kind}ImageProcessor does beyond these settings is not known, "
            f"only that of {', '.join(_PLAIN)}; write CLIPImageProcessor there where that is all"
        )
    usual: dict[str, Any] = {
        "size": ImageSettings.size,
        "resample": _RESAMPLE[ImageSettings.interpolation],
        "image_mean": ImageSettings.mean,
        "image_std": ImageSettings.std,
    }
    missing = {name: value for name, value in usual.items() if getattr(said, name) in (None, ())}
    if missing and not clip:
        raise UserError(
            f"{path}: a {said.kind}ImageProcessor without {', '.join(missing)}, which is not as "
            "CLIP's where it is left out; write it into the config"
        )
    said = dataclasses.replace(said, **missing)
    if clip and said.use_square_size:
        size = _sides(said.size)
        side = size.shortest_edge or size.height
        said = dataclasses.replace(said, size=_Sides(height=side, width=side))
    cuts = _PLAIN[said.kind] if said.do_center_crop is None else said.do_center_crop
    return dataclasses.replace(said, do_center_crop=cuts)


def _sides(size: Size | tuple[Size, Size] | _Sides | None, square: bool = True) -> _Sides:
    """A size in HuggingFace's words, which may be one number: both sides, or the shorter one."""
    if isinstance(size, _Sides):
        return size
    if isinstance(size, tuple):
        return _Sides(height=size[0], width=size[1])
    return _Sides(height=size, width=size) if square else _Sides(shortest_edge=size)


def _from_openclip(said: _Openclip, path: Path) -> ImageSettings:
    sides = said.size if isinstance(said.size, tuple) else (said.size, said.size)
    if len(set(sides)) != 1:
        raise UserError(f"{path}: preprocess_cfg.size is {list(sides)}; only squares are supported")
    if said.mode is not None and (said.mode == "L") != (len(said.mean) == 1):
        raise UserError(
            f"{path}: preprocess_cfg.mode is {said.mode!r}, with {len(said.mean)} means; give one "
            "for L, three for RGB"
        )
    usual = ImageSettings.interpolation
    return _settings(
        path,
        sides[0],
        said.mean,
        said.std,
        said.resize_mode,
        usual if said.interpolation == "random" else said.interpolation,
        said.fill_color,
        said.half_pixel,
    )


def _settings(path: Path, *fields: Any) -> ImageSettings:
    try:
        return ImageSettings(*fields)
    except ValueError as error:
        raise UserError(f"{path}: {error}") from None
