"""A mapping of one GEMM onto the template accelerator: what it chooses, and the tiles of it.

The array holds weights, up to 32 in each PE's register; n lies along its pe_x columns, k
along its pe_y rows, so a column's accumulator collects pe_y * 32 products before a partial
sum goes back to the local buffer (L2). A mapping chooses

* part of the machine: all cores, columns and rows, or fewer, so that a larger chip can
  do what a smaller one does;
* core split: m, k or n is divided over the cores (and, where the array is not wired,
  the way its PEs are used: unrolling.py);
* L2 tile (m2, k2, n2): n2 and k2 by their number of trips, aligned to the array, m2 a
  single row or as many as the double-buffered tiles in L2 and in the GLB then allow;
* schedule: which operand the global buffer (GLB) keeps while the others stream
  through it, and which loop runs innermost between GLB and L2.

Sizes may be relaxed: all of it has derivatives. docs/cost-model.md derives each term.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from typing import Any, NamedTuple, cast

import jax
import jax.numpy as jnp
import numpy as np

from codesign.accelerator import Accelerator
from codesign.cost import tables
from codesign.cost.costing import Costing
from codesign.cost.handover import Shares, shares_of, taken_words
from codesign.cost.memories import glb_words
from codesign.cost.rounding import ceil, floor, rounded
from codesign.cost.schedules import SCHEDULES, I, O, W, Walk
from codesign.cost.technology import WEIGHT_REGISTER_WORDS, Technology, tensor_l2_kib
from codesign.cost.unrolling import (
    SPLITS,
    Dims,
    Unrolling,
    divisors,
    smallest_divisor,
    unrollings,
)
from codesign.workload.operators import Live

Array = jax.Array

# Trips of the n and k loops above L2; the last entries stand for the smallest tile
# the array can work on (one column block; one block of full registers; one row block).
N_TRIPS = (1.0, 2.0, 4.0, 8.0, 16.0, np.inf)
K_TRIPS = (1.0, 2.0, 4.0, 8.0, "registers", np.inf)


# What is left idle of an array whose smallest tile the GLB does not hold.
CUTS = ("columns", "rows", "both")


class Point(NamedTuple):
    """A mapping but for its schedule; scalars or arrays [P].

    Attributes:
      split: index into SPLITS of the dimension that the cores share.
      n_trips, k_trips: of the loops over L2 tiles, before tiles are aligned to the array;
        infinite: tiles as small as the array takes them.
      in_registers: whether tiles are blocks of full registers in k, whatever `k_trips` says.
      cores: share of the cores that work, in (0, 1].
      columns, rows: shares of an array's columns and rows that work, in (0, 1], out of
        those that the product can use.
      fill: share of the rows of a tile that would fit, in (0, 1].
      cut: index into CUTS of what is left idle where the GLB cannot feed it.
    """

    split: Array
    n_trips: Array
    k_trips: Array
    in_registers: Array
    cores: Array
    columns: Array
    rows: Array
    fill: Array
    cut: Array


def points(rows: Iterable[tuple]) -> Point:
    """Rows of a Point's fields as arrays [P]; of NumPy, as importing must start no backend."""
    kinds = (np.int32, np.float32, np.float32, np.bool_, *(np.float32,) * 4, np.int32)
    columns = zip(zip(*rows, strict=True), kinds, strict=True)
    return Point._make(cast(Array, np.array(column, kind)) for column, kind in columns)


class Points(NamedTuple):
    """What a mapper looks at, [P].

    Attributes:
      schedule: index into SCHEDULES.
      at: the mapping under it.
      crowded: whether it matters on crowded machines alone; see `is_crowded`.
    """

    schedule: np.ndarray
    at: Point
    crowded: np.ndarray


def is_crowded(accelerator: Accelerator) -> Array:
    """Whether a machine has more than one PE for every 16 bytes of its GLB.

    Much of its arrays then waits for weights whatever it does, and which part of it works
    decides the cost: there are more mappings for it. No chip of the default grid is crowded.
    """
    pes = accelerator.cores * accelerator.pe_x * accelerator.pe_y
    return pes * 16 > accelerator.glb_mib * 2.0**20


def _chosen() -> Points:
    """data/mapper_points.csv: mappings that are the best of a large lattice for some product."""
    schedules, at, crowded = [], [], []
    for row in tables.rows("mapper_points"):
        in_registers = row["k_trips"] == "registers"
        k_trips = 1.0 if in_registers else float(row["k_trips"])
        shares = (float(row[name]) for name in ("cores", "columns", "rows", "fill"))
        split, cut = SPLITS.index(row["split"]), CUTS.index(row["cut"])
        at.append((split, float(row["n_trips"]), k_trips, in_registers, *shares, cut))
        schedules.append(int(row["schedule"]))
        crowded.append(row["machines"] == "crowded")
    return Points(np.array(schedules, np.int32), points(at), np.array(crowded))


def _whole() -> Points:
    """All of the machine and every schedule."""
    registers = [(1.0 if k == "registers" else k, k == "registers") for k in K_TRIPS]
    axes = (range(len(SCHEDULES)), range(len(SPLITS)), N_TRIPS, registers)
    found = list(itertools.product(*axes))
    at = points((split, n, *k, 1.0, 1.0, 1.0, 1.0, 0) for _, split, n, k in found)
    schedules = np.array([schedule for schedule, *_ in found], np.int32)
    return Points(schedules, at, np.zeros(len(found), bool))


WHOLE = _whole()
CHOSEN = _chosen()


def points_of(costing: Costing) -> Points:
    """What a costing's mapper looks at: of costings that leave no part of a machine out, all."""
    return CHOSEN if costing.wiring == "fixed" else WHOLE


class Work(NamedTuple):
    """A GEMM and what it runs on; scalars.

    Attributes:
      dims: m, k, n.
      tables: divisors of each, for costings that divide exactly; empty otherwise.
      unrollings: ways to use the PEs, one a core split.
      accelerator, tech: the machine.
      kept: weights that are multiplied, a weight of the dense matrix.
      skips: 1 where zeros are skipped, so that each weight has its position beside it, else 0;
        None: 0, known before any program is made.
      shares: of the operands that are in the GLB before and after.
      taken_words: words of the GLB that whatever waits there takes.
    """

    dims: Dims
    tables: Dims
    unrollings: list[Unrolling]
    accelerator: Accelerator
    tech: Technology
    kept: Any = 1.0
    skips: Any = None
    shares: Shares = Shares()
    taken_words: Any = 0.0

    @property
    def stored_words(self) -> Array | float:
        """Words moved, positions included, a weight of the dense matrix."""
        positions = 0.0 if self.skips is None else self.skips * self.tech.index_words
        return self.kept * (1 + positions)

    @property
    def register_rows(self) -> Array | float:
        """Rows of the dense matrix whose kept weights fill a PE's registers."""
        return WEIGHT_REGISTER_WORDS / self.kept

    @property
    def sum_words(self) -> Array | float:
        """Words of a partial sum."""
        return self.tech.partial_sum_words if self.tech.costing.wide_sums else 1.0


class Tiles(NamedTuple):
    """L2 tiles of one core, their trips, and the tile the chip works on; arrays [P]."""

    m2: Array
    k2: Array
    n2: Array
    trips: Dims  # "m", "k", "n"
    chip: Dims  # tile of all cores together
    cores: Dims  # cores that share a dimension
    pes: Dims  # PEs of a core that share a dimension
    core_dims: Dims
    fits: Array


def _aligned(dim: Array, trips: Array, block: Array) -> Array:
    """dim / trips, rounded up to whole blocks, but at most dim and at least one block.

    Chosen, not the larger: where one block is enough a tile has the slope of the block, of which
    the rounding's own, that of the share, would take a part.
    """
    share = dim / trips
    return jnp.minimum(dim, jnp.where(share <= block, block, ceil(share / block) * block))


def _shared(work: Work, point: Point, walk: Walk) -> tuple[Dims, Dims, Dims]:
    """Cores that share each dimension, the part of the busiest, and PEs that share that."""
    by_m, by_k = point.split == 0, point.split == 1
    fixed, ways = work.tech.costing.wiring == "fixed", work.unrollings
    if fixed:
        # Of each split, not of the chosen one: so it is the same for all mappings.
        ways = [
            way._replace(cores={d: _worth(x, work.dims[d]) for d, x in way.cores.items()})
            for way in ways
        ]
    cores, pes = (
        {d: jnp.where(by_m, a[d], jnp.where(by_k, b[d], c[d])) for d in SPLITS}
        for a, b, c in zip(*ways, strict=True)
    )
    if fixed:
        cores = {d: _part(x, work.dims[d], point.cores) for d, x in cores.items()}
    core_dims = {d: ceil(work.dims[d] / cores[d]) for d in SPLITS}
    if fixed:
        pes |= _array(work, point, walk, cores, core_dims)
    return cores, core_dims, pes


def _array(work: Work, point: Point, walk: Walk, cores: Dims, core_dims: Dims) -> Dims:
    """Columns (n) and rows (k) that work, of an array whose smallest tile the buffers hold.

    Whatever leaves a part idle halves it, so that what a small array does is among the
    mappings of one twice as large, and what small buffers ask for among those of larger.
    """
    wide, high = core_dims["n"], ceil(core_dims["k"] * work.kept)
    columns = _part(_worth(work.accelerator.pe_x, wide), wide, point.columns)
    rows = _part(_worth(work.accelerator.pe_y, high), high, point.rows)
    # Weights that the GLB streams, two copies: all k where a block holds all of it.
    k = jnp.where(walk.whole_k, work.dims["k"], rows / work.kept * cores["k"])
    streamed = 2 * columns * cores["n"] * k * work.stored_words
    # Ratios by reciprocals, of which the loop over mappings takes one.
    excess = _halvings(streamed * (2 / _glb_words(work)))
    by_columns = walk.whole_k | (point.cut == 0)
    by_rows = jnp.where(by_columns, 0, jnp.where(point.cut == 1, excess, (excess + 1) // 2))
    # A row of sums, and of inputs, takes no more than a quarter of L2.
    of_quarter = work.tech.word_bytes / (work.accelerator.l2_kib * 256.0)
    by_columns = jnp.maximum(excess - by_rows, _halvings(columns * (work.sum_words * of_quarter)))
    by_rows = jnp.maximum(by_rows, _halvings(rows * (of_quarter / work.kept)))
    return {
        "n": _evenly(wide, columns * _halved(by_columns)),
        "k": _evenly(high, rows * _halved(by_rows)),
    }


def _worth(resource: Array, dim: Array) -> Array:
    """What a dimension may be shared over of a resource: less than twice the dimension."""
    return resource * _halved(jnp.maximum(_halvings(resource / dim) - 1, 0))


def _part(worth: Array, dim: Array, share: Array) -> Array:
    """A share of what a dimension may be shared over, at most the dimension."""
    return jnp.maximum(1, jnp.minimum(dim, worth * share))


def _evenly(dim: Array, most: Array) -> Array:
    """The least block with which no more blocks cover a dimension than with the largest."""
    return ceil(dim / ceil(dim / jnp.maximum(1, most)))


# A float32's exponent lies above its 23 bits of fraction. Its bits give powers of two at a
# fraction of the time that logarithms take, in a place that every mapping passes.
_FRACTION_BITS, _BIAS = 23, 127


def _halvings(ratio: Array) -> Array:
    """How often what is needed must be halved to fit, by its ratio to the room there is.

    A whole number without derivative.
    """
    ratio = jax.lax.stop_gradient(ratio) * (1 - 1e-4)
    bits = jax.lax.bitcast_convert_type(jnp.maximum(ratio, 1), jnp.int32)
    return ((bits + (1 << _FRACTION_BITS) - 1) >> _FRACTION_BITS) - _BIAS


def _halved(times: Array) -> Array:
    """2^-times of a whole number below 127."""
    bits = (_BIAS - times) << _FRACTION_BITS
    return jax.lax.bitcast_convert_type(jnp.asarray(bits, jnp.int32), jnp.float32)


class _Copies(NamedTuple):
    """Blocks of each operand in the GLB: one of what stays, two or so of what streams.

    Attributes:
      inputs, weights: how many of I and of W.
      output_words: words an output, all its blocks together.
      k: depth of the blocks of I and W.
    """

    inputs: Array
    weights: Array
    output_words: Array
    k: Array


def _copies(walk: Walk, work: Work, chip: Dims, k_trips: Array) -> _Copies:
    """What a schedule has in the GLB.

    Outputs are finished unless the k loop leaves partial sums there.
    """
    streamed = work.tech.costing.buffer_copies
    spills = ~walk.k_innermost & (k_trips > 1)
    out = jnp.where(spills, work.sum_words, work.shares.room.output)
    return _Copies(
        jnp.where(walk.keeps == I, 1.0, streamed),
        jnp.where(walk.keeps == W, 1.0, streamed),
        jnp.where(walk.keeps == O, work.sum_words, streamed * out),
        jnp.where(walk.whole_k, work.dims["k"], chip["k"]),
    )


def _most_rows(copies: _Copies, work: Work, columns: Array) -> Array:
    """Rows of blocks so many columns wide that fit the GLB."""
    weights = copies.weights * copies.k * _w_words(work) * columns
    inputs = copies.inputs * copies.k * work.shares.room.input
    return (_glb_words(work) - weights) / (inputs + copies.output_words * columns)


def _most_columns(copies: _Copies, work: Work, rows: Array) -> Array:
    """Columns of blocks so many rows high that fit the GLB."""
    inputs = copies.inputs * copies.k * work.shares.room.input * rows
    weights = copies.weights * copies.k * _w_words(work)
    return (_glb_words(work) - inputs) / (weights + copies.output_words * rows)


def _glb_words(work: Work) -> Array:
    """Words of the GLB that blocks may take."""
    words: Array = glb_words(work.accelerator, work.tech.word_bytes) - work.taken_words
    return words


def _w_words(work: Work) -> Array | float:
    """Words of a block in the GLB, a weight of the dense matrix."""
    return work.stored_words * work.shares.room.second


def tiles_of(work: Work, point: Point, walk: Walk) -> Tiles:
    """The tiles of mappings [P] as their schedules, scalars or [P], want them."""
    dims, costing, tech = work.dims, work.tech.costing, work.tech
    cores, core_dims, pes = _shared(work, point, walk)

    def tile(d: str, trips: Array, block: Array) -> Array:
        if costing.sizes == "padded":
            return _aligned(core_dims[d], trips, block)
        blocks = core_dims[d] / pes[d]
        return pes[d] * blocks / smallest_divisor(work.tables[d], blocks, trips)

    registers = pes["k"] * work.register_rows
    n2 = tile("n", point.n_trips, pes["n"])
    # Chosen, not multiplied: infinite trips times a derivative of nought are no number.
    k_trips = jnp.where(point.in_registers, core_dims["k"] / registers, point.k_trips)
    k2 = tile("k", k_trips, jnp.where(point.in_registers, registers, pes["k"] / work.kept))
    trips = {"k": ceil(core_dims["k"] / k2), "n": ceil(core_dims["n"] / n2)}
    chip = {d: jnp.minimum(dims[d], x * cores[d]) for d, x in (("k", k2), ("n", n2))}
    # Copies of each tile, so that one is filled or drained while the other is used.
    # Weights need not stay in L2: they pass through whenever registers are loaded.
    l2_words = tensor_l2_kib(work.accelerator, costing) * 1024.0 / tech.word_bytes
    free = l2_words / costing.buffer_copies - (
        0 if costing.weights_bypass else k2 * n2 * work.stored_words
    )
    # Sums that one pass of the array finishes are never in L2 unfinished.
    at_once = (cores["k"] == 1) & (k2 >= core_dims["k"]) & (k2 <= registers)
    most = free / (k2 + jnp.where(at_once, 1, work.sum_words) * n2)
    if costing.sizes == "padded":
        glb = _most_rows(_copies(walk, work, chip, trips["k"]), work, chip["n"])
        # Blocks of a whole dimension are no larger than it, whatever the cores' shares.
        most = jnp.minimum(most, jnp.where(glb >= dims["m"], jnp.inf, glb / cores["m"]))
    m_max = floor(most)
    fits = m_max >= pes["m"]
    filled = jnp.clip(floor(jnp.minimum(m_max, core_dims["m"]) * point.fill), 1, core_dims["m"])
    m_max = jnp.where(walk.one_row, pes["m"], filled)
    m_trips = ceil(core_dims["m"] / m_max)
    m2 = (
        ceil(core_dims["m"] / m_trips)
        if costing.sizes == "padded"
        else tile("m", m_trips, pes["m"])
    )
    trips = {"m": ceil(core_dims["m"] / m2), **trips}
    chip = {"m": jnp.minimum(dims["m"], m2 * cores["m"]), **chip}
    return Tiles(m2, k2, n2, trips, chip, cores, pes, core_dims, fits)


def blocks_of(walk: Walk, work: Work, tiles: Tiles) -> tuple[Dims, Array]:
    """Trips over GLB blocks {"M", "N"} and whether a schedule fits the GLB."""
    m, n, chip = work.dims["m"], work.dims["n"], tiles.chip
    copies = _copies(walk, work, chip, tiles.trips["k"])
    keeps_i, keeps_w = walk.keeps == I, walk.keeps == W
    # Of I, as many rows as fit beside chunks of a tile's columns.
    most = floor(_most_rows(copies, work, chip["n"]))
    # Of O: I and W are fetched alike where a block is square, or I once if all n fit.
    side = jnp.sqrt(_glb_words(work) / work.sum_words)
    square = ceil(jnp.maximum(side * 0.9, _most_rows(copies, work, n)))
    square = jnp.clip(square, chip["m"], jnp.clip(most, chip["m"], m))
    rows = jnp.where(keeps_i, jnp.clip(most, 1, m), square)
    # Of W, as many columns as fit beside chunks of a tile's rows.
    columns = floor(_most_columns(copies, work, jnp.where(keeps_w, chip["m"], rows)))
    blocks = {
        "M": jnp.where(keeps_w, 1.0, ceil(m / rows)),
        "N": jnp.where(keeps_i, 1.0, ceil(n / jnp.clip(columns, 1, n))),
    }
    return blocks, jnp.where(keeps_i, most >= chip["m"], columns >= chip["n"])


def skipping(work: Work, density: Array) -> Work:
    """The same product with its zeros skipped."""
    return work._replace(kept=jnp.asarray(density, jnp.float32), skips=1.0)


def work_of(
    m: Array,
    k: Array,
    n: Array,
    accelerator: Accelerator,
    tech: Technology,
    live: Live | None = None,
) -> Work:
    """A dense GEMM and what it runs on, in float32; without `live` all operands are in DRAM."""
    as_float = lambda x: jnp.asarray(x, jnp.float32)  # noqa: E731
    dims: Dims = {"m": as_float(m), "k": as_float(k), "n": as_float(n)}
    accelerator = jax.tree.map(as_float, accelerator)
    tables: Dims = {}
    if tech.costing.sizes == "divisors":
        dims = {d: rounded(x, jnp.round(x)) for d, x in dims.items()}
        tables = {d: divisors(jax.lax.stop_gradient(x)) for d, x in dims.items()}
    ways = unrollings(dims, accelerator, tech, tables)
    work = Work(dims, tables, ways, accelerator, tech)
    if live is None or not tech.hands_over:
        return work
    live, capacity = Live(*map(as_float, live)), glb_words(accelerator, tech.word_bytes)
    return work._replace(shares=shares_of(live, capacity), taken_words=taken_words(live, capacity))
