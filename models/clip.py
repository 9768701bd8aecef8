"""CLIP (Radford et al., ICML 2021) in Flax NNX, elastic in both towers.

The axis letters are those of `transformer.py`. Images are NHWC and already normalised;
ids are int [B,T] with T up to the context. Parameters are f32; `dtype` is that of the
activations and matrix products, while LayerNorm statistics, softmax, the projected
features and all that follows them are f32. With the dtype float64 (under
`jax.enable_x64`) all of it is f64.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx

from codesign.architecture import Architecture, check_discrete
from codesign.models.contrastive import normalise
from codesign.models.dialect import Dialect, TowerDialect
from codesign.models.gates import Gates, TowerGates
from codesign.models.slicing import check_fits, sliced
from codesign.models.transformer import (
    LayerNorm,
    Transformer,
    at_least_f32,
    constant,
    normal,
)

INITIAL_LOGIT_SCALE = math.log(1 / 0.07)
MAX_LOGIT_SCALE = math.log(100.0)

Intermediates = dict[str, jax.Array]


class ClipOutput(NamedTuple):
    """What a contrastive loss needs; logits = logit_scale * image_embedding @ text_embedding.T.

    Attributes:
      image_embedding: f32 [B,E], L2-normalised.
      text_embedding: f32 [B,E], L2-normalised.
      logit_scale: f32 [], the exponential of the stored parameter.
    """

    image_embedding: jax.Array
    text_embedding: jax.Array
    logit_scale: jax.Array


def read_out(
    tokens: jax.Array,
    position: jax.Array,
    norm: LayerNorm,
    projection: nnx.Param,
    channel_gates: jax.Array | None,
) -> tuple[jax.Array, Intermediates]:
    """Residual stream [B,T,D] -> embedding [B,E] of the token at `position` int [B].

    LayerNorm acts on each token alone, so normalising the pooled one is enough.
    """
    pooled = jnp.take_along_axis(tokens, position[:, None, None], axis=1)[:, 0]
    pre_projection = norm(pooled, channel_gates)
    features = jnp.einsum(
        "BD,DE->BE",
        pre_projection,
        projection[...].astype(pre_projection.dtype),
        preferred_element_type=at_least_f32(pre_projection.dtype),
    )
    out = {
        "tokens": tokens,
        "pooled": pooled,
        "pre_projection": pre_projection,
        "features": features,
    }
    return normalise(features), out


def blocks(
    architecture: Architecture, tower: str, dialect: TowerDialect, remat: bool, rngs: nnx.Rngs
) -> Transformer:
    """The blocks of one tower, the dialect's word before the architecture's."""
    return Transformer(
        getattr(architecture, tower),
        dialect.head_dim or architecture.head_dim,
        dialect.activation or architecture.activation,
        remat=remat,
        rngs=rngs,
        epsilon=dialect.epsilon,
        ragged=dialect.ragged,
    )


class VisionTower(nnx.Module):
    """ViT with a class token and a LayerNorm before the blocks."""

    def __init__(
        self,
        architecture: Architecture,
        *,
        dtype: Any,
        remat: bool,
        rngs: nnx.Rngs,
        dialect: TowerDialect,
    ) -> None:
        a, tower = architecture, architecture.vision
        sizes = {
            "P": a.patch,
            "Q": a.patch,
            "C": a.channels,
            "D": tower.width,
            "T": a.vision_tokens,
            "E": a.projection,
        }
        std = tower.width**-0.5
        # torch's default for a convolution, uniform within fan_in^-1/2, has this std.
        patch_std = (3 * a.patch**2 * a.channels) ** -0.5
        self.dtype = dtype
        self.patch_kernel = normal("PQCD", sizes, patch_std, rngs)
        self.class_token = normal("D", sizes, std, rngs)
        self.positions = normal("TD", sizes, std, rngs)
        self.ln_pre = LayerNorm(tower.width, dialect.epsilon)
        self.blocks = blocks(a, "vision", dialect, remat, rngs)
        self.ln_post = LayerNorm(tower.width, dialect.epsilon)
        self.projection = normal("DE", sizes, std, rngs)

    def embed(self, images: jax.Array) -> jax.Array:
        """Images [B,S,S,C] -> tokens [B,T,D]: the class token, then the patches row by row."""
        kernel = self.patch_kernel[...].astype(self.dtype)
        patch, _, _, width = kernel.shape
        batch, side, _, colours = images.shape
        grid = side // patch
        pixels = images.astype(self.dtype).reshape(batch, grid, patch, grid, patch, colours)
        patches = jnp.einsum("BYPXQC,PQCD->BYXD", pixels, kernel).reshape(batch, -1, width)
        first = jnp.broadcast_to(self.class_token[...].astype(self.dtype), (batch, 1, width))
        return jnp.concatenate([first, patches], axis=1) + self.positions[...].astype(self.dtype)

    def __call__(
        self, images: jax.Array, gates: TowerGates | None = None
    ) -> tuple[jax.Array, Intermediates]:
        """Images [B,S,S,C] -> (embedding [B,E], intermediates)."""
        channels = None if gates is None else gates.channels
        embedded = self.ln_pre(self.embed(images), channels)
        tokens = self.blocks(embedded, gates)
        class_position = jnp.zeros(tokens.shape[0], jnp.int32)
        embedding, out = read_out(tokens, class_position, self.ln_post, self.projection, channels)
        return embedding, {"embedded": embedded, **out}


class TextTower(nnx.Module):
    """Causal transformer, pooled at the end-of-text token; see `Dialect.end_of_text`."""

    def __init__(
        self,
        architecture: Architecture,
        *,
        dtype: Any,
        remat: bool,
        rngs: nnx.Rngs,
        dialect: TowerDialect,
        end_of_text: int | None,
    ) -> None:
        a, tower = architecture, architecture.text
        sizes = {"V": a.vocab, "T": a.context, "D": tower.width, "E": a.projection}
        self.dtype = dtype
        self.end_of_text = end_of_text
        self.token_table = normal("VD", sizes, 0.02, rngs)
        self.positions = normal("TD", sizes, 0.01, rngs)
        self.blocks = blocks(a, "text", dialect, remat, rngs)
        self.ln_final = LayerNorm(tower.width, dialect.epsilon)
        self.projection = normal("DE", sizes, tower.width**-0.5, rngs)

    def embed(self, ids: jax.Array) -> jax.Array:
        """Ids [B,T] -> tokens [B,T,D]; an id outside the table gives NaN, never a wrong row."""
        tokens = self.token_table[...].at[ids].get(mode="fill", fill_value=jnp.nan)
        return (tokens + self.positions[...][: ids.shape[1]]).astype(self.dtype)

    def __call__(
        self, ids: jax.Array, gates: TowerGates | None = None
    ) -> tuple[jax.Array, Intermediates]:
        """Ids [B,T] -> (embedding [B,E], intermediates)."""
        channels = None if gates is None else gates.channels
        embedded = self.embed(ids)
        tokens = self.blocks(embedded, gates, causal=True)
        ends = ids if self.end_of_text is None else ids == self.end_of_text
        position = jnp.argmax(ends, axis=-1)
        embedding, out = read_out(tokens, position, self.ln_final, self.projection, channels)
        return embedding, {"embedded": embedded, **out}


class CLIP(nnx.Module):
    """An image and a text tower with a joint embedding.

    Every encoder returns its embedding and a dict of named intermediates: "embedded" and
    "tokens" [B,T,D], the residual stream before and after the blocks; "pooled" [B,D], the
    class or end-of-text token of it; "pre_projection" [B,D], that after the last LayerNorm;
    "features" f32 [B,E], the projection before it is normalised. Under gates the closed
    channels of "embedded", "tokens" and "pooled" hold values that nothing reads; those of
    "pre_projection" are zero.

    Args:
      architecture: discrete dimensions.
      rngs: source of the "params" keys.
      dtype: compute dtype, float32 or bfloat16, with parameters in float32; under
        `jax.enable_x64` also float64, for parameters that are then put in as float64.
      remat: recompute each block in the backward pass, for memory.
      dialect: how it computes beyond the dimensions; see `dialect.py`.

    Raises:
      ValueError: an architecture that is not discrete or cannot be built.
    """

    def __init__(
        self,
        architecture: Architecture,
        *,
        rngs: nnx.Rngs,
        dtype: Any = jnp.float32,
        remat: bool = False,
        dialect: Dialect = Dialect(),  # noqa: B008, frozen
    ) -> None:
        check_discrete(architecture)
        self.architecture = nnx.static(architecture)
        self.dtype = jnp.dtype(dtype)
        self.remat = remat
        self.dialect = dialect
        self.vision = VisionTower(
            architecture, dtype=self.dtype, remat=remat, rngs=rngs, dialect=dialect.vision
        )
        self.text = TextTower(
            architecture,
            dtype=self.dtype,
            remat=remat,
            rngs=rngs,
            dialect=dialect.text,
            end_of_text=dialect.end_of_text,
        )
        self.logit_scale = constant("", {}, INITIAL_LOGIT_SCALE)

    def encode_image(
        self, images: jax.Array, gates: Gates | None = None
    ) -> tuple[jax.Array, Intermediates]:
        """Normalised images [B,S,S,C] -> (L2-normalised f32 [B,E], intermediates).

        Raises:
          ValueError: images of another size than the architecture's; whole numbers, which are
            pixels that are not normalised yet.
        """
        a = self.architecture
        expected = (a.image, a.image, a.channels)
        if images.ndim != 4 or images.shape[1:] != expected:
            channels_first = images.ndim == 4 and images.shape[1:] == (expected[-1], *expected[:2])
            raise ValueError(
                f"images have shape {images.shape}, the model needs "
                f"[batch, {a.image}, {a.image}, {a.channels}] (NHWC)"
                + ("; images.transpose(0, 2, 3, 1) gives it" if channels_first else "")
            )
        if not jnp.issubdtype(images.dtype, jnp.floating):
            raise ValueError(
                f"images are {images.dtype}: pixels, not normalised yet; normalise them with the "
                "checkpoint's processor, load_processor(...).images(pictures) or .normalise(pixels)"
            )
        return self.vision(images, None if gates is None else gates.vision)

    def encode_text(
        self, ids: jax.Array, gates: Gates | None = None
    ) -> tuple[jax.Array, Intermediates]:
        """Token ids int [B,T], T <= context -> (L2-normalised f32 [B,E], intermediates).

        Raises:
          ValueError: ids that are not integers [B,T] or longer than the context.
        """
        if ids.ndim != 2 or not jnp.issubdtype(ids.dtype, jnp.integer):
            raise ValueError(f"ids must be integers [batch, tokens], got {ids.dtype} {ids.shape}")
        if ids.shape[1] > self.architecture.context:
            raise ValueError(
                f"texts have {ids.shape[1]} tokens, the model's context is "
                f"{self.architecture.context}; truncate them when tokenising"
            )
        return self.text(ids, None if gates is None else gates.text)

    def __call__(
        self, images: jax.Array, ids: jax.Array, gates: Gates | None = None
    ) -> tuple[ClipOutput, dict[str, Intermediates]]:
        """Both encoders; intermediates under "vision" and "text"."""
        image_embedding, vision = self.encode_image(images, gates)
        text_embedding, text = self.encode_text(ids, gates)
        output = ClipOutput(image_embedding, text_embedding, jnp.exp(self.logit_scale[...]))
        return output, {"vision": vision, "text": text}

    def slice_to(self, architecture: Architecture) -> CLIP:
        """The sub-network with the dimensions of `architecture`; see `slicing`.

        The slice has its own copy of the weights. Works on concrete and on traced weights.

        Raises:
          ValueError: a dimension larger than the model's, or another static field.
        """
        check_discrete(architecture)
        check_fits(self.architecture, architecture)
        abstract = nnx.eval_shape(
            lambda: CLIP(
                architecture,
                rngs=nnx.Rngs(0),
                dtype=self.dtype,
                remat=self.remat,
                dialect=self.dialect,
            )
        )
        return nnx.merge(nnx.graphdef(abstract), sliced(nnx.state(self), architecture))


def clamp_logit_scale(state: Any) -> Any:
    """Clips the stored logit_scale to [0, ln 100], as CLIP's training does after each step.

    Args:
      state: any pytree of the model's parameters that keeps their names, such as
        `nnx.state(model, nnx.Param)`; leading design axes are fine.

    Returns:
      The same tree with that one leaf clipped.

    Raises:
      ValueError: a tree without a leaf of that name.
    """
    clipped = []

    def clip(path: tuple[Any, ...], leaf: jax.Array) -> jax.Array:
        if not any(getattr(key, "key", None) == "logit_scale" for key in path):
            return leaf
        clipped.append(path)
        return jnp.clip(leaf, 0.0, MAX_LOGIT_SCALE)

    result = jax.tree_util.tree_map_with_path(clip, state)
    if not clipped:
        raise ValueError("no parameter called logit_scale in this state")
    return result
