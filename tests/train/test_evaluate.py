"""Evaluation: hand-made embeddings with known answers, and the batched whole."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from codesign.train.data import DataConfig, load_data
from codesign.train.evaluate import (
    class_embeddings,
    evaluate_clip,
    evaluate_images,
    retrieval_recall,
    zero_shot_accuracy,
)

pytestmark = pytest.mark.usefixtures("quick_compilation")

EAST, NORTH, WEST = [1.0, 0.0], [0.0, 1.0], [-1.0, 0.0]


@pytest.fixture(scope="module")
def data():
    return load_data(DataConfig(train_limit=10, test_fraction=0.1))


def test_ensemble_averages_directions_not_lengths():
    captions = jnp.array([[[100.0, 0.0], [0.0, 0.01]], [NORTH, NORTH]])
    half = np.sqrt(0.5)
    np.testing.assert_allclose(class_embeddings(captions), [[half, half], NORTH], rtol=1e-6)


def test_accuracy_counts_nearest_classes():
    images = jnp.array([[9.0, 1.0], [1.0, 9.0], [0.1, 0.2], [-5.0, 1.0]])
    classes = jnp.array([EAST, NORTH, WEST])
    assert zero_shot_accuracy(images, classes, jnp.array([0, 1, 1, 2])) == 1.0
    assert zero_shot_accuracy(images, classes, jnp.array([0, 1, 0, 0])) == 0.5


def test_recall_looks_at_single_captions():
    # Class 0 says east or, misleadingly, north; class 1 says a bit east of north.
    captions = jnp.array([[EAST, NORTH], [[0.1, 1.0], [0.2, 1.0]]])
    images, labels = jnp.array([EAST, [0.04, 1.0], WEST]), jnp.array([0, 1, 1])
    # The second image is nearest to the misleading caption, the third too.
    np.testing.assert_allclose(retrieval_recall(images, captions, labels), 1 / 3, rtol=1e-6)
    np.testing.assert_allclose(retrieval_recall(images, captions, labels, k=2), 1.0)
    # The ensemble forgives it.
    assert zero_shot_accuracy(images, class_embeddings(captions), labels) == 1.0


def test_recall_equals_brute_force_and_grows_with_k():
    rng = np.random.default_rng(0)
    images, captions = rng.normal(size=(40, 6)), rng.normal(size=(5, 3, 6))
    labels = rng.integers(5, size=40)
    flat = captions.reshape(15, 6)
    cosines = images @ (flat / np.linalg.norm(flat, axis=1, keepdims=True)).T
    order = np.argsort(-cosines, axis=1) // 3
    recalls = []
    for k in (1, 2, 7, 15):
        expected = np.mean([label in row[:k] for label, row in zip(labels, order, strict=True)])
        recalls.append(
            retrieval_recall(jnp.asarray(images), jnp.asarray(captions), jnp.asarray(labels), k=k)
        )
        np.testing.assert_allclose(recalls[-1], expected, rtol=1e-6)
    assert recalls == sorted(recalls) and recalls[-1] == 1.0


def encoders(data):
    """A nearest-mean classifier dressed as a CLIP: pixels, and mean pixels of the class."""
    split = data.validation
    means = jnp.stack([split.images[split.labels == c].mean(0).ravel() for c in range(10)])
    # The class of a caption is looked up by its ids, as a text tower would learn to.
    table = jnp.asarray(data.caption_ids)

    def image(images):
        return images.reshape(len(images), -1)

    def text(ids):
        match = (ids[:, None, None, :] == table[None]).all(-1).any(-1)
        return match.astype(jnp.float32) @ means

    return image, text


def test_every_batch_size_gives_the_same_answer_in_one_compilation(data):
    image, text = encoders(data)
    results = []
    for batch_size in (7, 64, 1000):
        traces = []

        def counted(x, traces=traces):
            traces.append(x.shape)
            return image(x)

        results.append(evaluate_clip(jax.jit(counted), text, data, "validation", batch_size))
        assert traces == [(batch_size, 8, 8, 1)]
    assert results[0] == results[1] == results[2]
    assert 0.8 < results[0]["zero_shot_accuracy"] < 1
    # Every caption of a class embeds alike here, so both questions have one answer.
    assert results[0]["recall_at_1"] == results[0]["zero_shot_accuracy"]


def test_results_of_each_image_are_in_the_splits_order(data):
    image, text = encoders(data)
    results = evaluate_images(image, text, data, "test", batch_size=64)
    part, (classes, templates, context) = data.test, data.caption_ids.shape
    captions = text(data.caption_ids.reshape(-1, context)).reshape(classes, templates, -1)
    pixels = np.asarray(image(part.images))
    nearest = np.argmax(pixels @ np.asarray(class_embeddings(captions)).T, axis=1)
    np.testing.assert_array_equal(results.zero_shot, nearest == part.labels)
    scores = evaluate_clip(image, text, data, "test")
    assert scores["zero_shot_accuracy"] == results.zero_shot.mean() < 1
    assert scores["recall_at_1"] == results.retrieved.mean()


def test_test_split_is_the_one_asked_for(data):
    image, text = encoders(data)
    seen = []
    evaluate_clip(lambda x: seen.append(x) or image(x), text, data, "test", batch_size=50)
    images = np.concatenate(seen)[: len(data.test.images)]
    np.testing.assert_array_equal(images, data.test.images)


def test_nan_embeddings_are_an_error_not_a_score(data):
    image, text = encoders(data)
    with pytest.raises(FloatingPointError, match="image encoder gave NaN"):
        evaluate_clip(lambda x: image(x) * jnp.nan, text, data, "test")
    with pytest.raises(FloatingPointError, match="text encoder gave NaN"):
        evaluate_clip(image, lambda ids: text(ids) / 0, data, "test")


def test_wrong_arguments_are_refused(data):
    image, text = encoders(data)
    with pytest.raises(ValueError, match="split is 'train'"):
        evaluate_clip(image, text, data, "train")
    with pytest.raises(ValueError, match="batch_size is 0"):
        evaluate_clip(image, text, data, "test", batch_size=0)
    with pytest.raises(AssertionError):
        zero_shot_accuracy(jnp.ones((3, 2)), jnp.ones((4, 2)), jnp.zeros(2, jnp.int32))
    with pytest.raises(AssertionError):
        retrieval_recall(jnp.ones((3, 2)), jnp.ones((4, 2)), jnp.zeros(3, jnp.int32))
