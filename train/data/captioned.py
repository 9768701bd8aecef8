"""Loading: from a `DataConfig` to normalised images, labels and tokenized captions."""

from __future__ import annotations

import dataclasses

import numpy as np

from codesign.train.data import digits, hub
from codesign.train.data.captions import captions
from codesign.train.data.config import DataConfig, DataError, check_data
from codesign.train.data.raw import RawImages, RawSplit
from codesign.train.data.tokenizer import Tokenizer, train_tokenizer

_READERS = {"digits": digits.load_raw, "cifar10": hub.load_raw}


@dataclasses.dataclass(frozen=True, eq=False)
class Split:
    """One part of a data set.

    Attributes:
      images: float32 [N, S, S, C], normalised per channel.
      labels: int32 [N].
    """

    images: np.ndarray
    labels: np.ndarray


@dataclasses.dataclass(frozen=True, eq=False)
class CaptionedImages:
    """Images, and every caption a class may have.

    A batch of texts is `caption_ids[labels, template_index]`, a gather that runs inside
    jit, so no text is tokenized during training.

    Attributes:
      train, validation, test: disjoint splits.
      class_names: indexed by label.
      templates: captions with one `{}` for the class name.
      caption_ids: int32 [classes, templates, context].
      tokenizer: what made `caption_ids`.
      mean, std: per channel: image = (pixel / full brightness - mean) / std.
      shift: largest random shift, pixels, that training may apply (see `augment`).
      flip: whether training may mirror an image.
    """

    train: Split
    validation: Split
    test: Split
    class_names: tuple[str, ...]
    templates: tuple[str, ...]
    caption_ids: np.ndarray
    tokenizer: Tokenizer
    mean: tuple[float, ...]
    std: tuple[float, ...]
    shift: int
    flip: bool

    @property
    def image_size(self) -> int:
        """Side S of an image, pixels."""
        return self.train.images.shape[1]

    @property
    def channels(self) -> int:
        """Colour channels C of an image."""
        return self.train.images.shape[3]


def load_data(config: DataConfig, tokenizer: Tokenizer | None = None) -> CaptionedImages:
    """Reads, splits and normalises the images and tokenizes every caption once.

    Args:
      config: what to read.
      tokenizer: the one a pretrained text tower belongs to; left out, a word tokenizer
        made from the captions.

    Raises:
      DataError: the configuration or the data cannot be used.
    """
    check_data(config)
    if config.name not in _READERS:
        valid = ", ".join(_READERS)
        raise DataError(f"no data set is named {config.name!r}; choose one of: {valid}")
    raw = _READERS[config.name](config)
    for split in ("train", "validation", "test"):
        if not len(getattr(raw, split).labels):
            raise DataError(f"the {split} split of {config.name} is empty: change the fractions")
    texts = captions(raw.class_names, raw.templates)
    tokenizer = tokenizer or train_tokenizer([text for row in texts for text in row])
    return CaptionedImages(
        train=_normalised(raw.train, raw),
        validation=_normalised(raw.validation, raw),
        test=_normalised(raw.test, raw),
        class_names=raw.class_names,
        templates=raw.templates,
        caption_ids=_caption_ids(texts, tokenizer, config.context),
        tokenizer=tokenizer,
        mean=raw.mean,
        std=raw.std,
        shift=raw.shift,
        flip=raw.flip,
    )


def _normalised(split: RawSplit, raw: RawImages) -> Split:
    """To mean 0 and deviation 1, with one float array at most: CIFAR-10 takes 550 MB."""
    std = np.asarray(raw.std, np.float32)
    images = np.multiply(split.pixels, 1 / (raw.peak * std), dtype=np.float32)
    images -= np.asarray(raw.mean, np.float32) / std
    return Split(images, split.labels)


def _caption_ids(texts: list[list[str]], tokenizer: Tokenizer, context: int) -> np.ndarray:
    """Token ids [classes, templates, context] that tell every two captions apart."""
    flat = [text for row in texts for text in row]
    ids = np.asarray(tokenizer.encode(flat, context), np.int32)
    seen: dict[bytes, str] = {}
    for text, row in zip(flat, ids, strict=True):
        twin = seen.setdefault(row.tobytes(), text)
        if twin is not text:
            raise DataError(
                f"in {context} tokens, {twin!r} and {text!r} become the same text: "
                "raise context, or use a tokenizer that knows these words"
            )
    return ids.reshape(len(texts), -1, context)
