"""A model's operators as tables and as JSON."""

from __future__ import annotations

import math
from typing import Any

from rich import box
from rich.table import Table

from codesign.report.text import percent
from codesign.runs import jsonable
from codesign.workload.load import Model
from codesign.workload.operators import Gemm, VectorOp


def model_to_json(model: Model) -> dict[str, Any]:
    """The model as plain JSON values, every operator included."""
    plain: dict[str, Any] = jsonable(
        {
            "name": model.name,
            "task": model.task,
            "source": model.source,
            "parameters": model.parameters,
            "macs": model.macs,
            "dram_words": model.memory._asdict(),
            "architecture": model.architecture,
            "gemms": [_plain(g) | {"macs": _macs(g)} for g in model.operators.gemms],
            "vector_ops": [_plain(op) for op in _vector_ops(model)],
        }
    )
    return plain


def model_line(model: Model) -> str:
    """The model in a line."""
    memory = model.memory
    held = f"DRAM: {memory.words:,} words"
    parts = f", {memory.cache:,} of them cache" if memory.cache else ""
    return (
        f"{model.name}: {model.task}; {model.parameters:,} parameters, {model.macs:,} MACs; "
        f"{held}{parts}"
    )


def gemms_table(model: Model) -> Table:
    """Matrix products [m, k] x [k, n], as a rich table with totals."""
    numbers = ("m", "k", "n", "batch", "count", "MACs", "share")
    table = _table("matrix product", numbers)
    for g in model.operators.gemms:
        macs = _macs(g)
        cells = (*(f"{x:,}" for x in (g.m, g.k, g.n, g.batch, g.count, macs)),)
        table.add_row(g.name, *cells, percent(macs / model.macs))
    return table


def vector_ops_table(model: Model) -> Table:
    """Element-wise operators, as a rich table."""
    table = _table("element-wise operator", ("operands", "elements", "count", "results"), "kind")
    for op in _vector_ops(model):
        numbers = (op.operands, op.elements, op.count, op.elements * op.count)
        table.add_row(op.name, op.kind, *(f"{x:,}" for x in numbers))
    return table


def _vector_ops(model: Model) -> list[VectorOp]:
    """The element-wise operators, less those that do nothing at inference."""
    counted = set(model.workload.vector_names)
    return [op for op in model.operators.vector_ops if op.name in counted]


def _plain(operator: Gemm | VectorOp) -> dict[str, Any]:
    """An operator's fields; what is alive by operand, null where it comes from DRAM anyway."""
    live = {
        name: words if math.isfinite(words) else None
        for name, words in operator.live._asdict().items()
    }
    return operator._asdict() | {"live": live}


def _macs(gemm: Gemm) -> int:
    return int(gemm.m * gemm.k * gemm.n * gemm.count * gemm.batch)


def _table(first: str, numbers: tuple[str, ...], *words: str) -> Table:
    table = Table(box=box.HORIZONTALS, padding=(0, 2, 0, 0))
    for title in (first, *words):
        table.add_column(title)
    for title in numbers:
        table.add_column(title, justify="right")
    return table
