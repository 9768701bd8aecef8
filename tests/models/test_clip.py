from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from codesign.architecture import Architecture, Tower
from codesign.models.clip import CLIP, clamp_logit_scale
from codesign.models.gates import Gates, full_gates, gates_for
from codesign.models.transformer import LayerRank

pytestmark = pytest.mark.usefixtures("quick_compilation")

Batch = tuple[jax.Array, jax.Array]


@pytest.mark.parametrize("activation", ["gelu", "quick_gelu"])
def test_model_against_float64_reference(
    small: Architecture,
    random_clip: Callable[..., CLIP],
    activation: str,
    forward: Callable,
    reference: Callable,
) -> None:
    model = random_clip(dataclasses.replace(small, activation=activation), seed=4)
    rng = np.random.default_rng(0)
    images = rng.normal(size=(3, 8, 8, 3))
    ids = rng.integers(0, 16, size=(3, 7))
    output, _ = forward(model, (jnp.float32(images), jnp.asarray(ids)))
    expected = reference(model, (images, ids))
    errors = [float(np.abs(a - b).max()) for a, b in zip(output[:2], expected, strict=True)]
    print(f"against float64: image {errors[0]:.1e}, text {errors[1]:.1e}")
    assert max(errors) < 5e-6


def test_outputs_and_intermediates(
    small: Architecture, random_clip: Callable[..., CLIP], batch: Batch, forward: Callable
) -> None:
    output, out = forward(random_clip(small), batch)
    shapes = {name: {k: v.shape for k, v in stages.items()} for name, stages in out.items()}
    assert shapes == {
        "vision": {
            "embedded": (3, 5, 12),
            "tokens": (3, 5, 12),
            "pooled": (3, 12),
            "pre_projection": (3, 12),
            "features": (3, 5),
        },
        "text": {
            "embedded": (3, 7, 10),
            "tokens": (3, 7, 10),
            "pooled": (3, 10),
            "pre_projection": (3, 10),
            "features": (3, 5),
        },
    }
    features = out["text"]["features"]
    unit = features / np.linalg.norm(features, axis=-1, keepdims=True)
    np.testing.assert_allclose(output.text_embedding, unit, atol=1e-6)


def test_a_new_model(small: Architecture) -> None:
    tower = Tower(2, 256, 2, 512)  # for both: equal shapes compile once
    wide = dataclasses.replace(small, vision=tower, text=tower, vocab=400)
    model = CLIP(wide, rngs=nnx.Rngs(0))
    assert float(jnp.exp(model.logit_scale[...])) == pytest.approx(1 / 0.07, rel=1e-5)
    stds = {
        "token_table": (model.text.token_table, 0.02),
        "positions": (model.text.positions, 0.01),
        "projection": (model.text.projection, 1 / 16),
        "query": (model.text.blocks.query, 1 / 16),
        "out": (model.text.blocks.out, 1 / 16 / 2),
        "fc1": (model.text.blocks.fc1, 512**-0.5),
        "fc2": (model.text.blocks.fc2, 1 / 16 / 2),
    }
    for name, (parameter, std) in stds.items():
        assert float(parameter[...].std()) == pytest.approx(std, rel=0.05), name
    np.testing.assert_array_equal(model.vision.blocks.layer_rank, [0, 1])
    assert all(p.dtype == jnp.float32 for p in jax.tree.leaves(nnx.state(model, nnx.Param)))


def test_what_follows_the_end_of_text_does_not_matter(
    small: Architecture, random_clip: Callable[..., CLIP], batch: Batch, forward: Callable
) -> None:
    model, (images, ids) = random_clip(small), batch

    def encode(ids: jax.Array) -> jax.Array:
        return forward(model, (images, ids))[0].text_embedding

    embedding = encode(ids)
    after = encode(ids.at[:2, -2:].set(jnp.array([11, 14])))
    np.testing.assert_allclose(after, embedding, atol=1e-6)
    np.testing.assert_allclose(encode(ids[:, :5])[:2], embedding[:2], atol=1e-6)  # shorter
    before = encode(ids.at[:, 1].set(11))
    assert float(jnp.abs(before - embedding).max()) > 1e-2


def test_bfloat16_is_close_to_float32(
    small: Architecture, random_clip: Callable[..., CLIP], batch: Batch, forward: Callable
) -> None:
    exact, _ = forward(random_clip(small), batch)
    half, out = forward(random_clip(small, dtype=jnp.bfloat16), batch, full_gates(small))
    assert out["vision"]["tokens"].dtype == jnp.bfloat16
    for a, b in zip(exact[:2], half[:2], strict=True):
        assert b.dtype == jnp.float32
        cosines = (a * b).sum(-1)
        print(f"bfloat16: cosine {float(cosines.min()):.5f}")
        assert float(cosines.min()) > 0.999


def test_full_gates_and_remat_change_nothing(
    small: Architecture, random_clip: Callable[..., CLIP], batch: Batch
) -> None:
    def text_grads(model: CLIP, gates: Gates | None) -> nnx.State:
        graphdef, params, ranks = nnx.split(model, nnx.Param, LayerRank)

        def loss(params: nnx.State) -> jax.Array:
            return jnp.sum(nnx.merge(graphdef, params, ranks).encode_text(batch[1], gates)[0] ** 3)

        return jax.jit(jax.grad(loss))(params)

    plain = text_grads(random_clip(small), None)
    gated = text_grads(random_clip(small, remat=True), full_gates(small))
    pairs = zip(jax.tree.leaves(plain), jax.tree.leaves(gated), strict=True)
    assert max(float(np.abs(np.subtract(a, b)).max()) for a, b in pairs) < 1e-5


CHOICES = {
    "vision": Tower(layers=(1, 3), width=(6, 12), heads=(1, 3), ffn=(4, 8)),
    "text": Tower(layers=(1, 2), width=(5, 10), heads=(1, 2), ffn=(3, 6)),
}


def relaxed_gates(model: CLIP, vision: Tower, text: Tower) -> Gates:
    relaxed = dataclasses.replace(model.architecture, vision=vision, text=text)
    choices = dataclasses.replace(model.architecture, **CHOICES)
    ranks = (model.vision.blocks.layer_rank[...], model.text.blocks.layer_rank[...])
    return gates_for(relaxed, choices, *ranks)


def test_vmap_over_designs_equals_a_loop(
    small: Architecture, random_clip: Callable[..., CLIP], batch: Batch
) -> None:
    models = [random_clip(small, seed) for seed in range(2)]
    designs = [
        relaxed_gates(models[0], Tower(2.2, 9.0, 2.5, 5.0), Tower(1.3, 7.0, 1.2, 4.4)),
        relaxed_gates(models[1], Tower(1, 6, 1, 4), Tower(2, 10, 2, 6)),
    ]
    graphdef = nnx.graphdef(models[0])
    states = [nnx.state(model) for model in models]

    def stack(*trees: Any) -> Any:
        return jax.tree.map(lambda *leaves: jnp.stack(leaves), *trees)

    def encode(state: nnx.State, gates: Gates) -> jax.Array:
        return nnx.merge(graphdef, state).encode_image(batch[0], gates)[0]

    def loss(gates: Gates, state: nnx.State) -> tuple[jax.Array, jax.Array]:
        embedding = encode(state, gates)
        return jnp.sum(embedding**3), embedding

    differentiate = jax.grad(loss, has_aux=True)
    slopes, together = jax.jit(jax.vmap(differentiate))(stack(*designs), stack(*states))
    alone = jax.jit(differentiate)
    for i, (state, gates) in enumerate(zip(states, designs, strict=True)):
        slope, embedding = alone(gates, state)
        np.testing.assert_allclose(together[i], embedding, atol=2e-6)
        np.testing.assert_allclose(slopes.vision.heads[i], slope.vision.heads, atol=1e-5)


def test_gradients_in_the_relaxed_counts_against_finite_differences(
    small: Architecture, random_clip: Callable[..., CLIP], batch: Batch
) -> None:
    model = random_clip(small)
    towers = (Tower(2.2, 9.0, 2.5, 5.0), Tower(1.3, 7.0, 1.2, 4.4))

    @jax.jit
    @jax.value_and_grad
    def loss(counts: jax.Array) -> jax.Array:
        tree = jax.tree.unflatten(jax.tree.structure(towers), list(counts))
        output, _ = model(*batch, relaxed_gates(model, *tree))
        return jnp.sum(output.image_embedding * output.text_embedding)

    counts = jnp.array(jax.tree.leaves(towers))
    _, grads = loss(counts)
    steps = 0.02 * jnp.eye(counts.size)
    finite = jnp.array([float(loss(counts + s)[0] - loss(counts - s)[0]) / 0.04 for s in steps])
    assert float(jnp.abs(grads).min()) > 0
    np.testing.assert_allclose(grads, finite, rtol=2e-2, atol=2e-3 * float(jnp.abs(finite).max()))


def test_clamp_logit_scale(small: Architecture, random_clip: Callable[..., CLIP]) -> None:
    model = random_clip(small)
    params = nnx.state(model, nnx.Param)
    for stored, expected in ((9.0, math.log(100)), (-1.0, 0.0), (3.0, 3.0)):
        model.logit_scale[...] = jnp.float32(stored)
        clamped = clamp_logit_scale(nnx.state(model, nnx.Param))
        assert float(clamped["logit_scale"][...]) == pytest.approx(expected)
    rest = {k: v for k, v in clamped.items() if k != "logit_scale"}
    before = {k: v for k, v in params.items() if k != "logit_scale"}
    jax.tree.map(np.testing.assert_array_equal, rest, before)
    with pytest.raises(ValueError, match="logit_scale"):
        clamp_logit_scale({"text": jnp.zeros(2)})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"text": Tower(2, 10.5, 2, 6)}, r"text.width is 10.5"),
        ({"vision": Tower(0, 12, 3, 8)}, r"vision.layers is 0"),
        ({"image": 9}, r"image 9 is not a multiple of patch 4"),
        ({"activation": "relu"}, r"activation is 'relu', expected one of \['gelu'"),
    ],
)
def test_impossible_architectures_are_named(
    small: Architecture, change: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        CLIP(dataclasses.replace(small, **change), rngs=nnx.Rngs(0))


def test_wrong_inputs_are_named(
    small: Architecture, random_clip: Callable[..., CLIP], batch: Batch
) -> None:
    model = random_clip(small)
    with pytest.raises(ValueError, match=r"images have shape \(3, 3, 8, 8\).*8, 8, 3\] \(NHWC\)"):
        model.encode_image(jnp.moveaxis(batch[0], -1, 1))
    with pytest.raises(ValueError, match="9 tokens, the model's context is 7"):
        model.encode_text(jnp.zeros((1, 9), int))
    with pytest.raises(ValueError, match="ids must be integers"):
        model.encode_text(jnp.zeros((1, 7)))
    wider = dataclasses.replace(small, vision=Tower(3, 12, 4, 8))
    with pytest.raises(ValueError, match=r"gates.heads has shape \(3, 4\), the tower needs"):
        model.encode_image(batch[0], full_gates(wider))
    unknown_word = model.text.embed(jnp.array([[99]]))
    assert bool(jnp.isnan(unknown_word).all())
