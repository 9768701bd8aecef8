"""Exact costs of every design of a space, tabulated by what they are made of.

A CLIP's costs are sums over operators, and across a space few operators differ:
a feed-forward product depends on width and hidden units alone. So each distinct
GEMM is mapped once per accelerator, and a tower's table is a sum of look-ups.

The table is also the differentiable cost model of the joint search: contracted with
the space's interpolation weights it is the multilinear interpolation of the exact
discrete costs, equal to them at every discrete design, continuous between, and its
gradient is a difference of true costs of neighbouring designs. Equivalently, it is
the expected cost when every dimension is rounded up or down at random.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
import operator
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from codesign.accelerator import Accelerator
from codesign.architecture import Tower
from codesign.cost.costing import costing_of
from codesign.cost.execution import Execution
from codesign.cost.mapper import gemm_run
from codesign.cost.mapping import is_crowded
from codesign.cost.model import Chip, Costs, costs_of, summed
from codesign.cost.technology import technology
from codesign.cost.vector_unit import vector_costs
from codesign.scenario import Scenario
from codesign.space import AcceleratorChoices, DesignSpace
from codesign.workload import Workload
from codesign.workload.operators import weight_density

Array = jax.Array
# (GEMM, accelerator) pairs mapped side by side: long vectors that stay in cache.
PAIRS_AT_ONCE = 1 << 15


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class CostTable:
    """Costs of all designs of a space; A is the shape [cores, pe_x, ...] of its accelerators.

    Attributes:
      layer: per tower, one transformer block, static energy included: [width, heads, ffn, *A].
      outside: per tower, everything outside the blocks: [width, *A].
      chip: area and peak of the accelerators, [*A].
      scenario: what the carbon is computed with.
      space: the space.
    """

    layer: dict[str, Execution]
    outside: dict[str, Execution]
    chip: Chip
    scenario: Scenario = dataclasses.field(metadata={"static": True})
    space: DesignSpace = dataclasses.field(metadata={"static": True})

    def relaxed(self, z: Array) -> Costs:
        """Costs at a relaxed design z [d]: multilinear between the discrete designs."""
        space, weights = self.space, self.space.weights(z)
        on_chip = [_neighbours(w) for w in space.part(weights, "accelerator")]

        def tower(name: str) -> Execution:
            layers, *block = space.part(weights, name)
            width, heads, ffn = map(_neighbours, block)
            number = layers @ jnp.asarray(space.towers[name].layers, jnp.float32)
            inside = self.layer[name].map(
                lambda x: number * _interpolate(x, [width, heads, ffn, *on_chip])
            )
            return inside.then(
                self.outside[name].map(lambda x: _interpolate(x, [width, *on_chip]))
            )

        chip = jax.tree.map(lambda x: _interpolate(x, on_chip), self.chip)
        run = functools.reduce(Execution.then, map(tower, space.towers))
        return costs_of(run, chip, self.scenario).totals()

    def on_every_accelerator(self, indices: Array) -> Costs:
        """Costs [accelerators] of the architecture at choice indices [>= architecture_size]."""
        space = self.space

        def tower(name: str) -> Execution:
            layer, width, heads, ffn = space.part(indices, name)
            layers = jnp.asarray(space.towers[name].layers, jnp.float32)[layer]
            inside = self.layer[name].map(lambda x: layers * x[width, heads, ffn])
            return inside.then(self.outside[name].map(lambda x: x[width]))

        run = functools.reduce(Execution.then, map(tower, space.towers))
        run, chip = jax.tree.map(lambda x: jnp.reshape(x, -1), (run, self.chip))
        return costs_of(run, chip, self.scenario).totals()

    def accelerator_indices(self, flat: Array) -> Array:
        """Choice indices [..., 6] of accelerators given by flat index [...]."""
        return jnp.stack(jnp.unravel_index(flat, self.chip.tops.shape), axis=-1)


class _Axis(NamedTuple):
    """Consecutive choices of one dimension: index of the first and their weights [<= 3]."""

    first: Array
    weights: Array


def _neighbours(weights: Array) -> _Axis:
    """The choices that weigh anything, or whose weights have a derivative, out of [n]."""
    size = min(3, len(weights))
    first = jnp.clip(jnp.argmax(weights) - 1, 0, len(weights) - size)
    return _Axis(first, jax.lax.dynamic_slice_in_dim(weights, first, size))


def _interpolate(values: Array, axes: Sequence[_Axis]) -> Array:
    """Sum over the neighbours along every axis of values [n, ...], times their weights."""
    near = jax.lax.dynamic_slice(
        values, [a.first for a in axes], [len(a.weights) for a in axes]
    )
    for axis in reversed(axes):
        near = near @ axis.weights
    return near


@functools.partial(jax.jit, static_argnames=("scenario", "batch", "crowded"))
def _map_gemms(
    gemms: Array, chips: Accelerator, scenario: Scenario, batch: int, crowded: bool
) -> Execution:
    """Execution [A, U], without static energy, of single GEMMs on every accelerator.

    Args:
      gemms: m, k, n and, where some are sparse, densities: [U, 3 or 4].
      chips: leaves [A].
      scenario: clock and bandwidths.
      batch: how many accelerators are mapped together; divides A.
      crowded: what `is_crowded` says of all of them.
    """

    def on_chip(chip: Accelerator) -> Execution:
        tech = technology(chip, scenario)
        m, k, n, *density = gemms.T
        run = functools.partial(gemm_run, crowded=crowded)
        run = jax.vmap(run, in_axes=(0, 0, 0, None, None, 0))
        return run(m, k, n, chip, tech, density[0] if density else None)

    in_batches = jax.tree.map(lambda x: x.reshape(-1, batch), chips)
    run: Execution = jax.lax.map(jax.vmap(on_chip), in_batches)
    return run.map(lambda x: x.reshape(-1, x.shape[-1]))


@functools.partial(jax.jit, static_argnames="scenario")
def _sum_operators(
    mapped: Execution, which: Array, workload: Workload, chips: Accelerator, scenario: Scenario
) -> Execution:
    """Execution [D, A] of D workloads made of mapped GEMMs: sums alone, static energy included.

    Args:
      mapped: distinct GEMMs on every accelerator, [A, U].
      which: the distinct GEMM that each GEMM of each workload is, [D, G].
      workload: operators, [D, G] and [D, V].
      chips: accelerators, leaves [A].
      scenario: clock and bandwidths.
    """

    def on_chip(chip: Accelerator, mapped: Execution) -> Execution:
        tech = technology(chip, scenario)
        gemms = mapped.map(lambda x: x[which])
        # One sum of the parts before that over the operators.
        vector = vector_costs(workload, chip, tech).merged()
        return summed(gemms, vector, workload).with_static(tech).merged()

    run: Execution = jax.vmap(on_chip, out_axes=1)(chips, mapped)
    return run


def stack_workloads(workloads: Sequence[Workload]) -> Workload:
    """Batches of workloads [D_i] as one batch [sum D_i], padded with operators that never run."""
    gemms = max(len(w.gemm_names) for w in workloads)
    sparse = any(w.density is not None for w in workloads)
    vector_ops = max(len(w.vector_names) for w in workloads)

    def padded(name: str, operators: int, fill: float) -> Any:
        """One field of all workloads, [sum D_i, operators]."""
        given = weight_density if name == "density" else operator.attrgetter(name)
        parts = [np.asarray(given(w)) for w in workloads]
        rows = [w.m.shape[0] for w in workloads]
        parts = [np.broadcast_to(x, (n, x.shape[-1])) for x, n in zip(parts, rows, strict=True)]
        missing = [operators - x.shape[-1] for x in parts]
        return np.concatenate([
            np.pad(x, ((0, 0), (0, more)), constant_values=fill)
            for x, more in zip(parts, missing, strict=True)
        ])

    return Workload(
        **{name: padded(name, gemms, 1.0) for name in ("m", "k", "n")},
        count=padded("count", gemms, 0.0),
        **{
            name: padded(name, vector_ops, 0.0)
            for name in ("elements", "vector_count", "vector_cycles", "vector_operands",
                         "vector_rows")
        },
        density=padded("density", gemms, 1.0) if sparse else None,
        gemm_names=tuple(f"gemm_{i}" for i in range(gemms)),
        vector_names=tuple(f"vector_{i}" for i in range(vector_ops)),
    )


def run_grid(
    workloads: Sequence[Workload], chips: Accelerator, scenario: Scenario
) -> list[Execution]:
    """Execution [D, A] of workloads on every accelerator; each distinct GEMM is mapped once.

    Args:
      workloads: concrete batches of operators, each [D, G] and [D, V].
      chips: accelerators, leaves [A].
      scenario: clock and bandwidths.
    """
    workload = stack_workloads(workloads)
    columns = [workload.m, workload.k, workload.n]
    columns += [] if workload.density is None else [workload.density]
    shapes = np.stack([np.asarray(x) for x in columns], axis=-1)
    gemms, which = np.unique(shapes.reshape(-1, len(columns)), axis=0, return_inverse=True)
    # In NumPy what need not be compiled: most of a small search's time is compilation.
    chips = jax.tree.map(lambda x: np.asarray(x, np.float32), chips)
    mapped = _mapped(gemms, chips, scenario)
    run = _sum_operators(mapped, which.reshape(shapes.shape[:2]), workload, chips, scenario)
    ends = np.cumsum([0, *(w.m.shape[0] for w in workloads)])
    return [run.map(lambda x, a=a, b=b: x[a:b]) for a, b in itertools.pairwise(ends)]


def _mapped(gemms: np.ndarray, chips: Accelerator, scenario: Scenario) -> Execution:
    """Execution [A, U], without static energy, of single GEMMs [U, 3 or 4] on chips [A]."""
    crowded = np.asarray(is_crowded(chips))
    batch = min(len(crowded), max(1, PAIRS_AT_ONCE // len(gemms)))
    runs, places = [], []
    for kind in np.unique(crowded):
        # Padded to whole batches by more of the last: what they give is that chip's again.
        mine = np.flatnonzero(crowded == kind)
        mine = np.pad(mine, (0, -len(mine) % batch), mode="edge")
        some = jax.tree.map(lambda x, mine=mine: x[mine], chips)
        runs.append(_map_gemms(gemms, some, scenario, batch, bool(kind)))
        places.append(mine)
    order = np.zeros(len(crowded), np.int64)
    order[np.concatenate(places)] = np.arange(sum(map(len, places)))
    mapped: Execution = jax.tree.map(lambda *x: jnp.concatenate(x)[order], *runs)
    return mapped


def accelerator_grid(choices: AcceleratorChoices) -> Accelerator:
    """Every accelerator of the choices, leaves [A] in row-major order of them."""
    axes = [getattr(choices, f.name) for f in dataclasses.fields(choices)]
    return Accelerator(*np.array(list(itertools.product(*axes)), np.float32).T)


def grid_costs(
    workload: Workload, chips: Accelerator, scenario: Scenario
) -> Costs:
    """Costs [A] of one workload on every accelerator (leaves [A]); infinite where it fits none."""
    one = jax.tree.map(lambda x: np.asarray(x)[None], workload)
    (run,) = run_grid([one], chips, scenario)
    return _on_chips(run.map(lambda x: x[0]), chips, scenario)


@functools.partial(jax.jit, static_argnames="scenario")
def _on_chips(run: Execution, chips: Accelerator, scenario: Scenario) -> Costs:
    return costs_of(run, Chip.of(chips, scenario), scenario).totals()


def build_table(space: DesignSpace, scenario: Scenario, density: float = 1) -> CostTable:
    """Maps every distinct operator of the space on every accelerator of it.

    Args:
      space: the space.
      scenario: where and how designs live.
      density: share of the blocks' weights that are kept.

    Raises:
      ValueError: an accelerator whose buffers are too small for some operator.
    """
    chips = accelerator_grid(space.accelerator)
    chip_shape = [len(d.choices) for d in space.part(space.dimensions, "accelerator")]
    base, family, costing = space.base, space.family, costing_of(scenario)
    blocks, rest, shapes = [], [], []
    for name, choices in space.towers.items():
        w, h, f = np.meshgrid(choices.width, choices.heads, choices.ffn, indexing="ij")
        shapes.append(w.shape)
        every = Tower(1, *(jnp.asarray(x.ravel()) for x in (w, h, f)))
        blocks.append(family.block(base, name, every, density).under(costing))
        rest.append(family.outside(base, name, jnp.asarray(choices.width)).under(costing))
    runs = run_grid([*blocks, *rest], chips, scenario)
    _check_fits(runs, chips)
    layer = {
        name: run.map(functools.partial(jnp.reshape, shape=(*shape, *chip_shape)))
        for name, shape, run in zip(space.towers, shapes, runs[: len(blocks)], strict=True)
    }
    outside = {
        name: run.map(lambda x: jnp.reshape(x, (-1, *chip_shape)))
        for name, run in zip(space.towers, runs[len(blocks) :], strict=True)
    }
    grid = jax.tree.map(lambda x: jnp.asarray(x).reshape(chip_shape), chips)
    return CostTable(
        layer=layer,
        outside=outside,
        chip=Chip.of(grid, scenario).merged(),
        scenario=scenario,
        space=space,
    )


def _check_fits(runs: Sequence[Execution], chips: Accelerator) -> None:
    """Raises ValueError where a workload has no mapping: infinities do not interpolate."""
    fits = np.logical_and.reduce([np.isfinite(run.cycles).all(axis=0) for run in runs])
    if not fits.all():
        first = jax.tree.map(lambda x: float(x[np.argmin(fits)]), chips)
        raise ValueError(
            f"space.accelerator: {np.sum(~fits)} of {len(fits)} accelerators have buffers too "
            f"small for some operator, the first {first}: raise l2_kib or glb_mib"
        )
