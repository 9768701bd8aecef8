"""The exact front of a space whose every network is known by a proxy of its accuracy.

The towers of a CLIP are independent but for their product at the end, so a proxy of every network
takes no more passes than the towers have choices; and the cost of every network on its best
accelerator is a look-up. So the front over the whole space is found by looking at all of it, for
any mode, limits and scenario, without training.

Axes: A networks of the space, those of the last tower fastest; M images; T targets.
"""

from __future__ import annotations

import math

import numpy as np

from codesign.search.grid import Aim, AnyTable, Choice, best_accelerators, best_for_each
from codesign.search.nearest import nearest, shortfall
from codesign.search.objectives import CostFunction, Limits
from codesign.space import DesignSpace


def cheapest(table: AnyTable, mode: str | CostFunction, limits: Limits) -> Choice:
    """The best accelerator of every network [A], and what it costs there.

    Returns:
      NumPy arrays; a value is infinite where no accelerator meets the limits.
    """
    return best_accelerators(table, every_network(table.space), mode, limits)


def every_network(space: DesignSpace) -> np.ndarray:
    """Choice indices [A, d] of every architecture of a space."""
    shape = network_shape(space)
    return np.indices(shape, np.int32).reshape(len(shape), -1).T


def tower_shape(space: DesignSpace) -> tuple[int, ...]:
    """Number of choices of each tower, in the order of the space."""
    return tuple(
        math.prod(len(d.choices) for d in space.part(space.dimensions, tower))
        for tower in space.towers
    )


def network_shape(space: DesignSpace) -> tuple[int, ...]:
    """Number of choices along every dimension of a network, in the order of the space."""
    return tuple(len(d.choices) for d in space.part(space.dimensions, "architecture"))


def front(cost: np.ndarray, loss: np.ndarray) -> np.ndarray:
    """The networks [A] that no other beats in cost and loss, cheapest first, each loss once."""
    order = np.lexsort((loss, cost))
    order = order[np.isfinite(cost[order]) & np.isfinite(loss[order])]
    losses = loss[order]
    before = np.concatenate([[np.inf], np.minimum.accumulate(losses)[:-1]])
    return order[losses < before]


def unmet(table: AnyTable, limits: Limits, networks: np.ndarray | None = None) -> str:
    """Why no design of a space meets limits, and what the nearest one takes.

    The least of each cost that is above its limit, and the design of all that would need the
    limits raised least.

    Args:
      table: exact costs.
      limits: that nothing meets.
      networks: choice indices [n, d] of those that are asked about; None: of all.
    """
    networks = every_network(table.space) if networks is None else networks
    bounds = list(limits.bounds())
    aims = [Aim(each, Limits()) for each in (*(b for b, _ in bounds), shortfall(limits))]
    *leasts, in_all = best_for_each(table, networks, aims)
    missed = []
    for (bounded, limit), choice in zip(bounds, leasts, strict=True):
        least = float(choice.value.min())
        if least > limit:
            missed.append(f"{bounded.key} is {least:.3g} at least, not {limit:.3g}")
    why = "; ".join(missed) or "each can be met alone, but not all together"
    return f"{why}; {nearest(table, networks, limits, in_all)}"


def best_under(cost: np.ndarray, loss: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """Of every target [T], increasing, the network of least loss that costs no more.

    No network is taken twice, as long as there are others: where the same is best for two
    targets, the second gets the next best.

    Raises:
      ValueError: a target that no network meets.
    """
    chosen: list[int] = []
    by_loss = np.argsort(loss, kind="stable")
    for target in targets:
        within = by_loss[(cost <= target)[by_loss] & np.isfinite(loss[by_loss])]
        if not len(within):
            raise ValueError(f"no design meets the limits and the target {target:.3g}")
        new = within[~np.isin(within, chosen)]
        chosen.append(int(new[0] if len(new) else within[0]))
    return np.array(chosen)
