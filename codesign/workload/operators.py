"""Operators as arrays: GEMMs for the PE arrays, element-wise operators for the vector units."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from codesign.workload.counting import AS_RUN, Counting


class Live(NamedTuple):
    """How much is alive while the operands of an operator wait for it, words; [...].

    An operand that another operator of the network makes, or takes, may wait in the global buffer
    instead of the DRAM. Whether it can depends on the most that is alive at once, the operand
    itself included, from its making to its last use: `cost/handover.py`. Infinite of an operand
    that comes from DRAM, or goes there, in any case: weights, a cache, the network's input.

    Attributes:
      input: of a GEMM's I, or of all operands of an element-wise operator.
      second: of a GEMM's second operand, such as an attention's keys.
      output: of the result.
    """

    input: Any = math.inf
    second: Any = math.inf
    output: Any = math.inf


class Gemm(NamedTuple):
    """`count` times a batch of products [m, k] x [k, n]; integers of one word in and out.

    Attributes:
      name: what the product computes; "scores" and "values" are an attention's two, "similarity"
        compares embeddings. Of all others the second operand is weights.
      m, k, n: rows, summed dimension, columns.
      count: repetitions, such as layers.
      batch: products of one repetition that share nothing, such as attention heads.
      density: share of the weights [k, n] that are kept, equally many in every column.
      live: what is alive while its operands wait.
    """

    name: str
    m: Any
    k: Any
    n: Any
    count: Any = 1
    batch: Any = 1
    density: Any = 1
    live: Live = Live()


class VectorOp(NamedTuple):
    """`count` element-wise operators of `kind`, a row of workload/data/vector_ops.csv.

    Attributes:
      elements: results computed.
      operands: tensors of that size read from DRAM; one of that size is written.
      rows: rows that are summed up, of a softmax.
      live: what is alive while its operands wait.
    """

    name: str
    kind: str
    elements: Any
    count: Any = 1
    operands: int = 1
    rows: Any = 0
    live: Live = Live()


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Workload:
    """Operators of one inference.

    Attributes:
      m, k, n, count: GEMMs, [G] float32, or [..., G] in a batch.
      starts: how often each GEMM is started, a batch of products at once, [G] or [..., G].
      elements, vector_count: element-wise operators, [V] float32 or [..., V].
      vector_cycles: lane cycles per element, [V].
      vector_operands: tensors read, [V].
      vector_rows: rows that are summed up, [V] or [..., V].
      gemm_names, vector_names: one name an operator, or a step of one.
      density: share of each GEMM's weights that are kept, [G] or [..., G]; None: all.
      live, vector_live: what is alive while operands wait, leaves [G] and [V] or [..., G] and
        [..., V]; None: all operands go through DRAM.
    """

    m: jax.Array
    k: jax.Array
    n: jax.Array
    count: jax.Array
    starts: jax.Array
    elements: jax.Array
    vector_count: jax.Array
    vector_cycles: jax.Array
    vector_operands: jax.Array
    vector_rows: jax.Array
    gemm_names: tuple[str, ...] = dataclasses.field(metadata={"static": True})
    vector_names: tuple[str, ...] = dataclasses.field(metadata={"static": True})
    density: jax.Array | None = None
    live: Live | None = None
    vector_live: Live | None = None

    @property
    def through_dram(self) -> Workload:
        """The same with all operands in DRAM between operators."""
        return dataclasses.replace(self, live=None, vector_live=None)

    @property
    def macs(self) -> jax.Array:
        """Multiply-accumulates of all GEMMs, those of weights left out not counted, []."""
        every = self.m * self.k * self.n * self.count
        return jnp.sum(every if self.density is None else every * self.density, axis=-1)


def _columns(operators: Sequence[NamedTuple], *fields: str) -> list[jax.Array]:
    """The fields of all operators as float32 arrays [..., operators] of one shape.

    With those of what is alive, in the order of `Live`, behind them.
    """
    if not operators:
        return [jnp.zeros((0,), jnp.float32) for _ in (*fields, *Live._fields)]
    rows = [
        (*(getattr(op, f) for f in fields), *op.live)  # type: ignore[attr-defined]
        for op in operators
    ]
    values = [[jnp.asarray(x, jnp.float32) for x in row] for row in zip(*rows, strict=True)]
    shape = jnp.broadcast_shapes(*(v.shape for row in values for v in row))
    return [jnp.stack([jnp.broadcast_to(v, shape) for v in row], axis=-1) for row in values]


def gather(
    gemms: Sequence[Gemm], vector_ops: Sequence[VectorOp], costing: Counting = AS_RUN
) -> Workload:
    """Workload of these operators, as a costing counts them.

    Dimensions are scalars, traced or not, or arrays [...] for a batch of workloads.

    Raises:
      ValueError: an element-wise operator of an unknown kind, or sparse weights under a
        costing that has no rule for them.
    """
    steps = [(op, cycles) for op in vector_ops for cycles in costing.step_cycles(op.kind)]
    m, k, n, count, batch, density, *live = _columns(
        [costing.counted(gemm) for gemm in gemms],
        "m",
        "k",
        "n",
        "count",
        "batch",
        "density",
    )
    sparse = not all(isinstance(gemm.density, int) and gemm.density == 1 for gemm in gemms)
    if sparse and not costing.sparse_weights:
        raise ValueError(f"the {costing.name} costing has no sparse weights; use physical")
    elements, vector_count, rows, *vector_live = _columns(
        [op for op, _ in steps], "elements", "count", "rows"
    )
    return Workload(
        m=m,
        k=k,
        n=n,
        count=count * batch,
        starts=count,
        elements=elements,
        vector_count=vector_count,
        vector_cycles=jnp.asarray([cycles for _, cycles in steps], jnp.float32),
        vector_operands=jnp.asarray([op.operands for op, _ in steps], jnp.float32),
        vector_rows=rows,
        gemm_names=tuple(g.name for g in gemms),
        vector_names=tuple(op.name for op, _ in steps),
        density=density if sparse else None,
        live=Live(*live),
        vector_live=Live(*vector_live),
    )


def concatenate(*workloads: Workload) -> Workload:
    """All operators of several workloads, one after the other.

    Raises:
      ValueError: workloads some of which alone have all operands in DRAM.
    """
    names: dict[str, Any] = {
        name: tuple(x for w in workloads for x in getattr(w, name))
        for name in ("gemm_names", "vector_names")
    }
    nothing: dict[str, Any] = {**dict.fromkeys(names, ()), "density": None}
    apart = [dataclasses.replace(w, **nothing) for w in workloads]
    joined: Workload = jax.tree.map(lambda *x: jnp.concatenate(x, axis=-1), *apart)
    if any(w.density is not None for w in workloads):
        names["density"] = jnp.concatenate([weight_density(w) for w in workloads], axis=-1)
    return dataclasses.replace(joined, **names)


def weight_density(workload: Workload) -> jax.Array:
    """Density of every GEMM's weights, ones where none is sparse: [..., G]."""
    return jnp.ones_like(workload.m) if workload.density is None else workload.density
