"""A fine-tuning run, from data to report.

Chapters, in the order things happen: data; the network and what prepares its inputs; the
teacher; the state, new or restored; the loop; the last evaluation; the saved network; report.

Interrupted at any moment, the same command with --resume goes on from the newest checkpoint:
it holds the position in the data too, so the result is the same.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from rich.console import Console

from codesign.errors import RunError, UserError
from codesign.models import CLIP
from codesign.models.formats import Processor, load_clip, save_clip
from codesign.models.formats.files import locate_side_files
from codesign.models.formats.processor import image_settings
from codesign.report.finetune import write_report
from codesign.runs import SUMMARY, RunFolder
from codesign.train import placement
from codesign.train.checkpoints import Checkpoints, Saved, refill
from codesign.train.data import ImageTextBatch, Source, TrainingStream, open_source
from codesign.train.finetune.config import FinetuneConfig, check
from codesign.train.finetune.start import Start, start
from codesign.train.finetune.step import (
    Trainer,
    TrainState,
    first_bias,
    make_optimizer,
    train_step,
)
from codesign.train.finetune.tensorboard import TensorBoard
from codesign.train.network import Network
from codesign.train.progress import Display
from codesign.train.tracking import RunTracker
from codesign.train.zero_shot import evaluate_source

PHASE = "finetune"
# The network a run delivers, in its folder; `load_clip` and `load_processor` read it.
DELIVERED = "clip"


def run_finetune(config: FinetuneConfig, folder: RunFolder, console: Console) -> dict[str, Any]:
    """Runs a fine-tuning, or the rest of one, and writes everything into the folder.

    Returns:
      What summary.json holds.

    Raises:
      UserError: data, checkpoints or settings that cannot be used.
      RunError: a loss that is not finite, a checkpoint that does not fit.
    """
    check(config)
    with Checkpoints(folder.checkpoints) as checkpoints, Display(console) as display:
        saved = checkpoints.latest() if folder.resumed else None
        with RunTracker(saved.notes.get("tracker") if saved else None) as tracker:
            run = _prepare(config, folder, checkpoints, tracker, display)
            state, stream_state = run.restored(saved)
            state = run.train(state, stream_state)
            summary = run.finish(state) | tracker.stop()
    if jax.process_index() == 0:
        folder.write_json(SUMMARY, summary)
        write_report(folder.path)
    return summary


def _prepare(
    config: FinetuneConfig, folder: RunFolder, checkpoints: Checkpoints, tracker: RunTracker,
    display: Display,
) -> _Run:
    mesh = placement.make_mesh()
    try:
        placement.check_batch(mesh, config.optim.batch_size // config.optim.micro_batches)
    except ValueError as error:
        raise UserError(f"{error}, divided by optim.micro_batches") from None
    display.says("opening the data")
    source = open_source(config.train, display.indexing)
    validation = None
    if config.validation.path:
        validation = open_source(config.validation, display.indexing)
    begun = start(config, source)
    teacher = None if config.loss.teacher is None else _teacher(config, begun)
    graphdef, params, rest = nnx.split(begun.model, nnx.Param, ...)
    optimizer, rate = make_optimizer(config, params)
    trainer = Trainer(
        student=Network(graphdef, begun.processor.settings),
        teacher=None if teacher is None else teacher[0],
        optimizer=optimizer,
        learning_rate=rate,
        loss=config.loss,
        lock=config.lock,
        micro_batches=config.optim.micro_batches,
        ema=config.optim.ema,
        mesh=mesh,
    )
    whole = placement.replicated(mesh)
    return _Run(
        config=config, folder=folder, checkpoints=checkpoints, tracker=tracker, display=display,
        source=source, validation=validation, processor=begun.processor, trainer=trainer,
        params=placement.put(params, whole), rest=placement.put(rest, whole),
        teacher=None if teacher is None else placement.put(teacher[1], whole),
    )  # fmt: skip


def _teacher(config: FinetuneConfig, begun: Start) -> tuple[Network, tuple[Any, Any]]:
    """The teacher's network and its (parameters, rest), able to read the student's inputs."""
    path = str(config.loss.teacher)
    image = begun.model.architecture.image
    dtype = jnp.bfloat16 if config.bfloat16 else jnp.float32
    model = load_clip(path, image=image, dtype=dtype)
    settings = dataclasses.replace(image_settings(locate_side_files(path)), size=image)
    ours, theirs = begun.model.architecture, model.architecture
    for name in ("vocab", "context", "channels"):
        if getattr(ours, name) != getattr(theirs, name):
            raise UserError(
                f"--loss.teacher {path}: its {name} is {getattr(theirs, name)}, the student's "
                f"{getattr(ours, name)}; both must read the same inputs"
            )
    if config.loss.features and ours.projection != theirs.projection:
        raise UserError(
            f"--loss.features: the teacher embeds in {theirs.projection} dimensions, the student "
            f"in {ours.projection}; set it to 0, --loss.distillation works across widths"
        )
    graphdef, params, rest = nnx.split(model, nnx.Param, ...)
    return Network(graphdef, settings), (params, rest)


@dataclasses.dataclass(frozen=True, eq=False)
class _Run:
    """The chapters' common things."""

    config: FinetuneConfig
    folder: RunFolder
    checkpoints: Checkpoints
    tracker: RunTracker
    display: Display
    source: Source
    validation: Source | None
    processor: Processor
    trainer: Trainer
    params: nnx.State
    rest: nnx.State
    teacher: tuple[nnx.State, nnx.State] | None

    def restored(self, saved: Saved | None) -> tuple[TrainState, dict[str, Any] | None]:
        """The state to go on from, and the place in the data, None at the beginning."""
        state = self.trainer.init(self.params)
        if jax.process_index() == 0:
            self.folder.truncate_metrics(saved.step - 1 if saved else -1)
        if saved is None:
            return state, None
        state = placement.put(
            refill(state, saved.leaves), placement.replicated(self.trainer.mesh)
        )
        places = saved.notes["places"]
        if len(places) != jax.process_count():
            raise UserError(
                f"the run was started by {len(places)} processes and cannot be continued by "
                f"{jax.process_count()}"
            )
        return state, places[jax.process_index()]

    def train(self, state: TrainState, place: dict[str, Any] | None) -> TrainState:
        """All steps that are left."""
        config, schedule = self.config, self.config.schedule
        step = int(state.step)
        if step == schedule.steps:
            return state
        shares = jax.process_count()
        with (
            TrainingStream(
                self.source, self.processor, batch_size=config.optim.batch_size // shares,
                seed=config.seed, augment=config.augment, threads=config.threads,
                process_index=jax.process_index(), process_count=shares,
            ) as stream,
            TensorBoard(self.folder.path, step) as board,
        ):  # fmt: skip
            if place is not None:
                stream.restore(place)
            self.display.phase(PHASE, step, schedule.steps)
            waiting: list[tuple[int, dict[str, jax.Array]]] = []
            for batch in self._batches(stream):
                if step == 0 and config.loss.kind == "sigmoid":
                    bias = first_bias(state.weights.clip, self.rest, batch, self.trainer)
                    state = state._replace(weights=state.weights._replace(logit_bias=bias))
                state, metrics = train_step(state, self.rest, self.teacher, batch, self.trainer)
                waiting.append((step, metrics))
                step += 1
                evaluates = schedule.evaluate_steps and step % schedule.evaluate_steps == 0
                saves = step % schedule.checkpoint_steps == 0 or step == schedule.steps
                if step % schedule.log_steps == 0 or evaluates or saves:
                    self._record(waiting, stream, board)
                if evaluates and step < schedule.steps:
                    self._evaluate(state, step, board)
                if saves:
                    self._save(state, step, stream)
                if step == schedule.steps:
                    break
            skipped = stream.skipped
        if skipped.count:
            self.display.says(f"{skipped.count} unreadable pictures were skipped: {skipped}")
        return state

    def _batches(self, stream: TrainingStream) -> Iterator[ImageTextBatch]:
        """Batches on the devices, each process bringing its part."""
        sharding = placement.batched(self.trainer.mesh)
        for batch in stream:
            arrays = (jax.make_array_from_process_local_data(sharding, part) for part in batch)
            yield ImageTextBatch(*arrays)

    def _record(
        self, waiting: list[tuple[int, dict[str, jax.Array]]], stream: TrainingStream,
        board: TensorBoard,
    ) -> None:
        """Writes the metrics of the steps since the last time, and shows the newest."""
        rows = [
            {"step": step, "phase": PHASE} | {k: float(v) for k, v in metrics.items()}
            for step, metrics in waiting
        ]
        waiting.clear()
        bad = next((row for row in rows if not np.isfinite(row["loss"])), None)
        if bad is not None:
            raise RunError(
                f"the loss is not finite at step {bad['step']}; lower --optim.lr and start a new "
                "run, the last checkpoint is kept"
            )
        rows[-1]["skipped"] = stream.skipped.count
        if jax.process_index() == 0:
            self.folder.append_metrics(rows)
            for row in rows:
                board.write(row["step"], row)
        self.display.update(len(rows), rows[-1])

    def _save(self, state: TrainState, step: int, stream: TrainingStream) -> None:
        notes = {"tracker": self.tracker.so_far(), "places": _gathered(stream.state())}
        self.checkpoints.save(step, PHASE, state, notes)

    def network(self, state: TrainState) -> CLIP:
        """The network as evaluated and saved; its own copy of the weights."""
        weights = jax.tree.map(lambda x: x.addressable_data(0), state.delivered.clip)
        rest = jax.tree.map(lambda x: x.addressable_data(0), self.rest)
        return nnx.merge(self.trainer.student.graphdef, weights, rest)

    def _measured(self, state: TrainState) -> dict[str, Any]:
        assert self.validation is not None
        return evaluate_source(
            self.network(state), self.processor, self.validation, threads=self.config.threads,
            batch_size=min(256, self.config.optim.batch_size),
        )

    def _evaluate(self, state: TrainState, step: int, board: TensorBoard) -> None:
        """One line of metrics about the validation data."""
        if self.validation is None:
            return
        result = self._measured(state)
        if jax.process_index() == 0:
            row = {"step": step - 1, "phase": "validation", "validation": result}
            self.folder.append_metrics([row])
            board.write(step - 1, {"validation": result})
        self.display.note(headline(result))

    def finish(self, state: TrainState) -> dict[str, Any]:
        """The last evaluation and the saved network."""
        summary: dict[str, Any] = {"steps": int(state.step), "clip": DELIVERED}
        if self.validation is not None:
            self.display.says("evaluating")
            summary["validation"] = self._measured(state)
        if jax.process_index() == 0:
            place = self.folder.path / DELIVERED
            save_clip(self.network(state), place, "native", overwrite=True)
            self.processor.save(place)
        return summary | {"devices": placement.described(self.trainer.mesh)}


def headline(result: dict[str, Any]) -> str:
    """What was measured, in a few words."""
    words = []
    if "zero_shot" in result:
        words.append(f"zero-shot {100 * result['zero_shot']['top_1']:.1f} %")
    if "retrieval" in result:
        both = (result["retrieval"][way]["recall_at_1"] for way in
                ("image_to_text", "text_to_image"))  # fmt: skip
        words.append("recall@1 " + " / ".join(f"{100 * share:.1f} %" for share in both))
    return ", ".join(words)


def _gathered(place: dict[str, Any]) -> list[dict[str, Any]]:
    """Every process's place in the data, in order."""
    if jax.process_count() == 1:
        return [place]
    from jax.experimental.multihost_utils import process_allgather

    text = np.frombuffer(json.dumps(place).encode(), np.uint8)
    sizes = np.asarray(process_allgather(np.asarray(len(text))))
    padded = np.asarray(process_allgather(np.pad(text, (0, int(sizes.max()) - len(text)))))
    return [json.loads(row[:size].tobytes()) for row, size in zip(padded, sizes, strict=True)]


def delivered_clip(folder: Path) -> Path:
    """Where a finished run has put its network."""
    return folder / DELIVERED
