"""What a stage's loop reads batches from: a stream of any size, or a set that lies on the devices.

Axes: n pictures, S side in pixels, C channels, B examples of the global batch, T tokens.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from codesign.models.formats.processor import Pictures, Processor
from codesign.train import placement
from codesign.train.data import (
    AugmentConfig,
    DataError,
    ImageTextBatch,
    Skipped,
    Source,
    TrainingStream,
    augment,
    batch_indices,
    template_indices,
)
from codesign.train.data.captions import captions
from codesign.train.data.picture import Unreadable, decoded, pixels_of
from codesign.train.data.sources.base import sample
from codesign.train.data.watch import WatchedStream
from codesign.train.step import Chunk

Array = jax.Array
Place = dict[str, Any] | None
AS_THEY_ARE = AugmentConfig(crop_scale=(1.0, 1.0), flip=False, shift=0)
# Of pictures that are kept on the devices.
_MOST_RESIDENT_BYTES = 1 << 30
# Where batches are drawn that no step sees.
_OTHER_STEPS = 10**6


class Reader(Protocol):
    """Open data of one stage."""

    @property
    def skipped(self) -> Skipped | None:
        """Pictures that could not be read; None where all could, beforehand."""
        ...

    def read(self, step: int, steps: int, size: int) -> Any:
        """What steps `step` to `step + steps` see, on the devices.

        A `Chunk` of at least as large a size where the feed is chunked; else the batch of the one
        step.
        """
        ...

    def place(self) -> Place:
        """Where the data are, as JSON values; None: the step tells."""
        ...

    def restore(self, place: Place) -> None:
        """Goes to where `place()` was called."""
        ...


class Feed(Protocol):
    """Training data, opened anew for each stage."""

    @property
    def chunked(self) -> bool:
        """Whether several steps are read at once, as a `Chunk`."""
        ...

    def open(self) -> Any:
        """A context manager that hands out a `Reader`."""
        ...


@dataclasses.dataclass(frozen=True, eq=False)
class StreamFeed:
    """Pictures of any number, decoded as they are needed, each process its share.

    Attributes:
      source: the pictures.
      processor: of them, and of texts where the network reads any.
      config: batch (`optim.batch_size`), seed, augment, threads and stall_s.
      mesh: the devices.
      chunked: see `Feed`.
      says: shows a line where the data stall.
    """

    source: Source
    processor: Pictures
    config: Any
    mesh: Mesh
    chunked: bool = False
    says: Callable[[str], None] = print

    @contextmanager
    def open(self) -> Iterator[StreamReader]:
        """A stream from the beginning, watched where the config has it so."""
        optim, stall_s = self.config.optim, self.config.stall_s
        with self._stream(optim.batch_size, self.config.seed, self.config.augment) as stream:
            if not stall_s:
                yield StreamReader(stream, self.mesh, self.chunked)
                return
            with closing(WatchedStream(stream, stall_s, self.says)) as watched:
                yield StreamReader(watched, self.mesh, self.chunked)

    def others(self, batches: int, size: int) -> ImageTextBatch:
        """Stacked batches that are not varied, drawn otherwise than those of the steps."""
        seed = self.config.seed + _OTHER_STEPS
        with self._stream(size, seed, AS_THEY_ARE) as stream:
            stacked: ImageTextBatch = StreamReader(stream, self.mesh, True).read(0, batches).data
        return stacked

    def sample(self, size: int) -> ImageTextBatch:
        """One batch of so many pictures, or all of fewer; not varied."""
        size = max(1, min(size, len(self.source)) // self.mesh.size) * self.mesh.size
        batch: ImageTextBatch = jax.tree.map(lambda x: x[0], self.others(1, size))
        return batch

    def _stream(self, size: int, seed: int, varied: AugmentConfig) -> TrainingStream:
        shares = jax.process_count()
        return TrainingStream(
            self.source,
            self.processor,
            batch_size=size // shares,
            seed=seed,
            augment=varied,
            threads=self.config.threads,
            process_index=jax.process_index(),
            process_count=shares,
        )


@dataclasses.dataclass(frozen=True, eq=False)
class StreamReader:
    """A `Reader` of a stream."""

    stream: TrainingStream | WatchedStream
    mesh: Mesh
    chunked: bool

    @property
    def skipped(self) -> Skipped:
        """Images that this process could not read."""
        return self.stream.skipped

    def read(self, step: int, steps: int, size: int = 1) -> Any:
        """Each process brings its part."""
        batches = list(itertools.islice(self.stream, steps))
        batches += batches[-1:] * (size - steps)
        host = jax.tree.map(lambda *x: np.stack(x), *batches) if self.chunked else batches[0]
        sharding = placement.batched(self.mesh, axis=int(self.chunked))
        made: ImageTextBatch = jax.tree.map(
            functools.partial(jax.make_array_from_process_local_data, sharding), host
        )
        return _chunk(made, steps, self.mesh) if self.chunked else made

    def place(self) -> Place:
        """The position of the stream."""
        return self.stream.state()

    def restore(self, place: Place) -> None:
        """Goes there; None, at the start of a run, leaves the stream where it is."""
        if place is not None:
            self.stream.restore(place)


class Resident(NamedTuple):
    """Pictures of named classes on the devices.

    Attributes:
      images: [n, S, S, C], uint8, or f32 in [0, 255].
      labels: [n].
      caption_ids: [classes, templates, T].
    """

    images: Array
    labels: Array
    caption_ids: Array


class Draw(NamedTuple):
    """Which data steps see: image and template indices [..., B], of NumPy or JAX."""

    images: Any
    templates: Any


@dataclasses.dataclass(frozen=True, eq=False)
class ResidentFeed:
    """Draws from pictures on the devices; batches are gathered and varied by the step itself.

    Attributes:
      data: the pictures.
      config: as of a `StreamFeed`; no crops.
      mesh: the devices.
      shuffled: whether the pictures are in random order.
      chunked: always.
    """

    data: Resident
    config: Any
    mesh: Mesh
    shuffled: bool = False
    chunked: bool = True
    skipped: None = None

    @contextmanager
    def open(self) -> Iterator[ResidentFeed]:
        """Itself: there is nothing to close."""
        yield self

    def read(self, step: int, steps: int, size: int = 1) -> Chunk:
        """A pure function of seed and step."""
        seed, batch, size = self.config.seed, self.config.optim.batch_size, max(steps, size)
        images, templates = self.data.images.shape[0], self.data.caption_ids.shape[1]
        drawn = (
            batch_indices(seed, step, size, batch, images),
            template_indices(seed, step, size, batch, templates),
        )
        draws = Draw(*placement.put(drawn, placement.batched(self.mesh, axis=1)))
        return _chunk(draws, steps, self.mesh)

    def place(self) -> Place:
        """None: the step alone tells what is drawn."""
        return None

    def restore(self, place: Place) -> None:
        """Does nothing."""

    def others(self, batches: int, size: int) -> ImageTextBatch:
        """Stacked batches that are not varied, drawn otherwise than those of the steps."""
        images, templates = self.data.images.shape[0], self.data.caption_ids.shape[1]
        seed = self.config.seed
        return gathered(
            self.data,
            Draw(
                batch_indices(seed, _OTHER_STEPS, batches, size, images),
                template_indices(seed, _OTHER_STEPS, batches, size, templates),
            ),
        )

    def sample(self, size: int) -> ImageTextBatch:
        """So many pictures, or all of fewer; not varied."""
        images, templates = self.data.images.shape[0], self.data.caption_ids.shape[1]
        chosen = jnp.asarray(sample(images, size, self.shuffled, self.config.seed))
        return gathered(self.data, Draw(chosen, jnp.arange(len(chosen)) % templates))


def _chunk(data: Any, steps: int, mesh: Mesh) -> Chunk:
    return Chunk(data, placement.put(np.int32(steps), placement.replicated(mesh)))


def gathered(data: Resident, draw: Draw) -> ImageTextBatch:
    """The drawn pictures with captions of their classes."""
    labels = data.labels[draw.images]
    return ImageTextBatch(
        data.images[draw.images], data.caption_ids[labels, draw.templates], labels
    )


def varied(data: Resident, draw: Draw, key: Array, config: AugmentConfig) -> ImageTextBatch:
    """The drawn pictures, each at random shifted and mirrored, with captions."""
    batch = gathered(data, draw)
    return batch._replace(images=augment(key, batch.images, config.shift, config.flip))


def is_small(source: Source, processor: Pictures, config: AugmentConfig) -> bool:
    """Whether pictures can stay on the devices: of classes alone, few, and not cut at random."""
    settings = processor.settings
    size = len(source) * settings.size**2 * settings.channels
    return (
        config.crop_scale == (1, 1)
        and size <= _MOST_RESIDENT_BYTES
        and bool(source.class_names)
        and bool((source.labels >= 0).all())
        and not any(source.captions(i) for i in range(len(source)))
    )


def pixels_of_all(source: Source, processor: Pictures) -> np.ndarray:
    """Every picture as a network reads it, [n, S, S, C].

    Raises:
      DataError: one that cannot be read.
    """
    found = []
    for i in range(len(source)):
        picture = decoded(source, i, processor.settings.mode)
        if isinstance(picture, Unreadable):
            where, _, why = picture.why.partition(": ")
            raise DataError(f"{where} cannot be decoded ({why}): repair or remove it")
        found.append(pixels_of(picture, processor))
    return np.stack(found)


def in_memory(source: Source, processor: Pictures) -> Source:
    """The source with every picture decoded, once and for all."""
    pixels = pixels_of_all(source, processor)
    pixels = pixels[..., 0] if pixels.shape[-1] == 1 else pixels
    return dataclasses.replace(source, image=lambda i: pixels[i])


def resident(source: Source, processor: Processor, mesh: Mesh) -> Resident:
    """The pictures of a source on the devices, and every caption that a class may have.

    Raises:
      DataError: captions that the tokenizer cannot tell apart, or a picture that cannot be read.
    """
    arrays = (
        pixels_of_all(source, processor),
        source.labels,
        caption_ids(source, processor),
    )
    return Resident(*placement.put(arrays, placement.replicated(mesh)))


def caption_ids(source: Source, processor: Processor) -> np.ndarray:
    """Token ids [classes, templates, T] of the classes' captions, no two of them alike."""
    texts = captions(source.class_names, source.templates)
    flat = [text for row in texts for text in row]
    ids = processor.texts(flat)
    seen: dict[bytes, str] = {}
    for text, row in zip(flat, ids, strict=True):
        twin = seen.setdefault(row.tobytes(), text)
        if twin is not text:
            raise DataError(
                f"in {processor.context} tokens, {twin!r} and {text!r} become the same text: "
                "raise context, or use a tokenizer that knows these words"
            )
    return ids.reshape(len(texts), -1, processor.context)
