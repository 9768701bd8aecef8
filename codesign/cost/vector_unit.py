"""Element-wise operators on the vector units: softmax, norms, activations, additions."""

from __future__ import annotations

from codesign.accelerator import Accelerator
from codesign.cost.execution import Execution
from codesign.cost.technology import Technology
from codesign.workload.operators import Workload


def vector_costs(workload: Workload, accelerator: Accelerator, tech: Technology) -> Execution:
    """Costs [V] of the workload's element-wise operators on one accelerator: the costing's rule."""
    execution: Execution = tech.costing.vector_costs(workload, accelerator, tech)
    return execution
