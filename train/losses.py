"""Contrastive and distillation losses; that of CLIP is `codesign.models.contrastive`'s.

Axes: B pairs of the global batch, E joint embedding, C candidates.

Written over the global batch: under GSPMD the batch may be sharded over devices, and the
compiler inserts the gathers that every other CLIP loss spells out by hand.
"""

from __future__ import annotations

import chex
import jax
import jax.numpy as jnp

from codesign.models.contrastive import (
    contrastive_loss,
    normalise,
    positives,
    similarity_logits,
)

__all__ = [
    "balanced_bias",
    "contrastive_loss",
    "distillation_loss",
    "feature_distillation_loss",
    "normalise",
    "sigmoid_loss",
    "similarity_logits",
]


def distillation_loss(student_logits: jax.Array, teacher_logits: jax.Array) -> jax.Array:
    """How far the student's similarities are from the teacher's, in both directions.

    With row and column softmax p of the teacher and q of the student,

      loss = 1/2 mean_rows KL(p || q) + 1/2 mean_columns KL(p || q)

    the affinity mimicking of TinyCLIP (Wu et al., ICCV 2023) with KL for cross entropy:
    the gradient is the same, and the loss is 0 where the student agrees. No gradient
    reaches the teacher.

    Args:
      student_logits: [B, C], scaled: images by captions.
      teacher_logits: [B, C], scaled.

    Returns:
      float32 scalar.
    """
    chex.assert_rank(student_logits, 2)
    chex.assert_equal_shape([student_logits, teacher_logits])
    student = jnp.asarray(student_logits, jnp.float32)
    teacher = jax.lax.stop_gradient(jnp.asarray(teacher_logits, jnp.float32))
    return 0.5 * (_divergence(teacher, student) + _divergence(teacher.T, student.T))


def sigmoid_loss(
    image_embedding: jax.Array,
    text_embedding: jax.Array,
    logit_scale: jax.Array | float,
    logit_bias: jax.Array | float,
    labels: jax.Array | None = None,
) -> jax.Array:
    """Pairwise sigmoid loss of SigLIP (Zhai et al., ICCV 2023, algorithm 1).

    With logits z and t[b, c] = 1 for a positive pair, -1 for any other,

      loss = -1/B sum_b sum_c log sigmoid(t[b, c] (z[b, c] + bias))

    Every pair is judged alone, so no softmax runs over the batch.

    Args:
      image_embedding: [B, E], of any length.
      text_embedding: [B, E], row b the caption of image b.
      logit_scale: scalar factor, see `similarity_logits`.
      logit_bias: scalar, see `balanced_bias`.
      labels: int [B]: pairs of one label are positive too; or None.

    Returns:
      float32 scalar.
    """
    chex.assert_equal_shape([image_embedding, text_embedding])
    logits = similarity_logits(image_embedding, text_embedding, logit_scale)
    positive = positives(logits.shape[0], labels) > 0
    sign = jnp.where(positive, 1.0, -1.0)
    pairs = jax.nn.log_sigmoid(sign * (logits + logit_bias))
    return -jnp.sum(pairs) / logits.shape[0]


def balanced_bias(logits: jax.Array, positives: jax.Array | float) -> jax.Array:
    """The bias under which a batch's expected number of positive pairs is the true one.

    SigLIP starts at scale 10 and bias -10, which suits random embeddings; a checkpoint that was
    trained by softmax brings a scale of its own, under which -10 may call every pair positive.
    Solves sum sigmoid(logits + bias) = positives by bisection; the sum grows with the bias.

    Args:
      logits: [B, C], scaled.
      positives: how many of the pairs are positive, between 0 and B C.

    Returns:
      float32 scalar.
    """
    logits = jnp.asarray(logits, jnp.float32)
    # Outside, every sigmoid is below e^-30 or within as much of 1.
    low, high = -jnp.max(logits) - 30.0, -jnp.min(logits) + 30.0

    def halve(_: int, bounds: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        low, high = bounds
        middle = 0.5 * (low + high)
        too_many = jnp.sum(jax.nn.sigmoid(logits + middle)) > positives
        return jnp.where(too_many, low, middle), jnp.where(too_many, middle, high)

    low, high = jax.lax.fori_loop(0, 40, halve, (low, high))
    return 0.5 * (low + high)


def feature_distillation_loss(student: jax.Array, teacher: jax.Array) -> jax.Array:
    """Squared distance of unit embeddings, the feature distillation of CLIP-KD.

    CLIP-KD (Yang et al., CVPR 2024, eq. 4) takes the mean over batch and channels; here it is
    summed over channels, |s - t|^2 = 2 - 2 cos(s, t), which does not shrink with the width.

    Args:
      student: [B, E], of any length.
      teacher: [B, E], of any length; no gradient reaches it.

    Returns:
      float32 scalar in [0, 4].
    """
    chex.assert_rank(student, 2)
    chex.assert_equal_shape([student, teacher])
    goal = jax.lax.stop_gradient(normalise(teacher))
    return jnp.mean(jnp.sum(jnp.square(normalise(student) - goal), axis=-1))


def _divergence(teacher: jax.Array, student: jax.Array) -> jax.Array:
    """Mean over rows of KL(softmax(teacher) || softmax(student))."""
    log_p, log_q = jax.nn.log_softmax(teacher), jax.nn.log_softmax(student)
    return jnp.mean(jnp.sum(jnp.exp(log_p) * (log_p - log_q), axis=-1))
