from __future__ import annotations

import dataclasses
import functools
import itertools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from hypothesis import given, settings
from hypothesis import strategies as st

from codesign.architecture import TOWERS, Architecture
from codesign.models.calibration import Calibration, info_nce
from codesign.models.clip import CLIP, ClipOutput
from codesign.models.gates import Gates, TowerGates, full_gates
from codesign.models.importance import (
    METHODS,
    Method,
    _mean_squared_taylor,
    magnitude_importance,
    reorder,
    score_units,
    taylor_importance,
)
from codesign.models.removal import _numbered
from codesign.train.losses import contrastive_loss

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


def plain_info_nce(images: np.ndarray, texts: np.ndarray, scale: float, labels: Any) -> float:
    """UniCL's formula, pair by pair."""
    logits = scale * images @ texts.T
    total, pairs = 0.0, len(labels)
    for z in (logits, logits.T):
        for b in range(pairs):
            log_sum = np.log(np.sum(np.exp(z[b] - z[b].max()))) + z[b].max()
            positives = [c for c in range(pairs) if labels[c] == labels[b]]
            total -= np.mean([z[b, c] - log_sum for c in positives])
    return total / (2 * pairs)


@pytest.mark.parametrize("labels", [None, [1, 0, 1, 1]])
def test_info_nce_is_the_loss_of_training(labels: list[int] | None) -> None:
    rng = np.random.default_rng(0)
    embeddings = rng.normal(size=(2, 4, 5))
    images, texts = embeddings / np.linalg.norm(embeddings, axis=-1, keepdims=True)
    output = ClipOutput(jnp.float32(images), jnp.float32(texts), jnp.float32(7.0))
    given_labels = None if labels is None else jnp.asarray(labels)
    found = info_nce(output, Calibration(None, None, given_labels))
    np.testing.assert_allclose(found, contrastive_loss(*output, given_labels), rtol=1e-6)
    expected = plain_info_nce(images, texts, 7.0, [0, 1, 2, 3] if labels is None else labels)
    np.testing.assert_allclose(found, expected, rtol=1e-5)


@pytest.fixture(scope="module")
def batches(batch: Batch) -> Calibration:
    """Two batches of three pairs, of which two share a label."""
    images, ids = batch
    labels = jnp.array([[0, 1, 0], [1, 0, 0]])
    stacked = jnp.stack([images, 0.5 * images[::-1]]), jnp.stack([ids, ids[::-1]])
    return Calibration(*stacked, labels)


Losses = Callable[[CLIP], np.ndarray]


@pytest.fixture(scope="module")
def exact_losses(reference: Callable, batches: Calibration) -> Losses:
    """Loss of each batch in float64, by the NumPy network."""

    def losses(model: CLIP) -> np.ndarray:
        scale = float(np.exp(np.float64(model.logit_scale[...])))
        return np.array(
            [
                plain_info_nce(*reference(model, batch[:2]), scale, np.asarray(batch.labels))
                for batch in (jax.tree.map(lambda x, n=n: x[n], batches) for n in range(2))
            ]
        )

    return losses


def scaled_unit(model: CLIP, tower: str, unit: tuple, factor: float) -> CLIP:
    """A copy in which a layer, head or FFN units hand on `factor` of what they did."""
    graphdef, state = nnx.split(model)
    copy = nnx.merge(graphdef, jax.tree.map(jnp.copy, state))
    blocks = getattr(copy, tower).blocks
    kind, *at = unit
    handing_on = {
        "layers": (blocks.out, blocks.out_bias, blocks.fc2, blocks.fc2_bias),
        "heads": (blocks.out,),
        "ffn": (blocks.fc2,),
    }
    for variable in handing_on[kind]:
        values = np.array(variable[...])
        values[tuple(at)] *= factor
        variable[...] = jnp.asarray(values)
    return copy


def without_channels(model: CLIP, tower: str, channels: np.ndarray) -> CLIP:
    """A copy in which every array of the tower lacks these channels."""
    graphdef, state = nnx.split(model)
    flat = []
    for path, variable in nnx.to_flat_state(state):
        values = np.asarray(variable[...])
        if path[0] == tower and "D" in variable.axes:
            values = np.delete(values, channels, axis=variable.axes.index("D"))
        flat.append((path, variable.replace(jnp.asarray(values))))
    return nnx.merge(graphdef, nnx.from_flat_state(flat))


@pytest.fixture(scope="module")
def model(small: Architecture, random_clip: Callable[..., CLIP]) -> CLIP:
    return random_clip(small, seed=5)


@pytest.fixture(scope="module")
def taylor(model: CLIP, batches: Calibration) -> Gates:
    return score_units(model, batches)


@pytest.mark.parametrize("tower", TOWERS)
def test_taylor_scores_are_those_of_finite_differences(
    tower: str, model: CLIP, exact_losses: Losses, taylor: Gates
) -> None:
    found, step = getattr(taylor, tower), 1e-2

    def expected(*unit: Any) -> float:
        ends = [exact_losses(scaled_unit(model, tower, unit, 1 + s)) for s in (step, -step)]
        return float(np.mean(((ends[0] - ends[1]) / (2 * step)) ** 2))

    for layer in range(found.layers.shape[0]):
        np.testing.assert_allclose(found.layers[layer], expected("layers", layer), rtol=5e-3)
        for name, units in (("heads", found.heads), ("ffn", found.ffn)):
            for unit in (0, units.shape[1] - 1):
                wanted = expected(name, layer, unit)
                np.testing.assert_allclose(units[layer, unit], wanted, rtol=5e-3, atol=1e-8)


def test_taylor_scores_of_channels_are_those_of_finite_differences(
    model: CLIP, batches: Calibration, taylor: Gates, forward: Callable
) -> None:
    full = full_gates(model.architecture)

    def losses(channel: int, gate: float) -> np.ndarray:
        channels = full.vision.channels.at[channel].set(gate)
        gates = dataclasses.replace(
            full, vision=dataclasses.replace(full.vision, channels=channels)
        )
        outputs = [forward(model, (batches.images[n], batches.ids[n]), gates)[0] for n in (0, 1)]
        return np.array(
            [
                plain_info_nce(*(np.float64(x) for x in output), np.asarray(batches.labels[n]))
                for n, output in enumerate(outputs)
            ]
        )

    for channel in (0, 5, 11):
        slope = (losses(channel, 1.01) - losses(channel, 0.99)) / 0.02
        np.testing.assert_allclose(
            taylor.vision.channels[channel], np.mean(slope**2), rtol=2e-2, atol=1e-7
        )


@pytest.mark.parametrize("tower", TOWERS)
def test_loss_scores_are_those_of_removal_one_by_one(
    tower: str, model: CLIP, batches: Calibration, exact_losses: Losses, taylor: Gates
) -> None:
    """Two groups, so that halves of the Taylor order go together."""
    found = jax.tree.map(np.asarray, getattr(score_units(model, batches, "loss", groups=2), tower))
    order = jax.tree.map(np.asarray, getattr(taylor, tower))
    whole = exact_losses(model).mean()
    close = functools.partial(np.testing.assert_allclose, rtol=1e-4, atol=5e-6)

    def increase(*unit: Any) -> float:
        return exact_losses(scaled_unit(model, tower, unit, 0.0)).mean() - whole

    for layer in range(len(found.layers)):
        close(found.layers[layer], increase("layers", layer))
        for head in range(found.heads.shape[1]):
            close(found.heads[layer, head], increase("heads", layer, head))
        for group in np.split(np.argsort(order.ffn[layer]), 2):
            close(found.ffn[layer, group], increase("ffn", layer, group))
            assert (np.diff(found.ffn[layer, group]) > 0).all()  # ties go by Taylor
    for group in np.split(np.argsort(order.channels), 2):
        lacking = exact_losses(without_channels(model, tower, group)).mean() - whole
        close(found.channels[group], lacking)
        assert (np.diff(found.channels[group]) > 0).all()


@pytest.mark.parametrize("method", ["taylor", "loss"])
def test_heads_that_matter_more_score_higher(
    method: Method, small: Architecture, random_clip: Callable[..., CLIP], batches: Calibration
) -> None:
    """Head h of three writes with weight 0, 0.03 or 1: which matter most is obvious."""
    model = random_clip(small)
    strengths = jnp.array([[0.0, 1.0, 0.03], [1.0, 0.03, 0.0], [0.03, 0.0, 1.0]])
    model.vision.blocks.out[...] *= strengths[:, :, None, None]
    heads = jnp.abs(score_units(model, batches, method, groups=2).vision.heads)
    np.testing.assert_array_equal(heads[strengths == 0], 0.0)
    np.testing.assert_array_equal(jnp.argsort(heads, axis=1), jnp.argsort(strengths, axis=1))


@settings(deadline=None)
@given(
    layers=st.integers(1, 4),
    heads=st.integers(1, 5),
    ffn=st.integers(1, 40),
    width=st.integers(1, 40),
    groups=st.integers(1, 50),
    seed=st.integers(0, 99),
)
def test_groups_are_neighbours_of_one_size(
    layers: int, heads: int, ffn: int, width: int, groups: int, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    order = TowerGates(
        *(
            rng.integers(0, 9, shape).astype(float)
            for shape in ((layers,), (layers, heads), (layers, ffn), (width,))
        )
    )
    numbers = _numbered(order, groups)
    rows = [numbers.layers[None], numbers.heads.reshape(1, -1), *numbers.ffn, numbers.channels]
    parts = [np.unique(row, return_counts=True) for row in [np.ravel(r) for r in rows]]
    every = np.concatenate([values for values, _ in parts])
    np.testing.assert_array_equal(np.sort(every), np.arange(len(every)))
    grouped = [*zip(order.ffn, numbers.ffn, strict=True), (order.channels, numbers.channels)]
    for scores, numbered in grouped:
        values, counts = np.unique(numbered, return_counts=True)
        assert len(values) == min(groups, len(scores)) and np.ptp(counts) <= 1
        for a, b in itertools.pairwise(values):
            assert scores[numbered == a].max() <= scores[numbered == b].min()


def test_other_weights_are_scored_by_the_same_program(
    model: CLIP, batches: Calibration, taylor: Gates
) -> None:
    other = nnx.merge(*nnx.split(model))
    other.logit_scale[...] = model.logit_scale[...] - 0.5
    programs = _mean_squared_taylor._cache_size()
    found = score_units(other, batches)
    assert _mean_squared_taylor._cache_size() == programs
    assert not np.allclose(found.vision.heads, taylor.vision.heads)


def test_scores_that_cannot_be_are_refused(model: CLIP, batches: Calibration) -> None:
    with pytest.raises(ValueError, match="expected one of taylor, loss, magnitude"):
        score_units(model, batches, "random")  # type: ignore[arg-type]
    for method in METHODS[:2]:
        with pytest.raises(ValueError, match=f"method {method} needs batches"):
            score_units(model, None, method)
    with pytest.raises(ValueError, match="groups is 0"):
        score_units(model, batches, "loss", groups=0)
    with pytest.raises(ValueError, match="not finite on the calibration batches"):
        score_units(model, batches._replace(ids=batches.ids + 1))  # 16 is past the vocabulary
