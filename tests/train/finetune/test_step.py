"""The step: parts of a batch, a locked tower, a teacher, an average; against the plain thing."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from codesign.architecture import Architecture, Tower
from codesign.models.formats import ImageSettings
from codesign.train import placement
from codesign.train import step as steps
from codesign.train.clip import ClipTask, Fixed, Weights, make_optimizer, pair_labels
from codesign.train.data import ImageTextBatch, SourceConfig
from codesign.train.finetune.config import (
    FinetuneConfig,
    LossConfig,
    OptimConfig,
    ScheduleConfig,
)
from codesign.train.losses import contrastive_loss, similarity_logits
from codesign.train.network import Network
from codesign.train.step import Trainer
from simulators.networks import random_clip

pytestmark = pytest.mark.usefixtures("quick_compilation")

TINY = Architecture(
    vision=Tower(layers=2, width=8, heads=2, ffn=16),
    text=Tower(layers=1, width=8, heads=2, ffn=16),
    patch=4,
    image=8,
    context=6,
    projection=8,
    head_dim=4,
    vocab=20,
)
SETTINGS = ImageSettings(size=8)


def split(seed=0):
    return nnx.split(random_clip(TINY, seed), nnx.Param, ...)


def batch(size=8, seed=0):
    rng = np.random.default_rng(seed)
    return ImageTextBatch(
        jnp.asarray(rng.integers(0, 256, (size, 8, 8, 3)), jnp.uint8),
        jnp.asarray(rng.integers(0, 20, (size, 6)), jnp.int32),
        jnp.asarray([-1, 0, 1, 0, -1, 2, 2, 3] * (size // 8), jnp.int32),
    )


def trainer(params, graphdef, *, teacher=None, lock="none", micro_batches=1, ema=0.0, **loss):
    config = FinetuneConfig(
        train=SourceConfig(path="unused"),
        loss=LossConfig(**loss),
        lock=lock,
        optim=OptimConfig(lr=1e-2, warmup_steps=0, micro_batches=micro_batches, ema=ema),
        schedule=ScheduleConfig(steps=10),
    )
    optimizer, rate = make_optimizer(config, params, 10, config.optim.lr, 0)
    task = ClipTask(
        student=Network(graphdef, SETTINGS),
        teacher=teacher,
        loss_config=config.loss,
        lock=lock,
        micro_batches=micro_batches,
        mesh=placement.make_mesh(),
    )
    return Trainer(task, optimizer, rate, ema)


def started(t, params):
    return t.init(Weights(params, jnp.zeros((), jnp.float32)))


def total_loss(weights, rest, taught, data, t):
    loss, (parts, _) = steps.total_loss(weights, (), Fixed(rest), taught, data, t.task)
    return loss, parts


def train_step(state, rest, data, t):
    return steps.train_step(state, Fixed(rest), data, jax.random.key(0), t)


@pytest.fixture(scope="module")
def averaging():
    """One trainer for several tests: its step is compiled once."""
    graphdef, params, rest = split()
    return trainer(params, graphdef, ema=0.5), params, rest


def leaves(tree):
    return [np.asarray(leaf) for leaf in jax.tree.leaves(tree)]


@pytest.mark.parametrize("kind", ["softmax", "sigmoid"])
@pytest.mark.slow
def test_parts_of_a_batch_give_the_gradient_of_the_whole(kind):
    graphdef, params, rest = split()
    results = []
    for parts in (1, 4):
        t = trainer(params, graphdef, kind=kind, micro_batches=parts)
        state = started(t, params)
        results.append(
            jax.value_and_grad(total_loss, has_aux=True)(state.params, rest, None, batch(), t)
        )
    ((whole, _), whole_grads), ((cut, _), cut_grads) = results
    np.testing.assert_allclose(cut, whole, rtol=1e-6)
    for a, b in zip(leaves(cut_grads), leaves(whole_grads), strict=True):
        np.testing.assert_allclose(a, b, rtol=2e-4, atol=1e-6)  # key biases have none


def test_the_loss_is_contrastive_with_labels_where_there_are_some():
    graphdef, params, rest = split()
    t = trainer(params, graphdef)
    data = batch()
    out = t.task.student.embed(params, rest, data.images, data.ids)
    labels = jnp.asarray([-1, 0, 1, 0, -5, 2, 2, 3])  # 0 and 4, without one, are no pair
    np.testing.assert_array_equal(pair_labels(data.labels, True), labels)
    loss, metrics = total_loss(started(t, params).params, rest, None, data, t)
    np.testing.assert_allclose(loss, contrastive_loss(*out, labels), rtol=1e-6)
    assert set(metrics) == {"loss", "contrastive_loss"}


def test_images_are_normalised_as_the_processor_does():
    mean, std = np.asarray(SETTINGS.mean), np.asarray(SETTINGS.std)
    graphdef, _, _ = split()
    pixels = batch().images
    expected = (np.asarray(pixels, np.float64) / 255 - mean) / std
    found = Network(graphdef, SETTINGS).normalised(pixels)
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)


def test_one_step_is_adamw_of_the_clipped_gradient(averaging):
    t, params, rest = averaging
    state = started(t, jax.tree.map(jnp.copy, params))
    (_, _), grads = jax.value_and_grad(total_loss, has_aux=True)(
        state.params, rest, None, batch(), t
    )
    norm = np.sqrt(sum(np.sum(np.square(grad)) for grad in leaves(grads)))
    after, metrics = train_step(state, rest, batch(), t)
    assert float(metrics["grad_norm"]) == pytest.approx(norm, rel=1e-5)
    # The first step of Adam: m / sqrt(v) is g / |g|, nearly.
    before, grad = params["vision"]["projection"][...], grads.clip["vision"]["projection"][...]
    clipped = np.asarray(grad) * min(1.0, 1.0 / norm)
    expected = before - 1e-2 * (clipped / (np.abs(clipped) + 1e-6) + 0.1 * before)
    found = after.params.clip["vision"]["projection"][...]
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)
    assert int(after.step) == 1


@pytest.mark.parametrize("tower", ["vision", pytest.param("text", marks=pytest.mark.slow)])
def test_a_locked_tower_stays_and_has_no_moments(tower):
    graphdef, params, rest = split()
    t = trainer(params, graphdef, lock=tower)
    state = started(t, jax.tree.map(jnp.copy, params))
    moments = len(jax.tree.leaves(state.opt_state))
    everything = started(trainer(params, graphdef), params).opt_state
    assert moments < len(jax.tree.leaves(everything)) - len(jax.tree.leaves(params[tower]))
    after, _ = train_step(state, rest, batch(), t)
    other = "text" if tower == "vision" else "vision"
    for a, b in zip(leaves(after.params.clip[tower]), leaves(params[tower]), strict=True):
        np.testing.assert_array_equal(a, b)
    moved = [
        np.any(a != b)
        for a, b in zip(leaves(after.params.clip[other]), leaves(params[other]), strict=True)
    ]
    assert np.mean(moved) > 0.9


def test_a_student_that_is_its_teacher_has_nothing_to_learn_from_it():
    graphdef, params, rest = split()
    t = trainer(
        params, graphdef, teacher=Network(graphdef, SETTINGS), contrastive=0.0, features=1.0
    )
    taught = t.task.student.embed(params, rest, batch().images, batch().ids)
    loss, metrics = total_loss(started(t, params).params, rest, taught, batch(), t)
    assert abs(float(loss)) < 1e-5
    _, other, _ = split(1)
    loss, metrics = total_loss(started(t, other).params, rest, taught, batch(), t)
    assert float(metrics["distillation_loss"]) > 0 < float(metrics["feature_loss"])
    expected = metrics["distillation_loss"] + metrics["feature_loss"]
    np.testing.assert_allclose(loss, expected, rtol=1e-6)


def test_the_average_follows_with_a_rising_decay(averaging):
    t, params, rest = averaging
    state = started(t, jax.tree.map(jnp.copy, params))
    average = leaves(params)
    for step in range(3):
        state, _ = train_step(state, rest, batch(seed=step), t)
        decay = min(0.5, (1 + step) / (10 + step))
        average = [
            decay * a + (1 - decay) * w
            for a, w in zip(average, leaves(state.params.clip), strict=True)
        ]
    for found, expected in zip(leaves(state.delivered.clip), average, strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-7)


def test_the_first_bias_expects_as_many_pairs_as_there_are():
    graphdef, params, rest = split()
    t = trainer(params, graphdef, kind="sigmoid")
    bias = t.task.first_bias(params, Fixed(rest), batch())
    out = t.task.student.embed(params, rest, batch().images, batch().ids)
    expected = float(jnp.sum(jax.nn.sigmoid(similarity_logits(*out) + bias)))
    assert expected == pytest.approx(8 + 2 * 2, rel=1e-3)  # two labels occur twice


def test_the_stored_scale_stays_below_one_hundred(averaging):
    t, params, rest = averaging
    hot = jax.tree_util.tree_map_with_path(
        lambda path, x: x + 10 if path[0].key == "logit_scale" else jnp.copy(x), params
    )
    _, metrics = train_step(started(t, hot), rest, batch(), t)
    assert float(metrics["logit_scale"]) == pytest.approx(100, rel=1e-5)
