"""Zero-shot classification and retrieval of a CLIP.

Axes: N images, K classes, T caption templates, E joint embedding.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Literal

import chex
import jax
import jax.numpy as jnp
import numpy as np

from codesign.train.data import CaptionedImages
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
    nearest = jnp.argmax(_cosines(image_embeddings, class_embeddings), axis=-1)
    chex.assert_equal_shape([nearest, labels])
    return jnp.mean(nearest == labels, dtype=jnp.float32)


@partial(jax.jit, static_argnames="k")
def retrieval_recall(
    image_embeddings: jax.Array, caption_embeddings: jax.Array, labels: jax.Array, k: int = 1
) -> jax.Array:
    """Image-to-text recall@k over the distinct captions.

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
    chex.assert_rank(caption_embeddings, 3)
    classes, templates, width = caption_embeddings.shape
    candidates = jnp.reshape(caption_embeddings, (classes * templates, width))
    _, nearest = jax.lax.top_k(_cosines(image_embeddings, candidates), k)
    found = nearest // templates == labels[:, None]
    return jnp.mean(jnp.any(found, axis=-1), dtype=jnp.float32)


def evaluate_clip(
    encode_image: Callable[[jax.Array], jax.Array],
    encode_text: Callable[[jax.Array], jax.Array],
    data: CaptionedImages,
    split: Literal["validation", "test"],
    batch_size: int = 256,
) -> dict[str, float]:
    """Zero-shot accuracy and image-to-text recall of a CLIP on one split.

    Every call of an encoder has the same shape, the last batch being padded, so a jitted
    encoder compiles once. The encoders are not jitted here: one that closes over a model
    would keep the weights of its first call.

    Args:
      encode_image: [batch_size, S, S, C] -> [batch_size, E].
      encode_text: int32 [batch_size, context] -> [batch_size, E].
      data: images and captions.
      split: "validation" or "test".
      batch_size: rows of every call.

    Returns:
      {"zero_shot_accuracy": ..., "recall_at_1": ...}, both in [0, 1].

    Raises:
      ValueError: an unknown split, or a batch size below 1.
      FloatingPointError: an embedding is NaN or infinite. Its argmax would otherwise
        pass for an answer, and a broken model for one at chance.
    """
    if split not in ("validation", "test"):
        raise ValueError(f"split is {split!r}: choose validation or test")
    part = getattr(data, split)
    classes, templates, context = data.caption_ids.shape
    flat = _encode(encode_text, data.caption_ids.reshape(-1, context), batch_size, "text")
    captions = flat.reshape(classes, templates, -1)
    images = _encode(encode_image, part.images, batch_size, "image")
    accuracy = zero_shot_accuracy(images, class_embeddings(captions), part.labels)
    recall = retrieval_recall(images, captions, part.labels)
    return {"zero_shot_accuracy": float(accuracy), "recall_at_1": float(recall)}


def _cosines(queries: jax.Array, keys: jax.Array) -> jax.Array:
    """[N, E], [M, E] -> [N, M], in float32 even where products default to less."""
    chex.assert_rank([queries, keys], 2)
    return jnp.einsum(
        "NE,ME->NM", normalise(queries), normalise(keys), precision=jax.lax.Precision.HIGHEST
    )


def _encode(
    encode: Callable[[jax.Array], jax.Array], inputs: np.ndarray, batch_size: int, what: str
) -> np.ndarray:
    """`encode` of all inputs, in calls of exactly `batch_size` rows; float32 [N, E]."""
    if batch_size < 1:
        raise ValueError(f"batch_size is {batch_size}: it must be at least 1")
    outputs = []
    for start in range(0, len(inputs), batch_size):
        batch = inputs[start : start + batch_size]
        # Padded with a real input: zeros could make an encoder divide by nothing.
        padding = np.repeat(batch[:1], batch_size - len(batch), axis=0)
        encoded = encode(jnp.asarray(np.concatenate([batch, padding])))
        outputs.append(encoded[: len(batch)])
    embeddings = np.concatenate([np.asarray(output, np.float32) for output in outputs])
    if not np.isfinite(embeddings).all():
        raise FloatingPointError(f"the {what} encoder gave NaN or infinite embeddings")
    return embeddings
