"""The exact mapper: the best mapping of one GEMM on one accelerator, by brute force.

An oracle for the machine of docs/cost-model.md. Where the cost model prices a few hundred
mappings by a formula for each kind, this one looks at all mappings of a large space and
counts the traffic of every one by the same rule. NumPy, float64.

A mapping of O[m, n] = sum_k I[m, k] W[k, n] is

* a core split: m, k or n shared out over 1 to `cores` cores;
* an L2 tile (m2, k2, n2) of each core: every distinct ceil(share / trips), in k and n in
  whole rows and columns of the array, in k also whole register blocks;
* a GLB block: a whole number of tiles along each dimension, every distinct
  ceil(tiles / trips);
* loop orders: of the blocks (DRAM -> GLB), of the tiles in a block (GLB -> L2), and of the
  array's steps in a tile; a step is one row of I on one block of full registers;
* whether W's tile stays in L2, or passes through L2 whenever registers are loaded.

The rule: a buffer holds one tile of an operand, and a loop that moves the tile loads another
on each of its trips. A loop over the dimension that the operand lacks therefore repeats its
loads, unless no loop further in has several trips over the operand's own. Sums are loaded
and stored by the same rule, between GLB, L2 and accumulators (and DRAM): 4 bytes while they
are unfinished, 1 when they leave for good.

Uneven cuts are counted as they are: every word once a load, and the true number of tiles,
blocks and steps. Only whether a loop has several trips is taken from the full block, as a
sequencer would. The cores work in lockstep: they share each tile of the chip in equal
parts, also its last, smaller one. What all need is sent to all.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import itertools
import math
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from codesign.cost.technology import PARTIAL_SUM_BYTES, WEIGHT_REGISTER_WORDS
from codesign.oracle.interface import Events, OracleError, Point, Sample

Array = np.ndarray

DIMS = "mkn"
HAS = {"I": "mk", "W": "kn", "O": "mn"}
LACKS = {"I": "n", "W": "m", "O": "k"}
BLOCK_ORDERS = tuple("".join(order) for order in itertools.permutations(DIMS))
# Which loop is innermost decides: the two operands that have its dimension are loaded on
# each of its trips, and so on every trip of the loops around it, in whatever order.
TILE_ORDERS = ("mkn", "nmk", "knm")
# With rows innermost a tile's weights are loaded once, and with k next to them a single
# row's sums stay in the accumulators. With k innermost sums stay in any case, and with rows
# next to it weights are loaded least. The four other orders move as much or more.
STEP_ORDERS = ("nkm", "nmk")
# Mappings of a sweep, which bound its memory; few at first, for a best to prune by.
_FIRST_SWEEP, _SWEEP = 1_000, 50_000


class Mapping(NamedTuple):
    """One mapping.

    Attributes:
      split, cores: dimension shared out, and over how many cores.
      tile: L2 tile (m2, k2, n2) of a core.
      block: tiles of a GLB block along m, k, n.
      orders: of blocks, of tiles in a block, of steps in a tile; outermost loop first.
      weights_stay: whether W's tile stays in L2.
    """

    split: str
    cores: int
    tile: tuple[int, int, int]
    block: tuple[int, int, int]
    orders: tuple[str, str, str]
    weights_stay: bool


class Found(NamedTuple):
    """The best mapping, what it costs, and its energy x delay in pJ cycles."""

    mapping: Mapping
    sample: Sample
    edp: float


class Machine(NamedTuple):
    """The numbers of an accelerator that mappings need; rates in bytes a cycle."""

    cores: int
    columns: int
    rows: int
    register_rows: int  # k of a block of full registers
    l2_bytes: float  # of one core
    glb_bytes: float
    l2_rate: float  # of one core
    glb_rate: float
    dram_rate: float

    @classmethod
    def of(cls, point: Point) -> Machine:
        """The machine of a point."""
        a, c = point.accelerator, point.constants
        return cls(
            cores=int(a.cores),
            columns=int(a.pe_x),
            rows=int(a.pe_y),
            register_rows=int(a.pe_y) * WEIGHT_REGISTER_WORDS,
            l2_bytes=a.l2_kib * 1024,
            glb_bytes=a.glb_mib * 2**20,
            l2_rate=float(a.l2_words_per_cycle),
            glb_rate=float(c.glb_words_per_cycle),
            dram_rate=float(c.dram_words_per_cycle),
        )

    @property
    def step(self) -> tuple[int, int, int]:
        """Words of m, k and n in one array step."""
        return 1, self.register_rows, self.columns


class Axis(NamedTuple):
    """How mappings [P] cut one dimension; float64 of whole numbers, all [P].

    Attributes:
      size: the whole dimension.
      cores: cores that share it; 1 if it is not split.
      share: part of the busiest core.
      tile: words of a core's tile.
      tiles: trips over all tiles of a core.
      blocks: trips over blocks of tiles.
      block_trips: tiles in a full block.
      tile_trips: array steps in a full tile.
      share_steps: array steps of the busiest core.
      steps: array steps of all cores.
    """

    size: Array
    cores: Array
    share: Array
    tile: Array
    tiles: Array
    blocks: Array
    block_trips: Array
    tile_trips: Array
    share_steps: Array
    steps: Array

    @property
    def chip_tile(self) -> Array:
        """Words of the first tile, all cores together."""
        return np.minimum(self.size, self.cores * self.tile)

    @property
    def chip_block(self) -> Array:
        """Words of the first block, all cores together."""
        return np.minimum(self.size, self.cores * self.tile * self.block_trips)

    @property
    def padded(self) -> Axis:
        """The dimension that would keep all cores as busy as the busiest."""
        return self._replace(size=self.cores * self.share, steps=self.cores * self.share_steps)


Axes = dict[str, Axis]  # by dimension


def _up(x: Any, y: Any) -> Array:
    """ceil(x / y) of whole numbers; exact, as no quotient comes near 2^53 / y."""
    return np.ceil(np.asarray(x, np.float64) / y)


def cut(size: int, step: int, cores: Array, tile: Array, block_trips: Array) -> Axis:
    """Shares `size` words among cores, cuts shares into tiles, and tiles into steps."""
    share = _up(size, cores)
    tiles = _up(share, tile)
    last = share - (tiles - 1) * tile  # the last tile of the busiest core
    rest = size - (tiles - 1) * tile * cores  # of all cores: some get `last`, one what is left
    full = np.floor(rest / last)
    steps = full * _up(last, step) + _up(rest - full * last, step)
    return Axis(
        size=np.full_like(tile, size),
        cores=cores,
        share=share,
        tile=tile,
        tiles=tiles,
        blocks=_up(tiles, block_trips),
        block_trips=block_trips,
        tile_trips=_up(tile, step),
        share_steps=(tiles - 1) * _up(tile, step) + _up(last, step),
        steps=(tiles - 1) * cores * _up(tile, step) + steps,
    )


def loads(operand: str, orders: tuple[str, ...], axes: Axes, runs: tuple[Any, ...]) -> Array:
    """How often each word of an operand is loaded into a buffer, [P].

    Args:
      operand: "I", "W" or "O".
      orders: loops above the buffer: of blocks, of tiles, of steps, as far as they go;
        each with the outermost loop first.
      axes: cuts of the dimensions.
      runs: loads of a word that stays throughout; then how often the loops over the
        dimension that the operand lacks run, those of blocks, those down to tiles, to steps.
    """
    trips = {d: (x.blocks, x.block_trips, x.tile_trips) for d, x in axes.items()}
    moves: Any = np.zeros(1, bool)  # whether a loop further in brings another tile
    repeats = []
    for level in reversed(range(len(orders))):
        outside, inside = orders[level].split(LACKS[operand])
        for dim in inside:
            moves = moves | (trips[dim][level] > 1)
        repeats.append(moves)
        for dim in outside:
            moves = moves | (trips[dim][level] > 1)
    # A loop that repeats the loads makes all loops further out repeat them.
    times = runs[0]
    for repeat, run in zip(reversed(repeats), runs[1:], strict=True):
        times = np.where(repeat, run, times)
    return times


class Moved(NamedTuple):
    """Bytes moved on the chip by mappings [P], all cores together.

    Attributes:
      inputs, weights: sent from the GLB; what several cores need is counted once.
      spills: unfinished sums from L2 to the GLB, and as many back.
      fills: written to weight registers.
      sums: unfinished sums from accumulators to L2, and as many back.
    """

    inputs: Array
    weights: Array
    spills: Array
    fills: Array
    sums: Array


def _moved(orders: tuple[str, str, str], axes: Axes, stays: Array) -> Moved:
    m, k, n = (axes[d] for d in DIMS)
    weights = loads("W", orders[:2], axes, (1, m.blocks, m.tiles))
    through = loads("W", orders, axes, (1, m.blocks, m.tiles, m.share))
    # Each core fills its own registers and, where k is split, has its own sums.
    fills = loads("W", orders, axes, (m.cores, m.cores * m.blocks, m.cores * m.tiles, m.steps))
    visits = (k.cores, k.cores * k.blocks, k.cores * k.tiles, k.steps)
    out = PARTIAL_SUM_BYTES * m.size * n.size
    return Moved(
        inputs=m.size * k.size * loads("I", orders[:2], axes, (1, n.blocks, n.tiles)),
        weights=k.size * n.size * np.where(stays, weights, through),
        spills=out * (loads("O", orders[:2], axes, visits[:3]) - 1),
        fills=k.size * n.size * fills,
        sums=out * (loads("O", orders, axes, visits) - 1),
    )


class Dram(NamedTuple):
    """Bytes read from and written to DRAM by mappings [P]."""

    reads: Array
    writes: Array


def _dram(order: str, axes: Axes) -> Dram:
    """Traffic of the loops over blocks."""
    m, k, n = (axes[d] for d in DIMS)
    reads = m.size * k.size * loads("I", (order,), axes, (1, n.blocks))
    reads = reads + k.size * n.size * loads("W", (order,), axes, (1, m.blocks))
    # Sums that leave the chip unfinished are those of every core that has its own.
    spills = k.cores * (loads("O", (order,), axes, (1, k.blocks)) - 1)
    spills = PARTIAL_SUM_BYTES * m.size * n.size * spills
    return Dram(reads + spills, spills + m.size * n.size)


def _fits_l2(machine: Machine, axes: Axes, stays: Array, unfinished: Array) -> Array:
    """Two copies of each tile, one filled or drained while the other is used; [P]."""
    m, k, n = (axes[d].tile for d in DIMS)
    sums = np.where(unfinished, PARTIAL_SUM_BYTES, 1) * m * n
    return 2 * (m * k + np.where(stays, k * n, 0) + sums) <= machine.l2_bytes


def _fits_glb(machine: Machine, order: str, axes: Axes, unfinished: Array) -> Array:
    """Two copies of the blocks that the innermost loop of several trips moves, one else; [P]."""
    sum_bytes = np.where(unfinished, PARTIAL_SUM_BYTES * axes["k"].cores, 1)
    held: Any = 0
    for operand, dims in HAS.items():
        copies: Any = 1
        for dim in order:  # the last loop of several trips has the last word
            copies = np.where(axes[dim].blocks > 1, 1 if dim == LACKS[operand] else 2, copies)
        words = copies * math.prod(axes[dim].chip_block for dim in dims)
        held = held + words * (sum_bytes if operand == "O" else 1)
    return held <= machine.glb_bytes


class Priced(NamedTuple):
    """Costs of mappings [P]: energy is dynamic, edp (pJ cycles) that over time too."""

    cycles: Array
    energy_pj: Array
    edp: Array
    events: Any  # Events, of arrays [P]


def _edp(point: Point, energy_pj: Array, cycles: Array) -> Array:
    """Energy x delay, pJ cycles, from dynamic energy."""
    return (energy_pj + point.constants.static_pj * cycles) * cycles


def _l2_accesses(axes: Axes, moved: Moved) -> tuple[Array, Array]:
    """Bytes read from and written to all L2, [P]."""
    m, k, n = (axes[d] for d in DIMS)
    both = moved.sums + moved.spills + m.size * n.size
    # Rows of I are read for each block of columns.
    reads = m.size * k.size * n.steps + moved.fills + both
    return reads, moved.inputs * n.cores + moved.weights * m.cores + both


def _price(
    point: Point, machine: Machine, axes: Axes, dram: Dram, moved: Moved, padded: Moved
) -> Priced:
    """Costs of traffic; `padded` is what the chip would move with `Axis.padded` dimensions."""
    m, k, n = (axes[d] for d in DIMS)
    l2_reads, l2_writes = _l2_accesses(axes, moved)
    glb_reads = moved.inputs + moved.weights + moved.spills + dram.writes
    glb_writes = dram.reads + moved.spills + m.size * n.size
    dram_words = dram.reads + dram.writes
    counts: Any = (moved.fills, l2_reads, l2_writes, glb_reads, glb_writes, dram_words)
    events = Events(*counts)
    busiest = np.maximum(*_l2_accesses({d: x.padded for d, x in axes.items()}, padded))
    on_chip = np.maximum(
        m.share * n.share_steps * _up(k.share, machine.rows),
        busiest / (m.cores * k.cores * n.cores * machine.l2_rate),
    )
    on_chip = np.maximum(on_chip, np.maximum(glb_reads, glb_writes) / machine.glb_rate)
    # Not overlapped: the first tiles of I and W, the first registers, the last tile of O.
    registers = np.minimum(n.tile, machine.columns) * np.minimum(k.tile, machine.register_rows)
    first = k.chip_tile * (m.chip_tile + n.chip_tile)
    fill = first / machine.dram_rate + registers / machine.l2_rate
    drain = m.chip_tile * n.chip_tile / machine.dram_rate
    cycles = np.maximum(fill + on_chip + drain, dram.reads / machine.dram_rate + drain)
    cycles = np.maximum(cycles, dram.writes / machine.dram_rate + fill)
    energy: Any = events.energy_pj(point)
    return Priced(cycles, energy, _edp(point, energy, cycles), events)


class Tiles(NamedTuple):
    """Mappings [P], as far as L2 sees them.

    Attributes:
      cores: that share m, k, n, [3, P].
      tile: m2, k2, n2, [3, P].
      stays: whether W's tile stays in L2, [P].
    """

    cores: Array
    tile: Array
    stays: Array

    def take(self, index: Array) -> Tiles:
        """The mappings at an index."""
        return Tiles(self.cores[:, index], self.tile[:, index], self.stays[index])


def _axes(point: Point, machine: Machine, tiles: Tiles, block_trips: Array) -> Axes:
    """Cuts of all dimensions; `block_trips` [3, P]."""
    cuts = zip(DIMS, point[:3], machine.step, tiles.cores, tiles.tile, block_trips, strict=True)
    return {dim: cut(*how) for dim, *how in cuts}


def evaluate(
    point: Point, orders: tuple[str, str, str], tiles: Tiles, block_trips: Array
) -> tuple[Priced, Array, Array]:
    """Prices mappings [P] that have their loop orders in common.

    Args:
      point: GEMM and accelerator.
      orders: of blocks, of tiles, of steps; outermost loop first.
      tiles: core splits, tiles, and whether weights stay.
      block_trips: tiles of a block along m, k, n, [3, P].

    Returns:
      Costs, and whether L2 and whether the GLB holds what the mapping asks it to.
    """
    machine = Machine.of(point)
    axes = _axes(point, machine, tiles, block_trips)
    moved = _moved(orders, axes, tiles.stays)
    dram = _dram(orders[0], axes)
    out = axes["m"].size * axes["n"].size
    # A core that merges the sums of others has them in its L2; in the GLB they only pass.
    merged = PARTIAL_SUM_BYTES * out * (axes["k"].cores - 1)
    spilled = (moved.spills > merged) | (dram.writes > out)
    fits_l2 = _fits_l2(machine, axes, tiles.stays, moved.sums > 0)
    fits_glb = _fits_glb(machine, orders[0], axes, spilled)
    padded = moved
    if any((x.cores * x.share > x.size).any() for x in axes.values()):
        padded = _moved(orders, {d: x.padded for d, x in axes.items()}, tiles.stays)
    return _price(point, machine, axes, dram, moved, padded), fits_l2, fits_glb


@functools.cache
def _trips(whole: int) -> tuple[int, ...]:
    """Every distinct ceil(whole / trips), rising."""
    return tuple(sorted({-(-whole // trips) for trips in range(1, whole + 1)}))


def _sizes(whole: int, unit: int) -> set[int]:
    """Every distinct size of tiles made of whole units, cut to the whole."""
    return {min(whole, unit * units) for units in _trips(-(-whole // unit))}


def every_tile(point: Point) -> Tiles:
    """Every core split and tile, with and without W's tile in L2."""
    machine = Machine.of(point)
    found = []
    gemm = (point.m, point.k, point.n)
    for split, cores in itertools.product(range(3), range(1, machine.cores + 1)):
        if cores > gemm[split] or (cores == 1 and split > 0):
            continue
        shared = [cores if d == split else 1 for d in range(3)]
        m, k, n = (-(-gemm[d] // shared[d]) for d in range(3))
        full = set(range(machine.register_rows, k, machine.register_rows))
        sizes = (_sizes(m, 1), _sizes(k, machine.rows) | full, _sizes(n, machine.columns))
        grid = np.meshgrid(*(sorted(x) for x in sizes), (0, 1), indexing="ij")
        *tile, stays = (x.ravel() for x in grid)
        all_cores = np.tile(np.array(shared, np.float64)[:, None], stays.size)
        found.append(Tiles(all_cores, np.array(tile, np.float64), stays == 1))
    return Tiles(*(np.concatenate(x, axis=-1) for x in zip(*found, strict=True)))


def _expanded(trips: Array) -> tuple[Array, Array]:
    """All blocks of nests of tiles [3, P]: index of the nest [Q], tiles of its block [3, Q]."""
    which, block_trips = [], []
    nests, member = np.unique(trips, axis=1, return_inverse=True)
    for i, nest in enumerate(nests.T):
        grid = np.meshgrid(*(_trips(int(t)) for t in nest), indexing="ij")
        blocks = np.array([x.ravel() for x in grid], np.float64)
        members = np.flatnonzero(member == i)
        which.append(np.repeat(members, blocks.shape[1]))
        block_trips.append(np.tile(blocks, len(members)))
    return np.concatenate(which), np.concatenate(block_trips, axis=1)


def _stands_for_all(order: str, orders: tuple[str, ...], trips: Array) -> Array:
    """Whether, of the orders alike but for loops of one trip, this is the first; trips [3, P]."""
    code = (trips > 1).T @ np.array([1, 2, 4])
    first = np.zeros(8, bool)
    for several in range(8):
        moving = {o: [d for d in o if several >> DIMS.index(d) & 1] for o in orders}
        first[several] = next(o for o in orders if moving[o] == moving[order]) == order
    return first[code]


class _Jobs(NamedTuple):
    """Tiles and the order of their steps, [P], with the least that any blocks can cost."""

    tiles: Tiles
    step_order: Array  # index into STEP_ORDERS
    trips: Array  # tiles of a core along m, k, n, [3, P]
    cycles: Array
    energy_pj: Array
    edp: Array

    def take(self, index: Array) -> _Jobs:
        """The jobs at an index."""
        tiles, *arrays = self
        return _Jobs(tiles.take(index), *(x[..., index] for x in arrays))


def _jobs(point: Point) -> _Jobs:
    """All tiles that fit L2, the most promising first.

    The bounds are the costs of the whole GEMM as one block in a GLB that holds everything.
    More blocks never lessen the traffic to DRAM, nor that on the chip: in any nest of loops
    over blocks and tiles, the innermost that moves makes two operands move on every tile,
    and the third is moved once at least. That loop innermost in a single block does no more.
    """
    machine = Machine.of(point)
    tiles = every_tile(point)
    axes = _axes(point, machine, tiles, np.ones_like(tiles.tile))
    # What a single block of registers holds need not stay in L2.
    one = (axes["k"].tile_trips == 1) & (axes["n"].tile_trips == 1)
    useful = _fits_l2(machine, axes, tiles.stays, np.zeros(1, bool)) & ~(one & tiles.stays)
    # The orders of steps differ only where k and the rows have several.
    differs = (axes["k"].tile_trips > 1) & (axes["m"].tile_trips > 1)
    index = [np.flatnonzero(x) for x in (useful, useful & differs)]
    costs = []
    for at, step_order in zip(index, STEP_ORDERS, strict=True):
        some = tiles.take(at)
        whole = np.array([axes[d].tiles[at] for d in DIMS])
        best = np.full((3, len(at)), np.inf)
        for tile_order in TILE_ORDERS:
            orders = (BLOCK_ORDERS[0], tile_order, step_order)
            priced, fits, _ = evaluate(point, orders, some, whole)
            bound = np.stack([priced.cycles, priced.energy_pj, priced.edp])
            best = np.minimum(best, np.where(fits, bound, np.inf))
        costs.append(best)
    at = np.concatenate(index)
    trips = np.array([axes[d].tiles[at] for d in DIMS])
    numbers = np.repeat(np.arange(len(STEP_ORDERS)), [len(x) for x in index])
    jobs = _Jobs(tiles.take(at), numbers, trips, *np.concatenate(costs, axis=1))
    rank = np.argsort(jobs.edp, kind="stable")
    return jobs.take(rank[: np.isfinite(jobs.edp).sum()])


def _next(jobs: _Jobs, start: int, room: int, best: float) -> int:
    """End of the jobs from `start` on that may beat the best and have at most `room` blocks."""
    end, blocks = start, 0
    while end < jobs.edp.size and jobs.edp[end] < best:
        blocks += math.prod(len(_trips(int(t))) for t in jobs.trips[:, end])
        if end > start and blocks > room:
            break
        end += 1
    return end


def _sweep(point: Point, jobs: _Jobs, best: Found | None) -> Found | None:
    """The best of `best` and all mappings with the tiles of these jobs."""
    machine = Machine.of(point)
    which, block_trips = _expanded(jobs.trips)
    job = jobs.take(which)
    axes = _axes(point, machine, job.tiles, block_trips)
    blocks = np.array([axes[d].blocks for d in DIMS])
    compulsory = point.m * point.k + point.k * point.n + point.m * point.n
    for block_order in BLOCK_ORDERS:
        dram = _dram(block_order, axes)
        # The bound again, now with the blocks' DRAM traffic.
        extra = dram.reads + dram.writes - compulsory
        energy = job.energy_pj + extra * point.constants.dram_pj
        cycles = np.maximum(job.cycles, dram.reads / machine.dram_rate)
        promising = _edp(point, energy, cycles) < (best.edp if best else np.inf)
        promising &= _stands_for_all(block_order, BLOCK_ORDERS, blocks)
        promising &= _fits_glb(machine, block_order, axes, np.zeros(1, bool))
        for (s, step_order), tile_order in itertools.product(enumerate(STEP_ORDERS), TILE_ORDERS):
            now = promising & (job.step_order == s)
            now = np.flatnonzero(now & _stands_for_all(tile_order, TILE_ORDERS, block_trips))
            if not now.size:
                continue
            orders = (block_order, tile_order, step_order)
            tiles, block = job.tiles.take(now), block_trips[:, now]
            priced, fits_l2, fits_glb = evaluate(point, orders, tiles, block)
            edp = np.where(fits_l2 & fits_glb, priced.edp, np.inf)
            p = int(np.argmin(edp))
            if edp[p] < (best.edp if best else np.inf):
                best = _found(orders, tiles, block, priced, p)
    return best


def best_mapping(point: Point) -> Found:
    """The mapping of least energy x delay, energy over time included.

    Tiles are looked at in the order of their bounds, until no bound is below the best.

    Raises:
      OracleError: no mapping fits the buffers; names the GEMM and the buffer.
    """
    jobs = _jobs(point)
    gemm, chip = f"GEMM {point.m} x {point.k} x {point.n}", point.accelerator
    if not jobs.edp.size:
        raise OracleError(f"{gemm}: no tile fits a local buffer of {chip.l2_kib:g} KiB (l2_kib)")
    best: Found | None = None
    start, room = 0, _FIRST_SWEEP
    while (end := _next(jobs, start, room, best.edp if best else np.inf)) > start:
        best = _sweep(point, jobs.take(np.arange(start, end)), best)
        start, room = end, _SWEEP
    if best is None:
        glb = f"a global buffer of {chip.glb_mib:g} MiB (glb_mib)"
        raise OracleError(f"{gemm}: no block fits {glb}")
    return best


def _found(
    orders: tuple[str, str, str], tiles: Tiles, block_trips: Array, priced: Priced, p: int
) -> Found:
    """Mapping p of many."""
    split = int(np.argmax(tiles.cores[:, p]))
    m2, k2, n2 = (int(x) for x in tiles.tile[:, p])
    m1, k1, n1 = (int(x) for x in block_trips[:, p])
    mapping = Mapping(
        split=DIMS[split],
        cores=int(tiles.cores[split, p]),
        tile=(m2, k2, n2),
        block=(m1, k1, n1),
        orders=orders,
        weights_stay=bool(tiles.stays[p]),
    )
    events = Events(*(float(x[p]) for x in priced.events))
    sample = Sample(float(priced.cycles[p]), float(priced.energy_pj[p]), events)
    return Found(mapping, sample, float(priced.edp[p]))


@dataclasses.dataclass(frozen=True)
class Exact:
    """The exact mapper as an oracle."""

    name: str = "exact"

    def fingerprint(self) -> str:
        """Changes with this file."""
        return "exact-" + hashlib.sha256(Path(__file__).read_bytes()).hexdigest()[:12]

    def __call__(self, point: Point) -> Sample:
        """The best mapping's costs.

        Raises:
          OracleError: if no mapping fits the buffers; names the GEMM and the buffer.
        """
        return best_mapping(point).sample
