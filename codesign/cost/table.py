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
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from codesign.accelerator import Accelerator
from codesign.architecture import TOWERS, Tower
from codesign.cost import carbon
from codesign.cost.mapper import gemm_costs
from codesign.cost.model import Costs
from codesign.cost.technology import area_breakdown_mm2, technology, tops
from codesign.cost.vector_unit import vector_costs
from codesign.scenario import Scenario
from codesign.space import DesignSpace
from codesign.workload import Workload, outside_workload, tower_layer_workload

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
        chip = [w for name, w in weights.items() if name.startswith("accelerator.")]

        def on_chip(values: Array) -> Array:
            for w in chip[::-1]:
                values = values @ w
            return values

        def tower(name: str, part: int) -> Array:
            w, h, f = (weights[f"{name}.{d}"] for d in ("width", "heads", "ffn"))
            layers = jnp.asarray(getattr(self.space, name).layers, jnp.float32)
            per_layer = jnp.einsum("whf,w,h,f->", on_chip(self.layer[name][part]), w, h, f)
            return (weights[f"{name}.layers"] @ layers) * per_layer + (
                on_chip(self.outside[name][part]) @ w
            )

        cycles, energy_pj = (sum(tower(t, part) for t in TOWERS) for part in (0, 1))
        return self._costs(cycles, energy_pj, on_chip(self.area_mm2), on_chip(self.tops))

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
        s = self.scenario
        energy_j = 1e-12 * energy_pj
        return Costs(
            latency_s=cycles / s.clock_hz,
            energy_j=energy_j,
            area_mm2=area_mm2,
            tops=peak_tops,
            operational_kgco2e=carbon.operational_kgco2e(energy_j, s),
            embodied_kgco2e=area_mm2 * carbon.logic_kgco2e_per_mm2(s) + carbon.dram_kgco2e(s),
        )


@functools.partial(jax.jit, static_argnames=("scenario", "batch"))
def _map_gemms(gemms: Array, chips: Accelerator, scenario: Scenario, batch: int) -> Run:
    """Run [A, U], without leakage, of single GEMMs [U, 3] on accelerators [A]."""

    def on_chip(chip: Accelerator) -> Run:
        tech = technology(chip, scenario)
        costs = jax.vmap(gemm_costs, in_axes=(0, 0, 0, None, None))(*gemms.T, chip, tech)
        return Run(costs.cycles, costs.dynamic_pj)

    in_batches = jax.tree.map(lambda x: x.reshape(-1, batch), chips)
    run = jax.lax.map(jax.vmap(on_chip), in_batches)
    return Run(*(x.reshape(-1, x.shape[-1]) for x in run))


@functools.partial(jax.jit, static_argnames="scenario")
def _sum_operators(
    mapped: Run, which: Array, workload: Workload, chips: Accelerator, scenario: Scenario
) -> Run:
    """Run [D, A], leakage included, of D workloads made of mapped GEMMs.

    Args:
      mapped: distinct GEMMs on every accelerator, [A, U].
      which: the distinct GEMM that each GEMM of each workload is, [D, G].
      workload: operators, [D, G] and [D, V].
      chips: accelerators, leaves [A].
      scenario: clock and bandwidths.
    """

    def on_chip(chip: Accelerator, cycles: Array, dynamic_pj: Array) -> Run:
        tech = technology(chip, scenario)
        vector = jax.vmap(vector_costs, in_axes=(0, None, None))(workload, chip, tech)
        in_arrays = lambda x: jnp.sum(x[which] * workload.count, axis=-1)  # noqa: E731
        in_lanes = lambda x: jnp.sum(x * workload.vector_count, axis=-1)  # noqa: E731
        total_cycles = in_arrays(cycles) + in_lanes(vector.cycles)
        total_pj = in_arrays(dynamic_pj) + in_lanes(vector.dynamic_pj)
        return Run(total_cycles, total_pj + tech.leakage_pj * total_cycles)

    return jax.vmap(on_chip, out_axes=1)(chips, *mapped)


def run_grid(
    workloads: Sequence[Workload], chips: Accelerator, scenario: Scenario
) -> list[Run]:
    """Run [D, A] of workloads on every accelerator; each distinct GEMM is mapped once.

    Args:
      workloads: concrete batches of operators, each [D, G] and [D, V].
      chips: accelerators, leaves [A].
      scenario: clock and bandwidths.
    """
    shapes = [np.stack([np.asarray(x) for x in (w.m, w.k, w.n)], axis=-1) for w in workloads]
    gemms, which = np.unique(
        np.concatenate([s.reshape(-1, 3) for s in shapes]), axis=0, return_inverse=True
    )
    total = chips.cores.shape[0]
    batch = min(total, max(1, PAIRS_AT_ONCE // len(gemms)))
    chips = jax.tree.map(lambda x: jnp.asarray(x, jnp.float32), chips)
    padded = jax.tree.map(lambda x: jnp.pad(x, (0, -total % batch), mode="edge"), chips)
    mapped = _map_gemms(jnp.asarray(gemms), padded, scenario, batch)
    mapped = Run(*(x[:total] for x in mapped))
    ends = np.cumsum([s.shape[0] * s.shape[1] for s in shapes])[:-1]
    return [
        _sum_operators(mapped, jnp.asarray(part.reshape(s.shape[:2])), w, chips, scenario)
        for part, s, w in zip(np.split(which.reshape(-1), ends), shapes, workloads, strict=True)
    ]


def accelerator_grid(space: DesignSpace) -> Accelerator:
    """Every accelerator of the space, leaves [A] in row-major order of the choices."""
    choices = [d.choices for d in space.dimensions[space.architecture_size :]]
    return Accelerator(*np.array(list(itertools.product(*choices)), np.float32).T)


def build_table(space: DesignSpace, scenario: Scenario) -> CostTable:
    """Maps every distinct operator of the space on every accelerator of it."""
    chips = accelerator_grid(space)
    chip_shape = [len(d.choices) for d in space.dimensions[space.architecture_size :]]
    base = space.base
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
        )
        blocks.append(jax.vmap(lambda w, h, f, b=block: b(Tower(1, w, h, f)))(
            *(jnp.asarray(x.ravel()) for x in (w, h, f))
        ))
        rest.append(jax.vmap(lambda w, name=name: outside_workload(
            dataclasses.replace(base, **{name: Tower(1, w, 1, 1)}), name
        ))(jnp.asarray(choices.width)))
    runs = run_grid([*blocks, *rest], chips, scenario)
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
