"""Masks: the largest weights of each row, nested over K subnets, all from one sort.

A weight's level is the number of subnets that keep it, so subnet k keeps the levels above k:
masks are nested by construction, and all K of them cost one byte a weight.

    specs = kernel_specs(params)
    masks = subnet_masks(params, specs, (0.5, 0.8, 0.9))
    sparse = apply(params, masks, 1)  # the 80 % subnet; the 1 may be traced

Rows are sorted by value alone: the n-th largest of a row is a threshold, and only where equal
weights lie on both sides of it does their position decide. The bits of a non-negative float,
read as an integer, are ordered as the float is, and XLA sorts integers on CPU 4 times as fast
as floats, and 5 times as fast as the argsort that ranks would need, before their scatter.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, TypeVar

import jax
import jax.numpy as jnp

from codesign.dress.budgets import (
    BUDGETS,
    Budget,
    Size,
    global_counts,
    row_averages,
    total_weights,
    uniform_counts,
)
from codesign.dress.rows import RowSpec, from_rows, to_rows
from codesign.dress.trees import pick, replace_leaves

Tree = TypeVar("Tree")

_MOST_SUBNETS = 255  # that a level of one byte can tell apart

# Structure, not data: specs may be arguments of a jitted function.
jax.tree_util.register_static(RowSpec)


class Masks(NamedTuple):
    """The masks of K subnets.

    Attributes:
      levels: uint8 in each kernel's own shape, by its name: how many subnets keep the weight.
      counts: int32 [K,L] by name: weights that each row of each layer keeps.
    """

    levels: dict[str, jax.Array]
    counts: dict[str, jax.Array]


def checked_sparsities(sparsities: Sequence[float] | jax.Array) -> tuple[float, ...]:
    """The sparsities of a family, as floats.

    Raises:
      ValueError: none, too many, outside [0, 1), or not strictly increasing.
    """
    values = tuple(float(s) for s in sparsities)
    if not 1 <= len(values) <= _MOST_SUBNETS:
        raise ValueError(f"there are {len(values)} sparsities, expected 1 to {_MOST_SUBNETS}")
    for value in values:
        if not 0 <= value < 1:
            raise ValueError(f"sparsity {value:g} is outside [0, 1): it is the share of zeros")
    for before, after in itertools.pairwise(values):
        if after <= before:
            raise ValueError(
                f"sparsity {after:g} follows {before:g}; give them strictly increasing, "
                "the densest subnet first"
            )
    return values


def loss_weights(sparsities: Sequence[float] | jax.Array, gamma: float | jax.Array) -> jax.Array:
    """pi_k proportional to (1 - s_k)^gamma, summing to 1: float32 [K]; both may be traced."""
    powers = (1 - jnp.asarray(sparsities, jnp.float32)) ** gamma
    return powers / jnp.sum(powers)


def subnet_masks(
    params: Any,
    specs: Mapping[str, RowSpec],
    sparsities: Sequence[float] | jax.Array,
    *,
    budget: Budget = "global",
    floor: int = 1,
) -> Masks:
    """The masks of all subnets, by magnitude. Pure: jit it, with the sparsities traced.

    A traced sparsity cannot be checked; see `checked_sparsities` and `check_floor`.

    Args:
      params: any tree of parameters that holds the kernels.
      specs: of the kernels to prune, by name; `kernel_specs` makes them.
      sparsities: [K], strictly increasing in [0, 1); 0 is a dense member.
      budget: "global" ranking of row-averaged sorted magnitudes, or "uniform".
      floor: weights that every row keeps in every subnet, at least 1.

    Raises:
      ValueError: sparsities out of order or range, a floor that does not fit, a kernel of
        another rank than its spec's, or no kernel at all.
    """
    if not specs:
        raise ValueError("nothing to prune: no kernel is chosen")
    if budget not in BUDGETS:
        raise ValueError(f"the budget is {budget!r}, expected one of {', '.join(BUDGETS)}")
    kernels = pick(params, specs)
    sizes = kernel_sizes(kernels, specs)
    traced = isinstance(sparsities, jax.core.Tracer)
    check_floor(sizes, () if traced else checked_sparsities(sparsities), floor)
    sparsities = jnp.asarray(sparsities, jnp.float32)

    # Kernels whose rows are alike are sorted as layers of one, so that each kind compiles once.
    groups = _alike(sizes)
    rising = [
        jax.lax.sort(
            _joined([_sort_keys(kernels[name]) for name in group], group, specs), is_stable=False
        )
        for group in groups
    ]
    if budget == "uniform":
        counts = uniform_counts(sizes, sparsities, floor)
    else:
        averages = _split([row_averages(_magnitudes(r))[:, ::-1] for r in rising], groups, sizes)
        rows = {name: size.rows for name, size in sizes.items()}
        counts = global_counts(averages, rows, sparsities, floor)
    levels: dict[str, jax.Array] = {}
    for group, sorted_rows in zip(groups, rising, strict=True):
        kept = jnp.concatenate([counts[name] for name in group], axis=1)
        of_group = {name: kernels[name] for name in group}
        levels |= _levels(of_group, specs, sorted_rows, kept)
    return Masks({name: levels[name] for name in specs}, counts)


def kernel_sizes(kernels: Mapping[str, Any], specs: Mapping[str, RowSpec]) -> dict[str, Size]:
    """Every kernel as rows.

    Raises:
      ValueError: a kernel of another rank than its spec's, named.
    """
    sizes = {}
    for name, spec in specs.items():
        try:
            sizes[name] = Size(*spec.sizes(kernels[name].shape))
        except ValueError as error:
            raise ValueError(f"{name}: {error}") from None
    return sizes


def check_floor(sizes: Mapping[str, Size], sparsities: Sequence[float], floor: int) -> None:
    """Raises ValueError where rows are shorter than the floor, or a budget does not pay for it.

    Args:
      sizes: of the kernels, by name.
      sparsities: of the subnets.
      floor: weights that every row keeps.
    """
    if floor < 1:
        raise ValueError(f"the floor is {floor}: a row keeps at least 1 weight")
    for name, size in sizes.items():
        if size.weights < floor:
            raise ValueError(
                f"a row of {name} has {size.weights} weights, fewer than the floor of {floor}; "
                "lower the floor, or exclude this kernel"
            )
    total = total_weights(sizes.values())
    least = floor * sum(size.layers * size.rows for size in sizes.values())
    for sparsity in sparsities:
        left = total - round(sparsity * total)
        if left < least:
            raise ValueError(
                f"sparsity {sparsity:g} leaves {left} weights, fewer than the floor of {floor} "
                f"a row, {least} in all; at most {1 - least / total:.4f} is possible"
            )


def apply(params: Tree, masks: Masks, k: int | jax.Array) -> Tree:
    """The parameters of subnet k: zeros in place of what it does not keep.

    Weights outside the mask get no gradient.

    Args:
      params: the tree that the masks are of, or one like it.
      masks: of `subnet_masks`.
      k: 0 is the densest subnet, -1 keeps all weights; may be traced.
    """
    kernels, k = pick(params, masks.levels), jnp.asarray(k, jnp.int32)  # -1 is no uint8
    kept = {
        name: jnp.where(masks.levels[name] > k, kernel, jnp.zeros_like(kernel))
        for name, kernel in kernels.items()
    }
    return replace_leaves(params, kept)


def densities(masks: Masks) -> jax.Array:
    """Share of the pruned kernels' weights that each subnet keeps: float32 [K]."""
    subnets = range(next(iter(masks.counts.values())).shape[0])
    total = sum(levels.size for levels in masks.levels.values())
    kept = [
        sum(jnp.sum(levels > k).astype(jnp.float32) for levels in masks.levels.values())
        for k in subnets
    ]
    return jnp.stack(kept) / total


def _alike(sizes: Mapping[str, Size]) -> list[list[str]]:
    """Names of kernels with equally many rows of equal length, together."""
    groups: dict[tuple[int, int], list[str]] = {}
    for name, size in sizes.items():
        groups.setdefault((size.rows, size.weights), []).append(name)
    return list(groups.values())


def _joined(
    arrays: Sequence[jax.Array], names: Sequence[str], specs: Mapping[str, RowSpec]
) -> jax.Array:
    """Arrays of the kernels' shapes -> their rows, one after the other: [layers of all,R,N]."""
    return jnp.concatenate(
        [to_rows(array, specs[name]) for array, name in zip(arrays, names, strict=True)]
    )


def _split(
    arrays: Sequence[jax.Array], groups: Sequence[Sequence[str]], sizes: Mapping[str, Size]
) -> dict[str, jax.Array]:
    """Arrays [layers of a group, ...] -> [L, ...] of each kernel, in the order of `sizes`."""
    found = {}
    for array, group in zip(arrays, groups, strict=True):
        start = 0
        for name in group:
            found[name] = array[start : start + sizes[name].layers]
            start += sizes[name].layers
    return {name: found[name] for name in sizes}


def _sort_keys(weights: jax.Array) -> jax.Array:
    """Integers in the order of the magnitudes, and equal where these are equal."""
    magnitudes = jnp.abs(weights)
    if magnitudes.dtype == jnp.float64:
        return jax.lax.bitcast_convert_type(magnitudes, jnp.int64)
    return jax.lax.bitcast_convert_type(magnitudes.astype(jnp.float32), jnp.int32)


def _magnitudes(keys: jax.Array) -> jax.Array:
    """Undoes `_sort_keys`."""
    dtype = jnp.float64 if keys.dtype == jnp.int64 else jnp.float32
    return jax.lax.bitcast_convert_type(keys, dtype)


def _levels(
    kernels: dict[str, jax.Array],
    specs: Mapping[str, RowSpec],
    rising: jax.Array,
    counts: jax.Array,
) -> dict[str, jax.Array]:
    """Levels of kernels whose rows are alike, in their own shapes.

    Args:
      kernels: by name, L layers in all.
      specs: of these and others.
      rising: the sort keys of their rows, sorted, [L,R,N].
      counts: int32 [K,L], weights per row.
    """
    layers, rows, length = rising.shape
    names = list(kernels)
    kept = jnp.broadcast_to(counts.T[:, None], (layers, rows, counts.shape[0]))  # [L,R,K]
    thresholds = jnp.take_along_axis(rising, length - kept, axis=2)
    next_largest = jnp.take_along_axis(rising, jnp.maximum(length - kept - 1, 0), axis=2)

    def last_of_ties() -> jax.Array:
        keys = _joined([_sort_keys(kernel) for kernel in kernels.values()], names, specs)
        return _last_kept(keys, thresholds, kept)

    last = jax.lax.cond(
        jnp.any((thresholds == next_largest) & (kept < length)),
        last_of_ties,
        lambda: jnp.full_like(kept, length - 1),
    )
    sizes = {name: Size(*specs[name].sizes(kernel.shape)) for name, kernel in kernels.items()}
    both = zip(*(_split([of_rows], [names], sizes).values() for of_rows in (thresholds, last)))
    return {
        name: _levels_in_place(kernels[name], specs[name], *of_rows)
        for name, of_rows in zip(names, both, strict=True)
    }


def _levels_in_place(
    kernel: jax.Array, spec: RowSpec, thresholds: jax.Array, last: jax.Array
) -> jax.Array:
    """Levels of a kernel: to move its weights into rows would cost more than to compare them.

    Args:
      kernel: of any shape.
      spec: its rows.
      thresholds: the least sort key that each subnet keeps, [L,R,K].
      last: up to which position of the row it keeps equal ones, [L,R,K].
    """
    keys = _sort_keys(kernel)
    of_row = [1 if axis in spec.inputs else size for axis, size in enumerate(keys.shape)]
    of_weight = [size if axis in spec.inputs else 1 for axis, size in enumerate(keys.shape)]
    position = jnp.arange(keys.size // math.prod(of_row), dtype=jnp.int32)
    position = from_rows(position, spec, of_weight)

    def kept(threshold: jax.Array, last: jax.Array) -> jax.Array:
        threshold, last = (from_rows(array, spec, of_row) for array in (threshold, last))
        return (keys > threshold) | ((keys == threshold) & (position <= last))

    return jnp.sum(jax.vmap(kept, -1)(thresholds, last), axis=0, dtype=jnp.uint8)


def _last_kept(keys: jax.Array, thresholds: jax.Array, counts: jax.Array) -> jax.Array:
    """Position of the last weight of each row that a subnet keeps at its threshold.

    Of equal weights the first ones fill the row. Found by bisection, which takes half the time
    of a running sum.

    Args:
      keys: sort keys of rows [L,R,N].
      thresholds: the least that each subnet keeps [L,R,K].
      counts: how many it keeps, int32 [L,R,K].

    Returns:
      int32 [L,R,K].
    """
    length = keys.shape[-1]
    position = jnp.arange(length, dtype=jnp.int32)

    def of_subnet(subnet: tuple[jax.Array, jax.Array]) -> jax.Array:
        threshold, count = (array[..., None] for array in subnet)  # [L,R,1]
        equal = keys == threshold
        room = count - jnp.sum(keys > threshold, axis=-1, keepdims=True, dtype=jnp.int32)

        def halve(_: int, bounds: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
            low, high = bounds
            middle = (low + high) // 2
            upto = equal & (position <= middle)
            enough = jnp.sum(upto, axis=-1, keepdims=True, dtype=jnp.int32) >= room
            return jnp.where(enough, low, middle + 1), jnp.where(enough, middle, high)

        bounds = jnp.zeros_like(room), jnp.full_like(room, length - 1)
        return jax.lax.fori_loop(0, (length - 1).bit_length(), halve, bounds)[0][..., 0]

    by_subnet = jnp.moveaxis(thresholds, -1, 0), jnp.moveaxis(counts, -1, 0)
    return jnp.moveaxis(jax.lax.map(of_subnet, by_subnet), 0, -1)
