"""Component constants of one technology, and what an accelerator built in it costs per event."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from codesign.accelerator import Accelerator
from codesign.cost import sram, tables
from codesign.cost.costing import PHYSICAL, Costing
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


def component(name: str, column: str = "energy_pj") -> float:
    """A constant of cost/data/components_22nm.csv."""
    return tables.value("components_22nm", "component", name, column)


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


def technology(accelerator: Accelerator, scenario: Scenario) -> Technology:
    """What each event costs on this accelerator; shapes follow the accelerator's leaves."""
    check_node(scenario)
    glb_kib, glb_width = accelerator.glb_mib * 1024.0, glb_access_bytes(scenario)
    l2_kib, l2_width = accelerator.l2_kib, accelerator.l2_words_per_cycle
    leakage_w = sram.leakage_w(glb_kib, glb_width) + accelerator.cores * sram.leakage_w(
        l2_kib, l2_width
    )
    lane_pj = (
        component("mac")
        + component("lane_register_read")
        + 2 * component("lane_register_write")
    )
    like = jnp.zeros_like(leakage_w)
    return Technology(
        mac_pj=like + component("mac"),
        register_read_pj=like + component("weight_register_read"),
        register_write_pj=like + component("weight_register_write"),
        lane_pj=like + lane_pj,
        l2_read_pj=sram.read_pj_per_byte(l2_kib, l2_width),
        l2_write_pj=sram.write_pj_per_byte(l2_kib, l2_width),
        glb_read_pj=sram.read_pj_per_byte(glb_kib, glb_width),
        glb_write_pj=sram.write_pj_per_byte(glb_kib, glb_width),
        dram_pj=like + component("dram_byte"),
        leakage_pj=leakage_w / scenario.clock_hz * 1e12,
        dram_words_per_cycle=like + scenario.dram_words_per_cycle,
        glb_words_per_cycle=like + scenario.glb_words_per_cycle,
        word_bytes=like + 1.0,
        partial_sum_words=like + 4.0,
    )


def area_breakdown_mm2(accelerator: Accelerator, scenario: Scenario) -> dict[str, Any]:
    """Chip area by part, mm2: PE arrays, vector units, local buffers, global buffer."""
    register_bit = component("register_bit", "area_um2")
    mac = component("mac", "area_um2")
    pe_um2 = mac + 8 * WEIGHT_REGISTER_WORDS * register_bit
    column_um2 = 8 * PARTIAL_SUM_BYTES * register_bit
    lane_um2 = mac + 8 * LANE_REGISTER_WORDS * register_bit
    columns = accelerator.cores * accelerator.pe_x
    return {
        "pe": 1e-6 * (accelerator.pes * pe_um2 + columns * column_um2),
        "vector": 1e-6 * columns * lane_um2,
        "l2": accelerator.cores
        * sram.area_mm2(accelerator.l2_kib, accelerator.l2_words_per_cycle),
        "glb": sram.area_mm2(accelerator.glb_mib * 1024.0, glb_access_bytes(scenario)),
    }


def tops(accelerator: Accelerator, scenario: Scenario) -> Any:
    """Peak throughput in 1e12 int8 operations a second, a multiply-add counted as two."""
    return 2e-12 * accelerator.pes * scenario.clock_hz
