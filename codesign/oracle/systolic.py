"""Cycles of one rigid systolic array: SCALE-Sim's closed forms, a reference for order only.

They give the cycles of SCALE-Sim v3 (Raj et al., ISPASS 2025; its reported total less stalls)
exactly, for each of its dataflows. One array, no hierarchy of buffers, no energy, and loading
the weights and filling the pipeline overlap with nothing: up to twice as slow as this
project's accelerators for few rows of input. So it is a check of order: does a larger array, or
a larger GEMM, rank as it does there?
"""

from __future__ import annotations

import math
from typing import Literal

Dataflow = Literal["ws", "is", "os"]


def systolic_cycles(
    m: int, k: int, n: int, *, rows: int, columns: int, dataflow: Dataflow = "ws"
) -> int:
    """Cycles of [m, k] x [k, n] on `rows` x `columns` PEs.

    Args:
      rows: PEs that a partial sum passes; `pe_y` of the template.
      columns: PEs side by side; `pe_x`.
      dataflow: what stays in the PEs: "ws" weights (the template's), "is" inputs, "os" outputs.
    """
    # What lies along the rows and the columns, and what streams past them.
    down, across, stream = {"ws": (k, n, m), "is": (k, m, n), "os": (m, n, k)}[dataflow]
    folds = math.ceil(down / rows) * math.ceil(across / columns)
    # Operands that stay must be loaded first, a row a cycle.
    load = 0 if dataflow == "os" else rows
    return folds * (load + rows + columns + stream - 2) - 1
