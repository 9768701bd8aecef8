"""Zero-shot classification and retrieval of a CLIP.

Axes: N images, K classes, T caption templates, E joint embedding.
"""

from __future__ import annotations

from functools import partial
from typing import NamedTuple

import chex
import jax
import jax.numpy as jnp
import numpy as np

from codesign.train.losses import normalise


@jax.jit
def class_embeddings(caption_embeddings: jax.Array) -> jax.Array:
    """The template ensemble of CLIP: one unit vector per class.

    Args:
      caption_embeddings: [K, T, E], of any length.

    Returns:
      float32 [K, E]: the captions of a class made unit vectors, averaged, and made a
      unit vector again, so that no template weighs more for being longer.
    """
    chex.assert_rank(caption_embeddings, 3)
    return normalise(jnp.mean(normalise(caption_embeddings), axis=1))


@jax.jit
def zero_shot_accuracy(
    image_embeddings: jax.Array, class_embeddings: jax.Array, labels: jax.Array
) -> jax.Array:
    """Share of images whose nearest class, by cosine, is their own.

    Args:
      image_embeddings: [N, E], of any length.
      class_embeddings: [K, E].
      labels: int [N].

    Returns:
      float32 scalar in [0, 1].
    """
    right = zero_shot_correct(image_embeddings, class_embeddings, labels)
    return jnp.mean(right, dtype=jnp.float32)


@jax.jit
def zero_shot_correct(
    image_embeddings: jax.Array, class_embeddings: jax.Array, labels: jax.Array
) -> jax.Array:
    """Whether each image's nearest class, by cosine, is its own: bool [N]."""
    nearest = jnp.argmax(_cosines(image_embeddings, class_embeddings), axis=-1)
    chex.assert_equal_shape([nearest, labels])
    return nearest == labels


@partial(jax.jit, static_argnames="k")
def retrieval_recall(
    image_embeddings: jax.Array, caption_embeddings: jax.Array, labels: jax.Array, k: int = 1
) -> jax.Array:
    """Image-to-text recall@k over the distinct captions: the mean of `retrieved`.

    All K x T captions of all classes are candidates. An image counts as found if one of
    its k nearest captions, by cosine, is of its own class. Several images share each
    caption, so text-to-image recall would say little; and unlike `zero_shot_accuracy`
    this averages no templates: one misleading caption costs.

    Args:
      image_embeddings: [N, E], of any length.
      caption_embeddings: [K, T, E], of any length.
      labels: int [N].
      k: how many captions may be looked at, at most K x T.

    Returns:
      float32 scalar in [0, 1].
    """
    found = retrieved(image_embeddings, caption_embeddings, labels, k)
    return jnp.mean(found, dtype=jnp.float32)


@partial(jax.jit, static_argnames="k")
def retrieved(
    image_embeddings: jax.Array, caption_embeddings: jax.Array, labels: jax.Array, k: int = 1
) -> jax.Array:
    """Whether a caption of each image's class is among the k nearest ones: bool [N]."""
    chex.assert_rank(caption_embeddings, 3)
    classes, templates, width = caption_embeddings.shape
    candidates = jnp.reshape(caption_embeddings, (classes * templates, width))
    _, nearest = jax.lax.top_k(_cosines(image_embeddings, candidates), k)
    return jnp.any(nearest // templates == labels[:, None], axis=-1)


class ImageResults(NamedTuple):
    """What a CLIP makes of each image.

    Attributes:
      zero_shot: bool [N], whether the image's nearest class is its own; of images without
        classes, as `retrieved`.
      retrieved: bool [N], whether its nearest caption is of its class, or its own.
    """

    zero_shot: np.ndarray
    retrieved: np.ndarray


def _cosines(queries: jax.Array, keys: jax.Array) -> jax.Array:
    """[N, E], [M, E] -> [N, M], in float32 even where products default to less."""
    chex.assert_rank([queries, keys], 2)
    return jnp.einsum(
        "NE,ME->NM", normalise(queries), normalise(keys), precision=jax.lax.Precision.HIGHEST
    )
