"""What a mapping of one GEMM moves through each memory, and how many cycles that takes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp

from codesign.cost.mapping import Schedule, Tiles, Work
from codesign.cost.rounding import ceil
from codesign.cost.unrolling import Dims

Array = jax.Array


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


def traffic_of(schedule: Schedule, work: Work, tiles: Tiles, blocks: Dims) -> Traffic:
    """Traffic of one schedule on tiles [P] and the GLB blocks they are walked in."""
    dims, sum_words = work.dims, work.sum_words
    size_i, size_o = dims["m"] * dims["k"], dims["m"] * dims["n"]
    size_w = dims["k"] * dims["n"] * work.stored_words
    cores, pes, core_dims = tiles.cores, tiles.pes, tiles.core_dims
    dram = _loops(schedule.dram, tiles.trips, blocks)
    # Sums that leave the chip unfinished are those of every core that has its own.
    spilled = sum_words * size_o * cores["k"] * (_refetches(dram, "k") - 1)
    dram_read = size_i * _refetches(dram, "n") + size_w * _refetches(dram, "m") + spilled
    dram_write = size_o + spilled

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
        dram_write=dram_write,
        glb_read=i_moved + w_moved + partial + dram_write,
        glb_write=dram_read + partial + size_o,
        l2_read=array_read + partial + size_o,
        l2_write=i_moved * cores["n"] + w_moved * cores["m"] + partial + array_write,
        register_fills=register_fills,
        compute_cycles=ceil(core_dims["m"] / pes["m"])
        * column_blocks
        * ceil(core_dims["k"] * work.kept / pes["k"]),
    )


def cycles_of(traffic: Traffic, work: Work, tiles: Tiles) -> Array:
    """Latency of tiles [P]: the slowest of array, L2, GLB and DRAM, and what does not overlap."""
    accelerator, tech = work.accelerator, work.tech
    l2_words = accelerator.l2_bytes_per_cycle / tech.word_bytes  # its port is so many bytes wide
    on_chip = jnp.maximum(
        traffic.compute_cycles,
        jnp.maximum(traffic.glb_read, traffic.glb_write) / tech.glb_words_per_cycle,
    )
    if tech.costing.l2_bandwidth:
        used = tiles.cores["m"] * tiles.cores["k"] * tiles.cores["n"]
        busiest = jnp.maximum(traffic.l2_read, traffic.l2_write) / used
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
