"""Masks: the largest weights of each row, nested over K subnets, all from one sort.

A weight's level is the number of subnets that keep it, so subnet k keeps the levels above k:
masks are nested by construction, and all K of them cost one byte a weight.

    specs = kernel_specs(params)
    masks = subnet_masks(params, specs, (0.5, 0.8, 0.9))
    sparse = apply(params, masks, 1)  # the 80 % subnet; the 1 may be traced

Rows are sorted by value alone: the n-th largest of a row is a threshold, and only where equal
weights lie on both sides of it do their positions decide. The bits of a non-negative float,
read as an integer, are ordered as the float is, and XLA on CPU sorts integers 4 to 5 times as
fast as floats, or as the positions that ranks would need (benchmarks/dress_masks.py).
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, TypeVar

import jax
import jax.numpy as jnp
import numpy as np

from codesign.dress.budgets import (
    BUDGETS,
    Budget,
    Size,
    global_counts,
    row_average,
    total_weights,
    uniform_counts,
)
from codesign.dress.rows import RowSpec, from_rows, to_rows
from codesign.dress.subnet_numbers import check_subnet
from codesign.dress.trees import pick, replace_leaves
from codesign.printable import short_repr

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
      ValueError: no list of numbers; none, too many, outside [0, 1), or not strictly increasing.
    """
    try:
        listed = np.asarray(sparsities)
    except ValueError:  # lists of several lengths
        listed = np.asarray(None)
    if listed.ndim != 1 or listed.dtype.kind not in "fiu":
        shown = short_repr(sparsities)
        raise ValueError(f"sparsity is {shown}: it must be a list of shares such as [0.5, 0.9]")
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

    ranked = {name: _ranked(kernels[name], spec) for name, spec in specs.items()}
    if budget == "uniform":
        counts = uniform_counts(sizes, sparsities, floor)
    else:
        averages = {name: average for name, (_, average) in ranked.items()}
        rows = {name: size.rows for name, size in sizes.items()}
        counts = global_counts(averages, rows, sparsities, floor)
    return _masks(kernels, specs, {name: rising for name, (rising, _) in ranked.items()}, counts)


def counted_masks(params: Any, specs: Mapping[str, RowSpec], counts: Mapping[str, Any]) -> Masks:
    """The masks that keep so many weights of each row, by magnitude. Pure, counts may be traced.

    Args:
      params: as in `subnet_masks`.
      specs: likewise.
      counts: int32 [K,L] by name, from 1 to a row's length, not increasing with k.
    """
    kernels = pick(params, specs)
    rising = {name: _ranked(kernels[name], spec)[0] for name, spec in specs.items()}
    return _masks(kernels, specs, rising, dict(counts))


def _masks(
    kernels: Mapping[str, Any],
    specs: Mapping[str, RowSpec],
    rising: Mapping[str, jax.Array],
    counts: dict[str, jax.Array],
) -> Masks:
    cuts = {name: _cuts(rising[name], counts[name]) for name in specs}
    return Masks(
        {name: _levels(kernels[name], spec, cuts[name]) for name, spec in specs.items()}, counts
    )


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

    Raises:
      ValueError: there is no such subnet; not told of a traced number.
    """
    counts = next(iter(masks.counts.values()), None)  # none where nothing is pruned
    subnets = 0 if counts is None else counts.shape[0]
    if subnets:
        check_subnet(k, subnets, dense=True)
    kernels = pick(params, masks.levels)
    # In one byte, as levels are: of wider ones XLA would make copies outside a loop over k.
    least = (jnp.asarray(k, jnp.int32) + 1).astype(jnp.uint8)
    kept = {
        name: jnp.where(masks.levels[name] >= least, kernel, jnp.zeros_like(kernel))
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


def _rows_of_layer(kernel: jax.Array, spec: RowSpec, layer: jax.Array) -> jax.Array:
    """Rows [R,N] of one layer of a kernel; only these are moved."""
    stacked = [kernel.shape[axis] for axis in spec.stacked]
    for axis, index in zip(spec.stacked, jnp.unravel_index(layer, stacked), strict=True):
        kernel = jax.lax.dynamic_index_in_dim(kernel, index, axis)
    return to_rows(kernel, spec)[0]


def _ranked(kernel: jax.Array, spec: RowSpec) -> tuple[jax.Array, jax.Array]:
    """The sort keys of each row, sorted [L,R,N]; the j-th largest, averaged, float32 [L,N].

    Layer by layer, so that temporary memory is that of the sorted rows and one layer.
    """

    def of_layer(layer: jax.Array) -> tuple[jax.Array, jax.Array]:
        keys = _sort_keys(_rows_of_layer(kernel, spec, layer))
        rising = jax.lax.sort(keys, is_stable=False)
        return rising, row_average(_magnitudes(rising))[::-1]

    return jax.lax.map(of_layer, jnp.arange(spec.sizes(kernel.shape)[0]))


class _Cuts(NamedTuple):
    """Where each row [L,R] is cut for each of K subnets.

    Attributes:
      threshold: [L,R,K], the sort key of the smallest weight that is kept.
      kept: int32 [L,R,K], how many weights are kept.
      tied: bool [L,R,K], weights equal to the smallest one are left out.
    """

    threshold: jax.Array
    kept: jax.Array
    tied: jax.Array


def _cuts(rising: jax.Array, counts: jax.Array) -> _Cuts:
    """Cuts of rows whose sort keys are sorted [L,R,N]; counts int32 [K,L]."""
    layers, rows, length = rising.shape
    kept = jnp.broadcast_to(counts.T[:, None], (layers, rows, counts.shape[0]))
    threshold = jnp.take_along_axis(rising, length - kept, axis=2)
    next_largest = jnp.take_along_axis(rising, jnp.maximum(length - kept - 1, 0), axis=2)
    return _Cuts(threshold, kept, (threshold == next_largest) & (kept < length))


def _levels(kernel: jax.Array, spec: RowSpec, cuts: _Cuts) -> jax.Array:
    """Levels of a kernel: to move its weights into rows would cost more than to compare them."""
    keys, last = _sort_keys(kernel), _last_kept(kernel, spec, cuts)
    of_row = [1 if axis in spec.inputs else size for axis, size in enumerate(keys.shape)]
    of_weight = [size if axis in spec.inputs else 1 for axis, size in enumerate(keys.shape)]
    position = from_rows(jnp.arange(math.prod(of_weight), dtype=jnp.int32), spec, of_weight)

    def kept(threshold: jax.Array, last: jax.Array) -> jax.Array:
        threshold, last = (from_rows(array, spec, of_row) for array in (threshold, last))
        return (keys > threshold) | ((keys == threshold) & (position <= last))

    return jnp.sum(jax.vmap(kept, -1)(cuts.threshold, last), axis=0, dtype=jnp.uint8)


def _last_kept(kernel: jax.Array, spec: RowSpec, cuts: _Cuts) -> jax.Array:
    """int32 [L,R,K]: position in its row up to which weights equal to the threshold are kept.

    Of millions of float32 weights a few are tied, so the layers without a tie are passed over.
    """
    layers, _, length = spec.sizes(kernel.shape)

    def of_layer(layer: jax.Array, cuts: _Cuts) -> jax.Array:
        return _last_of_ties(_sort_keys(_rows_of_layer(kernel, spec, layer)), cuts)

    def of_layer_if_tied(layer_and_cuts: tuple[jax.Array, _Cuts]) -> jax.Array:
        layer, cuts = layer_and_cuts
        every = jnp.full_like(cuts.kept, length - 1)
        return jax.lax.cond(jnp.any(cuts.tied), of_layer, lambda *_: every, layer, cuts)

    return jax.lax.map(of_layer_if_tied, (jnp.arange(layers), cuts))


def _last_of_ties(keys: jax.Array, cuts: _Cuts) -> jax.Array:
    """int32 [R,K], for the sort keys [R,N] of one layer and its cuts [R,K].

    Of equal weights the first ones fill the row. By bisection, in half the time of a running sum.
    """
    length = keys.shape[-1]
    position = jnp.arange(length, dtype=jnp.int32)

    def of_subnet(threshold: jax.Array, kept: jax.Array) -> jax.Array:
        def number(chosen: jax.Array) -> jax.Array:
            return jnp.sum(chosen, axis=-1, dtype=jnp.int32)

        equal = keys == threshold[:, None]
        room = kept - number(keys > threshold[:, None])

        def halve(_: int, bounds: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
            low, high = bounds
            middle = (low + high) // 2
            enough = number(equal & (position <= middle[:, None])) >= room
            return jnp.where(enough, low, middle + 1), jnp.where(enough, middle, high)

        bounds = jnp.zeros_like(room), jnp.full_like(room, length - 1)
        return jax.lax.fori_loop(0, (length - 1).bit_length(), halve, bounds)[0]

    return jax.lax.map(lambda cut: of_subnet(*cut), (cuts.threshold.T, cuts.kept.T)).T
