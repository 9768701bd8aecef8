"""What a search makes small, and what it must not exceed."""

from __future__ import annotations

import dataclasses
from typing import Any, Literal

import jax
import jax.numpy as jnp

from codesign.constraints import Positive
from codesign.cost.model import Costs

Mode = Literal["carbon", "latency", "energy"]
METRIC = {"carbon": "carbon_kgco2e", "latency": "latency_s", "energy": "energy_j"}


@dataclasses.dataclass(frozen=True)
class Limits:
    """Hard limits that every feasible design meets; None is no limit.

    Attributes:
      latency_s: longest time of one inference, s.
      area_mm2: largest chip, mm2.
      tops: highest peak throughput, 1e12 int8 operations/s.
    """

    latency_s: Positive | None = None
    area_mm2: Positive | None = None
    tops: Positive | None = None

    def active(self) -> dict[str, float]:
        """The limits that are set, by the name of the cost they bound."""
        limits = dataclasses.asdict(self)
        return {name: limit for name, limit in limits.items() if limit is not None}


def metric(costs: Costs, mode: Mode) -> Any:
    """The cost that `mode` makes small."""
    return getattr(costs, METRIC[mode])


def feasible(costs: Costs, limits: Limits) -> Any:
    """Whether the costs meet every limit; bool of the costs' shape."""
    met = jnp.isfinite(costs.latency_s)
    for name, limit in limits.active().items():
        met = met & (getattr(costs, name) <= limit)
    return met


def excess(costs: Costs, limits: Limits, mode: Mode, target: Any) -> jax.Array:
    """log(cost / bound) for the target of the mode and every limit, [1 + limits].

    Positive where a bound is exceeded; in logarithms, so that bounds of any unit weigh
    alike and the pull near a bound does not depend on its size.
    """
    ratios = [metric(costs, mode) / target]
    ratios += [getattr(costs, name) / limit for name, limit in limits.active().items()]
    return jnp.log(jnp.stack(ratios))


def spread_targets(largest: float, low: float, high: float, designs: int) -> list[float]:
    """Targets spaced evenly in the logarithm from low to high times the largest cost."""
    if designs == 1:
        return [largest * low]
    return [largest * low * (high / low) ** (i / (designs - 1)) for i in range(designs)]
