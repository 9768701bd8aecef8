"""The pre-LN transformer both CLIP towers share, with its layers stacked and gated.

Axis letters, used in every einsum string and in the `axes` metadata of every parameter:

  B  batch              L  layers (stacked)     V  vocabulary
  T  tokens (queries)   D  residual channels    E  joint embedding
  S  tokens (keys)      H  heads                C  colours
  F  FFN units          K  channels of a head   P, Q  rows and columns of a patch
  N  B x T, in a row    J  H x K, in a row      Y, X  rows and columns of the patch grid
  I, O  inputs and outputs of a linear map

The qkv width J is independent of D. L, D, H and F are the elastic axes: slicing,
reordering and scoring read them off `Param.axes` (see `slicing.py`, `importance.py`), so
a parameter that states its axes is elastic with no further code.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

import jax
import jax.numpy as jnp
from flax import nnx

from codesign.architecture import ACTIVATIONS, Tower
from codesign.models.attention import attend, suitable_tokens
from codesign.models.dialect import LAYER_NORM_EPSILON, Present
from codesign.models.gates import TowerGates
from codesign.models.layout import by_batch, whole
from codesign.models.remat import keep_products, kept

LAYER_NORM_WEIGHTS = ("ln_1_scale", "ln_1_bias", "ln_2_scale", "ln_2_bias")

ELASTIC_AXES = {"L": "layers", "D": "width", "H": "heads", "F": "ffn"}


class LayerRank(nnx.Variable):
    """int32 [L]: importance rank of each layer of a tower, 0 the most important.

    The layer of the highest rank is removed first. It is its own Variable type, so that it
    travels with the model's state and into checkpoints, yet is filtered apart from `Param`.
    """


def shape_of(axes: str, sizes: Mapping[str, int]) -> tuple[int, ...]:
    """Shape of an array whose axes are the letters of `axes`."""
    return tuple(sizes[letter] for letter in axes)


def normal(axes: str, sizes: Mapping[str, int], std: float, rngs: nnx.Rngs) -> nnx.Param:
    """f32 parameter drawn from N(0, std^2), its axes written on it."""
    values = std * jax.random.normal(rngs.params(), shape_of(axes, sizes), jnp.float32)
    return nnx.Param(values, axes=axes)


def constant(axes: str, sizes: Mapping[str, int], value: float) -> nnx.Param:
    """f32 parameter filled with `value`, its axes written on it."""
    return nnx.Param(jnp.full(shape_of(axes, sizes), value, jnp.float32), axes=axes)


def contract(spec: str, x: jax.Array, weight: jax.Array) -> jax.Array:
    """einsum in the compute dtype, which is that of the activations `x`."""
    return jnp.einsum(spec, x, weight.astype(x.dtype))


def at_least_f32(dtype: Any) -> Any:
    """The dtype of statistics, softmax and features: f32, or f64 for activations in f64."""
    return jnp.promote_types(dtype, jnp.float32)


def folded(weights: Mapping[str, jax.Array], gates: TowerGates) -> dict[str, jax.Array]:
    """Stacked block weights with the gates multiplied in.

    A gate scales what its unit hands on, and every unit hands on through a linear map: a
    head through the output projection, a hidden unit through fc2, a layer through both and
    their biases, a channel through the affine part of its LayerNorms. Scaling the maps is
    the same function as scaling the activations, at the cost of the weights' size instead
    of the batch's. (The statistics of LayerNorm still need the channel gates.)
    """
    layers = gates.layers[:, None]
    scaled = {name: weights[name] * gates.channels for name in LAYER_NORM_WEIGHTS}
    scaled["out"] = weights["out"] * (layers * gates.heads)[:, :, None, None]
    scaled["fc2"] = weights["fc2"] * (layers * gates.ffn)[:, :, None]
    scaled |= {name: weights[name] * layers for name in ("out_bias", "fc2_bias")}
    return {**weights, **scaled}


def layer_norm(
    x: jax.Array,
    scale: jax.Array,
    bias: jax.Array,
    gates: jax.Array | None = None,
    epsilon: float = LAYER_NORM_EPSILON,
) -> jax.Array:
    """LayerNorm, its mean and variance over the open channels only; f32, result in x's dtype.

    With gates g: mean = sum(g x) / sum(g), variance = sum(g (x - mean)^2) / sum(g). With 0/1
    gates, and with g multiplied into scale and bias, that is the LayerNorm of the sliced
    network. A closed channel of the residual stream is read by nobody else, so its value is
    harmless.

    Args:
      x: [..., D].  scale, bias: [D].  gates: [D] in [0, 1], not all zero, or None.
    """
    wide = x.astype(at_least_f32(x.dtype))
    if gates is None:
        mean = jnp.mean(wide, axis=-1, keepdims=True)
        variance = jnp.mean(jnp.square(wide - mean), axis=-1, keepdims=True)
    else:
        share = gates / jnp.sum(gates)
        mean = jnp.sum(share * wide, axis=-1, keepdims=True)
        variance = jnp.sum(share * jnp.square(wide - mean), axis=-1, keepdims=True)
    normalised = (wide - mean) * jax.lax.rsqrt(variance + epsilon)
    return (normalised * scale + bias).astype(x.dtype)


class LayerNorm(nnx.Module):
    """Scale and bias [D] of a `layer_norm` outside the blocks."""

    def __init__(self, width: int, epsilon: float = LAYER_NORM_EPSILON) -> None:
        self.epsilon = epsilon
        self.scale = constant("D", {"D": width}, 1.0)
        self.bias = constant("D", {"D": width}, 0.0)

    def __call__(self, x: jax.Array, gates: jax.Array | None = None) -> jax.Array:
        """[..., D] -> [..., D]; gates [D] weigh the statistics and scale the result."""
        scale, bias = self.scale[...], self.bias[...]
        if gates is not None:
            scale, bias = scale * gates, bias * gates
        return layer_norm(x, scale, bias, gates, self.epsilon)


class Affine(Protocol):
    """The linear maps of one block, by name."""

    def __call__(self, name: str, x: jax.Array, activation: str | None = None) -> jax.Array:
        """Rows [N,I] -> [N,O], the bias and one of `ACTIVATIONS` included."""


def dense_affine(weights: Mapping[str, jax.Array]) -> Affine:
    """The maps of one layer's weights, without the axis L."""

    def affine(name: str, x: jax.Array, activation: str | None = None) -> jax.Array:
        weight, bias = weights[name], weights[f"{name}_bias"]
        y = contract("NI,IO->NO", x, weight.reshape(x.shape[-1], -1))
        y = y + bias.reshape(-1).astype(x.dtype)
        return y if activation is None else ACTIVATIONS[activation](kept(y))

    return affine


def attention(
    x: jax.Array, affine: Affine, heads: int, tokens: int, causal: bool, length: int | None = None
) -> jax.Array:
    """Multi-head attention [N,D] -> [N,D]; see `attend`.

    Args:
      x: [N,D], normalised, one sequence after another.
      affine: the maps query, key, value and out.
      heads: H.
      tokens: T, the length of a sequence.
      causal: position t attends to s <= t.
      length: only the first so many tokens are attended to; None: all.
    """

    def projected(name: str) -> jax.Array:
        joint = kept(affine(name, x))
        return joint.reshape(-1, tokens, heads, joint.shape[-1] // heads)

    query, key, value = projected("query"), projected("key"), projected("value")
    mixed = attend(query, key, value, causal=causal, length=length)
    return affine("out", mixed.reshape(-1, heads * mixed.shape[-1]))


def mlp(x: jax.Array, affine: Affine, activation: str) -> jax.Array:
    """Two linear maps [N,D] -> [N,F] -> [N,D]; the activation is one of `ACTIVATIONS`."""
    return affine("fc2", affine("fc1", x, activation))


def block(
    x: jax.Array,
    norms: Mapping[str, jax.Array],
    affine: Affine,
    *,
    heads: int,
    tokens: int,
    causal: bool,
    activation: str,
    epsilon: float,
    channels: jax.Array | None = None,
    length: int | None = None,
) -> jax.Array:
    """One pre-LN block, x += attention(ln_1 x), x += mlp(ln_2 x).

    Args:
      x: [N,D], one sequence after another.
      norms: `LAYER_NORM_WEIGHTS` of the layer, [D] each; other names are not read.
      affine: the linear maps of the layer.
      heads: H.
      tokens: T.
      causal: see `attention`.
      activation: see `mlp`.
      epsilon: see `layer_norm`.
      channels: gates [D] of `layer_norm`, or None.
      length: see `attention`.
    """
    normed = layer_norm(x, norms["ln_1_scale"], norms["ln_1_bias"], channels, epsilon)
    x = kept(x + attention(normed, affine, heads, tokens, causal, length))
    normed = layer_norm(x, norms["ln_2_scale"], norms["ln_2_bias"], channels, epsilon)
    return x + mlp(normed, affine, activation)


class Transformer(nnx.Module):
    """L pre-LN blocks, run as one `lax.scan`.

    Initialised as OpenAI's CLIP text tower (openai/CLIP `initialize_parameters`): q, k, v
    with std D^-1/2, both output projections with D^-1/2 (2L)^-1/2, fc1 with (2D)^-1/2, biases 0.

    Args:
      tower: discrete dimensions.
      head_dim: channels K of a head.
      activation: one of `ACTIVATIONS`.
      remat: recompute each block in the backward pass instead of storing its activations.
      epsilon: added to the variance by every LayerNorm.
      ragged: keep a record of the heads and FFN units each layer has (see `dialect.py`).
    """

    present_heads: Present  # only where layers differ, see `dialect.py`
    present_ffn: Present

    def __init__(
        self,
        tower: Tower,
        head_dim: int,
        activation: str,
        *,
        remat: bool,
        rngs: nnx.Rngs,
        epsilon: float = LAYER_NORM_EPSILON,
        ragged: bool = False,
    ) -> None:
        sizes = {
            "L": tower.layers,
            "D": tower.width,
            "H": tower.heads,
            "K": head_dim,
            "F": tower.ffn,
        }
        inward_std = tower.width**-0.5
        outward_std = inward_std * (2 * tower.layers) ** -0.5
        self.activation = activation
        self.remat = remat
        self.epsilon = epsilon
        self.ragged = ragged
        if ragged:
            for name, axes in (("present_heads", "LH"), ("present_ffn", "LF")):
                setattr(self, name, Present(jnp.ones(shape_of(axes, sizes), bool), axes=axes))
        self.layer_rank = LayerRank(jnp.arange(tower.layers, dtype=jnp.int32), axes="L")
        self.ln_1_scale = constant("LD", sizes, 1.0)
        self.ln_1_bias = constant("LD", sizes, 0.0)
        self.query = normal("LDHK", sizes, inward_std, rngs)
        self.query_bias = constant("LHK", sizes, 0.0)
        self.key = normal("LDHK", sizes, inward_std, rngs)
        self.key_bias = constant("LHK", sizes, 0.0)
        self.value = normal("LDHK", sizes, inward_std, rngs)
        self.value_bias = constant("LHK", sizes, 0.0)
        self.out = normal("LHKD", sizes, outward_std, rngs)
        self.out_bias = constant("LD", sizes, 0.0)
        self.ln_2_scale = constant("LD", sizes, 1.0)
        self.ln_2_bias = constant("LD", sizes, 0.0)
        self.fc1 = normal("LDF", sizes, (2 * tower.width) ** -0.5, rngs)
        self.fc1_bias = constant("LF", sizes, 0.0)
        self.fc2 = normal("LFD", sizes, outward_std, rngs)
        self.fc2_bias = constant("LD", sizes, 0.0)

    def __call__(
        self, x: jax.Array, gates: TowerGates | None = None, *, causal: bool = False
    ) -> jax.Array:
        """Residual stream [B,T,D] -> [B,T,D].

        Raises:
          ValueError: gates of another shape than the tower's.
        """
        weights = nnx.to_pure_dict(nnx.state(self, nnx.Param))  # name -> [L,...]
        if self.ragged:
            # The one weight of a missing attention that would leave zero in training.
            attends = jnp.any(self.present_heads[...], axis=1, keepdims=True)
            weights["out_bias"] = weights["out_bias"] * attends
        channels = None
        if gates is not None:
            self._check_gates(gates)
            weights, channels = folded(weights, gates), gates.channels
        batch, length, width = x.shape
        heads, head_dim = self.query_bias.shape[1:]
        tokens = suitable_tokens(x.dtype, head_dim, length)
        if tokens > length:
            x = jnp.pad(x, ((0, 0), (0, tokens - length), (0, 0)))
        # One cast of all layers' matrices: within the scan each would be cast twice, the second
        # time for the gradient. LayerNorm computes in f32.
        weights = {
            name: w if name in LAYER_NORM_WEIGHTS else w.astype(x.dtype)
            for name, w in weights.items()
        }

        def layer(x: jax.Array, w: dict[str, jax.Array]) -> tuple[jax.Array, None]:
            x, w = by_batch(x), whole(w)
            x = block(
                x,
                w,
                dense_affine(w),
                heads=heads,
                tokens=tokens,
                causal=causal,
                activation=self.activation,
                epsilon=self.epsilon,
                channels=channels,
                length=length if tokens > length else None,
            )
            return x, None

        # The scan already keeps XLA from merging the recomputation with the forward pass.
        policy = None if self.remat else keep_products
        step = jax.checkpoint(layer, prevent_cse=False, policy=policy)
        # All tokens in a row: the gradients of weights then need no copies in another order.
        x, _ = jax.lax.scan(step, x.reshape(batch * tokens, width), weights)
        return x.reshape(batch, tokens, width)[:, :length]

    def _check_gates(self, gates: TowerGates) -> None:
        layers, width, ffn = self.fc1.shape
        heads = self.query_bias.shape[1]
        expected = TowerGates((layers,), (layers, heads), (layers, ffn), (width,))
        for name, shape in vars(expected).items():
            came = jnp.shape(getattr(gates, name))
            if came != shape:
                raise ValueError(
                    f"gates.{name} has shape {came}, the tower needs {shape}; make gates with "
                    "choices that end at the supernet's own dimensions"
                )
