"""The layouts a kernel's rows are kept in: panels for the native part, dense for the rest.

Both hold the densest subnet once; a subnet is the number n of a row's first weights.
"""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np

from codesign.dress.kernel.native import ROWS, available

# Types of values that are kept as they are; all others are kept as float32.
_KEPT = (np.dtype(np.float32), np.dtype(jnp.bfloat16))


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Panels:
    """Rows of equally many weights, 16 side by side; the last panel is filled up with zeros.

    Attributes:
      values: float32 or bfloat16 [P,n1,16].
      columns: uint16, or uint32 where N is above 65536, [P,n1,16].
      rows: R.
      inputs: N, the length of a row with its zeros.
    """

    values: jax.Array
    columns: jax.Array
    rows: int = dataclasses.field(metadata={"static": True})
    inputs: int = dataclasses.field(metadata={"static": True})


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class DenseRows:
    """The same rows with their zeros, for a dense product.

    Attributes:
      weights: float32 or bfloat16 [R,N].
      order: uint16 or uint32 [R,N]: a weight's place in its row, n1 of those that no subnet keeps.
    """

    weights: jax.Array
    order: jax.Array

    @property
    def rows(self) -> int:
        """R."""
        return self.weights.shape[0]

    @property
    def inputs(self) -> int:
        """N."""
        return self.weights.shape[1]

    def first(self, n: jax.Array) -> jax.Array:
        """W_n [R,N]: zeros in place of all but the first n weights of each row."""
        return jnp.where(self.order < n, self.weights, jnp.zeros_like(self.weights))


def panels(values: np.ndarray, columns: np.ndarray, inputs: int) -> Panels:
    """Rows as panels.

    Args:
      values: [R,n1], the most important first. float16 is kept as float32, exactly.
      columns: integers [R,n1], of the values within their row.
      inputs: N.

    Raises:
      ValueError: arrays that do not fit each other, or a column that is not below N.
    """
    values, columns = _checked(values, columns, inputs)
    rows, kept = values.shape
    groups = -(-rows // ROWS)

    def repacked(array: np.ndarray) -> jax.Array:
        filled = np.zeros((groups * ROWS, kept), array.dtype)
        filled[:rows] = array
        return jnp.asarray(
            np.ascontiguousarray(filled.reshape(groups, ROWS, kept).transpose(0, 2, 1))
        )

    return Panels(repacked(values), repacked(columns.astype(_index(inputs - 1))), rows, inputs)


def dense_rows(values: np.ndarray, columns: np.ndarray, inputs: int) -> DenseRows:
    """Rows with their zeros; arguments and errors of `panels`."""
    values, columns = _checked(values, columns, inputs)
    rows, kept = values.shape
    weights = np.zeros((rows, inputs), values.dtype)
    np.put_along_axis(weights, columns, values, axis=1)
    order = np.full((rows, inputs), kept, _index(kept))
    np.put_along_axis(order, columns, np.arange(kept, dtype=order.dtype)[None], axis=1)
    return DenseRows(jnp.asarray(weights), jnp.asarray(order))


def row_weights(values: np.ndarray, columns: np.ndarray, inputs: int) -> Panels | DenseRows:
    """Rows in the faster layout here: panels on a CPU with the native part, dense elsewhere.

    Arguments and errors of `panels`.
    """
    sparse = jax.default_backend() == "cpu" and available()
    return (panels if sparse else dense_rows)(values, columns, inputs)


def _checked(values: np.ndarray, columns: np.ndarray, inputs: int) -> tuple[np.ndarray, np.ndarray]:
    """Values in a type that is kept, columns as int64."""
    values, columns = np.asarray(values), np.asarray(columns)
    if values.ndim != 2 or values.shape != columns.shape:
        raise ValueError(
            f"values and columns have shapes {values.shape} and {columns.shape}, expected [R,n1] "
            "of both"
        )
    if not np.issubdtype(columns.dtype, np.integer):
        raise ValueError(f"columns are {columns.dtype}, expected integers")
    if columns.size and not 0 <= columns.min() <= columns.max() < inputs:
        raise ValueError(
            f"columns reach from {columns.min()} to {columns.max()}, the row has {inputs} inputs"
        )
    kept = values if values.dtype in _KEPT else values.astype(np.float32)
    return kept, columns.astype(np.int64)


def _index(largest: int) -> np.dtype:
    return np.dtype(np.uint16 if largest < 2**16 else np.uint32)
