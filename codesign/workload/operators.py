"""Operators as arrays: GEMMs for the PE arrays, element-wise operators for the vector units."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from codesign.cost import tables


class Gemm(NamedTuple):
    """`count` products [m, k] x [k, n], run one after the other; int8 in and out."""

    name: str
    m: Any
    k: Any
    n: Any
    count: Any = 1


class VectorOp(NamedTuple):
    """`count` element-wise operators of `kind`, a row of cost/data/vector_ops.csv.

    Attributes:
      elements: results computed.
      operands: tensors of that size read from DRAM; one of that size is written.
    """

    name: str
    kind: str
    elements: Any
    count: Any = 1
    operands: int = 1


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Workload:
    """Operators of one inference.

    Attributes:
      m, k, n, count: GEMMs, [G] float32, or [..., G] in a batch.
      elements, vector_count: element-wise operators, [V] float32 or [..., V].
      vector_cycles: lane cycles per element, [V].
      vector_operands: tensors read, [V].
      gemm_names, vector_names: one name an operator.
    """

    m: jax.Array
    k: jax.Array
    n: jax.Array
    count: jax.Array
    elements: jax.Array
    vector_count: jax.Array
    vector_cycles: jax.Array
    vector_operands: jax.Array
    gemm_names: tuple[str, ...] = dataclasses.field(metadata={"static": True})
    vector_names: tuple[str, ...] = dataclasses.field(metadata={"static": True})

    @property
    def macs(self) -> jax.Array:
        """Multiply-accumulates of all GEMMs, []."""
        return jnp.sum(self.m * self.k * self.n * self.count, axis=-1)


def _row(values: Sequence[Any]) -> jax.Array:
    """[len(values)] float32; empty for none."""
    if not values:
        return jnp.zeros((0,), jnp.float32)
    return jnp.stack([jnp.asarray(v, jnp.float32) for v in values])


def gather(gemms: Sequence[Gemm], vector_ops: Sequence[VectorOp]) -> Workload:
    """Workload of these operators; dimensions are scalars, traced or not."""
    cycles = [
        tables.value("vector_ops", "op", op.kind, "cycles_per_element") for op in vector_ops
    ]
    return Workload(
        m=_row([g.m for g in gemms]),
        k=_row([g.k for g in gemms]),
        n=_row([g.n for g in gemms]),
        count=_row([g.count for g in gemms]),
        elements=_row([op.elements for op in vector_ops]),
        vector_count=_row([op.count for op in vector_ops]),
        vector_cycles=_row(cycles),
        vector_operands=_row([op.operands for op in vector_ops]),
        gemm_names=tuple(g.name for g in gemms),
        vector_names=tuple(op.name for op in vector_ops),
    )


def concatenate(*workloads: Workload) -> Workload:
    """All operators of several workloads, one after the other."""
    names = {
        name: tuple(x for w in workloads for x in getattr(w, name))
        for name in ("gemm_names", "vector_names")
    }
    arrays = {
        f.name: jnp.concatenate([getattr(w, f.name) for w in workloads], axis=-1)
        for f in dataclasses.fields(Workload)
        if f.name not in names
    }
    return Workload(**arrays, **names)
