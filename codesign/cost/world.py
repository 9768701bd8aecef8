"""What a cost model takes the world to be: a scenario, its conventions, and what chips are made of.

A scenario names its costing, so that it can be written in a file. Functions that take a scenario
look the name up once, by `World.of`; the formulas below them take the world, or the costing that
technology and chip carry.
"""

from __future__ import annotations

import dataclasses

import jax

from codesign.cost.components import Components, nominal
from codesign.cost.costing import Costing, costing_of
from codesign.scenario import Scenario


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class World:
    """What designs are priced in; a pytree.

    Attributes:
      scenario: how designs are made and live.
      costing: the conventions it names.
      components: what chips are made of; None: the costing's nominal ones.
    """

    scenario: Scenario
    costing: Costing = dataclasses.field(metadata={"static": True})
    components: Components | None = None

    @classmethod
    def of(cls, scenario: Scenario, components: Components | None = None) -> World:
        """The world of a scenario.

        Raises:
          ValueError: there is no such costing.
        """
        return cls(scenario, costing_of(scenario), components)

    @property
    def parts(self) -> Components:
        """The components, nominal ones as plain numbers that a program has as constants."""
        return nominal(self.costing) if self.components is None else self.components

    @property
    def resident_weights(self) -> bool:
        """Whether weights may stay in the GLB from one inference to the next."""
        given = self.scenario
        return self.costing.hands_over and given.hand_over and given.resident_weights

    def with_components(self, components: Components) -> World:
        """The same with chips made of other components."""
        return dataclasses.replace(self, components=components)

    def check(self) -> None:
        """Raises ValueError where the components cannot be had in the node or precision."""
        self.costing.check_process(self.scenario)
