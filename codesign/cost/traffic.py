"""What a mapping of one GEMM moves through each memory, and how many cycles that takes."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp

from codesign.cost.loops import loop_nest, refetches
from codesign.cost.mapping import Tiles, Work
from codesign.cost.rounding import ceil
from codesign.cost.schedules import DRAM_LOOPS, INNER_LOOPS, Walk
from codesign.cost.unrolling import Dims

Array = jax.Array


class Traffic(NamedTuple):
    """Words a GEMM moves, all cores together, and the PE arrays' time; arrays [P].

    Attributes:
      read, write: accesses to each level beyond the PEs, by its name in `memories.LEVELS`; a
        word that moves down a level is read above and written below.
      register_fills: words sent to the PEs' weight registers.
      compute_cycles: cycles of the busiest core's array.
    """

    read: dict[str, Array]
    write: dict[str, Array]
    register_fills: Array
    compute_cycles: Array


def traffic_of(walk: Walk, work: Work, tiles: Tiles, blocks: Dims) -> Traffic:
    """Traffic of a schedule on tiles [P] and the GLB blocks they are walked in."""
    dims, sum_words = work.dims, work.sum_words
    size_i, size_o = dims["m"] * dims["k"], dims["m"] * dims["n"]
    size_w = dims["k"] * dims["n"] * work.stored_words
    cores, pes, core_dims = tiles.cores, tiles.pes, tiles.core_dims
    dram = loop_nest(DRAM_LOOPS, walk.dram, tiles.trips, blocks)
    # Sums that leave the chip unfinished are those of every core that has its own.
    spilled = sum_words * size_o * cores["k"] * (refetches(dram, "k") - 1)
    crossing = work.shares.crossing
    dram_read = (
        size_i * crossing.input * refetches(dram, "n")
        + size_w * crossing.second * refetches(dram, "m")
        + spilled
    )
    dram_write = size_o * crossing.output + spilled

    inner = loop_nest(INNER_LOOPS, walk.inner, tiles.trips, blocks)
    i_moved = size_i * refetches(inner, "n")
    visits = cores["k"] * refetches(inner, "k")
    partial = sum_words * size_o * (visits - 1)  # written to, then read from the GLB

    registers = pes["k"] * work.register_rows
    column_blocks = ceil(core_dims["n"] / pes["n"])
    # Registers are refilled per tile of rows, unless one block of weights is all they walk.
    in_tile = [
        ("n", ceil(tiles.n2 / pes["n"])),
        ("k", ceil(tiles.k2 / registers)),
    ]
    loaded = size_w * refetches([*inner, *in_tile], "m")
    register_fills = loaded * cores["m"]
    costing = work.tech.costing
    w_moved = loaded if costing.weights_bypass else size_w * refetches(inner, "m")
    passes = costing.array_passes(work, tiles, [*inner, *in_tile])
    # Every pass but the very last, which requantises, writes partial sums; every pass of
    # a core but its first reads them back; one core reads and adds those of the others.
    summed = sum_words * size_o * cores["k"] * (passes - 1)
    merged = sum_words * size_o * (cores["k"] - 1)
    array_read = size_i * column_blocks * cores["n"] + register_fills + summed + merged
    array_write = summed + merged + size_o
    return Traffic(
        read={
            "l2": array_read + partial + size_o,
            "glb": i_moved + w_moved + partial + dram_write,
            "dram": dram_read,
        },
        write={
            "l2": i_moved * cores["n"] + w_moved * cores["m"] + partial + array_write,
            "glb": dram_read + partial + size_o,
            "dram": dram_write,
        },
        register_fills=register_fills,
        compute_cycles=ceil(core_dims["m"] / pes["m"])
        * column_blocks
        * ceil(core_dims["k"] * work.kept / pes["k"]),
    )


def cycles_of(traffic: Traffic, work: Work, tiles: Tiles) -> Array:
    """Latency of tiles [P]: the slowest of array, L2, GLB and DRAM, and what does not overlap."""
    tech, costing = work.tech, work.tech.costing
    on_chip = jnp.maximum(
        traffic.compute_cycles,
        jnp.maximum(traffic.read["glb"], traffic.write["glb"]) * tech.cycles_per_word["glb"],
    )
    on_chip = jnp.maximum(on_chip, costing.l2_cycles(traffic, work, tiles))
    fill, drain = costing.fill_and_drain(work, tiles)
    return jnp.maximum(fill + on_chip + drain, costing.dram_cycles(traffic, work, fill, drain))
