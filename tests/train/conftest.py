"""What tests of whole runs share: runs cut off in the middle."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

import pytest

from simulators import shared_steps
from simulators.interruptions import interrupted_at


@pytest.fixture(scope="module")
def steps_compiled_once() -> Iterator[None]:
    """For modules with many runs of one config; see `shared_steps`."""
    with shared_steps.shared_steps():
        yield


@pytest.fixture
def cut_off() -> Callable[[int], contextlib.AbstractContextManager[None]]:
    """(n) -> a context in which Ctrl-C is pressed as the n-th batch is read, and must be felt."""

    @contextlib.contextmanager
    def cut(batches: int) -> Iterator[None]:
        with interrupted_at(batches), pytest.raises(KeyboardInterrupt):
            yield

    return cut
