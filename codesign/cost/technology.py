"""Component constants of one technology, and what an accelerator built in it costs per event."""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp

from codesign.accelerator import Accelerator
from codesign.cost import tables
from codesign.cost.costing import PHYSICAL, Costing, costing_of
from codesign.cost.execution import total
from codesign.cost.memories import SRAMS, Sram
from codesign.cost.physical import SramCosts
from codesign.cost.scaling import scaling
from codesign.scenario import Scenario

# Words of weight register per PE and of operand register per vector lane:
# the template of CATransformers (arXiv 2505.01386).
WEIGHT_REGISTER_WORDS = 32
LANE_REGISTER_WORDS = 12
# Bytes of a partial sum while it is being accumulated (int32); results are words.
PARTIAL_SUM_BYTES = 4


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Technology:
    """Energy per event (pJ) and rates of one accelerator; scalars or arrays [...].

    A word is a weight, an input or a result: a number of the scenario's `precision_bits`.

    Attributes:
      mac_pj: one multiply of two words with a 32-bit accumulate.
      lane_pj: one vector-lane cycle: one MAC, one register read, two writes.
      read_pj, write_pj: one word of each of `memories.LEVELS`.
      words_per_cycle: bandwidth of the levels that all cores share, words a cycle each way.
      leakage_pj: leakage of SRAM, arithmetic and registers, per clock cycle.
      clock_pj: clock of accumulators and of the registers' gates, per clock cycle.
      dram_background_pj: the DRAM's standby and refresh, per clock cycle.
      word_bytes: bytes of a word.
      index_words: words of a kept weight's position; 0 on a chip that skips no zeros.
      partial_sum_words: words of a 32-bit partial sum.
      costing: the conventions these constants belong to.
    """

    mac_pj: Any
    lane_pj: Any
    read_pj: dict[str, Any]
    write_pj: dict[str, Any]
    words_per_cycle: dict[str, Any]
    leakage_pj: Any
    clock_pj: Any = 0.0
    dram_background_pj: Any = 0.0
    word_bytes: Any = 1.0
    partial_sum_words: Any = 4.0
    index_words: Any = 0.0
    costing: Costing = dataclasses.field(default=PHYSICAL, metadata={"static": True})

    @property
    def static_pj(self) -> Any:
        """Energy that passes with time, whatever the chip does, per clock cycle."""
        return total(self.static_parts_pj)

    @property
    def static_parts_pj(self) -> dict[str, Any]:
        """The same by part."""
        return {
            "leakage": self.leakage_pj,
            "clock": self.clock_pj,
            "dram_background": self.dram_background_pj,
        }


def component(costing: Costing, name: str, column: str = "energy_pj") -> float:
    """A constant of the costing's component table."""
    return tables.value(f"{costing.components}_22nm", "component", name, column)


def check_process(scenario: Scenario) -> None:
    """Raises ValueError where the components cannot be had in the scenario's node or precision."""
    costing_of(scenario).check_process(scenario)


def multiplier_accumulator(scenario: Scenario, name: str, column: str) -> float:
    """A column of the costing's "mac" or "lane_mac" at the scenario's precision, 22 nm.

    The multiplier is an array of bits x bits cells, the adder of 32 bits stays. Horowitz
    (ISSCC 2014) has 15.5 times the energy for 32 bits instead of 8, where this has 16.
    """
    return _multiplier_accumulator(costing_of(scenario), scenario.word_bytes, name, column)


def _multiplier_accumulator(costing: Costing, word: float, name: str, column: str) -> float:
    adder = component(costing, "accumulator_adder", column)
    return (component(costing, name, column) - adder) * word**2 + adder


def tensor_l2_kib(accelerator: Accelerator, costing: Costing) -> Any:
    """Local buffer the PE array works from, KiB."""
    return costing.l2_kib(accelerator)[0]


def _srams(
    level: Sram, accelerator: Accelerator, scenario: Scenario, costing: Costing
) -> list[SramCosts]:
    """One of a level's memories, that of the PE array first where there are several."""
    width_bytes = level.access_bytes(accelerator, scenario)
    capacities_kib = level.capacities_kib(accelerator, costing)
    return [costing.sram(scenario, kib, width_bytes) for kib in capacities_kib]


def technology(accelerator: Accelerator, scenario: Scenario) -> Technology:
    """What each event costs on this accelerator; shapes follow the accelerator's leaves.

    Raises:
      ValueError: no component data for the scenario's node or precision.
    """
    costing = costing_of(scenario)
    costing.check_process(scenario)
    node, word = scaling(scenario.node_nm), scenario.word_bytes
    energy = functools.partial(component, costing)
    srams = {s.name: _srams(s, accelerator, scenario, costing)[0] for s in SRAMS}
    logic_w = (
        1e-6
        * node.logic_energy
        * sum(_logic(accelerator, scenario, costing, "power_uw").values())
    )
    # The outermost first: float32 sums depend on their order.
    leakage_w = total({
        s.name: s.copies(accelerator) * srams[s.name].leakage_w for s in reversed(SRAMS)
    }) + logic_w  # fmt: skip
    dram_w = 1e-6 * energy("dram_gb", "power_uw") * scenario.dram_gb
    like = jnp.zeros_like(leakage_w)
    mac_pj, lane_pj = (
        _multiplier_accumulator(costing, word, unit, "energy_pj") for unit in ("mac", "lane_mac")
    )
    lane_pj += word * (energy("lane_register_read") + 2 * energy("lane_register_write"))
    logic, dram_pj = node.logic_energy * word, like + word * energy("dram_word")
    return Technology(
        mac_pj=like + node.logic_energy * mac_pj,
        lane_pj=like + node.logic_energy * lane_pj,
        read_pj={
            "register": like + logic * energy("weight_register_read"),
            **{name: costs.read_pj for name, costs in srams.items()},
            "dram": dram_pj,
        },
        write_pj={
            "register": like + logic * energy("weight_register_write"),
            **{name: costs.write_pj for name, costs in srams.items()},
            "dram": dram_pj,
        },
        words_per_cycle={
            "glb": like + scenario.glb_bytes_per_cycle / word,
            "dram": like + scenario.dram_bytes_per_cycle / word,
        },
        leakage_pj=leakage_w / scenario.clock_hz * 1e12,
        clock_pj=like
        + node.logic_energy * energy("register_clock") * _clocked(accelerator, scenario),
        dram_background_pj=like + dram_w / scenario.clock_hz * 1e12,
        word_bytes=like + word,
        partial_sum_words=like + PARTIAL_SUM_BYTES / word,
        index_words=like + scenario.index_bits / scenario.precision_bits,
        costing=costing,
    )


def _logic(
    accelerator: Accelerator, scenario: Scenario, costing: Costing, column: str
) -> dict[str, Any]:
    """A column of the components summed over the chip's PE arrays and vector units, 22 nm."""
    of = functools.partial(component, costing, column=column)
    word, bit = scenario.word_bytes, of("register_bit")

    def unit(mac: str, register: str, words: int) -> float:
        """A MAC with its register file of so many words."""
        arithmetic = _multiplier_accumulator(costing, word, mac, column)
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
        for part, area in _logic(accelerator, scenario, costing, "area_um2").items()
    }
    memories = {}
    for level in SRAMS:
        first, *rest = (sram.area_mm2 for sram in _srams(level, accelerator, scenario, costing))
        memories[level.name] = level.copies(accelerator) * sum(rest, first)
    return logic | memories


def tops(accelerator: Accelerator, scenario: Scenario) -> Any:
    """Peak throughput in 1e12 operations a second, a multiply-add counted as two."""
    return 2e-12 * accelerator.pes * scenario.clock_hz
