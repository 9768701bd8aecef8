"""Operators of a CLIP: one image and one text through both towers, batch 1.

The order of execution and what is fused follow CATransformers' compiler
(arXiv 2505.01386): every operator reads its operands from DRAM and writes its
result there; only the residual add after the attention's output projection is
fused into a GEMM. Dropout does nothing at inference and is left out.
"""

from __future__ import annotations

import dataclasses
from typing import Any

from codesign.architecture import Architecture, Tower
from codesign.workload.operators import Gemm, VectorOp, Workload, concatenate, gather


def tower_layer_workload(
    tower: Tower,
    *,
    name: str,
    tokens: int,
    head_dim: int,
    activation: str,
    causal: bool,
    layers: Any = 1,
) -> Workload:
    """Operators of `layers` identical transformer blocks.

    Args:
      tower: width, heads and ffn of a block; its own `layers` is not used.
      name: prefix of the operators' names.
      tokens: sequence length.
      head_dim: channels a head.
      activation: "gelu" or "quick_gelu".
      causal: whether a mask is added to the scores.
      layers: how often the block runs.
    """
    d, h, f = tower.width, tower.heads, tower.ffn
    qkv = h * head_dim
    gemms = [
        Gemm("qkv", tokens, d, qkv, 3 * layers),
        Gemm("scores", tokens, head_dim, tokens, layers, batch=h),
        Gemm("values", tokens, tokens, head_dim, layers, batch=h),
        Gemm("out", tokens, qkv, d, layers),
        Gemm("ffn_up", tokens, d, f, layers),
        Gemm("ffn_down", tokens, f, d, layers),
    ]
    scores = h * tokens * tokens
    vector = [
        VectorOp("layernorm", "layernorm", tokens * d, 2 * layers),
        VectorOp("softmax", "softmax", scores, layers),
        VectorOp("activation", activation, tokens * f, layers),
        VectorOp("residual", "add", tokens * d, layers, operands=2),
    ]
    if causal:
        vector.insert(1, VectorOp("mask", "add", scores, layers))
    return _prefixed(name, gather(gemms, vector))


def outside_workload(architecture: Architecture, name: str) -> Workload:
    """Operators of the "vision" or "text" tower outside its transformer blocks.

    The cosine similarity of the two embeddings is counted with the text tower.
    """
    a, tower = architecture, getattr(architecture, name)
    d = tower.width
    if name == "vision":
        tokens = a.vision_tokens
        gemms = [
            Gemm("patches", a.patches, a.channels * a.patch**2, d),
            Gemm("projection", 1, d, a.projection),
        ]
        vector = [
            VectorOp("positions", "add", tokens * d, operands=2),
            VectorOp("ln_pre", "layernorm", tokens * d),
            VectorOp("ln_post", "layernorm", d),
            VectorOp("normalise", "normalise", a.projection),
        ]
    else:
        gemms = [
            Gemm("projection", 1, d, a.projection),
            Gemm("similarity", 1, a.projection, 1),
        ]
        vector = [
            VectorOp("embedding", "embedding", a.context * d),
            VectorOp("positions", "add", a.context * d, operands=2),
            VectorOp("ln_final", "layernorm", a.context * d),
            VectorOp("normalise", "normalise", a.projection),
        ]
    return _prefixed(name, gather(gemms, vector))


def clip_workload(architecture: Architecture) -> Workload:
    """All operators of both towers; differentiable in the elastic dimensions."""
    a = architecture
    parts = []
    for name, tokens in (("vision", a.vision_tokens), ("text", a.context)):
        tower = getattr(a, name)
        parts.append(
            tower_layer_workload(
                tower,
                name=name,
                tokens=tokens,
                head_dim=a.head_dim,
                activation=a.activation,
                causal=name == "text",
                layers=tower.layers,
            )
        )
        parts.append(outside_workload(a, name))
    return concatenate(*parts)


def _prefixed(name: str, workload: Workload) -> Workload:
    return dataclasses.replace(
        workload,
        gemm_names=tuple(f"{name}.{x}" for x in workload.gemm_names),
        vector_names=tuple(f"{name}.{x}" for x in workload.vector_names),
    )
