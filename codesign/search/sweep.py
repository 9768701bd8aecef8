"""A grid of accelerators priced as far as it must be, for exact optima and an exact front.

Lower bounds of all accelerators (cost/least.py) take less than a thousandth of their mapping. The
most promising are mapped first; then all those whose bound is not beaten by what has been found.
An accelerator that stays unpriced is proven to be worse: on the grids of many thousands that are
worth a search a few in a hundred are mapped.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import jax
import moocore
import numpy as np

from codesign.accelerator import Accelerator
from codesign.cost.capacity import busy_share
from codesign.cost.chips import grid_costs
from codesign.cost.costing import costing_of
from codesign.cost.demand import Demand
from codesign.cost.least import covers, least_costs
from codesign.cost.mapping import is_crowded
from codesign.cost.model import Costs, expected
from codesign.search.objectives import Limits, Objective, feasible

# Accelerators mapped together, and how large a grid is mapped whole.
_CHUNK, _WHOLE = 1024, 4096
# What rounding may add to a bound or take from a cost.
_ROUNDING = 1e-4


class Priced(NamedTuple):
    """Costs of some accelerators.

    Attributes:
      costs: of what runs on each, leaves [P].
      latency_s: the mean by shares, [P].
      keeps_up: whether it does, on the average, with the scenario's inferences, [P].
      feasible: whether it also meets the limits, [P].
    """

    costs: Costs
    latency_s: np.ndarray
    keeps_up: np.ndarray
    feasible: np.ndarray


class Swept(NamedTuple):
    """The accelerators that were priced: where in the grid, increasing, and their costs."""

    places: np.ndarray
    priced: Priced


def sweep(
    demand: Demand,
    chips: Accelerator,
    limits: Limits,
    objectives: Sequence[Objective],
    *,
    ranks: int = 1,
    whole: int | None = None,
) -> Swept:
    """Prices whatever may be the best, or on the front of latency and carbon, of all chips.

    Args:
      demand: what runs.
      chips: accelerators, leaves [A].
      limits: hard limits.
      objectives: what to find the least of.
      ranks: how many of the least of each objective to find.
      whole: largest grid of which all are priced; those of a costing or of an objective that has
        no bounds always are.
    """
    number = len(chips.cores)
    bounded = covers(costing_of(demand.scenario)) and all(o.monotone for o in objectives)
    if not bounded or number <= (_WHOLE if whole is None else whole):
        return Swept(np.arange(number), _priced(demand, chips, limits, grid_costs))
    # A user's own function of bounds is no bound.
    known_limits = dataclasses.replace(limits, functions=None)
    crowded = np.asarray(is_crowded(chips))
    # Some accelerators from all over the grid are mapped meanwhile, so that the program which maps
    # compiles beside that of the bounds.
    with ThreadPoolExecutor(1) as beside:
        spread = _spread(np.flatnonzero(crowded == crowded.all()))
        first = beside.submit(_priced, demand, _take(chips, spread), limits, grid_costs)
        low = _priced(demand, chips, known_limits, _bounds, 1 - _ROUNDING)
        some, at = np.unique(spread, return_index=True)
        index, parts = [some], [_take(first.result(), at)]
    wanted = _Wanted(low, objectives, ranks)
    wanted.learn(some, parts[0])
    # The crowded ones last: they have more mappings, and hardly ever are the best.
    for kind in (False, True):
        while len(some := wanted.most(crowded == kind)):
            # Always as many, or each number would be a program of its own.
            padded = np.pad(some, (0, _CHUNK - len(some)), mode="edge")
            mine = _priced(demand, _take(chips, padded), limits, grid_costs)
            index.append(some)
            parts.append(_take(mine, slice(len(some))))
            wanted.learn(some, parts[-1])
    priced = jax.tree.map(lambda *x: np.concatenate(x), *parts)
    order = np.argsort(np.concatenate(index))
    return Swept(np.concatenate(index)[order], _take(priced, order))


def _spread(places: np.ndarray) -> np.ndarray:
    """_CHUNK of the places, evenly; some several times where there are fewer."""
    return places[np.linspace(0, len(places) - 1, _CHUNK).astype(np.int64)]


def _bounds(*of: Any) -> Costs:
    """`least_costs`; what is no number bounds nothing, or an accelerator would be passed over."""
    return jax.tree.map(lambda x: np.where(np.isnan(x), 0.0, x), least_costs(*of))


class _Wanted:
    """Which accelerators must still be priced, by their bounds and what is known so far.

    A row for each objective, and one for the front: [rows, A].
    """

    def __init__(self, low: Priced, objectives: Sequence[Objective], ranks: int) -> None:
        self._objectives, self._ranks = objectives, ranks
        self._open = low.feasible.copy()
        self._low = [(1 - _ROUNDING) * np.asarray(each(low.costs)) for each in objectives]
        self._low_points = (1 - _ROUNDING) * _points(low.costs)
        self._best = [np.zeros(0) for _ in objectives]
        self._front = np.zeros((0, 2))
        # The most promising first: those of the least bounds, and nearest to these' own front.
        bounds = self._low_points[self._open]
        with np.errstate(invalid="ignore", divide="ignore"):  # by 0: what has no bound
            above = self._low_points[:, 1] / _carbon_at(_front_of(bounds), self._low_points)
        self._ranked = [np.argsort(x, kind="stable") for x in (*self._low, above)]

    def most(self, among: np.ndarray) -> np.ndarray:
        """Increasing indices of at most _CHUNK accelerators that must be priced; none: all is.

        Args:
          among: which of them are asked for, [A].
        """
        left = self._open & among
        rows = [
            order[(left & may)[order]][:_CHUNK]
            for order, may in zip(self._ranked, self._may_win(), strict=True)
        ]
        # In turns from each row.
        longest = max(map(len, rows))
        turns = np.full((longest, len(rows)), -1)
        for i, row in enumerate(rows):
            turns[: len(row), i] = row
        every, first = np.unique(turns[turns >= 0], return_index=True)
        return np.sort(every[np.argsort(first)[:_CHUNK]])

    def learn(self, index: np.ndarray, priced: Priced) -> None:
        """Takes the costs of the accelerators at `index` into account."""
        self._open[index] = False
        costs = _take(priced.costs, priced.feasible)
        for i, each in enumerate(self._objectives):
            self._best[i] = np.sort(np.append(self._best[i], each(costs)))[: self._ranks]
        self._front = _front_of(np.concatenate([self._front, _points(costs)]))

    def _may_win(self) -> list[np.ndarray]:
        """Whether each bound is below what is known, [A] of every row."""
        beats = [
            low <= (best[-1] if len(best) == self._ranks else np.inf)
            for low, best in zip(self._low, self._best, strict=True)
        ]
        return [*beats, self._low_points[:, 1] <= _carbon_at(self._front, self._low_points)]


def _front_of(points: np.ndarray) -> np.ndarray:
    """The points [n, 2] that no other beats in both, the fastest first."""
    front = points[moocore.is_nondominated(points)] if len(points) else points
    return front[np.argsort(front[:, 0])]


def _carbon_at(front: np.ndarray, points: np.ndarray) -> np.ndarray:
    """The least carbon of a front's points that are as fast as each of the points, [n]."""
    at = np.searchsorted(front[:, 0], points[:, 0], side="right")
    return np.append(np.inf, front[:, 1])[at]


def _points(costs: Costs) -> np.ndarray:
    """Latency and carbon, [n, 2]."""
    return np.stack([costs.latency_s, costs.carbon_kgco2e], axis=-1).astype(float)


def _take(tree: Any, index: Any) -> Any:
    return jax.tree.map(lambda x: np.asarray(x)[index], tree)


def _priced(
    demand: Demand, chips: Accelerator, limits: Limits, price: Any, slack: float = 1.0
) -> Priced:
    """Costs of what runs on every chip, by `grid_costs` or by its bounds, which get a slack."""
    each = [
        jax.tree.map(
            lambda x: np.broadcast_to(np.asarray(x), chips.cores.shape),
            price(work, chips, demand.scenario, demand.contents),
        )
        for work in demand.workloads
    ]
    costs = each[0]
    if len(each) > 1:
        stacked = jax.tree.map(lambda *x: np.stack(x), *each)
        costs = jax.tree.map(np.asarray, expected(stacked, demand.shares))
    latency_s = sum(s * c.latency_s for s, c in zip(demand.shares, each, strict=True))
    keeps_up = busy_share(slack * latency_s, demand.scenario) <= 1
    within = jax.tree.map(lambda x: slack * x, costs)
    return Priced(costs, latency_s, keeps_up, np.asarray(feasible(within, limits)) & keeps_up)
