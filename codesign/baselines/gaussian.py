"""Bayesian optimisation with a known cost: a Gaussian process of the accuracy alone.

Axes: n designs that were tried, P designs of a pool, F designs of the front.
"""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
from scipy.special import ndtr
from sklearn.exceptions import ConvergenceWarning
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.gaussian_process.kernels import ConstantKernel, Matern, WhiteKernel

from codesign.baselines.problem import Problem, Told
from codesign.search.pareto import best_within

# Designs predicted at once: their covariances with those tried are a few MB.
_AT_ONCE = 20_000


class Gaussian:
    """A Gaussian process and the expected hypervolume improvement, exact under known cost.

    Matern kernel of 5/2 with a length a dimension, its parameters and the noise by marginal
    likelihood. Accuracies far below the box are raised to its mirrored depth: that a design is
    useless is known then, how useless teaches the process nothing.

    Args:
      problem: what to solve.
      first: designs [n, d] to begin with, all asked for at once; then it is one at a time.
      seed: of what it draws.
    """

    def __init__(self, problem: Problem, first: np.ndarray, seed: int) -> None:
        self._problem, self._first, self._seed = problem, first, seed
        self._told = Told(len(problem.choices))

    def ask(self) -> np.ndarray:
        """The first designs, then that of the largest expected improvement."""
        told, problem = self._told, self._problem
        if not len(told.cost):
            return self._first
        rng = np.random.default_rng([self._seed, len(told.cost)])
        pool = problem.pool(rng, told.designs)
        cost = problem.cost(pool)
        known = told.keys
        # The process knows no reason to try a design again, which costs a trial all the same.
        new = [d.tobytes() not in known for d in np.ascontiguousarray(pool, np.int64)]
        open_ = np.array(new) & (cost < problem.worst_cost)
        if not open_.any():
            return pool[:0]
        pool, cost = pool[open_], cost[open_]
        mean, deviation = self._predicted(problem.unit(pool))
        gain = expected_improvement(cost, mean, deviation, told.cost, told.accuracy, **problem.box)
        return pool[[int(np.argmax(gain))]]

    def tell(self, designs: np.ndarray, cost: np.ndarray, accuracy: np.ndarray) -> None:
        """More to fit."""
        self._told.add(designs, cost, accuracy)

    def _predicted(self, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Mean and standard deviation [P] of the accuracy at x [P, d], without its noise."""
        told, floor = self._told, 2 * self._problem.worst_accuracy - 1
        kernel = ConstantKernel(1.0, (1e-2, 1e2)) * Matern(
            np.full(x.shape[1], 0.5), (0.05, 20.0), nu=2.5
        ) + WhiteKernel(1e-2, (1e-4, 0.3))
        process: Any = GaussianProcessRegressor(kernel, normalize_y=True, random_state=self._seed)
        y = np.maximum(told.accuracy, max(floor, 0.0))
        with warnings.catch_warnings():  # a length at its bound: a dimension that does not matter
            warnings.simplefilter("ignore", ConvergenceWarning)
            process.fit(self._problem.unit(told.designs), y)
        noise = float(process.kernel_.k2.noise_level) * float(np.var(y))
        parts = [
            process.predict(x[i : i + _AT_ONCE], return_std=True)
            for i in range(0, len(x), _AT_ONCE)
        ]
        mean, deviation = (np.concatenate(part) for part in zip(*parts, strict=True))
        return mean, np.sqrt(np.maximum(deviation**2 - noise, 1e-12))


def expected_improvement(
    cost: np.ndarray,
    mean: np.ndarray,
    deviation: np.ndarray,
    front_cost: np.ndarray,
    front_accuracy: np.ndarray,
    *,
    worst_cost: float,
    best_cost: float,
    worst_accuracy: float,
) -> np.ndarray:
    """Expected gain of `pareto.hypervolume` by designs of known cost and normal accuracy.

    The front is a staircase over the log cost. A design of cost c and accuracy a raises each of its
    steps from c on to a, where it is lower: so the expectation is the sum over steps of their width
    within [c, worst_cost] times E[max(a - height, 0)], in closed form; Jones et al.'s expected
    improvement (1998), a step at a time. Accuracies above 1 count, as a normal one has them.

    Args:
      cost: [P].
      mean: of the accuracy, [P].
      deviation: of the accuracy, above 0, [P].
      front_cost: of the designs that were tried, [n].
      front_accuracy: theirs, [n].
      worst_cost: of the box, as the others.
      best_cost: of the box.
      worst_accuracy: of the box.

    Returns:
      Shares of the box, [P].
    """
    inside = [c for c in front_cost if c < worst_cost]
    edges = np.unique(np.clip([best_cost, *inside, worst_cost], best_cost, worst_cost))
    heights = np.maximum(best_within(front_cost, front_accuracy, edges[:-1]), worst_accuracy)
    starts, ends = np.log(edges[:-1]), np.log(edges[1:])
    own = np.log(np.clip(cost, best_cost, worst_cost))
    gain = np.zeros(len(cost))
    for start, end, height in zip(starts, ends, heights, strict=True):
        width = end - np.clip(own, start, end)
        u = (mean - height) / deviation
        density = np.exp(-(u**2) / 2) / np.sqrt(2 * np.pi)
        gain += width * deviation * (density + u * ndtr(u))
    return gain / (np.log(worst_cost / best_cost) * (1 - worst_accuracy))
