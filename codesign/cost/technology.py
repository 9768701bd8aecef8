"""Component constants of one technology, and what an accelerator built in it costs per event."""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp

from codesign.accelerator import Accelerator
from codesign.cost.components import Components
from codesign.cost.costing import PHYSICAL, Costing
from codesign.cost.execution import total
from codesign.cost.memories import SRAMS, Sram
from codesign.cost.physical import SramCosts
from codesign.cost.scaling import scaling
from codesign.cost.world import World
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
      words_per_cycle: bandwidth of the levels that all cores share, words a cycle: of the GLB each
        way, of DRAM as the costing's `dram_cycles` has it.
      leakage_pj: leakage of SRAM, arithmetic and registers, per clock cycle.
      clock_pj: clock of operands, accumulators and the registers' gates, per clock cycle.
      control_pj: sequencer and DMA of the chip, per clock cycle.
      start_cycles: what starting an operator takes.
      dram_background_pj: the DRAM's standby, whatever its capacity, per clock cycle.
      word_bytes: bytes of a word.
      index_words: words of a kept weight's position; 0 on a chip that skips no zeros.
      partial_sum_words: words of a 32-bit partial sum.
      costing: the conventions these constants belong to.
      hand_over: whether the scenario lets operands wait in the GLB.
      resident_weights: whether weights may stay there between inferences, `World.resident_weights`.
    """

    mac_pj: Any
    lane_pj: Any
    read_pj: dict[str, Any]
    write_pj: dict[str, Any]
    words_per_cycle: dict[str, Any]
    leakage_pj: Any
    clock_pj: Any = 0.0
    control_pj: Any = 0.0
    start_cycles: Any = 0.0
    dram_background_pj: Any = 0.0
    word_bytes: Any = 1.0
    partial_sum_words: Any = 4.0
    index_words: Any = 0.0
    costing: Costing = dataclasses.field(default=PHYSICAL, metadata={"static": True})
    hand_over: bool = dataclasses.field(default=True, metadata={"static": True})
    resident_weights: bool = dataclasses.field(default=False, metadata={"static": True})

    @property
    def hands_over(self) -> bool:
        """Whether operands may wait in the GLB from one operator to the next."""
        return self.costing.hands_over and self.hand_over

    @property
    def cycles_per_word(self) -> dict[str, Any]:
        """Reciprocals of `words_per_cycle`, by which programs multiply: divisions take longer."""
        return {level: 1 / words for level, words in self.words_per_cycle.items()}

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
            "control": self.control_pj,
            "dram_background": self.dram_background_pj,
        }


def tensor_l2_kib(accelerator: Accelerator, costing: Costing) -> Any:
    """Local buffer the PE array works from, KiB."""
    return costing.l2_kib(accelerator)[0]


def _multiplier_accumulator(world: World, name: str, column: str) -> Any:
    """A column of the components' "mac" or "lane_mac" at the scenario's precision, 22 nm.

    The multiplier is an array of bits x bits cells, the adder of 32 bits stays. Horowitz
    (ISSCC 2014) has 15.5 times the energy for 32 bits instead of 8, where this has 16.
    """
    adder = world.parts.of("accumulator_adder", column)
    return (world.parts.of(name, column) - adder) * world.scenario.word_bytes**2 + adder


def _srams(level: Sram, accelerator: Accelerator, world: World) -> list[SramCosts]:
    """One of a level's memories, that of the PE array first where there are several."""
    width_bytes = level.access_bytes(accelerator, world.scenario)
    return [
        world.costing.sram(world.scenario, kib, width_bytes, world.parts)
        for kib in level.capacities_kib(accelerator, world.costing)
    ]


def technology(
    accelerator: Accelerator, scenario: Scenario, components: Components | None = None
) -> Technology:
    """What each event costs on this accelerator; shapes follow the accelerator's leaves.

    Args:
      accelerator: the chip.
      scenario: how it is made and clocked.
      components: what it is made of; the costing's nominal ones where None.

    Raises:
      ValueError: no component data for the scenario's node or precision.
    """
    return technology_in(World.of(scenario, components), accelerator)


def technology_in(world: World, accelerator: Accelerator) -> Technology:
    """`technology` in a world."""
    world.check()
    scenario, costing, energy = world.scenario, world.costing, world.parts.of
    node, word = scaling(scenario.node_nm), scenario.word_bytes
    srams = {s.name: _srams(s, accelerator, world)[0] for s in SRAMS}
    leaking_w = leakage_w(accelerator, world)
    dram = costing.dram_port(accelerator, scenario, world.parts.dram)
    like = jnp.zeros_like(leaking_w)
    mac_pj, lane_pj = (
        _multiplier_accumulator(world, unit, "energy_pj") for unit in ("mac", "lane_mac")
    )
    lane_pj += word * (energy("lane_register_read") + 2 * energy("lane_register_write"))
    # A word of a memory outside the cores comes from a core, or goes to one, over the network.
    network_pj = word * energy("wire") * _network_mm(accelerator, world)
    carried_pj = {s.name: 0.0 if s.in_core else network_pj for s in SRAMS}
    logic, dram_pj = node.logic_energy * word, like + word * dram.access_pj
    return Technology(
        mac_pj=like + node.logic_energy * mac_pj,
        lane_pj=like + node.logic_energy * lane_pj,
        read_pj={
            "register": like + logic * energy("weight_register_read"),
            **{name: costs.read_pj + carried_pj[name] for name, costs in srams.items()},
            "dram": dram_pj,
        },
        write_pj={
            "register": like + logic * energy("weight_register_write"),
            **{name: costs.write_pj + carried_pj[name] for name, costs in srams.items()},
            "dram": dram_pj,
        },
        words_per_cycle={
            **{
                s.name: like + s.bytes_per_cycle(accelerator, scenario) / word
                for s in SRAMS
                if not s.in_core
            },
            "dram": like + dram.bytes_per_cycle / word,
        },
        leakage_pj=leaking_w / scenario.clock_hz * 1e12,
        clock_pj=like
        + node.logic_energy * energy("register_clock") * _clocked(accelerator, scenario),
        control_pj=like + node.logic_energy * energy("control"),
        start_cycles=like + scenario.operator_start_cycles * costing.operators_start,
        dram_background_pj=like + dram.standby_w / scenario.clock_hz * 1e12,
        word_bytes=like + word,
        partial_sum_words=like + PARTIAL_SUM_BYTES / word,
        index_words=like + scenario.index_bits / scenario.precision_bits,
        costing=costing,
        hand_over=scenario.hand_over,
        resident_weights=world.resident_weights,
    )


def leakage_w(accelerator: Accelerator, world: World) -> Any:
    """What the chip leaks while it is switched on, W."""
    node = scaling(world.scenario.node_nm)
    srams = {s.name: _srams(s, accelerator, world)[0] for s in SRAMS}
    logic_uw = _logic(accelerator, world, "power_uw") | _uncore(
        accelerator, world.parts, "power_uw"
    )
    # The outermost first: float32 sums depend on their order.
    return total(
        {s.name: s.copies(accelerator) * srams[s.name].leakage_w for s in reversed(SRAMS)}
    ) + 1e-6 * node.logic_energy * sum(logic_uw.values())


def glb_leakage_w(accelerator: Accelerator, world: World) -> Any:
    """The global buffer's part of `leakage_w`."""
    (glb,) = (s for s in SRAMS if s.name == "glb")
    return glb.copies(accelerator) * _srams(glb, accelerator, world)[0].leakage_w


def _uncore(accelerator: Accelerator, parts: Components, column: str) -> dict[str, Any]:
    """A column of what a chip has once, and of the routers between its cores, 22 nm."""
    return {
        "control": parts.of("control", column),
        "noc": parts.of("router", column) * (accelerator.cores - 1),
    }


def _network_mm(accelerator: Accelerator, world: World) -> Any:
    """Mean way of a word between the GLB and a core, past what the memories' own wires span, mm.

    Cores lie in a square of sqrt(C) x sqrt(C), the GLB at its corner: sqrt(C) - 1 cores on
    the average, each as wide as the root of its area.
    """
    um2 = scaling(world.scenario.node_nm).logic_area
    in_core = (s for s in SRAMS if s.in_core)
    buffers = total({s.name: _srams(s, accelerator, world)[0].area_mm2 for s in in_core})
    arrays = 1e-6 * um2 * sum(_logic(accelerator, world, "area_um2").values())
    pitch_mm = jnp.sqrt(arrays / accelerator.cores + buffers)
    return (jnp.sqrt(accelerator.cores) - 1) * pitch_mm


def _logic(accelerator: Accelerator, world: World, column: str) -> dict[str, Any]:
    """A column of the components summed over the chip's PE arrays and vector units, 22 nm."""
    scenario, of = world.scenario, functools.partial(world.parts.of, column=column)
    word, flip_flop = scenario.word_bytes, of("flip_flop_bit")
    columns = accelerator.cores * accelerator.pe_x
    stored_bits = WEIGHT_REGISTER_WORDS * _stored_bits(scenario)
    pe = (
        _multiplier_accumulator(world, "mac", column)
        + _stored_bits(scenario) / 8 * of("weight_register_read")
        + stored_bits * of("register_bit")
        + _operand_bits(scenario) * flip_flop
    )
    lane = (
        _multiplier_accumulator(world, "lane_mac", column)
        + word * of("lane_register_read")
        + 8 * word * LANE_REGISTER_WORDS * flip_flop
    )
    return {
        "pe": accelerator.pes * pe + columns * 8 * PARTIAL_SUM_BYTES * flip_flop,
        "vector": columns * lane,
    }


def _stored_bits(scenario: Scenario) -> float:
    """Bits of a weight in a PE, with its position on a chip that skips zeros."""
    return 8 * scenario.word_bytes + scenario.index_bits


def _operand_bits(scenario: Scenario) -> float:
    """Flip-flops of a PE: its input, and one more picked off the bus where zeros are skipped."""
    return 8 * scenario.word_bytes * (2 if scenario.index_bits else 1)


def _clocked(accelerator: Accelerator, scenario: Scenario) -> Any:
    """Flip-flops that see every clock edge: operands, accumulators, and gates.

    The weights of a PE stand behind one gate, which opens to load them; each word of a lane's
    registers has a gate of its own.
    """
    columns = accelerator.cores * accelerator.pe_x
    return accelerator.pes * (_operand_bits(scenario) + 1) + columns * (
        LANE_REGISTER_WORDS + 8 * PARTIAL_SUM_BYTES
    )


def area_breakdown_mm2(
    accelerator: Accelerator, scenario: Scenario, components: Components | None = None
) -> dict[str, Any]:
    """Chip area by part, mm2: arrays, vector units, buffers, control, network, pads, DRAM PHY.

    Args:
      accelerator: the chip.
      scenario: its node and precision.
      components: what it is made of; the costing's nominal ones where None.
    """
    return area_in(World.of(scenario, components), accelerator)


def area_in(world: World, accelerator: Accelerator) -> dict[str, Any]:
    """`area_breakdown_mm2` in a world."""
    scenario, parts = world.scenario, world.parts
    um2 = scaling(scenario.node_nm).logic_area
    logic = {
        part: 1e-6 * um2 * area for part, area in _logic(accelerator, world, "area_um2").items()
    }
    memories = {}
    for level in SRAMS:
        first, *rest = (sram.area_mm2 for sram in _srams(level, accelerator, world))
        memories[level.name] = level.copies(accelerator) * sum(rest, first)
    uncore = {
        part: 1e-6 * um2 * area for part, area in _uncore(accelerator, parts, "area_um2").items()
    }
    pads = {"pads": 1e-6 * parts.of("pads", "area_um2") + jnp.zeros_like(logic["pe"])}
    phy = {"dram_phy": world.costing.dram_port(accelerator, scenario, parts.dram).phy_mm2}
    return logic | memories | uncore | pads | phy


def tops(accelerator: Accelerator, scenario: Scenario) -> Any:
    """Peak throughput in 1e12 operations a second, a multiply-add counted as two."""
    return 2e-12 * accelerator.pes * scenario.clock_hz
