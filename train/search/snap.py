"""The snap: from relaxed designs to discrete ones that meet their targets and limits."""

from __future__ import annotations

import dataclasses
import functools
import math
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from codesign.constraints import Count, Natural, NonNegative
from codesign.decode import decode
from codesign.errors import RunError
from codesign.json_text import read_json
from codesign.search.grid import Choice, roundings, without_parts
from codesign.space import DesignSpace
from codesign.train import placement
from codesign.train.clip import Fixed, Weights
from codesign.train.data import ImageTextBatch
from codesign.train.search.population import (
    Goals,
    Population,
    SearchTrainer,
    masks_at,
    outputs_of,
    params_of,
    population_chunk,
)
from codesign.train.search.setup import Setup
from codesign.train.search.work import macs_at


@dataclasses.dataclass(frozen=True)
class Snapped:
    """How a design was chosen.

    Attributes:
      candidate: of the population.
      compared: networks near the relaxed one that meet its target and are part of no other such.
      trained: how many of them were trained for a while first; 0: none.
      trained_share: products of those, in all, as a share of the supernet's.
      relaxed_loss: gated loss before rounding.
      rounded_loss: of the chosen network, with the same weights.
    """

    candidate: Natural
    compared: Count
    trained: Natural
    trained_share: NonNegative
    relaxed_loss: float
    rounded_loss: float


@dataclasses.dataclass(frozen=True)
class Snaps:
    """What snap.json holds: of every searched design."""

    designs: tuple[Snapped, ...]

    @classmethod
    def read(cls, path: Path) -> Snaps:
        """Of a file.

        Raises:
          UserError: it holds something else.
        """
        return decode(cls, read_json(path), str(path))


def snap(setup: Setup, population: Population, fixed: Fixed) -> tuple[Population, Snaps]:
    """The population with every searched design at the choice of least loss near it.

    Candidates round the relaxed architecture up or down, take the best accelerator of
    the grid, and meet target and limits; the gated loss on training images decides. Where rounding
    has cost most of what there was to it, that loss is one of chance, and tells nothing: then the
    nearest networks are trained for a while, side by side, and their loss decides.

    Returns:
      The population, and how each searched design was chosen.

    Raises:
      RunError: a target that no design near the relaxed one can meet.
    """
    config, space = setup.config, setup.space
    schedule = config.schedule
    batch = setup.feed.first(schedule.snap_images)
    chance = math.log(len(batch.images))  # the loss of embeddings that tell nothing
    z = np.array(population.z)
    (whole,) = macs_at(space, space.steps[None])
    chosen = []
    for i in map(int, np.flatnonzero(np.asarray(setup.goals.searched))):
        position = space.part(np.asarray(space.indices(z[i])), "network")
        table = setup.tables.of(bool(setup.goals.sparse[i]))
        candidates, choice = roundings(
            table,
            position,
            float(setup.goals.targets[i]),
            config.targets.mode,
            config.limits,
        )
        if not len(candidates):
            raise RunError(
                f"no design meets the limits and the target {setup.goals.targets[i]:.3g}; "
                "raise --targets.low"
            )
        candidates, choice = without_parts(space, candidates, choice)
        different = min(len(candidates), schedule.snap_candidates)
        candidates, choice = _first(schedule.snap_candidates, candidates, choice)
        params = params_of(population.params, i)
        # The relaxed design's own last.
        around = np.concatenate([candidates, position[None]])
        *losses, relaxed = _losses(setup, params, fixed, around, setup.goals.sparse[i], batch)
        best = int(np.argmin(losses))
        trained, share = 0, 0.0
        if different > 1 and schedule.snap_steps and min(losses) > (relaxed + chance) / 2:
            trained = min(different, len(z) - 1)
            share = float((macs_at(space, candidates[:trained]) / whole).sum())
            tried = z[np.full(trained, i)]
            tried[:, : space.network_size] = _encoded(space, candidates[:trained])
            best = int(np.argmin(_losses_once_trained(setup, population, fixed, i, tried)))
        chip = np.asarray(table.accelerator_indices(jnp.asarray(choice.accelerator[best])))
        z[i] = space.encode(np.concatenate([candidates[best], chip]))
        chosen.append(Snapped(i, different, trained, share, float(relaxed), float(losses[best])))
    return population._replace(z=jnp.asarray(z)), Snaps(tuple(chosen))


def _first(n: int, candidates: np.ndarray, choice: Choice) -> tuple[np.ndarray, Choice]:
    """Exactly n candidates, the last repeated where there are fewer: one compiled shape."""
    take = np.minimum(np.arange(n), len(candidates) - 1)
    return candidates[take], Choice(*(np.asarray(x)[take] for x in choice))


def _encoded(space: DesignSpace, networks: np.ndarray) -> np.ndarray:
    """Networks [n, d] in units of choices as coordinates in [0, 1]."""
    return np.asarray(networks) / np.maximum(space.part(space.steps, "network"), 1)


def _losses_once_trained(
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
    late = np.concatenate(losses)[-math.ceil(schedule.snap_steps / 3) :].mean(axis=0)
    return np.where(np.isfinite(late), late, np.inf)


@jax.jit
def _copies(population: Population, sources: jax.Array) -> Population:
    """A population of the candidates `sources` of another; one program, not hundreds."""
    own = jax.tree.map(lambda x: x[sources], tuple(population[:-1]))
    return Population._make((*own, population.step))


def _losses(
    setup: Setup,
    params: Weights,
    fixed: Fixed,
    networks: np.ndarray,
    sparse: jax.Array,
    batch: ImageTextBatch,
) -> np.ndarray:
    """Gated loss [n] of one candidate's weights at networks [n, d], in units of choices."""
    z = np.zeros((len(networks), len(setup.space.dimensions)), np.float32)
    z[:, : setup.space.network_size] = _encoded(setup.space, networks)
    return np.asarray(
        _losses_at(setup.trainer, params, fixed, setup.space, jnp.asarray(z), sparse, batch)
    )


@functools.partial(jax.jit, static_argnames=("trainer", "space"))
def _losses_at(
    trainer: SearchTrainer,
    params: Weights,
    fixed: Fixed,
    space: DesignSpace,
    z: jax.Array,
    sparse: jax.Array,
    batch: ImageTextBatch,
) -> jax.Array:
    task = trainer.task

    def loss(z: jax.Array) -> jax.Array:
        masks = masks_at(params, z, fixed, space, trainer)
        out, weights = outputs_of(trainer, params, fixed, z, sparse, masks, batch, space)
        return weights @ jax.vmap(lambda o: task.loss(params, o, None, batch)[0])(out)

    return jax.lax.map(loss, z)
