"""A CLIP as compiled functions see it: what is static, apart from its arrays."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import TypeVar

import jax
import jax.numpy as jnp
from flax import nnx

from codesign.compiler import ONCE
from codesign.models import CLIP, ClipOutput, Gates
from codesign.models.formats import ImageSettings

N = TypeVar("N", bound=nnx.Module)


def drawn(new: Callable[[], N]) -> N:
    """A new network, its arrays drawn by one program: else each would be compiled for."""
    graphdef = nnx.graphdef(nnx.eval_shape(new))
    network: N = nnx.merge(graphdef, jax.jit(lambda: nnx.state(new()), compiler_options=ONCE)())
    return network


def normalised(images: jax.Array, mean: Sequence[float], std: Sequence[float]) -> jax.Array:
    """uint8 [..., C] -> f32 [..., C], by mean and deviation of every channel, pixels in [0, 1]."""
    shift, scale = (jnp.asarray(x, jnp.float32) for x in (mean, std))
    return (images.astype(jnp.float32) / 255 - shift) / scale


@dataclasses.dataclass(frozen=True)
class Network:
    """A CLIP's graph, and how its images are normalised; hashable, so static under jit.

    Images travel to the device as uint8, a quarter of float32's bytes.

    Attributes:
      graphdef: of the CLIP.
      settings: of its images.
    """

    graphdef: nnx.GraphDef[CLIP]
    settings: ImageSettings

    def clip(self, *states: nnx.State) -> CLIP:
        """The CLIP of these states."""
        model: CLIP = nnx.merge(self.graphdef, *states)
        return model

    def normalised(self, images: jax.Array) -> jax.Array:
        """uint8 [..., C] -> f32 [..., C]."""
        return normalised(images, self.settings.mean, self.settings.std)

    def embed(
        self,
        params: nnx.State,
        rest: nnx.State,
        images: jax.Array,
        ids: jax.Array,
        gates: Gates | None = None,
    ) -> ClipOutput:
        """uint8 images [B,S,S,C] and ids [B,T] -> embeddings [B,E]."""
        return self.clip(params, rest)(self.normalised(images), ids, gates)[0]

    def embed_images(
        self, state: nnx.State, images: jax.Array, gates: Gates | None = None
    ) -> jax.Array:
        """uint8 [B,S,S,C] -> f32 [B,E], normalised."""
        return self.clip(state).encode_image(self.normalised(images), gates)[0]

    def embed_texts(
        self, state: nnx.State, ids: jax.Array, gates: Gates | None = None
    ) -> jax.Array:
        """int32 [B,T] -> f32 [B,E], normalised."""
        return self.clip(state).encode_text(ids, gates)[0]
