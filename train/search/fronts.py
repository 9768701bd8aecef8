"""New fronts of a finished search: other limits, scenarios, objectives or chips, no training."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np

from codesign.constraints import Count
from codesign.cost.estimate import check_dram, estimate
from codesign.cost.table import ACCELERATORS_AT_ONCE, BlockedTable, build_table
from codesign.decode import decode
from codesign.design_file import Design, check_choices, checked_scenario, design_to_json
from codesign.errors import UserError
from codesign.report.costs import costs_json
from codesign.runs import CONFIG, Run
from codesign.scenario import Scenario
from codesign.search.front import (
    best_under,
    cheapest,
    front,
    network_shape,
    tower_shape,
    unmet,
)
from codesign.search.objectives import Limits, Mode, keeping_up, objective
from codesign.search.proxy_file import read_proxy
from codesign.space import AcceleratorChoices, DesignSpace, TowerChoices


@dataclasses.dataclass(frozen=True)
class FrontTargets:
    """The designs to name of a front.

    Attributes:
      mode: the cost to make small, as of a search.
      designs: how many, spread over the front evenly in the logarithm of this cost.
    """

    mode: Mode = "carbon"
    designs: Count = 12


@dataclasses.dataclass(frozen=True)
class FrontConfig:
    """What may differ from the search: all that needs no training.

    Attributes:
      scenario: how designs are made and used.
      limits: what every design must meet.
      targets: which designs to name.
      accelerator: choices of the accelerator.
    """

    scenario: Scenario
    limits: Limits
    targets: FrontTargets
    accelerator: AcceleratorChoices

    def check(self) -> None:
        """Refuses values that do not go together.

        Raises:
          UserError: the first such values, and the mend.
        """
        checked_scenario(self.scenario)
        check_choices(self.accelerator, "accelerator")


def front_config(run: Run) -> FrontConfig:
    """The settings of the front, as the search had them.

    Raises:
      UserError: no search, or one whose objective or limits are functions of its config file.
    """
    where, config = str(run.path / CONFIG), _config(run)
    space = config["space"]
    parts: dict[str, tuple[type, Any]] = {
        "scenario": (Scenario, config.get("scenario", {})),
        "limits": (Limits, config.get("limits", {})),
        "targets": (FrontTargets, config.get("targets", {})),
        "accelerator": (AcceleratorChoices, space.get("accelerator", {})),
    }
    read: dict[str, Any] = {
        name: decode(kind, obj, where, at=name) for name, (kind, obj) in parts.items()
    }
    return FrontConfig(**read)


def _config(run: Run) -> Mapping[str, Any]:
    config = run.record.get("config")
    space = config.get("space") if isinstance(config, Mapping) else None
    if not isinstance(config, Mapping) or not isinstance(space, Mapping):
        raise UserError(f"{run.path} is no joint search: only those have fronts")
    if space.get("sparsity"):
        raise UserError(f"{run.path} searched subnet families: no proxy ranks these")
    return config


def new_front(run: Run, config: FrontConfig) -> dict[str, Any]:
    """The exact front of a run's proxy.

    Returns:
      {"designs": as in designs.json, with "proxy_accuracy" and "proxy_loss" for the accuracy,
       "front": {the key of the objective, "proxy_accuracy", "proxy_loss": lists, cheapest first},
       "networks", "feasible": how many there are, "images": the proxy is of}.

    Raises:
      UserError: a run without proxy; limits or targets that nothing meets.
    """
    where, space_config = str(run.path / CONFIG), _config(run)["space"]
    towers: Any = {
        name: decode(TowerChoices, space_config.get(name), where, at=f"space.{name}")
        for name in ("vision", "text")
    }
    ranked = read_proxy(run.path)
    space = DesignSpace(ranked.largest, **towers, accelerator=config.accelerator)
    space = space.within(ranked.largest)  # of a checkpoint, which ended the choices
    ranked.check(tower_shape(space))
    try:
        # Each network is looked up once: a large table need not be whole.
        in_blocks = space.accelerators > ACCELERATORS_AT_ONCE
        check_dram(space.largest(), config.scenario)
        table = (BlockedTable if in_blocks else build_table)(space, config.scenario)
        aim = objective(config.targets.mode)
        limits = keeping_up(config.limits, config.scenario)
        choice = cheapest(table, config.targets.mode, limits)
    except ValueError as error:
        raise UserError(str(error)) from error
    cost, loss = np.asarray(choice.value), ranked.proxy.loss.reshape(-1)
    accuracy = ranked.proxy.accuracy.reshape(-1)
    on_front = front(cost, loss)
    if not len(on_front):
        alone = cheapest(table, config.targets.mode, config.limits)
        too_slow = np.isfinite(alone.value).any()
        raise UserError(
            f"limits: no design of the space meets them ({unmet(table, limits)}); "
            + ("lower scenario.inferences_per_s" if too_slow else "raise them")
        )
    ends = cost[on_front[[0, -1]]]
    # The last is the end itself, whatever rounding makes of it.
    goals = np.append(np.geomspace(ends[0], ends[1], config.targets.designs)[:-1], ends[-1])
    designs = []
    for i, flat in enumerate(best_under(cost, loss, goals)):
        network = np.stack(np.unravel_index(flat, network_shape(table.space)))
        chip = space.accelerator_at(np.asarray(table.accelerator_indices(choice.accelerator[flat])))
        architecture = space.architecture_at(network)
        design = Design(f"{aim.name}-{i:02d}", architecture, chip, config.scenario)
        costs = estimate(architecture, chip, config.scenario)
        designs.append(
            design_to_json(design)
            | {
                "role": "found",
                f"target_{aim.key}": float(goals[i]),
                "limits": config.limits.active(),
                "costs": costs_json(
                    costs, [aim, *(bounded for bounded, _ in config.limits.bounds())]
                ),
                "proxy_accuracy": float(accuracy[flat]),
                "proxy_loss": float(loss[flat]),
                "feasible": True,
                "pareto": bool(np.isin(flat, on_front)),
            }
        )
    return {
        "designs": designs,
        "front": {
            aim.key: cost[on_front].tolist(),
            "proxy_accuracy": accuracy[on_front].tolist(),
            "proxy_loss": loss[on_front].tolist(),
        },
        "networks": len(cost),
        "feasible": int(np.isfinite(cost).sum()),
        "images": ranked.images,
    }
