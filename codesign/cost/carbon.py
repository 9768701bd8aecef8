"""Embodied and operational carbon of a design over its life.

Embodied carbon follows ACT (Gupta et al., ISCA 2022): chip area times what the
process emits per area (electricity of the fab, process gases, materials) over the
yield; dram.py has that of DRAM. The chip's own package is not counted. Operational carbon is the
energy of all inferences of the life times the intensity of the grid of use.
"""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
import numpy as np

from codesign.cost import tables
from codesign.scenario import Scenario

JOULE_PER_KWH = 3.6e6
# ACT's table ends at 28 nm, which stands for the coarser nodes up to this one.
COARSEST_NM = 45
_GRIDS = {"use_grid": "use_grid", "fab_grid": "act_grid_location"}


def use_grid_g_per_kwh(scenario: Scenario) -> Any:
    """Intensity of the grid of use, gCO2e/kWh.

    Raises:
      ValueError: the grid has a name that is not in use_grid.csv.
    """
    return g_per_kwh("use_grid", scenario.use_grid)


def fab_grid_g_per_kwh(scenario: Scenario) -> Any:
    """Intensity of the fab's electricity, gCO2e/kWh.

    Raises:
      ValueError: the grid has a name that is not in act_grid_location.csv.
    """
    return g_per_kwh("fab_grid", scenario.fab_grid)


def g_per_kwh(field: str, grid: Any) -> Any:
    """Intensity of a grid, gCO2e/kWh.

    Args:
      field: of the scenario, "use_grid" or "fab_grid", which has a table of names.
      grid: a name in it, or the intensity itself.

    Raises:
      ValueError: there is no grid of that name.
    """
    if not isinstance(grid, str):
        return grid
    try:
        return tables.value(_GRIDS[field], "location", grid, "g_per_kwh")
    except ValueError as error:
        raise ValueError(f"scenario.{field}: {error}") from None


def _process(scenario: Scenario, column: str) -> float:
    """A column of ACT's table of logic at the scenario's node, linear in nm between its rows."""
    rows = sorted(tables.rows("act_logic"), key=lambda row: float(row["node_nm"]))
    nodes = [float(row["node_nm"]) for row in rows]
    if not nodes[0] <= scenario.node_nm <= COARSEST_NM:
        raise ValueError(
            f"scenario.node_nm: no fab data for {scenario.node_nm} nm; "
            f"there are for {nodes[0]:g} to {COARSEST_NM} nm"
        )
    return float(np.interp(scenario.node_nm, nodes, [float(row[column]) for row in rows]))


def wafer_kgco2e_per_mm2(scenario: Scenario) -> Any:
    """Carbon of processing one mm2 of wafer, good or bad: EPA x grid + GPA + MPA.

    Raises:
      ValueError: ACT has no data for the node, or no fab grid of that name.
    """
    grams_per_cm2 = (
        _process(scenario, "epa_kwh_per_cm2") * fab_grid_g_per_kwh(scenario)
        + _process(scenario, f"gpa{scenario.gas_abatement_pct}_g_per_cm2")
        + _process(scenario, "mpa_g_per_cm2")
    )
    return grams_per_cm2 * 1e-3 / 100


def chip_yield(area_mm2: Any, scenario: Scenario) -> Any:
    """Good dies over all dies: the scenario's figure or, with a defect density D, Murphy's.

    Murphy (Proc. IEEE 52, 1964): ((1 - exp(-A D)) / (A D))^2 for a die of area A.
    """
    if scenario.defects_per_cm2 is None:
        return scenario.logic_yield
    defects = jnp.maximum(area_mm2 * scenario.defects_per_cm2 / 100, 1e-6)
    return (-jnp.expm1(-defects) / defects) ** 2


def chip_kgco2e(area_mm2: Any, scenario: Scenario) -> Any:
    """Carbon of making one good chip."""
    return area_mm2 * wafer_kgco2e_per_mm2(scenario) / chip_yield(area_mm2, scenario)


def operational_kgco2e(energy_j: Any, scenario: Scenario) -> Any:
    """Carbon of the energy of all inferences of the life."""
    kwh = energy_j * scenario.lifetime_inferences / JOULE_PER_KWH
    return kwh * use_grid_g_per_kwh(scenario) * 1e-3
