"""Cost of one GEMM on the template accelerator: the best mapping of a fixed lattice.

O[m, n] = sum_k I[m, k] W[k, n], all operands in DRAM before and after, words of the
scenario's precision, partial sums of 32 bits. The array holds weights, up to 32 in each
PE's register; n lies along its pe_x columns, k along its pe_y rows, so a column's
accumulator collects pe_y * 32 products before a partial sum goes back to the local
buffer (L2). Costings other than the physical one bend these rules, by the switches of
costing.py.

Weights may be sparse, equally many kept in every column of W: a chip with index bits
then moves kept weights alone, each with its position in its row, and spends array time
and MACs on them alone. Columns stay in step because all have equally many. Inputs are
read and broadcast as ever; each PE picks those its weights ask for off the row's bus
into an operand register, written and read once a MAC. Or it runs zeros and all, as a
dense product: whichever has the smaller energy x delay.

What a mapping chooses, and what the lattice below enumerates:

* core split: m, k or n is divided over the cores (and, where the array is not wired,
  the way its PEs are used: unrolling.py);
* L2 tile (m2, k2, n2): n2 and k2 from ladders, aligned to the array, m2 a single row
  or as many as the double-buffered tiles then allow;
* schedule: which operand the global buffer (GLB) keeps while the others stream
  through it, and which loop runs innermost between GLB and L2.

Every candidate is priced in a vectorised sweep without derivatives; the one with
the smallest energy x delay (as Timeloop's and ZigZag's mappers choose) is priced
again with them, so a gradient costs one mapping, not the lattice. ceil and floor
carry the derivative of the identity: off the grid of array sizes the derivative is
the average slope. docs/cost-model.md derives each term.
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
from codesign.cost.technology import WEIGHT_REGISTER_WORDS, Technology, tensor_l2_kib
from codesign.cost.unrolling import (
    SPLITS,
    Dims,
    Unrolling,
    divisors,
    smallest_divisor,
    unrollings,
)

Array = jax.Array

# Trips of the n and k loops above L2; the last entries stand for the smallest tile
# the array can work on (one column block; one block of full registers; one row block).
N_TRIPS = (1.0, 2.0, 4.0, 8.0, 16.0, np.inf)
K_TRIPS = (1.0, 2.0, 4.0, 8.0, "registers", np.inf)


class Schedule(NamedTuple):
    """Loops above L2, outermost first.

    Attributes:
      keeps: operand whose block stays in the GLB while the others stream: "I", "W"
        or "O".
      rows: for "O", the share of the m dimension the kept block spans.
      dram: loops between DRAM and GLB. "M" and "N" walk the kept blocks, lower-case
        letters the L2 tiles.
      inner: loops between GLB and L2, inside those of `dram` that walk blocks.
      one_row: whether L2 tiles are single rows, so that the array starts soon and weights
        stay in its registers; else they have as many rows as fit.
    """

    keeps: str
    rows: float
    dram: str
    inner: str
    one_row: bool = False


SCHEDULES = (
    Schedule("I", 1.0, "Mn", "Mnmk"),
    Schedule("I", 1.0, "Mn", "Mnkm", one_row=True),
    Schedule("W", 1.0, "Nm", "Nmnk"),
    Schedule("O", 0.25, "MNk", "MNknm"),
    Schedule("O", 1.0, "MNk", "MNknm", one_row=True),
)


class Lattice(NamedTuple):
    """Mappings as arrays [P]: index of the core split and of the tile ladders."""

    split: Array
    n_step: Array
    k_step: Array


_GRID = np.array(
    list(itertools.product(range(len(SPLITS)), range(len(N_TRIPS)), range(len(K_TRIPS)))),
    dtype=np.int32,
).T
_N_TRIPS = np.array(N_TRIPS, dtype=np.float32)
_K_TRIPS = np.array([1.0 if t == "registers" else t for t in K_TRIPS], dtype=np.float32)
_K_REGISTERS = np.array([t == "registers" for t in K_TRIPS])


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


def _rounded(x: Array, to: Array) -> Array:
    return x + jax.lax.stop_gradient(to - x)


def ceil(x: Array) -> Array:
    """Smallest integer >= x, forgiving float32 rounding; derivative 1."""
    return _rounded(x, jnp.ceil(x - 1e-4))


def floor(x: Array) -> Array:
    """Largest integer <= x, forgiving float32 rounding; derivative 1."""
    return _rounded(x, jnp.floor(x + 1e-4))


class _Work(NamedTuple):
    """A GEMM and what it runs on; scalars.

    Attributes:
      dims: m, k, n.
      tables: divisors of each, for costings that divide exactly; empty otherwise.
      unrollings: ways to use the PEs, one a core split.
      accelerator, tech: the machine.
      density: share of the weights that are kept, their zeros skipped; None: none are.
    """

    dims: Dims
    tables: Dims
    unrollings: list[Unrolling]
    accelerator: Accelerator
    tech: Technology
    density: Array | None = None

    @property
    def kept(self) -> Array | float:
        """Weights that are multiplied, a weight of the dense matrix."""
        return 1.0 if self.density is None else self.density

    @property
    def stored_words(self) -> Array | float:
        """Words moved, positions included, a weight of the dense matrix."""
        return 1.0 if self.density is None else self.density * (1 + self.tech.index_words)

    @property
    def register_rows(self) -> Array | float:
        """Rows of the dense matrix whose kept weights fill a PE's registers."""
        return WEIGHT_REGISTER_WORDS / self.kept

    @property
    def sum_words(self) -> Array | float:
        """Words of a partial sum."""
        return self.tech.partial_sum_words if self.tech.costing.wide_sums else 1.0


class _Tiles(NamedTuple):
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
    """dim / trips, rounded up to whole blocks, but at most dim and at least one block."""
    return jnp.minimum(dim, jnp.maximum(block, ceil(dim / trips / block) * block))


def _tiles(work: _Work, lattice: Lattice, one_row: bool) -> _Tiles:
    dims, costing, tech = work.dims, work.tech.costing, work.tech
    by_m, by_k = lattice.split == 0, lattice.split == 1
    cores, pes = (
        {d: jnp.where(by_m, a[d], jnp.where(by_k, b[d], c[d])) for d in SPLITS}
        for a, b, c in zip(*work.unrollings, strict=True)
    )
    core_dims = {d: ceil(dims[d] / cores[d]) for d in SPLITS}

    def tile(d: str, trips: Array, block: Array) -> Array:
        if costing.sizes == "padded":
            return _aligned(core_dims[d], trips, block)
        blocks = core_dims[d] / pes[d]
        return pes[d] * blocks / smallest_divisor(work.tables[d], blocks, trips)

    registers = pes["k"] * work.register_rows
    n2 = tile("n", jnp.asarray(_N_TRIPS)[lattice.n_step], pes["n"])
    in_registers = jnp.asarray(_K_REGISTERS)[lattice.k_step]
    k_trips = jnp.where(
        in_registers, core_dims["k"] / registers, jnp.asarray(_K_TRIPS)[lattice.k_step]
    )
    k2 = tile("k", k_trips, jnp.where(in_registers, registers, pes["k"] / work.kept))
    # Copies of each tile, so that one is filled or drained while the other is used.
    # Weights need not stay in L2: they pass through whenever registers are loaded.
    l2_words = tensor_l2_kib(work.accelerator, costing) * 1024.0 / tech.word_bytes
    free = l2_words / costing.buffer_copies - (
        0 if costing.weights_bypass else k2 * n2 * work.stored_words
    )
    # Sums that one pass of the array finishes are never in L2 unfinished.
    at_once = (cores["k"] == 1) & (k2 >= core_dims["k"]) & (k2 <= registers)
    m_max = floor(free / (k2 + jnp.where(at_once, 1, work.sum_words) * n2))
    fits = m_max >= pes["m"]
    m_max = pes["m"] if one_row else jnp.clip(m_max, 1, core_dims["m"])
    m_trips = ceil(core_dims["m"] / m_max)
    m2 = (
        ceil(core_dims["m"] / m_trips)
        if costing.sizes == "padded"
        else tile("m", m_trips, pes["m"])
    )
    tiles = {"m": m2, "k": k2, "n": n2}
    trips = {d: ceil(core_dims[d] / tiles[d]) for d in SPLITS}
    chip = {d: jnp.minimum(dims[d], tiles[d] * cores[d]) for d in SPLITS}
    return _Tiles(m2, k2, n2, trips, chip, cores, pes, core_dims, fits)


def _blocks(schedule: Schedule, work: _Work, tiles: _Tiles) -> tuple[Dims, Array]:
    """Trips over GLB blocks {"M", "N"} and whether the schedule fits the GLB."""
    m, k, n = (work.dims[d] for d in "mkn")
    chip, copies = tiles.chip, work.tech.costing.buffer_copies
    glb_words = work.accelerator.glb_mib * 2.0**20 / work.tech.word_bytes
    one, stored = jnp.ones_like(tiles.m2), work.stored_words
    # Outputs in the GLB are finished words unless the k loop leaves partial sums there.
    spills = schedule.inner[-1] != "k"
    out = jnp.where(spills & (tiles.trips["k"] > 1), work.sum_words, 1)
    if schedule.keeps == "I":  # m1 rows of I, whole in k; W and O stream in chunks of n
        m1 = (glb_words - copies * k * stored * chip["n"]) / (k + copies * out * chip["n"])
        return {"M": ceil(m / jnp.clip(floor(m1), 1, m)), "N": one}, m1 >= chip["m"]
    if schedule.keeps == "W":  # n1 columns of W, whole in k; I and O stream in chunks of m
        n1 = (glb_words - copies * k * chip["m"]) / (k * stored + copies * out * chip["m"])
        return {"M": one, "N": ceil(n / jnp.clip(floor(n1), 1, n))}, n1 >= chip["n"]
    m1 = jnp.clip(ceil(m * schedule.rows), chip["m"], m)
    n1 = (glb_words - copies * m1 * chip["k"]) / (
        work.sum_words * m1 + copies * chip["k"] * stored
    )
    return {"M": ceil(m / m1), "N": ceil(n / jnp.clip(floor(n1), 1, n))}, n1 >= chip["n"]


def _refetches(loops: Sequence[tuple[str, Array]], irrelevant: str) -> Array:
    """How often each word of an operand is moved, given the loops above its buffer.

    A loop over the dimension the operand lacks moves it again on every trip, unless
    no loop inside it changes the operand's tile: then the tile just stays.
    """
    times = jnp.ones_like(loops[0][1])
    moves_inside = jnp.zeros_like(loops[0][1], dtype=bool)
    for dim, trips in reversed(loops):
        if dim == irrelevant:
            times = times * jnp.where(moves_inside, trips, 1)
        else:
            moves_inside = moves_inside | (trips > 1)
    return times


def _loops(order: str, trips: Dims, blocks: Dims) -> list:
    """Loop nest as (dimension, trips); tile loops inside block loops walk one block."""
    nest = []
    for letter in order:
        dim = letter.lower()
        if letter.isupper():
            nest.append((dim, blocks[letter]))
        else:
            nest.append((dim, jnp.maximum(1.0, trips[dim] / blocks.get(dim.upper(), 1.0))))
    return nest


class Traffic(NamedTuple):
    """Words a GEMM moves, all cores together, and the PE arrays' time; arrays [P].

    Attributes:
      dram_read, dram_write, glb_read, glb_write, l2_read, l2_write: accesses to each
        memory; a word that moves down a level is read above and written below.
      register_fills: words sent to the PEs' weight registers.
      compute_cycles: cycles of the busiest core's array.
    """

    dram_read: Array
    dram_write: Array
    glb_read: Array
    glb_write: Array
    l2_read: Array
    l2_write: Array
    register_fills: Array
    compute_cycles: Array


def _traffic(schedule: Schedule, work: _Work, tiles: _Tiles, blocks: Dims) -> Traffic:
    """Traffic of one schedule on tiles [P] and the GLB blocks they are walked in."""
    dims, sum_words = work.dims, work.sum_words
    size_i, size_o = dims["m"] * dims["k"], dims["m"] * dims["n"]
    size_w = dims["k"] * dims["n"] * work.stored_words
    cores, pes, core_dims = tiles.cores, tiles.pes, tiles.core_dims
    dram = _loops(schedule.dram, tiles.trips, blocks)
    dram_read = size_i * _refetches(dram, "n") + size_w * _refetches(dram, "m")

    inner = _loops(schedule.inner, tiles.trips, blocks)
    i_moved = size_i * _refetches(inner, "n")
    visits = cores["k"] * _refetches(inner, "k")
    partial = sum_words * size_o * (visits - 1)  # written to, then read from the GLB

    registers = pes["k"] * work.register_rows
    column_blocks = ceil(core_dims["n"] / pes["n"])
    # Registers are refilled per tile of rows, unless one block of weights is all they walk.
    in_tile = [
        ("n", ceil(tiles.n2 / pes["n"])),
        ("k", ceil(tiles.k2 / registers)),
    ]
    loaded = size_w * _refetches([*inner, *in_tile], "m")
    register_fills = loaded * cores["m"]
    costing = work.tech.costing
    w_moved = loaded if costing.weights_bypass else size_w * _refetches(inner, "m")
    # Sums return to L2 after each block of full registers, unless the columns'
    # accumulators, which hold those of one row, can keep them.
    if costing.column_sums:
        passes = _refetches([*inner, *in_tile, ("m", tiles.m2)], "k")
    else:
        passes = tiles.trips["k"] * ceil(tiles.k2 * work.kept / pes["k"])
    # Every pass but the very last, which requantises, writes partial sums; every pass of
    # a core but its first reads them back; one core reads and adds those of the others.
    summed = sum_words * size_o * cores["k"] * (passes - 1)
    merged = sum_words * size_o * (cores["k"] - 1)
    array_read = size_i * column_blocks * cores["n"] + register_fills + summed + merged
    array_write = summed + merged + size_o
    return Traffic(
        dram_read=dram_read,
        dram_write=size_o,
        glb_read=i_moved + w_moved + partial + size_o,
        glb_write=dram_read + partial + size_o,
        l2_read=array_read + partial + size_o,
        l2_write=i_moved * cores["n"] + w_moved * cores["m"] + partial + array_write,
        register_fills=register_fills,
        compute_cycles=ceil(core_dims["m"] / pes["m"])
        * column_blocks
        * ceil(core_dims["k"] * work.kept / pes["k"]),
    )


def _cycles(traffic: Traffic, work: _Work, tiles: _Tiles) -> Array:
    """Latency of tiles [P]: the slowest of array, L2, GLB and DRAM, and what does not overlap."""
    accelerator, tech = work.accelerator, work.tech
    l2_words = accelerator.l2_words_per_cycle / tech.word_bytes  # its port is so many bytes wide
    on_chip = jnp.maximum(
        traffic.compute_cycles,
        jnp.maximum(traffic.glb_read, traffic.glb_write) / tech.glb_words_per_cycle,
    )
    if tech.costing.l2_bandwidth:
        busiest = jnp.maximum(traffic.l2_read, traffic.l2_write) / accelerator.cores
        on_chip = jnp.maximum(on_chip, busiest / l2_words)
    fill, drain = jnp.zeros_like(on_chip), jnp.zeros_like(on_chip)
    if tech.costing.fill_and_drain:
        # Before the array can start: the first tiles of I and W, and the first registers.
        chip, pes, stored = tiles.chip, tiles.pes, work.stored_words
        first_registers = jnp.minimum(pes["n"], tiles.n2) * stored * jnp.minimum(
            pes["k"] * work.register_rows, tiles.k2
        )
        fill = (
            chip["m"] * chip["k"] + chip["k"] * chip["n"] * stored
        ) / tech.dram_words_per_cycle + first_registers / l2_words
        drain = chip["m"] * chip["n"] / tech.dram_words_per_cycle
    return jnp.maximum(
        fill + on_chip + drain,
        jnp.maximum(
            traffic.dram_read / tech.dram_words_per_cycle + drain,
            traffic.dram_write / tech.dram_words_per_cycle + fill,
        ),
    )


def _price(schedule: Schedule, work: _Work, tiles: _Tiles) -> tuple[GemmCosts, Array]:
    """Cost of one schedule on tiles [P], and which of them fit."""
    blocks, fits = _blocks(schedule, work, tiles)
    dims, tech = work.dims, work.tech
    t = _traffic(schedule, work, tiles, blocks)
    cycles = _cycles(t, work, tiles)
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


class _Best(NamedTuple):
    """The best mapping so far, scalars.

    Attributes:
      edp: energy x delay, pJ cycles.
      cycles, dynamic_pj: its cost.
      point, schedule: its tile and schedule.
    """

    edp: Array
    cycles: Array
    dynamic_pj: Array
    point: Lattice
    schedule: Array


def _choose(condition: Array, if_true: Any, if_false: Any) -> Any:
    """jnp.where of whole pytrees."""
    return jax.tree.map(functools.partial(jnp.where, condition), if_true, if_false)


def _best_mapping(work: _Work) -> _Best:
    """The mapping of least energy x delay; infinite edp where none fits.

    Scans the lattice, so that under vmap each step is one pass over the batch and
    nothing of the size batch x lattice is ever stored.
    """

    def step(best: _Best, point: Lattice) -> tuple[_Best, None]:
        tiles = [_tiles(work, point, one_row) for one_row in (False, True)]
        # A chain of selections, not a stack: XLA keeps it one vectorised loop.
        for i, schedule in enumerate(SCHEDULES):
            cost, fits = _price(schedule, work, tiles[schedule.one_row])
            dynamic_pj, cycles = cost.dynamic_pj, cost.cycles
            edp = (dynamic_pj + cycles * work.tech.static_pj) * cycles
            here = _Best(
                jnp.where(fits, edp, jnp.inf), cycles, dynamic_pj, point, jnp.asarray(i, jnp.int32)
            )
            best = _choose(here.edp < best.edp, here, best)
        return best, None

    zero = jnp.zeros((), jnp.int32)
    never = jnp.full((), jnp.inf, jnp.float32)
    start = _Best(never, never, never, Lattice(zero, zero, zero), zero)
    every = Lattice(*(jnp.asarray(axis) for axis in _GRID))
    return jax.lax.scan(step, start, every)[0]


class GemmRun(NamedTuple):
    """Time and dynamic energy of a GEMM: clock cycles, pJ."""

    cycles: Array
    dynamic_pj: Array


def gemm_run(
    m: Array, k: Array, n: Array, accelerator: Accelerator, tech: Technology,
    density: Array | None = None,
) -> GemmRun:
    """What `gemm_costs` sums up to, without derivatives and cheaper to compile."""
    work = _work(m, k, n, accelerator, tech)
    best = _best_mapping(jax.lax.stop_gradient(work))
    if density is not None:
        sparse = _best_mapping(jax.lax.stop_gradient(_skipping(work, density)))
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
    work = _work(m, k, n, accelerator, tech)
    cost, edp = _best_costs(work)
    if density is not None:
        sparse, sparse_edp = _best_costs(_skipping(work, density))
        cost = _choose(sparse_edp < edp, sparse, cost)
    return cost


def _best_costs(work: _Work) -> tuple[GemmCosts, Array]:
    """Cost of the best mapping, with derivatives, and its energy x delay."""
    best = _best_mapping(jax.lax.stop_gradient(work))
    tiles = [_tiles(work, best.point, one_row) for one_row in (False, True)]
    cost, _ = _price(SCHEDULES[0], work, tiles[SCHEDULES[0].one_row])
    for i, schedule in enumerate(SCHEDULES[1:], start=1):
        other, _ = _price(schedule, work, tiles[schedule.one_row])
        cost = _choose(best.schedule == i, other, cost)
    cycles = jnp.where(jnp.isfinite(best.edp), cost.cycles, jnp.inf)
    return dataclasses.replace(cost, cycles=cycles), best.edp


def _skipping(work: _Work, density: Array) -> _Work:
    """The same product with its zeros skipped."""
    return work._replace(density=jnp.asarray(density, jnp.float32))


def _work(m: Array, k: Array, n: Array, accelerator: Accelerator, tech: Technology) -> _Work:
    as_float = lambda x: jnp.asarray(x, jnp.float32)  # noqa: E731
    dims: Dims = {"m": as_float(m), "k": as_float(k), "n": as_float(n)}
    accelerator = jax.tree.map(as_float, accelerator)
    tables: Dims = {}
    if tech.costing.sizes == "divisors":
        dims = {d: _rounded(x, jnp.round(x)) for d, x in dims.items()}
        tables = {d: divisors(jax.lax.stop_gradient(x)) for d, x in dims.items()}
    return _Work(dims, tables, unrollings(dims, accelerator, tech, tables), accelerator, tech)
