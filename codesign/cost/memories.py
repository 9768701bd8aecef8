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


class Sram(NamedTuple):
    """An on-chip memory of the template.

    Attributes:
      name: of the level.
      in_core: whether each core has one; else all share one, over the network of the chip.
      capacities_kib: of one, and of others that a costing has beside it.
      bytes_per_cycle: width of the port of one.
      widest_bytes: widest single access; a wider port is several such arrays.
    """

    name: str
    in_core: bool
    capacities_kib: Callable[[Accelerator, Costing], tuple[Any, ...]]
    bytes_per_cycle: Callable[[Accelerator, Scenario], Any]
    widest_bytes: float | None = None

    def copies(self, chip: Accelerator) -> Any:
        """How many of them a chip has."""
        return chip.cores if self.in_core else 1

    def access_bytes(self, chip: Accelerator, scenario: Scenario) -> Any:
        """Width of one access."""
        port = self.bytes_per_cycle(chip, scenario)
        return port if self.widest_bytes is None else jnp.minimum(port, self.widest_bytes)


SRAMS = (
    Sram(
        "l2",
        in_core=True,
        capacities_kib=lambda chip, costing: costing.l2_kib(chip),
        bytes_per_cycle=lambda chip, scenario: chip.l2_bytes_per_cycle,
    ),
    Sram(
        "glb",
        in_core=False,
        capacities_kib=lambda chip, costing: (chip.glb_mib * 1024.0,),
        bytes_per_cycle=lambda chip, scenario: scenario.glb_bytes_per_cycle,
        widest_bytes=64.0,
    ),
)
# All levels, the registers of the PEs first.
LEVELS = ("register", *(sram.name for sram in SRAMS), "dram")


def glb_words(accelerator: Accelerator, word_bytes: Any) -> Any:
    """Capacity of the global buffer, words."""
    return accelerator.glb_mib * 2.0**20 / word_bytes
