"""A trace of some steps, as JAX's profiler writes it: where a step's time goes.

Each stage of a run has a program of its own, so each is traced: from its second call on, since the
first compiles. A trace ends after so many steps, or before an evaluation, which compiles as well.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax

PROFILE = "profile"  # in a run folder; in it a folder a stage


@dataclasses.dataclass(frozen=True)
class Profile:
    """What of each stage is traced.

    Attributes:
      folder: where traces go, a folder a stage.
      steps: of each stage; 0: no trace.
    """

    folder: Path
    steps: int = 0

    @contextlib.contextmanager
    def of_stage(self, stage: str, says: Callable[[str], None]) -> Iterator[StageTrace]:
        """The trace of a stage, ended at the latest where the stage is left."""
        # Of several processes the first one: all do the same.
        wanted = self.steps if jax.process_index() == 0 else 0
        trace = StageTrace(stage, self.folder / stage, wanted, says)
        try:
            yield trace
        finally:
            trace.end()


class StageTrace:
    """The trace of one stage; made by `Profile.of_stage`."""

    def __init__(self, stage: str, folder: Path, steps: int, says: Callable[[str], None]) -> None:
        self._stage, self._folder, self._left, self._says = stage, folder, steps, says
        self._first: int | None = None
        self._last = 0

    def step(self, number: int) -> contextlib.AbstractContextManager[Any]:
        """Around a call of the step function, and what it waits for."""
        if self._first is None:
            return contextlib.nullcontext()
        return jax.profiler.StepTraceAnnotation(self._stage, step_num=number)

    def took(self, state: Any, done: int, steps: int) -> None:
        """Tells of a call: the first begins the trace, that which completes it ends it.

        Args:
          state: after the call; waited for at both ends, so that the trace has whole steps.
          done: steps of the run that are taken.
          steps: those of this call.
        """
        if self._left <= 0:
            return
        if self._first is None:
            jax.block_until_ready(state)
            jax.profiler.start_trace(str(self._folder))
            self._first = done
            return
        self._left, self._last = self._left - steps, done
        if self._left <= 0:
            self.end(state)

    def end(self, state: Any = None) -> None:
        """Writes the trace, if one is under way, and says where it is."""
        self._left = 0
        if self._first is None:
            return
        first, self._first = self._first, None
        jax.block_until_ready(state)
        jax.profiler.stop_trace()
        if self._last > first:
            self._says(
                f"steps {first} to {self._last - 1} are traced in {self._folder}: tensorboard "
                f"--logdir {self._folder} (with the package xprof), or its *.trace.json.gz in "
                "ui.perfetto.dev"
            )
