"""Cost of one GEMM on the template accelerator: the best mapping of a fixed lattice.

O[m, n] = sum_k I[m, k] W[k, n], words of the scenario's precision, partial sums of 32 bits. The
operands are in DRAM before and after, but for what waits in the global buffer (handover.py).
mapping.py has what a mapping chooses and the lattice of all candidates, traffic.py what
each moves and how long it takes. Costings other than the physical one bend the rules of
both, by the switches of costing.py.

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

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from codesign.accelerator import Accelerator
from codesign.cost.execution import Execution
from codesign.cost.mapping import (
    Point,
    Tiles,
    Work,
    blocks_of,
    is_crowded,
    points_of,
    tiles_of,
    work_of,
)
from codesign.cost.schedules import Walk, walk_at
from codesign.cost.technology import Technology
from codesign.cost.traffic import cycles_of, traffic_of
from codesign.workload.operators import Live

Array = jax.Array


def price(walk: Walk, work: Work, tiles: Tiles) -> tuple[Execution, Array]:
    """Cost of a schedule on tiles [P], and which of them fit."""
    blocks, fits = blocks_of(walk, work, tiles)
    dims, tech = work.dims, work.tech
    t = traffic_of(walk, work, tiles, blocks)
    cycles = cycles_of(t, work, tiles)
    macs = dims["m"] * dims["k"] * dims["n"] * work.kept
    read_pj, write_pj = tech.read_pj["register"], tech.write_pj["register"]
    per_mac_pj = read_pj
    if work.skips is not None:  # the weight's position, and the operand register
        per_mac_pj += work.skips * ((1 + tech.index_words) * read_pj + write_pj)
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


# The sweep keeps one word for every product: its bits are those of the least energy x delay,
# the last of them replaced by the number of the mapping. XLA then computes a candidate once,
# not once for every quantity to keep; it costs 2^-12 of the energy x delay at most.
_NUMBER_BITS = 11
_NUMBER = (1 << _NUMBER_BITS) - 1


def _packed(edp: Array, number: Array | int) -> Array:
    """A word that orders as edp does; what is no number orders last."""
    edp = jnp.where(edp < jnp.inf, edp, jnp.inf)
    return jax.lax.bitcast_convert_type(edp, jnp.int32) & ~_NUMBER | number


def best_mapping(work: Work, crowded: Array | bool | None = None) -> Best:
    """The mapping of least energy x delay.

    Scans the mappings, so that under vmap each step is one pass over the batch and
    nothing of the size batch x mappings is ever stored.

    Args:
      work: a product on a machine.
      crowded: what `mapping.is_crowded` says of the machine where that is known, of a batch of one
        kind one scalar for all: of machines that are not crowded far fewer mappings are priced.
        None: it is asked, and every mapping priced.
    """
    every = points_of(work.tech.costing)
    mappings = len(every.crowded)
    assert mappings <= _NUMBER and not (np.diff(every.crowded.astype(int)) < 0).any()
    walks = walk_at(every.schedule)

    def step(i: Array, best: Array) -> Array:
        (_, point, in_crowd), walk = jax.tree.map(lambda x: jnp.asarray(x)[i], (every, walks))
        cost, fits = price(walk, work, tiles_of(work, point, walk))
        edp = (cost.dynamic_pj + cost.cycles * work.tech.static_pj) * cost.cycles
        if crowded is None:
            fits &= is_crowded(work.accelerator) | ~in_crowd
        return jnp.minimum(best, _packed(jnp.where(fits, edp, jnp.inf), i))

    # Those of crowded machines alone come last, and are left out by the loop's end: a branch in it
    # would keep XLA from taking out of it what all mappings share, which is half of the time.
    for_all = int(np.sum(~every.crowded))
    end = mappings if crowded is None else jnp.where(crowded, mappings, for_all)
    # Infinite either way; but as it asks the work, vmap knows from the first that the loop carries
    # a number for each of the batch, and need not find out by tracing the loop twice.
    started = work.dims["m"] + work.stored_words + work.tech.static_pj > 0
    best = _packed(jnp.where(started, jnp.float32(jnp.inf), jnp.float32(jnp.inf)), 0)
    best = jax.lax.fori_loop(0, end, step, best)
    number = best & _NUMBER
    schedule, point = jax.tree.map(lambda x: jnp.asarray(x)[number], (every.schedule, every.at))
    edp = jax.lax.bitcast_convert_type(best & ~_NUMBER, jnp.float32)
    return Best(edp, point, schedule)


def gemm_run(
    m: Array,
    k: Array,
    n: Array,
    accelerator: Accelerator,
    tech: Technology,
    density: Array | None = None,
    live: Live | None = None,
    crowded: Array | bool | None = None,
) -> Execution:
    """What `gemm_costs` sums up to, without derivatives; `crowded` as of `best_mapping`."""
    work = work_of(m, k, n, accelerator, tech, live)
    return _best_of(jax.lax.stop_gradient(work), density, crowded).merged()


def gemm_costs(
    m: Array,
    k: Array,
    n: Array,
    accelerator: Accelerator,
    tech: Technology,
    density: Array | None = None,
    live: Live | None = None,
    crowded: Array | bool | None = None,
) -> Execution:
    """Cost of the GEMM [m, k] x [k, n] under its best mapping.

    Args:
      m, k, n: dimensions, scalars, at least 1; integers or relaxed floats.
      accelerator: scalar leaves.
      tech: scalar leaves; with `index_words` where weights are sparse.
      density: share of the weights kept in every column of [k, n], a scalar in (0, 1];
        None: all.
      live: words alive while each operand waits, which decide what is in the GLB; None: all
        operands are in DRAM.
      crowded: as of `best_mapping`.

    Returns:
      Execution of scalars; infinite cycles where no mapping fits the buffers.
      vmap for batches of GEMMs or accelerators.
    """
    return _best_of(work_of(m, k, n, accelerator, tech, live), density, crowded)


def _best_of(work: Work, density: Array | None, crowded: Array | bool | None = None) -> Execution:
    """Cost of a product, as a dense one or its zeros skipped, whichever is better."""
    if density is None:
        return _under(best_mapping(jax.lax.stop_gradient(work), crowded), work)

    def way(skips: Array) -> Work:
        kept = jnp.where(skips > 0, density, 1.0)
        return work._replace(kept=kept, skips=skips)

    # One after the other by one program.
    found = jax.lax.map(
        lambda skips: best_mapping(jax.lax.stop_gradient(way(skips)), crowded),
        np.arange(2, dtype=np.float32),
    )
    skips = (found.edp[1] < found.edp[0]).astype(jnp.int32)
    return _under(jax.tree.map(lambda x: x[skips], found), way(jnp.float32(skips)))


def _under(best: Best, work: Work) -> Execution:
    """Cost of a product under a mapping; infinite cycles where none fits."""

    walk = walk_at(best.schedule)
    cost, _ = price(walk, work, tiles_of(work, best.point, walk))
    cycles = jnp.where(jnp.isfinite(best.edp), cost.cycles, jnp.inf)
    return Execution({"gemm": cycles}, cost.energy_pj)
