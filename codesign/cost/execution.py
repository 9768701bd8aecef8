"""What running operators takes: time on each unit and energy in each part of the machine."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import jax

if TYPE_CHECKING:
    from codesign.cost.technology import Technology


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Execution:
    """Time and energy of running operators once; scalars or arrays [...].

    One operator, a batch of them and whole inferences are executions alike, as fine as it is
    known where time and energy go: `merged` leaves only the sums.

    Attributes:
      unit_cycles: clock cycles by the unit that works, one unit after the other: "gemm" the PE
        arrays, "vector" the vector units; "start" is when none does yet.
      energy_pj: energy by part of the machine, pJ.
      resident: the same operators where the global buffer keeps their weights between inferences;
        None: it does not. See residence.py.
    """

    unit_cycles: dict[str, Any]
    energy_pj: dict[str, Any]
    resident: Execution | None = None

    @property
    def cycles(self) -> Any:
        """Clock cycles in all."""
        return total(self.unit_cycles)

    @property
    def dynamic_pj(self) -> Any:
        """Energy of all parts, pJ; dynamic as long as `with_static` has added none."""
        return total(self.energy_pj)

    def then(self, after: Execution) -> Execution:
        """This and another one after it; parts of the same name are added."""
        resident = None
        if self.resident is not None or after.resident is not None:
            resident = (self.resident or self).then(after.resident or after)
        return Execution(
            _added(self.unit_cycles, after.unit_cycles),
            _added(self.energy_pj, after.energy_pj),
            resident,
        )

    def map(self, change: Callable[[Any], Any]) -> Execution:
        """Every number changed alike, such as summed over operators."""
        changed: Execution = jax.tree.map(change, self)
        return changed

    def with_static(self, tech: Technology) -> Execution:
        """With the energy that passes with time, whatever the chip does."""
        static = {part: pj * self.cycles for part, pj in tech.static_parts_pj.items()}
        resident = None if self.resident is None else self.resident.with_static(tech)
        return Execution(self.unit_cycles, self.energy_pj | static, resident)

    def merged(self) -> Execution:
        """The sums alone, as one unit and one part."""
        resident = None if self.resident is None else self.resident.merged()
        return Execution({"all": self.cycles}, {"all": self.dynamic_pj}, resident)


def total(parts: Mapping[str, Any]) -> Any:
    """Sum of parts, without a first addition to nought."""
    first, *rest = parts.values()
    for part in rest:
        first = first + part
    return first


def _added(first: Mapping[str, Any], second: Mapping[str, Any]) -> dict[str, Any]:
    both = dict(first)
    for name, part in second.items():
        both[name] = both[name] + part if name in both else part
    return both
