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


def loop_nest(order: str, trips: Dims, blocks: Dims) -> list:
    """Loop nest as (dimension, trips); tile loops inside block loops walk one block."""
    nest = []
    for letter in order:
        dim = letter.lower()
        if letter.isupper():
            nest.append((dim, blocks[letter]))
        else:
            nest.append((dim, jnp.maximum(1.0, trips[dim] / blocks.get(dim.upper(), 1.0))))
    return nest
