"""One discrete design, priced: the function behind `codesign cost` and `codesign.estimate`."""

from __future__ import annotations

import jax
import numpy as np

from codesign.accelerator import Accelerator
from codesign.architecture import Architecture
from codesign.cost.mapper import gemm_run
from codesign.cost.model import Costs, clip_costs
from codesign.cost.technology import technology
from codesign.costing import costing_of
from codesign.scenario import Scenario
from codesign.workload import clip_workload

_price = jax.jit(clip_costs, static_argnames="scenario")


def estimate(
    architecture: Architecture, accelerator: Accelerator, scenario: Scenario | None = None
) -> Costs:
    """Costs of a discrete design as Python floats, with their breakdown by part.

    Args:
      architecture: a CLIP of integer dimensions.
      accelerator: one chip.
      scenario: how it is made and used; the default one where None.

    Raises:
      ValueError: a GEMM for which no mapping fits the buffers, an unknown grid,
        node or DRAM technology.
    """
    costs = _price(architecture, accelerator, scenario or Scenario())
    if not np.isfinite(costs.latency_s):
        raise ValueError(
            f"{_misfit(architecture, accelerator, scenario or Scenario())} fits no mapping on "
            f"{accelerator}: raise l2_kib or glb_mib"
        )
    return jax.tree.map(float, costs)


def _misfit(architecture: Architecture, accelerator: Accelerator, scenario: Scenario) -> str:
    """The first GEMM that no mapping fits, by name and dimensions."""
    work = clip_workload(architecture, costing_of(scenario))
    chip = jax.tree.map(float, accelerator)
    by_gemm = jax.jit(jax.vmap(gemm_run, in_axes=(0, 0, 0, None, None)))
    cycles = by_gemm(work.m, work.k, work.n, chip, technology(chip, scenario)).cycles
    i = int(np.argmin(np.isfinite(cycles)))
    return f"{work.gemm_names[i]} [{work.m[i]:.0f} x {work.k[i]:.0f} x {work.n[i]:.0f}]"
