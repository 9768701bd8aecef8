"""What every format becomes: pictures by number, with captions, labels or both."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np

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
    """

    name: str
    labels: np.ndarray
    captions: Callable[[int], tuple[str, ...]]
    image: Callable[[int], Encoded]
    where: Callable[[int], str]
    class_names: tuple[str, ...] = ()
    templates: tuple[str, ...] = ()
    lost: tuple[str, ...] = ()

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


def joined(sources: Sequence[Source]) -> Source:
    """The pictures of several sources of the same classes, one source after the other."""
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
        labels=np.concatenate([source.labels for source in sources]),
        captions=captions,
        image=image,
        where=where,
        lost=tuple(line for source in sources for line in source.lost),
    )
