"""Operators as arrays: GEMMs for the PE arrays, element-wise operators for the vector units."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp


class Gemm(NamedTuple):
    """`count` times a batch of products [m, k] x [k, n]; integers of one word in and out.

    Attributes:
      name: what the product computes; "scores" and "values" are an attention's two.
      m, k, n: rows, summed dimension, columns.
      count: repetitions, such as layers.
      batch: products of one repetition that share nothing, such as attention heads.
    """

    name: str
    m: Any
    k: Any
    n: Any
    count: Any = 1
    batch: Any = 1


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


def _columns(operators: Sequence[NamedTuple], *fields: str) -> list[jax.Array]:
    """The fields of all operators as float32 arrays [..., operators] of one shape."""
    if not operators:
        return [jnp.zeros((0,), jnp.float32) for _ in fields]
    values = [[jnp.asarray(getattr(op, f), jnp.float32) for op in operators] for f in fields]
    shape = jnp.broadcast_shapes(*(v.shape for row in values for v in row))
    return [jnp.stack([jnp.broadcast_to(v, shape) for v in row], axis=-1) for row in values]


def gather(gemms: Sequence[Gemm], vector_ops: Sequence[VectorOp]) -> Workload:
    """Workload of these operators.

    Dimensions are scalars, traced or not, or arrays [...] for a batch of workloads.
    """
    from codesign.cost import tables  # not above: the cost model imports workloads

    cycles = [
        tables.value("vector_ops", "op", op.kind, "cycles_per_element") for op in vector_ops
    ]
    m, k, n, count, batch = _columns(gemms, "m", "k", "n", "count", "batch")
    elements, vector_count = _columns(vector_ops, "elements", "count")
    return Workload(
        m=m,
        k=k,
        n=n,
        count=count * batch,
        elements=elements,
        vector_count=vector_count,
        vector_cycles=jnp.asarray(cycles, jnp.float32),
        vector_operands=jnp.asarray([op.operands for op in vector_ops], jnp.float32),
        gemm_names=tuple(g.name for g in gemms),
        vector_names=tuple(op.name for op in vector_ops),
    )


def concatenate(*workloads: Workload) -> Workload:
    """All operators of several workloads, one after the other."""
    names: dict[str, Any] = {
        name: tuple(x for w in workloads for x in getattr(w, name))
        for name in ("gemm_names", "vector_names")
    }
    arrays: dict[str, Any] = {
        f.name: jnp.concatenate([getattr(w, f.name) for w in workloads], axis=-1)
        for f in dataclasses.fields(Workload)
        if f.name not in names
    }
    return Workload(**arrays, **names)
