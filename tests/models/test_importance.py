from __future__ import annotations

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from codesign.architecture import Architecture, Tower
from codesign.models.clip import CLIP
from codesign.models.gates import Gates, TowerGates, full_gates
from codesign.models.importance import magnitude_importance, reorder, taylor_importance
from codesign.models.slicing import slice_to

pytestmark = pytest.mark.usefixtures("quick_compilation")

Batch = tuple[jax.Array, jax.Array]


@pytest.fixture(scope="module")
def scores(small: Architecture) -> Gates:
    keys = iter(jax.random.split(jax.random.key(3), 8))
    return jax.tree.map(lambda g: jax.random.uniform(next(keys), g.shape), full_gates(small))


def test_scores_are_the_mean_of_squared_taylor_terms() -> None:
    tower = TowerGates(jnp.ones(1), jnp.ones((1, 1)), jnp.ones((1, 1)), jnp.array([1.0, 0.5]))
    gates = Gates(vision=tower, text=None)

    def linear(gates: Gates, factor: jax.Array) -> jax.Array:
        return factor * gates.vision.channels @ jnp.array([2.0, -4.0])

    result = taylor_importance(linear, gates, jnp.array([1.0, 3.0]))
    np.testing.assert_allclose(result.vision.channels, [5 * 4, 5 * 16 * 0.25])
    np.testing.assert_array_equal(result.vision.heads, [[0.0]])


def test_taylor_ranks_heads_as_their_removal_does(
    small: Architecture, random_clip: Callable[..., CLIP], batch: Batch
) -> None:
    """Head h of three writes with weight 0, 0.03 or 1: which matter most is obvious."""
    model = random_clip(small)
    strengths = jnp.array([[0.0, 1.0, 0.03], [1.0, 0.03, 0.0], [0.03, 0.0, 1.0]])
    model.vision.blocks.out[...] *= strengths[:, :, None, None]
    graphdef, params = nnx.split(model)
    images, ids = batch
    batches = (jnp.stack([images, 0.5 * images[::-1]]), jnp.stack([ids, ids[::-1]]))
    full = full_gates(small)

    def loss(params: nnx.State, gates: Gates, batch: Batch) -> jax.Array:
        output, _ = nnx.merge(graphdef, params)(*batch, gates)
        return jnp.sum(output.image_embedding[:, 0] * jnp.array([1.0, 2.0, -1.0]))

    taylor = taylor_importance(jax.tree_util.Partial(loss, params), full, batches).vision.heads

    @jax.jit
    @jax.vmap
    def without(mask: jax.Array) -> jax.Array:
        tower = dataclasses.replace(full.vision, heads=mask)
        gates = dataclasses.replace(full, vision=tower)
        return jax.lax.map(lambda batch: loss(params, gates, batch), batches)

    heads = strengths.size
    masks = jnp.concatenate([jnp.ones((1, heads)), 1 - jnp.eye(heads)]).reshape(-1, 3, 3)
    losses = without(masks)
    removal = jnp.mean(jnp.square(losses[1:] - losses[0]), axis=1).reshape(3, 3)

    np.testing.assert_array_equal(taylor[strengths == 0], 0.0)
    np.testing.assert_array_equal(jnp.argsort(taylor, axis=1), jnp.argsort(removal, axis=1))
    np.testing.assert_array_equal(jnp.argsort(taylor, axis=1), jnp.argsort(strengths, axis=1))


def test_reordering_leaves_the_function_unchanged(
    small: Architecture,
    random_clip: Callable[..., CLIP],
    batch: Batch,
    scores: Gates,
    forward: Callable,
) -> None:
    model = random_clip(small)
    before, _ = forward(model, batch)
    after, _ = forward(reorder(model, scores), batch)
    np.testing.assert_allclose(after.image_embedding, before.image_embedding, atol=1e-6)
    np.testing.assert_allclose(after.text_embedding, before.text_embedding, atol=1e-6)


def test_slices_of_a_reordered_model_keep_its_best_units(
    small: Architecture,
    random_clip: Callable[..., CLIP],
    batch: Batch,
    scores: Gates,
    forward: Callable,
    reference: Callable,
) -> None:
    """Held against masks of the best units on the model in its original order."""
    model = random_clip(small)
    target = dataclasses.replace(small, vision=Tower(2, 7, 2, 5), text=Tower(1, 8, 1, 3))

    def best(scores: TowerGates, tower: Tower) -> TowerGates:
        def keep(values: jax.Array, count: int) -> jax.Array:
            threshold = jnp.sort(values, axis=-1)[..., -count, None]
            return (values >= threshold).astype(jnp.float32)

        return TowerGates(
            layers=keep(scores.layers, tower.layers),
            heads=keep(scores.heads, tower.heads),
            ffn=keep(scores.ffn, tower.ffn),
            channels=keep(scores.channels, tower.width),
        )

    gates = Gates(best(scores.vision, target.vision), best(scores.text, target.text))
    masked, _ = forward(model, batch, gates)
    sliced = reference(slice_to(reorder(model, scores), target), batch)
    np.testing.assert_allclose(masked.image_embedding, sliced[0], atol=1e-5)
    np.testing.assert_allclose(masked.text_embedding, sliced[1], atol=1e-5)


def test_layers_are_ranked_where_they_stand(
    small: Architecture, random_clip: Callable[..., CLIP], scores: Gates
) -> None:
    layers = jnp.array([0.2, 0.1, 0.7])
    ranked = dataclasses.replace(scores, vision=dataclasses.replace(scores.vision, layers=layers))
    np.testing.assert_array_equal(
        reorder(random_clip(small), ranked).vision.blocks.layer_rank, [1, 2, 0]
    )


def test_nan_scores_are_refused(
    small: Architecture, random_clip: Callable[..., CLIP], scores: Gates
) -> None:
    broken = dataclasses.replace(scores.text, ffn=scores.text.ffn.at[0, 0].set(jnp.nan))
    with pytest.raises(ValueError, match=r"scores.text.ffn holds NaN"):
        reorder(random_clip(small), dataclasses.replace(scores, text=broken))


def test_magnitude_of_a_zeroed_unit_is_zero(
    small: Architecture, random_clip: Callable[..., CLIP]
) -> None:
    model = random_clip(small)
    blocks = model.text.blocks
    for name in ("query", "key", "value"):
        weight, bias = getattr(blocks, name), getattr(blocks, f"{name}_bias")
        weight[...] = weight[...].at[1, :, 0].set(0.0)
        bias[...] = bias[...].at[1, 0].set(0.0)
    blocks.out[...] = blocks.out[...].at[1, 0].set(0.0)
    heads = magnitude_importance(model).text.heads
    np.testing.assert_array_equal(heads == 0, [[False, False], [True, False]])
    ffn = sum(
        jnp.square(w).sum(axis)
        for w, axis in (
            (blocks.fc1[...], 1),
            (blocks.fc2[...], 2),
            (blocks.fc1_bias[...][:, None], 1),
        )
    )
    np.testing.assert_allclose(magnitude_importance(model).text.ffn, ffn, rtol=1e-5)
