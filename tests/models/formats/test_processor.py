"""Pictures and captions: as OpenCLIP and transformers prepare them, without torch."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from codesign.errors import UserError
from codesign.models.formats import ImageSettings, load_processor, save_clip
from codesign.models.formats.processor import image_settings

Image = pytest.importorskip("PIL.Image")

START, END = "<|startoftext|>", "<|endoftext|>"


@pytest.fixture(scope="module")
def write_tokenizer() -> Callable[..., None]:
    """(folder, words=40): a byte-pair tokenizer with end-of-text at 38, and 39 after it."""

    def write(folder: Path, words: int = 40) -> None:
        letters = "abcdefghijklmnop"
        vocab = [*letters, *(f"{x}</w>" for x in letters), "ab", "abc</w>", "de</w>", "!", "?"]
        vocab = [*vocab, START, END, "!</w>"][:words]
        (folder / "vocab.json").write_text(json.dumps({w: i for i, w in enumerate(vocab)}))
        (folder / "merges.txt").write_text("#version: 0.2\na b\nab c</w>\nd e</w>\n")

    return write


@pytest.fixture
def checkpoint(tmp_path: Path, files: dict[str, Path], write_tokenizer: Callable) -> Path:
    folder = shutil.copytree(files["huggingface"], tmp_path / "clip")
    write_tokenizer(folder)
    return folder


def test_captions(checkpoint: Path, quiet_load: Callable) -> None:
    clip = quiet_load(checkpoint)
    processor = load_processor(checkpoint, clip)
    ids = processor.texts(["abc de", "ABC  de abc de abc de abc de", ""])
    assert ids.shape == (3, 7) and ids.dtype == np.int32
    abc, de, start, end = 33, 34, 37, 38
    np.testing.assert_array_equal(ids[0], [start, abc, de, end, end, end, end])
    np.testing.assert_array_equal(ids[1], [start, abc, de, abc, de, abc, end])  # the end is kept
    np.testing.assert_array_equal(ids[2], [start, end, end, end, end, end, end])
    np.testing.assert_array_equal(processor.texts("abc de"), ids[:1])


def expected_pixels(picture: Any, settings: ImageSettings) -> np.ndarray:
    """Section by section as OpenCLIP describes it, by Pillow."""
    size, (width, height) = settings.size, picture.size
    code = {"bicubic": 3, "bilinear": 2}[settings.interpolation]
    if settings.resize == "squash":
        picture = picture.resize((size, size), code)
    elif settings.resize == "shortest":
        short, long = sorted((width, height))
        scaled = int(size * long / short)
        shape = (size, scaled) if width <= height else (scaled, size)
        picture = picture.resize(shape, code)
        left, top = ((n - size) // 2 for n in picture.size)
        picture = picture.crop((left, top, left + size, top + size))
    else:
        scale = size / max(width, height)
        picture = picture.resize((round(width * scale), round(height * scale)), code)
        square = Image.new("RGB", (size, size), (settings.fill,) * 3)
        square.paste(picture, tuple((size - n) // 2 for n in picture.size))
        picture = square
    return (np.float64(picture) / 255 - settings.mean) / settings.std


@pytest.mark.parametrize("resize", ["shortest", "squash", "longest"])
@pytest.mark.parametrize("interpolation", ["bicubic", "bilinear"])
def test_pictures(checkpoint: Path, quiet_load: Callable, resize: str, interpolation: str) -> None:
    settings = ImageSettings(8, (0.5, 0.4, 0.3), (0.2, 0.3, 0.4), resize, interpolation, 77)
    config = {"preprocess_cfg": settings.openclip()}
    (checkpoint / "open_clip_config.json").write_text(json.dumps(config))
    processor = load_processor(checkpoint, quiet_load(checkpoint))
    assert processor.settings == settings
    rng = np.random.default_rng(0)
    for width, height in ((30, 20), (13, 40), (8, 8), (5, 7)):
        array = rng.integers(0, 256, (height, width, 3), np.uint8)
        pixels = processor.images([Image.fromarray(array)])
        assert pixels.shape == (1, 8, 8, 3) and pixels.dtype == np.float32
        expected = expected_pixels(Image.fromarray(array), settings)
        np.testing.assert_allclose(pixels[0], expected, atol=1e-6)
        np.testing.assert_array_equal(processor.images(array), pixels)
    grey = processor.images(Image.new("L", (9, 9), 128))[0, 4, 4]
    expected = (128 / 255 - np.array(settings.mean)) / settings.std
    np.testing.assert_allclose(grey, expected, atol=1e-6)


def test_settings_survive_both_spellings(tmp_path: Path) -> None:
    assert image_settings(tmp_path) == ImageSettings()  # OpenAI's where nothing is said
    for settings in (
        ImageSettings(96, (0.1, 0.2, 0.3), (0.4, 0.5, 0.6)),
        ImageSettings(64, resize="squash", interpolation="bilinear"),
    ):
        path = tmp_path / "open_clip_config.json"
        path.write_text(json.dumps({"preprocess_cfg": settings.openclip()}))
        assert image_settings(tmp_path) == settings
        path = tmp_path / "preprocessor_config.json"
        path.write_text(json.dumps(settings.huggingface()))
        assert image_settings(tmp_path) == settings
        path.unlink()
    # As written before 2023.
    path.write_text(json.dumps({"size": 336, "crop_size": 336, "resample": 3}))
    assert image_settings(tmp_path) == ImageSettings(336)


@pytest.mark.parametrize(
    "config",
    [
        {"do_normalize": False},
        {"size": {"shortest_edge": 256}},
        {"resample": 0},
        {"rescale_factor": 1.0},
        {"size": {"height": 224, "width": 112}},
    ],
)
def test_other_preprocessing_is_refused(tmp_path: Path, config: dict) -> None:
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(config))
    with pytest.raises(UserError, match="asks for another preprocessing"):
        image_settings(tmp_path)


def test_tokenizers_of_other_models(
    checkpoint: Path, tmp_path: Path, quiet_load: Callable, write_tokenizer: Callable
) -> None:
    clip = quiet_load(checkpoint)
    other = tmp_path / "other"
    other.mkdir()
    with pytest.raises(UserError, match=r"other holds no tokenizer"):
        load_processor(checkpoint, clip, tokenizer=other)
    write_tokenizer(other)
    vocab = json.loads((other / "vocab.json").read_text())
    more = vocab | {"x": 40, "y": 41}
    (other / "vocab.json").write_text(json.dumps(more))
    with pytest.raises(UserError, match=r"has 42 words, the checkpoint's token table 40; give the"):
        load_processor(checkpoint, clip, tokenizer=other)
    swapped = vocab | {START: vocab[END], END: vocab[START]}
    (other / "vocab.json").write_text(json.dumps(swapped))
    with pytest.raises(
        UserError, match="ends texts with the id 37, the checkpoint reads them at 38"
    ):
        load_processor(checkpoint, clip, tokenizer=other)
    (checkpoint / "vocab.json").unlink()
    with pytest.raises(UserError, match="vocabulary of 40 is not OpenAI's; give tokenizer"):
        load_processor(checkpoint, clip)
    (other / "tokenizer.json").write_text("{}")
    with pytest.raises(UserError, match="the tokenizer cannot be read"):
        load_processor(checkpoint, clip, tokenizer=other)


def test_side_files_travel_with_a_saved_clip(
    checkpoint: Path, tmp_path: Path, quiet_load: Callable
) -> None:
    settings = ImageSettings(8, (0.5, 0.4, 0.3), (0.2, 0.3, 0.4))
    (checkpoint / "preprocessor_config.json").write_text(json.dumps(settings.huggingface()))
    clip = quiet_load(checkpoint)
    before = load_processor(checkpoint, clip)
    for format in ("hf", "openclip", "native"):
        out = tmp_path / format
        save_clip(clip, out, format, like=checkpoint)
        processor = load_processor(out, quiet_load(out))
        assert processor.settings == settings
        np.testing.assert_array_equal(processor.texts("abc !"), before.texts("abc !"))
