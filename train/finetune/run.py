"""A fine-tuning run, from data to report.

Chapters, in the order things happen: data; the network and what prepares its inputs; the
teacher; the state, new or restored; the loop; the last evaluation; the saved network; report.

Interrupted at any moment, the same command with --resume goes on from the newest checkpoint:
it holds the position in the data too, so the result is the same.
"""

from __future__ import annotations

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from rich.console import Console

from codesign.constraints import check_config
from codesign.errors import UserError
from codesign.models import CLIP
from codesign.models.formats import load_clip, save_clip
from codesign.models.formats.files import locate_side_files
from codesign.models.formats.processor import image_settings
from codesign.report.finetune import headline, write_report
from codesign.runs import SUMMARY, RunFolder
from codesign.train import placement
from codesign.train.check import due
from codesign.train.checkpoints import Checkpoints, refill
from codesign.train.data import ImageTextBatch, Source, open_source, repeats
from codesign.train.finetune.config import FinetuneConfig
from codesign.train.finetune.loop import Loop, Metrics
from codesign.train.finetune.start import Start, start
from codesign.train.finetune.step import (
    Trainer,
    TrainState,
    make_optimizer,
    train_step,
)
from codesign.train.network import Network
from codesign.train.progress import Display
from codesign.train.tracking import RunTracker
from codesign.train.zero_shot import evaluate_source

STAGE = "finetune"
# The network a run delivers, in its folder; `load_clip` and `load_processor` read it.
DELIVERED = "clip"


def run_finetune(
    config: FinetuneConfig, folder: RunFolder, console: Console, *, check: bool | None = None
) -> dict[str, Any]:
    """Runs a fine-tuning, or the rest of one, and writes everything into the folder.

    Args:
      config: what to train.
      folder: where to write.
      console: where to show progress.
      check: whether the first step is checked against a plainly compiled one
        (`codesign.train.check`); None: on CPUs.

    Returns:
      What summary.json holds.

    Raises:
      UserError: data, checkpoints or settings that cannot be used.
      RunError: a loss that is not finite, a checkpoint that does not fit.
    """
    check_config(config)
    with Checkpoints(folder.checkpoints) as checkpoints, Display(console) as display:
        saved = checkpoints.latest((STAGE,), display.says) if folder.resumed else None
        with RunTracker(saved.notes.get("tracker") if saved else None) as tracker:
            run = prepare(config, folder, checkpoints, tracker, display, checks=due(check))
            place = run.loop.resumed_at(saved)
            state = run.trainer.init(run.params)
            if saved is not None:
                state = refill(state, saved.leaves)
            # A fresh one too: a step would be compiled again for where it leaves its state.
            state = placement.put(state, run.whole)
            begin = 0 if saved is None else saved.step
            evaluate = None if run.validation is None else run.evaluate
            state, _ = run.loop.run(
                STAGE, state, place, begin, config.schedule.steps, run.step, evaluate
            )
            summary = run.finish(state) | tracker.stop()
    if jax.process_index() == 0:
        folder.write_json(SUMMARY, summary)
        write_report(folder.path)
    return summary


class Taught(NamedTuple):
    """A network learnt from, and its parameters and the rest of its state."""

    network: Network
    states: tuple[nnx.State, nnx.State]


@dataclasses.dataclass(frozen=True, eq=False)
class Run:
    """What a run needs and never changes.

    Attributes:
      loop: its loop.
      validation: data to evaluate on, or None.
      trainer: the step's constants.
      params: of the network before the first step.
      rest: what of its state is not trained.
      teacher: the teacher's states, or None.
    """

    loop: Loop
    validation: Source | None
    trainer: Trainer
    params: nnx.State
    rest: nnx.State
    teacher: tuple[nnx.State, nnx.State] | None

    @property
    def whole(self) -> jax.sharding.NamedSharding:
        """On every device."""
        return placement.replicated(self.loop.mesh)

    def step(self, state: TrainState, batch: ImageTextBatch) -> tuple[TrainState, Metrics]:
        """A step of plain training."""
        return train_step(state, self.rest, self.teacher, batch, self.trainer)

    def network(self, params: nnx.State) -> CLIP:
        """The CLIP of replicated parameters, on this process's first device."""
        states = jax.tree.map(lambda x: x.addressable_data(0), (params, self.rest))
        return self.trainer.student.clip(*states)

    def measured(self, clip: CLIP) -> dict[str, Any]:
        """What a network makes of the validation data."""
        assert self.validation is not None
        config = self.loop.config
        return evaluate_source(
            clip, self.loop.processor, self.validation, threads=config.threads,
            batch_size=min(256, config.optim.batch_size),
        )  # fmt: skip

    def evaluate(self, state: TrainState) -> tuple[dict[str, Any], str]:
        """For the loop."""
        result = self.measured(self.network(state.delivered.clip))
        return result, headline(result)

    def finish(self, state: TrainState) -> dict[str, Any]:
        """The last evaluation and the saved network."""
        loop = self.loop
        summary: dict[str, Any] = {"steps": loop.config.schedule.steps, "clip": DELIVERED}
        clip = self.network(state.delivered.clip)
        if self.validation is not None:
            loop.display.says("evaluating")
            summary["validation"] = self.measured(clip)
        if jax.process_index() == 0:
            place = loop.folder.path / DELIVERED
            save_clip(clip, place, "native", overwrite=True)
            loop.processor.save(place)
        return summary | {"devices": placement.described(loop.mesh)}


def prepare(
    config: FinetuneConfig, folder: RunFolder, checkpoints: Checkpoints, tracker: RunTracker,
    display: Display, *, checks: bool,
) -> Run:
    """Data, network, teacher and optimizer.

    Raises:
      UserError: what cannot be used.
    """
    mesh = placement.make_mesh()
    try:
        placement.check_batch(mesh, config.optim.batch_size // config.optim.micro_batches)
    except ValueError as error:
        raise UserError(f"{error}, divided by optim.micro_batches") from None
    display.says("opening the data")
    source = open_source(config.train, display.indexing)
    if warning := repeats(config.optim.batch_size, len(source)):
        display.says(warning)
    validation = None
    if config.validation.path:
        validation = open_source(config.validation, display.indexing)
    begun = start(config, source)
    teacher = None if config.loss.teacher is None else _teacher(config, begun)
    split: Any = nnx.split(begun.model, nnx.Param, ...)
    graphdef, params, rest = split
    optimizer, rate = make_optimizer(config, params)
    trainer = Trainer(
        student=Network(graphdef, begun.processor.settings),
        teacher=None if teacher is None else teacher.network,
        optimizer=optimizer,
        learning_rate=rate,
        loss=config.loss,
        lock=config.lock,
        micro_batches=config.optim.micro_batches,
        ema=config.optim.ema,
        mesh=mesh,
    )
    whole = placement.replicated(mesh)
    return Run(
        loop=Loop(
            config=config, folder=folder, checkpoints=checkpoints, tracker=tracker,
            display=display, source=source, processor=begun.processor, mesh=mesh,
            checks=checks, dtype=begun.model.vision.dtype,
        ),
        validation=validation,
        trainer=trainer,
        params=placement.put(params, whole),
        rest=placement.put(rest, whole),
        teacher=None if teacher is None else placement.put(teacher.states, whole),
    )  # fmt: skip


def _teacher(config: FinetuneConfig, begun: Start) -> Taught:
    """The teacher, able to read the student's inputs."""
    path, ours = str(config.loss.teacher), begun.model.architecture
    dtype = jnp.bfloat16 if config.bfloat16 else jnp.float32
    model = load_clip(path, image=ours.image, dtype=dtype)
    settings = dataclasses.replace(image_settings(locate_side_files(path)), size=ours.image)
    theirs = model.architecture
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
    split: Any = nnx.split(model, nnx.Param, ...)
    graphdef, params, rest = split
    return Taught(Network(graphdef, settings), (params, rest))
