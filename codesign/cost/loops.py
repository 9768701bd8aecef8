"""Loops above a buffer, and how often they move what it holds."""

from __future__ import annotations

from collections.abc import Sequence

import jax
import jax.numpy as jnp

Array = jax.Array
Dims = dict[str, Array]


def refetches(loops: Sequence[tuple[str, Array]], irrelevant: str) -> Array:
    """How often each word of an operand is moved, given the loops above its buffer.

    A loop over the dimension the operand lacks moves it again on every trip, unless
    no loop inside it changes the operand's tile: then the tile just stays.
    """
    times = jnp.ones_like(loops[0][1])
    moves_inside = jnp.zeros_like(loops[0][1], dtype=bool)
    for dim, trips in reversed(loops):
        if dim == irrelevant:
            times = times * jnp.where(moves_inside, trips, 1)
        else:
            moves_inside = moves_inside | (trips > 1)
    return times


def loop_nest(order: str, present: Array, trips: Dims, blocks: Dims) -> list[tuple[str, Array]]:
    """Loop nest as (dimension, trips); tile loops inside block loops walk one block.

    Args:
      order: letters of loops, outermost first: "M", "N" over blocks, "m", "k", "n" over tiles.
      present: whether a schedule has each of them, [..., len(order)]; else it makes one trip.
      trips: over tiles, by "m", "k", "n".
      blocks: trips over blocks, by "M", "N".
    """
    whole = {**trips, **blocks}
    for block, number in blocks.items():
        whole[block.lower()] = jnp.maximum(1.0, trips[block.lower()] / number)
    return [
        (loop.lower(), jnp.where(present[..., i], whole[loop], 1.0)) for i, loop in enumerate(order)
    ]
