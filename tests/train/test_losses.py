"""Losses: against float64 NumPy, closed forms, finite differences, and a sharded batch."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from codesign.train.losses import (
    balanced_bias,
    contrastive_loss,
    distillation_loss,
    feature_distillation_loss,
    normalise,
    sigmoid_loss,
    similarity_logits,
)

pytestmark = pytest.mark.usefixtures("quick_compilation")

LABELS = {
    "none": None,
    "all different": [0, 1, 2, 3, 4, 5],
    "shared": [2, 0, 2, 1, 2, 0],
    "all alike": [3, 3, 3, 3, 3, 3],
}


def pairs(batch=6, width=5, seed=0):
    rng = np.random.default_rng(seed)
    return rng.normal(size=(2, batch, width)) * 3


def log_softmax(row):
    return row - row.max() - np.log(np.sum(np.exp(row - row.max())))


def brute_contrastive(images, texts, scale, labels):
    """The formula of the docstring, one pair at a time, in float64."""
    batch = len(images)
    labels = range(batch) if labels is None else labels
    logits = np.empty((batch, batch))
    for b, image in enumerate(images):
        for c, text in enumerate(texts):
            cosine = image @ text / np.linalg.norm(image) / np.linalg.norm(text)
            logits[b, c] = scale * cosine
    total = 0.0
    for b in range(batch):
        positives = [c for c in range(batch) if labels[c] == labels[b]]
        both = log_softmax(logits[b]) + log_softmax(logits[:, b])
        total += sum(both[c] for c in positives) / len(positives)
    return -total / (2 * batch)


def brute_distillation(student, teacher):
    total = 0.0
    for s, t in ((student, teacher), (student.T, teacher.T)):
        rows = [
            np.exp(log_softmax(b)) @ (log_softmax(b) - log_softmax(a))
            for a, b in zip(s, t, strict=True)
        ]
        total += np.mean(rows) / 2
    return total


@pytest.mark.parametrize("scale", [1.0, 14.3, 100.0])
@pytest.mark.parametrize("labels", LABELS.values(), ids=LABELS)
def test_contrastive_equals_brute_force(labels, scale):
    images, texts = pairs()
    given = None if labels is None else jnp.asarray(labels)
    loss = contrastive_loss(jnp.asarray(images), jnp.asarray(texts), scale, given)
    assert loss.shape == () and loss.dtype == jnp.float32
    expected = brute_contrastive(images, texts, scale, labels)
    np.testing.assert_allclose(loss, expected, rtol=1e-5)


@pytest.mark.parametrize("labels", LABELS.values(), ids=LABELS)
def test_uniform_embeddings_cost_log_batch(labels):
    same = jnp.ones((6, 4))
    given = None if labels is None else jnp.asarray(labels)
    np.testing.assert_allclose(contrastive_loss(same, same, 10.0, given), np.log(6), rtol=1e-6)


def test_perfect_pairs_cost_nothing_and_shared_labels_their_entropy():
    basis = jnp.eye(4)
    assert contrastive_loss(basis, basis, 100.0) < 1e-6
    # Two classes of two, each class one direction: the best possible is log 2.
    labels = jnp.array([0, 0, 1, 1])
    classes = basis[labels]
    np.testing.assert_allclose(
        contrastive_loss(classes, classes, 100.0, labels), np.log(2), rtol=1e-6
    )


def test_contrastive_ignores_lengths_and_the_order_of_pairs():
    images, texts = (jnp.asarray(x, jnp.float32) for x in pairs())
    labels = jnp.asarray(LABELS["shared"])
    loss = contrastive_loss(images, texts, 7.0, labels)
    order = jnp.array([3, 1, 5, 0, 2, 4])
    np.testing.assert_allclose(
        contrastive_loss(images[order] * 5, texts[order] / 9, 7.0, labels[order]), loss, rtol=1e-5
    )


@pytest.mark.parametrize("labels", [LABELS["none"], LABELS["shared"]], ids=["none", "shared"])
def test_contrastive_gradient_matches_finite_differences(labels):
    images, texts = pairs()
    given = None if labels is None else jnp.asarray(labels)
    directions = np.random.default_rng(1).normal(size=(2, *images.shape))

    def moved(step):
        at = [x + step * d for x, d in zip((images, texts), directions, strict=True)]
        return brute_contrastive(*at, 5.0 + step, labels)

    gradient = jax.jit(jax.grad(contrastive_loss, argnums=(0, 1, 2)))(
        jnp.asarray(images, jnp.float32), jnp.asarray(texts, jnp.float32), 5.0, given
    )
    along = np.sum(gradient[0] * directions[0]) + np.sum(gradient[1] * directions[1])
    step = 1e-5
    expected = (moved(step) - moved(-step)) / (2 * step)
    np.testing.assert_allclose(along + gradient[2], expected, rtol=1e-4)


def test_zero_embeddings_have_finite_loss_and_gradient():
    zeros = jnp.zeros((3, 4))
    loss, gradient = jax.jit(jax.value_and_grad(contrastive_loss))(zeros, zeros, 10.0)
    np.testing.assert_allclose(loss, np.log(3), rtol=1e-6)
    assert np.isfinite(gradient).all()


def test_bfloat16_embeddings_are_compared_in_float32():
    images, texts = (jnp.asarray(x, jnp.bfloat16) for x in pairs())
    loss = contrastive_loss(images, texts, 100.0)
    exact = [np.asarray(x, np.float64) for x in (images, texts)]
    assert loss.dtype == jnp.float32
    np.testing.assert_allclose(loss, brute_contrastive(*exact, 100.0, None), rtol=1e-5)


def test_similarities_are_scaled_cosines():
    images = jnp.array([[2.0, 0.0], [0.0, 3.0]])
    texts = jnp.array([[5.0, 0.0], [0.0, 1.0], [-1.0, 0.0]])
    expected = [[10.0, 0.0, -10.0], [0.0, 10.0, 0.0]]
    np.testing.assert_allclose(similarity_logits(images, texts, 10.0), expected, atol=1e-6)
    np.testing.assert_allclose(normalise(jnp.array([3.0, 4.0])), [0.6, 0.8], rtol=1e-6)


@pytest.mark.parametrize("shape", [(5, 5), (4, 7)])
def test_distillation_equals_brute_force(shape):
    rng = np.random.default_rng(0)
    student, teacher = rng.normal(size=(2, *shape)) * 8
    loss = distillation_loss(jnp.asarray(student), jnp.asarray(teacher))
    np.testing.assert_allclose(loss, brute_distillation(student, teacher), rtol=1e-5)


def test_distillation_is_zero_and_flat_at_the_teacher():
    logits = jax.random.normal(jax.random.key(0), (5, 5)) * 20
    loss, gradient = jax.jit(jax.value_and_grad(distillation_loss))(logits, logits)
    np.testing.assert_allclose(loss, 0, atol=1e-6)
    np.testing.assert_allclose(gradient, 0, atol=1e-6)


def test_distillation_gradient_matches_finite_differences_and_spares_the_teacher():
    rng = np.random.default_rng(0)
    student, teacher, direction = rng.normal(size=(3, 4, 4)) * 3
    step = 1e-5
    expected = (
        brute_distillation(student + step * direction, teacher)
        - brute_distillation(student - step * direction, teacher)
    ) / (2 * step)
    to_student, to_teacher = jax.jit(jax.grad(distillation_loss, argnums=(0, 1)))(
        jnp.asarray(student, jnp.float32), jnp.asarray(teacher, jnp.float32)
    )
    np.testing.assert_allclose(np.sum(to_student * direction), expected, rtol=1e-4)
    np.testing.assert_array_equal(to_teacher, 0)


def test_vmap_equals_a_loop_and_jit_equals_no_jit():
    images, texts = (jnp.asarray(x, jnp.float32) for x in pairs())
    labels = jnp.asarray(LABELS["shared"])
    many = jnp.stack([images, 2 * images + 1, texts])
    loop = [contrastive_loss(one, texts, 5.0, labels) for one in many]
    batched = jax.jit(jax.vmap(lambda one: contrastive_loss(one, texts, 5.0, labels)))(many)
    np.testing.assert_allclose(batched, jnp.stack(loop), rtol=1e-5)


def test_sharded_batch_equals_whole():
    images, texts = (jnp.asarray(x, jnp.float32) for x in pairs(batch=8))
    labels = jnp.array([0, 1, 0, 2, 3, 3, 0, 1])
    count = max(n for n in (1, 2, 4, 8) if n <= jax.device_count())
    mesh = jax.sharding.Mesh(np.asarray(jax.devices()[:count]), ("batch",))
    over_batch = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("batch"))
    step = jax.jit(jax.value_and_grad(contrastive_loss))
    loss, gradient = step(images, texts, 9.0, labels)
    shards = [jax.device_put(x, over_batch) for x in (images, texts)]
    sharded_loss, sharded_gradient = step(*shards, 9.0, jax.device_put(labels, over_batch))
    np.testing.assert_allclose(sharded_loss, loss, rtol=1e-6)
    np.testing.assert_allclose(sharded_gradient, gradient, atol=1e-6)


@pytest.mark.parametrize(
    ("images", "texts", "labels"),
    [
        ((4, 3), (5, 3), None),
        ((4, 3), (4, 2), None),
        ((4,), (4,), None),
        ((4, 3), (4, 3), np.zeros(3, np.int32)),
        ((4, 3), (4, 3), np.zeros(4, np.float32)),
    ],
)
def test_wrong_shapes_and_types_are_refused(images, texts, labels):
    with pytest.raises(AssertionError):
        contrastive_loss(jnp.ones(images), jnp.ones(texts), 1.0, labels)
    with pytest.raises(AssertionError):
        distillation_loss(jnp.ones((3, 3)), jnp.ones((3, 4)))


@pytest.mark.parametrize("labels", LABELS.values(), ids=LABELS)
def test_sigmoid_loss_equals_brute_force(labels):
    images, texts = pairs()
    given = None if labels is None else jnp.asarray(labels)
    scale, bias = 14.3, -4.0
    expected = 0.0
    for b in range(6):
        for c in range(6):
            same = b == c if labels is None else labels[b] == labels[c]
            cosine = images[b] @ texts[c]
            cosine /= np.linalg.norm(images[b]) * np.linalg.norm(texts[c])
            expected += np.log1p(np.exp((-1 if same else 1) * (scale * cosine + bias))) / 6
    loss = sigmoid_loss(jnp.asarray(images), jnp.asarray(texts), scale, bias, given)
    np.testing.assert_allclose(loss, expected, rtol=1e-5)


@pytest.mark.parametrize("scale", [1.0, 20.0, 100.0])
@pytest.mark.parametrize("positives", [0.5, 6.0, 35.0])
def test_balanced_bias_expects_the_true_number_of_positives(scale, positives):
    images, texts = pairs()
    logits = similarity_logits(jnp.asarray(images), jnp.asarray(texts), scale)
    bias = balanced_bias(logits, positives)
    expected = np.sum(1 / (1 + np.exp(-(np.asarray(logits, np.float64) + float(bias)))))
    np.testing.assert_allclose(expected, positives, rtol=1e-4)


def test_feature_distillation_is_twice_one_minus_cosine():
    student, teacher = pairs()
    cosines = np.sum(student * teacher, -1)
    cosines /= np.linalg.norm(student, axis=-1) * np.linalg.norm(teacher, axis=-1)
    loss = feature_distillation_loss(jnp.asarray(student), jnp.asarray(teacher))
    np.testing.assert_allclose(loss, np.mean(2 - 2 * cosines), rtol=1e-5)
    to_teacher = jax.grad(feature_distillation_loss, argnums=1)
    assert not np.any(to_teacher(jnp.asarray(student), jnp.asarray(teacher)))
