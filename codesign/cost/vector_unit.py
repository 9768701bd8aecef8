"""Element-wise operators on the vector units: softmax, norms, activations, additions."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from codesign.accelerator import Accelerator
from codesign.cost.mapper import ceil
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
    elements = workload.elements
    read, written = elements * workload.vector_operands, elements
    lanes = accelerator.pe_x * accelerator.cores
    busiest = jnp.maximum(read, written)
    l2_words = accelerator.l2_words_per_cycle * accelerator.cores
    transfer = busiest / jnp.minimum(
        jnp.minimum(tech.dram_words_per_cycle, tech.glb_words_per_cycle), l2_words
    )
    moved = read + written
    return VectorCosts(
        cycles=jnp.maximum(ceil(elements / lanes) * workload.vector_cycles, transfer),
        lane_pj=elements * workload.vector_cycles * tech.lane_pj,
        l2_pj=moved * (tech.l2_read_pj + tech.l2_write_pj),
        glb_pj=moved * (tech.glb_read_pj + tech.glb_write_pj),
        dram_pj=moved * tech.dram_pj,
    )
