"""The rules of the physical costing; docs/cost-model.md derives each."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import jax.numpy as jnp

from codesign.accelerator import Accelerator
from codesign.cost import sram
from codesign.cost.execution import Execution
from codesign.cost.handover import Shares, shares_of
from codesign.cost.loops import refetches
from codesign.cost.memories import glb_words
from codesign.cost.rounding import ceil
from codesign.cost.scaling import scaling
from codesign.scenario import Scenario

if TYPE_CHECKING:
    from codesign.cost.components import Components
    from codesign.cost.mapping import Tiles, Work
    from codesign.cost.technology import Technology
    from codesign.cost.traffic import Traffic
    from codesign.workload.operators import Workload

Array = jax.Array
PRECISIONS_BITS = (4, 8, 16)


class SramCosts(NamedTuple):
    """One on-chip memory: energy of a word (pJ), area (mm2), leakage (W)."""

    read_pj: Any
    write_pj: Any
    area_mm2: Any
    leakage_w: Any


def check_process(scenario: Scenario) -> None:
    """Raises ValueError where words have no such precision."""
    if scenario.precision_bits not in PRECISIONS_BITS:
        bits = scenario.precision_bits
        raise ValueError(f"scenario.precision_bits: there is no {bits}; choose 4, 8 or 16")


def sram_costs(
    scenario: Scenario, capacity_kib: Any, width_bytes: Any, components: Components
) -> SramCosts:
    """An SRAM at the scenario's node: CACTI's smooth laws times what silicon has over them.

    A word is read at full width.
    """
    node, word, silicon = scaling(scenario.node_nm), scenario.word_bytes, components.sram
    access = silicon["access"] * word
    return SramCosts(
        node.sram_read * access * sram.read_pj_per_byte(capacity_kib, width_bytes),
        node.sram_write * access * sram.write_pj_per_byte(capacity_kib, width_bytes),
        node.sram_area * silicon["area"] * sram.area_mm2(capacity_kib, width_bytes),
        node.sram_leakage * silicon["leakage"] * sram.leakage_w(capacity_kib, width_bytes),
    )


def l2_kib(accelerator: Accelerator) -> tuple[Any, ...]:
    """A core's local buffer serves its array and its vector unit."""
    return (accelerator.l2_kib,)


def array_passes(work: Work, tiles: Tiles, loops: list[tuple[str, Array]]) -> Array:
    """Sums return to L2 after each block of full registers.

    Unless the columns' accumulators, which hold those of one row, can keep them.
    """
    return refetches([*loops, ("m", tiles.m2)], "k")


def fill_and_drain(work: Work, tiles: Tiles) -> tuple[Array, Array]:
    """Cycles before the array can start, and those of storing what it ends with."""
    tech, chip, pes, stored = work.tech, tiles.chip, tiles.pes, work.stored_words
    # The first tiles of I and W, and the first registers.
    first_registers = (
        jnp.minimum(pes["n"], tiles.n2)
        * stored
        * jnp.minimum(pes["k"] * work.register_rows, tiles.k2)
    )
    crossing = work.shares.crossing
    fill = (
        chip["m"] * chip["k"] * crossing.input + chip["k"] * chip["n"] * stored * crossing.second
    ) * tech.cycles_per_word["dram"] + first_registers * _l2_cycles_per_word(work)
    drained = chip["m"] * chip["n"] * crossing.output
    return fill, drained * tech.cycles_per_word["dram"]


def l2_cycles(traffic: Traffic, work: Work, tiles: Tiles) -> Array:
    """Cycles of the busiest core's local buffer."""
    used = tiles.cores["m"] * tiles.cores["k"] * tiles.cores["n"]
    busiest = jnp.maximum(traffic.read["l2"], traffic.write["l2"]) / used
    return busiest * _l2_cycles_per_word(work)


def dram_cycles(traffic: Traffic, work: Work, fill: Array, drain: Array) -> Array:
    """Reads and writes take turns on the channels' pins."""
    del fill, drain
    moved: Array = traffic.read["dram"] + traffic.write["dram"]
    return moved * work.tech.cycles_per_word["dram"]


def _l2_cycles_per_word(work: Work) -> Array:
    """Cycles a word takes on one core's port, which is so many bytes wide."""
    cycles: Array = work.tech.word_bytes / work.accelerator.l2_bytes_per_cycle
    return cycles


def vector_costs(workload: Workload, accelerator: Accelerator, tech: Technology) -> Execution:
    """Costs [V] of element-wise operators on one accelerator.

    pe_x lanes on every core; operands stream DRAM -> GLB -> L2 -> lanes and results
    back, overlapped with the arithmetic: the slowest of them sets the latency. What is in the
    GLB before and after does not cross the DRAM.
    """
    elements = workload.elements
    read, written = elements * workload.vector_operands, elements
    lanes = accelerator.pe_x * accelerator.cores
    cycles = ceil(elements / lanes) * workload.vector_cycles
    l2_words = accelerator.l2_bytes_per_cycle / tech.word_bytes * accelerator.cores
    rates = tech.words_per_cycle
    shares = Shares()
    if workload.vector_live is not None and tech.hands_over:
        shares = shares_of(workload.vector_live, glb_words(accelerator, tech.word_bytes))
    fetched, stored = read * shares.crossing.input, written * shares.crossing.output
    on_chip = jnp.maximum(read, written) / jnp.minimum(rates["glb"], l2_words)
    transfer = jnp.maximum(on_chip, (fetched + stored) / rates["dram"])
    # Each word is written below and read again; one in the GLB was written by its maker, and
    # waits there for its reader.
    energy_pj = {
        "l2": (read + written) * (tech.read_pj["l2"] + tech.write_pj["l2"]),
        "glb": (read + stored) * tech.read_pj["glb"] + (fetched + written) * tech.write_pj["glb"],
        "dram": fetched * tech.read_pj["dram"] + stored * tech.write_pj["dram"],
        "vector": elements * workload.vector_cycles * tech.lane_pj,
    }
    return Execution({"vector": jnp.maximum(cycles, transfer)}, energy_pj)
