"""The rules of the published reference where they differ from ours.

CATransformers (arXiv 2505.01386) and its open release, quirks included; docs/cost-model.md tells
what each does to the numbers. Nothing of them is anywhere else but the constants in costing.py
that the mapper reads.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp

from codesign.accelerator import Accelerator
from codesign.cost import physical, sram, tables
from codesign.cost.dram import Devices, Port
from codesign.cost.execution import Execution
from codesign.cost.physical import SramCosts
from codesign.cost.rounding import ceil
from codesign.cost.scaling import REFERENCE_NM
from codesign.scenario import Scenario

if TYPE_CHECKING:
    from codesign.cost.components import Components
    from codesign.cost.mapping import Tiles, Work
    from codesign.cost.technology import Technology
    from codesign.cost.traffic import Traffic
    from codesign.workload.operators import Gemm, Workload

Array = jax.Array
DRAM_BYTES_PER_CYCLE = 128.0


def swap_attention(gemm: Gemm) -> Gemm:
    """Attention's summed dimension exchanged: of scores the tokens, of values the head width."""
    return gemm._replace(k=gemm.n) if gemm.name.endswith(("scores", "values")) else gemm


def fold_batch(gemm: Gemm) -> Gemm:
    """A batch of products (attention heads) is one product of as many rows."""
    return gemm._replace(m=gemm.m * gemm.batch, batch=1)


def check_process(scenario: Scenario) -> None:
    """Raises ValueError but for 8 bits at 22 nm, all that its tables cover."""
    physical.check_process(scenario)
    bits, nm = scenario.precision_bits, scenario.node_nm
    if (bits, nm) != (8, REFERENCE_NM):
        raise ValueError(
            f"scenario.costing: catransformers knows 8 bits at {REFERENCE_NM} nm, "
            f"not {bits} bits at {nm} nm; use physical"
        )


def sram_costs(
    scenario: Scenario, capacity_kib: Any, width_bytes: Any, components: Components
) -> SramCosts:
    """A word takes the energy of reading four bytes, read or written; nothing leaks."""
    reference = sram.buffer_reference(capacity_kib)
    read_pj, area_mm2 = reference.read_pj, reference.area_mm2
    return SramCosts(read_pj, read_pj, area_mm2, jnp.zeros_like(area_mm2))


def l2_kib(accelerator: Accelerator) -> tuple[Any, ...]:
    """The vector unit has a local buffer of its own; wide arrays get a larger one than asked."""
    x, y = accelerator.pe_x, accelerator.pe_y
    by_rows = jnp.where(y == 16, 128.0, jnp.where(y == 32, 256.0, 0.0))
    least = jnp.maximum(x * y / 64.0, jnp.where(x == 256, by_rows, 0.0))
    return jnp.maximum(accelerator.l2_kib, least), accelerator.l2_kib


def array_passes(work: Work, tiles: Tiles, loops: list[tuple[str, Array]]) -> Array:
    """Sums return to L2 after every step of the array."""
    return tiles.trips["k"] * ceil(tiles.k2 * work.kept / tiles.pes["k"])


def fill_and_drain(work: Work, tiles: Tiles) -> tuple[Array, Array]:
    """The first tile's loading and the last one's storing are free."""
    return jnp.zeros_like(tiles.m2), jnp.zeros_like(tiles.m2)


def l2_cycles(traffic: Traffic, work: Work, tiles: Tiles) -> Array:
    """The local buffers' bandwidth is not felt."""
    return jnp.zeros_like(tiles.m2)


def dram_cycles(traffic: Traffic, work: Work, fill: Array, drain: Array) -> Array:
    """Reads and writes have the whole bandwidth each."""
    rate = work.tech.words_per_cycle["dram"]
    return jnp.maximum(traffic.read["dram"] / rate + drain, traffic.write["dram"] / rate + fill)


def dram_port(accelerator: Accelerator, scenario: Scenario, factors: Any = None) -> Port:
    """128 bytes a cycle, of LPDDR4 at the energy of a 4-byte access a byte; no PHY, no standby."""
    no = 0.0 * accelerator.channels
    pj = tables.value("components_catransformers_22nm", "component", "dram_word", "energy_pj")
    return Port(DRAM_BYTES_PER_CYCLE, pj, standby_w=no, phy_mm2=no)


def dram_capacity_gb(contents_bytes: Any, channels: Any, scenario: Scenario) -> Any:
    """The scenario's, or 1 GB, whatever it holds."""
    return (1.0 if scenario.dram_gb is None else scenario.dram_gb) + 0.0 * (
        contents_bytes + channels
    )


def dram_packages(channels: Any, scenario: Scenario) -> Any:
    """None is counted."""
    return 0.0 * channels


def dram_devices(
    capacity: Any, channels: Any, number: Any, latency_s: Any, scenario: Scenario
) -> Devices:
    """Dies by ACT's carbon a GB; what is kept costs no energy."""
    per_gb = tables.value("act_dram", "technology", scenario.dram_technology, "g_per_gb")
    kgco2e = {"dram": capacity * per_gb / scenario.dram_yield * 1e-3, "dram_packages": number}
    return Devices(capacity, 0.0 * capacity, 0.0 * capacity, kgco2e)


def vector_costs(workload: Workload, accelerator: Accelerator, tech: Technology) -> Execution:
    """Costs [V] of element-wise operators: one access in and one out an element, of 4 words.

    Two each for a softmax, which takes rows x ceil(row / lanes) + 10 cycles more for its sums.
    Each cycle is charged on all lanes, busy or not. Where the tensor exceeds the local buffers (one
    core's for operators of two operands, else all), its DRAM accesses are divided by the number of
    buffer-sized pieces.
    """
    elements, rows = workload.elements, workload.vector_rows
    lanes = accelerator.pe_x * accelerator.cores
    row = elements / jnp.maximum(rows, 1)
    cycles = ceil(elements / lanes) * workload.vector_cycles
    cycles = cycles + jnp.where(rows > 0, rows * ceil(row / lanes) + 10, 0)
    accesses = elements * jnp.where(rows > 0, 4, 2) / 4
    buffers = jnp.where(workload.vector_operands > 1, 1, accelerator.cores)
    pieces = ceil(elements / (buffers * accelerator.l2_kib * 1024.0 / tech.word_bytes))
    return Execution(
        {"vector": cycles},
        {
            "l2": accesses * tech.read_pj["l2"],
            "glb": jnp.zeros_like(accesses),
            "dram": accesses * tech.read_pj["dram"] / jnp.maximum(pieces, 1),
            "vector": cycles * lanes * tech.lane_pj,
        },
    )
