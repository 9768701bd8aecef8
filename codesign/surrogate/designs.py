"""From GEMMs to whole designs: what a CLIP costs when something else prices its GEMMs.

Only cycles and dynamic energy of the GEMMs are an oracle's or a surrogate's; vector unit,
leakage, area and carbon follow by the formulas of codesign.cost.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from codesign.accelerator import Accelerator
from codesign.architecture import Architecture
from codesign.cost import carbon, sram
from codesign.cost.capacity import contents_bytes
from codesign.cost.chips import stack_workloads
from codesign.cost.execution import Execution
from codesign.cost.memories import SRAMS
from codesign.cost.model import Chip, costs_of, summed
from codesign.cost.scaling import scaling
from codesign.cost.technology import area_in, technology_in
from codesign.cost.vector_unit import vector_costs
from codesign.cost.world import World
from codesign.costing import costing_of
from codesign.scenario import Scenario
from codesign.search.objectives import named_costs
from codesign.surrogate.models import Prediction
from codesign.workload import Workload, clip_workload
from codesign.workload.clip import CLIP_FAMILY

# What designs are compared by; less is better.
METRICS = ("latency_s", "energy_j", "area_mm2", "carbon_kgco2e", "edp_js")


class Complete(NamedTuple):
    """A design of which every GEMM was priced.

    Attributes:
      architecture: the CLIP.
      accelerator: the chip, plain numbers.
      rows: where each GEMM of `clip_workload` is among the samples, [G].
    """

    architecture: Architecture
    accelerator: Accelerator
    rows: np.ndarray


class Batch(NamedTuple):
    """Complete designs side by side.

    Attributes:
      workload: operators, [D, G] and [D, V].
      accelerator: leaves [D].
      rows: of the samples, [D, G].
      contents: of the DRAM, bytes, [D].
    """

    workload: Workload
    accelerator: Accelerator
    rows: np.ndarray
    contents: np.ndarray


def batch(designs: Sequence[Complete], scenario: Scenario) -> Batch:
    """Designs [D], at least one, side by side, their operators as the scenario counts them."""
    costing = costing_of(scenario)
    workloads = [
        # Surrogates and oracles price products with all operands in DRAM.
        clip_workload(
            d.architecture, costing, texts_per_image=scenario.texts_per_image
        ).through_dram
        for d in designs
    ]
    return Batch(
        workload=stack_workloads([jax.tree.map(lambda x: x[None], w) for w in workloads]),
        accelerator=jax.tree.map(
            lambda *x: np.array(x, np.float32), *(d.accelerator for d in designs)
        ),
        rows=np.stack([d.rows for d in designs]),
        contents=np.array(
            [
                contents_bytes(CLIP_FAMILY.memory(d.architecture, scenario), scenario)
                for d in designs
            ],
            np.float32,
        ),
    )


@jax.jit
def _costs(
    gemms: Prediction,
    workload: Workload,
    accelerator: Accelerator,
    contents: np.ndarray,
    world: World,
) -> dict[str, Any]:
    scenario = world.scenario

    def one(gemms: Prediction, workload: Workload, chip: Accelerator, held: Any) -> dict[str, Any]:
        tech, made = technology_in(world, chip), Chip.of(chip, world)
        vector = vector_costs(workload, chip, tech)
        priced = Execution({"gemm": gemms.cycles}, {"gemm": gemms.energy_pj})
        run = summed(priced, vector.merged(), workload, tech).with_static(tech)
        return named_costs(costs_of(run, made, scenario, made.stored(held, scenario)), METRICS)

    return jax.vmap(one)(gemms, workload, accelerator, contents)


def design_costs(designs: Batch, gemms: Prediction, scenario: Scenario) -> dict[str, np.ndarray]:
    """METRICS of designs [D] whose GEMMs cost `gemms`, leaves [N], at the designs' rows."""
    priced = Prediction(*(np.asarray(x, np.float32)[designs.rows] for x in gemms))
    world = World.of(scenario)
    costs = _costs(priced, designs.workload, designs.accelerator, designs.contents, world)
    return {name: np.asarray(costs[name], float) for name in METRICS}


def with_raw_area(
    designs: Batch, costs: dict[str, np.ndarray], scenario: Scenario
) -> dict[str, np.ndarray] | None:
    """The costs [D] with areas of CACTI's own arrays in place of the smooth law's.

    None where some array is not in CACTI's table.
    """
    areas = [
        raw_area_mm2(jax.tree.map(lambda x, i=i: float(x[i]), designs.accelerator), scenario)
        for i in range(len(designs.rows))
    ]
    if None in areas:
        return None
    area = np.array(areas, float)
    more = carbon.chip_kgco2e(area, scenario) - carbon.chip_kgco2e(costs["area_mm2"], scenario)
    return costs | {"area_mm2": area, "carbon_kgco2e": costs["carbon_kgco2e"] + more}


def raw_area_mm2(accelerator: Accelerator, scenario: Scenario) -> float | None:
    """Area of one chip by CACTI's own arrays; None where one is not in its table."""
    world = World.of(scenario)
    parts = {name: float(x) for name, x in area_in(world, accelerator).items()}
    for level in SRAMS:
        width = min(float(level.access_bytes(accelerator, scenario)), sram.WIDTHS_BYTES[-1])
        (capacity_kib,) = level.capacities_kib(accelerator, world.costing)
        try:
            at_22_nm = sram.cacti("area_mm2", capacity_kib, width)
        except ValueError:
            return None
        over_law = world.parts.sram["area"]
        at_node = scaling(scenario.node_nm).sram_area * over_law * at_22_nm
        parts[level.name] = level.copies(accelerator) * at_node
    return sum(parts.values())
