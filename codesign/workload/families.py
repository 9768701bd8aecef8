"""What can be co-designed: a family of networks, by its towers and their operators.

A tower is a stack of equal transformer blocks of elastic dimensions, and what surrounds it. Write
one class like `clip.ClipModelFamily` or `vit.VitModelFamily`, whose architecture is a dataclass
with a field for each tower, and hand it to `DesignSpace`: the space, its relaxation, the cost
tables, the exact searches and subnets of any sparsity use nothing else of a network.
Training also needs gates and a task, which belong to the models.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, Protocol

from codesign.architecture import Tower
from codesign.scenario import Scenario
from codesign.workload.blocks import Operators
from codesign.workload.memory import Memory


class ModelFamily(Protocol):
    """Networks that differ in the elastic dimensions of their towers; hashable."""

    @property
    def towers(self) -> tuple[str, ...]:
        """Names of the towers, in the order of a space's axes."""

    def architecture(self, base: Any, towers: Mapping[str, Tower]) -> Any:
        """The architecture with these towers and all else from `base`; a pytree of dimensions."""
        changes: dict[str, Any] = dict(towers)
        return dataclasses.replace(base, **changes)

    def tower(self, architecture: Any, name: str) -> Tower:
        """The dimensions of one tower."""
        tower: Tower = getattr(architecture, name)
        return tower

    def block(self, base: Any, name: str, tower: Tower, density: Any = 1) -> Operators:
        """Operators of one block of a tower.

        Args:
          base: fixed dimensions.
          name: of the tower.
          tower: width, heads and ffn of the block, scalars or arrays [...].
          density: share of the block's weights that are kept.
        """

    def outside(self, base: Any, name: str, width: Any) -> Operators:
        """Operators of a tower of a width outside its blocks, heads included."""

    def runs(self, name: str, scenario: Scenario) -> float:
        """How often a tower runs an inference."""

    def memory(self, architecture: Any, scenario: Scenario) -> Memory:
        """Contents of the DRAM while one inference runs; dimensions are scalars or arrays [...]."""
