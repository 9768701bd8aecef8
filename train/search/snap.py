"""The snap: from relaxed designs to discrete ones that meet their targets and limits."""

from __future__ import annotations

import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from codesign.errors import RunError
from codesign.search.grid import Choice, roundings, without_parts
from codesign.search.snap_file import Snapped, Snaps
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
from codesign.train.search.snap_training import losses_once_trained
from codesign.train.search.work import macs_at


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
    batch = setup.feed.sample(schedule.snap_images)
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
        chips = np.asarray(table.accelerator_indices(jnp.asarray(choice.accelerator)))
        designs = space.encode(np.concatenate([candidates, chips], axis=1)).astype(z.dtype)
        params = params_of(population.params, i)
        # The relaxed design's own last.
        around = np.concatenate([designs, z[i : i + 1]])
        *losses, relaxed = _losses(setup, params, fixed, around, setup.goals.sparse[i], batch)
        best = _least(losses)
        trained, share = 0, 0.0
        if different > 1 and schedule.snap_steps and losses[best] > (relaxed + chance) / 2:
            trained = min(different, len(z) - 1)
            share = float((macs_at(space, candidates[:trained]) / whole).sum())
            best = _least(losses_once_trained(setup, population, fixed, i, designs[:trained]))
        z[i] = designs[best]
        told = [float(x) if np.isfinite(x) else None for x in (relaxed, losses[best])]
        chosen.append(Snapped(i, different, trained, share, *told))
    return population._replace(z=jnp.asarray(z)), Snaps(tuple(chosen))


def _first(n: int, candidates: np.ndarray, choice: Choice) -> tuple[np.ndarray, Choice]:
    """Exactly n candidates, the last repeated where there are fewer: one compiled shape."""
    take = np.minimum(np.arange(n), len(candidates) - 1)
    return candidates[take], Choice(*(np.asarray(x)[take] for x in choice))


def _least(losses: Any) -> int:
    """Where the least loss is; one that is not finite is none."""
    return int(np.argmin(np.where(np.isfinite(losses), losses, np.inf)))


def _losses(
    setup: Setup,
    params: Weights,
    fixed: Fixed,
    z: np.ndarray,
    sparse: jax.Array,
    batch: ImageTextBatch,
) -> np.ndarray:
    """Gated loss [n] of one candidate's weights at designs z [n, d], relaxed or not."""
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
