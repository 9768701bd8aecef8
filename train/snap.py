"""The snap: from relaxed designs to discrete ones that meet their targets and limits."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from codesign.errors import RunError
from codesign.search.exact import Choice, roundings
from codesign.space import DesignSpace
from codesign.train.family import Batch, Family, Trainer, member_masks, member_params, outputs
from codesign.train.losses import contrastive_loss
from codesign.train.setup import Setup


def snap(setup: Setup, family: Family, rest: nnx.State) -> Family:
    """The family with every searched design at the choice of least loss near it.

    Candidates round the relaxed architecture up or down, take the best accelerator of
    the grid, and meet target and limits; the gated loss on training images decides.

    Raises:
      RunError: a target that no design near the relaxed one can meet.
    """
    config, space = setup.config, setup.space
    z = np.array(family.z)
    for i in np.flatnonzero(np.asarray(setup.members.searched)):
        position = space.part(np.asarray(space.indices(z[i])), "network")
        table = setup.tables.of(bool(setup.members.sparse[i]))
        candidates, choice = roundings(
            table, position, float(setup.members.targets[i]), config.targets.mode,
            config.limits,
        )
        if not len(candidates):
            raise RunError(
                f"no design meets the limits and the target {setup.members.targets[i]:.3g}; "
                "raise --targets.low"
            )
        weights = member_params(family.params, i)
        candidates, choice = _first(config.schedule.snap_candidates, candidates, choice)
        losses = _candidate_losses(setup, weights, rest, candidates, setup.members.sparse[i])
        best = int(np.argmin(losses))
        chip = np.asarray(table.accelerator_indices(jnp.asarray(choice.accelerator[best])))
        z[i] = space.encode(np.concatenate([candidates[best], chip]))
    return family._replace(z=jnp.asarray(z))


def _first(n: int, candidates: np.ndarray, choice: Choice) -> tuple[np.ndarray, Choice]:
    """Exactly n candidates, the last repeated where there are fewer: one compiled shape."""
    take = np.minimum(np.arange(n), len(candidates) - 1)
    return candidates[take], Choice(*(np.asarray(x)[take] for x in choice))


def _candidate_losses(
    setup: Setup, params: nnx.State, rest: nnx.State, candidates: np.ndarray, sparse: jax.Array
) -> np.ndarray:
    """Gated loss [n] of one member at discrete networks [n, d]."""
    size, data = setup.space.network_size, setup.dataset
    z = np.zeros((len(candidates), len(setup.space.dimensions)), np.float32)
    z[:, :size] = np.asarray(candidates) / np.maximum(setup.space.steps[:size], 1)
    images = min(setup.config.schedule.snap_images, data.images.shape[0])
    labels = data.labels[:images]
    templates = jnp.arange(images) % data.caption_ids.shape[1]
    batch = Batch(data.images[:images], data.caption_ids[labels, templates], labels)
    return np.asarray(
        _losses_at(setup.trainer, params, rest, setup.space, jnp.asarray(z), sparse, batch)
    )


@functools.partial(jax.jit, static_argnames=("trainer", "space"))
def _losses_at(
    trainer: Trainer, params: nnx.State, rest: nnx.State, space: DesignSpace, z: jax.Array,
    sparse: jax.Array, batch: Batch,
) -> jax.Array:
    def loss(z: jax.Array) -> jax.Array:
        masks = member_masks(params, z, rest, space, trainer)
        out, weights = outputs(trainer, params, rest, z, sparse, masks, batch, space)
        return weights @ jax.vmap(contrastive_loss, (0, 0, 0, None))(*out, batch.labels)

    return jax.lax.map(loss, z)
