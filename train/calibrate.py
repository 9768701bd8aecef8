"""Calibration sets: the batches that the importance of a CLIP's units is measured on."""

from __future__ import annotations

import itertools

import numpy as np

from codesign.errors import UserError
from codesign.models.calibration import Calibration
from codesign.models.formats import Processor
from codesign.train.clip import pair_labels
from codesign.train.data import AugmentConfig, Source, TrainingStream

_AS_THEY_ARE = AugmentConfig(crop_scale=(1.0, 1.0), flip=False, shift=0)


def calibration_batches(
    source: Source,
    processor: Processor,
    *,
    samples: int,
    batch_size: int,
    seed: int = 0,
    threads: int = 4,
) -> Calibration:
    """Random samples of a source, whole batches of them, not augmented.

    Args:
      source: pictures with captions, or labels.
      processor: of the CLIP that is scored.
      samples: at least so many, rounded up to whole batches.
      batch_size: pairs that a contrastive loss sees together.
      seed: which samples.
      threads: that read and decode.

    Returns:
      Stacked batches, each leaf [N, batch_size, ...], images normalised.

    Raises:
      UserError: numbers below 1, or of `batch_size` below 2.
    """
    if samples < 1 or batch_size < 2:
        raise UserError(
            f"samples is {samples} and batch_size {batch_size}: they must be at least 1 and 2"
        )
    with TrainingStream(
        source, processor, batch_size=batch_size, seed=seed, augment=_AS_THEY_ARE, threads=threads
    ) as stream:
        batches = list(itertools.islice(stream, -(-samples // batch_size)))
    labels = np.stack([np.asarray(pair_labels(batch.labels, True)) for batch in batches])
    return Calibration(
        images=processor.normalise(np.stack([batch.images for batch in batches])),
        ids=np.stack([batch.ids for batch in batches]),
        labels=labels,
    )
