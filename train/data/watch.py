"""A stream that is watched: where no picture comes any more, a line says so, then the run ends.

A disk, a network file system or a source of one's own may block for ever, and no error comes of
it. So batches are made by a thread of their own, one after another as they are asked for, and
whoever asks waits with a limit of time: without polling, and in the same order.
"""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any

from codesign.errors import Stalled
from codesign.train.data.stream import ImageTextBatch, Skipped, TrainingStream


class WatchedStream:
    """A `TrainingStream` that tells when it stalls; it is the stream's owner's to close.

    Args:
      stream: what is watched.
      stall_s: seconds without a new picture after which a line names what is being read; after
        twice as long it is an error.
      says: shows a line.
      clock: seconds since whenever, as the stream's.
    """

    def __init__(
        self,
        stream: TrainingStream,
        stall_s: float,
        says: Callable[[str], None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._stream, self._stall_s, self._says, self._clock = stream, stall_s, says, clock
        self._asked: queue.SimpleQueue[bool] = queue.SimpleQueue()
        self._given: queue.SimpleQueue[ImageTextBatch | BaseException] = queue.SimpleQueue()
        self._worker: threading.Thread | None = None

    @property
    def skipped(self) -> Skipped:
        """See `TrainingStream`."""
        return self._stream.skipped

    def state(self) -> dict[str, Any]:
        """See `TrainingStream`. A batch that comes after `Stalled` counts as well."""
        return self._stream.state()

    def restore(self, state: Mapping[str, Any]) -> None:
        """See `TrainingStream`."""
        self._stream.restore(state)

    def __iter__(self) -> WatchedStream:
        return self

    def __next__(self) -> ImageTextBatch:
        """The next batch.

        Raises:
          Stalled: no picture came for twice `stall_s`; the stream is of no use any more.
        """
        if self._worker is None:
            # A daemon: an end of the program does not wait for it.
            self._worker = threading.Thread(target=self._work, name="batches", daemon=True)
            self._worker.start()
        self._asked.put(True)
        given = self._waited_for()
        if isinstance(given, BaseException):
            raise given
        return given

    def close(self) -> None:
        """Ends the thread, once it has what it reads."""
        self._asked.put(False)

    def _work(self) -> None:
        while self._asked.get():
            try:
                self._given.put(next(self._stream))
            except BaseException as error:  # also Ctrl-C of a test: it is the asker's to raise
                self._given.put(error)

    def _waited_for(self) -> ImageTextBatch | BaseException:
        began, warned = self._clock(), False
        while True:
            quiet_since = max(began, self._stream.read_at)
            left_s = quiet_since + self._stall_s * (1 + warned) - self._clock()
            if left_s > 0:
                try:
                    return self._given.get(timeout=min(left_s, threading.TIMEOUT_MAX))
                except queue.Empty:
                    continue  # pictures may have come meanwhile
            quiet = (
                f"no picture of {self._stream.name} came for "
                f"{self._clock() - quiet_since:.3g} s{self._while()}"
            )
            if warned:
                raise Stalled(
                    f"{quiet}: look at the disk, the network or the source, or raise --stall_s "
                    "(0: wait for ever)"
                )
            self._says(
                f"{quiet}: is the disk or the network at a standstill? In {self._stall_s:.3g} s "
                "the run ends"
            )
            warned = True

    def _while(self) -> str:
        """What is being read, where any thread has begun on a picture."""
        places = self._stream.reading()
        if not places:
            return ""
        more = f" and {len(places) - 1} more" if len(places) > 1 else ""
        return f", while {places[0]}{more} is read"
