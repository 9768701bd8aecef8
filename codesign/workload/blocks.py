"""Operators and parameters of a transformer block, of any of the families here.

The order of execution and what is fused follow CATransformers' compiler
(arXiv 2505.01386): only the residual add after the attention's output projection
is fused into a GEMM. Dropout does nothing at inference and is left out. What is alive
while an operand waits for its operator is that of the block's half, attention or
feed-forward network, which it waits in.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from typing import Any, NamedTuple

from codesign.workload.counting import AS_RUN, Counting
from codesign.workload.memory import attention_words, ffn_words, largest
from codesign.workload.operators import Gemm, Live, VectorOp, Workload, gather


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


def repeated(operators: Operators, times: Any) -> Operators:
    """The operators run so many times an inference."""
    if isinstance(times, (int, float)) and times == 1:  # counts stay whole
        return operators
    return Operators(
        tuple(g._replace(count=g.count * times) for g in operators.gemms),
        tuple(op._replace(count=op.count * times) for op in operators.vector_ops),
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
    block: Block,
    *,
    tokens: Any,
    keys: Any = None,
    masked: bool = False,
    layers: Any = 1,
    cached: bool = False,
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
      cached: whether keys and values go to a cache in DRAM and come from there.
    """
    b, t = block, tokens
    s = t if keys is None else keys
    kv_heads, group = (b.heads, 1) if b.kv_heads is None else (b.kv_heads, b.heads // b.kv_heads)
    weights = functools.partial(Gemm, count=layers, density=b.density)
    early = attention_words(b, tokens=t, keys=keys, cached=cached)
    late = ffn_words(b, tokens=t)
    pairs = math.inf if cached else early  # keys and values
    # The residual stream, and what is normed of it, passes from one half to the other.
    between = largest(early, late)
    gemms = [
        *_input_projections(b, t, layers, early, pairs),
        Gemm("scores", group * t, b.head_dim, s, layers, kv_heads, live=Live(early, pairs, early)),
        Gemm("values", group * t, s, b.head_dim, layers, kv_heads, live=Live(early, pairs, early)),
        weights("out", t, b.heads * b.head_dim, b.width, live=Live(early, output=early)),
        *(
            [weights("ffn_gate", t, b.width, b.ffn, live=Live(late, output=late))]
            if b.gated
            else []
        ),
        weights("ffn_up", t, b.width, b.ffn, live=Live(late, output=late)),
        weights("ffn_down", t, b.ffn, b.width, live=Live(late, output=late)),
    ]
    scores, rotated = b.heads * t * s, t * (b.heads + kv_heads) * b.head_dim
    attending, feeding = (
        functools.partial(VectorOp, count=layers, live=Live(live, output=live))
        for live in (early, late)
    )
    norms = VectorOp(b.norm, b.norm, t * b.width, 2 * layers, live=Live(between, output=between))
    vector_ops = [
        norms,
        *([attending("rope", "rope", rotated)] if b.rope else []),
        *([attending("mask", "mask", scores)] if masked else []),
        attending("softmax", "softmax", scores, rows=b.heads * t),
        attending("dropout", "dropout", scores),
        feeding("activation", b.activation, t * b.ffn),
        *([feeding("gate", "multiply", t * b.ffn, operands=2)] if b.gated else []),
        feeding("residual", "add", t * b.width, operands=2),
    ]
    return Operators(tuple(gemms), tuple(vector_ops))


def _input_projections(
    b: Block, tokens: Any, layers: Any, live: Any, live_pairs: Any
) -> list[Gemm]:
    """Queries, keys and values: one row where they are alike, else two."""
    q = b.heads * b.head_dim
    projection = functools.partial(Gemm, density=b.density)
    if b.kv_heads is None or b.kv_heads == b.heads:
        alike = Live(live, output=live_pairs)
        return [projection("qkv", tokens, b.width, q, 3 * layers, live=alike)]
    kv = b.kv_heads * b.head_dim
    return [
        projection("q", tokens, b.width, q, layers, live=Live(live, output=live)),
        projection("kv", tokens, b.width, kv, 2 * layers, live=Live(live, output=live_pairs)),
    ]


def block_matrices(block: Block) -> Any:
    """Weights of the kernels of one block."""
    b = block
    q = b.heads * b.head_dim
    kv = q if b.kv_heads is None else b.kv_heads * b.head_dim
    return (3 if b.gated else 2) * b.width * b.ffn + 2 * b.width * q + 2 * b.width * kv


def block_parameters(block: Block) -> Any:
    """Weights, biases and norms of one block."""
    b = block
    q = b.heads * b.head_dim
    kv = q if b.kv_heads is None else b.kv_heads * b.head_dim
    biases = (
        b.qkv_bias * (q + 2 * kv)
        + b.out_bias * b.width
        + b.ffn_bias * ((2 if b.gated else 1) * b.ffn + b.width)
    )
    return block_matrices(b) + biases + 2 * norm_parameters(b.norm, b.width)


def norm_parameters(norm: str, width: int) -> int:
    """Parameters of one "layernorm" or "rmsnorm" over `width` channels."""
    return width if norm == "rmsnorm" else 2 * width
