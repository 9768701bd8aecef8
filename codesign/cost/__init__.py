"""Cost model: latency, energy, area and carbon of a workload on an accelerator."""

from codesign.cost.estimate import estimate
from codesign.cost.model import Costs, clip_costs
from codesign.cost.table import CostTable, build_table

__all__ = ["CostTable", "Costs", "build_table", "clip_costs", "estimate"]
