"""Batches from pictures of any number: decoded in parallel, in the same order every time.

By grain: the pictures' numbers are shuffled as a whole (anew each epoch), repeated, dealt out
to the processes and read by threads. What is drawn for a picture depends on seed, epoch and its
number alone, so neither threads nor a resumed run can change it. A picture that cannot be read
is skipped and counted, and the batch filled with the next one.
"""

from __future__ import annotations

import dataclasses
import io
import math
from collections.abc import Iterator, Mapping
from types import TracebackType
from typing import TYPE_CHECKING, Any, NamedTuple, Self

import grain
import numpy as np

from codesign.train.data.captions import captions as class_captions
from codesign.train.data.config import AugmentConfig, DataError
from codesign.train.data.sources.base import Source

if TYPE_CHECKING:
    from PIL.Image import Image

    from codesign.models.formats import Processor

_MOST_EXAMPLES = 5
# Pictures, or an epoch where that is less, after which most must have been readable.
_ENOUGH_READ = 512
# Width over height of random crops, as everywhere since Szegedy et al., 2015.
_CROP_RATIO = (3 / 4, 4 / 3)
_CROP_TRIES = 10


class ImageTextBatch(NamedTuple):
    """Pictures and their captions, NumPy arrays on the host or JAX's on devices.

    Attributes:
      images: uint8 [B, S, S, C], for `Processor.normalise`.
      ids: int32 [B, T].
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


@dataclasses.dataclass(frozen=True)
class _Failed:
    """A picture that cannot be read: "where: why"."""

    why: str


class _Reader:
    """Pictures by the numbers of a grain data set, read ahead by threads; counts failures."""

    def __init__(self, source: Source, numbers: Any, threads: int, ahead: int, epoch: int):
        if threads < 0:
            raise ValueError(f"threads is {threads}: it must be at least 0")
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
      DataError: no pictures, or an augmentation that is none.
      ValueError: other arguments out of range.
    """

    def __init__(
        self,
        source: Source,
        processor: Processor,
        *,
        batch_size: int,
        seed: int = 0,
        augment: AugmentConfig | None = None,
        threads: int = 4,
        process_index: int = 0,
        process_count: int = 1,
    ) -> None:
        _check_shares(source, batch_size, process_index, process_count)
        if seed < 0:
            raise ValueError(f"seed is {seed}: it must be at least 0")
        self._source, self._processor = source, processor
        self._batch_size, self._seed = batch_size, seed
        self._augment = augment or AugmentConfig()
        _check_augment(self._augment)
        self._least_side = _least_side(self._augment, processor.settings.size)
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
                rows += [] if row is None else [row]
        except BaseException:  # an interrupt too leaves the stream at its last whole batch
            self._reader.restore(*self._at)
            raise
        batch = ImageTextBatch(
            np.stack([row.pixels for row in rows]),
            self._processor.texts([row.caption for row in rows]),
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

    def _load(self, drawn: tuple[int, int]) -> _Ready | _Failed:
        epoch, index = drawn
        index = int(index)
        picture = _decoded(self._source, index, self._processor.settings.mode, self._least_side)
        if isinstance(picture, _Failed):
            return picture
        rng = np.random.default_rng([self._seed, epoch, index])
        caption = _caption(self._source, index, rng)
        if not caption:
            return _Failed(f"{self._source.where(index)}: no caption and no named class")
        pixels = _augmented(picture, self._processor, self._augment, rng)
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
      DataError: no pictures; while iterating: most of them cannot be read.
      ValueError: other arguments out of range.
    """

    def __init__(
        self,
        source: Source,
        processor: Processor,
        batch_size: int,
        threads: int = 4,
        *,
        process_index: int = 0,
        process_count: int = 1,
    ) -> None:
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
        settings = self._processor.settings
        images = np.zeros(
            (self._batch_size, settings.size, settings.size, settings.channels), np.uint8
        )
        indices: list[int] = []
        for _ in range(min(self._batch_size, self._left)):
            row = self._reader.read()
            self._left -= 1
            if row is not None:
                images[len(indices)] = row.pixels
                indices.append(row.index)
        self._given += 1
        return np.asarray(indices, np.int64), images

    def close(self) -> None:
        """Stops the threads."""
        self._reader.close()

    def _load(self, index: int) -> _Ready | _Failed:
        index = int(index)
        picture = _decoded(self._source, index, self._processor.settings.mode)
        if isinstance(picture, _Failed):
            return picture
        return _Ready(index, self._processor.pixels(picture))


# It reads as a function where it is used: for indices, images in evaluation_batches(...).
evaluation_batches = EvaluationBatches


def _check_shares(source: Source, batch_size: int, index: int, count: int) -> None:
    if not len(source):
        raise DataError(f"{source.name} holds no pictures")
    if batch_size < 1:
        raise ValueError(f"batch_size is {batch_size}: it must be at least 1")
    if not 0 <= index < count:
        raise ValueError(f"process_index is {index}: it must lie in [0, {count})")


def _check_augment(augment: AugmentConfig) -> None:
    low, high = augment.crop_scale
    if not 0 < low <= high <= 1:
        raise DataError(f"crop_scale is ({low}, {high}): two shares, 0 < least <= largest <= 1")
    if augment.shift < 0:
        raise DataError(f"shift is {augment.shift}: it must be at least 0 pixels")


def _least_side(augment: AugmentConfig, size: int) -> int | None:
    """Pixels along a picture's sides that leave every crop twice `size`; None: keep them all."""
    if augment.crop_scale == (1, 1):
        return None  # then pictures are to be exactly those of evaluation
    least_share = math.sqrt(augment.crop_scale[0] * _CROP_RATIO[0])
    return math.ceil(2 * size / least_share)


def _decoded(
    source: Source, index: int, mode: str, least_side: int | None = None
) -> Image | _Failed:
    """Picture `index` in Pillow's `mode`.

    Of a larger JPEG, the decoder may give a half, quarter or eighth, if still of `least_side`:
    a photograph of 2048 x 1536 takes half the time.
    """
    from PIL import Image, UnidentifiedImageError

    try:
        stored = source.image(index)
        if isinstance(stored, np.ndarray):
            return Image.fromarray(stored).convert(mode)
        with Image.open(io.BytesIO(stored)) as opened:
            if least_side is not None:
                opened.draft(None, (least_side, least_side))
            return opened.convert(mode)
    except UnidentifiedImageError:
        return _Failed(f"{source.where(index)}: {len(stored)} bytes that are no picture")
    # Pillow's decoders, fed with noise, raise nearly everything: SyntaxError, struct.error, ...
    except Exception as error:
        lines = str(error).strip().splitlines() or [type(error).__name__]
        return _Failed(f"{source.where(index)}: {lines[0]}")


def _caption(source: Source, index: int, rng: np.random.Generator) -> str:
    """One of the picture's captions, else its class in one of the templates; "" for neither."""
    known, label = source.captions(index), int(source.labels[index])
    if known:
        return known[rng.integers(len(known))]
    if label < 0 or not source.class_names or not source.templates:
        return ""
    template = source.templates[rng.integers(len(source.templates))]
    return class_captions([source.class_names[label]], [template])[0][0]


def _augmented(
    picture: Image, processor: Processor, augment: AugmentConfig, rng: np.random.Generator
) -> np.ndarray:
    """A picture at random: cut, resized, mirrored, shifted; uint8 [S, S, C]."""
    from PIL import Image

    settings = processor.settings
    size = settings.size
    if augment.crop_scale != (1, 1):
        box = _random_box(picture.width, picture.height, augment.crop_scale, rng)
        code = Image.Resampling[settings.interpolation.upper()]
        picture = picture.resize((size, size), code, box)
    pixels = processor.pixels(picture)
    if augment.flip and rng.random() < 0.5:
        pixels = pixels[:, ::-1]
    if augment.shift:
        shifts = rng.integers(-augment.shift, augment.shift + 1, size=2)
        rows, columns = (np.clip(np.arange(size) + by, 0, size - 1) for by in shifts)
        pixels = pixels[rows][:, columns]
    return pixels


def _random_box(
    width: int, height: int, scale: tuple[float, float], rng: np.random.Generator
) -> tuple[int, int, int, int]:
    """Corners of a random part: its share of the area uniform in `scale`, its ratio in the log.

    Where no part drawn fits, the largest in the middle that keeps to the ratios.
    """
    low, high = _CROP_RATIO
    for _ in range(_CROP_TRIES):
        area = width * height * rng.uniform(*scale)
        ratio = math.exp(rng.uniform(math.log(low), math.log(high)))
        w, h = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if 0 < w <= width and 0 < h <= height:
            left, top = int(rng.integers(width - w + 1)), int(rng.integers(height - h + 1))
            return left, top, left + w, top + h
    w = min(width, max(1, round(height * high)))
    h = min(height, max(1, round(width / low)))
    left, top = (width - w) // 2, (height - h) // 2
    return left, top, left + w, top + h
