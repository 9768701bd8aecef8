"""Element-wise operators on the vector units: softmax, norms, activations, additions."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from codesign.accelerator import Accelerator
from codesign.cost.rounding import ceil
from codesign.cost.technology import Technology
from codesign.workload.operators import Workload


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class VectorCosts:
    """Cost of element-wise operators, [V].

    Attributes:
      cycles: latency, clock cycles.
      lane_pj, l2_pj, glb_pj, dram_pj: dynamic energy by part, pJ.
    """

    cycles: Any
    lane_pj: Any
    l2_pj: Any
    glb_pj: Any
    dram_pj: Any

    @property
    def dynamic_pj(self) -> Any:
        """Dynamic energy, pJ."""
        return self.lane_pj + self.l2_pj + self.glb_pj + self.dram_pj


def vector_costs(workload: Workload, accelerator: Accelerator, tech: Technology) -> VectorCosts:
    """Costs [V] of the workload's element-wise operators on one accelerator.

    pe_x lanes on every core; operands stream DRAM -> GLB -> L2 -> lanes and results
    back, overlapped with the arithmetic: the slowest of them sets the latency.
    """
    costing, elements = tech.costing, workload.elements
    read, written = elements * workload.vector_operands, elements
    lanes = accelerator.pe_x * accelerator.cores
    cycles = ceil(elements / lanes) * workload.vector_cycles
    if costing.row_sums:
        rows = workload.vector_rows
        row = elements / jnp.maximum(rows, 1)
        cycles = cycles + jnp.where(rows > 0, rows * ceil(row / lanes) + 10, 0)
    busy = cycles * lanes if costing.every_lane else elements * workload.vector_cycles
    if not costing.vector_streams:
        return _by_blocks(workload, accelerator, tech, cycles, busy)
    l2_words = accelerator.l2_bytes_per_cycle / tech.word_bytes * accelerator.cores
    transfer = jnp.maximum(read, written) / jnp.minimum(
        jnp.minimum(tech.dram_words_per_cycle, tech.glb_words_per_cycle), l2_words
    )
    moved = read + written
    return VectorCosts(
        cycles=jnp.maximum(cycles, transfer),
        lane_pj=busy * tech.lane_pj,
        l2_pj=moved * (tech.l2_read_pj + tech.l2_write_pj),
        glb_pj=moved * (tech.glb_read_pj + tech.glb_write_pj),
        dram_pj=moved * tech.dram_pj,
    )


def _by_blocks(
    workload: Workload, accelerator: Accelerator, tech: Technology, cycles: Any, busy: Any
) -> VectorCosts:
    """CATransformers' memory accesses: one in and one out an element, in blocks of 4 words.

    Two each for a softmax. Where the tensor exceeds the local buffers (one core's for
    operators of two operands, else all), its DRAM accesses are divided by the number of
    buffer-sized pieces.
    """
    elements = workload.elements
    softmax = workload.vector_rows > 0
    accesses = elements * jnp.where(softmax, 4, 2) / 4
    buffers = jnp.where(workload.vector_operands > 1, 1, accelerator.cores)
    pieces = ceil(elements / (buffers * accelerator.l2_kib * 1024.0 / tech.word_bytes))
    return VectorCosts(
        cycles=cycles,
        lane_pj=busy * tech.lane_pj,
        l2_pj=accesses * tech.l2_read_pj,
        glb_pj=jnp.zeros_like(accesses),
        dram_pj=accesses * tech.dram_pj / jnp.maximum(pieces, 1),
    )
