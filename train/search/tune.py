"""Tuning: the networks that were chosen, trained as what they are, cut out of the supernet.

A network under 0/1 gates takes as long as the whole supernet, most of which is shut. So networks
of about one size are cut together to a frame, the smallest network that holds all of them, trained
side by side in it under the gates that are left, and put back: a loss and a gradient are those
under gates in the supernet, and the states between chunks of steps have the supernet's shapes,
whatever was chosen. The supernet and what is near its size go first; what it says of each batch
teaches all others.

Axes: N networks, n of them in a frame, B examples, K subnets of a network, d coordinates of a
design.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

from codesign.architecture import Architecture
from codesign.models.slicing import Kept, cut, kept_layers, put_back
from codesign.models.subnets import subnet_specs
from codesign.runs import ROLLED_BACK
from codesign.space import DesignSpace
from codesign.train import placement
from codesign.train.ahead import shapes
from codesign.train.clip import Fixed, Weights
from codesign.train.rollback import all_finite, taken_if
from codesign.train.search.population import (
    Constants,
    CostTables,
    Goals,
    Population,
    SearchTrainer,
    cost_metrics,
    losses_of,
    masks_at,
    moved,
    outputs_of,
)
from codesign.train.search.setup import Setup
from codesign.train.search.work import macs_at
from codesign.train.sharding import split, vdot
from codesign.train.step import Chunk, steps_of_chunk
from codesign.train.task import Metrics

Array = jax.Array
# What compiling the program of one frame takes, in multiply-accumulates of training. On a CPU the
# quickstart's takes 45 s, in which one steps through 900 of its supernets; elsewhere, not measured,
# half a minute at 5e14 a second.
COMPILATION_MACS = {"cpu": 2.7e11}
_COMPILATION_MACS = 1.5e16
# Forward pass, and gradients by inputs and by weights.
_PASSES = 3


@dataclasses.dataclass(frozen=True, eq=False)
class Frame:
    """Networks that are trained side by side; hashed by identity, static under jit.

    Attributes:
      candidates: which of the N networks these are.
      space: the choices up to the smallest network that holds all of them.
      trainer: of that network.
    """

    candidates: tuple[int, ...]
    space: DesignSpace
    trainer: SearchTrainer

    @property
    def architecture(self) -> Architecture:
        """Of the smallest network that holds all of them."""
        network: Architecture = self.space.largest()
        return network

    def start(self, tuned: Any, z: Array, sparse: Array, constants: Constants) -> Start:
        """What a chunk of steps begins with.

        Args:
          tuned: of all N networks, their params alone or a `Tuned`.
          z: their discrete designs in the whole space, [N, d].
          sparse: 1 where a network has subnets, [N].
          constants: of the whole supernet.
        """
        candidates, fixed = jnp.asarray(self.candidates), constants.fixed
        kept = kept_layers(fixed.rest, self.architecture)
        small = functools.partial(cut, kept=kept, architecture=self.architecture)
        own = jax.vmap(small)(jax.tree.map(lambda x: x[candidates], tuned))
        # The frame's choices are the first of the space's.
        indices = constants.tables.dense.space.round(z[candidates])
        z = indices / jnp.maximum(self.space.steps, 1).astype(jnp.float32)
        fixed = small(fixed)
        params = own.params if isinstance(own, Tuned) else own
        masks = jax.vmap(lambda p, z: masks_at(p, z, fixed, self.space, self.trainer))(params, z)
        return Start(own, z, sparse[candidates], masks, fixed, kept)


class Tuned(NamedTuple):
    """What a step of tuning changes; every leaf has a leading axis N.

    Attributes:
      params: weights of the supernets.
      opt_state: their optimizer's.
    """

    params: Weights
    opt_state: optax.OptState


def frame(setup: Setup, candidates: Sequence[int], largest: np.ndarray) -> Frame:
    """The frame of some networks.

    Args:
      setup: of the search.
      candidates: which of the N networks these are.
      largest: choice indices [architecture_size] that none of them exceeds.
    """
    architecture, trainer = setup.space.architecture_at(largest), setup.trainer
    network: Any = nnx.eval_shape(
        lambda *states: setup.model(*states).slice_to(architecture),
        setup.params,
        setup.constants.fixed,
    )
    graphdef = nnx.graphdef(network)
    student = dataclasses.replace(trainer.task.student, graphdef=graphdef)
    subnets = trainer.subnets
    if subnets is not None:
        subnets = dataclasses.replace(subnets, specs=subnet_specs(network))
    return Frame(
        tuple(candidates),
        setup.space.within(architecture),
        dataclasses.replace(
            trainer, task=dataclasses.replace(trainer.task, student=student), subnets=subnets
        ),
    )


def frames_of(setup: Setup, z: Any) -> list[Frame]:
    """The frames of a population by size, the supernet's first; of the least work in all.

    Args:
      setup: of the search.
      z: discrete designs [N, d]; the first is the supernet.
    """
    space, config = setup.space, setup.config
    indices = space.part(np.asarray(space.round(z)), "architecture")
    order = np.argsort(-macs_at(space, indices), kind="stable")
    # None is larger, but may be as large.
    ordered = [0, *(int(i) for i in order if i)]
    examples = _PASSES * config.optim.batch_size * config.schedule.tune_steps
    compilation = COMPILATION_MACS.get(jax.default_backend(), _COMPILATION_MACS)

    def largest(candidates: Sequence[int]) -> np.ndarray:
        return np.asarray(indices[list(candidates)].max(axis=0))

    def work(candidates: Sequence[int]) -> float:
        macs = float(macs_at(space, largest(candidates)[None])[0])
        return len(candidates) * macs * examples + compilation

    return [
        frame(setup, candidates, largest(candidates)) for candidates in least_work(ordered, work)
    ]


def least_work(
    ordered: Sequence[int], work: Callable[[Sequence[int]], float]
) -> list[Sequence[int]]:
    """A sequence cut into runs, of the least work in all."""
    best: list[tuple[float, list[Sequence[int]]]] = [(0.0, [])]
    for end in range(1, len(ordered) + 1):
        ways = ((work(ordered[begin:end]), begin) for begin in range(end))
        cost, begin = min((best[begin][0] + own, begin) for own, begin in ways)
        best.append((cost, [*best[begin][1], ordered[begin:end]]))
    return best[-1][1]


@functools.partial(jax.jit, static_argnames="frame", donate_argnames="tuned")
def tune_chunk(
    tuned: Tuned,
    z: Array,
    sparse: Array,
    step: Array | int,
    chunk: Chunk,
    key: Array,
    constants: Constants,
    frame: Frame,
) -> tuple[Tuned, Metrics]:
    """The steps of a chunk for the networks of one frame; the others stay as they are.

    A network whose loss or gradient is not finite stays as it is for that step. Masks of subnets
    are those of the weights at the chunk's start.

    Args:
      tuned: of all N networks; given up.
      z: their designs, discrete, [N, d].
      sparse: 1 where a network has subnets, 0 where it is dense, [N].
      step: steps taken before the chunk, over all phases.
      chunk: of each step its data (see `SearchTrainer.batch`) and what the supernet says of them,
        leaves [size, B, ...]; None: it is the frame's first network, and learns from nobody.
      key: of random variation on the device; the step is added to it.
      constants: arrays at rest.
      frame: of the networks.

    Returns:
      The next state, and metrics [size, n]; under "outputs" what the frame's first network says,
      leaves [size, B, ...].
    """
    candidates, trainer = jnp.asarray(frame.candidates), frame.trainer
    start = frame.start(tuned, z, sparse, constants)
    taken = jax.tree.map(lambda x: x[candidates], tuned)

    def one(state: tuple[Tuned, Array], data: Any) -> tuple[tuple[Tuned, Array], Metrics]:
        (params, opt_state), step = state
        drawn, taught = data
        batch = trainer.batch(drawn, constants.data, jax.random.fold_in(key, step))
        (_, metrics), grads = jax.value_and_grad(tuning_loss, has_aux=True)(
            params, start, taught, batch, frame
        )
        grads = split(grads, trainer.mesh)
        metrics["grad_norm"] = jax.vmap(optax.tree.norm)(grads)
        metrics["grad_dot_params"] = jax.vmap(lambda g, p: vdot(g, p, trainer.mesh))(grads, params)
        finite = all_finite(metrics["loss"], metrics["grad_norm"])
        before = Tuned(params, opt_state)
        after = taken_if(finite, lambda: Tuned(*moved(trainer, grads, *before)), before)
        return (split(after, trainer.mesh), step + 1), metrics | {ROLLED_BACK: ~finite}

    (own, _), metrics = steps_of_chunk(one, (start.tuned, jnp.asarray(step, jnp.int32)), chunk)
    back = jax.vmap(lambda whole, part: put_back(whole, part, start.kept, frame.architecture))(
        taken, own
    )
    tuned = jax.tree.map(lambda every, x: every.at[candidates].set(x), tuned, back)
    return split(tuned, trainer.mesh), metrics


class Start(NamedTuple):
    """The networks of a frame before a chunk of steps.

    Attributes:
      tuned: their state, cut.
      z: their designs in the frame's space, [n, d].
      sparse: 1 where a network has subnets, [n].
      masks: of their subnets, leaves [n, ...].
      fixed: what no step changes, cut.
      kept: the layers that stayed.
    """

    tuned: Any
    z: Array
    sparse: Array
    masks: dict[str, Array]
    fixed: Fixed
    kept: Kept


def tuning_loss(
    params: Weights, start: Start, taught: Any, batch: Any, frame: Frame
) -> tuple[Array, Metrics]:
    """Sum over the networks of a frame, and metrics [n].

    Args:
      params: of the networks, cut.
      start: what else there is of them.
      taught: what the supernet says of the batch; None: it is the first of them, and learns from
        nobody.
      batch: of data.
      frame: of the networks.
    """
    trainer = frame.trainer
    out, weights = jax.vmap(
        lambda p, z, sparse, masks: outputs_of(
            trainer, p, start.fixed, z, sparse, masks, batch, frame.space
        )
    )(params, start.z, start.sparse, start.masks)
    said = jax.lax.stop_gradient(jax.tree.map(lambda x: x[0, 0], out))
    learns = jnp.ones(len(frame.candidates))
    if taught is None:
        learns, taught = learns.at[0].set(0.0), said
    losses, divergence = losses_of(trainer.task, params, out, weights, taught, batch)
    total = jnp.sum(losses) + trainer.distillation * jnp.sum(learns * divergence)
    return total, {"loss": losses, "distillation_loss": divergence, "outputs": said}


def tune_population(
    population: Population,
    goals: Goals,
    chunk: Chunk,
    key: Array,
    constants: Constants,
    frames: Sequence[Frame],
) -> tuple[Population, Metrics]:
    """The steps of a chunk with all designs at rest; metrics [size, N].

    Args:
      population: given up.
      goals: of the candidates.
      chunk: data, leaves [size, B, ...].
      key: of random variation on the device.
      constants: arrays at rest.
      frames: of all candidates, the supernet's first.
    """
    tuned = Tuned(population.params, population.opt_state)
    every, taught = [], None
    for frame in frames:
        tuned, metrics = tune_chunk(
            tuned, *_given(population, goals, chunk, taught, key, constants), frame
        )
        outputs = metrics.pop("outputs")
        taught = outputs if taught is None else taught
        every.append(metrics)
    metrics = _joined(every, tuple(frame.candidates for frame in frames))
    metrics |= _costs(population.z, goals.sparse, constants.tables, len(metrics["loss"]))
    step = population.step + chunk.steps
    return population._replace(params=tuned.params, opt_state=tuned.opt_state, step=step), metrics


def _given(
    population: Population,
    goals: Goals,
    chunk: Chunk,
    taught: Any,
    key: Array,
    constants: Constants,
) -> tuple[Any, ...]:
    """What `tune_chunk` takes between the state and the frame."""
    seen = chunk._replace(data=(chunk.data, taught))
    return population.z, goals.sparse, population.step, seen, key, constants


def tune_programs(
    population: Population,
    goals: Goals,
    chunk: Chunk,
    key: Array,
    constants: Constants,
    frames: Sequence[Frame],
) -> list[tuple[Any, ...]]:
    """What `tune_population` calls, program and arguments, to be compiled side by side.

    On one device only: on several it takes the supernet's compiled program to tell where its
    outputs will lie.
    """
    mesh = frames[0].trainer.mesh
    if mesh.size > 1:
        return []
    tuned = Tuned(population.params, population.opt_state)
    found: list[tuple[Any, ...]] = []
    taught = None
    for frame in frames:
        given = (tuned, *_given(population, goals, chunk, taught, key, constants), frame)
        found.append((tune_chunk, *given))
        if taught is None:
            _, metrics = jax.eval_shape(tune_chunk, *given)
            outputs = metrics["outputs"]
            taught = shapes(outputs, jax.tree.map(lambda _: placement.replicated(mesh), outputs))
    return found


@functools.partial(jax.jit, static_argnums=1)
def _joined(every: Sequence[Metrics], candidates: tuple[tuple[int, ...], ...]) -> Metrics:
    """Metrics [size, n] of all frames as [size, N]."""
    order = np.argsort(np.concatenate(candidates))
    return jax.tree.map(lambda *parts: jnp.concatenate(parts, axis=1)[:, order], *every)


@functools.partial(jax.jit, static_argnums=3)
def _costs(z: Array, sparse: Array, tables: CostTables, size: int) -> Metrics:
    """Costs of designs [N, d] as metrics [size, N]."""
    metrics = cost_metrics(jax.vmap(tables.relaxed)(z, sparse))
    return {name: jnp.broadcast_to(x, (size, *x.shape)) for name, x in metrics.items()}


def tune_objective(
    population: Population,
    goals: Goals,
    drawn: Any,
    key: Array,
    constants: Constants,
    frames: Sequence[Frame],
) -> tuple[Weights, Callable[[Weights], tuple[Array, Metrics]]]:
    """What the first step of a chunk differentiates; see `population_objective`.

    The arguments are those of `tune_population`, `drawn` of its first step.
    """
    trainer = frames[0].trainer
    batch = trainer.batch(drawn, constants.data, jax.random.fold_in(key, population.step))
    z, sparse = population.z, goals.sparse

    def loss(params: Weights) -> tuple[Array, Metrics]:
        total, every, taught = jnp.zeros(()), [], None
        for frame in frames:
            start = frame.start(params, z, sparse, constants)
            own, metrics = tuning_loss(start.tuned, start, taught, batch, frame)
            total, taught = total + own, metrics["outputs"] if taught is None else taught
            every.append({"loss": metrics["loss"][None]})
        joined = _joined(every, tuple(frame.candidates for frame in frames))
        return total, {"loss": joined["loss"][0]}

    return population.params, loss
