"""Batches that no step survives, and the run that leaves those steps out."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Collection, Iterator
from typing import Any

import numpy as np
import pytest

from codesign.runs import ROLLED_BACK
from codesign.train.feed import StreamReader
from codesign.train.loop import Loop


@contextlib.contextmanager
def poisoned(steps: Collection[int]) -> Iterator[None]:
    """A context in which the pictures of these steps of a run are NaN, of all others as they are.

    All are float32, for one program to serve them.
    """
    read = StreamReader.read

    def poisoning(reader: StreamReader, step: int, steps_: int, size: int = 1) -> Any:
        batch = read(reader, step, steps_, size)
        images = batch.images.astype(np.float32)
        return batch._replace(images=images * np.nan if step in steps else images)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(StreamReader, "read", poisoning)
        yield


@contextlib.contextmanager
def left_out(steps: Collection[int]) -> Iterator[None]:
    """A context in which these steps of a run are not taken."""
    run = Loop.run

    def leaving_out(
        loop: Loop, stage: str, state: Any, place: Any, begin: int, end: int, step: Any, *rest: Any
    ) -> Any:
        numbers = itertools.count(begin)

        def taken(state: Any, batch: Any) -> Any:
            if next(numbers) in steps:
                return state, {"loss": np.float32(np.nan), ROLLED_BACK: np.True_}
            return step(state, batch)

        return run(loop, stage, state, place, begin, end, taken, *rest)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Loop, "run", leaving_out)
        yield
