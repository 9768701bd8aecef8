"""Orbax checkpoints of a run, and of the networks it delivers."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import logging
import math
import shutil
import sys
import threading
import zlib
from collections.abc import Callable, Collection, Iterator, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp

from codesign.errors import RunError, out_of_space
from codesign.train.placement import whole

KEPT = 2
# What a checkpoint takes on a disk beside its arrays, at most: files are counted in blocks.
_OVERHEAD_BYTES = 4 << 20
# Steps, and below it those that were damaged, until the run is over.
_STEPS, _DAMAGED = "steps", "damaged"


def plain(tree: Any) -> list[np.ndarray]:
    """The leaves of a pytree as host arrays, in order.

    A state is stored as its leaves: its structure is code's to know, and changes of a
    library's classes do not make old checkpoints unreadable. Arrays that are split over devices
    are put together, one after another: so a checkpoint fits any number of devices, and its
    checksum is of the numbers alone.
    """
    return [_on_host(leaf) for leaf in jax.tree.leaves(tree)]


def _on_host(leaf: Any) -> np.ndarray:
    elsewhere = isinstance(leaf, jax.Array) and not leaf.is_fully_addressable
    return np.asarray(whole(leaf) if elsewhere else leaf)


def refill(tree: Any, leaves: list[Any]) -> Any:
    """The pytree with its leaves replaced; the reverse of `plain`.

    Raises:
      RunError: leaves of another number or shape.
    """
    old, structure = jax.tree.flatten(tree)
    same = len(old) == len(leaves) and all(
        np.shape(a) == np.shape(b) for a, b in zip(old, leaves, strict=True)
    )
    if not same:
        raise RunError("the checkpoint is of another network; use another --out")
    return jax.tree.unflatten(structure, leaves)


@dataclasses.dataclass(frozen=True)
class Saved:
    """A restored checkpoint: steps taken, the phase they were in, its leaves, and notes."""

    step: int
    phase: str
    leaves: list[Any]
    notes: dict[str, Any]


class Checkpoints:
    """The checkpoints of one run folder; a context manager that waits for pending writes.

    It keeps the newest checkpoints, and the newest one from before a divergence: its loss was at
    most twice the run's first and 1. From there a user may go on at a lower learning rate.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._first_loss = self._loss = math.nan
        self._sane: int | None = None
        options = ocp.CheckpointManagerOptions(
            preservation_policy=_Kept(self), cleanup_tmp_directories=True
        )
        self._undo_silence: Callable[[], None] | None = _silence()
        with _one_line(f"cannot open {folder}"):
            self._manager = ocp.CheckpointManager(folder / _STEPS, options=options)

    def __enter__(self) -> Checkpoints:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        # A write that failed has been told by then, or is about to be: once is enough.
        try:
            with _one_line(f"cannot write the last checkpoint of {self._folder}"):
                self._manager.close()
        except RunError:
            if kind is None or not issubclass(kind, RunError):
                raise
        finally:
            if self._undo_silence is not None:
                self._undo_silence()
        if kind is None and jax.process_index() == 0:
            shutil.rmtree(self._folder / _DAMAGED, ignore_errors=True)

    @property
    def last_sane(self) -> int | None:
        """The newest checkpoint before the network was destroyed, if it ever was."""
        return self._sane

    def saw(self, losses: Sequence[float]) -> None:
        """Tells the losses of the steps since the last time that have finite ones.

        The worst of each step, where there are several.
        """
        if not losses:
            return
        if math.isnan(self._first_loss):
            self._first_loss = losses[0]
        self._loss = losses[-1]

    def save(self, step: int, phase: str, state: Any, notes: dict[str, Any]) -> None:
        """Writes aside and renames, in the background.

        Raises:
          RunError: the state is not finite, or the disk refuses, now or at the save before.
        """
        leaves = plain(state)
        if not all(np.isfinite(leaf).all() for leaf in leaves if leaf.dtype.kind not in "biuSU"):
            raise RunError(self.not_finite(f"the network is not finite after step {step - 1}"))
        sane = self._loss <= 2 * self._first_loss + 1
        meta = {
            "step": step,
            "phase": phase,
            "notes": notes,
            "sane": sane,
            "first_loss": None if math.isnan(self._first_loss) else self._first_loss,
        }
        self._sane = step if sane else self._sane
        what = f"cannot write the checkpoint of step {step} to {self._folder}"
        _check_space(what, self._folder, _OVERHEAD_BYTES + sum(leaf.nbytes for leaf in leaves))
        with _one_line(what):
            self._manager.save(
                step,
                args=ocp.args.Composite(
                    state=ocp.args.StandardSave({str(i): x for i, x in enumerate(leaves)}),
                    meta=ocp.args.JsonSave(meta | {"checksum": _checksum(meta, leaves)}),
                ),
            )

    def latest(self, phases: Collection[str], say: Callable[[str], None]) -> Saved | None:
        """The newest checkpoint that is whole; None where there is none at all.

        A damaged one is told of and put aside, since the run will come by its step again.

        Args:
          phases: that the run may have been in.
          say: tells the user a line.

        Raises:
          RunError: there are some, and all are damaged.
        """
        damaged: list[int] = []
        for step in sorted(self._manager.all_steps(), reverse=True):
            try:
                saved, meta = self._restored(step, phases)
            except Exception as error:  # whatever Orbax and TensorStore make of a damaged file
                damaged.append(step)
                # Reads of its other arrays go on in threads, and fail when this is long closed.
                self._undo_silence = None
                why = " ".join(str(error).split())[:120] or type(error).__name__
                say(f"the checkpoint of step {step} is damaged ({why}); looking for an older one")
                continue
            self._put_aside(damaged)
            if meta.get("first_loss") is not None:
                self._first_loss = meta["first_loss"]
            self._sane = self._newest_sane(step)
            return saved
        if damaged:
            raise RunError(
                f"every checkpoint in {self._folder / _STEPS} is damaged; start anew with another "
                "--out FOLDER"
            )
        return None

    def _restored(self, step: int, phases: Collection[str]) -> tuple[Saved, dict[str, Any]]:
        """A checkpoint and what is noted beside it; any exception: it is damaged."""
        restored = self._manager.restore(
            step,
            args=ocp.args.Composite(state=ocp.args.StandardRestore(), meta=ocp.args.JsonRestore()),
        )
        meta = dict(restored.meta)
        leaves = [np.asarray(restored.state[str(i)]) for i in range(len(restored.state))]
        checksum = meta.pop("checksum", None)
        # Checkpoints of before there were checksums have none.
        if checksum is not None and checksum != _checksum(meta, leaves):
            raise ValueError("its checksum is wrong")
        if meta.get("step", step) != step or meta["phase"] not in phases:
            raise ValueError("it is of another step or phase")
        return Saved(step, meta["phase"], leaves, dict(meta["notes"])), meta

    def _newest_sane(self, newest: int) -> int | None:
        """The newest step of a network that is not destroyed, by what is noted beside it."""
        for step in sorted(self._manager.all_steps(), reverse=True):
            if step > newest:
                continue
            try:
                args = ocp.args.Composite(meta=ocp.args.JsonRestore())
                if self._manager.restore(step, args=args).meta.get("sane", True):
                    return step
            except Exception:  # damaged: so it is nothing to keep
                continue
        return None

    def not_finite(self, what: str) -> str:
        """The line about a destroyed network; what is newer than the last sane one is removed.

        So what is left is worth going on from, and the line names it.
        """
        mend = "lower --optim.lr and start a new run"
        if self._sane is None:
            return f"{what}; {mend}"
        with _one_line(f"cannot write to {self._folder}"):
            self._manager.wait_until_finished()
            for step in self._manager.all_steps():
                if step > self._sane:
                    self._manager.delete(step)
        return f"{what}; {mend} (the checkpoint of step {self._sane}, from before, is kept)"

    def _put_aside(self, steps: Sequence[int]) -> None:
        """Moves damaged checkpoints out of the way."""
        if not steps:
            return
        if jax.process_index() == 0:
            place = self._folder / _DAMAGED
            place.mkdir(exist_ok=True)
            for step in steps:
                shutil.rmtree(place / str(step), ignore_errors=True)
                (self._folder / _STEPS / str(step)).rename(place / str(step))
        if jax.process_count() > 1:
            from jax.experimental.multihost_utils import sync_global_devices

            sync_global_devices("damaged checkpoints are aside")
        self._manager.reload()


class _Kept:
    """Which checkpoints stay, for Orbax: the newest, and the last of a sane network."""

    def __init__(self, checkpoints: Checkpoints) -> None:
        self._checkpoints = checkpoints

    def should_preserve(self, checkpoints: Sequence[Any], *, context: Any) -> Sequence[bool]:
        """One answer a checkpoint, oldest first."""
        newest = {info.step for info in checkpoints[-KEPT:]}
        return [info.step in {*newest, self._checkpoints.last_sane} for info in checkpoints]


def _checksum(meta: dict[str, Any], leaves: Sequence[np.ndarray]) -> int:
    """CRC-32 of everything in a checkpoint."""
    # As JSON gives it back: keys are strings, tuples lists.
    crc = zlib.crc32(json.dumps(json.loads(json.dumps(meta)), sort_keys=True).encode())
    for leaf in leaves:
        crc = zlib.crc32(f"{leaf.dtype}{leaf.shape}".encode(), crc)
        data: Any = np.ascontiguousarray(leaf).reshape(-1).view(np.uint8)
        crc = zlib.crc32(data, crc)
    return crc


def _silence() -> Callable[[], None]:
    """Keeps what is raised in our thread as well from being printed by others; gives its undoing.

    Orbax logs a traceback a thread, TensorStore's threads raise into the void, an error for each
    array, and asyncio logs those that wait in tasks which nobody asks any more.
    """
    absl, tasks, hook = logging.getLogger("absl"), logging.getLogger("asyncio"), sys.unraisablehook
    level = absl.level

    def of_main_thread(unraisable: Any) -> None:
        if threading.current_thread() is threading.main_thread():
            hook(unraisable)

    def is_news(record: logging.LogRecord) -> bool:
        return "exception was never retrieved" not in record.getMessage()

    def undo() -> None:
        absl.setLevel(level)
        tasks.removeFilter(is_news)
        sys.unraisablehook = hook

    absl.setLevel(logging.CRITICAL)
    tasks.addFilter(is_news)
    sys.unraisablehook = of_main_thread
    return undo


def _check_space(what: str, folder: Path, needed_bytes: int) -> None:
    """Raises RunError where a disk is too full, before a half of a checkpoint is on it."""
    free_bytes = shutil.disk_usage(folder).free
    if free_bytes < needed_bytes:
        raise RunError(
            f"{what}: it takes {needed_bytes / 1e6:.3g} MB and {free_bytes / 1e6:.3g} MB are free "
            "(No space left on device); the checkpoints before are kept: make room and --resume"
        )


@contextlib.contextmanager
def _one_line(what: str) -> Iterator[None]:
    """Turns whatever a checkpoint library raises into a RunError of one line."""
    try:
        yield
    except RunError:
        raise
    except Exception as error:
        full = out_of_space(error)
        why = full and f"{full}; the checkpoints before are kept: make room and --resume"
        why = why or " ".join(str(error).split())[:200] or type(error).__name__
        raise RunError(f"{what}: {why}") from error
