"""TensorBoard's event files, by tensorboardX, which needs no TensorFlow."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Mapping
from pathlib import Path

from tensorboardX.event_file_writer import EventsWriter
from tensorboardX.proto.event_pb2 import Event, SessionLog
from tensorboardX.proto.summary_pb2 import Summary

from codesign.train.loggers import Logged

FOLDER = "tensorboard"


class TensorBoard:
    """Event files in a run folder; a context manager.

    Events are written here and now: tensorboardX's SummaryWriter leaves them to a thread, and
    where that dies of a full disk, the next event waits for it for ever.

    Args:
      folder: the run folder.
      step: the first that will be written: what a killed run wrote from there on is dropped.
    """

    id = None
    # A disk that is full ends a run anyway.
    errors: tuple[type[Exception], ...] = ()

    def __init__(self, folder: Path, step: int) -> None:
        (folder / FOLDER).mkdir(exist_ok=True)
        # A run may be resumed within the second that another's file is named by.
        self._writer = EventsWriter(str(folder / FOLDER / "events"), f".{step}")
        start = SessionLog(status=SessionLog.START)
        self._writer.write_event(Event(step=step, session_log=start))

    def __enter__(self) -> TensorBoard:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        # The disk may be what the run ends of: that has been told.
        with contextlib.suppress(OSError) if kind is not None else contextlib.nullcontext():
            self._writer.close()

    def flush(self) -> None:
        """Brings what was written to the disk."""
        self._writer.flush()

    def write(self, step: int, numbers: Mapping[str, float]) -> None:
        """One event with all numbers of a step."""
        values = [Summary.Value(tag=name, simple_value=value) for name, value in numbers.items()]
        event = Event(step=step, wall_time=time.time(), summary=Summary(value=values))
        self._writer.write_event(event)


def open_logger(run: Logged) -> TensorBoard:
    """The event files of a run."""
    return TensorBoard(run.folder, run.step)
