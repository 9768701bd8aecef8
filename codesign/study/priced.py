"""Every published network on every accelerator of a grid, priced once, for all findings."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax
import numpy as np

from codesign.accelerator import Accelerator
from codesign.cost.capacity import busy_share
from codesign.cost.chips import accelerator_grid, in_float32
from codesign.cost.execution import total
from codesign.cost.model import Chip, Costs
from codesign.cost.world import World
from codesign.costing import CATRANSFORMERS, default_scenario
from codesign.errors import UserError
from codesign.scenario import Scenario
from codesign.search.effects import priced_in_worlds
from codesign.search.hardware import accelerator_at
from codesign.search.objectives import Limits, feasible, least_index, objective
from codesign.study.config import PaperConfig
from codesign.study.published import designs, networks


class At(NamedTuple):
    """A network on an accelerator, and what it costs, leaves numbers."""

    accelerator: Accelerator
    costs: Costs


@dataclasses.dataclass(frozen=True, eq=False)
class Priced:
    """All networks under one costing.

    Attributes:
      costing: its name.
      scenario: where and how the devices live.
      chips: accelerators, leaves [A]: the grid's within the limits, then the published ones.
      searched: how many of them are the grid's.
      accelerators: how many the whole grid has.
      costs: of each network, by region ("" is the scenario's own) and name, leaves [A].
    """

    costing: str
    scenario: Scenario
    chips: Accelerator
    searched: int
    accelerators: int
    costs: Mapping[str, Mapping[str, Costs]]

    def best(self, network: str, mode: str, limits: Limits, region: str = "") -> At | None:
        """The network on the grid's accelerator of least `mode`; None where none meets the limits.

        An accelerator also has to keep up with the scenario's inferences a second.
        """
        costs = jax.tree.map(lambda x: x[: self.searched], self.costs[region][network])
        keeps_up = busy_share(costs.latency_s, self.scenario) <= 1
        allowed = np.asarray(feasible(costs, limits)) & keeps_up
        if not allowed.any():
            return None
        index = least_index(objective(mode), costs, allowed)
        return self._at(network, index, region)

    def published(self, network: str, accelerator: Accelerator) -> At:
        """The network on an accelerator of a published design."""
        places = [design.accelerator for design in designs()]
        return self._at(network, self.searched + places.index(accelerator), "")

    def _at(self, network: str, index: int, region: str) -> At:
        costs = jax.tree.map(lambda x: float(x[index]), self.costs[region][network])
        return At(accelerator_at(self.chips, index), costs)


def price(
    costing: str, config: PaperConfig, say: Callable[[str], None] = lambda line: None
) -> Priced:
    """Prices all published networks under a costing: each distinct product is mapped once.

    Raises:
      UserError: no accelerator of the grid meets the limits of area and throughput.
    """
    scenario = default_scenario(costing)
    reference = costing == CATRANSFORMERS.name
    choices = config.published_space if reference else config.space
    number = len(accelerator_grid(choices).cores)
    if reference:
        # No cost depends on it there: L2 bandwidth limits nothing, and takes no area or energy.
        last = choices.l2_bytes_per_cycle[-1:]
        choices = dataclasses.replace(choices, l2_bytes_per_cycle=last)
    grid = in_float32(accelerator_grid(choices))
    within = _within(grid, scenario, config.limits)
    if not within.any():
        limits = ", ".join(f"{k} <= {x:g}" for k, x in config.limits.active().items())
        raise UserError(f"--limits: no accelerator of the {costing} grid meets {limits}")
    grid = jax.tree.map(lambda x: x[within], grid)
    own = [design.accelerator for design in designs()]
    chips = jax.tree.map(lambda x, *more: np.append(x, np.asarray(more, np.float32)), grid, *own)
    say(f"{costing}: {len(networks())} networks on {len(grid.cores):,} accelerators")
    regions = {
        "": scenario,
        **{name: dataclasses.replace(scenario, use_grid=name) for name in config.regions},
    }
    models = [model.in_scenario(scenario) for model in networks().values()]
    worlds = [World.of(region) for region in regions.values()]
    found = priced_in_worlds(worlds, models, chips)
    costs = {
        region: dict(zip(networks(), row, strict=True))
        for region, row in zip(regions, found, strict=True)
    }
    return Priced(costing, scenario, chips, len(grid.cores), number, costs)


def _within(grid: Accelerator, scenario: Scenario, limits: Limits) -> np.ndarray:
    """Which accelerators [A] meet what they alone decide: area and throughput."""
    chip: Any = jax.jit(Chip.of)(grid, World.of(scenario))
    met = np.ones(len(grid.cores), bool)
    for value, limit in ((total(chip.area_mm2), limits.area_mm2), (chip.tops, limits.tops)):
        if limit is not None:
            met &= np.asarray(value) <= limit
    return met
