"""A run as a sequence of stages, each with one kind of step; the same for every kind of run.

Interrupted at any moment, the same command with --resume goes on from the newest checkpoint: it
names its stage and holds the position in the data too, so the result is the same.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

from jax.sharding import Mesh
from rich.console import Console

from codesign.programs import make_room
from codesign.progress import OnProgress
from codesign.runs import RunFolder
from codesign.train import placement
from codesign.train.check import Objective
from codesign.train.checkpoints import Checkpoints, Saved, refill
from codesign.train.loop import Loop, Metrics, Row, plain_row
from codesign.train.progress import Display
from codesign.train.tracking import RunTracker


class Stage(NamedTuple):
    """A part of a run with one kind of step.

    Attributes:
      name: in metrics and checkpoints.
      end: one past its last step, counted over all stages.
      begin: the state before it, of that after the stage before.
      step: (state, batch) -> the next state and metrics; see `Loop.run`.
      describe: what a line of metrics tells.
      blank: any state of the same shapes, of that of the stage before; None: `begin`'s.
      objective: (state, batch) -> what that step differentiates, see `codesign.train.check`; None:
        the program of the stage before, which was checked.
      settle: the state before its first step -> the stage itself, where its programs are made for
        what the state holds.
    """

    name: str
    end: int
    begin: Callable[[Any], Any]
    step: Callable[[Any, Any], tuple[Any, Metrics]]
    describe: Callable[[Row], Row] = plain_row
    blank: Callable[[Any], Any] | None = None
    objective: Objective | None = None
    settle: Callable[[Any], Stage] | None = None

    def settled(self, state: Any) -> Stage:
        """The stage as it steps from a state."""
        return self if self.settle is None else self.settle(state)


class Session(NamedTuple):
    """What is open while a run is.

    Attributes:
      checkpoints: of its folder.
      display: of its progress.
      tracker: of its time and carbon.
      saved: the checkpoint it goes on from, or None.
    """

    checkpoints: Checkpoints
    display: Display
    tracker: RunTracker
    saved: Saved | None


@contextlib.contextmanager
def session(
    folder: RunFolder,
    console: Console,
    stages: Sequence[str],
    on_progress: OnProgress | None = None,
) -> Iterator[Session]:
    """Opens a run, or the rest of one.

    Args:
      folder: of the run.
      console: where to show progress.
      stages: names of all that it may have been in.
      on_progress: called whenever steps are done.

    Raises:
      RunError: there are checkpoints, and all are damaged.
    """
    make_room()  # for the run's programs, after those of others in this process
    display = Display(console, on_progress=on_progress)
    with Checkpoints(folder.checkpoints) as checkpoints, display:
        saved = checkpoints.latest(stages, display.says) if folder.resumed else None
        # Searches of before noted nothing but what was tracked.
        notes = saved.notes.get("tracker", saved.notes) if saved else None
        with RunTracker(notes) as tracker:
            yield Session(checkpoints, display, tracker, saved)


def run_stages(
    loop: Loop,
    stages: Sequence[Stage],
    saved: Saved | None,
    mesh: Mesh,
    evaluate: Callable[[Any], tuple[Row, str]] | None = None,
    leaves_of: Callable[[Saved, Any], list[Any]] = lambda saved, _: saved.leaves,
) -> Any:
    """All stages, from wherever the saved checkpoint stands.

    Args:
      loop: of every stage.
      stages: in order.
      saved: the checkpoint, or None.
      mesh: the devices.
      evaluate: see `Loop.run`.
      leaves_of: the leaves of a checkpoint in the order of a state of its stage.

    Returns:
      The state after the last.

    Raises:
      RunError: a checkpoint of another network; see `Loop.run`.
    """
    place = loop.resumed_at(saved)
    state: Any = None
    begin = 0
    for stage in stages:
        new = stage.blank if saved is not None and stage.blank is not None else stage.begin
        state = new(state)
        if saved is not None:
            if saved.phase != stage.name:
                continue  # is over: its state only told the shapes of the next
            state, begin, saved = refill(state, leaves_of(saved, state)), saved.step, None
        # A fresh one too: a step would be compiled again for where it leaves its state.
        state = placement.put_split(state, mesh)
        stage = stage.settled(state)
        state, place = loop.run(
            stage.name,
            state,
            place,
            begin,
            stage.end,
            stage.step,
            evaluate,
            stage.describe,
            stage.objective,
        )
        begin = stage.end
    return state
