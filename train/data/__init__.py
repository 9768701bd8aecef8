"""Captioned images: what to load, the loaded arrays, and the batches drawn from them."""

from codesign.train.data.batches import augment, batch_indices, template_indices
from codesign.train.data.captioned import CaptionedImages, Split, load_data
from codesign.train.data.config import DataConfig, DataError
from codesign.train.data.tokenizer import (
    CaptionTokenizer,
    Tokenizer,
    load_tokenizer,
    train_tokenizer,
)

__all__ = [
    "CaptionTokenizer",
    "CaptionedImages",
    "DataConfig",
    "DataError",
    "Split",
    "Tokenizer",
    "augment",
    "batch_indices",
    "load_data",
    "load_tokenizer",
    "template_indices",
    "train_tokenizer",
]
