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
    search. Designs at or past its worst sides count for nothing; what a design dominates
    beyond the best ones lies outside the box and does not count.
    """
    points = [
        (math.log(max(c, best_cost)), max(1 - a, 0.0))
        for c, a in zip(cost, accuracy, strict=True)
        if c < worst_cost and a > worst_accuracy
    ]
    if not points:
        return 0.0
    reference = np.array([math.log(worst_cost), 1 - worst_accuracy])
    box = (reference[0] - math.log(best_cost)) * reference[1]
    return float(moocore.hypervolume(np.array(points), ref=reference) / box)


def best_within(
    cost: Sequence[float] | np.ndarray, score: np.ndarray, budgets: Sequence[float] | np.ndarray
) -> np.ndarray:
    """The best score of the designs that each budget pays for: the front as a staircase.

    Args:
      cost: [D].
      score: [..., D].
      budgets: [L], in the unit of the costs.

    Returns:
      [..., L]; -inf where no design costs as little.
    """
    paid = np.asarray(cost) <= np.asarray(budgets)[:, None]
    scores = np.where(paid, np.asarray(score)[..., None, :], -np.inf)
    return np.max(scores, axis=-1, initial=-np.inf)


def hypervolumes(
    cost: Sequence[float],
    accuracy: np.ndarray,
    *,
    worst_cost: float,
    best_cost: float,
    worst_accuracy: float,
) -> np.ndarray:
    """`hypervolume` for many accuracies [..., D] of designs of the same costs [D], at once.

    A design below best_cost counts as one at it.
    """
    inside = [c for c in cost if c < worst_cost]
    edges = np.unique(np.clip([*inside, worst_cost], best_cost, worst_cost))
    risen = np.clip(best_within(cost, accuracy, edges[:-1]) - worst_accuracy, 0, None)
    box = math.log(worst_cost / best_cost) * (1 - worst_accuracy)
    return risen @ np.diff(np.log(edges)) / box
