"""What every rival is asked to solve, and how it is asked: one protocol of ask and tell.

A design is a vector of choice indices. What it costs is known exactly and for nothing; its accuracy
is known after a trial, and only that is paid for. So no rival spends trials on designs that break a
limit, and one that models accuracy needs no model of the cost.

Axes: n designs, d dimensions, P designs of a pool.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from typing import Any, Protocol

import numpy as np

# A space of no more designs is looked at whole.
_MOST_ENUMERATED = 200_000
_DRAWN = 20_000
# Draws, times the designs asked for, until a space counts as one without any that meet the limits.
_PATIENCE = 1000


@dataclasses.dataclass(frozen=True, eq=False)
class Problem:
    """A space of designs, their exact cost, and the box that a front is measured in.

    Attributes:
      choices: number of choices along each dimension, [d].
      cost: of designs [n, d]: float [n], infinite where a limit is broken.
      worst_cost: of the box.
      best_cost: of the box: the least of the space.
      worst_accuracy: of the box.
    """

    choices: tuple[int, ...]
    cost: Callable[[np.ndarray], np.ndarray]
    worst_cost: float
    best_cost: float
    worst_accuracy: float

    @property
    def designs(self) -> int:
        """How many there are."""
        return math.prod(self.choices)

    @property
    def box(self) -> dict[str, float]:
        """The arguments of `pareto.hypervolume`."""
        return {
            "worst_cost": self.worst_cost,
            "best_cost": self.best_cost,
            "worst_accuracy": self.worst_accuracy,
        }

    def unit(self, designs: np.ndarray) -> np.ndarray:
        """Designs [n, d] in the unit cube, choices evenly spaced."""
        return np.asarray(designs) / np.maximum(np.array(self.choices) - 1, 1)

    def draw(self, rng: np.random.Generator, number: int, seen: set[bytes]) -> np.ndarray:
        """Designs that are evenly distributed over those that meet the limits and are not seen.

        Args:
          rng: the source of chance.
          number: how many, all different.
          seen: keys of the others, see `key_of`.

        Returns:
          [n, d]; fewer than asked for where hardly any are left.
        """
        known, found = set(seen), list[np.ndarray]()
        for _ in range(_PATIENCE):
            drawn = rng.integers(0, self.choices, (number, len(self.choices)))
            for design, cost in zip(drawn, self.cost(drawn), strict=True):
                if math.isfinite(cost) and key_of(design) not in known and len(found) < number:
                    known.add(key_of(design))
                    found.append(design)
            if len(found) == number:
                break
        return np.array(found, np.int64).reshape(-1, len(self.choices))

    def pool(self, rng: np.random.Generator, near: np.ndarray) -> np.ndarray:
        """Designs [P, d] to choose from: all, or of a larger space some at random and neighbours.

        Args:
          rng: the source of chance.
          near: designs [n, d] all of whose neighbours, a choice away in one dimension, are taken.
        """
        if self.designs <= _MOST_ENUMERATED:
            return np.indices(self.choices, np.int64).reshape(len(self.choices), -1).T
        drawn = rng.integers(0, self.choices, (_DRAWN, len(self.choices)))
        moves = np.concatenate([np.eye(len(self.choices)), -np.eye(len(self.choices))]).astype(int)
        around = (near[:, None] + moves).reshape(-1, len(self.choices))
        inside = np.all((around >= 0) & (around < self.choices), axis=1)
        return np.unique(np.concatenate([drawn, around[inside]]), axis=0)


class Method(Protocol):
    """One rival. A function of its seed and of what it was told: the same again gives the same."""

    def ask(self) -> np.ndarray:
        """Designs [n, d] to try next; none: it has no more."""
        ...

    def tell(self, designs: np.ndarray, cost: np.ndarray, accuracy: np.ndarray) -> None:
        """What came of all that was asked for.

        Args:
          designs: [n, d].
          cost: [n].
          accuracy: [n], a share; nan where the cost is infinite: these are not tried.
        """
        ...


class Told:
    """What a method was told, in order: the memory that several of them share."""

    def __init__(self, dimensions: int) -> None:
        self.designs = np.zeros((0, dimensions), np.int64)
        self.cost = np.zeros(0)
        self.accuracy = np.zeros(0)

    def add(self, designs: np.ndarray, cost: np.ndarray, accuracy: np.ndarray) -> None:
        """Puts in what was tried."""
        tried = np.isfinite(accuracy)
        self.designs = np.concatenate([self.designs, np.asarray(designs)[tried]])
        self.cost = np.concatenate([self.cost, np.asarray(cost)[tried]])
        self.accuracy = np.concatenate([self.accuracy, np.asarray(accuracy)[tried]])

    @property
    def keys(self) -> set[bytes]:
        """Of all designs."""
        return {key_of(design) for design in self.designs}


def key_of(design: Any) -> bytes:
    """What tells a design from others in a set."""
    return np.asarray(design, np.int64).tobytes()
