"""Evaluation: hand-made embeddings with known answers, and the batched whole."""

import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from codesign.architecture import Architecture, Tower
from codesign.errors import RunError, UserError
from codesign.models import CLIP
from codesign.models.formats import make_processor
from codesign.train import zero_shot
from codesign.train.data import DataConfig, train_tokenizer
from codesign.train.data.captions import captions
from codesign.train.data.named import open_named
from codesign.train.evaluate import class_embeddings, retrieval_recall, zero_shot_accuracy
from codesign.train.feed import caption_ids, in_memory, pixels_of_all
from codesign.train.zero_shot import evaluate_images, first_is_right

pytestmark = pytest.mark.usefixtures("quick_compilation")

EAST, NORTH, WEST = [1.0, 0.0], [0.0, 1.0], [-1.0, 0.0]


@pytest.fixture(scope="module")
def data():
    opened = open_named(DataConfig(train_limit=10, test_fraction=0.1))
    texts = captions(opened.train.class_names, opened.train.templates)
    words = train_tokenizer([text for row in texts for text in row])
    processor = make_processor(opened.settings, words, 16)
    return opened, processor, in_memory(opened.test, processor)


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


@pytest.fixture
def nearest_mean(data, monkeypatch):
    """A nearest-mean classifier dressed as a CLIP's encoders: pixels, and mean pixels of the class.

    Returns the shapes of the batches it is given.
    """
    opened, processor, _ = data
    pixels, shapes = pixels_of_all(opened.validation, processor), []
    labels = opened.validation.labels
    means = np.stack([pixels[labels == c].mean(0).ravel() for c in range(10)])
    # The class of a caption is looked up by its ids, as a text tower would learn to.
    table = caption_ids(opened.train, processor)

    class Encoders:
        def __init__(self, model, processor, batch_size, gates=None):
            self.batch_size = batch_size

        def images(self, pixels):
            shapes.append(pixels.shape)
            return jnp.asarray(pixels.reshape(len(pixels), -1))

        def texts(self, ids):
            match = (ids[:, None, None, :] == table[None]).all(-1).any(-1)
            return match.astype(np.float32) @ means

    monkeypatch.setattr(zero_shot, "Encoders", Encoders)
    return shapes


def test_every_batch_size_gives_the_same_answer_in_batches_of_one_shape(data, nearest_mean):
    _, processor, source = data
    results = []
    for batch_size in (7, 64, 1000):
        nearest_mean.clear()
        results.append(evaluate_images(None, processor, source, batch_size=batch_size))
        assert set(nearest_mean) == {(batch_size, 8, 8, 1)}
    for other in results[1:]:
        np.testing.assert_array_equal(other, results[0])
    assert 0.8 < results[0].zero_shot.mean() < 1
    # Every caption of a class embeds alike here, so both questions have one answer.
    np.testing.assert_array_equal(results[0].retrieved, results[0].zero_shot)


def test_results_of_each_image_are_in_the_sources_order(data, nearest_mean):
    opened, processor, source = data
    results = evaluate_images(None, processor, source, batch_size=64)
    encode = zero_shot.Encoders(None, processor, 64)
    pixels = pixels_of_all(opened.test, processor)
    texts = caption_ids(opened.train, processor)
    embedded = encode.texts(texts.reshape(-1, 16)).reshape(*texts.shape[:2], -1)
    scores = np.asarray(encode.images(pixels)) @ np.asarray(class_embeddings(embedded)).T
    np.testing.assert_array_equal(results.zero_shot, scores.argmax(axis=1) == opened.test.labels)


def test_own_captions_are_retrieved_and_ties_are_wrong():
    queries = np.array([EAST, NORTH, WEST, NORTH])
    candidates = np.array([EAST, NORTH, NORTH, EAST])
    right = first_is_right(queries, candidates, np.arange(4), np.array([0, 1, 3, 0]))
    # The second's caption is as near as the fourth's; the third has none.
    np.testing.assert_array_equal(right, [True, False, False, False])


@pytest.mark.parametrize("tower", ["vision", "text"])
def test_nan_embeddings_are_an_error_not_a_score(data, tower):
    _, processor, source = data
    small = Tower(layers=1, width=8, heads=1, ffn=8)
    model = CLIP(
        Architecture(
            vision=small,
            text=small,
            patch=4,
            image=8,
            channels=1,
            context=16,
            projection=4,
            head_dim=8,
            vocab=len(processor.tokenizer),
        ),
        rngs=nnx.Rngs(0),
    )
    broken = getattr(model, tower)
    broken.projection[...] = broken.projection[...] * jnp.nan
    what = {"vision": "image", "text": "text"}[tower]
    with pytest.raises(RunError, match=f"the {what} embeddings are not finite"):
        evaluate_images(model, processor, source)


def test_wrong_arguments_are_refused(data):
    _, processor, source = data
    with pytest.raises(UserError, match="batch_size is 0"):
        evaluate_images(None, processor, source, batch_size=0)
    with pytest.raises(AssertionError):
        zero_shot_accuracy(jnp.ones((3, 2)), jnp.ones((4, 2)), jnp.zeros(2, jnp.int32))
    with pytest.raises(AssertionError):
        retrieval_recall(jnp.ones((3, 2)), jnp.ones((4, 2)), jnp.zeros(3, jnp.int32))
