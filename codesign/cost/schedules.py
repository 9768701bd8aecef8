"""Schedules: which operand of a GEMM the global buffer keeps, and which loops walk the others."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

Array = jax.Array

OPERANDS = "IWO"
I, W, O = range(len(OPERANDS))  # noqa: E741
# Nests that hold those of every schedule; a loop that a schedule lacks makes one trip.
DRAM_LOOPS = "kMNmnk"
INNER_LOOPS = "kMNnmnknm"


class Schedule(NamedTuple):
    """Loops above L2, outermost first.

    Attributes:
      keeps: operand whose block stays in the GLB while the others stream: "I", "W" or "O".
      dram: loops between DRAM and GLB. "M" and "N" walk the kept blocks, lower-case
        letters the L2 tiles.
      inner: loops between GLB and L2, inside those of `dram` that walk blocks.
      one_row: whether L2 tiles are single rows, so that the array starts soon and weights
        stay in its registers; else they have as many rows as fit.
    """

    keeps: str
    dram: str
    inner: str
    one_row: bool = False

    @property
    def walk(self) -> Walk:
        """The same as numbers."""
        return Walk(
            keeps=np.int32(OPERANDS.index(self.keeps)),
            whole_k=np.bool_(self.keeps != "O" and self.dram[0] != "k"),
            k_innermost=np.bool_(self.inner[-1] == "k"),
            one_row=np.bool_(self.one_row),
            dram=_present(self.dram, DRAM_LOOPS),
            inner=_present(self.inner, INNER_LOOPS),
        )


class Walk(NamedTuple):
    """A schedule as numbers, so that one program prices all; scalars or arrays [P].

    Attributes:
      keeps: index into OPERANDS.
      whole_k: whether a kept block spans all of k; else one tile of it.
      k_innermost: whether sums are finished before the next tile of outputs.
      one_row: as of Schedule.
      dram, inner: which loops of DRAM_LOOPS and INNER_LOOPS there are, [..., L].
    """

    keeps: Any
    whole_k: Any
    k_innermost: Any
    one_row: Any
    dram: Any
    inner: Any


SCHEDULES = (
    Schedule("I", "Mn", "Mnmk"),
    Schedule("I", "Mn", "Mnkm", one_row=True),
    Schedule("W", "Nm", "Nmnk"),
    Schedule("O", "MNk", "MNknm"),
    Schedule("O", "MNk", "MNknm", one_row=True),
    Schedule("W", "kNm", "kNnm", one_row=True),
)


def _present(loops: str, among: str) -> np.ndarray:
    """Which of a nest's loops a schedule has, in their order."""
    present, left = [], loops
    for loop in among:
        present.append(left.startswith(loop))
        left = left[present[-1] :]
    assert not left, f"{among} does not hold {loops}"
    return np.array(present)


def walk_at(schedule: Array | np.ndarray) -> Walk:
    """The schedules of numbers, scalars or arrays [P]."""
    walks = [schedule.walk for schedule in SCHEDULES]
    return jax.tree.map(lambda *x: jnp.asarray(np.stack(x))[schedule], *walks)
