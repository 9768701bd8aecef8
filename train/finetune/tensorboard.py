"""Metrics for TensorBoard beside metrics.jsonl, by tensorboardX, which needs no TensorFlow."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import jax

FOLDER = "tensorboard"


class TensorBoard:
    """Event files in a run folder; a context manager. Only the first process writes.

    Args:
      folder: the run folder.
      step: the first that will be written: what a killed run wrote from there on is dropped.
    """

    def __init__(self, folder: Path, step: int) -> None:
        self._writer: Any = None
        if jax.process_index() == 0:
            from tensorboardX import SummaryWriter

            self._writer = SummaryWriter(str(folder / FOLDER), purge_step=step)

    def __enter__(self) -> TensorBoard:
        return self

    def __exit__(self, *_: object) -> None:
        if self._writer is not None:
            self._writer.close()

    def write(self, step: int, metrics: Mapping[str, Any]) -> None:
        """Every number of a nest of metrics, under its path."""
        if self._writer is None:
            return
        for name, value in _numbers(metrics):
            self._writer.add_scalar(name, value, step)


def _numbers(metrics: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, float]]:
    for name, value in metrics.items():
        if isinstance(value, Mapping):
            yield from _numbers(value, f"{prefix}{name}/")
        elif isinstance(value, list):
            yield from _numbers({str(i): one for i, one in enumerate(value)}, f"{prefix}{name}/")
        elif isinstance(value, (int, float)) and name != "step":
            yield prefix + name, float(value)
