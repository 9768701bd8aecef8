"""The best accelerators of one fixed model: every point of the grid, priced exactly."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Collection, Sequence
from typing import Annotated, Literal

import jax
import moocore
import numpy as np

from codesign.accelerator import Accelerator
from codesign.bounds import MinLen
from codesign.constraints import Count, Positive
from codesign.cost.capacity import busy_share, dram_shortage
from codesign.cost.estimate import subnet_shares
from codesign.cost.model import Costs, expected
from codesign.cost.table import accelerator_grid, grid_costs
from codesign.costing import PHYSICAL, conventional
from codesign.design_file import check_scenario
from codesign.errors import UserError
from codesign.scenario import Scenario
from codesign.search.objectives import OBJECTIVES, Limits, Mode, feasible, objective
from codesign.space import AcceleratorChoices
from codesign.workload import Workload

DEFAULT_OBJECTIVES: tuple[Mode, ...] = ("carbon", "latency", "energy")


@dataclasses.dataclass(frozen=True, eq=False)
class HardwareSearch:
    """A workload on every accelerator of a grid [A].

    Attributes:
      chips: the accelerators, leaves [A].
      costs: of the workload on each, leaves [A].
      feasible: which meet the limits and keep up with the scenario's inferences, [A].
      objectives: what the search was asked for.
      best: index of the accelerator of the least of each objective, by its name; beside those
        asked for, of every row of OBJECTIVES.
      front: indices of the feasible accelerators that no other beats in both latency and
        carbon, from the fastest to the slowest.
    """

    chips: Accelerator
    costs: Costs
    feasible: np.ndarray
    best: dict[str, int]
    front: list[int]
    objectives: tuple[Mode, ...] = DEFAULT_OBJECTIVES

    def at(self, index: int) -> tuple[Accelerator, Costs]:
        """One accelerator and the costs on it, as Python numbers."""
        chip, costs = jax.tree.map(lambda x: float(x[index]), (self.chips, self.costs))
        return jax.tree.map(lambda x: int(x) if x.is_integer() else x, chip), costs


def search_hardware(
    workload: Workload | Sequence[Workload],
    choices: AcceleratorChoices,
    scenario: Scenario,
    limits: Limits,
    objectives: Sequence[Mode] = DEFAULT_OBJECTIVES,
) -> HardwareSearch:
    """Prices a workload on the whole grid and picks the best within the limits.

    Args:
      workload: concrete operators of one model, [G] and [V]; of every subnet of a family,
        whose shares of use are the scenario's.
      choices: the grid.
      scenario: clock, bandwidths, carbon and costing.
      limits: hard limits.
      objectives: what to find the least of.

    A chip that the scenario's inferences a second would keep busy for over a second is not
    feasible, like one that exceeds a limit.

    Raises:
      ValueError: an impossible scenario; no accelerator fits the workload, keeps up with the
        inferences or meets the limits: the message names the limit that none meets.
    """
    try:
        check_scenario(scenario)
    except UserError as error:
        raise ValueError(str(error)) from error
    chips = accelerator_grid(choices)
    works = [workload] if isinstance(workload, Workload) else list(workload)
    each = [
        jax.tree.map(
            lambda x: np.broadcast_to(np.asarray(x), chips.cores.shape),
            grid_costs(work, chips, scenario),
        )
        for work in works
    ]
    costs = each[0]
    shares = subnet_shares(scenario, len(works))
    if not isinstance(workload, Workload):
        stacked = jax.tree.map(lambda *x: np.stack(x), *each)
        costs = jax.tree.map(np.asarray, expected(stacked, shares))
    fits = np.isfinite(costs.latency_s)
    if not fits.any():
        raise ValueError(
            "an operator of the model fits no mapping on any accelerator of the grid: "
            "raise l2_kib or glb_mib"
        )
    latency_s = sum(share * c.latency_s for share, c in zip(shares, each, strict=True))
    keeps_up = busy_share(latency_s, scenario) <= 1
    if not keeps_up.any():
        raise ValueError(
            "no accelerator of the grid keeps up with scenario.inferences_per_s "
            f"{scenario.inferences_per_s:g}: the fastest takes {np.nanmin(latency_s):.4g} s an "
            f"inference; set at most {1 / np.nanmin(latency_s):.3g}"
        )
    allowed = np.asarray(feasible(costs, limits)) & keeps_up
    if not allowed.any():
        raise ValueError(_unmet(costs, fits & keeps_up, limits))
    best = {
        sought.name: int(np.argmin(np.where(allowed, sought(costs), np.inf)))
        for sought in (*OBJECTIVES, *map(objective, objectives))
    }
    candidates = np.flatnonzero(allowed)
    points = np.stack([costs.latency_s, costs.carbon_kgco2e], axis=-1)[candidates]
    front = candidates[moocore.is_nondominated(points.astype(float))]
    front = front[np.argsort(costs.latency_s[front])]
    on_front = [int(i) for i in front]
    return HardwareSearch(chips, costs, allowed, best, on_front, tuple(objectives))


def _unmet(costs: Costs, fits: np.ndarray, limits: Limits) -> str:
    """What stands in the way: a limit that no accelerator meets, else all together."""
    for bounded, limit in limits.bounds():
        least = float(np.min(bounded(costs)[fits]))
        if least > limit:
            return (
                f"no accelerator of the grid meets {bounded.key} <= {limit:g}; "
                f"the least is {least:.4g}"
            )
    every = ", ".join(f"{name} <= {limit:g}" for name, limit in limits.active().items())
    return f"no accelerator of the grid meets {every} together; raise one of them"


def dram_gb_for(words: float, word_bytes: float = 1.0) -> float:
    """The least power of two of GB that holds so many words, at least 1."""
    return 2.0 ** max(0, math.ceil(math.log2(words * word_bytes / 1e9)))


@dataclasses.dataclass(frozen=True)
class HardwareConfig(Limits):
    """A hardware search for a fixed model; limits are fields of its own.

    Attributes:
      latency_s: longest time of one inference, s; none: no limit, here and below.
      area_mm2: largest chip, mm2.
      tops: most peak throughput, 1e12 operations/s.
      energy_j: most energy of one inference, J.
      carbon_kgco2e: most carbon, in use and embodied, kgCO2e.
      operational_kgco2e: most carbon in use, kgCO2e.
      embodied_kgco2e: most embodied carbon, kgCO2e.
      edp_js: largest energy x delay, J s.
      carbon_delay_kgco2es: largest carbon x delay, kgCO2e s.
      functions: limits on functions of Costs, in a config file.
      model: a published model, a HuggingFace config, or a design file (`codesign workload`).
      name: the design to take from a list of designs.
      objectives: what to show the least accelerator of.
      tokens: length of a text or prompt, of models that take any.
      phase: "prefill" or "decode", of a decoder.
      context: tokens in a decoder's cache.
      costing: conventions of the cost model with their scenario, fields that are set here
        excepted; none: the scenario's own.
      space: the grid of accelerators.
      scenario: where and how the device lives; for a design file, fields that change its own.
        DRAM too small for weights, cache and activations is enlarged, unless set here.
    """

    tops: Positive | None = 20.0
    model: str = "clip-vit-b-16"
    name: str | None = None
    objectives: Annotated[tuple[Mode, ...], MinLen(1)] = DEFAULT_OBJECTIVES
    tokens: Count | None = None
    phase: Literal["prefill", "decode"] | None = None
    context: Count | None = None
    costing: str | None = None
    space: AcceleratorChoices = AcceleratorChoices()
    scenario: Scenario = Scenario()

    @property
    def limits(self) -> Limits:
        """The hard limits."""
        return Limits(**{f.name: getattr(self, f.name) for f in dataclasses.fields(Limits)})


def settled_scenario(
    config: HardwareConfig, of_model: Scenario | None = None, given: Collection[str] = ()
) -> Scenario:
    """The scenario of a search, its DRAM not yet looked at.

    The model's own, a design file's, where it has one, or the costing's; the costing's too
    where the config asks for another costing than the model's, as `codesign cost` does. On top
    of it go the fields that the config sets.

    Args:
      config: of the search.
      of_model: the scenario of the design file that the model is from.
      given: fields of the scenario that the user set, whatever their value; those that
        differ from `Scenario()` count as set anyway.

    Raises:
      ValueError: an unknown costing.
    """
    own = {name: getattr(config.scenario, name) for name in _fields_set(config, given)}
    costing = config.costing or own.pop("costing", None)
    base = of_model
    if base is None or costing not in (None, base.costing):
        base = conventional(costing or PHYSICAL.name)
    return dataclasses.replace(base, **own | {"costing": base.costing})


def with_dram(
    scenario: Scenario, weights: float, activations: float, cache: float = 0.0, *, fixed: bool
) -> Scenario:
    """The scenario with DRAM that holds its contents (bytes), enlarged unless `fixed`.

    Raises:
      ValueError: the DRAM is fixed and too small.
    """
    shortage = dram_shortage(scenario, weights, activations, cache)
    if shortage is None:
        return scenario
    if fixed:
        raise ValueError(shortage)
    return dataclasses.replace(scenario, dram_gb=dram_gb_for(weights + activations + cache))


def _fields_set(config: HardwareConfig, given: Collection[str]) -> list[str]:
    default = Scenario()
    return [
        field.name
        for field in dataclasses.fields(Scenario)
        if field.name in given
        or getattr(config.scenario, field.name) != getattr(default, field.name)
    ]
