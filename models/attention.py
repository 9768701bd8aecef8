"""Attention over whole sequences, in the form that suits the platform: the one place to choose.

Axes: B sequences, T positions that ask, S that are asked (T = S), H heads, K channels of a head.

  "einsum"  two products with a softmax in f32 between them, heads before tokens, which halves
            their time on a CPU; the logits [B,H,T,S] stand in memory
  "cudnn"   cuDNN's fused attention through `jax.nn.dot_product_attention`: logits never leave
            the chip's registers, forward or backward, and of causal ones only half are computed
  "xla"     `jax.nn.dot_product_attention` in plain XLA; nobody's choice, what cuDNN is tested
            against where there is no GPU

NVIDIA GPUs from compute capability 8.0 (A100) on run half-precision attention by cuDNN. Its
conditions are those of jax 0.10 and 0.11, jax/_src/cudnn/fused_attention_stablehlo.py,
`check_layout` and `check_is_flash_attention`: float16 or bfloat16, K a multiple of 8 up to 128,
from capability 9.0 (H100) on up to 256, and for a gradient an even number of tokens. (That last
one is meant for a bias, yet asked of all.) CLIP's towers have odd numbers, 197 and 77: they run
with one token more (`suitable_tokens`), which no other token attends to.
"""

from __future__ import annotations

from typing import Any, Literal

import jax
import jax.numpy as jnp

from codesign.models.remat import kept

Implementation = Literal["einsum", "cudnn", "xla"]


def device() -> jax.Device:
    """The device that programs traced now are meant for."""
    wanted: Any = jax.config.jax_default_device  # type: ignore[attr-defined]
    if isinstance(wanted, jax.Device):
        return wanted
    return jax.local_devices(backend=wanted)[0]


def chosen(dtype: Any, channels: int, tokens: int) -> Implementation:
    """What attention of K channels a head over T tokens is computed by on `device()`."""
    return implementation(dtype, channels, tokens, compute_capability(device()))


def suitable_tokens(dtype: Any, channels: int, tokens: int) -> int:
    """How many tokens to compute with where there are `tokens`: those, or one more."""
    even = tokens + tokens % 2
    return even if chosen(dtype, channels, even) == "cudnn" else tokens


def compute_capability(device: jax.Device) -> tuple[int, ...] | None:
    """(9, 0) of an H100; None of anything that is no NVIDIA GPU."""
    if device.platform != "gpu" or "cuda" not in device.client.platform_version:
        return None
    return tuple(int(part) for part in device.compute_capability.split("."))


def implementation(
    dtype: Any, channels: int, tokens: int, capability: tuple[int, ...] | None
) -> Implementation:
    """What attention is computed by.

    Args:
      dtype: of query, key and value.
      channels: K.
      tokens: T.
      capability: of the NVIDIA GPU, or None.
    """
    if capability is None or capability < (8, 0):
        return "einsum"
    half = jnp.dtype(dtype) in (jnp.dtype(jnp.bfloat16), jnp.dtype(jnp.float16))
    most = 256 if capability >= (9, 0) else 128
    fits = half and channels % 8 == 0 and channels <= most and tokens % 2 == 0
    return "cudnn" if fits else "einsum"


def attend(
    query: jax.Array,
    key: jax.Array,
    value: jax.Array,
    *,
    causal: bool,
    length: int | None = None,
    by: Implementation | None = None,
) -> jax.Array:
    """softmax(query key^T / sqrt(K)) value, softmax in f32 or wider.

    Args:
      query, key, value: [B,T,H,K].
      causal: position t attends to s <= t.
      length: positions attend to the first so many alone; None: to all T.
      by: None: what `chosen` says.

    Returns:
      [B,T,H,K] in the arguments' dtype.
    """
    batch, tokens, _, channels = query.shape
    by = by or chosen(query.dtype, channels, tokens)
    if by == "einsum":
        return _by_einsum(query, key, value, causal, length)
    # What comes after `length` is hidden by the causal mask already, from all that come before.
    hides = None if length is None or causal else jnp.full(batch, length, jnp.int32)
    out = jax.nn.dot_product_attention(
        query,
        key,
        value,
        is_causal=causal,
        implementation=by,
        key_value_seq_lengths=hides,
    )
    return out if by == "cudnn" else kept(out)  # cuDNN's is kept by `remat.keep_products`


def _by_einsum(
    query: jax.Array, key: jax.Array, value: jax.Array, causal: bool, length: int | None
) -> jax.Array:
    dtype, wide = query.dtype, jnp.promote_types(query.dtype, jnp.float32)
    tokens, channels = query.shape[1], query.shape[-1]
    query, key, value = (x.transpose(0, 2, 1, 3) for x in (query, key, value))
    query = (query.astype(wide) * channels**-0.5).astype(dtype)  # fewer than logits
    logits = jnp.einsum("BHTK,BHSK->BHTS", query, key, preferred_element_type=wide)
    if causal or length is not None:
        visible = jnp.tri(tokens, dtype=bool) if causal else jnp.ones((tokens, tokens), bool)
        visible &= jnp.arange(tokens) < (tokens if length is None else length)  # [T,S]
        logits = jnp.where(visible, logits, jnp.finfo(wide).min)
    probabilities = jax.nn.softmax(logits, axis=-1).astype(dtype)
    return kept(jnp.einsum("BHTS,BHSK->BHTK", probabilities, value).transpose(0, 2, 1, 3))
