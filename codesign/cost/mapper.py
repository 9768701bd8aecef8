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

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from codesign.accelerator import Accelerator
from codesign.cost.execution import Execution
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


def price(schedule: Schedule, work: Work, tiles: Tiles) -> tuple[Execution, Array]:
    """Cost of one schedule on tiles [P], and which of them fit."""
    blocks, fits = blocks_of(schedule, work, tiles)
    dims, tech = work.dims, work.tech
    t = traffic_of(schedule, work, tiles, blocks)
    cycles = cycles_of(t, work, tiles)
    macs = dims["m"] * dims["k"] * dims["n"] * work.kept
    read_pj, write_pj = tech.read_pj["register"], tech.write_pj["register"]
    per_mac_pj = read_pj
    if work.density is not None:  # the weight's position, and the operand register
        per_mac_pj = (2 + tech.index_words) * read_pj + write_pj
    fills = t.register_fills * tiles.pes["m"]  # one copy in every PE that needs the weight
    moved_pj = {
        level: t.read[level] * tech.read_pj[level] + t.write[level] * tech.write_pj[level]
        for level in t.read
    }
    energy_pj = {
        "mac": macs * tech.mac_pj + jnp.zeros_like(cycles),
        "register": macs * per_mac_pj + fills * write_pj,
        **moved_pj,
    }
    return Execution({"gemm": cycles}, energy_pj), tiles.fits & fits


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


def gemm_run(
    m: Array, k: Array, n: Array, accelerator: Accelerator, tech: Technology,
    density: Array | None = None,
) -> Execution:
    """What `gemm_costs` sums up to, without derivatives and cheaper to compile."""
    work = work_of(m, k, n, accelerator, tech)
    best = best_mapping(jax.lax.stop_gradient(work))
    if density is not None:
        sparse = best_mapping(jax.lax.stop_gradient(skipping(work, density)))
        best = _choose(sparse.edp < best.edp, sparse, best)
    return Execution({"gemm": best.cycles}, {"gemm": best.dynamic_pj})


def gemm_costs(
    m: Array, k: Array, n: Array, accelerator: Accelerator, tech: Technology,
    density: Array | None = None,
) -> Execution:
    """Cost of the GEMM [m, k] x [k, n] under its best mapping.

    Args:
      m, k, n: dimensions, scalars, at least 1; integers or relaxed floats.
      accelerator: scalar leaves.
      tech: scalar leaves; with `index_words` where weights are sparse.
      density: share of the weights kept in every column of [k, n], a scalar in (0, 1];
        None: all.

    Returns:
      Execution of scalars; infinite cycles where no mapping fits the buffers.
      vmap for batches of GEMMs or accelerators.
    """
    work = work_of(m, k, n, accelerator, tech)
    cost, edp = _best_costs(work)
    if density is not None:
        sparse, sparse_edp = _best_costs(skipping(work, density))
        cost = _choose(sparse_edp < edp, sparse, cost)
    return cost


def _best_costs(work: Work) -> tuple[Execution, Array]:
    """Cost of the best mapping, with derivatives, and its energy x delay."""
    best = best_mapping(jax.lax.stop_gradient(work))
    cost, _ = price(SCHEDULES[0], work, tiles_of(work, best.point, SCHEDULES[0]))
    for i, schedule in enumerate(SCHEDULES[1:], start=1):
        other, _ = price(schedule, work, tiles_of(work, best.point, schedule))
        cost = _choose(best.schedule == i, other, cost)
    cycles = jnp.where(jnp.isfinite(best.edp), cost.cycles, jnp.inf)
    return Execution({"gemm": cycles}, cost.energy_pj), best.edp
