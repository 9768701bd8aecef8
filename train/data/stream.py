"""Batches from pictures of any number: decoded in parallel, in the same order every time.

By grain: the pictures' numbers are shuffled as a whole (anew each epoch), repeated, dealt out
to the processes and read by threads. What is drawn for a picture depends on seed, epoch and its
number alone, so neither threads nor a resumed run can change it. A picture that cannot be read
is skipped and counted, and the batch filled with the next one.
"""

from __future__ import annotations

import dataclasses
import math
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any, NamedTuple, Self

import numpy as np

from codesign.constraints import MOST_AT_ONCE
from codesign.train.data.config import AugmentConfig, DataError
from codesign.train.data.picture import (
    Unreadable,
    augmented,
    caption_of,
    check_augment,
    decoded,
    least_side_of,
    pixels_of,
)
from codesign.train.data.sources.base import Source

if TYPE_CHECKING:
    from codesign.models.formats.processor import Pictures

_MOST_EXAMPLES = 5
# Pictures, or an epoch where that is less, after which most must have been readable.
_ENOUGH_READ = 512


class ImageTextBatch(NamedTuple):
    """Pictures and their captions, NumPy arrays on the host or JAX's on devices.

    Attributes:
      images: uint8 [B, S, S, C], for `Processor.normalise`.
      ids: int32 [B, T]; None where the network reads no texts.
      labels: int32 [B]; -1 where a picture has no class.
    """

    images: Any
    ids: Any
    labels: Any


@dataclasses.dataclass(frozen=True)
class Skipped:
    """Pictures that could not be read.

    Attributes:
      count: how often one was skipped, plus damaged parts of the source; over several epochs
        a picture counts each time.
      examples: the first few, as "where: why".
      read: how many pictures were asked for.
    """

    count: int = 0
    examples: tuple[str, ...] = ()
    read: int = 0

    def __str__(self) -> str:
        examples = "".join(f"; {example}" for example in self.examples)
        return f"{self.count} of {self.read} pictures skipped{examples}"

    def and_one(self, why: str | None) -> Skipped:
        """With one picture more, skipped for the reason `why` or not (None)."""
        if why is None:
            return dataclasses.replace(self, read=self.read + 1)
        new = why not in self.examples and len(self.examples) < _MOST_EXAMPLES
        examples = (*self.examples, why) if new else self.examples
        return Skipped(self.count + 1, examples, self.read + 1)


@dataclasses.dataclass(frozen=True)
class _Ready:
    """A picture decoded, and what is said of it."""

    index: int
    pixels: np.ndarray
    caption: str = ""
    label: int = -1


class _Reader:
    """Pictures by the numbers of a grain data set, read ahead by threads; counts failures."""

    def __init__(self, source: Source, numbers: Any, threads: int, ahead: int, epoch: int):
        import grain

        if not 0 <= threads <= MOST_AT_ONCE:
            raise DataError(f"threads is {threads}: it must be from 0 to {MOST_AT_ONCE}")
        buffer = max(ahead, threads) if threads else 0
        options = grain.ReadOptions(num_threads=threads, prefetch_buffer_size=buffer)
        self._iterator = iter(numbers.to_iter_dataset(options))
        self._source = source
        self._epoch = epoch
        self.skipped = Skipped(len(source.lost), source.lost[:_MOST_EXAMPLES])

    def read(self) -> _Ready | None:
        """The next picture; None where it is skipped.

        Raises:
          DataError: most pictures cannot be read.
          StopIteration: the numbers are at their end.
        """
        element = next(self._iterator)
        failure = None if isinstance(element, _Ready) else element.why
        self.skipped = self.skipped.and_one(failure)
        failed, read = self.skipped.count - len(self._source.lost), self.skipped.read
        checked = read % min(_ENOUGH_READ, self._epoch) == 0 or read == self._epoch
        if checked and 2 * failed > read:
            raise DataError(
                f"{failed} of {read} pictures of {self._source.name} cannot be read, "
                f"such as {self.skipped.examples[-1]}"
            )
        return element if failure is None else None

    def state(self) -> Any:
        return self._iterator.get_state()

    def restore(self, state: Any, skipped: Skipped) -> None:
        self._iterator.set_state(state)
        self.skipped = skipped

    def close(self) -> None:
        self._iterator.close()


def redistributed(states: Sequence[Mapping[str, Any]], index: int, count: int) -> dict[str, Any]:
    """Where one of another number of processes goes on from.

    Processes read every so many-th picture of one order, so that all of them together have read
    the first of it, and others go on behind these. Where processes have skipped different numbers
    of pictures, or the new ones do not divide what was read, a few pictures come twice.

    Args:
      states: of every process, by `TrainingStream.state`.
      index: of the new process.
      count: of the new processes.
    """
    read = sum(state["position"]["next_index"] for state in states)
    skipped = [state["skipped"] for state in states]
    # One of them goes on counting for all of before.
    told = skipped[0] | {
        "count": sum(each["count"] for each in skipped),
        "read": sum(each["read"] for each in skipped),
        "examples": [e for each in skipped for e in each["examples"]][:_MOST_EXAMPLES],
    }
    return dict(states[0]) | {
        "processes": count,
        "position": {"next_index": read // count},
        "skipped": told if index == 0 else {"count": 0, "read": 0, "examples": []},
    }


class _Closing:
    """A context manager that closes."""

    def close(self) -> None:
        """Stops the threads."""
        raise NotImplementedError

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


class TrainingStream(_Closing):
    """An endless iterator of `ImageTextBatch`; every epoch shows every picture once.

        with TrainingStream(source, processor, batch_size=256) as stream:
            for images, ids, labels in stream: ...

    A caption is drawn for each picture: one of its own, else its class in one of the templates.
    Of several processes, each of which gives its index, each reads its share; together their
    batches hold what one process would read with a batch of their joint size.

    Args:
      source: where from.
      processor: size and tokens of the result.
      batch_size: pictures of a batch of this process.
      seed: of order, captions and augmentation, at least 0.
      augment: how pictures are varied.
      threads: that decode; 0 decodes when a batch is asked for.
      process_index: of this process, in [0, process_count).
      process_count: how many processes share the pictures.

    Raises:
      DataError: no pictures, an augmentation that is none, or other arguments out of range.
      ValueError: a process that is none.
    """

    def __init__(
        self,
        source: Source,
        processor: Pictures,
        *,
        batch_size: int,
        seed: int = 0,
        augment: AugmentConfig | None = None,
        threads: int = 4,
        process_index: int = 0,
        process_count: int = 1,
    ) -> None:
        import grain

        _check_shares(source, batch_size, process_index, process_count)
        if seed < 0:
            raise DataError(f"seed is {seed}: it must be at least 0")
        self._source, self._processor = source, processor
        self._batch_size, self._seed = batch_size, seed
        self._texts = getattr(processor, "texts", None)
        self._augment = augment or AugmentConfig()
        check_augment(self._augment)
        self._least_side = least_side_of(self._augment, processor.settings.size)
        self._identity = {"images": len(source), "seed": seed, "processes": process_count}
        numbers = (
            grain.MapDataset.range(len(source))
            .shuffle(seed=int(np.random.SeedSequence(seed).generate_state(1)[0]))
            .repeat()
            .map_with_index(lambda position, i: (position // len(source), i))
        )[
            # grain's own seed grows by one an epoch: a hash keeps neighbouring seeds apart.
            process_index::process_count
        ]
        epoch = math.ceil(len(source) / process_count)
        self._reader = _Reader(source, numbers.map(self._load), threads, 2 * batch_size, epoch)
        self._at = (self._reader.state(), self._reader.skipped)
        # When the last picture came, and by thread since when which is being read.
        self.read_at = time.monotonic()
        self._reading: dict[int, tuple[float, int]] = {}

    @property
    def name(self) -> str:
        """The source's."""
        return self._source.name

    def reading(self) -> list[str]:
        """Where the pictures lie that are being read at the moment, the first begun first."""
        return [self._source.where(index) for _, index in sorted([*self._reading.values()])]

    @property
    def skipped(self) -> Skipped:
        """The pictures skipped up to the last batch, by this process."""
        return self._at[1]

    def __iter__(self) -> Iterator[ImageTextBatch]:
        return self

    def __next__(self) -> ImageTextBatch:
        rows: list[_Ready] = []
        try:
            while len(rows) < self._batch_size:
                row = self._reader.read()
                self.read_at = time.monotonic()
                rows += [] if row is None else [row]
        except BaseException:  # an interrupt too leaves the stream at its last whole batch
            self._reader.restore(*self._at)
            raise
        batch = ImageTextBatch(
            np.stack([row.pixels for row in rows]),
            None if self._texts is None else self._texts([row.caption for row in rows]),
            np.asarray([row.label for row in rows], np.int32),
        )
        self._at = (self._reader.state(), self._reader.skipped)
        return batch

    def state(self) -> dict[str, Any]:
        """Where the stream is, as JSON values: after the last batch it handed out."""
        position, skipped = self._at
        return {
            **self._identity,
            "position": dict(position),
            "skipped": dataclasses.asdict(skipped) | {"examples": list(skipped.examples)},
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Goes to where `state()` was called; the batches that follow are the same.

        Raises:
          DataError: it was that of other data, of another seed or number of processes.
        """
        for key, now in self._identity.items():
            if state.get(key) != now:
                raise DataError(
                    f"cannot resume {self._source.name}: {key} was {state.get(key)}, is {now}; "
                    "set it back or start anew"
                )
        skipped = dict(state["skipped"])
        restored = Skipped(skipped["count"], tuple(skipped["examples"]), skipped["read"])
        self._at = (dict(state["position"]), restored)
        self._reader.restore(*self._at)

    def close(self) -> None:
        """Stops the threads; the stream's state can still be read."""
        self._reader.close()

    def _load(self, drawn: tuple[int, int]) -> _Ready | Unreadable:
        thread = threading.get_ident()
        self._reading[thread] = (time.monotonic(), int(drawn[1]))
        try:
            return self._ready(*drawn)
        finally:
            del self._reading[thread]

    def _ready(self, epoch: int, index: int) -> _Ready | Unreadable:
        index = int(index)
        picture = decoded(self._source, index, self._processor.settings.mode, self._least_side)
        if isinstance(picture, Unreadable):
            return picture
        rng = np.random.default_rng([self._seed, epoch, index])
        caption = caption_of(self._source, index, rng)
        if self._texts is not None and not caption:
            return Unreadable(f"{self._source.where(index)}: no caption and no named class")
        pixels = augmented(picture, self._processor, self._augment, rng)
        return _Ready(index, pixels, caption, int(self._source.labels[index]))


class EvaluationBatches(_Closing):
    """One pass over a source, in order: iterates over (indices, images).

    indices: int64 [b], numbers of the pictures in the source, for its labels and captions.
    images: uint8 [batch_size, S, S, C]; the rows from b on are zeros, so that one compiled
    program serves every batch.

    Pictures that cannot be read are left out of their batch. Every process has the same number
    of batches, some of which may hold no picture.

    Args:
      source, processor, batch_size, threads, process_index, process_count: as in
        `TrainingStream`.

    Raises:
      DataError: no pictures, or arguments out of range; while iterating: most pictures cannot be
        read.
      ValueError: a process that is none.
    """

    def __init__(
        self,
        source: Source,
        processor: Pictures,
        batch_size: int,
        threads: int = 4,
        *,
        process_index: int = 0,
        process_count: int = 1,
    ) -> None:
        import grain

        _check_shares(source, batch_size, process_index, process_count)
        self._source, self._processor, self._batch_size = source, processor, batch_size
        share = math.ceil(len(source) / process_count)
        self._batches = math.ceil(share / batch_size)
        self._given = 0
        # A share may be a picture short, or empty.
        self._left = len(range(process_index, len(source), process_count))
        numbers = grain.MapDataset.range(process_index, len(source), process_count)
        self._reader = _Reader(
            source, numbers.map(self._load), threads, 2 * batch_size, max(self._left, 1)
        )

    def __len__(self) -> int:
        """Batches of the whole pass."""
        return self._batches

    @property
    def skipped(self) -> Skipped:
        """The pictures skipped so far, by this process."""
        return self._reader.skipped

    def __iter__(self) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        return self

    def __next__(self) -> tuple[np.ndarray, np.ndarray]:
        if self._given == self._batches:
            self.close()
            raise StopIteration
        rows: list[_Ready] = []
        for _ in range(min(self._batch_size, self._left)):
            row = self._reader.read()
            self._left -= 1
            rows += [] if row is None else [row]
        settings = self._processor.settings
        shape = (self._batch_size, settings.size, settings.size, settings.channels)
        images = np.zeros(shape, rows[0].pixels.dtype if rows else np.uint8)
        for place, row in enumerate(rows):
            images[place] = row.pixels
        self._given += 1
        return np.asarray([row.index for row in rows], np.int64), images

    def close(self) -> None:
        """Stops the threads."""
        self._reader.close()

    def _load(self, index: int) -> _Ready | Unreadable:
        index = int(index)
        picture = decoded(self._source, index, self._processor.settings.mode)
        if isinstance(picture, Unreadable):
            return picture
        return _Ready(index, pixels_of(picture, self._processor))


# It reads as a function where it is used: for indices, images in evaluation_batches(...).
evaluation_batches = EvaluationBatches


def check_batch_size(batch_size: int) -> None:
    """Raises DataError for what is no number of pictures."""
    if not isinstance(batch_size, int) or batch_size < 1:
        raise DataError(f"batch_size is {batch_size}: it must be a whole number, at least 1")


def _check_shares(source: Source, batch_size: int, index: int, count: int) -> None:
    if not len(source):
        raise DataError(f"{source.name} holds no pictures")
    check_batch_size(batch_size)
    if not 0 <= index < count:
        raise ValueError(f"process_index is {index}: it must lie in [0, {count})")
