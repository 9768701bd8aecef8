"""Roundings of a relaxed design trained for a while, where untrained ones cannot be told apart."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
import numpy as np

from codesign.train import placement
from codesign.train.clip import Fixed
from codesign.train.search.population import Goals, Population, population_chunk
from codesign.train.search.setup import Setup


def losses_once_trained(
    setup: Setup, population: Population, fixed: Fixed, candidate: int, z: np.ndarray
) -> np.ndarray:
    """Losses of training [n] of designs z [n, d], all from one candidate's weights.

    By the program of the joint search, which is compiled already: the supernet, which teaches,
    and the designs in the other candidates' places, at rest.
    """
    config, goals = setup.config, setup.goals
    schedule = config.schedule
    places = np.minimum(np.arange(len(population.z) - 1), len(z) - 1)
    sources = jnp.asarray([0, *[candidate] * len(places)])
    designs = np.concatenate([np.asarray(population.z)[:1], z[places]])
    trial = _copies(population, sources)._replace(z=jnp.asarray(designs))
    trial = placement.put_split(trial, setup.trainer.mesh)
    taught = jnp.ones(len(sources)).at[0].set(0.0)
    at_rest = Goals(goals.targets[sources], 0 * taught, taught, goals.sparse[sources])
    at_rest = placement.put(at_rest, placement.replicated(setup.trainer.mesh))
    constants, key = setup.constants._replace(fixed=fixed), jax.random.key(config.seed)
    begin = int(population.step)
    losses = []
    with setup.feed.open() as reader:
        for done in range(0, schedule.snap_steps, schedule.chunk_steps):
            steps = min(schedule.chunk_steps, schedule.snap_steps - done)
            chunk = reader.read(begin + done, steps, schedule.chunk_steps)
            trial, metrics = population_chunk(trial, at_rest, chunk, key, constants, setup.trainer)
            losses.append(np.asarray(metrics["loss"])[:steps, 1 : len(z) + 1])
    # All see the same batches, of which the last third has the most to say.
    late: np.ndarray = np.concatenate(losses)[-math.ceil(schedule.snap_steps / 3) :].mean(axis=0)
    return late


@jax.jit
def _copies(population: Population, sources: jax.Array) -> Population:
    """A population of the candidates `sources` of another; one program, not hundreds."""
    own = jax.tree.map(lambda x: x[sources], tuple(population[:-1]))
    return Population._make((*own, population.step))
