"""Rule 1: with 0/1 gates the supernet computes, and learns, exactly what its slice does."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from hypothesis import given, settings
from hypothesis import strategies as st

from codesign.architecture import TOWERS, Architecture, Tower
from codesign.models import slice_to
from codesign.models.clip import CLIP, ClipOutput
from codesign.models.gates import Gates, gates_for
from codesign.models.transformer import LayerRank

pytestmark = pytest.mark.usefixtures("quick_compilation")

CHOICES = {
    "vision": Tower(layers=(1, 2, 3), width=(4, 7, 12), heads=(1, 2, 3), ffn=(3, 5, 8)),
    "text": Tower(layers=(1, 2), width=(5, 8, 10), heads=(1, 2), ffn=(2, 6)),
}
Batch = tuple[jax.Array, jax.Array]


def towers(choices: Tower) -> st.SearchStrategy[Tower]:
    fields = vars(choices).items()
    return st.builds(Tower, **{name: st.sampled_from(values) for name, values in fields})


def hard_gates(architecture: Architecture, counts: tuple[Tower, Tower], ranks: Any) -> Gates:
    """Gates of traced counts, so that one compiled supernet serves every architecture."""
    design = dataclasses.replace(architecture, vision=counts[0], text=counts[1])
    choices = dataclasses.replace(architecture, **CHOICES)
    return gates_for(design, choices, *(ranks[tower].blocks.layer_rank[...] for tower in TOWERS))


def contrastive_loss(output: ClipOutput) -> jax.Array:
    logits = output.logit_scale * output.image_embedding @ output.text_embedding.T
    log_likelihood = jnp.diagonal(jax.nn.log_softmax(logits) + jax.nn.log_softmax(logits, axis=0))
    return -jnp.mean(log_likelihood)


@functools.partial(jax.jit, static_argnums=0)
def run_gated(graphdef: Any, state: nnx.State, counts: Any, batch: Batch) -> ClipOutput:
    model = nnx.merge(graphdef, state)
    ranks = {tower: getattr(model, tower) for tower in TOWERS}
    return model(*batch, hard_gates(model.architecture, counts, ranks))[0]


def loss_under_gates(
    params: nnx.State, graphdef: Any, ranks: nnx.State, architecture: Architecture, batch: Batch
) -> jax.Array:
    state = nnx.merge_state(params, ranks)
    counts = (architecture.vision, architecture.text)
    return contrastive_loss(run_gated(graphdef, state, counts, batch))


def loss_of_slice(
    params: nnx.State, graphdef: Any, ranks: nnx.State, architecture: Architecture, batch: Batch
) -> jax.Array:
    """The gradient flows back through the cut, so it has the supernet's shapes."""
    state = nnx.merge_state(params, ranks)
    return contrastive_loss(slice_to(nnx.merge(graphdef, state), architecture)(*batch)[0])


def largest_difference(a: Any, b: Any) -> float:
    pairs = zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True)
    return max(float(np.abs(np.subtract(x, y)).max()) for x, y in pairs)


@pytest.fixture(scope="module")
def supernets(small: Architecture, random_clip: Callable[..., CLIP]) -> list[CLIP]:
    return [random_clip(small, seed) for seed in range(3)]


@settings(max_examples=8, deadline=None, database=None)
@given(vision=towers(CHOICES["vision"]), text=towers(CHOICES["text"]), seed=st.integers(0, 2))
def test_gates_equal_slices(
    supernets: list[CLIP],
    batch: Batch,
    reference: Callable,
    vision: Tower,
    text: Tower,
    seed: int,
) -> None:
    """The slice runs in the float64 reference, which takes any shape without compiling."""
    architecture = dataclasses.replace(supernets[seed].architecture, vision=vision, text=text)
    gated = run_gated(*nnx.split(supernets[seed]), (vision, text), batch)
    sliced = reference(slice_to(supernets[seed], architecture), batch)
    error = largest_difference(gated[:2], sliced)
    print(f"gates against slice: {error:.1e} on the embeddings of {vision}, {text}")
    assert error < 1e-5


def test_learning_under_gates_equals_learning_in_the_slice(
    supernets: list[CLIP], batch: Batch, small: Architecture
) -> None:
    """Gradients of all weights (none outside the slice), and what SGD makes of them."""
    architecture = dataclasses.replace(small, vision=Tower(2, 7, 2, 5), text=Tower(1, 8, 1, 2))
    graphdef, params, ranks = nnx.split(supernets[0], nnx.Param, LayerRank)

    def slope(loss: Callable[..., jax.Array]) -> Callable[[nnx.State], nnx.State]:
        return jax.jit(jax.grad(lambda p: loss(p, graphdef, ranks, architecture, batch)))

    slopes = [slope(loss) for loss in (loss_under_gates, loss_of_slice)]
    first = [slope(params) for slope in slopes]
    size = max(float(np.abs(g).max()) for g in jax.tree.leaves(first[1]))
    error = largest_difference(*first) / size
    print(f"gradients under gates against the slice's: {error:.1e} of the largest")
    assert error < 1e-5

    params = jax.tree.map(np.asarray, params)
    trained = [params, params]
    for _ in range(3):
        trained = [
            jax.tree.map(lambda p, g: p - np.float32(0.02) * np.asarray(g), now, slope(now))
            for slope, now in zip(slopes, trained, strict=True)
        ]
    print(f"weights after 3 steps: {largest_difference(*trained):.1e}")
    assert largest_difference(*trained) < 1e-5
    assert largest_difference(trained[0], params) > 1e-2


def test_a_slice_keeps_the_most_important_layers_in_order(
    small: Architecture, random_clip: Callable[..., CLIP]
) -> None:
    model = random_clip(small)
    model.vision.blocks.layer_rank[...] = jnp.array([1, 2, 0])
    sliced = model.slice_to(dataclasses.replace(small, vision=Tower(2, 12, 3, 8)))
    np.testing.assert_array_equal(sliced.vision.blocks.fc1, model.vision.blocks.fc1[:3:2])
    np.testing.assert_array_equal(sliced.vision.blocks.layer_rank, [1, 0])
    assert sliced.architecture.vision.layers == 2


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"vision": Tower(3, 13, 3, 8)}, r"vision.width = 13: the model has only 12"),
        ({"text": Tower(3, 10, 2, 6)}, r"text.layers = 3: the model has only 2"),
        ({"text": Tower(2, 10, 2, 6.5)}, r"text.ffn is 6.5; .*positive Python int"),
        ({"projection": 4}, r"projection = 4: the model has 5.*not elastic"),
        ({"activation": "quick_gelu"}, r"activation = 'quick_gelu'"),
    ],
)
def test_impossible_slices_are_named(
    small: Architecture, random_clip: Callable[..., CLIP], change: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        slice_to(random_clip(small), dataclasses.replace(small, **change))
