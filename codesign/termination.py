"""SIGTERM, by which SLURM and Kubernetes ask a process to end: raised, or put off to a good place.

`raised` turns the signal into an exception, as Ctrl-C is one. Within `deferred` it is only noted:
a training loop asks between two steps, saves, and raises the exception itself.
"""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Callable, Iterator
from types import FrameType
from typing import NoReturn, TypeVar

T = TypeVar("T")
# The beginning of the names of threads that no end of the process waits for.
UNWAITED = "unwaited"


class Terminated(BaseException):
    """SIGTERM came. Like KeyboardInterrupt no Exception: nothing but the program's end stops it.

    Attributes:
      hangs: whether threads may still wait for data, for ever, so that none is waited for.
    """

    hangs = False


def _raise(number: int, frame: FrameType | None) -> NoReturn:
    raise Terminated


@contextlib.contextmanager
def raised() -> Iterator[None]:
    """Raises Terminated where SIGTERM comes; only the main thread can have it so."""
    with _handled(_raise):
        yield


def unwaited() -> bool:
    """Whether threads are there that the process's end is not to wait for."""
    return any(thread.name.startswith(UNWAITED) for thread in threading.enumerate())


class Deferred:
    """Whether SIGTERM has come meanwhile."""

    def __init__(self) -> None:
        self.came = False

    def note(self, number: int, frame: FrameType | None) -> None:
        """The signal's handler."""
        self.came = True

    def or_none(self, work: Callable[[], T]) -> T | None:
        """What comes of work that may be cut off; None where SIGTERM comes first."""
        with self.unless_raised():
            if not self.came:
                return work()
        return None

    @contextlib.contextmanager
    def unless_raised(self) -> Iterator[None]:
        """For what takes long and may be cut off: ends early where SIGTERM comes, and notes it."""
        try:
            with raised() if signal.getsignal(signal.SIGTERM) == self.note else _nothing():
                yield
        except Terminated:
            self.came = True


@contextlib.contextmanager
def deferred() -> Iterator[Deferred]:
    """Notes SIGTERM where it would have been raised; elsewhere its handler stays as it is."""
    noted = Deferred()
    if signal.getsignal(signal.SIGTERM) is _raise:
        with _handled(noted.note):
            yield noted
    else:
        yield noted


def _nothing() -> contextlib.AbstractContextManager[None]:
    return contextlib.nullcontext()


@contextlib.contextmanager
def _handled(handler: object) -> Iterator[None]:
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, handler)  # type: ignore[arg-type]
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
