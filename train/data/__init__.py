"""Pictures with captions or classes: what to open, and the batches drawn from it.

Whatever the format, a data set is a `Source`, of any size. `TrainingStream` and
`evaluation_batches` read it as they go; a search keeps small ones on the devices, see
`train/feed.py`.
"""

from codesign.train.data.batches import augment, batch_indices, repeats, template_indices
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
    "DataConfig",
    "DataError",
    "EvaluationBatches",
    "ImageTextBatch",
    "Sample",
    "Skipped",
    "Source",
    "SourceConfig",
    "Tokenizer",
    "TrainingStream",
    "augment",
    "batch_indices",
    "evaluation_batches",
    "load_tokenizer",
    "open_source",
    "repeats",
    "template_indices",
    "train_tokenizer",
]
