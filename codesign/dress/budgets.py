"""Budgets: how many weights per row each layer keeps in each subnet.

The paper's rule is one global ranking. Sort every row by magnitude; average the j-th largest
over the rows of a layer; rank these averages over all layers; keep the best until the subnet's
budget is met. To keep entry j of a layer costs one weight in each of its R rows. All subnets
read the same ranking, so they are nested. The ablation gives every layer its own share.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp

Budget = Literal["global", "uniform"]
BUDGETS: tuple[Budget, ...] = ("global", "uniform")

_MOST_WEIGHTS = 2**32 - 1  # that a budget in 32 bits can count


class Size(NamedTuple):
    """A kernel as rows: L layers of R rows of N weights."""

    layers: int
    rows: int
    weights: int


def row_average(magnitudes: jax.Array) -> jax.Array:
    """Average over the rows of a layer: [R,N] >= 0 -> float32 [N].

    Summed in integers, so that the order of the rows, their sharding and the device cannot move
    the last bit, and with it a ranking. A layer's largest magnitude takes as many bits as let
    the sum fit into 32: rounding then moves an average by about sqrt(R) 2^-33 of the largest.
    """
    magnitudes = magnitudes.astype(jnp.float32)
    rows = magnitudes.shape[0]
    exponent = jnp.frexp(jnp.max(magnitudes))[1]
    shift = jnp.minimum(30 - rows.bit_length() - exponent, 127)
    fixed = jnp.round(magnitudes * jnp.ldexp(jnp.float32(1), shift)).astype(jnp.int32)
    return jnp.ldexp(jnp.sum(fixed, axis=0).astype(jnp.float32) / rows, -shift)


def global_counts(
    averages: Mapping[str, jax.Array], rows: Mapping[str, int], sparsities: jax.Array, floor: int
) -> dict[str, jax.Array]:
    """Weights per row by the global ranking.

    Ties go to the kernel, and in it to the layer, that comes first. A subnet stays within its
    budget, by less than one weight in each row of one layer.

    Args:
      averages: of each kernel [L,N], the j-th largest magnitude averaged over the rows.
      rows: R of each kernel.
      sparsities: [K]; may be traced.
      floor: weights that every row keeps, whatever the budget.

    Returns:
      int32 [K,L] of each kernel.
    """
    sizes = {name: Size(a.shape[0], rows[name], a.shape[1]) for name, a in averages.items()}
    total = total_weights(sizes.values())
    forced = _flat(
        jnp.broadcast_to(jnp.arange(size.weights) < floor, (size.layers, size.weights))
        for size in sizes.values()
    )
    cost = _flat(
        jnp.full((size.layers, size.weights), size.rows, jnp.uint32) for size in sizes.values()
    )
    order = jnp.argsort(-jnp.where(forced, jnp.inf, _flat(averages.values())))
    spent = jnp.zeros_like(cost).at[order].set(jnp.cumsum(cost[order]), unique_indices=True)
    budget = total - _share(sparsities, total)
    kept = (spent <= budget[:, None]) | forced  # [K, entries of all layers]
    counts, start = {}, 0
    for name, size in sizes.items():
        own = kept[:, start : start + size.layers * size.weights]
        counts[name] = jnp.sum(own.reshape(-1, size.layers, size.weights), axis=2, dtype=jnp.int32)
        start += size.layers * size.weights
    return counts


def uniform_counts(
    sizes: Mapping[str, Size], sparsities: jax.Array, floor: int
) -> dict[str, jax.Array]:
    """Weights per row where every layer has the subnet's sparsity: int32 [K,L] of each kernel."""

    def of_size(size: Size) -> jax.Array:
        kept = uniform_count(size.weights, sparsities, floor)
        return jnp.broadcast_to(kept[:, None], (kept.shape[0], size.layers))

    return {name: of_size(size) for name, size in sizes.items()}


def uniform_count(weights: int | jax.Array, sparsities: jax.Array, floor: int = 1) -> jax.Array:
    """Weights that a row of so many keeps, int32; shapes broadcast, all may be traced."""
    return jnp.maximum(weights - _share(sparsities, weights).astype(jnp.int32), floor)


def total_weights(sizes: Iterable[Size]) -> int:
    """Weights of all kernels.

    Raises:
      ValueError: more than 32 bits count.
    """
    total = sum(map(math.prod, sizes))
    if total > _MOST_WEIGHTS:
        raise ValueError(f"{total} weights are to be pruned, the most is {_MOST_WEIGHTS}")
    return total


def _flat(arrays: Iterable[jax.Array]) -> jax.Array:
    return jnp.concatenate([array.ravel() for array in arrays])


def _share(sparsities: jax.Array, count: int | jax.Array) -> jax.Array:
    """uint32 [K]: sparsity x count, to the nearest; exactly zero for a dense member."""
    return jnp.round(sparsities * jnp.asarray(count, jnp.float32)).astype(jnp.uint32)
