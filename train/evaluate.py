"""Zero-shot classification and retrieval of a CLIP.

Axes: N images, K classes, T caption templates, E joint embedding.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Literal, NamedTuple

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
    right = zero_shot_correct(image_embeddings, class_embeddings, labels)
    return jnp.mean(right, dtype=jnp.float32)


@jax.jit
def zero_shot_correct(
    image_embeddings: jax.Array, class_embeddings: jax.Array, labels: jax.Array
) -> jax.Array:
    """Of each image, whether its nearest class, by cosine, is its own: bool [N]."""
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
    """Of each image, whether a caption of its class is among the k nearest ones: bool [N]."""
    chex.assert_rank(caption_embeddings, 3)
    classes, templates, width = caption_embeddings.shape
    candidates = jnp.reshape(caption_embeddings, (classes * templates, width))
    _, nearest = jax.lax.top_k(_cosines(image_embeddings, candidates), k)
    return jnp.any(nearest // templates == labels[:, None], axis=-1)


class ImageResults(NamedTuple):
    """What a CLIP makes of each image of a split.

    Attributes:
      zero_shot: bool [N], whether the image's nearest class is its own.
      retrieved: bool [N], whether its nearest caption is of its class.
    """

    zero_shot: np.ndarray
    retrieved: np.ndarray


def evaluate_clip(
    encode_image: Callable[[jax.Array], jax.Array],
    encode_text: Callable[[jax.Array], jax.Array],
    data: CaptionedImages,
    split: Literal["validation", "test"],
    batch_size: int = 256,
) -> dict[str, float]:
    """Zero-shot accuracy and image-to-text recall of a CLIP on one split.

    Args and errors are those of `evaluate_images`.

    Returns:
      {"zero_shot_accuracy": ..., "recall_at_1": ...}, both in [0, 1].
    """
    results = evaluate_images(encode_image, encode_text, data, split, batch_size)
    return {
        "zero_shot_accuracy": float(np.mean(results.zero_shot)),
        "recall_at_1": float(np.mean(results.retrieved)),
    }


def evaluate_images(
    encode_image: Callable[[jax.Array], jax.Array],
    encode_text: Callable[[jax.Array], jax.Array],
    data: CaptionedImages,
    split: Literal["validation", "test"],
    batch_size: int = 256,
) -> ImageResults:
    """Zero-shot classification and image-to-text retrieval of each image of a split.

    Every call of an encoder has the same shape, the last batch being padded, so a jitted
    encoder compiles once. The encoders are not jitted here: one that closes over a model
    would keep the weights of its first call.

    Args:
      encode_image: [batch_size, S, S, C] -> [batch_size, E].
      encode_text: int32 [batch_size, context] -> [batch_size, E].
      data: images and captions.
      split: "validation" or "test".
      batch_size: rows of every call.

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
    right = zero_shot_correct(images, class_embeddings(captions), part.labels)
    found = retrieved(images, captions, part.labels)
    return ImageResults(np.asarray(right), np.asarray(found))


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
