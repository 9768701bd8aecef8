"""The exact mapper: the best mapping of one GEMM on one accelerator, by brute force.

An oracle for the machine of docs/cost-model.md. Where the cost model prices a few hundred
mappings by a formula for each kind, this one looks at all mappings of a large space and
counts the traffic of every one by the same rule. nest.py has what a mapping is, and the rule.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import itertools
import math
from pathlib import Path
from typing import ClassVar, NamedTuple

import numpy as np

from codesign.cost.physical import PRECISIONS_BITS
from codesign.oracle.interface import Events, OracleError, Point, Sample
from codesign.oracle.nest import (
    DIMS,
    Machine,
    Mapping,
    Priced,
    Tiles,
    axes_of,
    dram_traffic,
    edp_of,
    evaluate,
    glb_fits,
    l2_fits,
)

Array = np.ndarray

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


class Found(NamedTuple):
    """The best mapping, what it costs, and its energy x delay in pJ cycles."""

    mapping: Mapping
    sample: Sample
    edp: float


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
    axes = axes_of(point, machine, tiles, np.ones_like(tiles.tile))
    # What a single block of registers holds need not stay in L2.
    one = (axes["k"].tile_trips == 1) & (axes["n"].tile_trips == 1)
    useful = l2_fits(machine, axes, tiles.stays, np.zeros(1, bool)) & ~(one & tiles.stays)
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
    axes = axes_of(point, machine, job.tiles, block_trips)
    blocks = np.array([axes[d].blocks for d in DIMS])
    words = point.m * point.k + point.k * point.n + point.m * point.n
    compulsory = machine.word_bytes * words
    for block_order in BLOCK_ORDERS:
        dram = dram_traffic(machine, block_order, axes)
        # The bound again, now with the blocks' DRAM traffic.
        extra = dram.reads + dram.writes - compulsory
        energy = job.energy_pj + extra * point.constants.dram_pj
        cycles = np.maximum(job.cycles, (dram.reads + dram.writes) / machine.dram_rate)
        promising = edp_of(point, energy, cycles) < (best.edp if best else np.inf)
        promising &= _stands_for_all(block_order, BLOCK_ORDERS, blocks)
        promising &= glb_fits(machine, block_order, axes, np.zeros(1, bool))
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
    """The exact mapper as an oracle.

    Attributes:
      name: "exact".
      precisions_bits: of the words it prices.
    """

    name: str = "exact"
    precisions_bits: ClassVar[tuple[int, ...]] = PRECISIONS_BITS

    def fingerprint(self) -> str:
        """Changes with the sources of the search and of the prices."""
        sources = (Path(__file__).with_name(name).read_bytes() for name in ("nest.py", "exact.py"))
        return "exact-" + hashlib.sha256(b"".join(sources)).hexdigest()[:12]

    def __call__(self, point: Point) -> Sample:
        """The best mapping's costs.

        Raises:
          OracleError: if no mapping fits the buffers; names the GEMM and the buffer.
        """
        return best_mapping(point).sample
