"""Ctrl-C as a run reads its data."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import pytest

from codesign.train.data import TrainingStream


@contextlib.contextmanager
def interrupted_at(batches: int) -> Iterator[None]:
    """A context in which Ctrl-C is pressed as the n-th batch is read."""
    read, left = TrainingStream.__next__, batches

    def interrupted(stream: TrainingStream) -> object:
        nonlocal left
        left -= 1
        if left == 0:
            raise KeyboardInterrupt
        return read(stream)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(TrainingStream, "__next__", interrupted)
        yield
