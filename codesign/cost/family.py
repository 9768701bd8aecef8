"""Exact costs of every family of a space: a chip, a network, and the sparsities of its subnets.

For each sparsity that a subnet may have there is the table of all designs of that sparsity.
A family's costs are sums of these by its subnets' shares of use; between two sparsities they
are interpolated, as between the choices of any other dimension.
"""

from __future__ import annotations

import dataclasses
import functools

import jax
import jax.numpy as jnp

from codesign.cost.demand import longest_row, subnet_shares, with_index_bits
from codesign.cost.model import Costs, Stored, expected
from codesign.cost.table import CostTable, build_table, costs_at
from codesign.scenario import Scenario
from codesign.space import DesignSpace
from codesign.weighted import weighted_sum

Array = jax.Array


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class FamilyTable:
    """Costs of all families of a space.

    Attributes:
      by_level: tables of the space's `levels`, leaves [levels, ...].
      shares: of the inferences, of the K subnets.
      space: the space.
    """

    by_level: CostTable
    shares: tuple[float, ...] = dataclasses.field(metadata={"static": True})
    space: DesignSpace = dataclasses.field(metadata={"static": True})

    @property
    def scenario(self) -> Scenario:
        """What the chips live in, its index bits those of the largest network."""
        return self.by_level.scenario

    @property
    def accelerators(self) -> int:
        """How many there are."""
        return self.space.accelerators

    def relaxed(self, z: Array) -> Costs:
        """Costs at a relaxed design z [d]: multilinear between the discrete families.

        The latency is the slowest subnet's; see `expected`.
        """
        weights = self.space.level_weights(z)
        of_level = jax.vmap(lambda table: table.stored(z))(self.by_level)
        densest = Stored(*(weighted_sum(weights[0], x) for x in of_level))
        by_level = jax.vmap(lambda table: table.relaxed(z, densest))(self.by_level)
        return self._expected(by_level, weights)

    def on_every_accelerator(self, indices: Array) -> Costs:
        """Costs [accelerators] of the family at choice indices [>= network_size]."""
        space = self.space
        own = space.part(indices, "sparsity") + space.first_levels
        densest = jax.tree.map(lambda x: x[own[0]], self.by_level)
        stored = densest.stored_on_every_accelerator(indices)
        by_level = jax.vmap(lambda table: table.on_every_accelerator(indices, stored))(
            self.by_level
        )
        return self._expected(by_level, jax.nn.one_hot(own, len(space.levels)))

    def on_accelerator(self, indices: Array, flat: int) -> Costs:
        """Costs of the family at choice indices on one accelerator, by its flat index."""
        return costs_at(self.on_every_accelerator(indices), flat)

    def accelerator_indices(self, flat: Array) -> Array:
        """Choice indices [..., fields] of accelerators given by flat index [...]."""
        shape = self.by_level.chip.tops.shape[1:]
        return jnp.stack(jnp.unravel_index(flat, shape), axis=-1)

    def _expected(self, by_level: Costs, weights: Array) -> Costs:
        of_subnets = jax.tree.map(functools.partial(weighted_sum, weights), by_level)
        return expected(of_subnets, self.shares)


def build_family_table(space: DesignSpace, scenario: Scenario) -> FamilyTable:
    """The tables of all sparsities of a space.

    Raises:
      ValueError: as `build_table`; shares of another number of subnets.
    """
    shares = subnet_shares(scenario, len(space.sparsity))
    scenario = with_index_bits(scenario, longest_row(space.largest(), space.family))
    tables = [build_table(space, scenario, 1 - level) for level in space.levels]
    stacked = jax.tree.map(lambda *x: jnp.stack(x), *tables)
    return FamilyTable(stacked, shares, space)
