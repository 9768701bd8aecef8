"""The contrastive and the distillation loss of large batches, a few rows of logits at a time.

Axes: B pairs of the global batch, E joint embedding, R rows of a chunk.

The logits of a batch are B x B numbers, 4 GiB at 32,768 pairs, and their softmax and its gradient
need several times that. Here no more than R x B of them exist at once, twice: those of R images
with all texts, then those of R texts with all images. Each of the two passes needs row sums alone,
so on several devices each works on its own rows and no sums are exchanged; only the embeddings,
B x E numbers, are sent to all. The products are computed twice for that, which is little: a pair of
ViT-B/16 takes 1e11 operations in the towers and 2e8 here, at 32,768 pairs.

Both losses are of one form. With logits z and targets t, a distribution over the texts for each
image, and likewise s over the images for each text,

  loss = 1/2B (sum_b (log sum_c exp z[b, c] - sum_c t[b, c] z[b, c])
             + sum_c (log sum_b exp z[b, c] - sum_b s[b, c] z[b, c]))

Its gradient by z is the sum of both softmaxes less t + s, divided by 2B, and is made of chunks too;
`jax.custom_jvp` multiplies it with whatever tangent comes, so that it serves reverse and forward
mode and is computed once.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import chex
import jax
import jax.numpy as jnp
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from codesign.models.contrastive import normalise

Array = jax.Array


class Chunks(NamedTuple):
    """How logits are cut.

    Attributes:
      rows: R, over all devices; it divides the batch.
      mesh: of the devices, along all of whose axes the batch is split; None: one device.
    """

    rows: int
    mesh: Mesh | None = None


class _Side(NamedTuple):
    """Images or texts, as their own rows' and the other side's columns' targets need them.

    Attributes:
      own: of each, [B, ...].
      level: of each, [B]: number of its positives, or log of the teacher's sum.
    """

    own: Array
    level: Array


# Of the sides of a chunk's rows and of all columns, and the level of either, [R, 1] or [1, B]:
# the targets [R, B] of that direction.
_Targets = Callable[[_Side, _Side, Array], Array]


def chunked_contrastive_loss(
    image_embedding: Array,
    text_embedding: Array,
    logit_scale: Array | float,
    labels: Array | None = None,
    *,
    chunks: Chunks,
) -> Array:
    """`contrastive.contrastive_loss`, by chunks; the arguments are the same.

    Raises:
      ValueError: rows that do not divide the batch.
    """
    images, texts, scale = _inputs(image_embedding, text_embedding, logit_scale, chunks)
    labels = _labels(labels, len(images))
    all_ = _everywhere(labels, chunks)
    counts = _by_rows(lambda row: jnp.sum(row[:, None] == all_[None], axis=1), labels, chunks)
    side = _Side(labels, counts.astype(images.dtype))
    return _loss(_same_label, chunks, images, texts, scale, side, side)


def chunked_distillation_loss(
    student: tuple[Array, Array, Array | float],
    teacher: tuple[Array, Array, Array | float],
    *,
    chunks: Chunks,
) -> Array:
    """`distillation_loss` of two networks' similarities, by chunks.

    It is the difference of two cross entropies, to the teacher's distribution from the student's
    and from the teacher's own; so it is exact to a rounding of these, about 1e-6 in float32.

    Args:
      student: image embeddings [B, E], text embeddings [B, E], scale of the logits.
      teacher: the same, of any width; no gradient reaches it.
      chunks: how logits are cut.

    Raises:
      ValueError: rows that do not divide the batch.
    """
    ours = _inputs(*student, chunks)
    theirs = jax.lax.stop_gradient(_inputs(*teacher, chunks))
    images, texts, scale = theirs
    # The scale goes with the images, so that a pair's logit is one product on either side.
    rows, columns = _log_sums(images, texts, scale, chunks)
    sides = _Side(scale * images, rows), _Side(texts, columns)
    return _loss(_of_teacher, chunks, *ours, *sides) - jax.lax.stop_gradient(
        _loss(_of_teacher, chunks, *theirs, *sides)
    )


def chunked_sigmoid_loss(
    image_embedding: Array,
    text_embedding: Array,
    logit_scale: Array | float,
    logit_bias: Array | float,
    labels: Array | None = None,
    *,
    chunks: Chunks,
) -> Array:
    """`sigmoid_loss` by chunks; the arguments are the same.

    Every pair is judged alone: a pass over R images with all texts is all, whose logits are
    computed once more for the gradient.

    Raises:
      ValueError: rows that do not divide the batch.
    """
    images, texts, scale = _inputs(image_embedding, text_embedding, logit_scale, chunks)
    labels = _labels(labels, len(images))
    texts, all_ = _everywhere((texts, labels), chunks)

    @jax.checkpoint
    def of(chunk: Any) -> Array:
        row, own = chunk
        sign = jnp.where(own[:, None] == all_[None], 1.0, -1.0)
        return jnp.sum(jax.nn.log_sigmoid(sign * (scale * _product(row, texts) + logit_bias)), 1)

    return -jnp.sum(_by_rows(of, (images, labels), chunks)) / len(images)


def _labels(labels: Array | None, batch: int) -> Array:
    """Of every pair, [B]: the given ones, or each its own."""
    labels = jnp.arange(batch) if labels is None else jnp.asarray(labels)
    chex.assert_shape(labels, (batch,))
    chex.assert_type(labels, int)
    return labels


def _same_label(rows: _Side, columns: _Side, level: Array) -> Array:
    return (rows.own[:, None] == columns.own[None]).astype(level.dtype) / level


def _of_teacher(rows: _Side, columns: _Side, level: Array) -> Array:
    return jnp.exp(_product(rows.own, columns.own) - level)


def _inputs(images: Array, texts: Array, scale: Array | float, chunks: Chunks) -> Any:
    """Unit vectors of both sides and the scale."""
    chex.assert_rank(images, 2)
    chex.assert_equal_shape([images, texts])
    if images.shape[0] % chunks.rows:
        raise ValueError(f"{chunks.rows} rows of logits do not divide a batch of {images.shape[0]}")
    scale = jnp.asarray(scale, jnp.float32)
    chex.assert_rank(scale, 0)
    return normalise(images), normalise(texts), scale


def _product(rows: Array, columns: Array) -> Array:
    """[R, E], [B, E] -> [R, B]; as exact as in `contrastive.similarity_logits`."""
    return jnp.einsum("RE,BE->RB", rows, columns, precision=jax.lax.Precision.HIGHEST)


def _by_rows(function: Callable[[Any], Any], tree: Any, chunks: Chunks) -> Any:
    """A function of R rows, applied to B, one chunk after another; leaves [B, ...] of both.

    Chunk m holds the rows m, m + M, ... of M chunks: so each device's rows stay on it.
    """

    def cut(x: Array) -> Array:
        parts = jnp.moveaxis(x.reshape(chunks.rows, -1, *x.shape[1:]), 1, 0)
        return _held(parts, chunks, 1)

    def joined(x: Array) -> Array:
        return jnp.moveaxis(x, 0, 1).reshape(-1, *x.shape[2:])

    return jax.tree.map(joined, jax.lax.map(function, jax.tree.map(cut, tree)))


def _held(x: Array, chunks: Chunks, axis: int | None) -> Array:
    """An array split along an axis over all devices, or whole on each."""
    if chunks.mesh is None:
        return x
    spec = () if axis is None else (*[None] * axis, chunks.mesh.axis_names)
    return jax.lax.with_sharding_constraint(x, NamedSharding(chunks.mesh, PartitionSpec(*spec)))


def _everywhere(tree: Any, chunks: Chunks) -> Any:
    return jax.tree.map(lambda x: _held(x, chunks, None), tree)


def _log_sums(images: Array, texts: Array, scale: Array, chunks: Chunks) -> tuple[Array, Array]:
    """log sum exp of the logits of every image, and of every text: [B], [B]."""

    def of(rows: Array, columns: Array) -> Array:
        columns = _everywhere(columns, chunks)
        return _by_rows(
            lambda r: jax.nn.logsumexp(scale * _product(r, columns), axis=1), rows, chunks
        )

    return of(images, texts), of(texts, images)


@functools.partial(jax.custom_jvp, nondiff_argnums=(0, 1))
def _loss(
    targets: _Targets,
    chunks: Chunks,
    images: Array,
    texts: Array,
    scale: Array,
    of_images: _Side,
    of_texts: _Side,
) -> Array:
    """The loss of unit vectors, see the module; differentiable by images, texts and scale."""
    return _with_log_sums(targets, chunks, images, texts, scale, of_images, of_texts)[0]


def _with_log_sums(
    targets: _Targets,
    chunks: Chunks,
    images: Array,
    texts: Array,
    scale: Array,
    of_images: _Side,
    of_texts: _Side,
) -> tuple[Array, tuple[Array, Array]]:
    """The loss, and the log of the sum of every image's and every text's exponentials."""

    def direction(rows: Any, columns: Any) -> tuple[Array, Array]:
        vectors, others = _everywhere(columns, chunks)

        def of(chunk: Any) -> tuple[Array, Array]:
            row, side = chunk
            logits = scale * _product(row, vectors)
            top = jnp.max(logits, axis=1, keepdims=True)
            # Less the largest, whose own rounding would be more than a small loss.
            log_sum = jnp.log(jnp.sum(jnp.exp(logits - top), axis=1))
            wanted = targets(side, others, side.level[:, None])
            return log_sum - jnp.sum(wanted * (logits - top), axis=1), log_sum + top[:, 0]

        return _by_rows(of, rows, chunks)

    seen, read = (images, of_images), (texts, of_texts)
    (loss, rows), (loss_of_texts, columns) = direction(seen, read), direction(read, seen)
    return 0.5 * (jnp.mean(loss) + jnp.mean(loss_of_texts)), (rows, columns)


@_loss.defjvp
def _(targets: _Targets, chunks: Chunks, primals: Any, tangents: Any) -> tuple[Array, Array]:
    images, texts, scale, of_images, of_texts = primals
    value, (rows, columns) = _with_log_sums(targets, chunks, *primals)

    def gradient(rows: Any, columns: Any) -> tuple[Array, Array]:
        """By one side's unit vectors, [B, E], and of each row by the scale, [B]."""
        vectors, others, log_others = _everywhere(columns, chunks)

        def of(chunk: Any) -> tuple[Array, Array]:
            row, side, log_row = chunk
            cosines = _product(row, vectors)
            logits = scale * cosines
            slope = jnp.exp(logits - log_row[:, None]) - targets(side, others, side.level[:, None])
            slope += jnp.exp(logits - log_others[None]) - targets(side, others, others.level[None])
            by_row = jnp.einsum("RB,BE->RE", slope, vectors, precision=jax.lax.Precision.HIGHEST)
            return scale * by_row, jnp.sum(slope * cosines, axis=1)

        return _by_rows(of, rows, chunks)

    seen, read = (images, of_images, rows), (texts, of_texts, columns)
    (by_images, by_scale), (by_texts, _) = gradient(seen, read), gradient(read, seen)
    tangent = (
        jnp.vdot(by_images, tangents[0])
        + jnp.vdot(by_texts, tangents[1])
        + jnp.sum(by_scale) * tangents[2]
    )
    return value, (tangent / (2 * images.shape[0])).astype(value.dtype)
