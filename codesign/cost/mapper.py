"""Cost of one GEMM on the template accelerator: the best mapping of a fixed lattice.

O[m, n] = sum_k I[m, k] W[k, n], all operands in DRAM before and after, words of the
scenario's precision, partial sums of 32 bits. mapping.py has what a mapping chooses and
the lattice of all candidates, traffic.py what each moves and how long it takes. Costings
other than the physical one bend the rules of both, by the switches of costing.py.

Weights may be sparse, equally many kept in every column of W: a chip with index bits
then moves kept weights alone, each with its position in its row, and spends array time
and MACs on them alone. Columns stay in step because all have equally many. Inputs are
read and broadcast as ever; each PE picks those its weights ask for off the row's bus
into an operand register, written and read once a MAC. Or it runs zeros and all, as a
dense product: whichever has the smaller energy x delay.

Every candidate is priced in a vectorised sweep without derivatives; the one with
the smallest energy x delay (as Timeloop's and ZigZag's mappers choose) is priced
again with them, so a gradient costs one mapping, not the lattice. ceil and floor
carry the derivative of the identity: off the grid of array sizes the derivative is
the average slope. docs/cost-model.md derives each term.
"""

from __future__ import annotations

import dataclasses
import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from codesign.accelerator import Accelerator
from codesign.cost.mapping import (
    SCHEDULES,
    Point,
    Schedule,
    Tiles,
    Work,
    blocks_of,
    points_of,
    skipping,
    tiles_of,
    work_of,
)
from codesign.cost.technology import Technology
from codesign.cost.traffic import cycles_of, traffic_of

Array = jax.Array


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class GemmCosts:
    """Cost of a GEMM; scalars or arrays [...].

    Attributes:
      cycles: latency, clock cycles.
      mac_pj, register_pj, l2_pj, glb_pj, dram_pj: dynamic energy by part, pJ.
    """

    cycles: Any
    mac_pj: Any
    register_pj: Any
    l2_pj: Any
    glb_pj: Any
    dram_pj: Any

    @property
    def dynamic_pj(self) -> Any:
        """Dynamic energy, pJ."""
        return self.mac_pj + self.register_pj + self.l2_pj + self.glb_pj + self.dram_pj


def price(schedule: Schedule, work: Work, tiles: Tiles) -> tuple[GemmCosts, Array]:
    """Cost of one schedule on tiles [P], and which of them fit."""
    blocks, fits = blocks_of(schedule, work, tiles)
    dims, tech = work.dims, work.tech
    t = traffic_of(schedule, work, tiles, blocks)
    cycles = cycles_of(t, work, tiles)
    macs = dims["m"] * dims["k"] * dims["n"] * work.kept
    per_mac_pj = tech.register_read_pj
    if work.density is not None:  # the weight's position, and the operand register
        per_mac_pj = (2 + tech.index_words) * tech.register_read_pj + tech.register_write_pj
    fills = t.register_fills * tiles.pes["m"]  # one copy in every PE that needs the weight
    costs = GemmCosts(
        cycles=cycles,
        mac_pj=macs * tech.mac_pj + jnp.zeros_like(cycles),
        register_pj=macs * per_mac_pj + fills * tech.register_write_pj,
        l2_pj=t.l2_read * tech.l2_read_pj + t.l2_write * tech.l2_write_pj,
        glb_pj=t.glb_read * tech.glb_read_pj + t.glb_write * tech.glb_write_pj,
        dram_pj=(t.dram_read + t.dram_write) * tech.dram_pj,
    )
    return costs, tiles.fits & fits


class Best(NamedTuple):
    """The best mapping so far, scalars.

    Attributes:
      edp: energy x delay, pJ cycles.
      cycles, dynamic_pj: its cost.
      point, schedule: its tile and schedule.
    """

    edp: Array
    cycles: Array
    dynamic_pj: Array
    point: Point
    schedule: Array


class _Found(NamedTuple):
    """As Best, of the point its number alone: the points are the same for a whole batch."""

    edp: Array
    cycles: Array
    dynamic_pj: Array
    number: Array
    schedule: Array


def _choose(condition: Array, if_true: Any, if_false: Any) -> Any:
    """jnp.where of whole pytrees."""
    return jax.tree.map(functools.partial(jnp.where, condition), if_true, if_false)


def best_mapping(work: Work) -> Best:
    """The mapping of least energy x delay; infinite edp where none fits.

    Scans the lattice, so that under vmap each step is one pass over the batch and
    nothing of the size batch x lattice is ever stored.
    """

    def step(best: _Found, at: tuple[Array, Point]) -> tuple[_Found, None]:
        number, point = at
        # A chain of selections, not a stack: XLA keeps it one vectorised loop.
        for i, schedule in enumerate(SCHEDULES):
            cost, fits = price(schedule, work, tiles_of(work, point, schedule))
            dynamic_pj, cycles = cost.dynamic_pj, cost.cycles
            edp = (dynamic_pj + cycles * work.tech.static_pj) * cycles
            edp = jnp.where(fits, edp, jnp.inf)
            here = _Found(edp, cycles, dynamic_pj, number, jnp.asarray(i, jnp.int32))
            best = _choose(here.edp < best.edp, here, best)
        return best, None

    zero = jnp.zeros((), jnp.int32)
    never = jnp.full((), jnp.inf, jnp.float32)
    points = jax.tree.map(jnp.asarray, points_of(work.tech.costing))
    numbers = jnp.arange(len(points.split), dtype=jnp.int32)
    best, _ = jax.lax.scan(step, _Found(never, never, never, zero, zero), (numbers, points))
    point = jax.tree.map(lambda x: x[best.number], points)
    return Best(best.edp, best.cycles, best.dynamic_pj, point, best.schedule)


class GemmRun(NamedTuple):
    """Time and dynamic energy of a GEMM: clock cycles, pJ."""

    cycles: Array
    dynamic_pj: Array


def gemm_run(
    m: Array, k: Array, n: Array, accelerator: Accelerator, tech: Technology,
    density: Array | None = None,
) -> GemmRun:
    """What `gemm_costs` sums up to, without derivatives and cheaper to compile."""
    work = work_of(m, k, n, accelerator, tech)
    best = best_mapping(jax.lax.stop_gradient(work))
    if density is not None:
        sparse = best_mapping(jax.lax.stop_gradient(skipping(work, density)))
        best = _choose(sparse.edp < best.edp, sparse, best)
    return GemmRun(best.cycles, best.dynamic_pj)


def gemm_costs(
    m: Array, k: Array, n: Array, accelerator: Accelerator, tech: Technology,
    density: Array | None = None,
) -> GemmCosts:
    """Cost of the GEMM [m, k] x [k, n] under its best mapping.

    Args:
      m, k, n: dimensions, scalars, at least 1; integers or relaxed floats.
      accelerator: scalar leaves.
      tech: scalar leaves; with `index_words` where weights are sparse.
      density: share of the weights kept in every column of [k, n], a scalar in (0, 1];
        None: all.

    Returns:
      GemmCosts of scalars; infinite cycles where no mapping fits the buffers.
      vmap for batches of GEMMs or accelerators.
    """
    work = work_of(m, k, n, accelerator, tech)
    cost, edp = _best_costs(work)
    if density is not None:
        sparse, sparse_edp = _best_costs(skipping(work, density))
        cost = _choose(sparse_edp < edp, sparse, cost)
    return cost


def _best_costs(work: Work) -> tuple[GemmCosts, Array]:
    """Cost of the best mapping, with derivatives, and its energy x delay."""
    best = best_mapping(jax.lax.stop_gradient(work))
    cost, _ = price(SCHEDULES[0], work, tiles_of(work, best.point, SCHEDULES[0]))
    for i, schedule in enumerate(SCHEDULES[1:], start=1):
        other, _ = price(schedule, work, tiles_of(work, best.point, schedule))
        cost = _choose(best.schedule == i, other, cost)
    cycles = jnp.where(jnp.isfinite(best.edp), cost.cycles, jnp.inf)
    return dataclasses.replace(cost, cycles=cycles), best.edp
