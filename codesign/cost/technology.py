"""Component constants of one technology, and what an accelerator built in it costs per event."""

from __future__ import annotations

import dataclasses
import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from codesign.accelerator import Accelerator
from codesign.cost import sram, tables
from codesign.costing import PHYSICAL, Costing, costing_of
from codesign.scenario import Scenario

NODES_NM = (22,)
# Words (bytes) of weight register per PE and of operand register per vector lane:
# the template of CATransformers (arXiv 2505.01386).
WEIGHT_REGISTER_WORDS = 32
LANE_REGISTER_WORDS = 12
# Bytes of a partial sum while it is being accumulated (int32); results are int8.
PARTIAL_SUM_BYTES = 4
# Widest single access of the global buffer, bytes; a wider port is several such arrays.
GLB_ACCESS_BYTES = 64.0


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Technology:
    """Energy per event (pJ), area (mm2) and rates of one accelerator; scalars or arrays [...].

    Attributes:
      mac_pj: one int8 multiply with a 32-bit accumulate.
      register_read_pj, register_write_pj: one byte of a PE's weight register.
      lane_pj: one vector-lane cycle: one MAC, one register read, two writes.
      l2_read_pj, l2_write_pj: one byte of a core's local buffer.
      glb_read_pj, glb_write_pj: one byte of the global buffer.
      dram_pj: one byte of DRAM, read or written.
      leakage_pj: leakage of all SRAM, per clock cycle.
      dram_words_per_cycle, glb_words_per_cycle: bandwidths, bytes a cycle each way.
      word_bytes: bytes of a word.
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
    word_bytes: Any = 1.0
    partial_sum_words: Any = 4.0
    costing: Costing = dataclasses.field(default=PHYSICAL, metadata={"static": True})

    @property
    def static_pj(self) -> Any:
        """Energy that passes with time, per clock cycle."""
        return self.leakage_pj


def component(costing: Costing, name: str, column: str = "energy_pj") -> float:
    """A constant of the costing's component table."""
    return tables.value(f"{costing.components}_22nm", "component", name, column)


def check_node(scenario: Scenario) -> None:
    """Raises ValueError where there are no component data for the scenario's node."""
    if scenario.node_nm not in NODES_NM:
        raise ValueError(
            f"scenario.node_nm: no component data for {scenario.node_nm} nm; there are for "
            + ", ".join(map(str, NODES_NM))
        )


def glb_access_bytes(scenario: Scenario) -> float:
    """Width of one global-buffer access, bytes."""
    return min(scenario.glb_words_per_cycle, GLB_ACCESS_BYTES)


class _Buffer(NamedTuple):
    """One on-chip memory: energy of a word (pJ), area (mm2), leakage (W)."""

    read_pj: Any
    write_pj: Any
    area_mm2: Any
    leakage_w: Any


def _buffer(costing: Costing, capacity_kib: Any, width_bytes: Any) -> _Buffer:
    if costing.buffers == "sram_law":
        return _Buffer(
            sram.read_pj_per_byte(capacity_kib, width_bytes),
            sram.write_pj_per_byte(capacity_kib, width_bytes),
            sram.area_mm2(capacity_kib, width_bytes),
            sram.leakage_w(capacity_kib, width_bytes),
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
    """What each event costs on this accelerator; shapes follow the accelerator's leaves."""
    check_node(scenario)
    costing = costing_of(scenario)
    energy = functools.partial(component, costing)
    l2 = _buffer(costing, tensor_l2_kib(accelerator, costing), accelerator.l2_words_per_cycle)
    glb = _buffer(costing, accelerator.glb_mib * 1024.0, glb_access_bytes(scenario))
    lane_pj = (
        energy("lane_mac") + energy("lane_register_read") + 2 * energy("lane_register_write")
    )
    leakage_w = glb.leakage_w + accelerator.cores * l2.leakage_w
    like = jnp.zeros_like(leakage_w)
    return Technology(
        mac_pj=like + energy("mac"),
        register_read_pj=like + energy("weight_register_read"),
        register_write_pj=like + energy("weight_register_write"),
        lane_pj=like + lane_pj,
        l2_read_pj=l2.read_pj,
        l2_write_pj=l2.write_pj,
        glb_read_pj=glb.read_pj,
        glb_write_pj=glb.write_pj,
        dram_pj=like + energy("dram_word"),
        leakage_pj=leakage_w / scenario.clock_hz * 1e12,
        dram_words_per_cycle=like + scenario.dram_words_per_cycle,
        glb_words_per_cycle=like + scenario.glb_words_per_cycle,
        word_bytes=like + 1.0,
        partial_sum_words=like + 4.0,
        costing=costing,
    )


def area_breakdown_mm2(accelerator: Accelerator, scenario: Scenario) -> dict[str, Any]:
    """Chip area by part, mm2: PE arrays, vector units, local buffers, global buffer."""
    costing = costing_of(scenario)
    area = functools.partial(component, costing, column="area_um2")
    register_bit = area("register_bit")
    pe_um2 = area("mac") + area("weight_register_read") + 8 * WEIGHT_REGISTER_WORDS * register_bit
    column_um2 = 8 * PARTIAL_SUM_BYTES * register_bit
    lane_um2 = (
        area("lane_mac") + area("lane_register_read") + 8 * LANE_REGISTER_WORDS * register_bit
    )
    columns = accelerator.cores * accelerator.pe_x
    width = accelerator.l2_words_per_cycle
    l2 = _buffer(costing, tensor_l2_kib(accelerator, costing), width).area_mm2
    if costing.vector_l2:
        l2 = l2 + _buffer(costing, accelerator.l2_kib, width).area_mm2
    return {
        "pe": 1e-6 * (accelerator.pes * pe_um2 + columns * column_um2),
        "vector": 1e-6 * columns * lane_um2,
        "l2": accelerator.cores * l2,
        "glb": _buffer(costing, accelerator.glb_mib * 1024.0, glb_access_bytes(scenario)).area_mm2,
    }


def tops(accelerator: Accelerator, scenario: Scenario) -> Any:
    """Peak throughput in 1e12 int8 operations a second, a multiply-add counted as two."""
    return 2e-12 * accelerator.pes * scenario.clock_hz
