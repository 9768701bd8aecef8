"""What a source holds, as plain values."""

from __future__ import annotations

from collections.abc import Callable

from codesign.train.data import Source


def all_of(source: Source, number_of: Callable) -> list[tuple[int, tuple[str, ...], int]]:
    """(number that the picture tells, captions, label) of every sample."""
    samples = [source[i] for i in range(len(source))]
    return [(number_of(s.image), s.captions, s.label) for s in samples]
