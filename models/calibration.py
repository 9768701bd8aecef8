"""What importance is measured on: batches of a calibration set and a loss of the embeddings."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax

from codesign.models.clip import ClipOutput
from codesign.models.contrastive import contrastive_loss


class Calibration(NamedTuple):
    """One batch, or N stacked ones with a leading axis [N].

    Attributes:
      images: [B,S,S,C], normalised as the model expects.
      ids: int [B,T], row b the caption of image b.
      labels: int [B], equal where captions fit each other's images too; None: nowhere.
    """

    images: Any
    ids: Any
    labels: Any = None


Loss = Callable[[ClipOutput, Calibration], jax.Array]


def info_nce(output: ClipOutput, batch: Calibration) -> jax.Array:
    """CLIP's training loss, f32 []; labels make every pair of equal ones a positive."""
    return contrastive_loss(*output, batch.labels)
