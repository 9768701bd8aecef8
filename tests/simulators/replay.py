"""A plain simulator of one GEMM under one `nest.Mapping`: every step of every core, in order.

It has none of the rule of codesign/oracle/nest.py: what buffers hold decides what is moved.
"""

from __future__ import annotations

import itertools
import math
from collections import Counter
from collections.abc import Iterator
from typing import Any

from codesign.oracle.interface import Point
from codesign.oracle.nest import DIMS, Mapping

HAS = {"I": "mk", "W": "kn", "O": "mn"}

Range = tuple[int, int]


def length(span: Range) -> int:
    return max(0, span[1] - span[0])


def pieces(span: Range, size: int) -> list[Range]:
    return [(a, min(a + size, span[1])) for a in range(span[0], span[1], size)]


def walk(order: str, counts: dict[str, int]) -> Iterator[dict[str, int]]:
    for index in itertools.product(*(range(counts[d]) for d in order)):
        yield dict(zip(order, index, strict=True))


class Cuts:
    """Where a mapping cuts each dimension."""

    def __init__(self, p: Point, mapping: Mapping) -> None:
        self.block = dict(zip(DIMS, mapping.block, strict=True))
        self.parts: dict[str, list[list[Range]]] = {}  # by tile, by core
        for i, dim in enumerate(DIMS):
            cores = mapping.cores if dim == mapping.split else 1
            chip = pieces((0, p[i]), mapping.tile[i] * cores)
            self.parts[dim] = []
            for a, b in chip:
                share = math.ceil((b - a) / cores)
                ends = [min(b, a + c * share) for c in range(cores + 1)]
                self.parts[dim].append(list(itertools.pairwise(ends)))
        self.tiles = {d: len(self.parts[d]) for d in DIMS}
        self.blocks = {d: math.ceil(self.tiles[d] / self.block[d]) for d in DIMS}

    def in_block(self, dim: str, block: int) -> range:
        first = block * self.block[dim]
        return range(first, min(first + self.block[dim], self.tiles[dim]))

    def words(self, dim: str, block: int) -> int:
        """Of a block, all cores together."""
        return sum(length(s) for t in self.in_block(dim, block) for s in self.parts[dim][t])


def replay(p: Point, mapping: Mapping) -> Counter[str]:
    """Bytes that a mapping moves, and the most that L2 and GLB hold ("l2", "glb").

    Buffers hold a tile of each operand; another takes its place when it is needed.
    """
    cuts, count, chip = Cuts(p, mapping), Counter(), p.accelerator
    split = {d: d == mapping.split and mapping.cores > 1 for d in DIMS}
    step = {"m": 1, "k": 32 * chip.pe_y, "n": chip.pe_x}
    glb: dict[str, Any] = {}
    l2: list[dict[str, Any]] = [{} for _ in range(mapping.cores)]
    registers: list[Any] = [None] * mapping.cores
    column: list[Any] = [None] * mapping.cores  # sums in the accumulators
    visits: Counter[Any] = Counter()  # of sums to accumulators: all cores together
    l2_visits: Counter[Any] = Counter()
    dram_visits: Counter[Any] = Counter()
    held: list[dict[str, tuple[int, ...]]] = []  # blocks in the GLB, one after the other

    for block in walk(mapping.orders[0], cuts.blocks):
        now = {x: tuple(block[d] for d in HAS[x]) for x in HAS}
        held.append(now)
        for x, (a, b) in HAS.items():
            if glb.get(x) == now[x]:
                continue
            words = cuts.words(a, block[a]) * cuts.words(b, block[b])
            glb[x] = now[x]
            if x == "O":
                dram_visits[now[x], words] += 1
            else:
                count["dram_reads"] += words
        inside = {d: cuts.in_block(d, block[d]) for d in DIMS}
        for index in walk(mapping.orders[1], {d: len(inside[d]) for d in DIMS}):
            tile = {d: inside[d][index[d]] for d in DIMS}
            sent: Counter[str] = Counter()  # to the first core that needs it
            for core in range(mapping.cores):
                span = {d: cuts.parts[d][tile[d]][core if split[d] else 0] for d in DIMS}
                size = {d: length(span[d]) for d in DIMS}
                for x, (a, b) in HAS.items():
                    new = (tile[a], tile[b])
                    if l2[core].get(x) == new:
                        continue
                    l2[core][x] = new
                    words = size[a] * size[b]
                    if x == "O":
                        l2_visits[span[a], span[b]] += 1
                    elif x == "I" or mapping.weights_stay:
                        # Rows of I are everybody's where n is split, W where m is.
                        shared = split["n"] if x == "I" else split["m"]
                        sent[x] += words if not (shared and core) else 0
                        count["l2_writes"] += words
                kept = [("I", 1), ("W", 1 if mapping.weights_stay else 0)]
                count["i+w"] = max(
                    count["i+w"], sum(f * math.prod(size[d] for d in HAS[x]) for x, f in kept)
                )
                count["o"] = max(count["o"], size["m"] * size["n"])
                work(core, span, step, mapping, registers, column, visits, count, sent, split)
            count["glb_reads"] += sum(sent.values())

    out = p.m * p.n
    for key, counter in (("sums", visits), ("spills", l2_visits)):
        count[key] = sum(
            4 * length(a) * length(b) * (times - 1) for (a, b), times in counter.items()
        )
    cores_k = mapping.cores if split["k"] else 1
    dram_sums = sum(4 * words * (times - 1) * cores_k for (_, words), times in dram_visits.items())
    count["dram_reads"] += dram_sums
    count["dram_writes"] = out + dram_sums
    count["l2_reads"] += count["fills"] + count["sums"] + count["spills"] + out
    count["l2_writes"] += count["sums"] + count["spills"] + out
    count["glb_reads"] += count["spills"] + count["dram_writes"]
    count["glb_writes"] = count["dram_reads"] + count["spills"] + out
    unfinished = max(visits.values()) > 1
    count["l2"] = 2 * (count["i+w"] + (4 if unfinished else 1) * count["o"])
    # What merged sums of other cores take in the GLB is not counted.
    wide = max(l2_visits.values()) > cores_k or dram_sums > 0
    for x, (a, b) in HAS.items():
        copies = 2 if len(held) > 1 and held[0][x] != held[1][x] else 1
        words = max(cuts.words(a, i) for i in range(cuts.blocks[a])) * max(
            cuts.words(b, i) for i in range(cuts.blocks[b])
        )
        count["glb"] += copies * words * (4 * cores_k if x == "O" and wide else 1)
    return count


def work(core, span, step, mapping, registers, column, visits, count, sent, split) -> None:
    """The steps of one core's tile."""
    parts = {d: pieces(span[d], step[d]) for d in DIMS}
    for index in walk(mapping.orders[2], {d: len(parts[d]) for d in DIMS}):
        at = {d: parts[d][index[d]] for d in DIMS}
        weights = length(at["k"]) * length(at["n"])
        if registers[core] != (at["k"], at["n"]):
            registers[core] = (at["k"], at["n"])
            count["fills"] += weights
            if not mapping.weights_stay:
                sent["W"] += weights if not (split["m"] and core) else 0
                count["l2_writes"] += weights
        if column[core] != (at["m"], at["n"]):
            column[core] = (at["m"], at["n"])
            visits[at["m"], at["n"]] += 1
        count["l2_reads"] += length(at["k"])  # the row of I
