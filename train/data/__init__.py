"""Captioned images: what to load, and the batches drawn from it.

Two sides: `load_data` holds a small set in memory as arrays, for a search; `open_source`,
`TrainingStream` and `evaluation_batches` read sets of any size as they go.
"""

from codesign.train.data.batches import augment, batch_indices, repeats, template_indices
from codesign.train.data.captioned import CaptionedImages, Split, load_data
from codesign.train.data.config import AugmentConfig, DataConfig, DataError, SourceConfig
from codesign.train.data.sources import Sample, Source, open_source
from codesign.train.data.stream import (
    EvaluationBatches,
    ImageTextBatch,
    Skipped,
    TrainingStream,
    evaluation_batches,
)
from codesign.train.data.tokenizer import (
    CaptionTokenizer,
    Tokenizer,
    load_tokenizer,
    train_tokenizer,
)

__all__ = [
    "AugmentConfig",
    "CaptionTokenizer",
    "CaptionedImages",
    "DataConfig",
    "DataError",
    "EvaluationBatches",
    "ImageTextBatch",
    "Sample",
    "Skipped",
    "Source",
    "SourceConfig",
    "Split",
    "Tokenizer",
    "TrainingStream",
    "augment",
    "batch_indices",
    "evaluation_batches",
    "load_data",
    "load_tokenizer",
    "open_source",
    "repeats",
    "template_indices",
    "train_tokenizer",
]
