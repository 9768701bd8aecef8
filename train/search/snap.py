"""The snap: from relaxed designs to discrete ones that meet their targets and limits."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np

from codesign.errors import RunError
from codesign.search.grid import Choice, roundings
from codesign.space import DesignSpace
from codesign.train.clip import Fixed, Weights
from codesign.train.data import ImageTextBatch
from codesign.train.search.population import (
    Population,
    SearchTrainer,
    masks_at,
    outputs_of,
    params_of,
)
from codesign.train.search.setup import Setup


def snap(setup: Setup, population: Population, fixed: Fixed) -> Population:
    """The population with every searched design at the choice of least loss near it.

    Candidates round the relaxed architecture up or down, take the best accelerator of
    the grid, and meet target and limits; the gated loss on training images decides.

    Raises:
      RunError: a target that no design near the relaxed one can meet.
    """
    config, space = setup.config, setup.space
    batch = setup.feed.first(config.schedule.snap_images)
    z = np.array(population.z)
    for i in np.flatnonzero(np.asarray(setup.goals.searched)):
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
        params = params_of(population.params, i)
        candidates, choice = _first(config.schedule.snap_candidates, candidates, choice)
        losses = _losses(setup, params, fixed, candidates, setup.goals.sparse[i], batch)
        best = int(np.argmin(losses))
        chip = np.asarray(table.accelerator_indices(jnp.asarray(choice.accelerator[best])))
        z[i] = space.encode(np.concatenate([candidates[best], chip]))
    return population._replace(z=jnp.asarray(z))


def _first(n: int, candidates: np.ndarray, choice: Choice) -> tuple[np.ndarray, Choice]:
    """Exactly n candidates, the last repeated where there are fewer: one compiled shape."""
    take = np.minimum(np.arange(n), len(candidates) - 1)
    return candidates[take], Choice(*(np.asarray(x)[take] for x in choice))


def _losses(
    setup: Setup,
    params: Weights,
    fixed: Fixed,
    networks: np.ndarray,
    sparse: jax.Array,
    batch: ImageTextBatch,
) -> np.ndarray:
    """Gated loss [n] of one candidate's weights at discrete networks [n, d]."""
    size = setup.space.network_size
    z = np.zeros((len(networks), len(setup.space.dimensions)), np.float32)
    z[:, :size] = np.asarray(networks) / np.maximum(setup.space.steps[:size], 1)
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
