"""Zero-shot classification and image-text retrieval of a CLIP on a source of any size.

Axes: N images, K classes, C captions, E joint embedding.

Images are read once, embedded in batches of one shape on all devices of the process, and each
process takes its share; the embeddings, which are small, are then gathered and compared in
blocks.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.sharding import Mesh

from codesign.errors import RunError, UserError
from codesign.models import CLIP, Gates
from codesign.models.formats import Processor
from codesign.train import placement
from codesign.train.data import Skipped, Source, evaluation_batches
from codesign.train.data.captions import captions as class_captions
from codesign.train.data.stream import check_batch_size
from codesign.train.evaluate import (
    ImageResults,
    class_embeddings,
    retrieved,
    zero_shot_correct,
)
from codesign.train.network import Network

TOP = (1, 5)
RECALL = (1, 5, 10)
# Queries compared with all candidates at once.
_BLOCK = 1024


def evaluate_source(
    model: CLIP,
    processor: Processor,
    source: Source,
    *,
    batch_size: int = 64,
    threads: int = 4,
    progress: Callable[[int], Any] = lambda _: None,
) -> dict[str, Any]:
    """What the CLIP makes of the pictures of a source.

    A source with labels gives zero-shot classification, one with captions retrieval in both
    directions, one with both gives both.

    Args:
      model: any CLIP.
      processor: as the CLIP expects pictures and texts.
      source: pictures with labels, captions or both.
      batch_size: pictures embedded at once, by all devices of this process together.
      threads: that read and decode.
      progress: called with the number of pictures done since the last call.

    Returns:
      {"images": N, "skipped": {"count", "examples"}, and of
       "zero_shot": {"classes", "templates", "top_1", "top_5"},
       "retrieval": {"captions", "image_to_text": {"recall_at_1", ...}, "text_to_image": {...}}
       those that apply}; accuracies are shares in [0, 1].

    Raises:
      UserError: a source without labels and captions, or no readable picture.
      RunError: embeddings that are not finite.
    """
    encode = Encoders(model, processor, batch_size)
    kept, images, skipped = _embed_images(encode, processor, source, threads, progress)
    labels = source.labels[kept]
    captions = [source.captions(int(i)) for i in kept]
    result: dict[str, Any] = {
        "images": len(kept),
        "skipped": {"count": skipped.count, "examples": list(skipped.examples)},
    }
    if source.class_names and source.templates and np.any(labels >= 0):
        result["zero_shot"] = _zero_shot(encode, processor, source, images, labels)
    if any(captions):
        result["retrieval"] = _retrieval(encode, processor, images, captions)
    if "zero_shot" not in result and "retrieval" not in result:
        raise UserError(f"{source.name} has neither labels nor captions: nothing to evaluate")
    return result


def evaluate_images(
    model: CLIP,
    processor: Processor,
    source: Source,
    *,
    batch_size: int = 64,
    threads: int = 4,
    gates: Gates | None = None,
) -> ImageResults:
    """What the CLIP makes of each readable picture of a source, in order.

    Pictures of named classes are classified, by the ensemble of the source's templates, and
    their captions are those of all classes; else captions are the pictures' own.

    Args:
      model: any CLIP.
      processor: as the CLIP expects pictures and texts.
      source: the pictures.
      batch_size: pictures embedded at once, by all devices of this process together.
      threads: that read and decode.
      gates: of the network within the CLIP that is meant; None: all of it.

    Raises:
      UserError: a source without named classes and captions, or no readable picture.
      RunError: embeddings that are not finite.
    """
    encode = Encoders(model, processor, batch_size, gates)
    kept, images, _ = _embed_images(encode, processor, source, threads, lambda _: None)
    labels = source.labels[kept]
    if source.class_names and source.templates and np.all(labels >= 0):
        captions = _class_captions(encode, processor, source)
        right = zero_shot_correct(images, class_embeddings(captions), labels)
        return ImageResults(np.asarray(right), np.asarray(retrieved(images, captions, labels)))
    texts = [source.captions(int(i)) for i in kept]
    if not any(texts):
        raise UserError(f"{source.name} has neither labels nor captions: nothing to evaluate")
    owner = np.repeat(np.arange(len(texts)), [len(own) for own in texts])
    flat = [text for own in texts for text in own]
    vectors = encode.texts(processor.texts(flat))
    found = first_is_right(images, vectors, np.arange(len(texts)), owner)
    return ImageResults(found, found)


def _class_captions(encode: Encoders, processor: Processor, source: Source) -> jax.Array:
    """Embeddings [K, T, E] of the classes' captions."""
    captions = class_captions(source.class_names, source.templates)
    flat = encode.texts(processor.texts([text for row in captions for text in row]))
    return jnp.asarray(flat.reshape(len(captions), len(captions[0]), -1))


class Encoders:
    """Embeddings of pixels and ids, in batches of one shape on this process's devices.

    Args:
      model: any CLIP.
      processor: of its inputs.
      batch_size: rounded up to a multiple of the devices.
      gates: of the network within the CLIP that embeds; None: all of it.
    """

    def __init__(
        self, model: CLIP, processor: Processor, batch_size: int, gates: Gates | None = None
    ) -> None:
        check_batch_size(batch_size)
        mesh = Mesh(np.asarray(jax.local_devices()), (placement.DATA,))
        self.batch_size = -(-batch_size // mesh.size) * mesh.size
        graphdef, state = nnx.split(model)
        self._network = Network(graphdef, processor.settings)
        self._split = placement.batched(mesh)
        self._state, self._gates = placement.put((state, gates), placement.replicated(mesh))

    def images(self, pixels: np.ndarray) -> jax.Array:
        """uint8 [batch_size, S, S, C] -> f32 [batch_size, E]."""
        whole = jax.device_put(pixels, self._split)
        return _embed_pixels(self._state, whole, self._gates, self._network)

    def texts(self, ids: np.ndarray) -> np.ndarray:
        """int32 [C, T], any number of them -> f32 [C, E]."""
        size, embedded = self.batch_size, []
        for start in range(0, len(ids), size):
            part = ids[start : start + size]
            padding = np.repeat(part[:1], size - len(part), axis=0)
            whole = jax.device_put(np.concatenate([part, padding]), self._split)
            out = _embed_ids(self._state, whole, self._gates, self._network)
            embedded.append(np.asarray(out)[: len(part)])
        return _finite(np.concatenate(embedded), "text")


@functools.partial(jax.jit, static_argnames="network")
def _embed_pixels(
    state: nnx.State, images: jax.Array, gates: Gates | None, network: Network
) -> jax.Array:
    return network.embed_images(state, images, gates)


@functools.partial(jax.jit, static_argnames="network")
def _embed_ids(
    state: nnx.State, ids: jax.Array, gates: Gates | None, network: Network
) -> jax.Array:
    return network.embed_texts(state, ids, gates)


def _finite(embeddings: np.ndarray, what: str) -> np.ndarray:
    """Embeddings, which an argmax would take for an answer were they NaN."""
    if not np.isfinite(embeddings).all():
        raise RunError(f"the {what} embeddings are not finite; the checkpoint is damaged")
    return embeddings


def _embed_images(
    encode: Encoders,
    processor: Processor,
    source: Source,
    threads: int,
    progress: Callable[[int], Any],
) -> tuple[np.ndarray, np.ndarray, Skipped]:
    """Indices [N] of the readable pictures in order, their embeddings [N, E], and the others."""
    indices: list[np.ndarray] = []
    embedded: list[jax.Array] = []
    shares = {"process_index": jax.process_index(), "process_count": jax.process_count()}
    with evaluation_batches(
        source, processor, batch_size=encode.batch_size, threads=threads, **shares
    ) as batches:
        for chosen, pixels in batches:
            out = encode.images(pixels)
            indices.append(chosen)
            embedded.append(out[: len(chosen)])
            progress(len(chosen))
        skipped = batches.skipped
    kept = np.concatenate([np.zeros(0, np.int64), *indices])
    if not embedded:
        raise UserError(f"{source.name}: no picture could be read; {skipped}")
    vectors = _finite(np.concatenate([np.asarray(e) for e in embedded]), "image")
    if jax.process_count() > 1:
        kept, vectors, skipped = _gathered(kept, vectors, skipped)
    return kept, vectors, skipped


def _gathered(
    kept: np.ndarray, vectors: np.ndarray, skipped: Skipped
) -> tuple[np.ndarray, np.ndarray, Skipped]:
    """What all processes have embedded, in the source's order."""
    from jax.experimental.multihost_utils import process_allgather

    counts = np.asarray(process_allgather(np.asarray([len(kept), skipped.count, skipped.read])))
    most = int(counts[:, 0].max())
    fill = most - len(kept)
    all_kept = process_allgather(np.pad(kept, (0, fill), constant_values=-1))
    all_vectors = process_allgather(np.pad(vectors, ((0, fill), (0, 0))))
    flat = np.asarray(all_kept).reshape(-1)
    order = np.argsort(flat, kind="stable")[np.sum(flat < 0) :]
    together = np.asarray(all_vectors).reshape(len(flat), -1)
    read, count = int(counts[:, 2].sum()), int(counts[:, 1].sum())
    total = Skipped(count=count, examples=skipped.examples, read=read)
    return flat[order], together[order], total


def _zero_shot(
    encode: Encoders, processor: Processor, source: Source, images: np.ndarray, labels: np.ndarray
) -> dict[str, Any]:
    """Top-k accuracy under the prompt ensemble of the source."""
    captions = _class_captions(encode, processor, source)
    classes = class_embeddings(captions)
    known = labels >= 0
    owner = np.arange(len(captions))
    found = expected_recall(images[known], np.asarray(classes), labels[known], owner, TOP)
    return {
        "classes": len(captions),
        "templates": captions.shape[1],
        **{f"top_{k}": share for k, share in zip(TOP, found, strict=True)},
    }


def _retrieval(
    encode: Encoders,
    processor: Processor,
    images: np.ndarray,
    captions: Sequence[Sequence[str]],
) -> dict[str, Any]:
    """Recall of captions by image and of images by caption, over those that have some."""
    flat = [text for texts in captions for text in texts]
    owner = np.repeat(np.arange(len(captions)), [len(texts) for texts in captions])
    vectors = encode.texts(processor.texts(flat))
    described = np.unique(owner)
    to_text = expected_recall(images[described], vectors, described, owner, RECALL)
    to_image = expected_recall(vectors, images[described], owner, described, RECALL)
    return {
        "captions": len(flat),
        **{
            direction: {f"recall_at_{k}": share for k, share in zip(RECALL, found, strict=True)}
            for direction, found in (("image_to_text", to_text), ("text_to_image", to_image))
        },
    }


def expected_recall(
    queries: np.ndarray,
    candidates: np.ndarray,
    query_owner: np.ndarray,
    candidate_owner: np.ndarray,
    ks: Sequence[int],
) -> list[float]:
    """Mean over queries of the chance that one of the k nearest candidates is a right one.

    Candidates of equal similarity are taken in random order, of which this is the expectation:
    with g wrong candidates nearer than the nearest right one, and w wrong and r right ones at
    its similarity, 1 - C(w, m) / C(w + r, m) for m = k - g places. So a model that maps
    everything to one point scores chance, neither 0 nor 1.

    Args:
      queries: [N, E] unit vectors.
      candidates: [M, E] unit vectors.
      query_owner: int [N]: a candidate is right where its owner is the query's.
      candidate_owner: int [M]; every query has a right candidate.
      ks: numbers of places.

    Returns:
      One share in [0, 1] per k.
    """
    nearer, wrong, right = _counts(queries, candidates, query_owner, candidate_owner)
    recalls = []
    for k in ks:
        places = np.clip(k - nearer, 0, None)
        missed = np.ones(len(nearer))
        for taken in range(k):
            left = np.maximum(wrong - taken, 0) / np.maximum(wrong + right - taken, 1)
            missed *= np.where(taken < places, left, 1.0)
        recalls.append(float(np.mean(1 - missed)))
    return recalls


def first_is_right(
    queries: np.ndarray,
    candidates: np.ndarray,
    query_owner: np.ndarray,
    candidate_owner: np.ndarray,
) -> np.ndarray:
    """Whether each query's nearest right candidate is nearer than all wrong ones: bool [N].

    Args are those of `expected_recall`, but a query may have no right candidate.
    """
    nearer, wrong, right = _counts(queries, candidates, query_owner, candidate_owner)
    return (nearer + wrong == 0) & (right > 0)


def _counts(
    queries: np.ndarray,
    candidates: np.ndarray,
    query_owner: np.ndarray,
    candidate_owner: np.ndarray,
) -> np.ndarray:
    """`_count` of all queries, block by block: [3, N]."""
    keys, owners = jnp.asarray(candidates), jnp.asarray(candidate_owner)
    counts = []
    for start in range(0, len(queries), _BLOCK):
        block = slice(start, start + _BLOCK)
        counted = _count(jnp.asarray(queries[block]), keys, jnp.asarray(query_owner[block]), owners)
        counts.append(np.stack([np.asarray(c) for c in counted]))
    return np.concatenate(counts, axis=1)


@jax.jit
def _count(
    queries: jax.Array, keys: jax.Array, query_owner: jax.Array, key_owner: jax.Array
) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Candidates of each query: wrong ones nearer than its best right one; wrong, right at it."""
    cosines = jnp.einsum("NE,ME->NM", queries, keys, precision=jax.lax.Precision.HIGHEST)
    own = query_owner[:, None] == key_owner[None, :]
    best = jnp.max(jnp.where(own, cosines, -jnp.inf), axis=1, keepdims=True)
    level = cosines == best
    return (
        jnp.sum(~own & (cosines > best), axis=1),
        jnp.sum(~own & level, axis=1),
        jnp.sum(own & level, axis=1),
    )
