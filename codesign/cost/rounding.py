"""ceil and floor whose derivative is that of the identity, so that relaxed sizes have slopes."""

from __future__ import annotations

import jax
import jax.numpy as jnp

Array = jax.Array

# Share of a quotient that float32 may have added or lost: four roundings. Relative, because
# a tile may be a hundred-thousandth of what holds it and is one tile nevertheless.
_FORGIVEN = 5e-7


@jax.custom_jvp
def rounded(x: Array, to: Array) -> Array:
    """`to`, with the derivative of x; both of one shape."""
    del x
    return to


@rounded.defjvp
def _slope(primals: tuple[Array, Array], tangents: tuple[Array, Array]) -> tuple[Array, Array]:
    return primals[1], tangents[0]


def ceil(x: Array) -> Array:
    """Smallest integer >= x >= 0, forgiving float32 rounding; derivative 1.

    At least 1 where x is positive. Exact for quotients of whole numbers up to 1e6.
    """
    return rounded(x, jnp.ceil(x * (1 - _FORGIVEN)))


def floor(x: Array) -> Array:
    """Largest integer <= x, forgiving float32 rounding; derivative 1."""
    return rounded(x, jnp.floor(x * (1 + _FORGIVEN)))
