"""Data: splits, captions, tokenizer, the parquet schema, and batches that resume."""

import dataclasses
import hashlib
import io
import sys
import types
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from codesign.models.formats import make_processor
from codesign.train.data import (
    CaptionTokenizer,
    DataConfig,
    DataError,
    augment,
    batch_indices,
    load_tokenizer,
    repeats,
    template_indices,
    train_tokenizer,
)
from codesign.train.data.captions import CIFAR10_NAMES, captions
from codesign.train.data.named import open_named
from codesign.train.data.sources.digits import scans
from codesign.train.data.split import stratified_split
from codesign.train.feed import caption_ids, pixels_of_all

pytestmark = pytest.mark.usefixtures("quick_compilation")

CIFAR10 = Path(__file__).resolve().parents[3] / "shared" / "data" / "cifar10"


def load_data(config):
    """A data set as a search has it, with normalised images."""
    opened = open_named(config)
    source, settings = opened.train, opened.settings
    texts = captions(source.class_names, source.templates)
    tokenizer = train_tokenizer([text for row in texts for text in row])
    processor = make_processor(settings, tokenizer, config.context)

    def split(source):
        images = processor.normalise(pixels_of_all(source, processor))
        return types.SimpleNamespace(images=images, labels=source.labels)

    return types.SimpleNamespace(
        train=split(opened.train),
        validation=split(opened.validation),
        test=split(opened.test),
        class_names=source.class_names,
        templates=source.templates,
        tokenizer=tokenizer,
        caption_ids=caption_ids(source, processor),
        mean=settings.mean,
        std=settings.std,
        image_size=settings.size,
        channels=settings.channels,
        shift=opened.augment.shift,
        flip=opened.augment.flip,
    )


@pytest.fixture(scope="module")
def digits():
    return load_data(DataConfig())


@pytest.fixture
def datasets(tmp_path, monkeypatch):
    """The datasets library, caching inside the test's own folder and saying nothing."""
    library = pytest.importorskip("datasets")
    pytest.importorskip("PIL")
    monkeypatch.setattr(library.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    # Building each fixture's features must not reach the network either.
    monkeypatch.setattr(library.config, "HF_HUB_OFFLINE", True)
    return library


# Splits


@given(
    counts=st.lists(st.integers(1, 40), min_size=1, max_size=5),
    fractions=st.sampled_from([(0.2, 0.2), (0.1,), (0.5, 0.25)]),
    seed=st.integers(0, 9),
)
@settings(max_examples=30, deadline=None)
def test_stratified_split_covers_once_and_keeps_shares(counts, fractions, seed):
    labels = np.repeat(np.arange(len(counts)), counts)
    parts = stratified_split(labels, fractions, seed)
    assert sorted(np.concatenate(parts)) == list(range(len(labels)))
    for part, share in zip(parts[1:], fractions, strict=True):
        for label, count in enumerate(counts):
            assert abs(np.sum(labels[part] == label) - share * count) <= 1
    again = stratified_split(labels, fractions, seed)
    assert all(np.array_equal(a, b) for a, b in zip(parts, again, strict=True))


def test_digits_are_scikit_learns_to_the_bit():
    images, labels = scans()
    stored = images.tobytes() + labels.astype(np.uint8).tobytes()
    assert hashlib.sha256(stored).hexdigest() == (
        "87ff0c9e40dc7e2c0e34e7257799c2e3f3aec1a016363bb11cad869ec428a826"
    )
    theirs = pytest.importorskip("sklearn.datasets").load_digits()
    assert np.array_equal(images, theirs.images) and np.array_equal(labels, theirs.target)


def test_digits_are_whole_normalised_and_stratified(digits):
    splits = (digits.train, digits.validation, digits.test)
    assert sum(len(split.labels) for split in splits) == 1797
    for split, share in zip(splits, (0.6, 0.2, 0.2), strict=True):
        assert split.images.dtype == np.float32 and split.labels.dtype == np.int32
        assert split.images.shape == (len(split.labels), 8, 8, 1)
        assert len(split.labels) == pytest.approx(share * 1797, abs=10)
        assert np.bincount(split.labels).min() > 0.9 * share * 174
    images = np.concatenate([split.images for split in splits])
    assert images.mean() == pytest.approx(0, abs=1e-3)
    assert images.std() == pytest.approx(1, abs=1e-3)
    assert (digits.image_size, digits.channels) == (8, 1)
    assert (digits.shift, digits.flip) == (1, False)


def test_train_limit_is_a_prefix_and_leaves_the_rest_alone(digits):
    limited = load_data(DataConfig(train_limit=50))
    np.testing.assert_array_equal(limited.train.images, digits.train.images[:50])
    np.testing.assert_array_equal(limited.test.images, digits.test.images)
    assert len(set(limited.train.labels)) == 10


def test_seed_changes_the_split(digits):
    other = load_data(DataConfig(seed=1))
    assert not np.array_equal(other.test.labels, digits.test.labels)


# Captions and tokenizer


def test_every_caption_is_tokenized_in_its_place(digits):
    assert digits.caption_ids.shape == (10, len(digits.templates), 16)
    assert digits.caption_ids.dtype == np.int32
    text = digits.templates[3].format("seven")
    np.testing.assert_array_equal(digits.caption_ids[7, 3], digits.tokenizer.encode([text], 16)[0])


def test_underscores_in_class_names_become_spaces():
    assert captions(["sea_lion"], ["a {}", "the {}"]) == [["a sea lion", "the sea lion"]]


@pytest.fixture
def tokenizer():
    return train_tokenizer(["a photo of a cat", "a photo of a Dog, outdoors"])


def test_ids_are_the_documented_ones(tokenizer):
    # Sorted: "," a cat dog of outdoors photo, after [pad] [unk] [sot] and before [eot].
    assert tokenizer.vocab_size == 11
    assert (tokenizer.pad_id, tokenizer.sot_id, tokenizer.eot_id) == (0, 2, 10)
    table = {
        "a photo of a cat": [2, 4, 9, 7, 4, 5, 10, 0],
        "A PHOTO": [2, 4, 9, 10, 0, 0, 0, 0],
        "": [2, 10, 0, 0, 0, 0, 0, 0],
        "a zebra": [2, 4, 1, 10, 0, 0, 0, 0],
        "a photo of a cat of a dog": [2, 4, 9, 7, 4, 5, 7, 10],
    }
    np.testing.assert_array_equal(tokenizer.encode(list(table), 8), list(table.values()))


@given(st.text(max_size=40), st.integers(2, 12))
@settings(max_examples=50, deadline=None)
def test_any_text_pools_at_its_end_token(text, context):
    tokenizer = train_tokenizer(["a photo of a cat"])
    row = tokenizer.encode([text], context)[0]
    end = int(np.argmax(row))
    assert row[0] == tokenizer.sot_id and row[end] == tokenizer.eot_id
    assert not row[end + 1 :].any() and np.count_nonzero(row == tokenizer.eot_id) == 1


def test_vocabulary_does_not_depend_on_the_order_of_captions():
    texts = ["the digit two", "a two", "three of a digit"]
    ids = [train_tokenizer(order).encode(texts, 8) for order in (texts, texts[::-1])]
    np.testing.assert_array_equal(*ids)


def test_saved_tokenizer_loads_back_identical(tokenizer, tmp_path):
    first, second = tmp_path / "tokenizer.json", tmp_path / "again.json"
    tokenizer.save(first)
    loaded = load_tokenizer(first)
    loaded.save(second)
    assert first.read_bytes() == second.read_bytes()
    texts = ["a photo of a cat", "nothing known"]
    np.testing.assert_array_equal(loaded.encode(texts, 9), tokenizer.encode(texts, 9))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["again.json", "tokenizer.json"]


def test_saved_tokenizer_means_the_same_to_huggingface(tokenizer, tmp_path):
    import tokenizers

    tokenizer.save(tmp_path / "tokenizer.json")
    theirs = tokenizers.Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    assert theirs.encode("a photo of a cat").ids == [2, 4, 9, 7, 4, 5, 10]


def test_foreign_tokenizers_are_refused(tmp_path):
    import tokenizers

    broken = tmp_path / "broken.json"
    broken.write_text("{")
    with pytest.raises(ValueError, match=r"is not a tokenizer\.json"):
        load_tokenizer(broken)
    foreign = tokenizers.Tokenizer(tokenizers.models.WordLevel({"[eot]": 0, "[pad]": 1}))
    with pytest.raises(ValueError, match=r"\[pad\] must have id 0"):
        CaptionTokenizer(foreign)


def test_context_below_two_is_refused(tokenizer):
    with pytest.raises(ValueError, match="context is 1"):
        tokenizer.encode(["a"], 1)


def test_a_given_tokenizer_is_used(digits):
    class Reversed:
        context = 16

        def texts(self, texts):
            return digits.tokenizer.encode(texts, self.context)[:, ::-1]

    ids = caption_ids(open_named(DataConfig()).train, Reversed())
    np.testing.assert_array_equal(ids, digits.caption_ids[:, :, ::-1])


# What cannot be read


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (DataConfig(name="mnist"), "'mnist'; choose one of: digits, cifar10"),
        (DataConfig(train_limit=0), "train_limit is 0"),
        (DataConfig(seed=-1), "seed is -1"),
        (DataConfig(context=1), "context is 1"),
        (DataConfig(context=4), "become the same text: raise context"),
        (DataConfig(test_fraction=1.0), "test_fraction is 1.0"),
        (DataConfig(validation_fraction=0.0), "validation_fraction is 0.0"),
        (DataConfig(test_fraction=0.85), "nothing to train on"),
        (DataConfig(test_fraction=1e-4), "test split of digits is empty"),
    ],
    ids=lambda value: value[:30] if isinstance(value, str) else "",
)
def test_bad_configuration_is_one_clear_line(config, message):
    with pytest.raises(DataError, match=message) as caught:
        load_data(config)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("module", ["datasets", "PIL"])
def test_missing_extra_names_the_mend(module, monkeypatch):
    # Once whole: datasets remembers for good whether Pillow was there at its import.
    pytest.importorskip("datasets")
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(DataError) as caught:
        load_data(DataConfig(name="cifar10"))
    assert str(caught.value) == "cifar10 needs the extra: pip install 'codesign[data]'"


# The parquet schema


def png(label, mode="RGB", size=(32, 32)):
    """A flat image whose red channel tells its label."""
    from PIL import Image

    colour = (20 * label, 100, 200) if mode == "RGB" else 20 * label
    buffer = io.BytesIO()
    Image.new(mode, size, colour).save(buffer, "PNG")
    return buffer.getvalue()


def write(folder, train, test=None, image="img", label="label", features=None):
    """Parquet files of (bytes, label) rows, as a plain struct unless `features` says more."""
    import datasets

    folder.mkdir(exist_ok=True)
    for split, rows in (("train", train), ("test", test if test is not None else train)):
        columns = {
            image: [{"bytes": data, "path": f"{i}.png"} for i, (data, _) in enumerate(rows)],
            label: [label for _, label in rows],
        }
        plain = {image: {"bytes": datasets.Value("binary"), "path": datasets.Value("string")}}
        plain[label] = datasets.Value("int64")
        dataset = datasets.Dataset.from_dict(columns, features=datasets.Features(features or plain))
        dataset.to_parquet(folder / f"{split}-00000-of-00001.parquet")
    return DataConfig(name="cifar10", path=str(folder), validation_fraction=0.25)


def rows(count=8, classes=2):
    return [(png(i % classes), i % classes) for i in range(count)]


def red(split, data):
    """The labels that the pixels tell."""
    mean = np.asarray(data.mean, np.float32)
    pixels = (split.images * np.asarray(data.std, np.float32) + mean) * 255
    return np.round(pixels[:, 0, 0, 0] / 20).astype(int)


@pytest.mark.parametrize("kind", ["struct", "hub"])
def test_parquet_of_either_kind_reads_alike(kind, datasets, tmp_path):
    hub = {"image": datasets.Image(), "label": datasets.ClassLabel(names=["sea_lion", "yak"])}
    config = (
        write(tmp_path / "data", rows())
        if kind == "struct"
        else write(tmp_path / "data", rows(), image="image", features=hub)
    )
    data = load_data(config)
    assert data.class_names == (CIFAR10_NAMES if kind == "struct" else ("sea_lion", "yak"))
    assert [len(s.labels) for s in (data.train, data.validation, data.test)] == [6, 2, 8]
    for split in (data.train, data.validation, data.test):
        assert split.images.shape[1:] == (32, 32, 3) and split.images.dtype == np.float32
        np.testing.assert_array_equal(red(split, data), split.labels)
    assert sorted(data.validation.labels) == [0, 1]
    assert (data.shift, data.flip) == (4, True)


def test_limit_is_a_prefix_of_the_whole(datasets, tmp_path):
    config = write(tmp_path / "data", rows(16))
    whole, part = load_data(config), load_data(dataclasses.replace(config, train_limit=3))
    np.testing.assert_array_equal(part.train.images, whole.train.images[:3])
    np.testing.assert_array_equal(part.validation.images, whole.validation.images)


def test_grey_and_large_images_become_rgb_of_32(datasets, tmp_path):
    grey = [(png(i % 2, "L", (40, 50)), i % 2) for i in range(8)]
    data = load_data(write(tmp_path / "data", grey))
    assert data.train.images.shape == (6, 32, 32, 3)
    np.testing.assert_array_equal(red(data.train, data), data.train.labels)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"train": []}, "is empty: no rows in its train split"),
        ({"train": rows, "test": []}, "is empty: no rows in its test split"),
        ({"train": rows, "image": "picture"}, "no column img or image for images; .* label"),
        ({"train": rows, "label": "class"}, "no column label for classes; its columns are: img"),
        ({"train": lambda: [(png(0), -1)] * 8}, "train image 0 has no label: 10 classes"),
        ({"train": lambda: [(png(0), None)] * 8}, "train image 0 has no label: 10 classes"),
        ({"train": lambda: [(png(0), 12)] * 8}, "train image 0 has label 12: 10 classes"),
        ({"train": lambda: [*rows(5), (b"junk", 0), *rows(2)]}, "train image 5 cannot be"),
        ({"train": lambda: [(png(0)[:60], 0)] * 8}, "train image . cannot be decoded"),
        ({"train": lambda: [(b"", 0)] * 8}, "train image . cannot be decoded"),
    ],
    ids=lambda value: value[:30] if isinstance(value, str) else "",
)
def test_unusable_parquet_is_one_clear_line(arguments, message, datasets, tmp_path):
    made = {key: value() if callable(value) else value for key, value in arguments.items()}
    config = write(tmp_path / "data", **made)
    with pytest.raises(DataError, match=message) as caught:
        load_data(config)
    assert "\n" not in str(caught.value)


def test_image_column_of_another_kind_is_refused(datasets, tmp_path):
    numbers = {"img": datasets.Value("int64"), "label": datasets.Value("int64")}
    for split in ("train", "test"):
        table = datasets.Dataset.from_dict(
            {"img": [1, 2], "label": [0, 1]}, features=datasets.Features(numbers)
        )
        table.to_parquet(tmp_path / f"{split}.parquet")
    with pytest.raises(DataError, match="holds no encoded images but"):
        load_data(DataConfig(name="cifar10", path=str(tmp_path)))


def test_paths_that_hold_nothing_are_refused(datasets, tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "train.parquet").write_bytes(b"PAR1 and no more")
    (tmp_path / "alone").mkdir()
    write(tmp_path / "alone", rows())
    (tmp_path / "alone" / "test-00000-of-00001.parquet").unlink()
    table = {
        "absent": "does not exist",
        "empty": "holds no parquet files",
        "broken": "cannot load",
        "broken/train.parquet": "is a file: give the folder",
        "alone": "has no test split",
    }
    for name, message in table.items():
        with pytest.raises(DataError, match=message) as caught:
            load_data(DataConfig(name="cifar10", path=str(tmp_path / name)))
        assert "\n" not in str(caught.value)


def test_hub_name_that_cannot_be_reached_says_so(datasets, monkeypatch):
    def unreachable(name):
        raise ConnectionError(f"Couldn't reach '{name}' on the Hub\nand more")

    monkeypatch.setattr(datasets, "load_dataset", unreachable)
    with pytest.raises(DataError, match=r"^cannot load uoft-cs/cifar10 .*Hub$"):
        load_data(DataConfig(name="cifar10"))


@pytest.mark.skipif(not CIFAR10.is_dir(), reason="no copy of CIFAR-10 beside the checkout")
def test_cifar10_has_its_splits_and_statistics(datasets):
    data = load_data(
        DataConfig(name="cifar10", path=str(CIFAR10), train_limit=500, validation_fraction=0.01)
    )
    assert [len(s.labels) for s in (data.train, data.validation, data.test)] == [500, 500, 5000]
    np.testing.assert_array_equal(np.bincount(data.validation.labels), [50] * 10)
    assert data.test.images.mean() == pytest.approx(0, abs=0.05)
    assert data.test.images.std() == pytest.approx(1, abs=0.05)
    # Ships lie on blue, frogs on green and brown: labels and names belong together.
    blue = [data.test.images[data.test.labels == c][..., 2].mean() for c in (6, 8)]
    assert blue[1] > blue[0]


# Batches


@given(
    seed=st.integers(0, 99),
    n=st.integers(1, 50),
    batch=st.integers(1, 70),
    cuts=st.tuples(st.integers(0, 9), st.integers(0, 9), st.integers(0, 9)),
)
@settings(max_examples=50, deadline=None)
def test_chunks_of_steps_equal_the_whole(seed, n, batch, cuts):
    low, middle, high = sorted(cuts)
    for draw in (batch_indices, template_indices):
        whole = draw(seed, low, high - low, batch, n)
        parts = [
            draw(seed, low, middle - low, batch, n),
            draw(seed, middle, high - middle, batch, n),
        ]
        assert whole.shape == (high - low, batch) and whole.dtype == np.int32
        np.testing.assert_array_equal(np.concatenate(parts), whole)


def test_every_epoch_uses_every_image_once_in_its_own_order():
    epochs = batch_indices(seed=3, step_start=0, steps=15, batch_size=8, n=40).reshape(3, 40)
    for epoch in epochs:
        np.testing.assert_array_equal(np.sort(epoch), np.arange(40))
    assert not np.array_equal(epochs[0], epochs[1])
    assert not np.array_equal(epochs[0], batch_indices(4, 0, 5, 8, 40).ravel())


def test_templates_are_uniform():
    drawn = template_indices(seed=0, step_start=5, steps=50, batch_size=100, templates=4)
    assert np.bincount(drawn.ravel()) == pytest.approx(1250, rel=0.1)


@pytest.mark.parametrize("arguments", [(-1, 1, 1, 1), (0, -1, 1, 1), (0, 1, 0, 1), (0, 1, 1, 0)])
def test_impossible_batches_are_refused(arguments):
    for draw in (batch_indices, template_indices):
        with pytest.raises(ValueError, match="must be at least"):
            draw(0, *arguments)


def test_augment_is_one_of_the_shifts_and_all_occur():
    image = jnp.arange(16.0).reshape(1, 4, 4, 1) + 1
    padded = np.pad(image[0, :, :, 0], 1, mode="edge")
    shifts = {padded[i : i + 4, j : j + 4].tobytes() for i in range(3) for j in range(3)}
    shifted = augment(jax.random.key(0), jnp.tile(image, (200, 1, 1, 1)), shift=1)
    assert {np.asarray(one).tobytes() for one in shifted[..., 0]} == shifts


def test_augment_mirrors_about_half_the_images():
    images = jnp.tile(jnp.arange(4.0).reshape(1, 1, 4, 1), (400, 4, 1, 1))
    flipped = augment(jax.random.key(1), images, shift=0, flip=True)
    mirrored = np.asarray((flipped == images[:, :, ::-1]).all((1, 2, 3)))
    kept = np.asarray((flipped == images).all((1, 2, 3)))
    assert (mirrored ^ kept).all() and 150 < mirrored.sum() < 250


def test_augment_by_nothing_is_the_identity():
    images = jax.random.normal(jax.random.key(0), (3, 5, 5, 2))
    np.testing.assert_array_equal(augment(jax.random.key(1), images, shift=0), images)


def test_a_batch_larger_than_the_data_is_said():
    assert repeats(12, 12) is None
    line = repeats(64, 12)
    assert "a batch of 64 holds some of the 12 pictures more than once" in line
    assert "lower --optim.batch_size" in line and "\n" not in line
