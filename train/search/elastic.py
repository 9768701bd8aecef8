"""The elastic supernet: one set of weights that serves every architecture of the space.

Trained by the sandwich rule of universally slimmable networks (Yu and Huang, ICCV 2019): each
step trains the largest network, the smallest, and a few drawn between them, and the largest one
teaches the others. Architectures are drawn so that their log cost is evenly distributed: uniform
draws from the space would nearly all be of medium cost.

Axes: P architectures of the pool, S architectures of a step.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from codesign.cost.family import FamilyTable
from codesign.cost.table import CostTable
from codesign.runs import ROLLED_BACK
from codesign.search.grid import best_accelerators
from codesign.search.objectives import CostFunction, Limits
from codesign.space import DesignSpace
from codesign.train.clip import Fixed, Weights
from codesign.train.rollback import all_finite, taken_if
from codesign.train.search.population import Constants, SearchTrainer, gates_at
from codesign.train.sharding import split, vdot
from codesign.train.step import Chunk, TrainState, steps_of_chunk, updated
from codesign.train.task import Metrics

Array = jax.Array
# Architectures drawn a step, beside the whole one and the smallest.
DRAWN = 2
_POOL = 4096


class Pool(NamedTuple):
    """Architectures to draw from, cheapest first.

    Attributes:
      z: as designs of the space, [P, d].
      log_cost: log of the cost of each on its best accelerator, [P], increasing.
    """

    z: Array
    log_cost: Array

    def draw(self, key: Array, number: int) -> Array:
        """Architectures [number, d] whose log cost is uniform between the pool's ends."""
        low, high = self.log_cost[0], self.log_cost[-1]
        wanted = jax.random.uniform(key, (number,), minval=low, maxval=high)
        return self.z[jnp.searchsorted(self.log_cost, wanted)]


def make_pool(
    table: CostTable | FamilyTable, mode: str | CostFunction, seed: int, size: int = _POOL
) -> Pool:
    """The smallest and largest network of the space, and random ones between."""
    space = table.space
    steps = space.part(space.steps, "architecture")
    drawn = np.random.default_rng(seed).integers(0, steps + 1, (size - 2, len(steps)))
    indices = np.zeros((size, len(space.steps)), np.int32)
    indices[:, : len(steps)] = np.concatenate([[0 * steps, steps], drawn])
    # Limits keep no network out of the training.
    cost = best_accelerators(table, indices, mode, Limits()).value
    order = np.argsort(cost, kind="stable")
    z = space.encode(indices[order]).astype(np.float32)
    return Pool(jnp.asarray(z), jnp.log(jnp.asarray(cost)[order]))


def elastic_loss(
    params: Weights,
    z: Array,
    fixed: Fixed,
    batch: Any,
    trainer: SearchTrainer,
    space: DesignSpace,
) -> tuple[Array, Metrics]:
    """Mean loss of the whole network and of the architectures z [S, d], which learn from it."""
    task = trainer.task
    whole, _ = task.forward(params, (), fixed, batch)
    loss, _ = task.loss(params, whole, None, batch)
    teacher = jax.lax.stop_gradient(whole)

    def of(z: Array) -> tuple[Array, Array]:
        out, _ = task.forward(params, (), fixed, batch, gates_at(z, fixed, space))
        return task.loss(params, out, None, batch)[0], task.divergence(out, teacher)

    losses, taught = jax.vmap(of)(z)
    total = loss + jnp.sum(losses) + trainer.distillation * jnp.sum(taught)
    return total / (1 + len(z)), {"loss": loss, "loss_of_parts": losses}


def networks_of_step(step: Array, pool: Pool, key: Array) -> tuple[Array, Array]:
    """The key of a step's variation of images, and its architectures [S, d]."""
    varied, chosen = jax.random.split(jax.random.fold_in(key, step))
    return varied, jnp.concatenate([jnp.zeros_like(pool.z[:1]), pool.draw(chosen, DRAWN)])


def drawn_for(
    step: Array, pool: Pool, drawn: Any, key: Array, constants: Constants, trainer: SearchTrainer
) -> tuple[Any, Array]:
    """The batch of a step, and its architectures [S, d]: the smallest and some of the pool."""
    varied, z = networks_of_step(step, pool, key)
    return trainer.batch(drawn, constants.data, varied), z


def elastic_objective(
    state: TrainState,
    pool: Pool,
    drawn: Any,
    key: Array,
    constants: Constants,
    trainer: SearchTrainer,
) -> tuple[Weights, Callable[[Weights], tuple[Array, Metrics]]]:
    """What the first step of a chunk differentiates; see `population_objective`."""
    batch, z = drawn_for(state.step, pool, drawn, key, constants, trainer)
    space = constants.tables.dense.space
    return state.params, lambda params: elastic_loss(
        params, z, constants.fixed, batch, trainer, space
    )


@functools.partial(jax.jit, static_argnames="trainer", donate_argnames="state")
def elastic_chunk(
    state: TrainState,
    pool: Pool,
    chunk: Chunk,
    key: Array,
    constants: Constants,
    trainer: SearchTrainer,
) -> tuple[TrainState, Metrics]:
    """Steps of the sandwich rule; see `population_chunk`."""

    def step(state: TrainState, drawn: Any) -> tuple[TrainState, Metrics]:
        before, loss = elastic_objective(state, pool, drawn, key, constants, trainer)
        (_, metrics), grads = jax.value_and_grad(loss, has_aux=True)(before)
        metrics |= {
            "grad_norm": optax.tree.norm(grads),
            "grad_dot_params": vdot(grads, before, trainer.mesh),
        }
        finite = all_finite(metrics["loss"], metrics["grad_norm"])

        def take() -> TrainState:
            params, opt_state = updated(
                before, grads, state.opt_state, trainer.elastic, trainer.task, trainer.mesh
            )
            return state._replace(params=params, opt_state=opt_state)

        after = taken_if(finite, take, state)
        # It goes on all the same: the networks drawn at this step may be why.
        after = split(after._replace(step=state.step + 1), trainer.mesh)
        return after, metrics | {ROLLED_BACK: ~finite}

    return steps_of_chunk(step, state, chunk)
