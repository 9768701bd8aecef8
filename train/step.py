"""One step of plain training of any task, compiled."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh

from codesign.runs import ROLLED_BACK
from codesign.train.rollback import all_finite, taken_if
from codesign.train.sharding import split, vdot
from codesign.train.task import Metrics, Task

Array = jax.Array
State = TypeVar("State")
# Share of the running statistics that stays in each step.
MOMENTUM = 0.9


class Chunk(NamedTuple):
    """Data of consecutive steps, in arrays of one size whatever their number.

    A program is compiled for the size alone, so the last steps of a stage need none of their own.

    Attributes:
      data: of each step, leaves [size, ...].
      steps: how many of them are taken, [], int32.
    """

    data: Any
    steps: Any


class TrainState(NamedTuple):
    """What a step changes.

    Attributes:
      params: as trained.
      average: their moving average, or None.
      stats: running statistics; may be empty.
      opt_state: the optimizer's.
      step: steps taken, [], without those that were rolled back.
    """

    params: Any
    average: Any
    stats: Any
    opt_state: optax.OptState
    step: Array

    @property
    def delivered(self) -> Any:
        """What is evaluated and saved: the average where there is one."""
        return self.params if self.average is None else self.average


@dataclasses.dataclass(frozen=True, eq=False)
class Trainer:
    """Everything a step needs that does not change; hashed by identity, static under jit.

    Attributes:
      task: the loss.
      optimizer: of the params.
      learning_rate: its schedule, for the metrics.
      ema: decay of the moving average; 0: none.
      mesh: over which states are split, see `sharding.split`; None: over none.
    """

    task: Task
    optimizer: optax.GradientTransformation
    learning_rate: optax.Schedule
    ema: float = 0.0
    mesh: Mesh | None = None

    def init(self, params: Any, stats: Any = ()) -> TrainState:
        """The state before the first step."""
        return TrainState(
            params=params,
            # A copy: the step's donated buffers must not be the same twice.
            average=jax.tree.map(jnp.copy, params) if self.ema else None,
            stats=stats,
            opt_state=first_state(self.optimizer, params, self.mesh),
            step=jnp.zeros((), jnp.int32),
        )


@functools.partial(jax.jit, static_argnums=(0, 2))
def first_state(
    optimizer: optax.GradientTransformation, params: Any, mesh: Mesh | None
) -> optax.OptState:
    """The optimizer before its first step, never whole on a device where it is split."""
    return split(optimizer.init(params), mesh)


def total_loss(
    params: Any, stats: Any, fixed: Any, teacher: Any, batch: Any, task: Task
) -> tuple[Array, tuple[Metrics, Any]]:
    """The loss of a prepared batch; its parts, and the batch's statistics."""
    outputs, seen = task.forward(params, stats, fixed, batch)
    loss, parts = task.loss(params, outputs, teacher, batch)
    return loss, (parts, seen)


def objective(
    state: TrainState, fixed: Any, batch: Any, key: Array, trainer: Trainer
) -> tuple[Any, Callable[[Any], tuple[Array, tuple[Metrics, Any]]]]:
    """What a step differentiates: the params it starts from, and `total_loss` of others.

    The arguments are those of `train_step`.
    """
    task = trainer.task
    batch = task.prepare(batch, jax.random.fold_in(key, state.step))
    teacher = task.teacher_outputs(fixed, batch)
    before = task.first(state.params, fixed, batch, state.step)
    return before, lambda params: total_loss(params, state.stats, fixed, teacher, batch, task)


def updated(
    params: Any,
    grads: Any,
    opt_state: optax.OptState,
    optimizer: optax.GradientTransformation,
    task: Task,
    mesh: Mesh | None = None,
) -> tuple[Any, optax.OptState]:
    """Params and optimizer after a gradient, which is summed to where the params are."""
    grads = split(grads, mesh)
    updates, opt_state = optimizer.update(grads, opt_state, params)
    return task.constrain(optax.apply_updates(params, updates)), opt_state


@functools.partial(jax.jit, static_argnames="trainer", donate_argnames="state")
def train_step(
    state: TrainState, fixed: Any, batch: Any, key: Array, trainer: Trainer
) -> tuple[TrainState, Metrics]:
    """One step; where its loss or gradient is not finite, the state stays as it is.

    Args:
      state: given up.
      fixed: of the task.
      batch: as the data give it, leaves [B, ...].
      key: of random variation on the device; the step is added to it.
      trainer: the constants.

    Returns:
      The next state, and metrics as scalars.
    """
    task = trainer.task
    before, loss = objective(state, fixed, batch, key, trainer)
    (_, (metrics, seen)), grads = jax.value_and_grad(loss, has_aux=True)(before)
    metrics |= {
        "grad_norm": optax.tree.norm(grads),
        "grad_dot_params": vdot(grads, before, trainer.mesh),
    }

    def take() -> TrainState:
        params, opt_state = updated(
            before, grads, state.opt_state, trainer.optimizer, task, trainer.mesh
        )
        average = state.average
        if average is not None:
            # A short run's average should not be of its start: the decay rises to its value.
            decay = jnp.minimum(trainer.ema, (1 + state.step) / (10 + state.step))
            average = optax.incremental_update(params, average, 1 - decay)
        stats = jax.tree.map(lambda old, new: old + (1 - MOMENTUM) * (new - old), state.stats, seen)
        return TrainState(params, average, stats, opt_state, state.step + 1)

    finite = all_finite(metrics["loss"], metrics["grad_norm"])
    after = split(taken_if(finite, take, state), trainer.mesh)
    metrics |= task.metrics(after.params) | {ROLLED_BACK: ~finite}
    metrics["learning_rate"] = jnp.asarray(trainer.learning_rate(state.step))
    return after, metrics


def steps_of_chunk(
    step: Callable[[State, Any], tuple[State, Metrics]], state: State, chunk: Chunk
) -> tuple[State, Metrics]:
    """Takes all steps of a chunk in one compiled loop.

    Args:
      step: (state, data of one step) -> the next state and metrics.
      state: before the first.
      chunk: data.

    Returns:
      The state after the last, and metrics [size, ...], zero beyond the steps taken.
    """
    step = jax.jit(step)  # its trace serves the shapes and the loop

    def data(i: Array | int) -> Any:
        return jax.tree.map(lambda x: x[i], chunk.data)

    def append(i: Array, carry: tuple[State, Metrics]) -> tuple[State, Metrics]:
        state, metrics = carry
        state, new = step(state, data(i))
        return state, jax.tree.map(lambda all_, x: all_.at[i].set(x), metrics, new)

    size = jax.tree.leaves(chunk.data)[0].shape[0]
    _, one = jax.eval_shape(step, state, data(0))
    blank = jax.tree.map(lambda x: jnp.zeros((size, *x.shape), x.dtype), one)
    return jax.lax.fori_loop(0, chunk.steps, append, (state, blank))
