"""Exact choices on the grid: the best accelerator of an architecture, roundings under limits.

Hardware does not move accuracy, so for a given architecture the best accelerator is an
inner minimisation, and the grid is small enough to look at all of it.
"""

from __future__ import annotations

import functools
import itertools
import operator
from collections.abc import Sequence
from typing import Any, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np

from codesign.cost.execution import total
from codesign.cost.family import FamilyTable
from codesign.cost.model import Chip, Costs
from codesign.cost.table import BlockedTable, CostTable
from codesign.search.objectives import CostFunction, Limits, feasible, metric
from codesign.space import DesignSpace

Array = jax.Array
# Costs looked at side by side: a few MB a leaf, whatever the number of accelerators.
_COSTS_AT_ONCE = 1 << 19
AnyTable: TypeAlias = CostTable | FamilyTable | BlockedTable


class Choice(NamedTuple):
    """The best accelerators of architectures [...].

    Attributes:
      accelerator: flat index into the accelerator grid.
      value: metric of the mode; infinite where no accelerator meets the limits.
    """

    accelerator: Array | np.ndarray
    value: Array | np.ndarray


class Aim(NamedTuple):
    """What the best accelerator is the best in."""

    mode: str | CostFunction
    limits: Limits


def best_accelerator(
    table: CostTable | FamilyTable, indices: Array, mode: str | CostFunction, limits: Limits
) -> Choice:
    """The accelerator of least cost within the limits, for the network at `indices`."""
    costs = table.on_every_accelerator(indices)
    value = jnp.where(feasible(costs, limits), metric(costs, mode), jnp.inf)
    best = jnp.argmin(value)
    return Choice(best, value[best])


def best_accelerators(
    table: AnyTable, networks: np.ndarray, mode: str | CostFunction, limits: Limits
) -> Choice:
    """`best_accelerator` of many networks [n, d]: NumPy arrays [n]."""
    (choice,) = best_for_each(table, networks, [Aim(mode, limits)])
    return choice


def best_for_each(table: AnyTable, networks: np.ndarray, aims: Sequence[Aim]) -> list[Choice]:
    """`best_accelerators` for several aims; a table in blocks is mapped once for all of them."""
    if isinstance(table, BlockedTable):
        return _best_of_blocks(table, networks, aims)
    return [Choice(*map(np.asarray, _best(table, jnp.asarray(networks), *aim))) for aim in aims]


def _best_of_blocks(table: BlockedTable, networks: np.ndarray, aims: Sequence[Aim]) -> list[Choice]:
    """The same as of the whole table, the first of equals included.

    Accelerators whose chips break a limit with every network are not mapped.
    """
    empty = Choice(np.zeros(len(networks), np.int64), np.full(len(networks), np.inf, np.float32))
    found = [Choice(*(x.copy() for x in empty)) for _ in aims]

    def may_do(chip: Chip) -> Any:
        return functools.reduce(operator.or_, (_chip_meets(chip, aim.limits) for aim in aims))

    for places, block in table.blocks(may_do):
        for best, mine in zip(found, best_for_each(block, networks, aims), strict=True):
            better = mine.value < best.value
            best.value[better] = mine.value[better]
            best.accelerator[better] = places[mine.accelerator[better]]
    return found


def _chip_meets(chip: Chip, limits: Limits) -> Any:
    """Whether chips meet the limits that no network changes: those on area and peak."""
    made = Costs(0.0, 0.0, total(chip.area_mm2), chip.tops, 0.0, 0.0)
    return feasible(made, Limits(area_mm2=limits.area_mm2, tops=limits.tops))


@functools.partial(jax.jit, static_argnames=("mode", "limits"))
def _best(
    table: CostTable | FamilyTable, networks: Array, mode: str | CostFunction, limits: Limits
) -> Choice:
    at_once = max(1, _COSTS_AT_ONCE // table.accelerators)
    found: Choice = jax.lax.map(
        lambda indices: best_accelerator(table, indices, mode, limits),
        networks,
        batch_size=at_once,
    )
    return found


def neighbours(position: np.ndarray, steps: np.ndarray, beyond: np.ndarray | int = 0) -> np.ndarray:
    """All discrete networks around a relaxed one, [n, d]: roundings up and down, and beyond.

    Args:
      position: in units of choices, [d].
      steps: choices less one, [d].
      beyond: by how many choices networks may lie beyond the roundings, below where negative and
        above where positive, [d].
    """
    low = np.clip(np.floor(position) + np.minimum(beyond, 0), 0, steps)
    high = np.clip(np.ceil(position) + np.maximum(beyond, 0), 0, steps)
    ways = [range(int(a), int(b) + 1) for a, b in zip(low, high, strict=True)]
    return np.array(list(itertools.product(*ways)), np.int32)


def within_target(
    table: CostTable | FamilyTable,
    candidates: np.ndarray,
    target: float,
    mode: str | CostFunction,
    limits: Limits,
) -> tuple[np.ndarray, Choice]:
    """The candidates [n, d] whose best accelerator meets target and limits, with it."""
    choice = best_accelerators(table, candidates, mode, limits)
    met = choice.value <= target
    return candidates[met], Choice(*(x[met] for x in choice))


def without_parts(
    space: DesignSpace, networks: np.ndarray, choice: Choice
) -> tuple[np.ndarray, Choice]:
    """Those of some networks [n, d] of which no dimension alone can be a choice larger.

    All meet a target, so what a larger one costs is paid for, and trained it is no less accurate
    than what is part of it.

    Args:
      space: of the networks.
      networks: choice indices, within a box.
      choice: their best accelerators.
    """
    steps = space.part(space.steps, "network")
    sizes = tuple(steps + 1)
    flat = np.ravel_multi_index(tuple(networks.T), sizes)
    parts = np.zeros(len(networks), bool)
    for dimension, way in enumerate(-_cheaper(space)):
        raised = networks.copy()
        raised[:, dimension] += way
        inside = (raised[:, dimension] >= 0) & (raised[:, dimension] <= steps[dimension])
        parts[inside] |= np.isin(np.ravel_multi_index(tuple(raised[inside].T), sizes), flat)
    return networks[~parts], Choice(*(np.asarray(x)[~parts] for x in choice))


def _cheaper(space: DesignSpace) -> np.ndarray:
    """By dimension of a network, which way it gets cheaper: towers shrink, sparsities grow."""
    return np.where(np.arange(space.network_size) < space.architecture_size, -1, 1)


def roundings(
    table: CostTable | FamilyTable,
    position: np.ndarray,
    target: float,
    mode: str | CostFunction,
    limits: Limits,
) -> tuple[np.ndarray, Choice]:
    """Discrete networks near a relaxed one that meet target and limits.

    The roundings up and down; where all of them exceed the target, also those with some of the
    dimensions a choice cheaper, smaller or sparser, and so on from there until some meet it. Empty
    only if the cheapest one does not.

    Args:
      position: relaxed network in units of choices, [d].

    Returns:
      Networks [n, d], nearest first, and their best accelerators.
    """
    space = table.space
    steps, cheaper = space.part(space.steps, "network"), _cheaper(space)
    for further in range(int(steps.max()) + 1):
        # Lowered all together but for the last step, or the number of candidates would explode.
        start = np.clip(position + max(0, further - 1) * cheaper, 0.0, steps)
        around = neighbours(start, steps, min(further, 1) * cheaper)
        candidates, choice = within_target(table, around, target, mode, limits)
        if len(candidates):
            order = np.argsort(np.abs(candidates - position).sum(axis=-1), kind="stable")
            return candidates[order], Choice(*(x[order] for x in choice))
    return candidates, choice
