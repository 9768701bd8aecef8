"""Exact choices on the grid: the best accelerator of an architecture, roundings under limits.

Hardware does not move accuracy, so for a given architecture the best accelerator is an
inner minimisation, and the grid is small enough to look at all of it.
"""

from __future__ import annotations

import itertools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from codesign.cost.family import FamilyTable
from codesign.cost.table import CostTable
from codesign.search.objectives import CostFunction, Limits, feasible, metric

Array = jax.Array


class Choice(NamedTuple):
    """The best accelerators of architectures [...].

    Attributes:
      accelerator: flat index into the accelerator grid.
      value: metric of the mode; infinite where no accelerator meets the limits.
    """

    accelerator: Array | np.ndarray
    value: Array | np.ndarray


def best_accelerator(
    table: CostTable | FamilyTable, indices: Array, mode: str | CostFunction, limits: Limits
) -> Choice:
    """The accelerator of least cost within the limits, for the network at `indices`."""
    costs = table.on_every_accelerator(indices)
    value = jnp.where(feasible(costs, limits), metric(costs, mode), jnp.inf)
    best = jnp.argmin(value)
    return Choice(best, value[best])


def neighbours(position: np.ndarray, steps: np.ndarray) -> np.ndarray:
    """All roundings up or down of a relaxed network, [n, d].

    Args:
      position: in units of choices, [d].
      steps: choices less one, [d].
    """
    low = np.clip(np.floor(position), 0, steps)
    high = np.clip(np.ceil(position), 0, steps)
    ways = [sorted({int(a), int(b)}) for a, b in zip(low, high, strict=True)]
    return np.array(list(itertools.product(*ways)), np.int32)


def within_target(
    table: CostTable | FamilyTable,
    candidates: np.ndarray,
    target: float,
    mode: str | CostFunction,
    limits: Limits,
) -> tuple[np.ndarray, Choice]:
    """The candidates [n, d] whose best accelerator meets target and limits, with it."""
    choose = jax.jit(
        jax.vmap(lambda indices: best_accelerator(table, indices, mode, limits))
    )
    choice = Choice(*(np.asarray(x) for x in choose(jnp.asarray(candidates))))
    met = choice.value <= target
    return candidates[met], Choice(*(x[met] for x in choice))


def roundings(
    table: CostTable | FamilyTable,
    position: np.ndarray,
    target: float,
    mode: str | CostFunction,
    limits: Limits,
) -> tuple[np.ndarray, Choice]:
    """Discrete networks near a relaxed one that meet target and limits.

    The roundings up and down; where all of them exceed the target, the position goes
    choice by choice towards smaller and sparser networks until some meet it. Empty only
    if the smallest one does not.

    Args:
      position: relaxed network in units of choices, [d].

    Returns:
      Networks [n, d], nearest first, and their best accelerators.
    """
    space = table.space
    steps = space.part(space.steps, "network")
    # Towers shrink, sparsities grow.
    cheaper = np.where(np.arange(len(steps)) < space.architecture_size, -1.0, 1.0)
    for lowered in range(int(steps.max()) + 1):
        around = neighbours(np.clip(position + lowered * cheaper, 0.0, steps), steps)
        candidates, choice = within_target(table, around, target, mode, limits)
        if len(candidates):
            order = np.argsort(np.abs(candidates - position).sum(axis=-1), kind="stable")
            return candidates[order], Choice(*(x[order] for x in choice))
    return candidates, choice
