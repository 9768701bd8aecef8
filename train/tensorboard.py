"""Metrics for TensorBoard beside metrics.jsonl, by tensorboardX, which needs no TensorFlow."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import jax

FOLDER = "tensorboard"


class TensorBoard:
    """Event files in a run folder; a context manager. Only the first process writes.

    Events are written here and now: tensorboardX's SummaryWriter leaves them to a thread, and
    where that dies of a full disk, the next event waits for it for ever.

    Args:
      folder: the run folder.
      step: the first that will be written: what a killed run wrote from there on is dropped.
    """

    def __init__(self, folder: Path, step: int) -> None:
        self._writer: Any = None
        if jax.process_index() == 0:
            from tensorboardX.event_file_writer import EventsWriter
            from tensorboardX.proto.event_pb2 import Event, SessionLog

            (folder / FOLDER).mkdir(exist_ok=True)
            # A stage may begin within the second that another's file is named by.
            self._writer = EventsWriter(str(folder / FOLDER / "events"), f".{step}")
            start = SessionLog(status=SessionLog.START)
            self._writer.write_event(Event(step=step, session_log=start))

    def __enter__(self) -> TensorBoard:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if self._writer is not None:
            # The disk may be what the run ends of: that has been told.
            with contextlib.suppress(OSError) if kind is not None else contextlib.nullcontext():
                self._writer.close()

    def flush(self) -> None:
        """Brings what was written to the disk."""
        if self._writer is not None:
            self._writer.flush()

    def write(self, step: int, metrics: Mapping[str, Any]) -> None:
        """Every number of a nest of metrics, under its path."""
        if self._writer is None:
            return
        from tensorboardX.proto.event_pb2 import Event
        from tensorboardX.summary import scalar

        for name, value in _numbers(metrics):
            summary = scalar(name, value)
            self._writer.write_event(Event(step=step, wall_time=time.time(), summary=summary))


def _numbers(metrics: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, float]]:
    for name, value in metrics.items():
        if isinstance(value, Mapping):
            yield from _numbers(value, f"{prefix}{name}/")
        elif isinstance(value, list):
            yield from _numbers({str(i): one for i, one in enumerate(value)}, f"{prefix}{name}/")
        elif isinstance(value, (int, float)) and name != "step":
            yield prefix + name, float(value)
