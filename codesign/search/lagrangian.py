"""Augmented Lagrangian for inequality constraints g <= 0 (Hestenes, Powell, Rockafellar).

The penalty (max(0, y + r g)^2 - y^2) / (2 r) has the gradient max(0, y + r g) dg: a
multiplier y that the search learns, instead of a weight that someone must guess. A
constraint that is met and has no multiplier costs nothing at all.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp

Array = jax.Array


class AugmentedLagrangian(NamedTuple):
    """The method's constants.

    Attributes:
      stiffness: r, weight of the squared excess.
      rate: share of r g that one update adds to the multiplier.
    """

    stiffness: float
    rate: float

    def init(self, constraints: int) -> Array:
        """Multipliers [constraints], all zero."""
        return jnp.zeros((constraints,), jnp.float32)

    def penalty(self, multipliers: Array, excess: Array) -> Array:
        """What the constraints [constraints] add to the loss; scalar."""
        pushed = jnp.maximum(0.0, multipliers + self.stiffness * excess)
        return jnp.sum(pushed**2 - multipliers**2) / (2 * self.stiffness)

    def update(self, multipliers: Array, excess: Array) -> Array:
        """Multipliers after one step; they grow while exceeded and decay to zero when met."""
        return jnp.maximum(0.0, multipliers + self.rate * self.stiffness * excess)
