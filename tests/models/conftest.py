"""A small CLIP whose every dimension differs from the others, and weights far from their init."""

from __future__ import annotations

import functools
import math
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
from simulators import networks


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
    """See `simulators.networks`."""
    return networks.random_clip


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


# An independent float64 CLIP, from section 1 of OpenAI's description: loops over layers, heads
# and patches, no code shared with the model.


def reference_norm(x: np.ndarray, scale: np.ndarray, bias: np.ndarray) -> np.ndarray:
    centred = x - x.mean(-1, keepdims=True)
    return centred / np.sqrt((centred**2).mean(-1, keepdims=True) + 1e-5) * scale + bias


def reference_activation(x: np.ndarray, name: str) -> np.ndarray:
    if name == "quick_gelu":
        return x / (1 + np.exp(-1.702 * x))
    return 0.5 * x * (1 + np.vectorize(math.erf)(x / math.sqrt(2)))


def reference_head(x: np.ndarray, p: dict, layer: int, head: int, causal: bool) -> np.ndarray:
    q, k, v = (
        x @ p[name][layer, :, head] + p[f"{name}_bias"][layer, head]
        for name in ("query", "key", "value")
    )
    logits = q @ k.swapaxes(-1, -2) / math.sqrt(q.shape[-1])
    if causal:
        logits = logits + np.triu(np.full(logits.shape[-2:], -np.inf), 1)
    weights = np.exp(logits - logits.max(-1, keepdims=True))
    return weights / weights.sum(-1, keepdims=True) @ v @ p["out"][layer, head]


def reference_blocks(x: np.ndarray, p: dict, activation: str, causal: bool) -> np.ndarray:
    layers, _, heads, _ = p["query"].shape
    for i in range(layers):
        y = reference_norm(x, p["ln_1_scale"][i], p["ln_1_bias"][i])
        x = x + sum(reference_head(y, p, i, h, causal) for h in range(heads)) + p["out_bias"][i]
        y = reference_norm(x, p["ln_2_scale"][i], p["ln_2_bias"][i])
        hidden = reference_activation(y @ p["fc1"][i] + p["fc1_bias"][i], activation)
        x = x + hidden @ p["fc2"][i] + p["fc2_bias"][i]
    return x


def unit(x: np.ndarray) -> np.ndarray:
    return x / np.linalg.norm(x, axis=-1, keepdims=True)


def reference_image(p: dict, images: np.ndarray, activation: str) -> np.ndarray:
    side = p["patch_kernel"].shape[0]
    starts = range(0, images.shape[1], side)
    tokens = [np.broadcast_to(p["class_token"], (len(images), len(p["class_token"])))]
    for top in starts:
        for left in starts:
            patch = images[:, top : top + side, left : left + side]
            tokens.append(np.tensordot(patch, p["patch_kernel"], 3))
    x = reference_norm(np.stack(tokens, 1) + p["positions"], **p["ln_pre"])
    x = reference_blocks(x, p["blocks"], activation, causal=False)
    return unit(reference_norm(x[:, 0], **p["ln_post"]) @ p["projection"])


def reference_text(p: dict, ids: np.ndarray, activation: str) -> np.ndarray:
    x = p["token_table"][ids] + p["positions"][: ids.shape[1]]
    x = reference_norm(reference_blocks(x, p["blocks"], activation, causal=True), **p["ln_final"])
    return unit(x[np.arange(len(ids)), ids.argmax(1)] @ p["projection"])


@pytest.fixture(scope="session")
def reference() -> Callable[..., tuple[np.ndarray, np.ndarray]]:
    """(model, (images, ids)) -> image and text embeddings in float64."""

    def embeddings(model: CLIP, batch: tuple) -> tuple[np.ndarray, np.ndarray]:
        p = jax.tree.map(np.float64, nnx.to_pure_dict(nnx.state(model, nnx.Param)))
        images, ids = np.asarray(batch[0], np.float64), np.asarray(batch[1])
        activation = model.architecture.activation
        return (
            reference_image(p["vision"], images, activation),
            reference_text(p["text"], ids, activation),
        )

    return embeddings
