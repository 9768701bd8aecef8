"""Random search: designs that are evenly distributed over those that meet the limits."""

from __future__ import annotations

import numpy as np

from codesign.baselines.problem import Problem, Told


class Uniform:
    """Random search.

    Args:
      problem: what to solve.
      first: designs [n, d] to begin with; later ones come as many at a time.
      seed: of what it draws.
    """

    def __init__(self, problem: Problem, first: np.ndarray, seed: int) -> None:
        self._problem, self._first = problem, first
        self._rng = np.random.default_rng(seed)
        self._told = Told(len(problem.choices))

    def ask(self) -> np.ndarray:
        """New designs."""
        if not len(self._told.cost):
            return self._first
        return self._problem.draw(self._rng, len(self._first), self._told.keys)

    def tell(self, designs: np.ndarray, cost: np.ndarray, accuracy: np.ndarray) -> None:
        """Remembers what not to draw again."""
        self._told.add(designs, cost, accuracy)
