"""The loop of every stage of every run: batches, a compiled step, metrics, checkpoints,
evaluations.

A stage goes from one step to another, counted over all stages of a run. Its checkpoints hold
the place in the data too, so that a resumed run ends as an uninterrupted one does.
"""

from __future__ import annotations

import dataclasses
import functools
import json
from collections.abc import Callable, Iterator, Mapping
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental.multihost_utils import reached_preemption_sync_point

from codesign.errors import RunError, Stalled
from codesign.runs import ROLLED_BACK, RunFolder, read_metrics
from codesign.termination import Terminated, deferred
from codesign.train import check
from codesign.train.checkpoints import Checkpoints, Saved
from codesign.train.data.stream import redistributed
from codesign.train.feed import Feed, Place, Reader
from codesign.train.loggers import Loggers
from codesign.train.profile import Profile
from codesign.train.progress import Display, resume_metrics
from codesign.train.rollback import Streak, finite_numbers
from codesign.train.tracking import RunTracker

State = TypeVar("State")
Metrics = dict[str, jax.Array]
Row = dict[str, Any]


@dataclasses.dataclass(frozen=True)
class Intervals:
    """Steps from one event to the next of its kind.

    Attributes:
      checkpoint: between checkpoints.
      evaluate: between evaluations; 0: none but the last.
      log: between looks at the metrics; all are written, one line a step.
      chunk: steps of one compiled call, where the feed is chunked; else 1.
    """

    checkpoint: int
    evaluate: int = 0
    log: int = 1
    chunk: int = 1


def passed(done: int, steps: int, every: int) -> bool:
    """Whether the last `steps` of `done` steps came by a multiple of `every`; 0: never."""
    return every > 0 and done // every > (done - steps) // every


def plain_row(metrics: Row) -> Row:
    """Metrics as they are."""
    return metrics


@dataclasses.dataclass(frozen=True, eq=False)
class Loop:
    """What the stages of a run share.

    Attributes:
      intervals: in steps.
      folder: where metrics go.
      checkpoints: where states go.
      loggers: where metrics go beside the folder.
      tracker: of time and carbon.
      display: of progress.
      feed: the training data.
      checks: whether the first step of a stage is held against its plainly compiled loss.
      dtype: of the network's activations.
      notes: kept in every checkpoint.
      profile: what of each stage is traced.
    """

    intervals: Intervals
    folder: RunFolder
    checkpoints: Checkpoints
    loggers: Loggers
    tracker: RunTracker
    display: Display
    feed: Feed
    checks: bool = False
    dtype: Any = jnp.float32
    notes: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    profile: Profile | None = None

    def resumed_at(self, saved: Saved | None) -> Place | None:
        """The place in the data to go on from, after metrics past the checkpoint are dropped.

        Another number of processes shares what is left of the data; see `redistributed`.
        """
        if jax.process_index() == 0:
            resume_metrics(self.folder, saved.step if saved else 0, self.display)
        if saved is None:
            return None
        # Searches of before noted none.
        places = saved.notes.get("places", [None] * jax.process_count())
        index, count = jax.process_index(), jax.process_count()
        if len(places) == count:
            place: Place = places[index]
            return place
        self.display.says(f"the run was begun by {len(places)} processes and goes on with {count}")
        return None if None in places else redistributed(places, index, count)

    def run(
        self,
        stage: str,
        state: State,
        place: Place,
        begin: int,
        end: int,
        step_function: Callable[[State, Any], tuple[State, Metrics]],
        evaluate: Callable[[State], tuple[Row, str]] | None = None,
        describe: Callable[[Row], Row] = plain_row,
        objective: check.Objective | None = None,
    ) -> tuple[State, Place]:
        """Steps `begin` to `end` of a run.

        Args:
          stage: its name in metrics and checkpoints.
          state: before step `begin`; its buffers may be given up.
          place: in the data; None at a run's beginning.
          begin: first step.
          end: one past the last.
          step_function: of the state and what the feed reads: a step, pure, or the steps of a
            `Chunk`, whose metrics are stacked; "loss" and "rolled_back" are among them.
          evaluate: what to write about the state on validation data, and the same in a line.
          describe: what a line of metrics tells of those of a step.
          objective: what the step differentiates, at the first of a chunk; None: the first step is
            not checked.

        Returns:
          The state after the last step, and the place in the data.

        Raises:
          RunError: a step compiled wrongly; losses or gradients that are not finite, many in a row;
            the last checkpoint from before stays as it is.
          Stalled: data that do not come; the steps taken are saved.
          Terminated: SIGTERM came; the steps taken are saved.
        """
        if begin == end:
            return state, place
        every, chunked, alone = self.intervals, self.feed.chunked, jax.process_count() == 1
        with (
            self.feed.open() as data,
            deferred() as sigterm,
            (self.profile or Profile(self.folder.path)).of_stage(stage, self.display.note) as trace,
        ):
            data.restore(place)
            self.display.phase(stage, begin, end)

            def measure(done: int, steps: int) -> None:
                due = passed(done, steps, every.evaluate) and done < end
                if due and evaluate is not None and not sigterm.came:
                    trace.end(state)
                    with sigterm.unless_raised():
                        self._evaluated(done - 1, *evaluate(state))

            def save(place: Place) -> None:
                if waiting:
                    self._record(stage, waiting, describe, data, streak, looks=False)
                notes = {"tracker": self.tracker.so_far(), "places": _gathered(place)}
                self.checkpoints.save(done, stage, state, notes | dict(self.notes))
                self.loggers.flush()

            if self._was_cut_off(stage, begin):
                measure(begin, 1)
            waiting: list[tuple[range, Metrics]] = []
            done = saved_at = begin
            unchecked, streak = self.checks, self._streak(stage, begin)
            while done < end:
                step, steps = done, min(every.chunk, end - done) if chunked else 1
                with trace.step(step):
                    before = data.place()  # a chunk may come in part
                    read = functools.partial(data.read, step, steps, every.chunk)
                    try:
                        # It may wait for data as long as the run lasts.
                        batch = sigterm.or_none(read) if alone else read()
                    except Stalled:
                        if alone and done > saved_at:  # the others would have to save as well
                            save(before)
                        raise
                    if batch is None:
                        if done > saved_at:
                            save(before)
                        raise _without_data()
                    plain = None
                    if unchecked and objective is not None:
                        one = jax.tree.map(lambda x: x[0], batch.data) if chunked else batch
                        plain = _plain_metrics(objective, state, one)
                    state, metrics = step_function(state, batch)
                if plain is not None:
                    first = {n: x[0] for n, x in metrics.items()} if chunked else metrics
                    unchecked = not check.compare(stage, plain, first, self.dtype)
                done += steps
                trace.took(state, done, steps)
                waiting.append((range(step, done), metrics))
                saves = passed(done, steps, every.checkpoint) or done == end
                looks = passed(done, steps, every.log) or passed(done, steps, every.evaluate)
                if looks or saves:
                    self._record(stage, waiting, describe, data, streak, looks=True)
                measure(done, steps)
                stops = sigterm.came if alone else reached_preemption_sync_point(step)
                if saves or stops:
                    save(data.place())
                    saved_at = done
                if stops:
                    raise Terminated
            skipped, place = data.skipped, data.place()
        if skipped is not None and skipped.count:
            self.display.says(str(skipped))
        if streak.count > 1:
            self.display.says(f"{streak.count} of {end - begin} steps were not finite: left out")
        return state, place

    def _was_cut_off(self, stage: str, begin: int) -> bool:
        """Whether SIGTERM came while the state of a stage at step `begin` was evaluated."""
        if not (begin and self.folder.resumed and self.folder.metrics.exists()):
            return False
        last = {r.get("phase") for r in read_metrics(self.folder.metrics) if r["step"] == begin - 1}
        return last == {stage}

    def _streak(self, stage: str, begin: int) -> Streak:
        """Of the steps of a stage before step `begin`, as its metrics tell."""
        streak = Streak()
        if begin and self.folder.resumed and self.folder.metrics.exists():
            for row in read_metrics(self.folder.metrics):
                if row.get("phase") == stage and row["step"] < begin:
                    streak.saw(row["step"], row.get(ROLLED_BACK, False))
            streak.count = 0  # they were told of
        return streak

    def _record(
        self,
        stage: str,
        waiting: list[tuple[range, Metrics]],
        describe: Callable[[Row], Row],
        data: Reader,
        streak: Streak,
        *,
        looks: bool,
    ) -> None:
        """Writes the metrics of the steps since the last time, and shows the newest.

        Args:
          streak: of steps that were rolled back.
          looks: whether the schedule has it so; where SIGTERM does, lines stay as they would be.
        """
        rows: list[Row] = []
        for steps, several in waiting:
            for step, metrics in _by_step(steps, several, self.feed.chunked):
                rolled_back = metrics.pop(ROLLED_BACK)
                row = {"step": step, "phase": stage} | describe(metrics)
                if np.any(rolled_back):
                    row = finite_numbers(row) | {ROLLED_BACK: rolled_back}
                    if not streak.count:
                        self.display.note(
                            f"loss or gradient are not finite at step {step}: it is left out"
                        )
                streak.saw(step, rolled_back)
                rows.append(row)
        waiting.clear()
        self.checkpoints.saw([worst for row in rows if (worst := _worst_loss(row)) is not None])
        if looks and data.skipped is not None:
            rows[-1]["skipped"] = data.skipped.count
        if jax.process_index() == 0:
            self.folder.append_metrics(rows)
            for line in rows:
                self.loggers.write(line["step"], line)
        self.display.update(len(rows), rows[-1])
        if streak.too_long is not None:
            raise RunError(self.checkpoints.not_finite(streak.too_long))

    def _evaluated(self, step: int, result: Row, line: str) -> None:
        """One line of metrics about the validation data."""
        if jax.process_index() == 0:
            row = {"step": step, "phase": "validation", "validation": result}
            self.folder.append_metrics([row])
            self.loggers.write(step, {"validation": result})
        self.display.note(line)


def _without_data() -> Terminated:
    """SIGTERM while a batch was waited for, by threads that may wait on."""
    terminated = Terminated()
    terminated.hangs = True
    return terminated


def _plain_metrics(objective: check.Objective, *args: Any) -> Metrics:
    """`check.plain_metrics`; arrays that a `Partial` holds are no constants of the program."""
    if not isinstance(objective, jax.tree_util.Partial):
        return check.plain_metrics(objective, *args)
    return check.plain_metrics(lambda of, *args: of(*args), objective, *args)


def _worst_loss(row: Row) -> float | None:
    """The largest loss of a row; None where none is finite."""
    losses = row["loss"] if isinstance(row["loss"], list) else [row["loss"]]
    return max((loss for loss in losses if loss is not None), default=None)


def _by_step(steps: range, metrics: Metrics, chunked: bool) -> Iterator[tuple[int, Row]]:
    """Each step and its metrics, as plain numbers."""
    host = {name: np.asarray(value).tolist() for name, value in metrics.items()}
    for i, step in enumerate(steps):
        yield step, {name: value[i] for name, value in host.items()} if chunked else host


def _gathered(place: Place) -> list[Place]:
    """Every process's place in the data, in order."""
    if jax.process_count() == 1:
        return [place]
    from jax.experimental.multihost_utils import process_allgather

    text = np.frombuffer(json.dumps(place).encode(), np.uint8)
    sizes = np.asarray(process_allgather(np.asarray(len(text))))
    padded = np.asarray(process_allgather(np.pad(text, (0, int(sizes.max()) - len(text)))))
    return [json.loads(row[:size].tobytes()) for row, size in zip(padded, sizes, strict=True)]
