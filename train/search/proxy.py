"""What the elastic supernet says of every network of the space: the proxy of its accuracy.

The towers of a CLIP meet in one product, so the embeddings of every choice of each tower, taken
once, rank all their pairs: 768 passes of images and 216 of texts for the 165,888 networks of the
quickstart.

Axes: I, T choices of the image and of the text tower, in the order of the space; M images; K
candidate texts of an image, its class among classes or its caption among all of them.
"""

from __future__ import annotations

import functools
import itertools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from codesign.errors import UserError
from codesign.models import CLIP
from codesign.models.formats import Processor
from codesign.search.proxy_file import Proxy
from codesign.space import DesignSpace
from codesign.train.clip import Fixed, Weights
from codesign.train.data import Source, evaluation_batches
from codesign.train.data.captions import captions
from codesign.train.data.sources.base import sample, subset
from codesign.train.losses import normalise
from codesign.train.network import Network
from codesign.train.search.population import gates_at

Array = jax.Array
# Images embedded at once.
_BATCH = 256


class Examples(NamedTuple):
    """Held-out images that networks are compared on; NumPy arrays.

    Attributes:
      images: uint8 [M, S, S, C].
      ids: texts of every candidate, by template: int32 [K, templates, tokens].
      targets: the candidate that is right for each image, int [M].
    """

    images: np.ndarray
    ids: np.ndarray
    targets: np.ndarray


def examples(
    source: Source, processor: Processor, images: int, threads: int, seed: int = 0
) -> Examples:
    """A sample of a source's images with the texts they are told apart by.

    Images of named classes have the classes' captions as candidates; others each its first
    caption, among those of all.

    Raises:
      UserError: no image can be read, or images have neither classes nor captions.
    """
    source = subset(source, sample(len(source), images, source.shuffled, seed))
    pixels, kept = [], []
    with evaluation_batches(
        source, processor, batch_size=min(_BATCH, images), threads=threads
    ) as batches:
        for chosen, some in itertools.islice(batches, -(-images // _BATCH)):
            pixels.append(some[: len(chosen)])
            kept.append(chosen)
    if not kept:
        raise UserError(f"{source.name}: no picture could be read")
    which, shown = np.concatenate(kept)[:images], np.concatenate(pixels)[:images]
    labels = source.labels[which]
    if source.class_names and source.templates and np.all(labels >= 0):
        of_classes = captions(source.class_names, source.templates)
        ids = processor.texts([text for row in of_classes for text in row])
        return Examples(shown, ids.reshape(len(of_classes), -1, ids.shape[-1]), labels)
    texts = [source.captions(int(i)) for i in which]
    if not all(texts):
        raise UserError(
            f"{source.name} has images without class or caption: a search cannot rank networks by "
            "them"
        )
    ids = processor.texts([own[0] for own in texts])
    return Examples(shown, np.asarray(ids)[:, None], np.arange(len(texts)))


def proxy_of(
    network: Network, params: Weights, fixed: Fixed, space: DesignSpace, held: Examples
) -> Proxy:
    """The proxy of every network of the space under the weights of an elastic supernet."""
    images = _of_blocks(network, params, fixed, space, "vision", held.images)
    k, templates, tokens = held.ids.shape
    flat = _of_blocks(network, params, fixed, space, "text", held.ids.reshape(-1, tokens))
    texts = _ensembles(flat.reshape(len(flat), k, templates, -1))
    model: CLIP = network.clip(params.clip, fixed.rest)
    scale = jnp.exp(model.logit_scale[...])
    loss, accuracy = _compared(images, texts, jnp.asarray(held.targets), scale)
    return Proxy(np.asarray(loss), np.asarray(accuracy))


def _of_blocks(
    network: Network, params: Weights, fixed: Fixed, space: DesignSpace, tower: str, x: np.ndarray
) -> Array:
    """Embeddings [choices, M, E] of every choice of a tower, some inputs at a time."""
    z = jnp.asarray(every_choice(space, tower))
    size = min(_BATCH, len(x))
    blocks = []
    for start in range(0, len(x), size):
        block = x[start : start + size]
        padded = np.concatenate([block, np.repeat(block[:1], size - len(block), axis=0)])
        out = _embedded(network, params, fixed, space, tower, z, jnp.asarray(padded))
        blocks.append(out[:, : len(block)])
    return jnp.concatenate(blocks, axis=1)


def every_choice(space: DesignSpace, tower: str) -> np.ndarray:
    """Designs [choices, d] that differ in one tower, its last dimension fastest."""
    own = space.part(np.arange(len(space.steps)), tower)
    choices = [range(space.steps[i] + 1) for i in own]
    indices = np.tile(space.steps, (int(np.prod([len(c) for c in choices])), 1))
    indices[:, own] = list(itertools.product(*choices))
    return space.encode(indices).astype(np.float32)


@functools.partial(jax.jit, static_argnames=("network", "space", "tower"))
def _embedded(
    network: Network,
    params: Weights,
    fixed: Fixed,
    space: DesignSpace,
    tower: str,
    z: Array,
    x: Array,
) -> Array:
    model = network.clip(params.clip, fixed.rest)

    def of(z: Array) -> Array:
        gates = gates_at(z, fixed, space)
        if tower == "vision":
            return model.encode_image(network.normalised(x), gates)[0]
        return model.encode_text(x, gates)[0]

    every: Array = jax.lax.map(of, z)
    return every


@jax.jit
def _ensembles(texts: Array) -> Array:
    """Candidates [T, K, E], each the mean direction of its templates [T, K, templates, E]."""
    return normalise(jnp.mean(texts, axis=2))


@jax.jit
def _compared(images: Array, texts: Array, targets: Array, scale: Array) -> tuple[Array, Array]:
    """Loss and accuracy [I, T] of images [I, M, E] among texts [T, K, E]."""

    def of(pair: Array) -> tuple[Array, Array]:
        image, text = images[pair // len(texts)], texts[pair % len(texts)]
        logits = scale * jnp.einsum("ME,KE->MK", image, text, precision=jax.lax.Precision.HIGHEST)
        likely = jnp.take_along_axis(jax.nn.log_softmax(logits), targets[:, None], axis=1)
        return -jnp.mean(likely), jnp.mean(jnp.argmax(logits, axis=1) == targets)

    pairs = jnp.arange(len(images) * len(texts))
    loss, accuracy = jax.lax.map(of, pairs, batch_size=max(1, (1 << 20) // targets.size))
    shape = len(images), len(texts)
    return loss.reshape(shape), accuracy.reshape(shape)
