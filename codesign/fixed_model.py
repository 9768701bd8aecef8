"""The hardware search of a config, for Python and the command line: its model, and designs."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection
from typing import Any

from codesign.cost.demand import sparse_demand
from codesign.costing import costing_of
from codesign.errors import UserError
from codesign.found import Found
from codesign.report.hardware import hardware_designs
from codesign.scenario import Scenario
from codesign.search.edges import Edge, chip_edges
from codesign.search.hardware import (
    RIVALS,
    HardwareConfig,
    HardwareSearch,
    resolve_scenario,
    robustness,
    search_hardware,
    set_fields,
    with_contents,
)
from codesign.workload import Model, load_model


@dataclasses.dataclass(frozen=True, eq=False)
class Hardware(Found):
    """The best accelerators of a fixed model.

    Attributes:
      model: what was priced.
      scenario: where it was, with its DRAM.
      search: costs of the accelerators that may be the best for something, and which are.
      designs: the best of each objective, "least-carbon" and so on, then the front of latency and
        carbon from the fastest on; dicts as in designs.json.
      robust_share: by objective, the share of sets of components under which its accelerator
        stays within 2 % of the best; empty where `uncertainty` was not asked for.
      edges: the choices of the grid on whose edge a best accelerator lies.
    """

    model: Model
    scenario: Scenario
    search: HardwareSearch
    designs: list[dict[str, Any]]
    robust_share: dict[str, float]
    edges: list[Edge]


def hardware_of(config: HardwareConfig, given: Collection[str] = ()) -> Hardware:
    """A hardware search by its config.

    Args:
      config: checked.
      given: dotted names of fields that were set, whatever their value; those of the scenario and
        the space that differ from the default count as set anyway.

    Raises:
      UserError: as of `search_hardware`.
    """
    model = load_model(
        config.model,
        tokens=config.tokens,
        phase=config.phase,
        context=config.context,
        design=config.name,
    )
    try:
        scenario = resolve_scenario(config, model.scenario, given)
        model = model.in_scenario(scenario)
        workload: Any = model.operators.under(costing_of(scenario))
        if model.sparsity and model.architecture is not None:
            demand = sparse_demand(model.architecture, scenario, model.sparsity)
            workload, scenario = demand.workloads, demand.scenario
        scenario, contents = with_contents(
            scenario,
            model.memory,
            1 - min(model.sparsity, default=0),
            fixed="dram_gb" in set_fields(config, given),
        )
        choices = config.choices(scenario.costing, given)
        found = search_hardware(
            workload,
            choices,
            scenario,
            config.limits,
            config.objectives,
            contents=contents,
            ranks=RIVALS if config.uncertainty else 1,
        )
        sets = config.uncertainty
        robust = robustness(workload, found, scenario, sets, contents=contents) if sets else {}
    except ValueError as error:
        raise UserError(str(error)) from error
    designs = hardware_designs(model, scenario, found)
    best = [design for design in designs if design["name"].startswith("least-")]
    return Hardware(model, scenario, found, designs, robust, chip_edges(choices, best))
