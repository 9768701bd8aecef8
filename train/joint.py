"""The joint search, from data to report.

Chapters, in the order things happen: data; the table of exact costs; references and
targets; warm-up of the supernet; one ordering of its units by importance; relaxed
designs and weights trained together; the snap to discrete designs; training of the
chosen networks; slicing and measuring; report.

Interrupted at any moment, the same command with --resume goes on from the newest
checkpoint: batches, augmentation, ordering and snap are functions of the seed, the step
and the state alone, so the result is the same.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from rich.console import Console

from codesign.architecture import Architecture
from codesign.cost.table import CostTable, build_table
from codesign.errors import RunError, UserError
from codesign.models import CLIP, full_gates, reorder, taylor_importance
from codesign.report import write_report
from codesign.runs import RunFolder
from codesign.search.exact import Choice, best_accelerator, roundings
from codesign.search.lagrangian import AugmentedLagrangian
from codesign.search.objectives import spread_targets
from codesign.space import DesignSpace
from codesign.train import measure, placement
from codesign.train.checkpoints import Checkpoints, Saved, refill
from codesign.train.config import ScheduleConfig, SearchConfig
from codesign.train.data import (
    CaptionedImages,
    DataError,
    batch_indices,
    load_data,
    template_indices,
)
from codesign.train.family import (
    Batch,
    Dataset,
    Draw,
    Family,
    Members,
    Trainer,
    embed,
    member_gates,
    train_chunk,
)
from codesign.train.losses import contrastive_loss
from codesign.train.progress import Display
from codesign.train.tracking import RunTracker

WARMUP, JOINT, TUNE = "warmup", "joint", "tune"
# Designs that are not searched but trained the same way: the yardsticks.
REFERENCES = ("supernet", "half")


@dataclasses.dataclass(frozen=True, eq=False)
class Setup:
    """What a run needs and never changes.

    Attributes:
      config: the configuration.
      data: images and captions, on the host.
      dataset: the training split, on the devices.
      space: the design space.
      table: its exact costs.
      trainer: the step's constants.
      members: of the family: the references, then one per target.
      start: choice indices [N, d] of the members' first designs.
      least: least cost of the mode in the whole space.
      model: the untrained supernet.
    """

    config: SearchConfig
    data: CaptionedImages
    dataset: Dataset
    space: DesignSpace
    table: CostTable
    trainer: Trainer
    members: Members
    start: np.ndarray
    least: float
    model: CLIP


def run_search(config: SearchConfig, folder: RunFolder, console: Console) -> dict[str, Any]:
    """Runs a search, or the rest of one, and writes everything into the folder.

    Returns:
      {"designs": entries of designs.json, "summary": of summary.json}.

    Raises:
      UserError: data, space or limits that cannot be used.
      RunError: a loss that is not finite, a checkpoint that does not fit.
    """
    with Checkpoints(folder.checkpoints) as checkpoints, Display(console) as display:
        saved = checkpoints.latest() if folder.resumed else None
        tracker = RunTracker(saved.notes if saved else None)
        setup = prepare(config, display)
        measure.save_tokenizer(setup.data, folder)
        folder.truncate_metrics(saved.step - 1 if saved else -1)
        family, rest = train(setup, folder, checkpoints, saved, tracker, display)
        display.says("slicing and measuring the networks")
        designs = measure.designs(setup, family, rest, folder)
        summary = measure.summary(setup, designs) | tracker.stop()
    folder.write_json("designs.json", designs)
    folder.write_json("summary.json", summary)
    write_report(folder.path)
    return {"designs": designs, "summary": summary}


def prepare(config: SearchConfig, display: Display) -> Setup:
    """Data, costs, references, targets and the untrained supernet."""
    try:
        data = load_data(config.data)
    except DataError as error:
        raise UserError(f"data: {error}") from error
    space = _space(config, data)
    display.says(
        f"mapping {space.architectures:,} architectures on {space.accelerators:,} accelerators"
    )
    try:
        table = build_table(space, config.scenario)
    except ValueError as error:
        raise UserError(str(error)) from error
    largest = space.largest()
    mesh = placement.make_mesh()
    try:
        placement.check_batch(mesh, config.optim.batch_size)
    except ValueError as error:
        raise UserError(str(error)) from error
    dtype = jnp.bfloat16 if config.model.bfloat16 else jnp.float32
    model = CLIP(largest, rngs=nnx.Rngs(config.seed), dtype=dtype)
    start, members, least = _members(config, table)
    trainer = _trainer(config, model, largest, data, mesh)
    dataset = data.train.images, data.train.labels, data.caption_ids
    whole = placement.replicated(mesh)
    return Setup(
        config=config,
        data=data,
        dataset=Dataset(*placement.put(dataset, whole)),
        space=space,
        table=placement.put(table, whole),
        trainer=trainer,
        members=placement.put(members, whole),
        start=start,
        least=least,
        model=model,
    )


def _space(config: SearchConfig, data: CaptionedImages) -> DesignSpace:
    try:
        return config.design_space(
            image=data.image_size,
            channels=data.channels,
            context=config.data.context,
            vocab=data.tokenizer.vocab_size,
        )
    except ValueError as error:
        raise UserError(str(error)) from error


def _members(config: SearchConfig, table: CostTable) -> tuple[np.ndarray, Members, float]:
    """Starting designs [N, d], what each member is after, and the least cost of the space.

    Searched members start as the supernet on its best accelerator.

    Raises:
      UserError: no design, or no target, can meet the limits.
    """
    space, targets = table.space, config.targets
    steps = space.steps
    choose = jax.jit(
        lambda i: best_accelerator(table, i, targets.mode, config.limits)
    )
    unlimited = jax.jit(
        lambda i: best_accelerator(table, i, targets.mode, dataclasses.replace(
            config.limits, latency_s=None, area_mm2=None, tops=None))
    )

    def on_best_chip(indices: np.ndarray) -> tuple[np.ndarray, float, bool]:
        choice = choose(jnp.asarray(indices))
        met = bool(jnp.isfinite(choice.value))
        if not met:  # still a yardstick, reported as infeasible
            choice = unlimited(jnp.asarray(indices))
        chip = np.asarray(table.accelerator_indices(choice.accelerator))
        size = space.architecture_size
        return np.concatenate([indices[:size], chip]), float(choice.value), met

    full, largest_cost, _ = on_best_chip(steps)
    half_size = Architecture(
        **{
            tower: jax.tree.map(lambda n: n / 2, getattr(space.largest(), tower))
            for tower in ("vision", "text")
        }
    )
    half, _, _ = on_best_chip(space.nearest(half_size))
    _, least, possible = on_best_chip(np.zeros_like(steps))
    if not possible:
        raise UserError("limits: not even the smallest design of the space meets them; raise them")
    goals = spread_targets(largest_cost, targets.low, targets.high, targets.designs)
    if goals[0] < least:
        share = least / largest_cost
        raise UserError(
            f"targets.low {targets.low:g} asks for less than the smallest design costs; "
            f"use more than {share:.3g}"
        )
    searched = len(goals)
    start = np.stack([full, half, *[full] * searched])
    idle = [0.0] * len(REFERENCES)
    members = Members(
        targets=jnp.asarray([largest_cost] * len(REFERENCES) + goals, jnp.float32),
        searched=jnp.asarray(idle + [1.0] * searched, jnp.float32),
        taught=jnp.asarray([0.0] + [1.0] * (len(REFERENCES) - 1 + searched), jnp.float32),
    )
    return start, members, least


def _trainer(
    config: SearchConfig, model: CLIP, largest: Architecture, data: CaptionedImages, mesh: Any
) -> Trainer:
    optim = config.optim
    return Trainer(
        graphdef=nnx.graphdef(model),
        largest=largest,
        optimizer=weights_optimizer(config, model, falls=True),
        design_optimizer=optax.adam(optim.design_lr),
        lagrangian=AugmentedLagrangian(optim.stiffness, optim.multiplier_rate),
        mode=config.targets.mode,
        limits=config.limits,
        cost_weight=optim.cost_weight,
        distillation=optim.distillation,
        shift=data.shift,
        flip=data.flip,
        mesh=mesh,
    )


def weights_optimizer(
    config: SearchConfig, model: CLIP, *, falls: bool
) -> optax.GradientTransformation:
    """AdamW of one member's weights: linear warm-up, then a constant rate.

    Args:
      config: rates and steps.
      model: names the matrices, which alone decay.
      falls: whether the rate falls to zero along a cosine while designs are tuned.
    """
    optim, schedule = config.optim, config.schedule
    rates = [optax.linear_schedule(0.0, optim.lr, optim.lr_warmup_steps)]
    rates.append(optax.constant_schedule(optim.lr))
    ends = [optim.lr_warmup_steps]
    if falls:
        rates.append(optax.cosine_decay_schedule(optim.lr, max(1, schedule.tune_steps)))
        ends.append(max(schedule.joint_steps, optim.lr_warmup_steps))
    matrices = jax.tree.map(
        lambda v: len(v.axes.replace("L", "")) >= 2,
        nnx.state(model, nnx.Param),
        is_leaf=lambda v: isinstance(v, nnx.Variable),
    )
    return optax.chain(
        optax.clip_by_global_norm(optim.clip_norm),
        optax.adamw(
            optax.join_schedules(rates, ends), weight_decay=optim.weight_decay, mask=matrices
        ),
    )


@dataclasses.dataclass(frozen=True, eq=False)
class Loop:
    """Runs the steps of a phase: chunks, metrics, checkpoints, display."""

    setup: Setup
    folder: RunFolder
    checkpoints: Checkpoints
    tracker: RunTracker
    display: Display

    def run(
        self, phase: str, family: Family, members: Members, rest: nnx.State, end: int
    ) -> Family:
        """Steps until `end`, counted over all phases.

        Raises:
          RunError: a loss that is not finite; the last checkpoint stays as it is.
        """
        setup, schedule = self.setup, self.setup.config.schedule
        gated = phase != WARMUP
        trainer = setup.trainer if gated else warmup_trainer(setup)
        key = jax.random.key(setup.config.seed)
        step = int(family.step)
        self.display.phase(phase, step, end)
        while step < end:
            steps = min(schedule.chunk_steps, end - step)
            batched = placement.batched(trainer.mesh, axis=1)
            draw = Draw(*placement.put(self._draw(step, steps), batched))
            family, metrics = train_chunk(
                family, members, draw, setup.dataset, key, rest, setup.table, trainer, gated
            )
            self._record(phase, step, metrics)
            step += steps
            if checkpoint_due(step, steps, schedule) or step == end:
                state = (family, rest)
                self.checkpoints.save(step, phase, state, self.tracker.so_far())
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
            raise RunError(
                f"the loss is not finite at step {bad}; lower --optim.lr or --optim.design_lr "
                "and start a new run"
            )
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


def warmup_trainer(setup: Setup) -> Trainer:
    """The trainer of the warm-up, whose learning rate does not fall."""
    optimizer = weights_optimizer(setup.config, setup.model, falls=False)
    return dataclasses.replace(setup.trainer, optimizer=optimizer)


def train(
    setup: Setup, folder: RunFolder, checkpoints: Checkpoints, saved: Saved | None,
    tracker: RunTracker, display: Display,
) -> tuple[Family, nnx.State]:
    """All training, from wherever the saved checkpoint stands.

    Returns:
      The tuned family, its designs discrete, and the state it shares (layer ranks).
    """
    schedule = setup.config.schedule
    loop = Loop(setup, folder, checkpoints, tracker, display)
    warmed = schedule.warmup_steps
    joined = warmed + schedule.joint_steps
    tuned = joined + schedule.tune_steps

    graphdef, params, rest = _split(setup.model)
    whole = placement.replicated(setup.trainer.mesh)
    family = start_warmup(setup, params)
    phase = saved.phase if saved else WARMUP
    if saved and phase != WARMUP:
        family = start_family(setup, params, warmed)
    if saved:
        family, rest = refill((family, rest), saved.leaves)
    family, rest = placement.put((family, rest), whole)

    if phase == WARMUP:
        alone = Members(*(x[:1] for x in setup.members))
        family = loop.run(WARMUP, family, alone, rest, warmed)
        display.says("ordering units by importance")
        supernet = nnx.merge(graphdef, jax.tree.map(lambda x: x[0], family.params), rest)
        ordered = order_units(setup, supernet)
        _, params, rest = _split(ordered)
        family, rest = placement.put((start_family(setup, params, warmed), rest), whole)
    if phase != TUNE:
        family = loop.run(JOINT, family, setup.members, rest, joined)
        display.says("snapping to discrete designs")
        family = placement.put(snap(setup, family, rest), whole)
    settled = setup.members._replace(searched=jnp.zeros_like(setup.members.searched))
    family = loop.run(TUNE, family, placement.put(settled, whole), rest, tuned)
    return family, rest


def _split(model: CLIP) -> tuple[nnx.GraphDef[CLIP], nnx.State, nnx.State]:
    """The network's graph, its weights and the rest of its state."""
    split: Any = nnx.split(model, nnx.Param, ...)
    graphdef, params, rest = split
    return graphdef, params, rest


def start_warmup(setup: Setup, params: nnx.State) -> Family:
    """A family of the supernet alone."""
    z = jnp.asarray(setup.space.encode(setup.start[:1]), jnp.float32)
    alone = jax.tree.map(lambda x: x[None], params)
    return warmup_trainer(setup).init(alone, z, 0)


def start_family(setup: Setup, params: nnx.State, step: int) -> Family:
    """Every member from the same weights, at its first design."""
    z = jnp.asarray(setup.space.encode(setup.start), jnp.float32)
    copies = jax.tree.map(lambda x: jnp.repeat(x[None], len(z), axis=0), params)
    return setup.trainer.init(copies, z, step)


def order_units(setup: Setup, model: CLIP) -> CLIP:
    """The supernet with its units in order of importance, by one first-order pass."""
    schedule, optim = setup.config.schedule, setup.config.optim
    # Steps past the training's own, so that the measure is of other batches' draws.
    draw = [
        f(setup.config.seed, 10**6, schedule.order_batches, optim.batch_size, n)
        for f, n in (
            (batch_indices, setup.dataset.images.shape[0]),
            (template_indices, setup.dataset.caption_ids.shape[1]),
        )
    ]
    labels = setup.dataset.labels[draw[0]]
    batches = Batch(
        setup.dataset.images[draw[0]], setup.dataset.caption_ids[labels, draw[1]], labels
    )
    _, params, rest = _split(model)
    loss = jax.tree_util.Partial(functools.partial(plain_loss, setup.trainer), params, rest)
    return reorder(model, taylor_importance(loss, full_gates(setup.trainer.largest), batches))


def plain_loss(
    trainer: Trainer, params: nnx.State, rest: nnx.State, gates: Any, batch: Batch
) -> jax.Array:
    """Contrastive loss of one gated member on one batch, no augmentation."""
    out = embed(trainer, params, rest, gates, batch.images, batch.ids)
    return contrastive_loss(*out, batch.labels)


def snap(setup: Setup, family: Family, rest: nnx.State) -> Family:
    """The family with every searched design at the choice of least loss near it.

    Candidates round the relaxed architecture up or down, take the best accelerator of
    the grid, and meet target and limits; the gated loss on training images decides.

    Raises:
      RunError: a target that no design near the relaxed one can meet.
    """
    config, space = setup.config, setup.space
    z = np.array(family.z)
    for i in np.flatnonzero(np.asarray(setup.members.searched)):
        position = np.asarray(space.indices(z[i]))[: space.architecture_size]
        candidates, choice = roundings(
            setup.table, position, float(setup.members.targets[i]), config.targets.mode,
            config.limits,
        )
        if not len(candidates):
            raise RunError(
                f"no design meets the limits and the target {setup.members.targets[i]:.3g}; "
                "raise --targets.low"
            )
        weights = jax.tree.map(lambda x, i=i: x[i], family.params)
        candidates, choice = _first(config.schedule.snap_candidates, candidates, choice)
        losses = _candidate_losses(setup, weights, rest, candidates)
        best = int(np.argmin(losses))
        chip = np.asarray(setup.table.accelerator_indices(jnp.asarray(choice.accelerator[best])))
        z[i] = space.encode(np.concatenate([candidates[best], chip]))
    return family._replace(z=jnp.asarray(z))


def _first(n: int, candidates: np.ndarray, choice: Choice) -> tuple[np.ndarray, Choice]:
    """Exactly n candidates, the last repeated where there are fewer: one compiled shape."""
    take = np.minimum(np.arange(n), len(candidates) - 1)
    return candidates[take], Choice(*(np.asarray(x)[take] for x in choice))


def _candidate_losses(
    setup: Setup, params: nnx.State, rest: nnx.State, candidates: np.ndarray
) -> np.ndarray:
    """Gated loss [n] of one member at discrete architectures [n, 8]."""
    size, data = setup.space.architecture_size, setup.dataset
    z = np.zeros((len(candidates), len(setup.space.dimensions)), np.float32)
    z[:, :size] = np.asarray(candidates) / np.maximum(setup.space.steps[:size], 1)
    images = min(setup.config.schedule.snap_images, data.images.shape[0])
    labels = data.labels[:images]
    templates = jnp.arange(images) % data.caption_ids.shape[1]
    batch = Batch(data.images[:images], data.caption_ids[labels, templates], labels)
    return np.asarray(
        _losses_at(setup.trainer, params, rest, setup.table, jnp.asarray(z), batch)
    )


@functools.partial(jax.jit, static_argnames="trainer")
def _losses_at(
    trainer: Trainer, params: nnx.State, rest: nnx.State, table: CostTable, z: jax.Array,
    batch: Batch,
) -> jax.Array:
    return jax.lax.map(
        lambda z: plain_loss(trainer, params, rest, member_gates(z, rest, table), batch), z
    )
