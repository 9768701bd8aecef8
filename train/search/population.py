"""A population of gated networks trained side by side, each with a relaxed design of its own.

Axes: N candidates, B examples, K subnets of a candidate, d coordinates of a relaxed design, c
constraints.

A candidate's loss is the task's under the gates of its design. The warm-up of the supernet has no
gates and no designs: it is plain training of the task, `step.train_step`, in chunks. The joint
search moves weights and designs together. Once designs are at rest, `tune` trains their networks.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh

from codesign.cost.family import FamilyTable
from codesign.cost.model import Costs
from codesign.cost.table import CostTable
from codesign.models import Gates, gates_for
from codesign.runs import ROLLED_BACK
from codesign.search.lagrangian import AugmentedLagrangian
from codesign.search.objectives import Limits, Mode, excess, metric
from codesign.space import DesignSpace
from codesign.train import placement
from codesign.train.clip import ClipTask, Fixed, Weights
from codesign.train.data import AugmentConfig, ImageTextBatch
from codesign.train.feed import Draw, Resident, varied
from codesign.train.rollback import all_finite, taken_if
from codesign.train.search.subnets import RelaxedSubnets
from codesign.train.sharding import split, vdot
from codesign.train.step import (
    Chunk,
    Trainer,
    TrainState,
    objective,
    steps_of_chunk,
    train_step,
)
from codesign.train.task import Metrics

Array = jax.Array


class Population(NamedTuple):
    """What a step changes; every leaf but `step` has a leading axis N.

    Attributes:
      params: weights of the gated supernets.
      opt_state: their optimizer's.
      z: relaxed designs in [0, 1], [N, d].
      z_state: their optimizer's.
      multipliers: of the constraints, [N, c].
      step: steps taken, over all phases, [].
    """

    params: Weights
    opt_state: optax.OptState
    z: Array
    z_state: optax.OptState
    multipliers: Array
    step: Array


class Goals(NamedTuple):
    """What the candidates of a population are after; fixed within a phase.

    Attributes:
      targets: of the mode's cost, [N].
      searched: 1 where the design moves, 0 where it rests, [N].
      distilled: 1 where the candidate learns from candidate 0, the supernet, [N].
      sparse: 1 where the candidate has subnets, 0 where it is dense, [N].
    """

    targets: Array
    searched: Array
    distilled: Array
    sparse: Array


class CostTables(NamedTuple):
    """Exact costs of all designs: of dense networks and, where there are any, of families."""

    dense: CostTable
    sparse: FamilyTable | None = None

    def of(self, sparse: bool) -> CostTable | FamilyTable:
        """The table of a candidate."""
        return self.sparse if sparse and self.sparse is not None else self.dense

    def relaxed(self, z: Array, sparse: Array) -> Costs:
        """Costs at a relaxed design z [d] of a candidate that is sparse or not."""
        costs = self.dense.relaxed(z)
        if self.sparse is None:
            return costs
        return jax.tree.map(lambda a, b: jnp.where(sparse > 0, a, b), self.sparse.relaxed(z), costs)


class Constants(NamedTuple):
    """Arrays that no step changes.

    Attributes:
      fixed: of the task.
      data: where batches are drawn from, or None where they come as they are.
      tables: exact costs.
    """

    fixed: Fixed
    data: Resident | None
    tables: CostTables


@dataclasses.dataclass(frozen=True, eq=False)
class SearchTrainer:
    """Everything a step needs that does not change; hashed by identity, static under jit.

    Attributes:
      task: the loss.
      warmup: the trainer of the supernet alone, whose learning rate does not fall.
      elastic: the optimizer of the elastic supernet.
      optimizer: of the weights of one candidate.
      design_optimizer: of the relaxed design of one candidate.
      lagrangian: how constraints are enforced.
      mode: which cost is made small.
      limits: hard limits.
      cost_weight: weight of the log cost itself.
      distillation: weight of the supernet's soft targets.
      augment: how images on the devices are varied.
      mesh: devices.
      subnets: of sparse candidates; none: all candidates are dense.
    """

    task: ClipTask
    warmup: Trainer
    elastic: optax.GradientTransformation
    optimizer: optax.GradientTransformation
    design_optimizer: optax.GradientTransformation
    lagrangian: AugmentedLagrangian
    mode: Mode
    limits: Limits
    cost_weight: float
    distillation: float
    augment: AugmentConfig
    mesh: Mesh
    subnets: RelaxedSubnets | None = None

    def init(self, params: Weights, z: Array, step: Array | int) -> Population:
        """The population of weights [N, ...] and designs [N, d]."""
        constraints = 1 + len(self.limits.active())
        return Population(
            params=params,
            opt_state=jax.vmap(self.optimizer.init)(params),
            z=z,
            z_state=jax.vmap(self.design_optimizer.init)(z),
            multipliers=jax.vmap(lambda _: self.lagrangian.init(constraints))(z),
            step=jnp.asarray(step, jnp.int32),
        )

    def batch(self, drawn: Draw | ImageTextBatch, data: Resident | None, key: Array) -> Any:
        """The drawn examples, varied where they lie on the devices, split over these."""
        if isinstance(drawn, ImageTextBatch):
            return drawn
        assert data is not None
        split = functools.partial(
            jax.lax.with_sharding_constraint, shardings=placement.batched(self.mesh)
        )
        return ImageTextBatch(*map(split, varied(data, drawn, key, self.augment)))


@jax.jit
def params_of(params: Weights, candidate: Array | int) -> Weights:
    """The weights of one candidate; compiled whole, not a slice at a time."""
    return jax.tree.map(lambda x: x[candidate], params)


def gates_at(z: Array, fixed: Fixed, space: DesignSpace) -> Gates:
    """Gates of the relaxed design z [d]."""
    architecture, _ = space.relax(z)
    rest: Any = fixed.rest
    ranks = [rest[tower]["blocks"]["layer_rank"][...] for tower in space.towers]
    return gates_for(architecture, space, *ranks)


def masks_at(
    params: Weights, z: Array, fixed: Fixed, space: DesignSpace, trainer: SearchTrainer
) -> dict[str, Array]:
    """Masks of one candidate at the relaxed design z [d]; none where there are no subnets."""
    if trainer.subnets is None:
        return {}
    return trainer.subnets.masks(trainer.task.network(params), gates_at(z, fixed, space))


def outputs_of(
    trainer: SearchTrainer,
    params: Weights,
    fixed: Fixed,
    z: Array,
    sparse: Array,
    masks: dict[str, Array],
    batch: ImageTextBatch,
    space: DesignSpace,
) -> tuple[Any, Array]:
    """Outputs of every subnet of one candidate, [K, ...], and their weights in its loss [K].

    Without subnets a candidate is one network; a dense one among others is K times the same.
    """
    task, gates = trainer.task, gates_at(z, fixed, space)
    if trainer.subnets is None:
        out, _ = task.forward(params, (), fixed, batch, gates)
        return jax.tree.map(lambda x: x[None], out), jnp.ones((1,))
    networks = trainer.subnets.networks(task.network(params), masks, space.level_weights(z), sparse)
    return jax.vmap(
        lambda network: task.forward(task.with_network(params, network), (), fixed, batch, gates)[0]
    )(networks), jnp.asarray(trainer.subnets.weights)


def losses_of(
    task: ClipTask, params: Weights, out: Any, weights: Array, teacher: Any, batch: ImageTextBatch
) -> tuple[Array, Array]:
    """Losses [N] of candidates, and how far they are from a teacher; means over their subnets.

    Args:
      task: the loss.
      params: of every candidate.
      out: of `outputs_of`, leaves [N, K, ...].
      weights: likewise, [N, K].
      teacher: outputs of one network.
      batch: that all saw.
    """

    def of_subnets(function: Any) -> Array:
        return jnp.sum(weights * jax.vmap(jax.vmap(function, (None, 0)))(params, out), axis=1)

    losses = of_subnets(lambda p, o: task.loss(p, o, None, batch)[0])
    return losses, of_subnets(lambda _, o: task.divergence(o, teacher))


def moved(
    trainer: SearchTrainer, grads: Weights, params: Weights, opt_state: optax.OptState
) -> tuple[Weights, optax.OptState]:
    """Weights and optimizers of candidates [N, ...] after their gradients."""
    updates, opt_state = jax.vmap(trainer.optimizer.update)(grads, opt_state, params)
    return trainer.task.constrain(optax.apply_updates(params, updates)), opt_state


def gated_loss(
    task: ClipTask, params: Weights, fixed: Fixed, gates: Gates, batch: ImageTextBatch
) -> Array:
    """The task's loss of one gated network on one batch."""
    out, _ = task.forward(params, (), fixed, batch, gates)
    return task.loss(params, out, None, batch)[0]


def population_loss(
    params: Weights,
    z: Array,
    multipliers: Array,
    goals: Goals,
    batch: ImageTextBatch,
    fixed: Fixed,
    tables: CostTables,
    trainer: SearchTrainer,
    masks: dict[str, Array] | None = None,
) -> tuple[Array, Metrics]:
    """Sum over candidates of task, distillation and constraint terms, and metrics [N].

    A candidate's loss is the weighted mean of its subnets'. No term of one candidate depends on
    the weights or design of another (the supernet's outputs, which teach the others, are not
    differentiated), so the gradient of the sum is every candidate's own.

    Args:
      masks: of every candidate, leaves [N, ...]; `masks_at`.
    """
    space = tables.dense.space
    # Outputs [N, K, ...] and weights [N, K].
    out, weights = jax.vmap(
        lambda p, z, sparse, m: outputs_of(trainer, p, fixed, z, sparse, m, batch, space)
    )(params, z, goals.sparse, masks or {})

    teacher = jax.lax.stop_gradient(jax.tree.map(lambda x: x[0, 0], out))
    losses, divergence = losses_of(trainer.task, params, out, weights, teacher, batch)
    total = jnp.sum(losses) + trainer.distillation * jnp.sum(goals.distilled * divergence)

    costs = jax.vmap(tables.relaxed)(z, goals.sparse)
    over = jax.vmap(excess, in_axes=(0, None, None, 0))(
        costs, trainer.limits, trainer.mode, goals.targets
    )
    value = metric(costs, trainer.mode)
    penalty = jax.vmap(trainer.lagrangian.penalty)(multipliers, over)
    total += jnp.sum(goals.searched * (trainer.cost_weight * jnp.log(value) + penalty))
    return total, {
        "loss": losses,
        "distillation_loss": divergence,
        **cost_metrics(costs),
        "excess": over,
        "indices": space.indices(z),
    }


def cost_metrics(costs: Costs) -> Metrics:
    """What metrics tell of costs [N]."""
    names = ("carbon_kgco2e", "latency_s", "energy_j", "area_mm2")
    return {name: getattr(costs, name) for name in names}


def population_step(
    population: Population,
    goals: Goals,
    batch: ImageTextBatch,
    fixed: Fixed,
    tables: CostTables,
    trainer: SearchTrainer,
    masks: dict[str, Array] | None = None,
) -> tuple[Population, Metrics]:
    """One step of every candidate: weights, design and multipliers.

    A candidate whose loss or gradient is not finite stays as it is.
    """
    params, opt_state, z, z_state, multipliers, step = population
    (_, metrics), (grads, z_grads) = jax.value_and_grad(population_loss, (0, 1), has_aux=True)(
        params, z, multipliers, goals, batch, fixed, tables, trainer, masks
    )
    grads = split(grads, trainer.mesh)
    metrics["grad_norm"] = jax.vmap(optax.tree.norm)(grads)
    metrics["grad_dot_params"] = jax.vmap(lambda g, p: vdot(g, p, trainer.mesh))(grads, params)

    def take() -> tuple[Any, ...]:
        moves, new_z_state = jax.vmap(trainer.design_optimizer.update)(z_grads, z_state, z)
        return (
            *moved(trainer, grads, params, opt_state),
            optax.projections.projection_box(z + goals.searched[:, None] * moves, 0.0, 1.0),
            new_z_state,
            jax.vmap(trainer.lagrangian.update)(multipliers, metrics["excess"]),
        )

    finite = all_finite(metrics["loss"], metrics["grad_norm"], jax.vmap(optax.tree.norm)(z_grads))
    own = taken_if(finite, take, tuple(population[:-1]))
    population = split(Population._make((*own, step + 1)), trainer.mesh)
    return population, metrics | {ROLLED_BACK: ~finite}


def population_masks(
    population: Population, constants: Constants, trainer: SearchTrainer
) -> dict[str, Array]:
    """Masks of every candidate, leaves [N, ...]."""
    space = constants.tables.dense.space
    return jax.vmap(lambda p, z: masks_at(p, z, constants.fixed, space, trainer))(
        population.params, population.z
    )


def population_objective(
    population: Population,
    goals: Goals,
    drawn: Any,
    key: Array,
    constants: Constants,
    trainer: SearchTrainer,
) -> tuple[Weights, Callable[[Weights], tuple[Array, Metrics]]]:
    """What the first step of a chunk differentiates: the weights, and `population_loss` of others.

    The arguments are those of `population_chunk`, `drawn` of its first step.
    """
    fixed, data, tables = constants
    batch = trainer.batch(drawn, data, jax.random.fold_in(key, population.step))
    masks = population_masks(population, constants, trainer)
    return population.params, lambda params: population_loss(
        params, population.z, population.multipliers, goals, batch, fixed, tables, trainer, masks
    )


def warmup_objective(
    state: TrainState, drawn: Any, key: Array, constants: Constants, trainer: SearchTrainer
) -> Any:
    """What the first step of a chunk of the warm-up differentiates; see `step.objective`."""
    batch = trainer.batch(drawn, constants.data, jax.random.fold_in(key, state.step))
    return objective(state, constants.fixed, batch, key, trainer.warmup)


@functools.partial(jax.jit, static_argnames="trainer", donate_argnames="population")
def population_chunk(
    population: Population,
    goals: Goals,
    chunk: Chunk,
    key: Array,
    constants: Constants,
    trainer: SearchTrainer,
) -> tuple[Population, Metrics]:
    """The steps of a chunk in one compiled loop; metrics are stacked, [size, N, ...].

    Masks of subnets are those of the weights and designs at the chunk's start.

    Args:
      population: given up.
      goals: of the candidates.
      chunk: data, leaves [size, B, ...]; see `SearchTrainer.batch`.
      key: of random variation on the device; the step is added to it.
      constants: arrays at rest.
      trainer: what else does not change.
    """
    fixed, data, tables = constants
    masks = population_masks(population, constants, trainer)

    def step(population: Population, drawn: Any) -> tuple[Population, Any]:
        batch = trainer.batch(drawn, data, jax.random.fold_in(key, population.step))
        return population_step(population, goals, batch, fixed, tables, trainer, masks)

    return steps_of_chunk(step, population, chunk)


@functools.partial(jax.jit, static_argnames="trainer", donate_argnames="state")
def warmup_chunk(
    state: TrainState, chunk: Chunk, key: Array, constants: Constants, trainer: SearchTrainer
) -> tuple[TrainState, Metrics]:
    """Steps of plain training of the supernet; see `population_chunk`."""

    def step(state: TrainState, drawn: Any) -> tuple[TrainState, Metrics]:
        batch = trainer.batch(drawn, constants.data, jax.random.fold_in(key, state.step))
        return train_step(state, constants.fixed, batch, key, trainer.warmup)

    return steps_of_chunk(step, state, chunk)
