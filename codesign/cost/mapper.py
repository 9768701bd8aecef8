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
import numpy as np

from codesign.accelerator import Accelerator
from codesign.cost.execution import Execution
from codesign.cost.mapping import (
    SCHEDULES,
    Point,
    Schedule,
    Tiles,
    Work,
    blocks_of,
    is_crowded,
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
    """The mapping of least energy x delay, scalars.

    Attributes:
      edp: energy x delay, pJ cycles, to 12 bits; infinite where no mapping fits.
      point, schedule: its tile and schedule.
    """

    edp: Array
    point: Point
    schedule: Array


def _choose(condition: Array, if_true: Any, if_false: Any) -> Any:
    """jnp.where of whole pytrees."""
    return jax.tree.map(functools.partial(jnp.where, condition), if_true, if_false)


# The sweep keeps one word for every product: its bits are those of the least energy x delay,
# the last of them replaced by the number of the mapping. XLA then computes a candidate once,
# not once for every quantity to keep; it costs 2^-12 of the energy x delay at most.
_NUMBER_BITS = 11
_NUMBER = (1 << _NUMBER_BITS) - 1


def _packed(edp: Array, number: Array | int) -> Array:
    """A word that orders as edp does; what is no number orders last."""
    edp = jnp.where(edp < jnp.inf, edp, jnp.inf)
    return jax.lax.bitcast_convert_type(edp, jnp.int32) & ~_NUMBER | number


def best_mapping(work: Work, crowded: bool | None = None) -> Best:
    """The mapping of least energy x delay.

    Scans the mappings, so that under vmap each step is one pass over the batch and
    nothing of the size batch x mappings is ever stored.

    Args:
      work: a product on a machine.
      crowded: what `mapping.is_crowded` says of the machine where that is known; None: it
        is asked, and every mapping priced.
    """
    asked = is_crowded(work.accelerator)

    def step(
        schedule: Schedule, allowed: Array | bool, best: Array, at: tuple[Array, Point]
    ) -> tuple[Array, None]:
        number, point = at
        cost, fits = price(schedule, work, tiles_of(work, point, schedule))
        edp = (cost.dynamic_pj + cost.cycles * work.tech.static_pj) * cost.cycles
        return jnp.minimum(best, _packed(jnp.where(fits & allowed, edp, jnp.inf), number)), None

    lists = points_of(work.tech.costing)
    if crowded is False:
        lists = [x for x in lists if not x.crowded]
    best = _packed(jnp.full((), jnp.inf, jnp.float32), 0)
    first = 0
    for points in lists:
        numbers = np.arange(first, first := first + len(points), dtype=np.int32)
        allowed = asked if points.crowded and crowded is None else True
        scanned = functools.partial(step, SCHEDULES[points.schedule], allowed)
        best, _ = jax.lax.scan(scanned, best, (numbers, points.at))
    assert first <= _NUMBER
    every = jax.tree.map(lambda *x: jnp.asarray(np.concatenate(x)), *(x.at for x in lists))
    schedules = np.repeat([x.schedule for x in lists], [len(x) for x in lists])
    number = best & _NUMBER
    return Best(
        jax.lax.bitcast_convert_type(best & ~_NUMBER, jnp.float32),
        jax.tree.map(lambda x: x[number], every),
        jnp.asarray(schedules, jnp.int32)[number],
    )


def gemm_run(
    m: Array, k: Array, n: Array, accelerator: Accelerator, tech: Technology,
    density: Array | None = None, crowded: bool | None = None,
) -> Execution:
    """What `gemm_costs` sums up to, without derivatives; `crowded` as of `best_mapping`."""
    cost = _best_of(jax.lax.stop_gradient(work_of(m, k, n, accelerator, tech)), density, crowded)
    return cost.merged()


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
    return _best_of(work_of(m, k, n, accelerator, tech), density)


def _best_of(work: Work, density: Array | None, crowded: bool | None = None) -> Execution:
    """Cost of a product, as a dense one or its zeros skipped, whichever is better."""
    best = best_mapping(jax.lax.stop_gradient(work), crowded)
    cost = _under(best, work)
    if density is None:
        return cost
    sparse = skipping(work, density)
    other = best_mapping(jax.lax.stop_gradient(sparse), crowded)
    return _choose(other.edp < best.edp, _under(other, sparse), cost)


def _under(best: Best, work: Work) -> Execution:
    """Cost of a product under a mapping; infinite cycles where none fits."""
    cost, _ = price(SCHEDULES[0], work, tiles_of(work, best.point, SCHEDULES[0]))
    for i, schedule in enumerate(SCHEDULES[1:], start=1):
        other, _ = price(schedule, work, tiles_of(work, best.point, schedule))
        cost = _choose(best.schedule == i, other, cost)
    cycles = jnp.where(jnp.isfinite(best.edp), cost.cycles, jnp.inf)
    return Execution({"gemm": cycles}, cost.energy_pj)
