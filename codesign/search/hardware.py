"""The best accelerators of one fixed model: every point of the grid, priced exactly."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import get_args

import jax
import moocore
import numpy as np

from codesign.accelerator import Accelerator
from codesign.cost.estimate import subnet_shares
from codesign.cost.model import Costs, expected
from codesign.cost.table import accelerator_grid, grid_costs
from codesign.costing import conventional
from codesign.scenario import Scenario
from codesign.search.objectives import Limits, Mode, feasible, metric
from codesign.space import AcceleratorChoices
from codesign.workload import Workload


@dataclasses.dataclass(frozen=True, eq=False)
class HardwareSearch:
    """A workload on every accelerator of a grid [A].

    Attributes:
      chips: the accelerators, leaves [A].
      costs: of the workload on each, leaves [A].
      feasible: which meet the limits, [A].
      best: index of the accelerator of least "carbon", "latency" and "energy".
      front: indices of the feasible accelerators that no other beats in both latency and
        carbon, from the fastest to the slowest.
    """

    chips: Accelerator
    costs: Costs
    feasible: np.ndarray
    best: dict[str, int]
    front: list[int]

    def at(self, index: int) -> tuple[Accelerator, Costs]:
        """One accelerator and the costs on it, as Python numbers."""
        chip, costs = jax.tree.map(lambda x: float(x[index]), (self.chips, self.costs))
        return jax.tree.map(lambda x: int(x) if x.is_integer() else x, chip), costs


def search_hardware(
    workload: Workload | Sequence[Workload],
    choices: AcceleratorChoices,
    scenario: Scenario,
    limits: Limits,
) -> HardwareSearch:
    """Prices a workload on the whole grid and picks the best within the limits.

    Args:
      workload: concrete operators of one model, [G] and [V]; of every subnet of a family,
        whose shares of use are the scenario's.
      choices: the grid.
      scenario: clock, bandwidths, carbon and costing.
      limits: hard limits.

    Raises:
      ValueError: no accelerator fits the workload, or none meets the limits; the message
        names the limit that is nearest to being met.
    """
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
    if not isinstance(workload, Workload):
        stacked = jax.tree.map(lambda *x: np.stack(x), *each)
        shares = subnet_shares(scenario, len(works))
        costs = jax.tree.map(np.asarray, expected(stacked, shares))
    fits = np.isfinite(costs.latency_s)
    if not fits.any():
        raise ValueError(
            "an operator of the model fits no mapping on any accelerator of the grid: "
            "raise l2_kib or glb_mib"
        )
    allowed = np.asarray(feasible(costs, limits))
    if not allowed.any():
        raise ValueError(_unmet(costs, fits, limits))
    modes: tuple[Mode, ...] = get_args(Mode)
    best: dict[str, int] = {
        mode: int(np.argmin(np.where(allowed, metric(costs, mode), np.inf))) for mode in modes
    }
    candidates = np.flatnonzero(allowed)
    points = np.stack([costs.latency_s, costs.carbon_kgco2e], axis=-1)[candidates]
    front = candidates[moocore.is_nondominated(points.astype(float))]
    front = front[np.argsort(costs.latency_s[front])]
    return HardwareSearch(chips, costs, allowed, best, [int(i) for i in front])


def _unmet(costs: Costs, fits: np.ndarray, limits: Limits) -> str:
    """What stands in the way: a limit that no accelerator meets, else all together."""
    for name, limit in limits.active().items():
        least = float(np.min(getattr(costs, name)[fits]))
        if least > limit:
            return f"no accelerator of the grid meets {name} <= {limit:g}; the least is {least:.4g}"
    every = ", ".join(f"{name} <= {limit:g}" for name, limit in limits.active().items())
    return f"no accelerator of the grid meets {every} together; raise one of them"


def dram_gb_for(parameters: int, word_bytes: float = 1.0) -> float:
    """The least power of two of GB that holds the weights, at least 1."""
    return 2.0 ** max(0, math.ceil(math.log2(parameters * word_bytes / 1e9)))


@dataclasses.dataclass(frozen=True)
class HardwareConfig:
    """A hardware search for a fixed model.

    Attributes:
      model: a published model, a HuggingFace config, or a design file (`codesign workload`).
      tops: most peak throughput, 1e12 operations/s; none: no limit.
      area_mm2: largest chip, mm2.
      latency_s: longest time of one inference, s.
      tokens: length of a text or prompt, of models that take any.
      phase: "prefill" or "decode", of a decoder.
      context: tokens in a decoder's cache.
      costing: conventions of the cost model with their scenario; none: the scenario's own.
      space: the grid of accelerators.
      scenario: where and how the device lives. DRAM too small for the weights is enlarged.
    """

    model: str = "clip-vit-b-16"
    tops: float | None = 20.0
    area_mm2: float | None = None
    latency_s: float | None = None
    tokens: int | None = None
    phase: str | None = None
    context: int | None = None
    costing: str | None = None
    space: AcceleratorChoices = AcceleratorChoices()
    scenario: Scenario = Scenario()

    @property
    def limits(self) -> Limits:
        """The hard limits."""
        return Limits(self.latency_s, self.area_mm2, self.tops)


def settled_scenario(config: HardwareConfig, parameters: int) -> Scenario:
    """The scenario of a search: the costing's own where one is asked for, DRAM that suffices.

    Raises:
      ValueError: an unknown costing.
    """
    scenario = conventional(config.costing) if config.costing else config.scenario
    needed = dram_gb_for(parameters, scenario.word_bytes)
    return dataclasses.replace(scenario, dram_gb=max(scenario.dram_gb, needed))
