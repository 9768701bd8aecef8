"""Embodied and operational carbon of a design over its life.

Embodied carbon follows ACT (Gupta et al., ISCA 2022): chip area times what the
process emits per area (electricity of the fab, process gases, materials) over the
yield, and DRAM by capacity. Packaging is not counted. Operational carbon is the
energy of all inferences of the life times the intensity of the grid of use.
"""

from __future__ import annotations

from typing import Any

from codesign.cost import tables
from codesign.scenario import Scenario

JOULE_PER_KWH = 3.6e6
# Edition of ACT's table of fab locations.
FAB_GRID_COLUMN = "g_per_kwh_2023"


def use_grid_g_per_kwh(scenario: Scenario) -> float:
    """Intensity of the grid of use, gCO2e/kWh."""
    if isinstance(scenario.use_grid, str):
        return tables.value("use_grid", "location", scenario.use_grid, "g_per_kwh")
    return float(scenario.use_grid)


def fab_grid_g_per_kwh(scenario: Scenario) -> float:
    """Intensity of the fab's electricity, gCO2e/kWh."""
    if isinstance(scenario.fab_grid, str):
        return tables.value("act_grid_location", "location", scenario.fab_grid, FAB_GRID_COLUMN)
    return float(scenario.fab_grid)


def logic_kgco2e_per_mm2(scenario: Scenario) -> float:
    """Carbon of making one mm2 of good chip: (EPA grid + GPA + MPA) / yield."""
    node = str(scenario.node_nm)
    per_cm2 = {
        name: tables.value("act_logic", "node_nm", node, column)
        for name, column in (
            ("epa_kwh", "epa_kwh_per_cm2"),
            ("gas_g", f"gpa{scenario.gas_abatement_pct}_g_per_cm2"),
            ("material_g", "mpa_g_per_cm2"),
        )
    }
    grams_per_cm2 = (
        per_cm2["epa_kwh"] * fab_grid_g_per_kwh(scenario)
        + per_cm2["gas_g"]
        + per_cm2["material_g"]
    ) / scenario.logic_yield
    return grams_per_cm2 * 1e-3 / 100


def dram_kgco2e(scenario: Scenario) -> float:
    """Carbon of making the DRAM."""
    per_gb = tables.value("act_dram", "technology", scenario.dram_technology, "g_per_gb")
    return scenario.dram_gb * per_gb / scenario.dram_yield * 1e-3


def operational_kgco2e(energy_j: Any, scenario: Scenario) -> Any:
    """Carbon of the energy of all inferences of the life."""
    kwh = energy_j * scenario.lifetime_inferences / JOULE_PER_KWH
    return kwh * use_grid_g_per_kwh(scenario) * 1e-3
