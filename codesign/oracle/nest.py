"""One mapping of one GEMM on one accelerator as a nest of loops: its traffic and its cost.

NumPy, float64; the machine is that of docs/cost-model.md.

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
are unfinished, a word when they leave for good.

Dimensions, tiles and registers are counted in words of the point's precision, buffers, rates
and traffic in bytes.

Uneven cuts are counted as they are: every word once a load, and the true number of tiles,
blocks and steps. Only whether a loop has several trips is taken from the full block, as a
sequencer would. The cores work in lockstep: they share each tile of the chip in equal
parts, also its last, smaller one. What all need is sent to all.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np

from codesign.cost.technology import PARTIAL_SUM_BYTES, WEIGHT_REGISTER_WORDS
from codesign.oracle.interface import Events, Point

Array = np.ndarray

DIMS = "mkn"
HAS = {"I": "mk", "W": "kn", "O": "mn"}
LACKS = {"I": "n", "W": "m", "O": "k"}


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


class Machine(NamedTuple):
    """The numbers of an accelerator that mappings need; rates in bytes a cycle."""

    word_bytes: float
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
            word_bytes=c.word_bytes,
            cores=int(a.cores),
            columns=int(a.pe_x),
            rows=int(a.pe_y),
            register_rows=int(a.pe_y) * WEIGHT_REGISTER_WORDS,
            l2_bytes=a.l2_kib * 1024,
            glb_bytes=a.glb_mib * 2**20,
            l2_rate=float(a.l2_bytes_per_cycle),
            glb_rate=float(c.glb_bytes_per_cycle),
            dram_rate=float(c.dram_bytes_per_cycle),
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


def _moved(machine: Machine, orders: tuple[str, str, str], axes: Axes, stays: Array) -> Moved:
    m, k, n = (axes[d] for d in DIMS)
    size_w = machine.word_bytes * k.size * n.size
    weights = loads("W", orders[:2], axes, (1, m.blocks, m.tiles))
    through = loads("W", orders, axes, (1, m.blocks, m.tiles, m.share))
    # Each core fills its own registers and, where k is split, has its own sums.
    fills = loads("W", orders, axes, (m.cores, m.cores * m.blocks, m.cores * m.tiles, m.steps))
    visits = (k.cores, k.cores * k.blocks, k.cores * k.tiles, k.steps)
    out = PARTIAL_SUM_BYTES * m.size * n.size
    inputs = loads("I", orders[:2], axes, (1, n.blocks, n.tiles))
    return Moved(
        inputs=machine.word_bytes * m.size * k.size * inputs,
        weights=size_w * np.where(stays, weights, through),
        spills=out * (loads("O", orders[:2], axes, visits[:3]) - 1),
        fills=size_w * fills,
        sums=out * (loads("O", orders, axes, visits) - 1),
    )


class Dram(NamedTuple):
    """Bytes read from and written to DRAM by mappings [P]."""

    reads: Array
    writes: Array


def dram_traffic(machine: Machine, order: str, axes: Axes) -> Dram:
    """Traffic of the loops over blocks."""
    m, k, n = (axes[d] for d in DIMS)
    words = m.size * k.size * loads("I", (order,), axes, (1, n.blocks))
    words = words + k.size * n.size * loads("W", (order,), axes, (1, m.blocks))
    reads = machine.word_bytes * words
    # Sums that leave the chip unfinished are those of every core that has its own.
    spills = k.cores * (loads("O", (order,), axes, (1, k.blocks)) - 1)
    spills = PARTIAL_SUM_BYTES * m.size * n.size * spills
    return Dram(reads + spills, spills + machine.word_bytes * m.size * n.size)


def l2_fits(machine: Machine, axes: Axes, stays: Array, unfinished: Array) -> Array:
    """Two copies of each tile, one filled or drained while the other is used; [P]."""
    m, k, n = (axes[d].tile for d in DIMS)
    operands = machine.word_bytes * (m * k + np.where(stays, k * n, 0))
    sums = np.where(unfinished, PARTIAL_SUM_BYTES, machine.word_bytes) * m * n
    return 2 * (operands + sums) <= machine.l2_bytes


def glb_fits(machine: Machine, order: str, axes: Axes, unfinished: Array) -> Array:
    """Two copies of the blocks that the innermost loop of several trips moves, one else; [P]."""
    word = machine.word_bytes
    sum_bytes = np.where(unfinished, PARTIAL_SUM_BYTES * axes["k"].cores, word)
    held: Any = 0
    for operand, dims in HAS.items():
        copies: Any = 1
        for dim in order:  # the last loop of several trips has the last word
            copies = np.where(axes[dim].blocks > 1, 1 if dim == LACKS[operand] else 2, copies)
        words = copies * math.prod(axes[dim].chip_block for dim in dims)
        held = held + words * (sum_bytes if operand == "O" else word)
    return held <= machine.glb_bytes


class Priced(NamedTuple):
    """Costs of mappings [P]: energy is dynamic, edp (pJ cycles) that over time too."""

    cycles: Array
    energy_pj: Array
    edp: Array
    events: Any  # Events, of arrays [P]


def edp_of(point: Point, energy_pj: Array, cycles: Array) -> Array:
    """Energy x delay, pJ cycles, from dynamic energy."""
    return (energy_pj + point.constants.static_pj * cycles) * cycles


def _l2_accesses(machine: Machine, axes: Axes, moved: Moved) -> tuple[Array, Array]:
    """Bytes read from and written to all L2, [P]."""
    m, k, n = (axes[d] for d in DIMS)
    both = moved.sums + moved.spills + machine.word_bytes * m.size * n.size
    # Rows of I are read for each block of columns.
    reads = machine.word_bytes * m.size * k.size * n.steps + moved.fills + both
    return reads, moved.inputs * n.cores + moved.weights * m.cores + both


def _price(
    point: Point, machine: Machine, axes: Axes, dram: Dram, moved: Moved, padded: Moved
) -> Priced:
    """Costs of traffic; `padded` is what the chip would move with `Axis.padded` dimensions."""
    m, k, n = (axes[d] for d in DIMS)
    word = machine.word_bytes
    l2_reads, l2_writes = _l2_accesses(machine, axes, moved)
    glb_reads = moved.inputs + moved.weights + moved.spills + dram.writes
    glb_writes = dram.reads + moved.spills + word * m.size * n.size
    dram_bytes = dram.reads + dram.writes
    counts: Any = (moved.fills, l2_reads, l2_writes, glb_reads, glb_writes, dram_bytes)
    events = Events(*counts)
    every_core_busy = {d: x.padded for d, x in axes.items()}
    busiest = np.maximum(*_l2_accesses(machine, every_core_busy, padded))
    on_chip = np.maximum(
        m.share * n.share_steps * _up(k.share, machine.rows),
        busiest / (m.cores * k.cores * n.cores * machine.l2_rate),
    )
    on_chip = np.maximum(on_chip, np.maximum(glb_reads, glb_writes) / machine.glb_rate)
    # Not overlapped: the first tiles of I and W, the first registers, the last tile of O.
    registers = np.minimum(n.tile, machine.columns) * np.minimum(k.tile, machine.register_rows)
    first = k.chip_tile * (m.chip_tile + n.chip_tile)
    fill = word * first / machine.dram_rate + word * registers / machine.l2_rate
    drain = word * m.chip_tile * n.chip_tile / machine.dram_rate
    # Reads and writes take turns on the DRAM's pins.
    cycles = np.maximum(fill + on_chip + drain, dram_bytes / machine.dram_rate)
    energy: Any = events.energy_pj(point)
    return Priced(cycles, energy, edp_of(point, energy, cycles), events)


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


def axes_of(point: Point, machine: Machine, tiles: Tiles, block_trips: Array) -> Axes:
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
    axes = axes_of(point, machine, tiles, block_trips)
    moved = _moved(machine, orders, axes, tiles.stays)
    dram = dram_traffic(machine, orders[0], axes)
    out = axes["m"].size * axes["n"].size
    # A core that merges the sums of others has them in its L2; in the GLB they only pass.
    merged = PARTIAL_SUM_BYTES * out * (axes["k"].cores - 1)
    spilled = (moved.spills > merged) | (dram.writes > machine.word_bytes * out)
    fits_l2 = l2_fits(machine, axes, tiles.stays, moved.sums > 0)
    fits_glb = glb_fits(machine, orders[0], axes, spilled)
    padded = moved
    if any((x.cores * x.share > x.size).any() for x in axes.values()):
        padded = _moved(machine, orders, {d: x.padded for d, x in axes.items()}, tiles.stays)
    return _price(point, machine, axes, dram, moved, padded), fits_l2, fits_glb
