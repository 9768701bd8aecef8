"""A plain simulator of one GEMM on the template accelerator, which walks a mapping's loops.

It shares no formula with codesign/cost. Each buffer holds one tile of an operand; a tile is
loaded when it is not the one the buffer holds, whole, whatever of it was there before. Cores
work in lockstep, each on its own contiguous part of the split dimension. Of sparse weights it
has the very mask, moves what is kept, and waits for the column that has most.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
import math
from collections.abc import Callable, Iterator, Mapping

import numpy as np

Range = tuple[int, int]
REGISTER_WORDS = 32  # weights a PE keeps
PARTIAL = 4  # bytes of an unfinished sum; a finished one is a byte


def ranges(span: Range, step: int) -> list[Range]:
    """Consecutive pieces of at most `step` that cover `span`."""
    return [(a, min(a + step, span[1])) for a in range(span[0], span[1], step)]


def size(*spans: Range) -> int:
    product = 1
    for a, b in spans:
        product *= b - a
    return product


@dataclasses.dataclass(frozen=True, eq=False)
class Weights:
    """W of a product: which of its weights [k, n] are kept, and the bytes each takes."""

    kept: np.ndarray
    bytes_each: int = 1

    @functools.cached_property
    def _before(self) -> np.ndarray:
        """Kept weights of each column above each row, [k + 1, n]."""
        return np.concatenate([np.zeros_like(self.kept[:1], int), np.cumsum(self.kept, axis=0)])

    def _counts(self, k: Range, n: Range) -> np.ndarray:
        """Kept weights of each column in k, up to each of its rows, [k + 1, n]."""
        return self._before[k[0] : k[1] + 1, slice(*n)] - self._before[k[0], slice(*n)]

    @functools.cache  # noqa: B019
    def bytes(self, k: Range, n: Range) -> int:
        """Of a tile."""
        return self.bytes_each * int(self._counts(k, n)[-1].sum())

    @functools.cache  # noqa: B019
    def longest(self, k: Range, n: Range) -> int:
        """Kept weights of the column that has most."""
        return int(self._counts(k, n)[-1].max())

    @functools.cache  # noqa: B019
    def blocks(self, k: Range, n: Range, depth: int) -> list[Range]:
        """Pieces of k, as long as no column keeps more than `depth` of one."""
        found, first = [], k[0]
        while first < k[1]:
            longest = self._counts((first, k[1]), n).max(axis=1)
            last = first + int(np.searchsorted(longest, depth, side="right")) - 1
            found.append((first, last))
            first = last
        return found


def walk(
    order: str, whole: Mapping[str, Range], tile: Mapping[str, int], blocks: Mapping[str, int]
) -> Iterator[dict[str, Range]]:
    """Ranges of m, k and n in the order of the loops, outermost letter first.

    "M" and "N" walk `blocks` equal blocks, lower-case letters the tiles of a block.
    """
    pieces = {}
    for dim, span in whole.items():
        step = math.ceil(size(span) / blocks.get(dim.upper(), 1))
        cut = tile[dim] if dim in order else step
        pieces[dim] = [ranges(block, cut) for block in ranges(span, step)]
    counts = [
        len(pieces[x.lower()]) if x.isupper() else max(len(b) for b in pieces[x]) for x in order
    ]
    for index in itertools.product(*(range(c) for c in counts)):
        at = dict(zip(order, index, strict=True))
        try:
            yield {d: pieces[d][at.get(d.upper(), 0)][at.get(d, 0)] for d in whole}
        except IndexError:  # the last block has fewer tiles
            continue


def loads(steps: list[dict[str, Range]], dims: str, bytes_of: Callable[..., float] = size) -> float:
    """Bytes loaded into a buffer of one tile of the operand that has these dimensions."""
    moved, held = 0, None
    for step in steps:
        tile = tuple(step[d] for d in dims)
        if tile != held:
            moved += bytes_of(*tile)
            held = tile
    return moved


def output_spills(steps: list[dict[str, Range]], depth: int) -> int:
    """Bytes of unfinished sums that leave L2 (and come back), with sums `depth` long."""
    moved, held = 0, None
    done: dict[tuple[Range, Range], int] = {}
    for step in steps:
        tile = (step["m"], step["n"])
        if tile != held and held is not None and done[held] < depth:
            moved += PARTIAL * size(*held)
        held = tile
        done[tile] = done.get(tile, 0) + size(step["k"])
    assert set(done.values()) == {depth}
    return moved


def array(
    steps: list[dict[str, Range]],
    weights: Weights,
    pe_x: int,
    pe_y: int,
    depth: int,
    finishes: bool,
) -> dict[str, float]:
    """One core's PE array: L2 accesses, register fills and cycles; weight stationary.

    Its columns' accumulators hold the sums of one row, for as long as they are the same.
    """
    count = {"read": 0, "write": 0, "fills": 0, "cycles": 0}
    held = summing = None
    done: dict[tuple[Range, Range], int] = {}
    for step in steps:
        rows = size(step["m"])
        pairs = (
            (columns, inputs)
            for columns in ranges(step["n"], pe_x)
            for inputs in weights.blocks(step["k"], columns, pe_y * REGISTER_WORDS)
        )
        for columns, inputs in pairs:
            if (columns, inputs) != held:
                count["fills"] += weights.bytes(inputs, columns)
                held = (columns, inputs)
            count["read"] += size(step["m"], inputs)
            count["cycles"] += rows * math.ceil(weights.longest(inputs, columns) / pe_y)
            sums = (step["m"], columns)
            number, so_far = rows * size(columns), done.get(sums, 0)
            if rows == 1 and sums == summing:
                count["write"] -= PARTIAL * number  # they never left
            elif so_far:
                count["read"] += PARTIAL * number
            summing = sums
            done[sums] = so_far = so_far + size(inputs)
            last = finishes and so_far == depth
            count["write"] += (1 if last else PARTIAL) * number
    count["read"] += count["fills"]
    return count


def simulate(
    dims: Mapping[str, int],
    split: str,
    tile: Mapping[str, int],
    blocks: Mapping[str, int],
    dram_order: str,
    inner_order: str,
    cores: int,
    pe_x: int,
    pe_y: int,
    weights: Weights,
) -> dict[str, float]:
    """Bytes moved by O[m, n] = I[m, k] W[k, n], by the names of codesign.cost.traffic.Traffic."""
    whole = {d: (0, n) for d, n in dims.items()}
    chip_tile = {d: t * cores if d == split else t for d, t in tile.items()}
    outer = list(walk(dram_order, whole, chip_tile, blocks))
    out = dims["m"] * dims["n"]
    total = dict.fromkeys(("glb_read", "glb_write", "l2_read", "l2_write"), 0)
    # Sums that leave the chip unfinished are those of every core that has its own.
    unfinished = output_spills(outer, dims["k"]) * (cores if split == "k" else 1)
    total["dram_read"] = loads(outer, "mk") + loads(outer, "kn", weights.bytes) + unfinished
    total["dram_write"] = out + unfinished
    total["register_fills"] = total["compute_cycles"] = 0

    shares = ranges(whole[split], math.ceil(dims[split] / cores))
    for core, share in enumerate(shares):
        mine = {**whole, split: share}
        steps = list(walk(inner_order, mine, tile, blocks))
        depth = size(mine["k"])
        merges = split == "k" and core > 0
        spilled = output_spills(steps, depth)
        pe = array(steps, weights, pe_x, pe_y, depth, finishes=not merges)
        # Weights pass through L2 on their way to the registers.
        inputs, fills = loads(steps, "mk"), pe["fills"]
        total["register_fills"] += fills
        total["compute_cycles"] = max(total["compute_cycles"], pe["cycles"])
        # What all cores need is read once and sent to all of them.
        total["glb_read"] += (inputs if core == 0 or split != "n" else 0) + (
            fills if core == 0 or split != "m" else 0
        )
        total["l2_write"] += inputs + fills + pe["write"]
        total["l2_read"] += pe["read"]
        if merges:  # core 0 fetches this core's sums through the GLB and adds them
            spilled += PARTIAL * out
            total["l2_read"] += PARTIAL * out
        for access in ("glb_read", "glb_write", "l2_read", "l2_write"):
            total[access] += spilled
    total["glb_write"] += total["dram_read"] + out
    total["glb_read"] += total["dram_write"]
    total["l2_read"] += out
    return total
