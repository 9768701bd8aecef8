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
from codesign.architecture import TOWERS, Tower
from codesign.cost import carbon
from codesign.cost.mapper import gemm_run
from codesign.cost.model import Costs
from codesign.cost.technology import area_breakdown_mm2, technology, tops
from codesign.cost.vector_unit import vector_costs
from codesign.costing import costing_of
from codesign.scenario import Scenario
from codesign.space import AcceleratorChoices, DesignSpace
from codesign.workload import Workload, outside_workload, tower_layer_workload
from codesign.workload.operators import weight_density

Array = jax.Array
# (GEMM, accelerator) pairs mapped side by side: long vectors that stay in cache.
PAIRS_AT_ONCE = 1 << 15


class Run(NamedTuple):
    """Time and energy of one inference, leakage included; arrays [...]."""

    cycles: Any
    energy_pj: Any


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class CostTable:
    """Costs of all designs of a space; A is the shape [cores, pe_x, ...] of its accelerators.

    Attributes:
      layer: per tower, one transformer block: Run of [width, heads, ffn, *A].
      outside: per tower, everything outside the blocks: Run of [width, *A].
      area_mm2: chip area, [*A].
      tops: peak 1e12 int8 operations/s, [*A].
      scenario: what the carbon is computed with.
      space: the space.
    """

    layer: dict[str, Run]
    outside: dict[str, Run]
    area_mm2: Array
    tops: Array
    scenario: Scenario = dataclasses.field(metadata={"static": True})
    space: DesignSpace = dataclasses.field(metadata={"static": True})

    def relaxed(self, z: Array) -> Costs:
        """Costs at a relaxed design z [d]: multilinear between the discrete designs."""
        weights = dict(zip(self.space.names, self.space.weights(z), strict=True))
        axes = {name: _neighbours(w) for name, w in weights.items()}
        chip = [axis for name, axis in axes.items() if name.startswith("accelerator.")]

        def tower(name: str, part: int) -> Array:
            width, heads, ffn = (axes[f"{name}.{d}"] for d in ("width", "heads", "ffn"))
            layers = jnp.asarray(getattr(self.space, name).layers, jnp.float32)
            per_layer = _interpolate(self.layer[name][part], [width, heads, ffn, *chip])
            return (weights[f"{name}.layers"] @ layers) * per_layer + _interpolate(
                self.outside[name][part], [width, *chip]
            )

        cycles, energy_pj = (sum(tower(t, part) for t in TOWERS) for part in (0, 1))
        return self._costs(
            cycles, energy_pj, _interpolate(self.area_mm2, chip), _interpolate(self.tops, chip)
        )

    def on_every_accelerator(self, indices: Array) -> Costs:
        """Costs [accelerators] of the architecture at choice indices [>= 8]."""
        cycles, energy_pj = 0.0, 0.0
        for t, name in enumerate(TOWERS):
            layer, width, heads, ffn = (indices[4 * t + i] for i in range(4))
            layers = jnp.asarray(getattr(self.space, name).layers, jnp.float32)[layer]
            here = [run[width, heads, ffn] for run in self.layer[name]]
            outside = [run[width] for run in self.outside[name]]
            cycles += layers * here[0] + outside[0]
            energy_pj += layers * here[1] + outside[1]
        flat = lambda x: jnp.reshape(x, -1)  # noqa: E731
        return self._costs(flat(cycles), flat(energy_pj), flat(self.area_mm2), flat(self.tops))

    def accelerator_indices(self, flat: Array) -> Array:
        """Choice indices [..., 6] of accelerators given by flat index [...]."""
        return jnp.stack(jnp.unravel_index(flat, self.area_mm2.shape), axis=-1)

    def _costs(self, cycles: Any, energy_pj: Any, area_mm2: Any, peak_tops: Any) -> Costs:
        return totals(Run(cycles, energy_pj), area_mm2, peak_tops, self.scenario)


def totals(run: Run, area_mm2: Any, peak_tops: Any, scenario: Scenario) -> Costs:
    """Costs, without breakdown, of runs on chips; shapes broadcast."""
    energy_j = 1e-12 * run.energy_pj
    return Costs(
        latency_s=run.cycles / scenario.clock_hz,
        energy_j=energy_j,
        area_mm2=area_mm2,
        tops=peak_tops,
        operational_kgco2e=carbon.operational_kgco2e(energy_j, scenario),
        embodied_kgco2e=carbon.chip_kgco2e(area_mm2, scenario) + carbon.dram_kgco2e(scenario),
    )


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


@functools.partial(jax.jit, static_argnames=("scenario", "batch"))
def _map_gemms(
    gemms: Array, chips: Accelerator, scenario: Scenario, batch: int
) -> Run:
    """Run [A, U], without leakage, of single GEMMs on accelerators [A].

    Args:
      gemms: m, k, n and, where some are sparse, densities: [U, 3 or 4].
    """

    def on_chip(chip: Accelerator) -> Run:
        tech = technology(chip, scenario)
        m, k, n, *density = gemms.T
        run = jax.vmap(gemm_run, in_axes=(0, 0, 0, None, None, 0))
        return Run(*run(m, k, n, chip, tech, density[0] if density else None))

    in_batches = jax.tree.map(lambda x: x.reshape(-1, batch), chips)
    run = jax.lax.map(jax.vmap(on_chip), in_batches)
    return Run(*(x.reshape(-1, x.shape[-1]) for x in run))


@functools.partial(jax.jit, static_argnames="scenario")
def _sum_operators(
    mapped: Run, which: Array, workload: Workload, chips: Accelerator, scenario: Scenario
) -> Run:
    """Run [D, A], leakage included, of D workloads made of mapped GEMMs.

    Args:
      mapped: distinct GEMMs on every accelerator, [>= A, U]; what is beyond A is padding.
      which: the distinct GEMM that each GEMM of each workload is, [D, G].
      workload: operators, [D, G] and [D, V].
      chips: accelerators, leaves [A].
      scenario: clock and bandwidths.
    """

    def on_chip(chip: Accelerator, cycles: Array, dynamic_pj: Array) -> Run:
        tech = technology(chip, scenario)
        vector = vector_costs(workload, chip, tech)
        in_arrays = lambda x: jnp.sum(x[which] * workload.count, axis=-1)  # noqa: E731
        in_lanes = lambda x: jnp.sum(x * workload.vector_count, axis=-1)  # noqa: E731
        total_cycles = in_arrays(cycles) + in_lanes(vector.cycles)
        total_pj = in_arrays(dynamic_pj) + in_lanes(vector.dynamic_pj)
        return Run(total_cycles, total_pj + tech.static_pj * total_cycles)

    mapped = Run(*(x[: chips.cores.shape[0]] for x in mapped))
    return jax.vmap(on_chip, out_axes=1)(chips, *mapped)


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


def run_grid(workloads: Sequence[Workload], chips: Accelerator, scenario: Scenario) -> list[Run]:
    """Run [D, A] of workloads on every accelerator; each distinct GEMM is mapped once.

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
    total = chips.cores.shape[0]
    batch = min(total, max(1, PAIRS_AT_ONCE // len(gemms)))
    chips = jax.tree.map(lambda x: np.asarray(x, np.float32), chips)
    # In NumPy what need not be compiled: most of a small search's time is compilation.
    padded = jax.tree.map(lambda x: np.pad(x, (0, -total % batch), mode="edge"), chips)
    mapped = _map_gemms(gemms, padded, scenario, batch)
    run = _sum_operators(mapped, which.reshape(shapes.shape[:2]), workload, chips, scenario)
    ends = np.cumsum([0, *(w.m.shape[0] for w in workloads)])
    return [Run(*(x[a:b] for x in run)) for a, b in itertools.pairwise(ends)]


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
    return _on_chips(Run(*(x[0] for x in run)), chips, scenario)


@functools.partial(jax.jit, static_argnames="scenario")
def _on_chips(run: Run, chips: Accelerator, scenario: Scenario) -> Costs:
    area_mm2 = sum(area_breakdown_mm2(chips, scenario).values())
    return totals(run, area_mm2, tops(chips, scenario), scenario)


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
    chip_shape = [len(d.choices) for d in space.dimensions[space.network_size :]]
    base, costing = space.base, costing_of(scenario)
    blocks, rest, shapes = [], [], []
    for name, tokens in (("vision", base.vision_tokens), ("text", base.context)):
        choices = getattr(space, name)
        w, h, f = np.meshgrid(choices.width, choices.heads, choices.ffn, indexing="ij")
        shapes.append(w.shape)
        block = functools.partial(
            tower_layer_workload,
            name=name,
            tokens=tokens,
            head_dim=base.head_dim,
            activation=base.activation,
            causal=name == "text",
            costing=costing,
            density=density,
        )
        blocks.append(block(Tower(1, *(jnp.asarray(x.ravel()) for x in (w, h, f)))))
        widths: dict[str, Any] = {name: Tower(1, jnp.asarray(choices.width), 1, 1)}
        rest.append(outside_workload(dataclasses.replace(base, **widths), name, costing))
    runs = run_grid([*blocks, *rest], chips, scenario)
    _check_fits(runs, chips)
    layer = {
        name: Run(*(x.reshape(*shape, *chip_shape) for x in run))
        for name, shape, run in zip(TOWERS, shapes, runs, strict=False)
    }
    outside = {
        name: Run(*(x.reshape(-1, *chip_shape) for x in run))
        for name, run in zip(TOWERS, runs[len(TOWERS) :], strict=True)
    }
    grid = jax.tree.map(lambda x: jnp.asarray(x).reshape(chip_shape), chips)
    return CostTable(
        layer=layer,
        outside=outside,
        area_mm2=sum(area_breakdown_mm2(grid, scenario).values()),
        tops=tops(grid, scenario),
        scenario=scenario,
        space=space,
    )


def _check_fits(runs: Sequence[Run], chips: Accelerator) -> None:
    """Raises ValueError where a workload has no mapping: infinities do not interpolate."""
    fits = np.logical_and.reduce([np.isfinite(run.cycles).all(axis=0) for run in runs])
    if not fits.all():
        first = jax.tree.map(lambda x: float(x[np.argmin(fits)]), chips)
        raise ValueError(
            f"space.accelerator: {np.sum(~fits)} of {len(fits)} accelerators have buffers too "
            f"small for some operator, the first {first}: raise l2_kib or glb_mib"
        )
