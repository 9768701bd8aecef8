"""A search's problem as rivals see it: choices, exact costs and the box of the hypervolume."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from codesign.baselines.problem import Problem
from codesign.cost.table import CostTable
from codesign.search.grid import best_accelerators
from codesign.search.objectives import Limits, Mode, feasible, metric
from codesign.train.search.setup import Setup


def problem_of(setup: Setup, hardware: str) -> Problem:
    """What rivals solve.

    Args:
      setup: of a search of dense networks.
      hardware: "exact": designs are architectures, each on its best accelerator; "searched": they
        are architectures and accelerators.
    """
    space, table, config = setup.space, setup.tables.dense, setup.config
    mode, limits = config.targets.mode, config.limits
    size = space.architecture_size
    choices = tuple(int(n) + 1 for n in space.steps)

    def on_best(designs: np.ndarray) -> np.ndarray:
        padded = np.zeros((_rounded_up(len(designs)), len(space.steps)), np.int32)
        padded[: len(designs), :size] = designs
        return np.asarray(best_accelerators(table, padded, mode, limits).value)[: len(designs)]

    def on_own(designs: np.ndarray) -> np.ndarray:
        padded = np.zeros((_rounded_up(len(designs)), len(space.steps)), np.int32)
        padded[: len(designs)] = designs
        return np.asarray(_own_costs(table, jnp.asarray(padded), mode, limits))[: len(designs)]

    exact = hardware == "exact"
    return Problem(
        choices=choices[:size] if exact else choices,
        cost=_remembered(on_best if exact else on_own),
        worst_cost=float(setup.goals.targets[0]),
        best_cost=setup.least,
        worst_accuracy=config.targets.worst_accuracy,
    )


def _rounded_up(number: int) -> int:
    """To a power of two: few shapes to compile."""
    return 1 << max(number - 1, 0).bit_length()


def _remembered(cost: Callable[[np.ndarray], np.ndarray]) -> Callable[[np.ndarray], np.ndarray]:
    """The same; the costs of the largest set so far are kept, as it is asked for often."""
    last: list[np.ndarray] = []

    def of(designs: np.ndarray) -> np.ndarray:
        if not len(designs):
            return np.zeros(0)
        if last and last[0].shape == designs.shape and np.array_equal(last[0], designs):
            return last[1]
        found = cost(designs)
        if not last or len(designs) >= len(last[0]):
            last[:] = [designs, found]
        return found

    return of


@functools.partial(jax.jit, static_argnames=("mode", "limits"))
def _own_costs(table: CostTable, designs: jax.Array, mode: Mode, limits: Limits) -> jax.Array:
    """Cost of designs [n, d] on their own accelerators; infinite where a limit is broken."""
    shape = table.chip.tops.shape

    def of(design: jax.Array) -> jax.Array:
        costs = table.on_every_accelerator(design)
        chip = jnp.ravel_multi_index(
            tuple(table.space.part(design, "accelerator")), shape, mode="clip"
        )
        value = jnp.where(feasible(costs, limits), metric(costs, mode), jnp.inf)
        return value[chip]

    found: jax.Array = jax.lax.map(of, designs, batch_size=64)
    return found


def chip_of(setup: Setup, design: np.ndarray) -> Any:
    """The accelerator of a design: its own, or the best where it is of an architecture alone."""
    space, size = setup.space, setup.space.architecture_size
    if len(design) > size:
        return space.accelerator_at(design)
    padded = np.zeros((1, len(space.steps)), np.int32)
    padded[0, :size] = design
    table, config = setup.tables.dense, setup.config
    choice = best_accelerators(table, padded, config.targets.mode, config.limits)
    return space.accelerator_at(np.asarray(table.accelerator_indices(choice.accelerator[0])))
