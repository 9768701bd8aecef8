"""What every format becomes: pictures by number, with captions, labels or both."""

from __future__ import annotations

import collections
import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from codesign.train.data.config import DataError

# A picture as stored, JPEG or the like, or decoded: uint8 [H, W] or [H, W, 3], or with levels of
# grey between those of 8 bits, f32 [H, W] in [0, 255].
Encoded = bytes | np.ndarray


class Sample(NamedTuple):
    """One picture and what is said of it.

    Attributes:
      image: as stored, or decoded uint8 [H, W] or [H, W, 3].
      captions: none, one or several.
      label: index of its class; -1 where it has none.
      where: file, row or member, for messages.
    """

    image: Encoded
    captions: tuple[str, ...]
    label: int
    where: str


@dataclasses.dataclass(frozen=True, eq=False)
class Source:
    """N pictures, each read on demand by its number; safe to read from several threads.

    Attributes:
      name: for messages.
      labels: int32 [N]; -1 where a picture has none.
      captions: (i) -> what is said of picture i, none or several; reads no picture.
      image: (i) -> the picture; OSError or ValueError where it cannot be read.
      where: (i) -> its place, for messages.
      class_names: indexed by label; empty where classes have no names.
      templates: captions for class names, with one `{}` each.
      lost: one line for each part of the data that is damaged and left out.
      shuffled: whether they are in random order; folders and tables may be in that of classes.
    """

    name: str
    labels: np.ndarray
    captions: Callable[[int], tuple[str, ...]]
    image: Callable[[int], Encoded]
    where: Callable[[int], str]
    class_names: tuple[str, ...] = ()
    templates: tuple[str, ...] = ()
    lost: tuple[str, ...] = ()
    shuffled: bool = False

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, i: int) -> Sample:
        return Sample(self.image(i), self.captions(i), int(self.labels[i]), self.where(i))


_LONGEST_NAME = 200


def printable(place: object) -> str:
    """A path or name as a message shows it: one line, cut short, without control characters."""
    text = str(place)
    if len(text) > _LONGEST_NAME:
        half = _LONGEST_NAME // 2
        text = f"{text[:half]}...{text[-half:]}"
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


# The splits a format knows, opened when asked for; UNSPLIT alone where it knows none.
UNSPLIT = ""
Splits = Mapping[str, Callable[[], Source]]


def subset(source: Source, chosen: np.ndarray) -> Source:
    """The pictures of `source` at the positions `chosen`, int [M]."""
    return dataclasses.replace(
        source,
        labels=source.labels[chosen],
        captions=lambda i: source.captions(int(chosen[i])),
        image=lambda i: source.image(int(chosen[i])),
        where=lambda i: source.where(int(chosen[i])),
    )


def sample(pictures: int, number: int, shuffled: bool, seed: int) -> np.ndarray:
    """Positions of so many of the pictures, or of all, that stand for all of them.

    Args:
      pictures: N.
      number: of the sample.
      shuffled: whether they are in random order, of which the first will do.
      seed: of the others' sample.

    Returns:
      int, increasing, [min(number, N)].
    """
    number = min(number, pictures)
    if shuffled:
        return np.arange(number)
    return np.sort(np.random.default_rng(seed).choice(pictures, number, replace=False))


def joined(sources: Sequence[Source]) -> Source:
    """The pictures of several sources, one source after the other.

    Raises:
      DataError: their classes have names that do not tell which are the same.
    """
    names, labels = _common_classes(sources)
    starts = np.cumsum([0, *map(len, sources)])

    def find(i: int) -> tuple[Source, int]:
        part = int(np.searchsorted(starts, i, side="right")) - 1
        return sources[part], i - int(starts[part])

    def captions(i: int) -> tuple[str, ...]:
        source, j = find(i)
        return source.captions(j)

    def image(i: int) -> Encoded:
        source, j = find(i)
        return source.image(j)

    def where(i: int) -> str:
        source, j = find(i)
        return source.where(j)

    return dataclasses.replace(
        sources[0],
        labels=np.concatenate(labels),
        class_names=names,
        captions=captions,
        image=image,
        where=where,
        lost=tuple(dict.fromkeys(line for source in sources for line in source.lost)),
    )


def _common_classes(sources: Sequence[Source]) -> tuple[tuple[str, ...], list[np.ndarray]]:
    """Names of the classes of all sources, and each source's labels by them.

    A class is one of its name: sources that have the same classes in another order, or others,
    are numbered anew.
    """
    classed = [source for source in sources if (source.labels >= 0).any()] or sources[:1]
    names = classed[0].class_names
    labels = [source.labels for source in sources]
    if all(source.class_names == names for source in classed):
        return names, labels
    for source in classed:
        if why := _unclear_names(source):
            other = next(s for s in classed if s.class_names != source.class_names)
            raise DataError(
                f"{source.name} {why}, and {other.name} names its classes otherwise, so that they "
                "cannot be joined: give all the same names, or read one of them at a time"
            )
    everyone = tuple(dict.fromkeys(name for source in classed for name in source.class_names))
    number = {name: i for i, name in enumerate(everyone)}
    for i, source in enumerate(sources):
        if (source.labels >= 0).any():
            labels[i] = renumbered(source.labels, [number[name] for name in source.class_names])
    return everyone, labels


def _unclear_names(source: Source) -> str:
    """Why the names do not tell which class a label is; nothing where they do."""
    names, largest = source.class_names, int(source.labels.max())
    if not names:
        return "has classes without names"
    name, times = collections.Counter(names).most_common(1)[0]
    if times > 1:
        return f"has two classes called {name}"
    return f"has a class {largest}, but names for {len(names)}" if largest >= len(names) else ""


def renumbered(labels: np.ndarray, numbers: Sequence[int]) -> np.ndarray:
    """int32 [N]: the number of each label, -1 where there is none."""
    return np.where(labels >= 0, np.asarray(numbers, np.int32)[labels], -1).astype(np.int32)
