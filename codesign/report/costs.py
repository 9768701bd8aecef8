"""Costs as plain numbers, in the order of designs.json."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from codesign.runs import jsonable

if TYPE_CHECKING:
    from codesign.cost.estimate import Subnet
    from codesign.cost.model import Costs

FIELDS = (
    "latency_s", "energy_j", "area_mm2", "tops",
    "operational_kgco2e", "embodied_kgco2e", "carbon_kgco2e", "breakdown",
)  # fmt: skip


def costs_json(costs: Costs) -> dict[str, Any]:
    """All costs of one design, with their parts."""
    plain: dict[str, Any] = jsonable({field: getattr(costs, field) for field in FIELDS})
    return plain


def subnet_json(subnet: Subnet) -> dict[str, Any]:
    """What differs from subnet to subnet: chip and DRAM are the family's."""
    return {
        "sparsity": subnet.sparsity,
        "share": subnet.share,
        "latency_s": subnet.costs.latency_s,
        "energy_j": subnet.costs.energy_j,
        "weight_bytes": subnet.weight_bytes,
    }
