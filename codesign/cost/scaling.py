"""What changes with the technology node: factors on the 22 nm component data.

Logic follows Stillmaker and Baas (Integration 58, 2017): switching energy and area of
CMOS at 0.8 V. SRAM is CACTI's own at 22, 32 and 45 nm, in between in a straight line
through the logarithms; below 22 nm, where CACTI has no data, its energy and area shrink
as logic's and its leakage stays. The interface of the DRAM does not change.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from codesign.cost import tables

# The node of the component tables.
REFERENCE_NM = 22


class Scaling(NamedTuple):
    """Factors over 22 nm.

    Attributes:
      logic_energy: switching energy of logic and registers, and their leakage with it.
      logic_area: their area.
      sram_read, sram_write: energy of an SRAM access.
      sram_area: area of an SRAM.
      sram_leakage: standby leakage of an SRAM.
    """

    logic_energy: float
    logic_area: float
    sram_read: float
    sram_write: float
    sram_area: float
    sram_leakage: float


def nodes_nm() -> tuple[int, ...]:
    """The nodes there are factors for, nm."""
    return tuple(int(row["node_nm"]) for row in tables.rows("logic_scaling"))


def scaling(node_nm: int) -> Scaling:
    """Factors of a node over 22 nm.

    Raises:
      ValueError: there are none for the node.
    """
    if node_nm not in nodes_nm():
        raise ValueError(
            f"scenario.node_nm: no component data for {node_nm} nm; there are for "
            + ", ".join(map(str, nodes_nm()))
        )
    energy, area = _logic(node_nm, "energy"), _logic(node_nm, "area")
    if node_nm < REFERENCE_NM:
        return Scaling(energy, area, energy, energy, area, 1.0)
    return Scaling(
        energy,
        area,
        _sram(node_nm, "read_pj_per_access"),
        _sram(node_nm, "write_pj_per_access"),
        _sram(node_nm, "area_mm2"),
        _sram(node_nm, "leakage_mw"),
    )


def _logic(node_nm: int, column: str) -> float:
    at, reference = (
        tables.value("logic_scaling", "node_nm", str(node), column)
        for node in (node_nm, REFERENCE_NM)
    )
    return at / reference


def _sram(node_nm: int, quantity: str) -> float:
    rows = tables.rows("sram_scaling")
    nodes = [float(row["node_nm"]) for row in rows]
    logs = np.log([float(row[quantity]) for row in rows])
    return float(np.exp(np.interp(node_nm, nodes, logs)))
