"""Accelerator: the template's free parameters, as a pytree.

DRAM -> global buffer (GLB, shared) -> per-core local buffer (L2) -> an array of
pe_x x pe_y multiply-accumulate PEs per core, and a vector unit of pe_x lanes per
core; DRAM on a number of channels. See docs/cost-model.md.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import jax

from codesign.renamed import accepts_old_names


@accepts_old_names
@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Accelerator:
    """One chip of the template; every field is a leaf (int, float or array [...]).

    Attributes:
      cores: identical cores on the chip.
      pe_x: PE columns per core (output channels side by side; vector lanes).
      pe_y: PE rows per core (input channels, summed down a column).
      l2_kib: local buffer per core, KiB.
      l2_bytes_per_cycle: local-buffer bandwidth, bytes a cycle, read and write each.
      glb_mib: global buffer, MiB (fractions allowed: 0.0625 is 64 KiB).
      channels: DRAM channels of the scenario's technology, each with a PHY on the chip.
    """

    cores: Any = 1
    pe_x: Any = 64
    pe_y: Any = 16
    l2_kib: Any = 256
    l2_bytes_per_cycle: Any = 64
    glb_mib: Any = 4
    channels: Any = 2

    @property
    def pes(self) -> Any:
        """PEs on the chip."""
        return self.cores * self.pe_x * self.pe_y


# What a mapping is made for; of the DRAM it knows the bandwidth and the energy alone.
ON_CHIP = tuple(f.name for f in dataclasses.fields(Accelerator) if f.name != "channels")
