"""Steps that are not finite are rolled back: one bad batch, or an overflow, destroys no run.

A step whose loss or gradient is infinite or NaN leaves weights, optimizer, averages and statistics
as they were, within the compiled step: nothing is sent to the host for it. The step
says so in its metric `ROLLED_BACK`. A few such steps cost their batches; many in a row mean that
the network itself is beyond its numbers' range, and end the run.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np

from codesign.runs import RunFolder, read_metrics, rolled_back_steps

Array = jax.Array
Tree = TypeVar("Tree")
# Rolled back one after another, after which a run ends.
MOST_IN_A_ROW = 10


def all_finite(*values: Array) -> Array:
    """Where every value is finite: of scalars a scalar, of [N] (candidates) each for itself."""
    finite = jnp.isfinite(values[0])
    for value in values[1:]:
        finite &= jnp.isfinite(value)
    return finite


def taken_if(finite: Array, take: Callable[[], Tree], state: Tree) -> Tree:
    """The state after a step where that is finite, and as it was elsewhere.

    XLA's CPU compiler makes further passes over the weights for a select, and rounds otherwise: a
    step there is taken as a branch, in the very operations that it had by itself. GPUs and TPUs
    have a select for nothing, in the kernel that reads and writes the state; a branch would have
    the host wait.

    Args:
      finite: bool, [] or [N].
      take: gives the state after the step; leaves [...], or [N, ...] as `finite` has it.
      state: before it, of the same shapes.
    """
    if jax.default_backend() != "cpu":
        return _selected(finite, take(), state)

    def several() -> Tree:
        new = take()
        every: Tree = jax.lax.cond(
            jnp.all(finite), lambda: new, lambda: _selected(finite, new, state)
        )
        return every

    kept: Tree = jax.lax.cond(jnp.any(finite), take if finite.ndim == 0 else several, lambda: state)
    return kept


def _selected(finite: Array, new: Tree, old: Tree) -> Tree:
    def leaf(after: Array, before: Array) -> Array:
        where = finite.reshape(finite.shape + (1,) * (jnp.ndim(after) - finite.ndim))
        return jnp.where(where, after, before)

    return jax.tree.map(leaf, new, old)


class Streak:
    """Counts how often in a row steps were rolled back, each candidate's for themselves.

    Attributes:
      count: steps that were rolled back, of a candidate at least.
      too_long: what a run ends with where they were too many in a row; else None.
    """

    def __init__(self) -> None:
        self.count = 0
        self.too_long: str | None = None
        self._in_a_row: np.ndarray = np.zeros(1, int)

    def saw(self, step: int, rolled_back: Any) -> None:
        """Tells the metric of the next step, a bool or those of all candidates."""
        bad = np.atleast_1d(np.asarray(rolled_back, bool))
        self.count += bool(bad.any())
        self._in_a_row = np.where(bad, self._in_a_row + 1, 0)
        if self.too_long is None and self._in_a_row.max() >= MOST_IN_A_ROW:
            self.too_long = (
                f"loss or gradient are not finite at step {step}, as at the "
                f"{MOST_IN_A_ROW - 1} steps before it"
            )


def summary_of(folder: RunFolder) -> dict[str, int]:
    """What summary.json says of it: "rolled_back_steps", where there are any."""
    count = rolled_back_steps(read_metrics(folder.metrics)) if folder.metrics.exists() else 0
    return {"rolled_back_steps": count} if count else {}


def finite_numbers(value: Any) -> Any:
    """A nest of metrics as JSON can hold it: None in place of what is not finite."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {name: finite_numbers(part) for name, part in value.items()}
    if isinstance(value, (list, tuple)):
        return [finite_numbers(part) for part in value]
    return value
