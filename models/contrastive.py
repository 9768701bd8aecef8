"""The contrastive loss of a CLIP's embeddings.

Axes: B pairs of the global batch, E joint embedding, C candidates.
"""

from __future__ import annotations

import chex
import jax
import jax.numpy as jnp

from codesign.models.transformer import at_least_f32

# Below the square of any real embedding's length; keeps the gradient of a zero one finite.
_TINY = 1e-24


def normalise(embedding: jax.Array) -> jax.Array:
    """Unit vectors along the last axis, of float32 at least; a zero vector stays zero."""
    embedding = jnp.asarray(embedding)
    embedding = embedding.astype(at_least_f32(embedding.dtype))
    squares = jnp.sum(jnp.square(embedding), axis=-1, keepdims=True)
    return embedding * jax.lax.rsqrt(jnp.maximum(squares, _TINY))


def similarity_logits(
    image_embedding: jax.Array, text_embedding: jax.Array, logit_scale: jax.Array | float
) -> jax.Array:
    """Scaled cosine similarities, `logits[b, c] = scale * cos(image_b, text_c)`.

    Args:
      image_embedding: [B, E], of any length.
      text_embedding: [C, E], of any length.
      logit_scale: scalar factor, the exponential of CLIP's log-scale parameter, ~ 1 / 0.07.

    Returns:
      float32 [B, C].
    """
    chex.assert_rank([image_embedding, text_embedding], 2)
    chex.assert_equal_shape_suffix([image_embedding, text_embedding], 1)
    logit_scale = jnp.asarray(logit_scale, jnp.float32)
    chex.assert_rank(logit_scale, 0)
    # A scale of 100 turns the bfloat16 products that TPUs default to into errors of 0.5.
    cosines = jnp.einsum(
        "BE,CE->BC",
        normalise(image_embedding),
        normalise(text_embedding),
        precision=jax.lax.Precision.HIGHEST,
    )
    return logit_scale * cosines


def contrastive_loss(
    image_embedding: jax.Array,
    text_embedding: jax.Array,
    logit_scale: jax.Array | float,
    labels: jax.Array | None = None,
) -> jax.Array:
    """Symmetric InfoNCE of CLIP; with labels, that of UniCL (Yang et al., CVPR 2022).

    With logits z and positives P(b) = {c : label_c = label_b}, or {b} without labels,

      loss = -1/2B sum_b 1/|P(b)| sum_{c in P(b)} (log softmax_c z[b, c] + log softmax_b z[c, b])

    In a class data set a batch holds many captions of one class; without labels these
    would be pushed apart from their own images. The mean of the two directions is taken,
    as in CLIP, where UniCL sums them.

    Args:
      image_embedding: [B, E], of any length.
      text_embedding: [B, E], row b the caption of image b.
      logit_scale: scalar factor, see `similarity_logits`.
      labels: int [B], or None.

    Returns:
      float32 scalar, mean over the global batch.
    """
    chex.assert_rank(image_embedding, 2)
    chex.assert_equal_shape([image_embedding, text_embedding])
    logits = similarity_logits(image_embedding, text_embedding, logit_scale)
    targets = positives(logits.shape[0], labels)
    return 0.5 * (_cross_entropy(targets, logits) + _cross_entropy(targets, logits.T))


def positives(batch: int, labels: jax.Array | None) -> jax.Array:
    """Target distribution of each row, [B, B]: uniform over its positives."""
    if labels is None:
        return jnp.eye(batch, dtype=jnp.float32)
    labels = jnp.asarray(labels)
    chex.assert_shape(labels, (batch,))
    chex.assert_type(labels, int)
    same = (labels[:, None] == labels[None, :]).astype(jnp.float32)
    return same / jnp.sum(same, axis=1, keepdims=True)


def _cross_entropy(targets: jax.Array, logits: jax.Array) -> jax.Array:
    """Mean over rows of the cross entropy from `targets` to softmax(logits)."""
    return -jnp.mean(jnp.sum(targets * jax.nn.log_softmax(logits, axis=-1), axis=-1))
