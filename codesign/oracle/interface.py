"""What an oracle is: anything that prices one GEMM on one accelerator.

To plug in a simulator, write one file with one picklable class (worker processes are sent
copies of it), and hand it to `codesign.oracle.collect.collect`:

    @dataclasses.dataclass(frozen=True)
    class MySimulator:
        effort: int = 4
        name: str = "mysimulator"

        def fingerprint(self) -> str:
            return f"mysimulator-1.2/effort={self.effort}"

        def __call__(self, point: Point) -> Sample:
            import mysimulator  # here, so that others can use codesign without it
            result = mysimulator.run(point.m, point.k, point.n, point.accelerator.pe_x, ...)
            if not result.ok:
                raise OracleError(f"no mapping: {result.why}")
            return Sample(result.cycles, result.energy_pj)

It is asked for words of 8 bits only, unless it names others it prices: `precisions_bits`, such
as (4, 8, 16), as a class attribute or property; `point.constants.precision_bits` is the point's.

An oracle differs from the cost model in the events it counts, never in what an event
costs: it takes the energies of `point.constants`, a byte's whatever the precision.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import NamedTuple, Protocol

import jax
import numpy as np

from codesign.accelerator import Accelerator
from codesign.cost.technology import technology
from codesign.costing import PHYSICAL
from codesign.oracle.units import constants_of
from codesign.renamed import accepts_old_names
from codesign.scenario import Scenario

# One program: operation by operation it would take seconds.
_technology = jax.jit(technology)


class OracleError(Exception):
    """An oracle has no answer for one point: no mapping, or the tool failed. One line."""


@accepts_old_names
@dataclasses.dataclass(frozen=True)
class Constants:
    """What events cost on one accelerator, plain numbers, in bytes whatever a word is.

    `codesign.cost.technology.Technology` has the same in words of `precision_bits`.

    Attributes:
      mac_pj: one multiply of two words with a 32-bit accumulate.
      register_read_pj, register_write_pj: one byte of a PE's weight register.
      l2_read_pj, l2_write_pj: one byte of a core's local buffer.
      glb_read_pj, glb_write_pj: one byte of the global buffer.
      dram_pj: one byte of DRAM, read or written.
      static_pj: energy that passes with time (leakage, clock, DRAM background), per clock cycle.
      dram_bytes_per_cycle: bandwidth that reads and writes of DRAM share, bytes a cycle.
      glb_bytes_per_cycle: bandwidth of the global buffer, bytes a cycle each way.
      precision_bits: bits of a word, which is a weight, an input or a result; sums have 32.
    """

    mac_pj: float
    register_read_pj: float
    register_write_pj: float
    l2_read_pj: float
    l2_write_pj: float
    glb_read_pj: float
    glb_write_pj: float
    dram_pj: float
    static_pj: float
    dram_bytes_per_cycle: float
    glb_bytes_per_cycle: float
    precision_bits: int = 8

    @property
    def word_bytes(self) -> float:
        """Bytes of a word."""
        return self.precision_bits / 8

    @classmethod
    def of(cls, accelerator: Accelerator, scenario: Scenario) -> Constants:
        """The constants of one discrete accelerator; raises as `of_all`."""
        return cls.of_all([accelerator], scenario)[0]

    @classmethod
    def of_all(cls, accelerators: Sequence[Accelerator], scenario: Scenario) -> list[Constants]:
        """The constants of each of some discrete accelerators, computed at once.

        Raises:
          ValueError: a scenario of other than physical costs, of which no oracle knows the
            machine; no component data for its node or precision.
        """
        if scenario.costing != PHYSICAL.name:
            named = scenario.costing
            raise ValueError(f"scenario.costing: oracles price physical costs, not {named}")
        if not accelerators:
            return []
        chips = jax.tree.map(lambda *x: np.asarray(x, np.float32), *accelerators)
        costs = constants_of(jax.tree.map(np.asarray, _technology(chips, scenario)))
        columns = {name: x.astype(np.float64).tolist() for name, x in costs.items()}
        columns["precision_bits"] = [scenario.precision_bits] * len(accelerators)
        rows = zip(*columns.values(), strict=True)
        return [cls(**dict(zip(columns, row, strict=True))) for row in rows]


class Point(NamedTuple):
    """One GEMM [m, k] x [k, n] on one accelerator whose fields are plain numbers."""

    m: int
    k: int
    n: int
    accelerator: Accelerator
    constants: Constants


@accepts_old_names
class Events(NamedTuple):
    """Bytes moved by one GEMM, all cores together; each MAC also reads a word of its register.

    With them a sample can be priced again when constants are refined.
    """

    register_writes: float
    l2_reads: float
    l2_writes: float
    glb_reads: float
    glb_writes: float
    dram_bytes: float

    def energy_pj(self, point: Point) -> float:
        """Dynamic energy of these events and the point's MACs, pJ."""
        c = point.constants
        return (
            point.m * point.k * point.n * (c.mac_pj + c.word_bytes * c.register_read_pj)
            + self.register_writes * c.register_write_pj
            + self.l2_reads * c.l2_read_pj
            + self.l2_writes * c.l2_write_pj
            + self.glb_reads * c.glb_read_pj
            + self.glb_writes * c.glb_write_pj
            + self.dram_bytes * c.dram_pj
        )


class Sample(NamedTuple):
    """An oracle's answer.

    Attributes:
      cycles: clock cycles of the GEMM, loading and storing included.
      energy_pj: dynamic energy of MACs, registers, L2, GLB and DRAM; callers add leakage
        (`static_pj` x cycles). No vector unit.
      events: bytes moved, where the oracle counts them.
    """

    cycles: float
    energy_pj: float
    events: Events | None = None


class Oracle(Protocol):
    """Prices points. Picklable, and the same answer for the same point.

    `precisions_of` says which precisions it is asked for.
    """

    @property
    def name(self) -> str:
        """A short word, such as "zigzag"; names the cache file."""

    def fingerprint(self) -> str:
        """Changes whenever results may change: tool version and settings. No comma, one line."""

    def __call__(self, point: Point) -> Sample:
        """The best mapping's costs.

        Raises:
          OracleError: where there is no mapping or the tool fails; one line.
        """


def precisions_of(oracle: Oracle) -> tuple[int, ...]:
    """Precisions that an oracle prices, bits: its `precisions_bits`, or 8 where it has none."""
    known: tuple[int, ...] = getattr(oracle, "precisions_bits", (8,))
    return known


def refusal(oracle: Oracle, precision_bits: int) -> str | None:
    """Why an oracle is not to be asked at a precision, one line; None where it is."""
    known = precisions_of(oracle)
    if precision_bits in known:
        return None
    priced = ", ".join(map(str, known))
    return f"{oracle.name} prices words of {priced} bits, not of {precision_bits}"
