"""The loop every phase runs: compiled chunks of steps, metrics, checkpoints, display."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np
from flax import nnx

from codesign.errors import RunError
from codesign.runs import RunFolder
from codesign.space import DesignSpace
from codesign.termination import Terminated, deferred
from codesign.train import check, placement
from codesign.train.checkpoints import Checkpoints
from codesign.train.config import ScheduleConfig
from codesign.train.data import batch_indices, template_indices
from codesign.train.family import Draw, Family, Members, objective, train_chunk
from codesign.train.progress import Display
from codesign.train.setup import REFERENCES, Setup, warmup_trainer
from codesign.train.tracking import RunTracker

PHASES = WARMUP, JOINT, TUNE = "warmup", "joint", "tune"


@dataclasses.dataclass(frozen=True, eq=False)
class Loop:
    """Runs the steps of a phase: chunks, metrics, checkpoints, display.

    Attributes:
      setup: data, costs and trainer.
      folder: where metrics go.
      checkpoints: where states go.
      tracker: of time and carbon.
      display: of progress.
      checks: whether the first step of each phase is held against its plainly compiled loss.
    """

    setup: Setup
    folder: RunFolder
    checkpoints: Checkpoints
    tracker: RunTracker
    display: Display
    checks: bool = False

    def run(
        self, phase: str, family: Family, members: Members, rest: nnx.State, end: int
    ) -> Family:
        """Steps until `end`, counted over all phases.

        Raises:
          RunError: a step compiled wrongly; a loss that is not finite; the last checkpoint from
            before stays as it is.
          Terminated: SIGTERM came; the steps taken are saved.
        """
        setup, schedule = self.setup, self.setup.config.schedule
        gated = phase != WARMUP
        trainer = setup.trainer if gated else warmup_trainer(setup)
        key = jax.random.key(setup.config.seed)
        step = first = int(family.step)
        if step < end:  # resumed at a phase's end there is none to show
            self.display.phase(phase, step, end)
        with deferred() as sigterm:
            while step < end:
                steps = min(schedule.chunk_steps, end - step)
                batched = placement.batched(trainer.mesh, axis=1)
                draw = Draw(*placement.put(self._draw(step, steps), batched))
                constants = setup.dataset, key, rest, setup.tables
                plain = None
                if self.checks and step == first:
                    one = Draw(*(x[:1] for x in draw))
                    plain = check.plain_metrics(
                        functools.partial(objective, trainer=trainer, gated=gated),
                        family, members, one, *constants,
                    )  # fmt: skip
                family, metrics = train_chunk(family, members, draw, *constants, trainer, gated)
                if plain is not None:
                    of_first = {name: values[0] for name, values in metrics.items()}
                    check.compare(phase, plain, of_first, setup.model.vision.dtype)
                self._record(phase, step, metrics)
                step += steps
                stops = sigterm.came
                if checkpoint_due(step, steps, schedule) or step == end or stops:
                    state = (family, rest)
                    self.checkpoints.save(step, phase, state, self.tracker.so_far())
                if stops:
                    raise Terminated
        return family

    def _draw(self, step: int, steps: int) -> tuple[np.ndarray, np.ndarray]:
        seed, size = self.setup.config.seed, self.setup.config.optim.batch_size
        images, templates = self.setup.dataset.images, self.setup.dataset.caption_ids
        return (
            batch_indices(seed, step, steps, size, images.shape[0]),
            template_indices(seed, step, steps, size, templates.shape[1]),
        )

    def _record(self, phase: str, step: int, metrics: dict[str, jax.Array]) -> None:
        """Appends a line a step and updates the display."""
        host = {name: np.asarray(values) for name, values in metrics.items()}
        if not np.isfinite(host["loss"]).all():
            bad = step + int(np.argmin(np.isfinite(host["loss"]).all(axis=-1)))
            raise RunError(self.checkpoints.not_finite(f"the loss is not finite at step {bad}"))
        self.checkpoints.saw(host["loss"].max(axis=-1).tolist())
        rows = list(metric_rows(self.setup.space, phase, step, host))
        self.folder.append_metrics(rows)
        self.display.update(len(rows), rows[-1])


def checkpoint_due(step: int, steps: int, schedule: ScheduleConfig) -> bool:
    """Whether the last `steps` steps passed a multiple of the checkpoint interval."""
    every = schedule.checkpoint_steps
    return step // every > (step - steps) // every


def metric_rows(
    space: DesignSpace, phase: str, first: int, metrics: dict[str, np.ndarray]
) -> Iterator[dict[str, Any]]:
    """Lines of metrics.jsonl, from metrics [steps, N, ...]."""
    for i in range(len(metrics["loss"])):
        row: dict[str, Any] = {"step": first + i, "phase": phase}
        row |= {
            name: values[i].tolist()
            for name, values in metrics.items()
            if name not in ("indices", "excess")
        }
        if phase == JOINT:
            searched = slice(len(REFERENCES), None)
            row["limit_violation"] = np.maximum(metrics["excess"][i, :, 1:], 0).max(
                axis=-1, initial=0.0
            ).tolist()
            row["relaxed"] = {
                d.name: np.interp(at[searched], np.arange(len(d.choices)), d.choices).tolist()
                for d, at in zip(space.dimensions, metrics["indices"][i].T, strict=True)
            }
        yield row
