"""Operators and parameters of a transformer block, of any of the families here.

The order of execution and what is fused follow CATransformers' compiler
(arXiv 2505.01386): every operator reads its operands from DRAM and writes its
result there; only the residual add after the attention's output projection is
fused into a GEMM. Dropout does nothing at inference and is left out.
"""

from __future__ import annotations

import dataclasses
import functools
from typing import Any, NamedTuple

from codesign.workload.counting import AS_RUN, Counting
from codesign.workload.operators import Gemm, VectorOp, Workload, gather


class Operators(NamedTuple):
    """Operators as they were counted: Python integers stay exact at any size.

    Attributes:
      gemms: matrix products.
      vector_ops: element-wise operators.
    """

    gemms: tuple[Gemm, ...]
    vector_ops: tuple[VectorOp, ...]

    @property
    def macs(self) -> Any:
        """Multiply-accumulates of all GEMMs, those of weights left out not counted."""
        return sum(g.m * g.k * g.n * g.count * g.batch * g.density for g in self.gemms)

    @property
    def workload(self) -> Workload:
        """The same operators as arrays, for the cost model."""
        return self.under(AS_RUN)

    def under(self, costing: Counting) -> Workload:
        """The same operators as arrays, as a costing counts them."""
        return gather(self.gemms, self.vector_ops, costing)


def join(*parts: Operators) -> Operators:
    """All operators of several parts, one after the other."""
    return Operators(
        tuple(gemm for part in parts for gemm in part.gemms),
        tuple(op for part in parts for op in part.vector_ops),
    )


def prefixed(name: str, operators: Operators) -> Operators:
    """The operators renamed "name.operator"."""
    return Operators(
        tuple(g._replace(name=f"{name}.{g.name}") for g in operators.gemms),
        tuple(op._replace(name=f"{name}.{op.name}") for op in operators.vector_ops),
    )


@dataclasses.dataclass(frozen=True)
class Block:
    """One transformer block: attention and a feed-forward network, each with a norm.

    Attributes:
      width: residual channels D.
      heads: query heads H; queries have H x head_dim channels, whatever D is.
      head_dim: channels of a head.
      ffn: hidden units F.
      kv_heads: heads of keys and of values, a divisor of `heads`; None: as many.
      gated: whether a third matrix gates the hidden units, act(x A) * (x B).
      rope: whether queries and keys are rotated by their position.
      norm: "layernorm" (scale and shift) or "rmsnorm" (scale).
      activation: a kind of workload/data/vector_ops.csv.
      qkv_bias, out_bias, ffn_bias: which projections add a bias.
      density: share of the weights of every matrix that are kept.
    """

    width: Any
    heads: Any
    head_dim: int
    ffn: Any
    kv_heads: int | None = None
    gated: bool = False
    rope: bool = False
    norm: str = "layernorm"
    activation: str = "gelu"
    qkv_bias: bool = True
    out_bias: bool = True
    ffn_bias: bool = True
    density: Any = 1


def block_operators(
    block: Block, *, tokens: Any, keys: Any = None, masked: bool = False, layers: Any = 1
) -> Operators:
    """Operators of `layers` identical blocks.

    An attention's two products run once per head of the keys. The H / kv_heads query
    heads that share keys and values are rows of one product, since they multiply the same
    second operand: its m is H / kv_heads x tokens, and the shared operand is read once.
    Masked products are computed whole, as a dense array does.

    Args:
      block: dimensions of a block.
      tokens: tokens that run through the block.
      keys: tokens attended to: the columns of the scores, read from DRAM like any second
        operand. More than `tokens` where a cache holds earlier ones. None: `tokens`.
      masked: whether a mask is added to the scores.
      layers: how often the block runs.
    """
    b, t = block, tokens
    s = t if keys is None else keys
    kv_heads, group = (b.heads, 1) if b.kv_heads is None else (b.kv_heads, b.heads // b.kv_heads)
    weights = functools.partial(Gemm, count=layers, density=b.density)
    gemms = [
        *_input_projections(b, t, layers),
        Gemm("scores", group * t, b.head_dim, s, layers, batch=kv_heads),
        Gemm("values", group * t, s, b.head_dim, layers, batch=kv_heads),
        weights("out", t, b.heads * b.head_dim, b.width),
        *([weights("ffn_gate", t, b.width, b.ffn)] if b.gated else []),
        weights("ffn_up", t, b.width, b.ffn),
        weights("ffn_down", t, b.ffn, b.width),
    ]
    scores, rotated = b.heads * t * s, t * (b.heads + kv_heads) * b.head_dim
    vector_ops = [
        VectorOp(b.norm, b.norm, t * b.width, 2 * layers),
        *([VectorOp("rope", "rope", rotated, layers)] if b.rope else []),
        *([VectorOp("mask", "mask", scores, layers)] if masked else []),
        VectorOp("softmax", "softmax", scores, layers, rows=b.heads * t),
        VectorOp("dropout", "dropout", scores, layers),
        VectorOp("activation", b.activation, t * b.ffn, layers),
        *([VectorOp("gate", "multiply", t * b.ffn, layers, operands=2)] if b.gated else []),
        VectorOp("residual", "add", t * b.width, layers, operands=2),
    ]
    return Operators(tuple(gemms), tuple(vector_ops))


def _input_projections(b: Block, tokens: Any, layers: Any) -> list[Gemm]:
    """Queries, keys and values: one row where they are alike, else two."""
    q = b.heads * b.head_dim
    if b.kv_heads is None or b.kv_heads == b.heads:
        return [Gemm("qkv", tokens, b.width, q, 3 * layers, density=b.density)]
    kv = b.kv_heads * b.head_dim
    return [
        Gemm("q", tokens, b.width, q, layers, density=b.density),
        Gemm("kv", tokens, b.width, kv, 2 * layers, density=b.density),
    ]


def block_parameters(block: Block) -> int:
    """Weights, biases and norms of one block."""
    b = block
    q = b.heads * b.head_dim
    kv = q if b.kv_heads is None else b.kv_heads * b.head_dim
    matrices = (3 if b.gated else 2) * b.width * b.ffn + 2 * b.width * q + 2 * b.width * kv
    biases = (
        b.qkv_bias * (q + 2 * kv)
        + b.out_bias * b.width
        + b.ffn_bias * ((2 if b.gated else 1) * b.ffn + b.width)
    )
    return matrices + biases + 2 * norm_parameters(b.norm, b.width)


def norm_parameters(norm: str, width: int) -> int:
    """Parameters of one "layernorm" or "rmsnorm" over `width` channels."""
    return width if norm == "rmsnorm" else 2 * width
