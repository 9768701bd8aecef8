"""What uncertain components do to the costs of a design, and to the choice of one."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from codesign.accelerator import Accelerator
from codesign.cost.components import Components, sampled
from codesign.cost.mapping import is_crowded
from codesign.cost.model import Costs, costs_in, expected
from codesign.cost.world import World
from codesign.scenario import Scenario
from codesign.workload import Workload

# Pairs of an accelerator and a set of components that are priced side by side.
_AT_ONCE = 16
# What an interval is told of, and the share of the sets that are in it.
QUANTITIES = (
    "latency_s",
    "energy_j",
    "area_mm2",
    "operational_kgco2e",
    "embodied_kgco2e",
    "carbon_kgco2e",
)
INSIDE = 0.9


def uncertain_costs(
    workloads: Sequence[Workload],
    shares: Sequence[float],
    accelerators: Accelerator,
    scenario: Scenario,
    samples: int,
    seed: int = 0,
    *,
    contents: Any,
) -> Costs:
    """Costs [samples, A], without parts, on accelerators [A], of sets of components.

    The mapper chooses anew under each set. All accelerators are priced under the same sets.

    Args:
      workloads: of the subnets of a family, or of the one model.
      shares: of the inferences that each runs.
      accelerators: leaves [A].
      scenario: where and how they live.
      samples: sets of components.
      seed: of the draw.
      contents: of the DRAM, bytes, as of `workload_costs`.

    Raises:
      ValueError: a costing whose components have no ranges.
    """
    world = World.of(scenario)
    drawn = sampled(world.costing, samples, seed)
    stacked = jax.tree.map(lambda *x: jnp.stack(x), *workloads)
    chips = jax.tree.map(lambda x: np.asarray(x, np.float32), accelerators)
    kinds = np.unique(is_crowded(chips))
    crowded = bool(kinds[0]) if len(kinds) == 1 else None  # most of the time is compilation
    weights = jnp.asarray(shares, jnp.float32)
    held = jnp.asarray(contents, jnp.float32)
    # Every pair of a set and an accelerator, padded to whole batches of one program.
    number = len(chips.cores)
    pairs = np.pad(np.arange(samples * number), (0, -samples * number % _AT_ONCE), mode="edge")
    found = []
    for batch in pairs.reshape(-1, _AT_ONCE):
        chip = jax.tree.map(lambda x, at=batch % number: x[at], chips)
        components = jax.tree.map(lambda x, at=batch // number: x[at], drawn)
        found.append(_priced(stacked, weights, chip, held, world, components, crowded))
    costs: Costs = jax.tree.map(
        lambda *x: np.concatenate(x)[: samples * number].reshape(samples, number), *found
    )
    return costs


@functools.partial(jax.jit, static_argnames="crowded")
def _priced(
    workloads: Workload,
    shares: jax.Array,
    chips: Accelerator,
    contents: Any,
    world: World,
    drawn: Components,
    crowded: bool | None,
) -> Costs:
    """Costs [pairs] of accelerators under sets of components, leaves [pairs] each."""

    def on(chip: Accelerator, components: Components) -> Costs:
        made = world.with_components(components)
        each = jax.vmap(lambda w: costs_in(made, w, chip, contents, crowded))(workloads)
        return expected(each, shares).totals()

    costs: Costs = jax.vmap(on)(chips, drawn)
    return costs


def intervals(costs: Costs) -> dict[str, tuple[float, float]]:
    """Ends of the middle 90 % of each of QUANTITIES over sets of components, leaves [samples]."""
    ends = (50 * (1 - INSIDE), 50 * (1 + INSIDE))
    found = {}
    for name in QUANTITIES:
        low, high = np.percentile(np.asarray(getattr(costs, name), float), ends)
        found[name] = (float(low), float(high))
    return found


def share_near_best(values: Any, chosen: int, tolerance: float = 0.02) -> float:
    """Share of the sets under which one accelerator is near the best of them.

    Args:
      values: of the objective, [samples, A].
      chosen: index of the accelerator.
      tolerance: how much worse than the best counts as near, a share of it.
    """
    values = np.asarray(values, float)
    return float(np.mean(values[:, chosen] <= (1 + tolerance) * values.min(axis=1)))
