"""What importance is measured on: batches of a calibration set and a loss of the embeddings."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from codesign.models.clip import ClipOutput


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
    """Symmetric InfoNCE, f32 []; labels make every pair of equal ones a positive.

    CLIP's training loss (Radford et al., ICML 2021) and, with labels, UniCL's (Yang et al.,
    CVPR 2022): the mean of both directions' cross entropy to uniform over the positives.
    """
    logits = output.logit_scale * jnp.einsum(
        "BE,CE->BC",
        output.image_embedding,
        output.text_embedding,
        precision=jax.lax.Precision.HIGHEST,  # at a scale of 100, less would show
    )
    positive = jnp.eye(logits.shape[0], dtype=logits.dtype)
    if batch.labels is not None:
        same = (batch.labels[:, None] == batch.labels[None, :]).astype(logits.dtype)
        positive = same / jnp.sum(same, axis=1, keepdims=True)
    to_texts, to_images = jax.nn.log_softmax(logits), jax.nn.log_softmax(logits.T)
    return -0.5 * jnp.mean(jnp.sum(positive * (to_texts + to_images), axis=1))
