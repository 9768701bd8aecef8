"""One discrete design, priced: the function behind `codesign cost` and `codesign.estimate`."""

from __future__ import annotations

import jax
import numpy as np

from codesign.accelerator import Accelerator
from codesign.architecture import Architecture
from codesign.cost.model import Costs, clip_costs
from codesign.scenario import Scenario

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
            f"an operator of this CLIP fits no mapping on {accelerator}: "
            "raise l2_kib or glb_mib"
        )
    return jax.tree.map(float, costs)
