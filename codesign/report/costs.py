"""Costs as plain numbers, in the order of designs.json."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from codesign.runs import jsonable

if TYPE_CHECKING:
    from codesign.cost.estimate import Subnet
    from codesign.cost.model import Costs
    from codesign.search.objectives import Mode

# Attributes of Costs that every design has in files.
TOTALS = (
    "latency_s",
    "energy_j",
    "area_mm2",
    "tops",
    "operational_kgco2e",
    "embodied_kgco2e",
    "carbon_kgco2e",
    "dram_gb",
)


def totals_json(costs: Costs, objectives: Sequence[Mode] = ()) -> dict[str, Any]:
    """All costs of one design and the objectives it was searched by, without their parts."""
    from codesign.search.objectives import named_costs  # not above: it starts JAX

    totals = {field: getattr(costs, field) for field in TOTALS}
    plain: dict[str, Any] = jsonable(totals | named_costs(costs, objectives))
    return plain


def costs_json(costs: Costs, objectives: Sequence[Mode] = ()) -> dict[str, Any]:
    """All costs of one design, as `totals_json`, with their parts."""
    breakdown: dict[str, Any] = jsonable(costs.breakdown)
    return totals_json(costs, objectives) | {"breakdown": breakdown}


def subnet_json(subnet: Subnet) -> dict[str, Any]:
    """What differs from subnet to subnet: chip and DRAM are the family's."""
    return {
        "sparsity": subnet.sparsity,
        "share": subnet.share,
        "latency_s": subnet.costs.latency_s,
        "energy_j": subnet.costs.energy_j,
        "weight_bytes": subnet.weight_bytes,
    }
