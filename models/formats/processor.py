"""Pictures and captions as a checkpoint expects them: transformers' CLIP processors, no torch.

Which tokenizer, size, mean and resampling is read from beside the checkpoint, in
HuggingFace's spelling (preprocessor_config.json) or OpenCLIP's ("preprocess_cfg" in
open_clip_config.json); where neither is, OpenAI's, which nearly every CLIP kept.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from codesign.errors import UserError
from codesign.models.clip import CLIP
from codesign.models.formats.files import OPENCLIP_CONFIG, locate_side_files
from codesign.runs import read_json

if TYPE_CHECKING:
    from PIL.Image import Image

HF_PREPROCESSOR = "preprocessor_config.json"
# Has OpenAI's vocabulary, with which OpenCLIP's checkpoints are trained too.
_USUAL_TOKENIZER = "openai/clip-vit-base-patch32"
_USUAL_VOCAB = 49408
# Rows a token table may have more than words, having been padded to a round number.
_MOST_PADDING = 127
_RESAMPLE = {"bicubic": 3, "bilinear": 2}  # Pillow's codes


@dataclasses.dataclass(frozen=True)
class ImageSettings:
    """How a picture becomes numbers.

    Attributes:
      size: side of the result, pixels.
      mean: subtracted from each colour in [0, 1].
      std: divides the difference.
      resize: "shortest": the shorter side becomes `size`, the rest is cut off around the
        centre; "squash": both sides become `size`; "longest": the longer side becomes `size`,
        and `fill` fills the rest.
      interpolation: "bicubic" or "bilinear", by Pillow, which antialiases.
      fill: grey value 0..255 for "longest".
    """

    size: int = 224
    mean: tuple[float, float, float] = (0.48145466, 0.4578275, 0.40821073)
    std: tuple[float, float, float] = (0.26862954, 0.26130258, 0.27577711)
    resize: str = "shortest"
    interpolation: str = "bicubic"
    fill: int = 0

    def huggingface(self) -> dict[str, Any]:
        """preprocessor_config.json; for "longest", what remains to be done after padding."""
        side = {"height": self.size, "width": self.size}
        shortest = self.resize == "shortest"
        return {
            "image_processor_type": "CLIPImageProcessor",
            "do_convert_rgb": True,
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
        }

    def openclip(self) -> dict[str, Any]:
        """OpenCLIP's preprocess_cfg."""
        return {
            "size": self.size,
            "mode": "RGB",
            "mean": list(self.mean),
            "std": list(self.std),
            "interpolation": self.interpolation,
            "resize_mode": self.resize,
            "fill_color": self.fill,
        }


class Processor:
    """Pictures to pixels and captions to ids, as one checkpoint expects them.

    Args:
      settings: of the pictures.
      tokenizer: a tokenizer of transformers, with begin and end of text.
      context: tokens of a text.
    """

    def __init__(self, settings: ImageSettings, tokenizer: Any, context: int) -> None:
        self.settings, self.tokenizer, self.context = settings, tokenizer, context
        self._normalise = _image_processor(settings)

    def images(self, images: Image | np.ndarray | Sequence[Image | np.ndarray]) -> np.ndarray:
        """Pillow images, or uint8 arrays [H,W,3], -> float32 [B,S,S,3], for `encode_image`."""
        from PIL import Image

        several = images if isinstance(images, (list, tuple)) else [images]
        pictures: list[Any] = [
            Image.fromarray(i) if isinstance(i, np.ndarray) else i for i in several
        ]
        if self.settings.resize == "longest":
            pictures = [_letterbox(picture, self.settings) for picture in pictures]
        channels_first = self._normalise(pictures, return_tensors="np")["pixel_values"]
        return np.ascontiguousarray(np.moveaxis(channels_first, 1, -1), np.float32)

    def texts(self, texts: str | Sequence[str]) -> np.ndarray:
        """Captions -> int32 [B, context]; a longer one is cut, its end-of-text token kept."""
        texts = [texts] if isinstance(texts, str) else list(texts)
        encoded = self.tokenizer(
            texts, padding="max_length", truncation=True, max_length=self.context,
            return_tensors="np",
        )  # fmt: skip
        return np.asarray(encoded["input_ids"], np.int32)


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
    return Processor(settings, _tokenizer(folder, clip, tokenizer), clip.architecture.context)


def image_settings(folder: Path) -> ImageSettings:
    """What the configs in a checkpoint's folder say of pictures; OpenAI's settings by default.

    Raises:
      UserError: settings that are not supported.
    """
    huggingface, openclip = folder / HF_PREPROCESSOR, folder / OPENCLIP_CONFIG
    try:
        if huggingface.is_file():
            return _from_huggingface(read_json(huggingface), huggingface)
        if openclip.is_file():
            return _from_openclip(read_json(openclip), openclip)
    except (TypeError, AttributeError, KeyError) as error:
        raise UserError(f"{folder}: the image preprocessing cannot be read: {error}") from None
    return ImageSettings()


def _from_huggingface(config: Mapping[str, Any], path: Path) -> ImageSettings:
    usual = ImageSettings()
    size = config.get("size", usual.size)
    size = {"shortest_edge": size} if isinstance(size, int) else size
    crop = config.get("crop_size", usual.size)
    crop = {"height": crop, "width": crop} if isinstance(crop, int) else crop
    squash = "height" in size
    side = size["height"] if squash else size["shortest_edge"]
    steps = {step: config.get(f"do_{step}", True) for step in ("resize", "rescale", "normalize")}
    cropped = config.get("do_center_crop", True)
    codes = {code: name for name, code in _RESAMPLE.items()}
    supported = (
        all(steps.values())
        and abs(config.get("rescale_factor", 1 / 255) - 1 / 255) < 1e-9
        and config.get("resample", 3) in codes
        and (size["width"] == side if squash else cropped)
        and (not cropped or crop == {"height": side, "width": side})
    )
    if not supported:
        raise UserError(
            f"{path}: only resizing to one size, cutting its centre, scaling to [0, 1] and "
            "normalising are supported; this config asks for another preprocessing"
        )
    return ImageSettings(
        side,
        tuple(config.get("image_mean", usual.mean)),
        tuple(config.get("image_std", usual.std)),
        "squash" if squash else "shortest",
        codes[config.get("resample", 3)],
    )


def _from_openclip(config: Mapping[str, Any], path: Path) -> ImageSettings:
    usual = ImageSettings()
    said = config.get("preprocess_cfg") or {}
    size = said.get("size", usual.size)
    size = size if isinstance(size, int) else size[0]
    interpolation = said.get("interpolation", usual.interpolation)
    interpolation = usual.interpolation if interpolation == "random" else interpolation
    resize = said.get("resize_mode", usual.resize)
    if interpolation not in _RESAMPLE or resize not in ("shortest", "squash", "longest"):
        raise UserError(
            f"{path}: resize_mode {resize!r} with interpolation {interpolation!r} is not supported"
        )
    mean, std = tuple(said.get("mean", usual.mean)), tuple(said.get("std", usual.std))
    fill = said.get("fill_color", usual.fill)
    return ImageSettings(size, mean, std, resize, interpolation, int(fill))


def _image_processor(settings: ImageSettings) -> Any:
    import transformers

    # The backend without torch has had a name of its own since there are two.
    kind = getattr(transformers, "CLIPImageProcessorPil", None) or transformers.CLIPImageProcessor
    try:
        return kind(**settings.huggingface())
    except ImportError:
        raise UserError("preparing images needs Pillow: pip install pillow") from None


def _letterbox(picture: Image, settings: ImageSettings) -> Image:
    """The whole picture within a square, as OpenCLIP's ResizeKeepRatio and CenterCropOrPad."""
    from PIL import Image

    scale = settings.size / max(picture.size)
    width, height = (round(side * scale) for side in picture.size)
    code = _RESAMPLE[settings.interpolation]
    small = picture.convert("RGB").resize((width, height), code)
    square = Image.new("RGB", (settings.size,) * 2, (settings.fill,) * 3)
    square.paste(small, ((settings.size - width) // 2, (settings.size - height) // 2))
    return square


def _tokenizer(folder: Path, clip: CLIP, other: str | os.PathLike[str] | None) -> Any:
    vocab = clip.architecture.vocab
    if other is None and not _has_tokenizer(folder):
        if vocab != _USUAL_VOCAB:
            raise UserError(
                f"no tokenizer is beside the checkpoint, and its vocabulary of {vocab} is not "
                "OpenAI's; give tokenizer, a folder or hub name"
            )
        other = _USUAL_TOKENIZER
    place = folder if other is None else locate_side_files(other)
    if not _has_tokenizer(place):
        raise UserError(
            f"{other} holds no tokenizer (tokenizer.json, or vocab.json and merges.txt)"
        )
    from transformers import CLIPTokenizer

    try:
        tokenizer = CLIPTokenizer.from_pretrained(place, local_files_only=True)
    except Exception as error:  # the tokenizers library raises bare Exceptions
        reason = " ".join(str(error).split())[:200]
        raise UserError(f"{place}: the tokenizer cannot be read: {reason}") from None
    if not 0 <= vocab - len(tokenizer) <= _MOST_PADDING:
        raise UserError(
            f"the tokenizer in {place} has {len(tokenizer)} words, the checkpoint's token table "
            f"{vocab}; give the tokenizer it was trained with"
        )
    end, pooled = tokenizer.eos_token_id, clip.dialect.end_of_text
    if end is None or (pooled is not None and end != pooled):
        raise UserError(
            f"the tokenizer in {place} ends texts with the id {end}, the checkpoint reads them "
            f"at {'the largest id' if pooled is None else pooled}"
        )
    return tokenizer


def _has_tokenizer(folder: Path) -> bool:
    parts = ("vocab.json", "merges.txt")
    return (folder / "tokenizer.json").is_file() or all((folder / p).is_file() for p in parts)
