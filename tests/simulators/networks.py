"""Networks whose weights are drawn with NumPy."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
import numpy as np
from flax import nnx

from codesign.architecture import Architecture
from codesign.models.clip import CLIP
from codesign.models.transformer import LayerRank


def random_clip(architecture: Architecture, seed: int = 0, **options: Any) -> CLIP:
    """A CLIP with random LayerNorms, biases and layer ranks.

    Compiling a sampler for each shape takes longer than the tests.
    """
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
