"""A mapping of one GEMM onto the template accelerator: what it chooses, and the tiles of it.

The array holds weights, up to 32 in each PE's register; n lies along its pe_x columns, k
along its pe_y rows, so a column's accumulator collects pe_y * 32 products before a partial
sum goes back to the local buffer (L2). A mapping chooses

* core split: m, k or n is divided over the cores (and, where the array is not wired,
  the way its PEs are used: unrolling.py);
* L2 tile (m2, k2, n2): n2 and k2 from ladders, aligned to the array, m2 a single row
  or as many as the double-buffered tiles then allow;
* schedule: which operand the global buffer (GLB) keeps while the others stream
  through it, and which loop runs innermost between GLB and L2.

Sizes may be relaxed: all of it has derivatives. docs/cost-model.md derives each term.
"""

from __future__ import annotations

import itertools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from codesign.accelerator import Accelerator
from codesign.cost.rounding import ceil, floor, rounded
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


GRID = np.array(
    list(itertools.product(range(len(SPLITS)), range(len(N_TRIPS)), range(len(K_TRIPS)))),
    dtype=np.int32,
).T
_N_TRIPS = np.array(N_TRIPS, dtype=np.float32)
_K_TRIPS = np.array([1.0 if t == "registers" else t for t in K_TRIPS], dtype=np.float32)
_K_REGISTERS = np.array([t == "registers" for t in K_TRIPS])


class Work(NamedTuple):
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
    """dim / trips, rounded up to whole blocks, but at most dim and at least one block."""
    return jnp.minimum(dim, jnp.maximum(block, ceil(dim / trips / block) * block))


def tiles_of(work: Work, lattice: Lattice, one_row: bool) -> Tiles:
    """The tiles of mappings [P]; `one_row` as a schedule wants it."""
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
    return Tiles(m2, k2, n2, trips, chip, cores, pes, core_dims, fits)


def blocks_of(schedule: Schedule, work: Work, tiles: Tiles) -> tuple[Dims, Array]:
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


def skipping(work: Work, density: Array) -> Work:
    """The same product with its zeros skipped."""
    return work._replace(density=jnp.asarray(density, jnp.float32))


def work_of(m: Array, k: Array, n: Array, accelerator: Accelerator, tech: Technology) -> Work:
    """A dense GEMM and what it runs on, in float32."""
    as_float = lambda x: jnp.asarray(x, jnp.float32)  # noqa: E731
    dims: Dims = {"m": as_float(m), "k": as_float(k), "n": as_float(n)}
    accelerator = jax.tree.map(as_float, accelerator)
    tables: Dims = {}
    if tech.costing.sizes == "divisors":
        dims = {d: rounded(x, jnp.round(x)) for d, x in dims.items()}
        tables = {d: divisors(jax.lax.stop_gradient(x)) for d, x in dims.items()}
    return Work(dims, tables, unrollings(dims, accelerator, tech, tables), accelerator, tech)
