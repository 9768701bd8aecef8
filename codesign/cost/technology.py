"""Component constants of one technology, and what an accelerator built in it costs per event."""

from __future__ import annotations

import dataclasses
import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from codesign.accelerator import Accelerator
from codesign.cost import sram, tables
from codesign.cost.scaling import REFERENCE_NM, scaling
from codesign.costing import PHYSICAL, Costing, costing_of
from codesign.scenario import Scenario

PRECISIONS_BITS = (4, 8, 16)
# Words of weight register per PE and of operand register per vector lane:
# the template of CATransformers (arXiv 2505.01386).
WEIGHT_REGISTER_WORDS = 32
LANE_REGISTER_WORDS = 12
# Bytes of a partial sum while it is being accumulated (int32); results are words.
PARTIAL_SUM_BYTES = 4
# Widest single access of the global buffer, bytes; a wider port is several such arrays.
GLB_ACCESS_BYTES = 64.0


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Technology:
    """Energy per event (pJ) and rates of one accelerator; scalars or arrays [...].

    A word is a weight, an input or a result: a number of the scenario's `precision_bits`.

    Attributes:
      mac_pj: one multiply of two words with a 32-bit accumulate.
      register_read_pj, register_write_pj: one word of a PE's weight register.
      lane_pj: one vector-lane cycle: one MAC, one register read, two writes.
      l2_read_pj, l2_write_pj: one word of a core's local buffer.
      glb_read_pj, glb_write_pj: one word of the global buffer.
      dram_pj: one word of DRAM, read or written.
      leakage_pj: leakage of SRAM, arithmetic and registers, per clock cycle.
      dram_words_per_cycle, glb_words_per_cycle: bandwidths, words a cycle each way.
      clock_pj: clock of accumulators and of the registers' gates, per clock cycle.
      dram_background_pj: the DRAM's standby and refresh, per clock cycle.
      word_bytes: bytes of a word.
      index_words: words of a kept weight's position; 0 on a chip that skips no zeros.
      partial_sum_words: words of a 32-bit partial sum.
      costing: the conventions these constants belong to.
    """

    mac_pj: Any
    register_read_pj: Any
    register_write_pj: Any
    lane_pj: Any
    l2_read_pj: Any
    l2_write_pj: Any
    glb_read_pj: Any
    glb_write_pj: Any
    dram_pj: Any
    leakage_pj: Any
    dram_words_per_cycle: Any
    glb_words_per_cycle: Any
    clock_pj: Any = 0.0
    dram_background_pj: Any = 0.0
    word_bytes: Any = 1.0
    partial_sum_words: Any = 4.0
    index_words: Any = 0.0
    costing: Costing = dataclasses.field(default=PHYSICAL, metadata={"static": True})

    @property
    def static_pj(self) -> Any:
        """Energy that passes with time, whatever the chip does, per clock cycle."""
        return self.leakage_pj + self.clock_pj + self.dram_background_pj


def component(costing: Costing, name: str, column: str = "energy_pj") -> float:
    """A constant of the costing's component table."""
    return tables.value(f"{costing.components}_22nm", "component", name, column)


def check_process(scenario: Scenario) -> None:
    """Raises ValueError where the components cannot be had in the scenario's node or precision."""
    bits, nm = scenario.precision_bits, scenario.node_nm
    if bits not in PRECISIONS_BITS:
        raise ValueError(f"scenario.precision_bits: there is no {bits}; choose 4, 8 or 16")
    costing = costing_of(scenario)
    if costing.buffers != "sram_law" and (bits, nm) != (8, REFERENCE_NM):
        raise ValueError(
            f"scenario.costing: {costing.name} knows 8 bits at {REFERENCE_NM} nm, "
            f"not {bits} bits at {nm} nm; use physical"
        )


def multiplier_accumulator(scenario: Scenario, name: str, column: str) -> float:
    """A column of the costing's "mac" or "lane_mac" at the scenario's precision, 22 nm.

    The multiplier is an array of bits x bits cells, the adder of 32 bits stays. Horowitz
    (ISSCC 2014) has 15.5 times the energy for 32 bits instead of 8, where this has 16.
    """
    costing = costing_of(scenario)
    adder = component(costing, "accumulator_adder", column)
    return (component(costing, name, column) - adder) * scenario.word_bytes**2 + adder


def glb_access_bytes(scenario: Scenario) -> float:
    """Width of one global-buffer access, bytes."""
    return min(scenario.glb_bytes_per_cycle, GLB_ACCESS_BYTES)


class _Buffer(NamedTuple):
    """One on-chip memory: energy of a word (pJ), area (mm2), leakage (W)."""

    read_pj: Any
    write_pj: Any
    area_mm2: Any
    leakage_w: Any


def _buffer(scenario: Scenario, capacity_kib: Any, width_bytes: Any) -> _Buffer:
    word = scenario.word_bytes
    if costing_of(scenario).buffers == "sram_law":
        node = scaling(scenario.node_nm)
        return _Buffer(
            node.sram_read * word * sram.read_pj_per_byte(capacity_kib, width_bytes),
            node.sram_write * word * sram.write_pj_per_byte(capacity_kib, width_bytes),
            node.sram_area * sram.area_mm2(capacity_kib, width_bytes),
            node.sram_leakage * sram.leakage_w(capacity_kib, width_bytes),
        )
    # CATransformers charges a word the energy of reading four bytes, whether it is read
    # or written, and no leakage.
    reference = sram.buffer_reference(capacity_kib)
    read_pj, area_mm2 = reference.read_pj, reference.area_mm2
    return _Buffer(read_pj, read_pj, area_mm2, jnp.zeros_like(area_mm2))


def tensor_l2_kib(accelerator: Accelerator, costing: Costing) -> Any:
    """Local buffer the PE array works from, KiB: CATransformers gives wide arrays a minimum."""
    if not costing.l2_minimum:
        return accelerator.l2_kib
    x, y = accelerator.pe_x, accelerator.pe_y
    by_rows = jnp.where(y == 16, 128.0, jnp.where(y == 32, 256.0, 0.0))
    least = jnp.maximum(x * y / 64.0, jnp.where(x == 256, by_rows, 0.0))
    return jnp.maximum(accelerator.l2_kib, least)


def technology(accelerator: Accelerator, scenario: Scenario) -> Technology:
    """What each event costs on this accelerator; shapes follow the accelerator's leaves.

    Raises:
      ValueError: no component data for the scenario's node or precision.
    """
    check_process(scenario)
    costing = costing_of(scenario)
    node, word = scaling(scenario.node_nm), scenario.word_bytes
    energy = functools.partial(component, costing)
    l2 = _buffer(scenario, tensor_l2_kib(accelerator, costing), accelerator.l2_bytes_per_cycle)
    glb = _buffer(scenario, accelerator.glb_mib * 1024.0, glb_access_bytes(scenario))
    lane_pj = multiplier_accumulator(scenario, "lane_mac", "energy_pj") + word * (
        energy("lane_register_read") + 2 * energy("lane_register_write")
    )
    logic_w = 1e-6 * node.logic_energy * sum(_logic(accelerator, scenario, "power_uw").values())
    leakage_w = glb.leakage_w + accelerator.cores * l2.leakage_w + logic_w
    dram_w = 1e-6 * component(costing, "dram_gb", "power_uw") * scenario.dram_gb
    like = jnp.zeros_like(leakage_w)
    return Technology(
        mac_pj=like + node.logic_energy * multiplier_accumulator(scenario, "mac", "energy_pj"),
        register_read_pj=like + node.logic_energy * word * energy("weight_register_read"),
        register_write_pj=like + node.logic_energy * word * energy("weight_register_write"),
        lane_pj=like + node.logic_energy * lane_pj,
        l2_read_pj=l2.read_pj,
        l2_write_pj=l2.write_pj,
        glb_read_pj=glb.read_pj,
        glb_write_pj=glb.write_pj,
        dram_pj=like + word * energy("dram_word"),
        leakage_pj=leakage_w / scenario.clock_hz * 1e12,
        dram_words_per_cycle=like + scenario.dram_bytes_per_cycle / word,
        glb_words_per_cycle=like + scenario.glb_bytes_per_cycle / word,
        clock_pj=like
        + node.logic_energy * energy("register_clock") * _clocked(accelerator, scenario),
        dram_background_pj=like + dram_w / scenario.clock_hz * 1e12,
        word_bytes=like + word,
        partial_sum_words=like + PARTIAL_SUM_BYTES / word,
        index_words=like + scenario.index_bits / scenario.precision_bits,
        costing=costing,
    )


def _logic(accelerator: Accelerator, scenario: Scenario, column: str) -> dict[str, Any]:
    """A column of the components summed over the chip's PE arrays and vector units, 22 nm."""
    of = functools.partial(component, costing_of(scenario), column=column)
    word, bit = scenario.word_bytes, of("register_bit")

    def unit(mac: str, register: str, words: int) -> float:
        """A MAC with its register file of so many words."""
        arithmetic = multiplier_accumulator(scenario, mac, column)
        return arithmetic + word * (of(register) + 8 * words * bit)

    columns = accelerator.cores * accelerator.pe_x
    pe = unit("mac", "weight_register_read", WEIGHT_REGISTER_WORDS)
    if scenario.index_bits:  # positions beside the weights, and an operand of its own
        positions = scenario.index_bits / 8
        pe += positions * (of("weight_register_read") + 8 * WEIGHT_REGISTER_WORDS * bit)
        pe += word * 8 * bit
    lane = unit("lane_mac", "lane_register_read", LANE_REGISTER_WORDS)
    return {
        "pe": accelerator.pes * pe + columns * 8 * PARTIAL_SUM_BYTES * bit,
        "vector": columns * lane,
    }


def _clocked(accelerator: Accelerator, scenario: Scenario) -> Any:
    """Flip-flops that see every clock edge: accumulators, and one gate a register word.

    A weight and its position share a gate; a PE that skips zeros has one word more.
    """
    columns = accelerator.cores * accelerator.pe_x
    words = WEIGHT_REGISTER_WORDS + (1 if scenario.index_bits else 0)
    return accelerator.pes * words + columns * (
        LANE_REGISTER_WORDS + 8 * PARTIAL_SUM_BYTES
    )


def area_breakdown_mm2(accelerator: Accelerator, scenario: Scenario) -> dict[str, Any]:
    """Chip area by part, mm2: PE arrays, vector units, local buffers, global buffer."""
    costing = costing_of(scenario)
    um2 = scaling(scenario.node_nm).logic_area
    logic = {
        part: 1e-6 * um2 * area
        for part, area in _logic(accelerator, scenario, "area_um2").items()
    }
    width = accelerator.l2_bytes_per_cycle
    l2 = _buffer(scenario, tensor_l2_kib(accelerator, costing), width).area_mm2
    if costing.vector_l2:
        l2 = l2 + _buffer(scenario, accelerator.l2_kib, width).area_mm2
    glb = _buffer(scenario, accelerator.glb_mib * 1024.0, glb_access_bytes(scenario))
    return logic | {"l2": accelerator.cores * l2, "glb": glb.area_mm2}


def tops(accelerator: Accelerator, scenario: Scenario) -> Any:
    """Peak throughput in 1e12 operations a second, a multiply-add counted as two."""
    return 2e-12 * accelerator.pes * scenario.clock_hz
