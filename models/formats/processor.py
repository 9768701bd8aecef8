"""Pictures and captions as a checkpoint expects them: transformers' CLIP processors, no torch.

Which tokenizer, size, mean and resampling is read from beside the checkpoint, in
HuggingFace's spelling (processor_config.json, before transformers 5 preprocessor_config.json) or
OpenCLIP's ("preprocess_cfg" in open_clip_config.json); where none is, OpenAI's, which nearly
every CLIP kept.
"""

from __future__ import annotations

import dataclasses
import os
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeVar

import jax
import numpy as np

from codesign.bounds import Ge, Le, MaxLen, MinLen
from codesign.decode import decode
from codesign.errors import RunError, UserError
from codesign.json_text import read_json
from codesign.models.clip import CLIP
from codesign.models.dialect import Size
from codesign.models.formats.files import (
    HF_PREPROCESSOR,
    HF_PROCESSOR,
    OPENCLIP_CONFIG,
    locate_side_files,
)
from codesign.models.formats.pixels import in_mode, is_extreme, resized_middle
from codesign.models.formats.text import clip_cleaned
from codesign.runs import write_json

if TYPE_CHECKING:
    from PIL.Image import Image

# Has OpenAI's vocabulary, with which OpenCLIP's checkpoints are trained too.
_USUAL_TOKENIZER = "openai/clip-vit-base-patch32"
_USUAL_VOCAB = 49408
# Rows a token table may have more than words, having been padded to a round number.
_MOST_PADDING = 127
_RESAMPLE = {"bicubic": 3, "bilinear": 2}  # Pillow's codes

# One for each colour. Pixels are in [0, 1], so a mean or deviation far beyond is none.
_FEW = (MinLen(1), MaxLen(3))
Means = Annotated[tuple[Annotated[float, Ge(-100), Le(100)], ...], *_FEW]
Deviations = Annotated[tuple[Annotated[float, Ge(1e-6), Le(100)], ...], *_FEW]
Grey = Annotated[int, Ge(0), Le(255)]

Config = TypeVar("Config")
Pixels = TypeVar("Pixels", np.ndarray, jax.Array)


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
    """

    size: Size = 224
    mean: Means = (0.48145466, 0.4578275, 0.40821073)
    std: Deviations = (0.26862954, 0.26130258, 0.27577711)
    resize: Literal["shortest", "squash", "longest"] = "shortest"
    interpolation: Literal["bicubic", "bilinear"] = "bicubic"
    fill: Grey = 0

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

        HuggingFace has no word for "longest", so OpenCLIP's say it beside its own.
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
        }


class Pictures:
    """Pictures to pixels, as one network expects them.

    Args:
      settings: of the pictures.
    """

    def __init__(self, settings: ImageSettings) -> None:
        self.settings = settings
        self._resize = _resizer(settings)
        # In float64 once, so that float32 rounds a single time.
        self._offset = (255 * np.asarray(settings.mean)).astype(np.float32)
        self._scale = (1 / (255 * np.asarray(settings.std))).astype(np.float32)

    def pixels(self, picture: Image | np.ndarray) -> np.ndarray:
        """A Pillow image, or a uint8 array [H,W] or [H,W,3], -> uint8 [S,S,C].

        Resized and cut, not yet normalised: a quarter of the memory of `images`, so what to
        send to a device. Transparency is laid on white. Safe to call from several threads.

        Raises:
          ValueError: pixels of no agreed range, floating point or 32 bits.
        """
        opened = in_mode(_opened(picture), self.settings.mode)
        size = self.settings.size
        if opened.size != (size, size):  # else HuggingFace's steps only copy
            if self.settings.resize == "longest":
                opened = _letterbox(opened, self.settings)
            elif self.settings.resize == "shortest" and is_extreme(opened):
                opened = resized_middle(opened, size, self.settings.interpolation)
            else:
                # A batch of one, because pictures differ in size until here.
                resized = self._resize([opened], return_tensors="np")["pixel_values"][0]
                return np.ascontiguousarray(np.moveaxis(resized, 0, -1))
        return np.asarray(opened, np.uint8).reshape(size, size, self.settings.channels)

    def normalise(self, pixels: Pixels) -> Pixels:
        """uint8 [..., C] -> float32 [..., C]: (pixels / 255 - mean) / std, for `encode_image`.

        Of a JAX array it makes a JAX array, within jit too; of a NumPy array a NumPy array.
        """
        return (pixels.astype(np.float32) - self._offset) * self._scale

    def images(self, images: Image | np.ndarray | Sequence[Image | np.ndarray]) -> np.ndarray:
        """Pillow images, or uint8 arrays [H,W,3], -> float32 [B,S,S,C], for `encode_image`."""
        several: list[Any] = list(images) if isinstance(images, (list, tuple)) else [images]
        return self.normalise(np.stack([self.pixels(one) for one in several]))


class Processor(Pictures):
    """Pictures to pixels and captions to ids, as one checkpoint expects them.

    Args:
      settings: of the pictures.
      tokenizer: a tokenizer of transformers, with begin and end of text.
      context: tokens of a text.
    """

    def __init__(self, settings: ImageSettings, tokenizer: Any, context: int) -> None:
        super().__init__(settings)
        self.tokenizer, self.context = tokenizer, context
        self._cleans = _is_clip(tokenizer)

    def texts(self, texts: str | Sequence[str]) -> np.ndarray:
        """Captions -> int32 [B, context]; a longer one is cut, its end-of-text token kept.

        CLIP's byte pairs get CLIP's cleaning first (`clip_cleaned`); other tokenizers have
        their own, as their files say.
        """
        texts = [texts] if isinstance(texts, str) else list(texts)
        if self._cleans:
            texts = [clip_cleaned(text) for text in texts]
        encoded = self.tokenizer(
            texts, padding="max_length", truncation=True, max_length=self.context,
            return_tensors="np",
        )  # fmt: skip
        return np.asarray(encoded["input_ids"], np.int32)

    def save(self, folder: str | os.PathLike[str]) -> None:
        """Writes what `load_processor` needs into a folder, made where it is missing.

        Raises:
          RunError: where the disk refuses.
        """
        folder = Path(folder).expanduser()
        try:
            folder.mkdir(parents=True, exist_ok=True)
            # Aside, so that a kill leaves each file old or new.
            with tempfile.TemporaryDirectory(dir=folder, prefix=".tokenizer.") as aside:
                self.tokenizer.save_pretrained(aside)
                for file in sorted(Path(aside).iterdir()):
                    os.replace(file, folder / file.name)
        except OSError as error:
            raise RunError(f"cannot write to {folder}: {error.strerror}") from error
        _write_image_settings(folder, self.settings)


def _write_image_settings(folder: Path, settings: ImageSettings) -> None:
    """Writes HuggingFace's config, also where a newer one there would be read before it."""
    write_json(folder / HF_PREPROCESSOR, settings.huggingface())
    both = folder / HF_PROCESSOR
    if both.is_file():
        there = read_json(both)
        kept = there if isinstance(there, dict) else {}
        write_json(both, kept | {"image_processor": settings.huggingface()})


def make_processor(settings: ImageSettings, tokenizer: Any, context: int) -> Processor:
    """A processor for training from scratch; `Processor.save` puts it beside the checkpoint.

    Args:
      settings: of the pictures; one mean and std make them grey.
      tokenizer: a `CaptionTokenizer`, or a tokenizer of transformers with an end of text.
      context: tokens of a text.
    """
    known = tokenizer.fast() if hasattr(tokenizer, "fast") else tokenizer
    return Processor(settings, known, context)


def load_processor(
    path: str | os.PathLike[str],
    clip: CLIP,
    *,
    tokenizer: str | os.PathLike[str] | None = None,
    revision: str | None = None,
) -> Processor:
    """The tokenizer and image processor of a checkpoint.

        clip = codesign.load_clip(name)
        processor = codesign.load_processor(name, clip)
        clip(processor.images(pictures), processor.texts(captions))

    Args:
      path: the checkpoint: a file, a folder or a hub name.
      clip: loaded from there; its image size and context are met, whatever configs say.
      tokenizer: folder or hub name of another tokenizer; default: that of the checkpoint, else
        OpenAI's from the hub or its cache.
      revision: of the hub repository.

    Raises:
      UserError: no tokenizer, one of another vocabulary than the CLIP's, or settings that are
        not supported.
    """
    folder = locate_side_files(path, revision)
    settings = dataclasses.replace(image_settings(folder), size=clip.architecture.image)
    colours = clip.architecture.channels
    if settings.channels != colours:
        raise UserError(
            f"{folder}: the checkpoint's pictures have {colours} channels, the preprocessing is "
            f"for {settings.channels}; put a {HF_PREPROCESSOR} there whose image_mean and "
            f"image_std have length {colours}"
        )
    return Processor(settings, _tokenizer(folder, clip, tokenizer), clip.architecture.context)


def image_settings(folder: Path) -> ImageSettings:
    """What the configs in a checkpoint's folder say of pictures; OpenAI's settings by default.

    Raises:
      UserError: settings that are not supported.
    """
    both, huggingface, openclip = (
        folder / name for name in (HF_PROCESSOR, HF_PREPROCESSOR, OPENCLIP_CONFIG)
    )
    if both.is_file():
        # As transformers does: what version 5 nests in the processor's config comes first.
        nested = _read(_HuggingfaceProcessor, both).image_processor
        if nested is not None:
            return _from_huggingface(nested, both)
    if huggingface.is_file():
        return _from_huggingface(_read(_Huggingface, huggingface), huggingface)
    if openclip.is_file():
        said = _read(_OpenclipConfig, openclip).preprocess_cfg
        return _from_openclip(said or _Openclip(), openclip)
    return ImageSettings()


@dataclasses.dataclass(frozen=True)
class _Sides:
    """A size in HuggingFace's words."""

    shortest_edge: Size | None = None
    height: Size | None = None
    width: Size | None = None


@dataclasses.dataclass(frozen=True)
class _Huggingface:
    """What is looked at in a preprocessor_config.json."""

    size: Size | _Sides = ImageSettings.size
    crop_size: Size | _Sides | None = ImageSettings.size
    do_resize: bool | None = True
    do_rescale: bool | None = True
    do_normalize: bool | None = True
    do_center_crop: bool | None = True
    resample: int = _RESAMPLE[ImageSettings.interpolation]
    rescale_factor: float = 1 / 255
    image_mean: Means = ImageSettings.mean
    image_std: Deviations = ImageSettings.std
    resize_mode: str | None = None
    fill_color: Grey = ImageSettings.fill


@dataclasses.dataclass(frozen=True)
class _HuggingfaceProcessor:
    """What is looked at in a processor_config.json."""

    image_processor: _Huggingface | None = None


@dataclasses.dataclass(frozen=True)
class _Openclip:
    """What is looked at in OpenCLIP's preprocess_cfg."""

    size: Size | tuple[Size, Size] = ImageSettings.size
    mean: Means = ImageSettings.mean
    std: Deviations = ImageSettings.std
    interpolation: Literal["bicubic", "bilinear", "random"] = ImageSettings.interpolation
    resize_mode: Literal["shortest", "squash", "longest"] = ImageSettings.resize
    fill_color: Grey = ImageSettings.fill


@dataclasses.dataclass(frozen=True)
class _OpenclipConfig:
    preprocess_cfg: _Openclip | None = None


def _read(kind: type[Config], path: Path) -> Config:
    return decode(kind, read_json(path), f"{path}: the image preprocessing cannot be read")


def _from_huggingface(said: _Huggingface, path: Path) -> ImageSettings:
    longest = said.resize_mode == "longest"
    size = said.size if isinstance(said.size, _Sides) else _Sides(shortest_edge=said.size)
    crop = said.crop_size
    crop = crop if isinstance(crop, _Sides) else _Sides(height=crop, width=crop)
    squash = size.height is not None
    side = size.height if squash else size.shortest_edge
    codes = {code: name for name, code in _RESAMPLE.items()}
    supported = (
        side is not None
        and (said.do_resize or longest)
        and said.do_rescale
        and said.do_normalize
        and abs(said.rescale_factor - 1 / 255) < 1e-9
        and said.resample in codes
        and (size.width == side if squash else said.do_center_crop)
        and (not said.do_center_crop or (crop.height, crop.width) == (side, side))
    )
    if side is None or not supported:
        raise UserError(
            f"{path}: only resizing to one size, cutting its centre, scaling to [0, 1] and "
            "normalising are supported; this config asks for another preprocessing"
        )
    return _settings(
        path, side, said.image_mean, said.image_std,
        "longest" if longest else "squash" if squash else "shortest",
        codes[said.resample], said.fill_color if longest else ImageSettings.fill,
    )  # fmt: skip


def _from_openclip(said: _Openclip, path: Path) -> ImageSettings:
    sides = said.size if isinstance(said.size, tuple) else (said.size, said.size)
    if len(set(sides)) != 1:
        raise UserError(f"{path}: preprocess_cfg.size is {list(sides)}; only squares are supported")
    usual = ImageSettings.interpolation
    return _settings(
        path, sides[0], said.mean, said.std, said.resize_mode,
        usual if said.interpolation == "random" else said.interpolation, said.fill_color,
    )  # fmt: skip


def _settings(path: Path, *fields: Any) -> ImageSettings:
    try:
        return ImageSettings(*fields)
    except ValueError as error:
        raise UserError(f"{path}: {error}") from None


def _resizer(settings: ImageSettings) -> Any:
    """HuggingFace's image processor, to resize and cut alone."""
    import transformers

    # The backend without torch has had a name of its own since there are two.
    kind = getattr(transformers, "CLIPImageProcessorPil", None) or transformers.CLIPImageProcessor
    # Conversion is done before: HuggingFace knows only the one to RGB.
    off = {"do_convert_rgb": False, "do_rescale": False, "do_normalize": False}
    try:
        return kind(**(settings.huggingface() | off))
    except ImportError:
        raise UserError("preparing images needs Pillow: pip install pillow") from None


def _opened(picture: Image | np.ndarray) -> Image:
    """A Pillow image of either; [H,W,1] is grey as [H,W] is."""
    from PIL import Image

    if not isinstance(picture, np.ndarray):
        return picture
    grey = picture.ndim == 3 and picture.shape[-1] == 1
    return Image.fromarray(picture[..., 0] if grey else picture)


def _letterbox(picture: Image, settings: ImageSettings) -> Image:
    """The whole picture within a square, as OpenCLIP's ResizeKeepRatio and CenterCropOrPad."""
    from PIL import Image

    scale = settings.size / max(picture.size)
    width, height = (max(1, round(side * scale)) for side in picture.size)
    small = picture.resize((width, height), _RESAMPLE[settings.interpolation])
    fill = (settings.fill,) * settings.channels
    square = Image.new(settings.mode, (settings.size,) * 2, fill)
    square.paste(small, ((settings.size - width) // 2, (settings.size - height) // 2))
    return square


def _tokenizer(folder: Path, clip: CLIP, other: str | os.PathLike[str] | None) -> Any:
    vocab = clip.architecture.vocab
    if other is None and not _has_tokenizer(folder):
        if vocab != _USUAL_VOCAB:
            raise UserError(
                f"no tokenizer is beside the checkpoint, and its vocabulary of {vocab} is not "
                "OpenAI's; give tokenizer (--tokenizer), a folder or hub name"
            )
        return _checked(_usual_tokenizer(), _USUAL_TOKENIZER, clip)
    place = folder if other is None else locate_side_files(other)
    return _checked(read_tokenizer(place), place, clip)


def _usual_tokenizer() -> Any:
    try:
        return read_tokenizer(_USUAL_TOKENIZER)
    except UserError as error:
        raise UserError(
            "no tokenizer is beside the checkpoint, and OpenAI's cannot be had from the hub or its "
            f"cache ({error}); give tokenizer (--tokenizer), a folder or hub name"
        ) from None


def _checked(tokenizer: Any, place: Any, clip: CLIP) -> Any:
    """A tokenizer, of the vocabulary and the end of text that a CLIP knows."""
    vocab = clip.architecture.vocab
    if not 0 <= vocab - len(tokenizer) <= _MOST_PADDING:
        raise UserError(
            f"the tokenizer in {place} has {len(tokenizer)} words, the checkpoint's token table "
            f"{vocab}; give the tokenizer it was trained with"
        )
    end, pooled = tokenizer.eos_token_id, clip.dialect.end_of_text
    if pooled is not None and end != pooled:
        raise UserError(
            f"the tokenizer in {place} ends texts with the id {end}, the checkpoint reads them "
            f"at {pooled}"
        )
    return tokenizer


def read_tokenizer(path: str | os.PathLike[str]) -> Any:
    """The tokenizer of transformers in a folder, or under a hub name.

    Raises:
      UserError: there is none, or one that does not end its texts.
    """
    place = locate_side_files(path)
    if not _has_tokenizer(place):
        raise UserError(f"{path} holds no tokenizer (tokenizer.json, or vocab.json and merges.txt)")
    try:
        tokenizer = _read_tokenizer(place)
        ends_texts = tokenizer("a")["input_ids"][-1:] == [tokenizer.eos_token_id]
    except Exception as error:  # the tokenizers library raises bare Exceptions
        reason = " ".join(str(error).split())[:200]
        raise UserError(f"{place}: the tokenizer cannot be read: {reason}") from None
    if not ends_texts:
        raise UserError(f"the tokenizer in {place} does not end texts with their end token")
    return tokenizer


def _read_tokenizer(folder: Path) -> Any:
    """CLIP's byte pairs, or whatever else a tokenizer.json holds."""
    from transformers import CLIPTokenizer, PreTrainedTokenizerFast

    file = folder / "tokenizer.json"
    contents = read_json(file) if file.is_file() else {}
    if contents.get("model", {}).get("type", "BPE") == "BPE":
        return CLIPTokenizer.from_pretrained(folder, local_files_only=True)
    tokenizer = PreTrainedTokenizerFast.from_pretrained(folder, local_files_only=True)
    if tokenizer.eos_token is None:
        _name_special_tokens(tokenizer, contents)
    return tokenizer


def _is_clip(tokenizer: Any) -> bool:
    """Whether these are CLIP's byte pairs."""
    from transformers import CLIPTokenizer

    return isinstance(tokenizer, CLIPTokenizer)


def _name_special_tokens(tokenizer: Any, contents: Mapping[str, Any]) -> None:
    """Start, end and padding of a lone tokenizer.json, from the template it puts texts in."""
    template = (contents.get("post_processor") or {}).get("single") or []
    around = [part["SpecialToken"]["id"] for part in template if "SpecialToken" in part]
    if len(around) == 2:
        tokenizer.bos_token, tokenizer.eos_token = around
    if tokenizer.pad_token is None:
        known = tokenizer.get_vocab()
        padding = (token for token in ("[pad]", "[PAD]", "<pad>") if token in known)
        tokenizer.pad_token = next(padding, tokenizer.eos_token)


def _has_tokenizer(folder: Path) -> bool:
    parts = ("vocab.json", "merges.txt")
    return (folder / "tokenizer.json").is_file() or all((folder / p).is_file() for p in parts)
