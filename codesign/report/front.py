"""The front of a search's designs: the box it is measured in, and what it reaches at a cost."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from codesign.quantities import without_unit
from codesign.report.entries import cost, is_reference, number
from codesign.report.text import MISSING, amount, is_number
from codesign.search import statistics
from codesign.search.statistics import Interval

Row = Mapping[str, Any]

# Costs at which fronts are compared, as shares of the reference's.
LEVELS = (0.25, 0.5, 0.75, 1.0)
# A design of the reference's own cost is within its budget, whatever the rounding.
_ROUNDING = 1 + 1e-6


@dataclasses.dataclass(frozen=True)
class Box:
    """What a hypervolume is a share of, fixed before the search.

    Attributes:
      metric: the cost that was searched, as "carbon_kgco2e".
      worst_cost: the reference's, in the metric's unit.
      best_cost: the least that any design of the space can cost.
      worst_accuracy: the accuracy that counts for nothing, a share.
    """

    metric: str
    worst_cost: float
    best_cost: float
    worst_accuracy: float

    @classmethod
    def of(cls, summary: Row) -> Box | None:
        """The box that a summary.json tells; None where it does not."""
        point, best = summary.get("reference_point"), summary.get("best_cost")
        if not isinstance(point, Mapping) or not is_number(best):
            return None
        floor = point.get("accuracy")
        metrics = [key for key in point if key != "accuracy"]
        if len(metrics) != 1 or not is_number(floor) or not is_number(point[metrics[0]]):
            return None
        worst = float(point[metrics[0]])
        if not (0 < best < worst and 0 <= floor < 1):
            return None
        return cls(metrics[0], worst, float(best), float(floor))

    @property
    def sides(self) -> dict[str, float]:
        """The arguments of `hypervolume`."""
        return {
            "worst_cost": self.worst_cost,
            "best_cost": self.best_cost,
            "worst_accuracy": self.worst_accuracy,
        }

    @property
    def quantity(self) -> str:
        """The metric in words: "carbon"."""
        return without_unit(self.metric)

    def text(self, value: float) -> str:
        """A cost with its unit."""
        return amount(self.metric, value)


@dataclasses.dataclass(frozen=True)
class Matched:
    """The front's accuracy at a given cost.

    Attributes:
      share: the cost as a share of the reference's.
      cost: the same in the metric's unit.
      design: of the feasible found designs that cost no more, the one most accurate on the
        validation images, so that the test images measure a choice that they did not make;
        where validation accuracies are not known, the one most accurate on the test images.
        None: no design costs as little.
      accuracy: its accuracy on the test images.
      standard_error: of that accuracy, where known.
      interval: of that accuracy, over the test images.
    """

    share: float
    cost: float
    design: str | None = None
    accuracy: float | None = None
    standard_error: float | None = None
    interval: Interval | None = None


def matched(designs: Sequence[Row], box: Box, level: float, draws: np.ndarray | None) -> Matched:
    """The front at a share of the reference's cost.

    Args:
      designs: entries of designs.json.
      box: tells the metric and the reference's cost.
      level: the share.
      draws: [B, D] resampled accuracies of the designs; None: not known.
    """
    budget = level * box.worst_cost
    chosen = best_within_budget(designs, box.metric, budget)
    if chosen is None:
        return Matched(level, budget)
    interval = None if draws is None else statistics.percentile_interval(draws[:, chosen])
    design = designs[chosen]
    accuracy = number(design, "accuracy"), number(design, "accuracy_standard_error")
    return Matched(level, budget, design_name(design), *accuracy, interval)


def best_within_budget(designs: Sequence[Row], metric: str, budget: float) -> int | None:
    """The found design to take at a cost: see Matched.design."""
    found = found_within_limits(designs, metric)
    known = all(number(designs[i], "validation_accuracy") is not None for i in found)
    judged_by = "validation_accuracy" if known else "accuracy"
    costs = {i: known_cost(designs[i], metric) or math.inf for i in found}
    paid = [i for i in found if costs[i] <= budget * _ROUNDING]
    best = lambda i: (-(number(designs[i], judged_by) or 0.0), costs[i])  # noqa: E731
    return min(paid, key=best, default=None)


def found_within_limits(designs: Sequence[Row], metric: str) -> list[int]:
    """The found designs that are not infeasible and whose accuracy and cost are known."""
    return [
        i
        for i, design in enumerate(designs)
        if not is_reference(design)
        and design.get("feasible") is not False
        and number(design, "accuracy") is not None
        and known_cost(design, metric) is not None
    ]


def known_cost(design: Row, metric: str) -> float | None:
    """A cost above 0, as costs are, or None where it is not known."""
    value = cost(design, metric)
    return value if value is not None and value > 0 else None


def design_name(design: Row) -> str:
    """The design's name, or a dash."""
    return str(design.get("name", MISSING))
