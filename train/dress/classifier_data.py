"""Pictures with classes for a classifier: opened, prepared, and what it gets right of them."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from codesign.errors import UserError
from codesign.models.formats import ImageSettings
from codesign.models.formats.processor import Processor
from codesign.train.data import Source, SourceConfig, evaluation_batches, open_source
from codesign.train.dress.classifier import Variables, split_classifier


class PictureProcessor(Processor):
    """Pictures to pixels for a network without texts.

    Args:
      settings: of the pictures.
    """

    def __init__(self, settings: ImageSettings) -> None:
        super().__init__(settings, tokenizer=None, context=0)

    def texts(self, texts: str | Sequence[str]) -> np.ndarray:
        """None: int32 [B, 0]."""
        return np.zeros((1 if isinstance(texts, str) else len(texts), 0), np.int32)


def open_labelled(
    config: SourceConfig, classes: int, progress: Callable[[int, int], Any] | None = None
) -> Source:
    """Opens pictures that all have one of the network's classes.

    Args:
      config: what to open.
      classes: of the network.
      progress: see `open_source`.

    Raises:
      UserError: data that cannot be opened, a picture without a class or of another.
    """
    source = open_source(config, progress)
    odd = np.flatnonzero((source.labels < 0) | (source.labels >= classes))
    if odd.size:
        where, label = source.where(int(odd[0])), int(source.labels[odd[0]])
        what = "has no class" if label < 0 else f"is of class {label}"
        raise UserError(
            f"{where} {what}: the network has the classes 0 to {classes - 1}"
            + (f"; set --network.classes to {int(source.labels.max()) + 1}" if label > 0 else "")
        )
    return source


def right_by(model: nnx.Module, settings: ImageSettings) -> Callable[..., jax.Array]:
    """(uint8 [B,S,S,C], labels [B]) -> int [1], how many of the pictures the network gets right.

    Args:
      model: normalised images -> logits.
      settings: of the pictures.
    """
    classifier, variables = split_classifier(model, settings.mean, settings.std)

    @jax.jit
    def right(variables: Variables, images: jax.Array, labels: jax.Array) -> jax.Array:
        logits = classifier.infer(variables, classifier.normalised(images))
        return jnp.sum(jnp.argmax(logits, axis=-1) == labels)[None]

    return functools.partial(right, variables)


def measure(
    right: Callable[..., jax.Array], processor: Processor, source: Source, *,
    batch_size: int, threads: int = 4, progress: Callable[[int], Any] = lambda _: None,
) -> list[dict[str, Any]]:
    """What one or several networks get right of the pictures of a source, read once.

    Args:
      right: (uint8 [B,S,S,C], labels [B], -1 where there is no picture) -> int [M], how many of
        the pictures each of M networks gets right.
      processor: of the pictures.
      source: pictures with classes.
      batch_size: B.
      threads: that read and decode.
      progress: called with the number of pictures done since the last call.

    Returns:
      Of each network {"images": N, "skipped": {"count", "examples"},
      "classification": {"classes", "top_1"}}; the accuracy is a share in [0, 1].

    Raises:
      UserError: no readable picture.
    """
    images, counts = 0, []
    with evaluation_batches(source, processor, batch_size=batch_size, threads=threads) as batches:
        for chosen, pixels in batches:
            labels = np.full(batch_size, -1, np.int32)
            labels[: len(chosen)] = source.labels[chosen]
            counts.append(right(pixels, labels))
            images += len(chosen)
            progress(len(chosen))
        skipped = batches.skipped
    if not images:
        raise UserError(f"{source.name}: no picture could be read; {skipped}")
    return [
        {
            "images": images,
            "skipped": {"count": skipped.count, "examples": list(skipped.examples)},
            "classification": {"classes": len(source.class_names), "top_1": float(count / images)},
        }
        for count in np.sum([np.asarray(count) for count in counts], axis=0)
    ]
