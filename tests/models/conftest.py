"""A small CLIP whose every dimension differs from the others, and weights far from their init."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from codesign.architecture import Architecture, Tower
from codesign.models.clip import CLIP, ClipOutput
from codesign.models.gates import Gates
from codesign.models.transformer import LayerRank


@pytest.fixture(scope="session")
def small() -> Architecture:
    return Architecture(
        vision=Tower(layers=3, width=12, heads=3, ffn=8),
        text=Tower(layers=2, width=10, heads=2, ffn=6),
        patch=4,
        image=8,
        context=7,
        projection=5,
        head_dim=4,
        vocab=16,
    )


@pytest.fixture(scope="session")
def random_clip() -> Callable[..., CLIP]:
    """(architecture, seed, **options) -> CLIP with random LayerNorms, biases and layer ranks.

    Drawn with NumPy, as compiling a sampler for each shape takes longer than the tests.
    """

    def build(architecture: Architecture, seed: int = 0, **options: Any) -> CLIP:
        model = nnx.eval_shape(lambda: CLIP(architecture, rngs=nnx.Rngs(0), **options))
        rng = np.random.default_rng(seed)
        graphdef, state = nnx.split(model)
        flat = []
        for path, variable in nnx.to_flat_state(state):
            if isinstance(variable, LayerRank):
                value = jnp.asarray(rng.permutation(variable.shape[0]), jnp.int32)
            else:
                centre = 1.0 if path[-1].endswith("scale") else 0.0
                value = jnp.asarray(centre + 0.4 * rng.normal(size=variable.shape), jnp.float32)
            flat.append((path, variable.replace(value)))
        return nnx.merge(graphdef, nnx.from_flat_state(flat))

    return build


@functools.partial(jax.jit, static_argnums=0)
def _forward(
    graphdef: Any, state: nnx.State, batch: tuple[jax.Array, ...], gates: Gates | None
) -> tuple[ClipOutput, dict[str, Any]]:
    return nnx.merge(graphdef, state)(*batch, gates)


@pytest.fixture(scope="session")
def forward() -> Callable[..., tuple[ClipOutput, dict[str, Any]]]:
    """(model, batch, gates=None) -> model(*batch, gates), compiled once for equal models."""
    return lambda model, batch, gates=None: _forward(*nnx.split(model), batch, gates)


@pytest.fixture(scope="session")
def batch(small: Architecture) -> tuple[jax.Array, jax.Array]:
    """Images [3,8,8,3] and ids [3,7]; 15 is end-of-text, here in three different places."""
    images = jax.random.normal(jax.random.key(7), (3, small.image, small.image, small.channels))
    ids = jnp.array([[1, 3, 15, 0, 0, 0, 0], [2, 4, 9, 5, 15, 0, 0], [1, 2, 3, 4, 5, 6, 15]])
    return images, ids
