"""The best accelerators of one fixed model on a grid, exactly."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Collection, Sequence
from typing import Annotated, Literal

import jax
import moocore
import numpy as np

from codesign.accelerator import Accelerator
from codesign.bounds import Ge, Le, MinLen
from codesign.constraints import MOST_SETS, Count, Positive
from codesign.cost.capacity import busy_share, contents_bytes, dram_shortage, weight_bytes
from codesign.cost.chips import accelerator_grid
from codesign.cost.demand import Demand, subnet_shares
from codesign.cost.model import Costs
from codesign.cost.uncertainty import share_near_best, uncertain_costs
from codesign.costing import PHYSICAL, default_scenario
from codesign.design_file import checked_scenario
from codesign.errors import UserError
from codesign.scenario import Scenario
from codesign.search.nearest import chip_text, enough, shortfall
from codesign.search.objectives import Limits, Mode, least_index, objective
from codesign.search.sweep import sweep
from codesign.space import PUBLISHED_GRID, WIDE_GRID, AcceleratorChoices
from codesign.workload import Workload
from codesign.workload.memory import Memory

# Accelerators among which the best under other components is sought, an objective.
RIVALS = 32
DEFAULT_OBJECTIVES: tuple[Mode, ...] = ("carbon", "latency", "energy")


@dataclasses.dataclass(frozen=True, eq=False)
class HardwareSearch:
    """A workload on the accelerators of a grid that may be the best for something, [P].

    Attributes:
      chips: the accelerators, leaves [P]; of a small grid all there are.
      costs: of the workload on each, leaves [P].
      feasible: which meet the limits and keep up with the scenario's inferences, [P].
      accelerators: how many the grid has; those that are not among the chips are proven to be
        beaten in each objective, and in latency and carbon together.
      objectives: what the search was asked for.
      best: index of the accelerator of the least of each objective, by its name.
      front: indices of the feasible accelerators that no other beats in both latency and
        carbon, from the fastest to the slowest.
    """

    chips: Accelerator
    costs: Costs
    feasible: np.ndarray
    accelerators: int
    best: dict[str, int]
    front: list[int]
    objectives: tuple[Mode, ...] = DEFAULT_OBJECTIVES

    def at(self, index: int) -> tuple[Accelerator, Costs]:
        """One accelerator and the costs on it, as Python numbers."""
        costs = jax.tree.map(lambda x: float(x[index]), self.costs)
        return accelerator_at(self.chips, index), costs


def accelerator_at(chips: Accelerator, index: int) -> Accelerator:
    """One of many accelerators, leaves [A], as Python numbers, whole where they are."""
    chip = jax.tree.map(lambda x: float(x[index]), chips)
    return jax.tree.map(lambda x: int(x) if x.is_integer() else x, chip)


def search_hardware(
    workload: Workload | Sequence[Workload],
    choices: AcceleratorChoices,
    scenario: Scenario,
    limits: Limits,
    objectives: Sequence[Mode] = DEFAULT_OBJECTIVES,
    *,
    contents: float,
    ranks: int = 1,
) -> HardwareSearch:
    """The best accelerators of the grid within the limits: exact, whatever the grid's size.

    Args:
      workload: concrete operators of one model, [G] and [V]; of every subnet of a family,
        whose shares of use are the scenario's.
      choices: the grid.
      scenario: clock, bandwidths, carbon and costing.
      limits: hard limits.
      objectives: what to find the least of.
      contents: of the DRAM, bytes: weights (of a family its densest subnet's), live
        activations and cache, as `cost.capacity.contents_bytes` has them of a model's memory.
      ranks: how many of the least of each objective are certainly among those priced.

    A chip that the scenario's inferences a second would keep busy for over a second is not
    feasible, like one that exceeds a limit.

    Raises:
      ValueError: an impossible scenario; no accelerator fits the workload, keeps up with the
        inferences or meets the limits: the message names the limit that none meets.
    """
    try:
        scenario = checked_scenario(scenario)
    except UserError as error:
        raise ValueError(str(error)) from error
    grid = accelerator_grid(choices)
    works = [workload] if isinstance(workload, Workload) else list(workload)
    demand = Demand(works, subnet_shares(scenario, len(works)), contents, scenario)
    sought = list(map(objective, objectives))
    names = [each.name for each in sought]
    if twice := next((name for name in names if names.count(name) > 1), None):
        raise ValueError(f"objectives: two are called '{twice}'; give each once")
    index, priced = sweep(demand, grid, limits, sought, ranks=ranks)
    costs, allowed = priced.costs, priced.feasible
    if not allowed.any():
        raise ValueError(_why_none(demand, grid, limits))
    best = {each.name: least_index(each, costs, allowed) for each in sought}
    candidates = np.flatnonzero(allowed)
    points = np.stack([costs.latency_s, costs.carbon_kgco2e], axis=-1)[candidates]
    front = candidates[moocore.is_nondominated(points.astype(float))]
    front = front[np.argsort(costs.latency_s[front])]
    chips = jax.tree.map(lambda x: x[index], grid)
    on_front = [int(i) for i in front]
    return HardwareSearch(chips, costs, allowed, len(grid.cores), best, on_front, tuple(objectives))


def robustness(
    workload: Workload | Sequence[Workload],
    found: HardwareSearch,
    scenario: Scenario,
    samples: int,
    seed: int = 0,
    *,
    contents: float,
) -> dict[str, float]:
    """How far each choice hangs on uncertain components: see `uncertainty.share_near_best`.

    Of each objective that the search was asked for, by name: the share of sets of components
    under which its accelerator stays within 2 % of the best. The best under a set is sought
    among the `RIVALS` feasible accelerators that are nearest to it under nominal components, so
    the search must have been one with as many `ranks`.

    Args:
      workload: as of `search_hardware`.
      found: its result.
      scenario: its scenario.
      samples: sets of components.
      seed: of their draw.
      contents: as of `search_hardware`.

    Raises:
      ValueError: a costing whose components have no ranges.
    """
    works = [workload] if isinstance(workload, Workload) else list(workload)
    shares = subnet_shares(scenario, len(works))
    sought = [objective(mode) for mode in found.objectives]
    ranked = [
        np.argsort(np.where(found.feasible, each(found.costs), np.inf), kind="stable")[:RIVALS]
        for each in sought
    ]
    count = min(RIVALS, int(found.feasible.sum()))
    rivals = np.unique(np.concatenate([order[:count] for order in ranked]))
    chips = jax.tree.map(lambda x: np.asarray(x)[rivals], found.chips)
    costs = uncertain_costs(works, shares, chips, scenario, samples, seed, contents=contents)
    return {
        each.name: share_near_best(each(costs), int(np.searchsorted(rivals, found.best[each.name])))
        for each in sought
    }


def _why_none(demand: Demand, grid: Accelerator, limits: Limits) -> str:
    """What stands in the way of every accelerator of the grid."""
    scenario, (latency,) = demand.scenario, map(objective, ("latency",))
    patient = dataclasses.replace(scenario, inferences_per_s=1e-6)
    alone = sweep(demand._replace(scenario=patient), grid, Limits(), [latency]).priced
    least_s = np.min(alone.latency_s)
    if not np.isfinite(least_s):
        return (
            "an operator of the model fits no mapping on any accelerator of the grid: "
            "raise l2_kib or glb_mib"
        )
    if busy_share(least_s, scenario) > 1:
        return (
            "no accelerator of the grid keeps up with scenario.inferences_per_s "
            f"{scenario.inferences_per_s:g}: the fastest takes {least_s:.4g} s an "
            f"inference; set at most {1 / least_s:.3g}"
        )
    sought = [*(bounded for bounded, _ in limits.bounds()), shortfall(limits)]
    index, priced = sweep(demand, grid, Limits(), sought)
    chips = jax.tree.map(lambda x: x[index], grid)
    return unmet(priced.costs, priced.feasible, limits, chips)


def unmet(costs: Costs, fits: np.ndarray, limits: Limits, chips: Accelerator | None = None) -> str:
    """Which limit no accelerator meets, or that they are not met together, and which comes nearest.

    Args:
      costs: leaves [A].
      fits: which accelerators run at all, and keep up, [A].
      limits: hard limits that none of these meets.
      chips: the accelerators, leaves [A]; None: the nearest is not described.
    """
    best = int(np.argmin(np.where(fits, shortfall(limits)(costs), np.inf)))
    least_of_all = enough(jax.tree.map(lambda x: x[best], costs), limits)
    on = "" if chips is None else f", by {chip_text(accelerator_at(chips, best))}"
    for bounded, limit in limits.bounds():
        least = float(np.min(bounded(costs)[fits]))
        if least > limit:
            return (
                f"no accelerator of the grid meets {bounded.key} <= {limit:g}; "
                f"the least is {least:.4g}; {least_of_all} would be met{on}"
            )
    every = ", ".join(f"{name} <= {limit:g}" for name, limit in limits.active().items())
    return (
        f"no accelerator of the grid meets {every} together; raise one of them, or all: "
        f"{least_of_all} would be met{on}"
    )


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
      uncertainty: sets of components, drawn from the ranges of published silicon, under which
        the best accelerators are held against their rivals; none: not done.
      grid: the grid of accelerators: "wide", some 400,000, or "published", CATransformers' 3,240;
        none: the latter for its costing, else the former.
      space: choices that take the place of the grid's.
      scenario: where and how the device lives; for a design file, fields that change its own.
        DRAM of a file too small for weights, cache and activations is enlarged.
    """

    tops: Positive | None = 20.0
    model: str = "clip-vit-b-16"
    name: str | None = None
    objectives: Annotated[tuple[Mode, ...], MinLen(1)] = DEFAULT_OBJECTIVES
    tokens: Count | None = None
    phase: Literal["prefill", "decode"] | None = None
    context: Count | None = None
    costing: str | None = None
    uncertainty: Annotated[int, Ge(2), Le(MOST_SETS)] | None = None
    grid: Literal["wide", "published"] | None = None
    space: AcceleratorChoices = WIDE_GRID
    scenario: Scenario = Scenario()

    def choices(self, costing: str, given: Collection[str] = ()) -> AcceleratorChoices:
        """The choices of the grid, under a costing, with those that `space` has of its own.

        Args:
          costing: its conventions.
          given: dotted names of fields that were set, whatever their value; choices that differ
            from the wide grid's count as set anyway.
        """
        published = self.grid == "published" if self.grid else costing != PHYSICAL.name
        own = {
            field.name: getattr(self.space, field.name)
            for field in dataclasses.fields(AcceleratorChoices)
            if f"space.{field.name}" in given
            or getattr(self.space, field.name) != getattr(WIDE_GRID, field.name)
        }
        return dataclasses.replace(PUBLISHED_GRID if published else WIDE_GRID, **own)

    @property
    def limits(self) -> Limits:
        """The hard limits."""
        return Limits(**{f.name: getattr(self, f.name) for f in dataclasses.fields(Limits)})


def resolve_scenario(
    config: HardwareConfig, of_model: Scenario | None = None, given: Collection[str] = ()
) -> Scenario:
    """The scenario of a search, its DRAM not yet looked at.

    The model's own, a design file's, where it has one, or the costing's; the costing's too
    where the config asks for another costing than the model's, as `codesign cost` does. On top
    of it go the fields that the config sets.

    Args:
      config: of the search.
      of_model: the scenario of the design file that the model is from.
      given: dotted names of fields that the user set, whatever their value; those of the scenario
        that differ from `Scenario()` count as set anyway.

    Raises:
      ValueError: an unknown costing.
    """
    own = {name: getattr(config.scenario, name) for name in set_fields(config, given)}
    costing = config.costing or own.pop("costing", None)
    base = of_model
    if base is None or costing not in (None, base.costing):
        base = default_scenario(costing or PHYSICAL.name)
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


def with_contents(
    scenario: Scenario, memory: Memory, density: float = 1, *, fixed: bool
) -> tuple[Scenario, float]:
    """The scenario with DRAM for a network, as `with_dram`, and what it holds, bytes.

    Args:
      scenario: of the device.
      memory: of the network, its weights dense.
      density: share of its prunable weights that are kept, of a family by its densest subnet.
      fixed: refuses a DRAM that is too small.

    Raises:
      ValueError: the DRAM is fixed and too small.
    """
    word = scenario.word_bytes
    weights = weight_bytes(memory, scenario, density)
    scenario = with_dram(
        scenario, weights, memory.activations * word, memory.cache * word, fixed=fixed
    )
    return scenario, float(contents_bytes(memory, scenario, density))


def set_fields(config: HardwareConfig, given: Collection[str] = ()) -> list[str]:
    """Fields of the scenario that a config sets: those given ("scenario.NAME"), and those that
    differ from its default."""
    default = Scenario()
    return [
        field.name
        for field in dataclasses.fields(Scenario)
        if f"scenario.{field.name}" in given
        or getattr(config.scenario, field.name) != getattr(default, field.name)
    ]
