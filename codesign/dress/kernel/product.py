"""The row-sparse product: y = x W^T with the first n weights of each row of W.

On a CPU with the native part it takes time in proportion to n. Everywhere else, and for its
gradient, it is the ordinary dense product: on other platforms (chosen when a program is
lowered), in float64, and without a compiler.

    rows = panels(values, columns, inputs)
    y = row_sparse_matmul(x, rows, n, bias=bias, activation="gelu")  # n may be traced
"""

from __future__ import annotations

import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
from jax.custom_batching import custom_vmap

from codesign.architecture import ACTIVATIONS
from codesign.dress.kernel import native
from codesign.dress.kernel.panels import DenseRows, Panels

_NATIVE = (jnp.float32, jnp.bfloat16, jnp.float16)  # of x; the last two by way of float32


def row_sparse_matmul(
    x: jax.Array,
    weights: Panels | DenseRows,
    n: int | jax.Array,
    *,
    bias: jax.Array | None = None,
    activation: str | None = None,
) -> jax.Array:
    """activation(x W_n^T + bias), summed in float32 at least.

    May be jitted, vmapped and differentiated in reverse, by x, values and bias. Another n
    compiles nothing, as it is an operand.

    Args:
      x: floats [..., N].
      weights: W, [R,N], as `panels` or `dense_rows`.
      n: weights of each row that count, 0 to n1; the rest are taken for zeros. A traced one is
        clipped to this range.
      bias: [R], or None.
      activation: "gelu" (by the error function), "quick_gelu" or None.

    Returns:
      [..., R] in x's dtype.

    Raises:
      ValueError: shapes that do not fit, an unknown activation, n out of range.
    """
    x = jnp.asarray(x)
    _check(x, weights, n, bias, activation)
    shift = jnp.zeros(0, x.dtype) if bias is None else jnp.asarray(bias)
    count = jnp.asarray(n, jnp.int32)
    tokens = math.prod(x.shape[:-1])
    flat = x.reshape(tokens, weights.inputs)
    if isinstance(weights, Panels) and x.dtype in _NATIVE and native.available():
        y = _sparse(activation, weights.rows, flat, weights.values, weights.columns, count, shift)
    else:
        y = _dense_product(activation, flat, _dense(weights, count), shift)
    return y.astype(x.dtype).reshape(*x.shape[:-1], weights.rows)


def _check(
    x: jax.Array,
    weights: Panels | DenseRows,
    n: int | jax.Array,
    bias: jax.Array | None,
    activation: str | None,
) -> None:
    if not x.ndim or x.shape[-1] != weights.inputs or not jnp.issubdtype(x.dtype, jnp.floating):
        raise ValueError(f"x is {x.dtype} {x.shape}, the rows need floats [..., {weights.inputs}]")
    if bias is not None and jnp.shape(bias) != (weights.rows,):
        raise ValueError(f"bias has shape {jnp.shape(bias)}, expected ({weights.rows},)")
    if activation not in native.ACTIVATION_NUMBERS:
        raise ValueError(
            f"activation is {activation!r}, expected one of {list(native.ACTIVATION_NUMBERS)}"
        )
    most = weights.values.shape[1] if isinstance(weights, Panels) else weights.inputs
    if isinstance(n, int) and not 0 <= n <= most:
        raise ValueError(f"n is {n}, the rows have 0 to {most} weights")


def _activated(x: jax.Array, activation: str | None) -> jax.Array:
    return x if activation is None else ACTIVATIONS[activation](x)


def _dense(weights: Panels | DenseRows, n: jax.Array) -> jax.Array:
    """W_n [R,N]."""
    if isinstance(weights, DenseRows):
        return weights.first(n)
    return _scattered(weights.rows, weights.inputs, weights.values, weights.columns, n)


def _scattered(
    rows: int, inputs: int, values: jax.Array, columns: jax.Array, n: jax.Array
) -> jax.Array:
    """W_n [R,N] of panels; what fills up the last panel adds zeros."""
    groups, kept, side = values.shape
    counted = (jnp.arange(kept, dtype=jnp.int32) < n)[None, :, None]
    row = side * jnp.arange(groups)[:, None, None] + jnp.arange(side)
    dense = jnp.zeros((groups * side, inputs), values.dtype)
    return dense.at[row, columns].add(jnp.where(counted, values, jnp.zeros_like(values)))[:rows]


def _dense_product(
    activation: str | None, x: jax.Array, weights: jax.Array, bias: jax.Array
) -> jax.Array:
    """x [T,N], weights [R,N], bias [R] or [0] -> [T,R], at least float32."""
    wide = jnp.promote_types(jnp.promote_types(x.dtype, weights.dtype), jnp.float32)
    y = jnp.einsum("TN,RN->TR", x.astype(wide), weights.astype(wide))
    return _activated(y + bias.astype(wide) if bias.size else y, activation)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 1))
def _sparse(
    activation: str | None,
    rows: int,
    x: jax.Array,
    values: jax.Array,
    columns: jax.Array,
    n: jax.Array,
    bias: jax.Array,
) -> jax.Array:
    """x [T,N] and panels -> float32 [T,R], each platform in its own way."""
    return jax.lax.platform_dependent(
        x,
        values,
        columns,
        n,
        bias,
        cpu=_natively(activation, rows),
        default=functools.partial(_by_scatter, activation, rows),
    )


def _by_scatter(
    activation: str | None,
    rows: int,
    x: jax.Array,
    values: jax.Array,
    columns: jax.Array,
    n: jax.Array,
    bias: jax.Array,
) -> jax.Array:
    weights = _scattered(rows, x.shape[1], values, columns, n)
    return _dense_product(activation, x, weights, bias)


def _natively(activation: str | None, rows: int) -> Any:
    """The native product, batched by a row of tokens more."""

    def product(
        x: jax.Array, values: jax.Array, columns: jax.Array, n: jax.Array, bias: jax.Array
    ) -> jax.Array:
        return native.product(
            x.astype(jnp.float32),
            values,
            columns,
            n,
            bias.astype(jnp.float32),
            rows=rows,
            activation=activation,
        )

    batched = custom_vmap(product)

    @batched.def_vmap
    def _(size: int, is_batched: list[bool], x: jax.Array, *rest: jax.Array) -> Any:
        if is_batched[0] and not any(is_batched[1:]):
            return batched(x.reshape(-1, x.shape[-1]), *rest).reshape(size, -1, rows), True
        every = [
            array if batch else jnp.broadcast_to(array, (size, *array.shape))
            for array, batch in zip((x, *rest), is_batched, strict=True)
        ]
        return jax.lax.map(lambda one: batched(*one), tuple(every)), True

    return batched


def _forward(activation: str | None, rows: int, *operands: jax.Array) -> Any:
    return _sparse(activation, rows, *operands), operands


def _backward(activation: str | None, rows: int, operands: Any, cotangent: jax.Array) -> Any:
    _, pull = jax.vjp(functools.partial(_by_scatter, activation, rows), *operands)
    return pull(cotangent)


_sparse.defvjp(_forward, _backward)
