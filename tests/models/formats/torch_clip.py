"""CLIP in PyTorch, from a state dict in OpenCLIP's names: the reference the formats are held to.

Written from OpenCLIP's description with torch's own functions (multi_head_attention_forward
where the qkv width is the model's, as in nn.MultiheadAttention), sharing nothing with ours.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F

State = dict[str, torch.Tensor]


def _attention(x: torch.Tensor, w: State, prefix: str, head_dim: int, causal: bool) -> torch.Tensor:
    """[B,T,D] -> [B,T,D]."""
    batch, tokens, width = x.shape
    fused, bias = w[f"{prefix}in_proj_weight"], w[f"{prefix}in_proj_bias"]
    out, out_bias = w[f"{prefix}out_proj.weight"], w[f"{prefix}out_proj.bias"]
    inner = len(fused) // 3
    if inner == width:
        mask = torch.full((tokens, tokens), -torch.inf, dtype=x.dtype).triu(1) if causal else None
        sequence = x.transpose(0, 1)
        result, _ = F.multi_head_attention_forward(
            sequence,
            sequence,
            sequence,
            width,
            width // head_dim,
            fused,
            bias,
            None,
            None,
            False,
            0.0,
            out,
            out_bias,
            training=False,
            need_weights=False,
            attn_mask=mask,
        )
        return result.transpose(0, 1)
    q, k, v = F.linear(x, fused, bias).chunk(3, dim=-1)
    q, k, v = (t.reshape(batch, tokens, -1, head_dim).transpose(1, 2) for t in (q, k, v))
    heads = F.scaled_dot_product_attention(q, k, v, is_causal=causal, scale=head_dim**-0.5)
    return F.linear(heads.transpose(1, 2).reshape(batch, tokens, inner), out, out_bias)


def _norm(x: torch.Tensor, w: State, name: str) -> torch.Tensor:
    return F.layer_norm(x, x.shape[-1:], w[f"{name}.weight"], w[f"{name}.bias"], 1e-5)


def _blocks(
    x: torch.Tensor, w: State, prefix: str, head_dim: int, quick: bool, causal: bool
) -> torch.Tensor:
    layer = 0
    while f"{prefix}{layer}.ln_2.weight" in w:
        p = f"{prefix}{layer}."
        if f"{p}ln_1.weight" in w:
            x = x + _attention(_norm(x, w, f"{p}ln_1"), w, f"{p}attn.", head_dim, causal)
        hidden = F.linear(_norm(x, w, f"{p}ln_2"), w[f"{p}mlp.c_fc.weight"], w[f"{p}mlp.c_fc.bias"])
        hidden = hidden * torch.sigmoid(1.702 * hidden) if quick else F.gelu(hidden)
        x = x + F.linear(hidden, w[f"{p}mlp.c_proj.weight"], w[f"{p}mlp.c_proj.bias"])
        layer += 1
    return x


def image_features(w: State, pixels: torch.Tensor, head_dim: int, quick: bool) -> torch.Tensor:
    """Pixels [B,3,S,S] -> projected [B,E]."""
    kernel = w["visual.conv1.weight"]
    x = F.conv2d(pixels, kernel, stride=kernel.shape[-1]).flatten(2).transpose(1, 2)
    x = torch.cat([w["visual.class_embedding"].expand(len(x), 1, -1), x], dim=1)
    x = _norm(x + w["visual.positional_embedding"], w, "visual.ln_pre")
    x = _blocks(x, w, "visual.transformer.resblocks.", head_dim, quick, causal=False)
    return _norm(x[:, 0], w, "visual.ln_post") @ w["visual.proj"]


def text_features(w: State, ids: torch.Tensor, head_dim: int, quick: bool) -> torch.Tensor:
    """Ids [B,T] -> projected [B,E]."""
    x = F.embedding(ids, w["token_embedding.weight"]) + w["positional_embedding"][: ids.shape[1]]
    x = _blocks(x, w, "transformer.resblocks.", head_dim, quick, causal=True)
    x = _norm(x, w, "ln_final")
    return x[torch.arange(len(x)), ids.argmax(-1)] @ w["text_projection"]


def outputs(image: torch.Tensor, text: torch.Tensor, logit_scale: torch.Tensor) -> dict[str, Any]:
    """Features -> what is compared, and the symmetric cross-entropy of the batch's pairs."""
    u, v = F.normalize(image, dim=-1), F.normalize(text, dim=-1)
    logits = logit_scale.exp() * u @ v.T
    pairs = torch.arange(len(logits))
    loss = (F.cross_entropy(logits, pairs) + F.cross_entropy(logits.T, pairs)) / 2
    return {
        "image_features": image,
        "text_features": text,
        "image_embedding": u,
        "text_embedding": v,
        "logits": logits,
        "loss": loss,
    }
