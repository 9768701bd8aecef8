"""Pictures and captions as a checkpoint expects them: what transformers' CLIP processors and
OpenCLIP's do, no torch.

Tokenizer and image settings are read from beside the checkpoint; where there are none they are
OpenAI's, which nearly every CLIP kept.
"""

from __future__ import annotations

import dataclasses
import os
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import jax
import numpy as np

from codesign.errors import RunError, UserError
from codesign.models.clip import CLIP
from codesign.models.formats.files import (
    HF_PREPROCESSOR,
    locate_side_files,
)
from codesign.models.formats.image_settings import (
    ImageSettings,
    image_settings,
    write_image_settings,
)
from codesign.models.formats.openclip_keys import USUAL_TOKENIZER, USUAL_VOCAB, check_tokenizer
from codesign.models.formats.pixels import in_mode, is_extreme, resized_and_cut, resized_middle
from codesign.models.formats.text import clip_lowered
from codesign.models.formats.tokenizer_files import has_tokenizer, is_clip, read_tokenizer

if TYPE_CHECKING:
    from PIL.Image import Image

# Rows a token table may have more than words, having been padded to a round number.
_MOST_PADDING = 127
Pixels = TypeVar("Pixels", np.ndarray, jax.Array)


class Pictures:
    """Pictures to pixels, as one network expects them.

    Args:
      settings: of the pictures.
    """

    def __init__(self, settings: ImageSettings) -> None:
        self.settings = settings
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
        if opened.size != (size, size):
            opened = _fitted(opened, self.settings)
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
        self._cleans = is_clip(tokenizer)

    def texts(self, texts: str | Sequence[str]) -> np.ndarray:
        """Captions -> int32 [B, context]; a longer one is cut, its end-of-text token kept.

        CLIP's byte pairs get CLIP's cleaning first (`clip_lowered`); other tokenizers have
        their own, as their files say.
        """
        texts = [texts] if isinstance(texts, str) else list(texts)
        if self._cleans:
            texts = [clip_lowered(text) for text in texts]
        encoded = self.tokenizer(
            texts,
            padding="max_length",
            truncation=True,
            max_length=self.context,
            return_tensors="np",
        )
        return np.asarray(encoded["input_ids"], np.int32)

    def save(self, folder: str | os.PathLike[str]) -> None:
        """Writes what `load_processor` needs into a folder, made where it is missing.

        Raises:
          RunError: where the disk refuses.
        """
        folder = Path(os.path.expanduser(folder))
        try:
            folder.mkdir(parents=True, exist_ok=True)
            # Aside, so that a kill leaves each file old or new.
            with tempfile.TemporaryDirectory(dir=folder, prefix=".tokenizer.") as aside:
                self.tokenizer.save_pretrained(aside)
                for file in sorted(Path(aside).iterdir()):
                    os.replace(file, folder / file.name)
        except OSError as error:
            raise RunError(f"cannot write to {folder}: {error.strerror}") from error
        write_image_settings(folder, self.settings)


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
    settings = dataclasses.replace(image_settings(folder, path), size=clip.architecture.image)
    colours = clip.architecture.channels
    if settings.channels != colours:
        raise UserError(
            f"{folder}: the checkpoint's pictures have {colours} channels, the preprocessing is "
            f"for {settings.channels}; put a {HF_PREPROCESSOR} there whose image_mean and "
            f"image_std have length {colours}"
        )
    return Processor(settings, _tokenizer(folder, clip, tokenizer), clip.architecture.context)


def _fitted(picture: Image, settings: ImageSettings) -> Image:
    """A picture resized, and cut or filled up, to the settings' square."""
    from PIL import Image

    size, how = settings.size, settings.interpolation
    if settings.resize == "longest":
        return _letterbox(picture, settings)
    if settings.resize == "squash":
        return picture.resize((size, size), Image.Resampling[how.upper()])
    cut = resized_middle if is_extreme(picture) else resized_and_cut
    return cut(picture, size, how, settings.half_pixel)


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
    small = picture.resize((width, height), Image.Resampling[settings.interpolation.upper()])
    fill = (settings.fill,) * settings.channels
    square = Image.new(settings.mode, (settings.size,) * 2, fill)
    square.paste(small, ((settings.size - width) // 2, (settings.size - height) // 2))
    return square


def _tokenizer(folder: Path, clip: CLIP, other: str | os.PathLike[str] | None) -> Any:
    vocab, beside = clip.architecture.vocab, has_tokenizer(folder)
    if other is None:
        check_tokenizer(folder, beside)
    if other is None and not beside:
        if vocab != USUAL_VOCAB:
            raise UserError(
                f"no tokenizer is beside the checkpoint, and its vocabulary of {vocab} is not "
                "OpenAI's; give tokenizer (--tokenizer), a folder or hub name"
            )
        return _checked(_usual_tokenizer(), USUAL_TOKENIZER, clip)
    place = folder if other is None else locate_side_files(other)
    return _checked(read_tokenizer(place), place, clip)


def _usual_tokenizer() -> Any:
    try:
        return read_tokenizer(USUAL_TOKENIZER)
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
