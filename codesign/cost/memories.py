"""The memories of the chip, outermost last: the one table of what lies on an operand's way.

Technology, traffic, executions, areas and the oracles' constants have one entry a level, by its
name. What an operand moves through a level is traffic.py's to say, of a GEMM, and
vector_unit.py's, of an element-wise operator.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

import jax.numpy as jnp

from codesign.accelerator import Accelerator
from codesign.scenario import Scenario

if TYPE_CHECKING:
    from codesign.cost.costing import Costing

# Widest single access of the global buffer, bytes; a wider port is several such arrays.
GLB_ACCESS_BYTES = 64.0


class Sram(NamedTuple):
    """An on-chip memory of the template.

    Attributes:
      name: of the level.
      copies: how many of them a chip has.
      capacities_kib: of one, and of others that a costing has beside it.
      access_bytes: width of one access of it.
    """

    name: str
    copies: Callable[[Accelerator], Any]
    capacities_kib: Callable[[Accelerator, Costing], tuple[Any, ...]]
    access_bytes: Callable[[Accelerator, Scenario], Any]


SRAMS = (
    Sram(
        "l2",
        copies=lambda chip: chip.cores,
        capacities_kib=lambda chip, costing: costing.l2_kib(chip),
        access_bytes=lambda chip, scenario: chip.l2_bytes_per_cycle,
    ),
    Sram(
        "glb",
        copies=lambda chip: 1,
        capacities_kib=lambda chip, costing: (chip.glb_mib * 1024.0,),
        access_bytes=lambda chip, scenario: jnp.minimum(
            scenario.glb_bytes_per_cycle, GLB_ACCESS_BYTES
        ),
    ),
)
# All levels, the registers of the PEs first.
LEVELS = ("register", *(sram.name for sram in SRAMS), "dram")
