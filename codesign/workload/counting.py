"""How operators are counted: what a costing says of a network, before any accelerator."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import TYPE_CHECKING

from codesign import tables

if TYPE_CHECKING:
    from codesign.workload.operators import Gemm


@dataclasses.dataclass(frozen=True)
class Counting:
    """The rules by which operators become arrays.

    Attributes:
      name: of the costing whose rules these are.
      vector_steps: table of workload/data with the steps of element-wise operators.
      products: what is done to each product, one rule after the other.
      sparse_weights: whether zeros of row-sparse weights can be skipped.
    """

    name: str
    vector_steps: str
    products: tuple[Callable[[Gemm], Gemm], ...]
    sparse_weights: bool

    def counted(self, gemm: Gemm) -> Gemm:
        """A product as it is counted."""
        for rule in self.products:
            gemm = rule(gemm)
        return gemm

    def step_cycles(self, kind: str) -> list[float]:
        """Lane cycles an element of every step of an operator; none where it costs nothing.

        Raises:
          ValueError: the table has no such operator.
        """
        row = tables.text(
            "codesign.workload.data", self.vector_steps, "op", kind, "cycles_per_element"
        )
        return [float(cycles) for cycles in row.split()]


AS_RUN = Counting(name="physical", vector_steps="vector_ops", products=(), sparse_weights=True)
