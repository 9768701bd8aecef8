"""Pareto sets and hypervolume of (carbon, accuracy), by moocore."""

from __future__ import annotations

import math
from collections.abc import Sequence

import moocore
import numpy as np


def pareto_front(cost: Sequence[float], accuracy: Sequence[float]) -> list[bool]:
    """Which designs no other beats in both; equal designs are all kept."""
    if not cost:
        return []
    points = np.column_stack([cost, np.negative(accuracy)])
    return [bool(x) for x in moocore.is_nondominated(points, keep_weakly=True)]


def hypervolume(
    cost: Sequence[float],
    accuracy: Sequence[float],
    *,
    worst_cost: float,
    best_cost: float,
    worst_accuracy: float,
) -> float:
    """Share of the box (log cost, error) that the designs dominate, in [0, 1].

    The box spans best_cost..worst_cost and worst_accuracy..1, all fixed before the
    search; designs outside it count for nothing.
    """
    points = [
        (math.log(c), 1 - a)
        for c, a in zip(cost, accuracy, strict=True)
        if c < worst_cost and a > worst_accuracy
    ]
    if not points:
        return 0.0
    reference = np.array([math.log(worst_cost), 1 - worst_accuracy])
    box = (reference[0] - math.log(best_cost)) * reference[1]
    return float(moocore.hypervolume(np.array(points), ref=reference) / box)
