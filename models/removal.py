"""Measured importance: how much the loss rises when a unit is taken out.

The pruning error of MoPE-CLIP (Lin et al., CVPR 2024) on the loss: a unit's score is the loss
without it less the loss with it, on the calibration set. Layers and heads are taken out one
by one; FFN units and channels, of which there are thousands, in groups of like ones.

One compiled program a tower: a unit goes by closing its gate, and since the other tower's
embeddings do not change, they are computed once a batch.
"""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from codesign.architecture import TOWERS
from codesign.models.calibration import Calibration, Loss
from codesign.models.clip import CLIP
from codesign.models.gates import Gates, TowerGates

# Units of a group share its score. They are told apart by steps of this share of it, a few
# roundings of float32, far below what a loss on samples can tell.
_STEP = 2.0**-21


def loss_increase(
    model: CLIP, batches: Calibration, order: Gates, loss: Loss, groups: int = 16
) -> Gates:
    """The rise of the mean loss over all batches when a unit, or its group, is removed.

    Costs (L (1 + H + groups) + groups + 1) forward passes of each tower a batch.

    Args:
      model: left as it is.
      batches: stacked, each leaf [N,...].
      order: cheaper scores, such as Taylor's. FFN units (of each layer) and channels are cut
        into groups of neighbours in this order; within a group it also breaks the ties.
      loss: of a batch's embeddings.
      groups: how many a layer's FFN units, and a tower's channels, are cut into at most.

    Returns:
      Scores in the shape of the gates; negative where the loss falls.

    Raises:
      ValueError: groups below 1.
    """
    if groups < 1:
        raise ValueError(f"groups is {groups}: there must be at least 1")
    graphdef, state = nnx.split(model)
    found = {}
    for tower in TOWERS:
        cheaper = jax.tree.map(np.asarray, getattr(order, tower))
        units = _numbered(cheaper, groups)
        removals = 1 + max(int(numbers.max()) for numbers in jax.tree.leaves(units))
        losses = np.asarray(
            _mean_losses(
                graphdef,
                state,
                batches,
                jax.tree.map(jnp.asarray, units),
                jnp.arange(-1, removals),
                tower,
                loss,
            ),
            np.float64,
        )
        scores = functools.partial(_scores, losses[1:] - losses[0])
        found[tower] = jax.tree.map(scores, units, cheaper)
    return Gates(**found)


def _numbered(order: TowerGates, groups: int) -> TowerGates:
    """int32 in the shape of the gates: which removal takes the unit out, counted from 0."""
    layers, heads = order.heads.shape
    ffn_groups = min(groups, order.ffn.shape[1])
    of_ffn = np.arange(layers)[:, None] * ffn_groups + _blocks(order.ffn, ffn_groups)
    numbers = TowerGates(
        layers=np.arange(layers),
        heads=layers + np.arange(layers * heads).reshape(layers, heads),
        ffn=layers * (1 + heads) + of_ffn,
        channels=layers * (1 + heads + ffn_groups)
        + _blocks(order.channels, min(groups, len(order.channels))),
    )
    return jax.tree.map(np.int32, numbers)


def _blocks(order: np.ndarray, blocks: int) -> np.ndarray:
    """The block of each unit, 0 the lowest scores; equal sizes within one."""
    return _ranks(order) * blocks // order.shape[-1]


def _ranks(order: np.ndarray) -> np.ndarray:
    """Rank of each unit along the last axis, 0 the lowest score, the later of equal ones.

    So that among equal ones the earlier counts for more, as in `importance.reorder`.
    """
    descending = np.argsort(-order, axis=-1, kind="stable")
    return order.shape[-1] - 1 - np.argsort(descending, axis=-1)


@functools.partial(jax.jit, static_argnames=("graphdef", "tower", "loss"))
def _mean_losses(
    graphdef: Any,
    state: nnx.State,
    batches: Calibration,
    units: TowerGates,
    removals: jax.Array,
    tower: str,
    loss: Loss,
) -> jax.Array:
    """Mean loss [R] over the batches without the units of each removal; -1 removes none."""

    def of_batch(batch: Calibration) -> jax.Array:
        model: CLIP = nnx.merge(graphdef, state)
        whole, _ = model(batch.images, batch.ids)

        def without(removal: jax.Array) -> jax.Array:
            gates = jax.tree.map(lambda number: (number != removal).astype(jnp.float32), units)
            if tower == "vision":
                embedding, _ = model.encode_image(batch.images, Gates(vision=gates, text=None))
                return loss(whole._replace(image_embedding=embedding), batch)
            embedding, _ = model.encode_text(batch.ids, Gates(vision=None, text=gates))
            return loss(whole._replace(text_embedding=embedding), batch)

        return jax.lax.map(without, removals)

    return jnp.mean(jax.lax.map(of_batch, batches), axis=0)


def _scores(increase: np.ndarray, numbers: np.ndarray, order: np.ndarray) -> jax.Array:
    """Each unit's own or its group's increase [R], ties within a group broken by the order."""
    ranks = _ranks(order)
    lowest = np.full(len(increase), ranks.size)
    np.minimum.at(lowest, numbers, ranks)
    shared = increase[numbers]
    size = np.maximum(np.abs(shared), _STEP * np.abs(increase).max())
    return jnp.asarray(shared + _STEP * size * (ranks - lowest[numbers]), jnp.float32)
