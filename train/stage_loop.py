"""The loop of every stage: batches, a compiled step, metrics, checkpoints, evaluations.

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

from codesign.errors import RunError, UserError
from codesign.models.formats.processor import Pictures
from codesign.runs import RunFolder, read_metrics
from codesign.termination import Terminated, deferred
from codesign.train import check, placement
from codesign.train.checkpoints import Checkpoints, Saved
from codesign.train.data import ImageTextBatch, Source, TrainingStream
from codesign.train.progress import Display, resume_metrics
from codesign.train.tensorboard import TensorBoard
from codesign.train.tracking import RunTracker

State = TypeVar("State")
Metrics = dict[str, jax.Array]
Place = dict[str, Any]


@dataclasses.dataclass(frozen=True, eq=False)
class Loop:
    """What the stages of a run share.

    Attributes:
      config: batch, seed, threads and the schedule's intervals.
      folder: where metrics go.
      checkpoints: where states go.
      tracker: of time and carbon.
      display: of progress.
      source: the training data.
      processor: of pictures, and of texts where the network reads any.
      mesh: the devices.
      checks: whether the first step of a stage is held against its plainly compiled loss.
      dtype: of the network's activations.
      notes: kept in every checkpoint.
    """

    config: Any
    folder: RunFolder
    checkpoints: Checkpoints
    tracker: RunTracker
    display: Display
    source: Source
    processor: Pictures
    mesh: jax.sharding.Mesh
    checks: bool = False
    dtype: Any = jnp.float32
    notes: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    def resumed_at(self, saved: Saved | None) -> Place | None:
        """The place in the data to go on from, after metrics past the checkpoint are dropped.

        Raises:
          UserError: a run of another number of processes.
        """
        if jax.process_index() == 0:
            resume_metrics(self.folder, saved.step if saved else 0, self.display)
        if saved is None:
            return None
        places = saved.notes["places"]
        if len(places) != jax.process_count():
            raise UserError(
                f"the run was started by {len(places)} processes and cannot be continued by "
                f"{jax.process_count()}"
            )
        place: Place = places[jax.process_index()]
        return place

    def run(
        self,
        stage: str,
        state: State,
        place: Place | None,
        begin: int,
        end: int,
        step_function: Callable[[State, ImageTextBatch], tuple[State, Metrics]],
        evaluate: Callable[[State], tuple[dict[str, Any], str]] | None = None,
        objective: check.Objective | None = None,
    ) -> tuple[State, Place | None]:
        """Steps `begin` to `end` of a run.

        Args:
          stage: its name in metrics and checkpoints.
          state: before step `begin`; its buffers may be given up.
          place: in the data; None at a run's beginning.
          begin: first step.
          end: one past the last.
          step_function: a step, pure; metrics are scalars or [K], "loss" a scalar.
          evaluate: what to write about the state on validation data, and the same in a line.
          objective: what the step differentiates; None: the first step is not checked.

        Returns:
          The state after the last step, and the place in the data.

        Raises:
          RunError: a step compiled wrongly; a loss that is not finite; the last checkpoint from
            before stays as it is.
          Terminated: SIGTERM came; the steps taken are saved.
        """
        if begin == end:
            return state, place
        config, schedule = self.config, self.config.schedule
        shares = jax.process_count()
        with (
            TrainingStream(
                self.source, self.processor, batch_size=config.optim.batch_size // shares,
                seed=config.seed, augment=config.augment, threads=config.threads,
                process_index=jax.process_index(), process_count=shares,
            ) as stream,
            TensorBoard(self.folder.path, begin) as board,
            deferred() as sigterm,
        ):  # fmt: skip
            if place is not None:
                stream.restore(place)
            self.display.phase(stage, begin, end)

            def measure(done: int) -> None:
                evaluates = bool(schedule.evaluate_steps) and done % schedule.evaluate_steps == 0
                if evaluates and done < end and evaluate is not None and not sigterm.came:
                    with sigterm.unless_raised():
                        self._evaluated(done - 1, *evaluate(state), board)

            if self._was_cut_off(stage, begin):
                measure(begin)
            waiting: list[tuple[int, Metrics]] = []
            for step, batch in zip(range(begin, end), self._batches(stream), strict=False):
                plain = None
                if self.checks and objective is not None and step == begin:
                    plain = check.plain_metrics(objective, state, batch)
                state, metrics = step_function(state, batch)
                if plain is not None:
                    check.compare(stage, plain, metrics, self.dtype)
                waiting.append((step, metrics))
                done = step + 1
                evaluates = bool(schedule.evaluate_steps) and done % schedule.evaluate_steps == 0
                saves = done % schedule.checkpoint_steps == 0 or done == end
                looks = done % schedule.log_steps == 0 or evaluates or saves
                if looks:
                    self._record(stage, waiting, stream, board, looks)
                measure(done)
                stops = sigterm.came if shares == 1 else reached_preemption_sync_point(step)
                if saves or stops:
                    if waiting:
                        self._record(stage, waiting, stream, board, looks)
                    notes = {"tracker": self.tracker.so_far(), "places": _gathered(stream.state())}
                    self.checkpoints.save(done, stage, state, notes | dict(self.notes))
                    board.flush()
                if stops:
                    raise Terminated
            skipped, place = stream.skipped, stream.state()
        if skipped.count:
            self.display.says(str(skipped))
        return state, place

    def _batches(self, stream: TrainingStream) -> Iterator[ImageTextBatch]:
        """Batches on the devices, each process bringing its part."""
        sharding = placement.batched(self.mesh)
        for batch in stream:
            yield jax.tree.map(
                functools.partial(jax.make_array_from_process_local_data, sharding), batch
            )

    def _was_cut_off(self, stage: str, begin: int) -> bool:
        """Whether SIGTERM came while the state of a stage at step `begin` was evaluated."""
        if not (begin and self.folder.resumed and self.folder.metrics.exists()):
            return False
        last = {r.get("phase") for r in read_metrics(self.folder.metrics) if r["step"] == begin - 1}
        return last == {stage}

    def _record(
        self, stage: str, waiting: list[tuple[int, Metrics]], stream: TrainingStream,
        board: TensorBoard, looks: bool,
    ) -> None:
        """Writes the metrics of the steps since the last time, and shows the newest.

        Args:
          looks: whether the schedule has it so; where SIGTERM does, lines stay as they would be.
        """
        rows: list[dict[str, Any]] = [
            {"step": step, "phase": stage}
            | {name: np.asarray(value).tolist() for name, value in metrics.items()}
            for step, metrics in waiting
        ]
        waiting.clear()
        bad = next((row for row in rows if not np.isfinite(row["loss"])), None)
        if bad is not None:
            what = f"the loss is not finite at step {bad['step']}"
            raise RunError(self.checkpoints.not_finite(what))
        self.checkpoints.saw([row["loss"] for row in rows])
        if looks:
            rows[-1]["skipped"] = stream.skipped.count
        if jax.process_index() == 0:
            self.folder.append_metrics(rows)
            for row in rows:
                board.write(row["step"], row)
        self.display.update(len(rows), rows[-1])

    def _evaluated(
        self, step: int, result: dict[str, Any], line: str, board: TensorBoard
    ) -> None:
        """One line of metrics about the validation data."""
        if jax.process_index() == 0:
            row = {"step": step, "phase": "validation", "validation": result}
            self.folder.append_metrics([row])
            board.write(step, {"validation": result})
        self.display.note(line)


def _gathered(place: Place) -> list[Place]:
    """Every process's place in the data, in order."""
    if jax.process_count() == 1:
        return [place]
    from jax.experimental.multihost_utils import process_allgather

    text = np.frombuffer(json.dumps(place).encode(), np.uint8)
    sizes = np.asarray(process_allgather(np.asarray(len(text))))
    padded = np.asarray(process_allgather(np.pad(text, (0, int(sizes.max()) - len(text)))))
    return [json.loads(row[:size].tobytes()) for row, size in zip(padded, sizes, strict=True)]
