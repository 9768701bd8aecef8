"""What a joint search starts from: data, exact costs, members and their targets, optimizers."""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

from codesign.architecture import Architecture
from codesign.cost.family import FamilyTable, build_family_table
from codesign.cost.table import CostTable, build_table
from codesign.errors import UserError
from codesign.models import CLIP
from codesign.models.subnets import subnet_specs
from codesign.search.exact import Choice, best_accelerator
from codesign.search.lagrangian import AugmentedLagrangian
from codesign.search.objectives import Limits, spread_targets
from codesign.space import DesignSpace
from codesign.train import placement
from codesign.train.config import SearchConfig
from codesign.train.data import CaptionedImages, DataError, load_data, repeats
from codesign.train.family import Dataset, Family, Members, Tables, Trainer
from codesign.train.optim import decayed
from codesign.train.progress import Display
from codesign.train.pruning import Pruning

Array = jax.Array
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
      tables: its exact costs.
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
    tables: Tables
    trainer: Trainer
    members: Members
    start: np.ndarray
    least: float
    model: CLIP


def prepare(config: SearchConfig, display: Display) -> Setup:
    """Data, costs, references, targets and the untrained supernet."""
    try:
        data = load_data(config.data)
    except DataError as error:
        raise UserError(f"data: {error}") from error
    if warning := repeats(config.optim.batch_size, len(data.train.labels)):
        display.says(warning)
    space = _space(config, data)
    display.says(
        f"mapping {space.architectures:,} architectures on {space.accelerators:,} accelerators"
    )
    try:
        tables = _tables(config, space)
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
    start, members, least = _members(config, tables)
    trainer = _trainer(config, model, tables, data, mesh)
    dataset = data.train.images, data.train.labels, data.caption_ids
    whole = placement.replicated(mesh)
    return Setup(
        config=config,
        data=data,
        dataset=Dataset(*placement.put(dataset, whole)),
        space=space,
        tables=placement.put(tables, whole),
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


def _tables(config: SearchConfig, space: DesignSpace) -> Tables:
    """Dense designs are priced on chips that skip no zeros, families on chips that do."""
    plain = dataclasses.replace(config.scenario, index_bits=0, subnet_shares=None)
    if not space.sparsity:
        return Tables(build_table(space, config.scenario))
    return Tables(build_table(space, plain), build_family_table(space, config.scenario))


def _members(config: SearchConfig, tables: Tables) -> tuple[np.ndarray, Members, float]:
    """Starting designs [N, d], what each member is after, and the least cost of the space.

    Searched members start as the supernet, its subnets at their densest, on its best
    accelerator.

    Raises:
      UserError: no design, or no target, can meet the limits.
    """
    space, targets = tables.dense.space, config.targets
    size, steps = space.architecture_size, space.steps

    @functools.partial(jax.jit, static_argnames="limits")
    def choose(table: CostTable | FamilyTable, indices: Array, limits: Limits) -> Choice:
        return best_accelerator(table, indices, targets.mode, limits)

    def on_best_chip(
        network: np.ndarray, table: CostTable | FamilyTable = tables.dense
    ) -> tuple[np.ndarray, float, bool]:
        indices = np.concatenate([network, np.zeros(len(steps) - len(network), int)])
        choice = choose(table, jnp.asarray(indices), config.limits)
        met = bool(jnp.isfinite(choice.value))
        if not met:  # still a yardstick, reported as infeasible
            choice = choose(table, jnp.asarray(indices), Limits())
        chip = np.asarray(table.accelerator_indices(choice.accelerator))
        network = indices[: space.network_size]
        return np.concatenate([network, chip]), float(choice.value), met

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
        raise UserError("limits: not even the smallest design of the space meets them; raise them")
    goals = spread_targets(largest_cost, targets.low, targets.high, targets.designs)
    if goals[0] < least:
        share = least / largest_cost
        raise UserError(
            f"targets.low {targets.low:g} asks for less than the smallest design costs; "
            f"use more than {share:.3g}"
        )
    first = full
    if tables.sparse is not None:
        first, _, _ = on_best_chip(steps[:size], tables.sparse)
    rivals = targets.dense_designs if tables.sparse is not None else 0
    rival_goals = spread_targets(largest_cost, targets.low, targets.high, rivals) if rivals else []
    found, idle = len(goals), [0.0] * len(REFERENCES)
    start = np.stack([full, half, *[first] * found, *[full] * rivals])
    sparse = float(tables.sparse is not None)
    members = Members(
        targets=jnp.asarray([largest_cost] * len(REFERENCES) + goals + rival_goals, jnp.float32),
        searched=jnp.asarray(idle + [1.0] * (found + rivals), jnp.float32),
        taught=jnp.asarray([0.0] + [1.0] * (len(start) - 1), jnp.float32),
        sparse=jnp.asarray(idle + [sparse] * found + [0.0] * rivals, jnp.float32),
    )
    return start, members, least


def _trainer(
    config: SearchConfig, model: CLIP, tables: Tables, data: CaptionedImages, mesh: Any
) -> Trainer:
    optim, space = config.optim, tables.dense.space
    pruning = None
    if tables.sparse is not None:
        shares = tables.sparse.shares
        equal = optim.subnet_balance / len(shares)
        weights = tuple(equal + (1 - optim.subnet_balance) * share for share in shares)
        pruning = Pruning(subnet_specs(model), space.levels, weights)
    return Trainer(
        graphdef=nnx.graphdef(model),
        largest=space.largest(),
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
        pruning=pruning,
    )


def weights_optimizer(
    config: SearchConfig, model: CLIP, *, falls: bool
) -> optax.GradientTransformation:
    """AdamW of one member's weights: linear warm-up, then a constant rate.

    Args:
      config: rates and steps.
      model: names the matrices and tables, which alone decay.
      falls: whether the rate falls to zero along a cosine while designs are tuned.
    """
    optim, schedule = config.optim, config.schedule
    rates = [optax.linear_schedule(0.0, optim.lr, optim.lr_warmup_steps)]
    rates.append(optax.constant_schedule(optim.lr))
    ends = [optim.lr_warmup_steps]
    if falls:
        rates.append(optax.cosine_decay_schedule(optim.lr, max(1, schedule.tune_steps)))
        ends.append(max(schedule.joint_steps, optim.lr_warmup_steps))
    return optax.chain(
        optax.clip_by_global_norm(optim.clip_norm),
        optax.adamw(
            optax.join_schedules(rates, ends),
            weight_decay=optim.weight_decay,
            mask=decayed(nnx.state(model, nnx.Param)),
        ),
    )


def warmup_trainer(setup: Setup) -> Trainer:
    """The trainer of the warm-up, whose learning rate does not fall."""
    optimizer = weights_optimizer(setup.config, setup.model, falls=False)
    return dataclasses.replace(setup.trainer, optimizer=optimizer)


def start_warmup(setup: Setup, params: nnx.State) -> Family:
    """A family of the supernet alone."""
    return _start(warmup_trainer(setup), params, setup.space.encode(setup.start[:1]), 0)


def start_family(setup: Setup, params: nnx.State, step: int) -> Family:
    """Every member from the same weights, at its first design."""
    return _start(setup.trainer, params, setup.space.encode(setup.start), step)


@functools.partial(jax.jit, static_argnames="trainer")
def _start(trainer: Trainer, params: nnx.State, z: Array, step: int) -> Family:
    """A family at designs z [N, d], all from the same weights; one program, not hundreds."""
    copies = jax.tree.map(lambda x: jnp.repeat(x[None], len(z), axis=0), params)
    return trainer.init(copies, jnp.asarray(z, jnp.float32), step)
