"""Slicing: cut the discrete network of an architecture out of a supernet.

A slice keeps the most important layers by rank, in their original order, and the leading heads,
FFN units and channels, which `importance.reorder` has sorted beforehand. It computes exactly
what the supernet computes under the 0/1 gates of that architecture.
"""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from codesign.architecture import ELASTIC, TOWERS, Architecture, Tower
from codesign.models.transformer import ELASTIC_AXES


@functools.partial(jax.jit, static_argnums=1)
def sliced(state: nnx.State, architecture: Architecture) -> nnx.State:
    """The state of the sub-network, from that of a CLIP in which it fits."""
    every = dict(nnx.to_flat_state(state))
    kept = {
        tower: kept_layers(
            every[tower, "blocks", "layer_rank"][...], getattr(architecture, tower).layers
        )
        for tower in TOWERS
    }
    flat = [
        (path, variable.replace(_slice(path, variable, kept, architecture)))
        for path, variable in every.items()
    ]
    return nnx.from_flat_state(flat)


def kept_layers(layer_rank: jax.Array, count: int) -> jax.Array:
    """Indices [count] of the layers with ranks below `count`, in their original order."""
    return jnp.sort(jnp.argsort(layer_rank)[:count])


def _slice(
    path: tuple[Any, ...],
    variable: nnx.Variable,
    kept: dict[str, jax.Array],
    architecture: Architecture,
) -> jax.Array:
    """One array, cut along its elastic axes.

    Ranks need no renumbering: those of the kept layers are 0..n-1 already.
    """
    values = variable[...]
    for axis, letter in enumerate(variable.axes):
        if letter == "L":
            values = jnp.take(values, kept[path[0]], axis=axis)
        elif letter in ELASTIC_AXES:
            size = getattr(getattr(architecture, path[0]), ELASTIC_AXES[letter])
            values = jax.lax.slice_in_dim(values, 0, size, axis=axis)
    return jnp.copy(values)  # jit would hand an uncut array through, shared with the model


def check_fits(large: Architecture, small: Architecture) -> None:
    """Raises ValueError, naming the dimension, unless `small` can be cut out of `large`."""
    for field in dataclasses.fields(Architecture):
        ours, theirs = getattr(large, field.name), getattr(small, field.name)
        if isinstance(ours, Tower):
            _check_tower_fits(field.name, ours, theirs)
        elif ours != theirs:
            raise ValueError(
                f"cannot slice to {field.name} = {theirs!r}: the model has {ours!r}, and this "
                "dimension is not elastic"
            )


def _check_tower_fits(tower: str, large: Tower, small: Tower) -> None:
    for name in ELASTIC:
        available, wanted = getattr(large, name), getattr(small, name)
        if wanted > available:
            raise ValueError(
                f"cannot slice to {tower}.{name} = {wanted}: the model has only {available}"
            )
