"""ceil and floor whose derivative is that of the identity, so that relaxed sizes have slopes."""

from __future__ import annotations

import jax
import jax.numpy as jnp

Array = jax.Array


def rounded(x: Array, to: Array) -> Array:
    """`to`, with the derivative of x."""
    return x + jax.lax.stop_gradient(to - x)


def ceil(x: Array) -> Array:
    """Smallest integer >= x, forgiving float32 rounding; derivative 1."""
    return rounded(x, jnp.ceil(x - 1e-4))


def floor(x: Array) -> Array:
    """Largest integer <= x, forgiving float32 rounding; derivative 1."""
    return rounded(x, jnp.floor(x + 1e-4))
