"""Bounds of time and memory for one call, in this process."""

from __future__ import annotations

import contextlib
import resource
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import NoReturn


class TooLong(BaseException):
    """The time is up. No Exception, since what reads damaged files catches those."""


@contextlib.contextmanager
def bounded(seconds: float, more_bytes: int = 1 << 30) -> Iterator[None]:
    """Raises TooLong after `seconds`, and lets the process take `more_bytes` of address space."""

    def end(*_: object) -> NoReturn:
        raise TooLong(f"it took more than {seconds:g} s")

    taken = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    limits = resource.getrlimit(resource.RLIMIT_AS)
    before = signal.signal(signal.SIGALRM, end)
    resource.setrlimit(resource.RLIMIT_AS, (taken + more_bytes, limits[1]))
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
        resource.setrlimit(resource.RLIMIT_AS, limits)
