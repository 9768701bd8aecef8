"""What a joint search starts from: data, the supernet, exact costs, candidates and their goals."""

from __future__ import annotations

import dataclasses
import functools
import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

from codesign.architecture import Architecture
from codesign.cost.capacity import busy_share
from codesign.cost.estimate import check_dram
from codesign.cost.family import FamilyTable, build_family_table
from codesign.cost.table import CostTable, build_table, table_bytes
from codesign.errors import UserError
from codesign.models import CLIP
from codesign.models.formats import ImageSettings, Processor
from codesign.models.subnets import subnet_specs
from codesign.scenario import Scenario
from codesign.search.front import unmet
from codesign.search.grid import best_accelerators
from codesign.search.lagrangian import AugmentedLagrangian
from codesign.search.objectives import Limits, keeping_up, spread_targets
from codesign.space import DesignSpace
from codesign.train import placement
from codesign.train.clip import ClipTask, Fixed, Weights, chunks_of
from codesign.train.clip_subject import Start, start
from codesign.train.config import SearchConfig
from codesign.train.data import DataError, Source, open_source, repeats
from codesign.train.data.named import OpenedData, open_named
from codesign.train.feed import ResidentFeed, StreamFeed, in_memory, is_small, resident
from codesign.train.finetune.config import LossConfig
from codesign.train.memory import free_device_bytes, free_host_bytes
from codesign.train.network import Network
from codesign.train.optim import clipped_adamw, decayed
from codesign.train.progress import Display
from codesign.train.search.population import (
    Constants,
    CostTables,
    Goals,
    Population,
    SearchTrainer,
)
from codesign.train.search.rates import learning_rates
from codesign.train.search.subnets import RelaxedSubnets
from codesign.train.sharding import split
from codesign.train.step import Trainer, TrainState, first_state

Array = jax.Array
# Designs that are not searched but trained the same way: the yardsticks.
REFERENCES = ("supernet", "half")


class HeldOut(NamedTuple):
    """What networks are measured on: the pictures of the test, and of the validation."""

    test: Source
    validation: Source


@dataclasses.dataclass(frozen=True, eq=False)
class Setup:
    """What a run needs and never changes.

    Attributes:
      config: the configuration.
      feed: the training data.
      held_out: the others.
      processor: of pictures and texts.
      space: the design space.
      constants: the steps' arrays, with the exact costs; `fixed` before units are ordered.
      trainer: the steps' other constants.
      goals: of the candidates: the references, then one per target.
      start: choice indices [N, d] of the candidates' first designs.
      least: least cost of the mode in the whole space.
      params: weights of the supernet before the first step.
      dtype: of its activations.
    """

    config: SearchConfig
    feed: ResidentFeed | StreamFeed
    held_out: HeldOut
    processor: Processor
    space: DesignSpace
    constants: Constants
    trainer: SearchTrainer
    goals: Goals
    start: np.ndarray
    least: float
    params: Weights
    dtype: Any

    @property
    def tables(self) -> CostTables:
        """Exact costs of all designs."""
        return self.constants.tables

    def model(self, params: Weights, fixed: Fixed) -> CLIP:
        """The supernet of these weights."""
        return self.trainer.task.student.clip(params.clip, fixed.rest)


def prepare(config: SearchConfig, display: Display) -> Setup:
    """Data, supernet, costs, references and targets.

    Raises:
      UserError: data, checkpoint, space or limits that cannot be used.
    """
    mesh = placement.mesh_for(config.optim.batch_size, config.optim.micro_batches, config.fsdp)
    opened = _opened(config, display)
    if warning := repeats(config.optim.batch_size, len(opened.train)):
        display.says(warning)
    model, processor, space = _supernet(config, opened)
    display.says(
        f"mapping {space.architectures:,} architectures on {space.accelerators:,} accelerators",
        chapter="mapping",
    )
    try:
        tables = _tables(config, space)
    except ValueError as error:
        raise UserError(str(error)) from error
    if (limits := _within_the_rate(config, tables)) != config.limits:
        display.says(
            f"limits.latency_s is {limits.latency_s:.4g}: chips are to keep up with "
            f"scenario.inferences_per_s {config.scenario.inferences_per_s:g}"
        )
        config = dataclasses.replace(config, limits=limits)
    first, goals, least = _goals(config, tables)
    split: Any = nnx.split(model, nnx.Param, ...)
    graphdef, params, rest = split
    weights = Weights(params, None)
    task = ClipTask(
        Network(graphdef, processor.settings),
        LossConfig(),
        mesh,
        micro_batches=config.optim.micro_batches,
        chunks=chunks_of(config.optim.logits_chunk, mesh),
    )
    reading = dataclasses.replace(config, augment=opened.augment)
    feed: ResidentFeed | StreamFeed = StreamFeed(
        opened.train, processor, reading, mesh, chunked=True, says=display.note
    )
    held_out = HeldOut(opened.test, opened.validation)
    try:
        if is_small(opened.train, processor, opened.augment):
            feed = ResidentFeed(
                resident(opened.train, processor, mesh), reading, mesh, opened.train.shuffled
            )
            held_out = HeldOut(*(in_memory(source, processor) for source in held_out))
    except DataError as error:
        raise UserError(f"data: {error}") from error
    data = feed.data if isinstance(feed, ResidentFeed) else None
    replicated = placement.replicated(mesh)
    return Setup(
        config=config,
        feed=feed,
        held_out=held_out,
        processor=processor,
        space=space,
        constants=Constants(*placement.put((Fixed(rest), data, tables), replicated)),
        trainer=_trainer(config, task, model, tables, opened),
        goals=placement.put(goals, replicated),
        start=first,
        least=least,
        params=weights,
        dtype=model.vision.dtype,
    )


def _opened(config: SearchConfig, display: Display) -> OpenedData:
    """The data set by its name, or the sources that are given in its place."""
    try:
        if not config.train.path:
            return open_named(config.data)
        train = open_source(config.train, display.indexing)
        validation = open_source(config.validation, display.indexing)
        test = open_source(config.test, display.indexing) if config.test.path else validation
    except DataError as error:
        raise UserError(f"data: {error}") from error
    return OpenedData(train, validation, test, ImageSettings(), config.augment)


def _supernet(config: SearchConfig, opened: OpenedData) -> tuple[CLIP, Processor, DesignSpace]:
    """The checkpoint's network, or an untrained one of the space's largest dimensions.

    A checkpoint's dimensions end the choices of the space, and its other dimensions are those of
    every design.
    """
    settings = opened.settings
    if config.image is not None:
        settings = dataclasses.replace(settings, size=config.image)
    try:
        space = config.design_space(
            image=settings.size, channels=settings.channels, context=config.data.context, vocab=1
        )
        begun: Start = start(
            opened.train,
            untrained=space.largest(),
            settings=settings,
            checkpoint=config.checkpoint,
            image=config.image,
            tokenizer=config.tokenizer,
            bfloat16=config.model.bfloat16,
            seed=config.seed,
        )
        if config.checkpoint is not None:
            space = space.within(begun.model.architecture)
        else:
            base = dataclasses.replace(space.base, vocab=begun.model.architecture.vocab)
            space = dataclasses.replace(space, base=base)
    except ValueError as error:
        raise UserError(str(error)) from error
    return begun.model, begun.processor, space


def _tables(config: SearchConfig, space: DesignSpace) -> CostTables:
    """Dense designs are priced on chips that skip no zeros, families on chips that do."""
    _check_memory(space, config.scenario)
    # The supernet is priced as a reference, dense.
    check_dram(space.largest(), config.scenario)
    plain = dataclasses.replace(config.scenario, index_bits=0, subnet_shares=None)
    if not space.sparsity:
        return CostTables(build_table(space, config.scenario))
    return CostTables(build_table(space, plain), build_family_table(space, config.scenario))


def _check_memory(space: DesignSpace, scenario: Scenario) -> None:
    """Refuses tables that the memory of the host, or of a device, cannot hold.

    Raises:
      UserError: it cannot, with what would fit.
    """
    table, levels = table_bytes(space, scenario), len(space.levels)
    # A table is there twice while it is made (2.16 times measured, with one block), those of a
    # family once more when they are put into one.
    of_host = (2.25 + 2 * levels) * table, free_host_bytes(), ""
    of_device = (1 + levels) * table, free_device_bytes(), " on a device"
    for needed, free, where in (of_host, of_device):
        if free is not None and needed > free:
            most = int(space.accelerators * free / needed)
            raise UserError(
                f"space.accelerator: costs on {space.accelerators:,} accelerators take "
                f"{needed / 1e9:.3g} GB{where}, of which {free / 1e9:.3g} GB are free; "
                f"leave out choices until there are {most:,} accelerators or fewer"
            )


def _within_the_rate(config: SearchConfig, tables: CostTables) -> Limits:
    """The limits, with that of keeping up with the scenario's inferences where it can bind.

    It cannot where every accelerator runs the largest dense network often enough.
    """
    latency_s = np.asarray(_latencies_s(tables.dense, jnp.asarray(tables.dense.space.steps)))
    if busy_share(latency_s[np.isfinite(latency_s)].max(initial=0.0), config.scenario) <= 1:
        return config.limits
    return keeping_up(config.limits, config.scenario)


@jax.jit
def _latencies_s(table: CostTable, network: Array) -> Array:
    """Of a network [d] on every accelerator [A]."""
    latency_s: Array = table.on_every_accelerator(network).latency_s
    return latency_s


def _goals(config: SearchConfig, tables: CostTables) -> tuple[np.ndarray, Goals, float]:
    """Starting designs [N, d], what each candidate is after, and the least cost of the space.

    Searched candidates start as the supernet, its subnets at their densest, on its best
    accelerator.

    Raises:
      UserError: no design, or no target, can meet the limits.
    """
    space, targets = tables.dense.space, config.targets
    size, steps = space.architecture_size, space.steps

    def on_best_chip(
        network: np.ndarray, table: CostTable | FamilyTable = tables.dense
    ) -> tuple[np.ndarray, float, bool]:
        indices = np.concatenate([network, np.zeros(len(steps) - len(network), int)])
        choice = best_accelerators(table, indices[None], targets.mode, config.limits)
        met = bool(np.isfinite(choice.value[0]))
        if not met:  # still a yardstick, reported as infeasible
            choice = best_accelerators(table, indices[None], targets.mode, Limits())
        chip = np.asarray(table.accelerator_indices(choice.accelerator[0]))
        network = indices[: space.network_size]
        return np.concatenate([network, chip]), float(choice.value[0]), met

    full, largest_cost, _ = on_best_chip(steps[:size])
    half_size = Architecture(
        **{
            tower: jax.tree.map(lambda n: n / 2, getattr(space.largest(), tower))
            for tower in ("vision", "text")
        }
    )
    half, _, _ = on_best_chip(space.nearest(half_size))
    smallest = np.zeros(size, int)
    _, least, possible = on_best_chip(smallest)
    if tables.sparse is not None:
        sparsest = np.concatenate([smallest, steps[size : space.network_size]])
        _, least_sparse, possible_sparse = on_best_chip(sparsest, tables.sparse)
        least, possible = min(least, least_sparse), possible or possible_sparse
    if not possible:
        if tables.sparse is None:
            why = unmet(tables.dense, config.limits)
        else:
            why = unmet(tables.sparse, config.limits, sparsest[None])
        of_rate = config.limits.latency_s == 1 / config.scenario.inferences_per_s
        raise UserError(
            f"limits: not even the smallest design of the space meets them ({why}); "
            + ("lower scenario.inferences_per_s" if of_rate else "raise them")
        )
    goals = spread_targets(largest_cost, targets.low, targets.high, targets.designs)
    if goals[0] < least:
        share = math.ceil(1e4 * least / largest_cost) / 1e4
        raise UserError(
            f"targets.low {targets.low:g} asks for less than the smallest design costs; "
            f"use at least {share:g}"
        )
    first = full
    if tables.sparse is not None:
        first, _, _ = on_best_chip(steps[:size], tables.sparse)
    rivals = targets.dense_designs if tables.sparse is not None else 0
    rival_goals = spread_targets(largest_cost, targets.low, targets.high, rivals) if rivals else []
    found, idle = len(goals), [0.0] * len(REFERENCES)
    start = np.stack([full, half, *[first] * found, *[full] * rivals])
    sparse = float(tables.sparse is not None)
    wanted = Goals(
        targets=jnp.asarray([largest_cost] * len(REFERENCES) + goals + rival_goals, jnp.float32),
        searched=jnp.asarray(idle + [1.0] * (found + rivals), jnp.float32),
        distilled=jnp.asarray([0.0] + [1.0] * (len(start) - 1), jnp.float32),
        sparse=jnp.asarray(idle + [sparse] * found + [0.0] * rivals, jnp.float32),
    )
    return start, wanted, least


def _trainer(
    config: SearchConfig, task: ClipTask, model: CLIP, tables: CostTables, opened: OpenedData
) -> SearchTrainer:
    optim, space = config.optim, tables.dense.space
    subnets = None
    if tables.sparse is not None:
        shares = tables.sparse.shares
        equal = optim.subnet_balance / len(shares)
        weights = tuple(equal + (1 - optim.subnet_balance) * share for share in shares)
        subnets = RelaxedSubnets(subnet_specs(model), space.levels, weights)
    warmup, elastic, rate = learning_rates(config)
    return SearchTrainer(
        task=task,
        warmup=Trainer(task, weights_optimizer(config, model, warmup), warmup, mesh=task.mesh),
        elastic=weights_optimizer(config, model, elastic),
        optimizer=weights_optimizer(config, model, rate),
        design_optimizer=optax.adam(optim.design_lr),
        lagrangian=AugmentedLagrangian(optim.stiffness, optim.multiplier_rate),
        mode=config.targets.mode,
        limits=config.limits,
        cost_weight=optim.cost_weight,
        distillation=optim.distillation,
        augment=opened.augment,
        mesh=task.mesh,
        subnets=subnets,
    )


def weights_optimizer(
    config: SearchConfig, model: CLIP, rate: optax.Schedule
) -> optax.GradientTransformation:
    """AdamW of one network's weights; the model tells which of them decay."""
    decays: Any = Weights(decayed(nnx.state(model, nnx.Param)), None)
    return clipped_adamw(config.optim, rate, decays)


def start_warmup(setup: Setup) -> TrainState:
    """The supernet alone."""
    return setup.trainer.warmup.init(setup.params)


def start_elastic(setup: Setup, params: Weights, step: int) -> TrainState:
    """The supernet, with an optimizer that has seen nothing of it."""
    state = setup.trainer.warmup.init(params)
    opt_state = first_state(setup.trainer.elastic, params, setup.trainer.mesh)
    return state._replace(opt_state=opt_state, step=jnp.asarray(step, jnp.int32))


def start_population(
    setup: Setup, params: Weights, step: int, start: np.ndarray | None = None
) -> Population:
    """Every candidate from the same weights, at its first design.

    Args:
      setup: of the run.
      params: the weights.
      step: steps taken.
      start: choice indices [N, d] of the first designs; None: those of the setup.
    """
    indices = setup.start if start is None else start
    return _start(setup.trainer, params, setup.space.encode(indices), step)


@functools.partial(jax.jit, static_argnames="trainer")
def _start(trainer: SearchTrainer, params: Weights, z: Array, step: int) -> Population:
    """Designs z [N, d], all from the same weights; one program, not hundreds."""
    copies = jax.tree.map(lambda x: jnp.repeat(x[None], len(z), axis=0), params)
    return split(trainer.init(copies, jnp.asarray(z, jnp.float32), step), trainer.mesh)
