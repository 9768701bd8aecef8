"""Pictures and captions: as OpenCLIP and transformers prepare them, without torch."""

from __future__ import annotations

import json
import shutil
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
import transformers

from codesign.errors import UserError
from codesign.models.formats import ImageSettings, load_processor, save_clip
from codesign.models.formats.image_settings import image_settings, write_image_settings
from codesign.models.formats.processor import make_processor
from codesign.train.data import load_tokenizer, train_tokenizer

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


@pytest.fixture(scope="module")
def words() -> Any:
    return train_tokenizer(["a photo of a cat and a dog"])


def grey_clip(vocab: int) -> Any:
    """What `load_processor` asks of a CLIP: one of grey 8 x 8 pictures and word tokens."""
    architecture = types.SimpleNamespace(image=8, channels=1, context=6, vocab=vocab)
    dialect = types.SimpleNamespace(end_of_text=None)
    return types.SimpleNamespace(architecture=architecture, dialect=dialect)


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
        # torchvision's CenterCrop rounds to the even of two, transformers down.
        even = settings.half_pixel == "even"
        left, top = (round((n - size) / 2) if even else (n - size) // 2 for n in picture.size)
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


@pytest.mark.parametrize("resize", ["shortest", "squash", "longest"])
@pytest.mark.parametrize("mode", ["RGB", "L"])
def test_pixels_normalised_are_the_images(words: Any, resize: str, mode: str) -> None:
    colours = {"RGB": ((0.48, 0.45, 0.4), (0.26, 0.25, 0.27)), "L": ((0.4,), (0.3,))}[mode]
    settings = ImageSettings(8, *colours, resize, fill=200)
    processor = make_processor(settings, words, 6)
    rng = np.random.default_rng(0)
    normalise = jax.jit(processor.normalise)
    for width, height in ((30, 20), (8, 8)):
        picture = Image.fromarray(rng.integers(0, 256, (height, width, 3), np.uint8))
        pixels = processor.pixels(picture)
        assert pixels.dtype == np.uint8 and pixels.shape == (8, 8, len(colours[0]))
        exact = (pixels / 255.0 - colours[0]) / colours[1]
        np.testing.assert_allclose(processor.images(picture)[0], exact, atol=5e-7)
        on_device = normalise(pixels)
        assert on_device.dtype == np.float32
        np.testing.assert_allclose(on_device, processor.images(picture)[0], atol=5e-7)
        np.testing.assert_array_equal(processor.pixels(np.asarray(picture)), pixels)
        np.testing.assert_array_equal(processor.pixels(picture.convert(mode)), pixels)
    grey = rng.integers(0, 256, (9, 7), np.uint8)
    np.testing.assert_array_equal(processor.pixels(grey), processor.pixels(grey[..., None]))


@pytest.mark.parametrize("resize", ["shortest", "squash"])
def test_pictures_are_those_of_huggingface(words: Any, resize: str) -> None:
    settings = ImageSettings(16, resize=resize)
    theirs = transformers.CLIPImageProcessorPil(**settings.huggingface())
    rng = np.random.default_rng(0)
    array = rng.integers(0, 256, (27, 41, 3), np.uint8)
    for picture in (Image.fromarray(array), Image.fromarray(array[:16, :16])):
        for converted in (picture, picture.convert("P"), picture.convert("RGBA")):
            expected = theirs([converted], return_tensors="np")["pixel_values"][0]
            ours = make_processor(settings, words, 6).images(converted)[0]
            np.testing.assert_allclose(ours, np.moveaxis(expected, 0, -1), atol=5e-7)


def test_a_processor_of_word_tokens(words: Any, tmp_path: Path) -> None:
    texts = ["a photo of a Dog", "a photo of a cat, a dog and a cat", ""]
    processor = make_processor(ImageSettings(8, (0.3,), (0.4,)), words, 6)
    ids = processor.texts(texts)
    np.testing.assert_array_equal(ids, words.encode(texts, 6))  # ends kept, the same padding
    clip = grey_clip(words.vocab_size)
    # As `Processor.save` writes it, and as a lone tokenizer.json.
    processor.save(tmp_path / "whole")
    processor.save(tmp_path / "lone")
    for file in ("tokenizer_config.json", "tokenizer.json"):
        (tmp_path / "lone" / file).unlink()
    words.save(tmp_path / "lone" / "tokenizer.json")
    for place in ("whole", "lone"):
        loaded = load_processor(tmp_path / place, clip)
        assert loaded.settings == processor.settings and loaded.context == 6
        np.testing.assert_array_equal(loaded.texts(texts), ids)
        again = load_tokenizer(tmp_path / place / "tokenizer.json")
        np.testing.assert_array_equal(again.encode(texts, 6), ids)
    assert not list((tmp_path / "whole").glob(".*"))


def test_wrong_channels_and_tokenizers_without_an_end(words: Any, tmp_path: Path) -> None:
    words.save(tmp_path / "tokenizer.json")
    clip = grey_clip(words.vocab_size)
    with pytest.raises(UserError, match=r"have 1 channels, .* is for 3; put a preproc.* length 1"):
        load_processor(tmp_path, clip)
    make_processor(ImageSettings(8, (0.3,), (0.4,)), words, 6).save(tmp_path)
    tokenizer = json.loads((tmp_path / "tokenizer.json").read_text())
    (tmp_path / "tokenizer.json").write_text(json.dumps(tokenizer | {"post_processor": None}))
    with pytest.raises(UserError, match="does not end texts with their end token"):
        load_processor(tmp_path, clip)


def test_a_saved_processor_loads_back(
    checkpoint: Path, tmp_path: Path, quiet_load: Callable
) -> None:
    clip = quiet_load(checkpoint)
    for resize in ("shortest", "squash", "longest"):
        settings = ImageSettings(8, (0.5, 0.4, 0.3), (0.2, 0.3, 0.4), resize, "bilinear")
        config = {"preprocess_cfg": settings.openclip()}
        (checkpoint / "open_clip_config.json").write_text(json.dumps(config))
        before = load_processor(checkpoint, clip)
        before.save(tmp_path / "out")
        after = load_processor(tmp_path / "out", clip)
        assert after.settings == settings
        texts = ["abc de", "abc de abc de abc de abc"]
        np.testing.assert_array_equal(after.texts(texts), before.texts(texts))


def test_settings_survive_both_spellings(tmp_path: Path) -> None:
    assert image_settings(tmp_path) == ImageSettings()  # OpenAI's where nothing is said
    for settings in (
        ImageSettings(96, (0.1, 0.2, 0.3), (0.4, 0.5, 0.6)),
        ImageSettings(64, resize="squash", interpolation="bilinear"),
        ImageSettings(64, resize="longest", fill=9),
        ImageSettings(8, (0.3,), (0.4,)),
        ImageSettings(8, half_pixel="even"),
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


def test_the_processors_config_of_transformers_5(tmp_path: Path) -> None:
    """It is the only one that version 5 writes, and where both are there it comes first."""
    settings = ImageSettings(64, (0.5,) * 3, (0.5,) * 3, interpolation="bilinear")
    kind = getattr(transformers, "CLIPImageProcessorPil", None) or transformers.CLIPImageProcessor
    processor = kind(
        size={"shortest_edge": 64},
        crop_size={"height": 64, "width": 64},
        resample=2,
        image_mean=[0.5] * 3,
        image_std=[0.5] * 3,
    )
    both = {"processor_class": "CLIPProcessor", "image_processor": processor.to_dict()}
    (tmp_path / "processor_config.json").write_text(json.dumps(both))
    assert image_settings(tmp_path) == settings
    older = ImageSettings(32)
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(older.huggingface()))
    assert image_settings(tmp_path) == settings
    # One that says nothing of pictures leaves them to the other.
    (tmp_path / "processor_config.json").write_text(json.dumps({"processor_class": "x"}))
    assert image_settings(tmp_path) == older
    both["image_processor"] = {"do_normalize": False}
    (tmp_path / "processor_config.json").write_text(json.dumps(both))
    with pytest.raises(UserError, match=r"processor_config.json: .* another preprocessing"):
        image_settings(tmp_path)
    (tmp_path / "processor_config.json").write_text("[]")
    with pytest.raises(UserError, match="expected an object"):
        image_settings(tmp_path)


def test_saving_beside_the_processors_config(words: Any, tmp_path: Path) -> None:
    """What was written is what is read, though another config there would come first."""
    old = {"image_processor": ImageSettings(32).huggingface(), "processor_class": "CLIPProcessor"}
    (tmp_path / "processor_config.json").write_text(json.dumps(old))
    settings = ImageSettings(64, resize="squash")
    make_processor(settings, words, 6).save(tmp_path)
    assert image_settings(tmp_path) == settings


@pytest.mark.parametrize("interpolation", ["bicubic", "bilinear"])
@pytest.mark.parametrize("shape", [(11, 8), (8, 11), (13, 8), (9, 8), (8, 8), (27, 16), (120, 8)])
def test_openclip_cuts_the_middle_as_torchvision_does(
    shape: tuple[int, int], interpolation: str, words: Any, tmp_path: Path
) -> None:
    """Of 3 pixels 2 come off before the middle, where transformers takes 1."""
    config = {"preprocess_cfg": {"size": 8, "interpolation": interpolation}}
    (tmp_path / "open_clip_config.json").write_text(json.dumps(config))
    settings = image_settings(tmp_path)
    assert settings == ImageSettings(8, interpolation=interpolation, half_pixel="even")
    noise = np.random.default_rng(0).integers(0, 256, (*shape, 3), np.uint8)
    found = make_processor(settings, words, 6).images(noise)[0]
    # Extreme shapes by bounded work, which may differ by one level in 255.
    atol = 1 / (255 * min(settings.std)) + 1e-6 if max(shape) > 64 else 1e-6
    np.testing.assert_allclose(found, expected_pixels(Image.fromarray(noise), settings), atol=atol)


def test_openclips_rectangles_and_other_colours_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "open_clip_config.json"
    path.write_text(json.dumps({"preprocess_cfg": {"size": [256, 64]}}))
    with pytest.raises(UserError, match=r"preprocess_cfg.size is \[256, 64\]; only squares"):
        image_settings(tmp_path)
    for mode, mean in (("L", [0.5] * 3), ("RGB", [0.5]), ("BGR", [0.5] * 3)):
        said = {"mode": mode, "mean": mean, "std": mean}
        path.write_text(json.dumps({"preprocess_cfg": said}))
        with pytest.raises(UserError, match=r"preprocess_cfg.mode is "):
            image_settings(tmp_path)
    path.write_text(json.dumps({"preprocess_cfg": {"size": [64, 64]}}))
    assert image_settings(tmp_path) == ImageSettings(64, half_pixel="even")


def test_no_tokenizer_and_no_network(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: Any
) -> None:
    import huggingface_hub.constants as constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    clip = grey_clip(49408)
    clip.architecture.channels = 3
    with pytest.raises(
        UserError, match=r"no tokenizer is beside the checkpoint.*give tokenizer \(--"
    ):
        load_processor(tmp_path, clip)


@pytest.mark.parametrize(
    "config",
    [
        {"do_normalize": False},
        {"size": {"shortest_edge": 256}},
        {"resample": 0},
        {"rescale_factor": 1.0},
        {"size": {"height": 224, "width": 112}},
        {"size": {"shortest_edge": 224, "longest_edge": 336}},
        {"size": {"longest_edge": 224}},
        {"do_center_crop": False},
        {"do_resize": False},
        {"do_rescale": False},
        {"crop_size": {"height": 224, "width": 112}},
    ],
)
def test_other_preprocessing_is_refused(tmp_path: Path, config: dict) -> None:
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(config))
    (field,) = config
    field = "crop_size" if config.get(field) == {"shortest_edge": 256} else field
    with pytest.raises(UserError, match=f"asks for another preprocessing by its {field}"):
        image_settings(tmp_path)


@pytest.mark.parametrize("name", ["ViTImageProcessor", "SiglipImageProcessorFast"])
def test_other_processors_cut_nothing_and_say_all(tmp_path: Path, name: str) -> None:
    """A network's own: they have other defaults than CLIP's."""
    said = {
        "image_processor_type": name,
        "size": {"height": 96, "width": 96},
        "resample": 2,
        "image_mean": [0.5] * 3,
        "image_std": [0.5] * 3,
    }
    path = tmp_path / "preprocessor_config.json"
    path.write_text(json.dumps(said))
    expected = ImageSettings(96, (0.5,) * 3, (0.5,) * 3, "squash", "bilinear")
    assert image_settings(tmp_path) == expected
    for field in ("resample", "image_mean", "image_std", "size"):
        path.write_text(json.dumps({key: value for key, value in said.items() if key != field}))
        with pytest.raises(UserError, match=rf"ImageProcessor without {field}, which is not"):
            image_settings(tmp_path)


def test_a_processor_with_steps_of_its_own_is_refused(tmp_path: Path) -> None:
    """ConvNeXt's resizes to more and cuts, by a crop_pct that its config need not say."""
    said = ImageSettings(96).huggingface() | {"image_processor_type": "ConvNextImageProcessor"}
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(said))
    with pytest.raises(UserError, match="what a ConvNextImageProcessor does beyond these settings"):
        image_settings(tmp_path)


SQUARES: dict[str, tuple[dict[str, Any], ImageSettings | None]] = {
    "a number": ({"size": 24}, ImageSettings(24)),
    "a number for both sides": (
        {"size": 24, "default_to_square": True},
        ImageSettings(24, resize="squash"),
    ),
    "sides are said": (
        {"size": {"shortest_edge": 24}, "default_to_square": True},
        ImageSettings(24),
    ),
    "filled up to what it is": (
        {"do_pad": True, "pad_size": {"height": 24, "width": 24}},
        ImageSettings(24),
    ),
    "filled up to the largest": ({"do_pad": True}, ImageSettings(24)),
    "not filled up": ({"do_pad": False, "pad_size": 48}, ImageSettings(24)),
    "filled up to more": ({"do_pad": True, "pad_size": {"height": 48, "width": 48}}, None),
    "both to the processor's own": (
        {"size": 224, "crop_size": 224, "use_square_size": True},
        ImageSettings(224, resize="squash"),
    ),
    "both to another": ({"use_square_size": True}, None),
    "both as usual": ({"use_square_size": False}, ImageSettings(24)),
}


@pytest.mark.parametrize("case", SQUARES)
def test_squares_are_those_of_transformers(words: Any, tmp_path: Path, case: str) -> None:
    changes, expected = SQUARES[case]
    said = {"size": {"shortest_edge": 24}, "crop_size": {"height": 24, "width": 24}, **changes}
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(said))
    noise = np.random.default_rng(0).integers(0, 256, (30, 41, 3), np.uint8)
    picture = Image.fromarray(noise)
    theirs = transformers.CLIPImageProcessorPil.from_pretrained(tmp_path)
    pixels = theirs(picture, return_tensors="np")["pixel_values"][0]
    if expected is None:
        with pytest.raises(UserError, match=r"preprocessing by its (do_pad|use_square_size)"):
            image_settings(tmp_path)
        return
    assert image_settings(tmp_path) == expected
    ours = make_processor(expected, words, 6).images(picture)[0]
    np.testing.assert_allclose(ours, np.moveaxis(pixels, 0, -1), atol=5e-7)


@pytest.mark.parametrize("format", ["huggingface", "openclip"])
def test_of_two_configs_that_of_the_weights_counts(
    files: dict[str, Path], tmp_path: Path, format: str, recwarn: Any
) -> None:
    folder = shutil.copytree(files[format], tmp_path / "clip")
    huggingface = ImageSettings(8, (0.5, 0.4, 0.3))
    openclip = ImageSettings(8, (0.5, 0.4, 0.3), half_pixel="even")

    def write(settings: ImageSettings) -> None:
        file = folder / "open_clip_config.json"
        kept = json.loads(file.read_text()) if file.is_file() else {}
        file.write_text(json.dumps(kept | {"preprocess_cfg": settings.openclip()}))

    (folder / "preprocessor_config.json").write_text(json.dumps(huggingface.huggingface()))
    write(openclip)
    expected = huggingface if format == "huggingface" else openclip
    # Where the middle is, the formats' programs always differ.
    assert image_settings(folder) == expected and not recwarn.list
    openclip = ImageSettings(8, (0.1, 0.2, 0.3), resize="squash", half_pixel="even")
    write(openclip)
    expected, mine = (
        (huggingface, "preprocessor_config")
        if format == "huggingface"
        else (openclip, "open_clip_config")
    )
    for checkpoint in (None, next(folder.glob("*.[sp]*t*"))):
        with pytest.warns(UserWarning, match=rf"mean .*; resize .*; taken is {mine}.json, as the"):
            assert image_settings(folder, checkpoint) == expected
    # What a run writes there is what it reads.
    write_image_settings(folder, ImageSettings(8, resize="longest", half_pixel=expected.half_pixel))
    found = image_settings(folder)
    assert found == ImageSettings(8, resize="longest", half_pixel=expected.half_pixel)


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


@pytest.mark.parametrize(
    ("said", "message"),
    [
        ({"hf_tokenizer_name": "bert"}, "the tokenizer is 'bert', which is not beside it; give"),
        ({"tokenizer_mode": "clips"}, r"text_cfg.tokenizer_mode = 'clips' is not supported; give"),
        ({"tokenizer_kwargs": {"clean": "canonicalize"}}, r"tokenizer_kwargs.clean = 'canonical"),
        ({"tokenizer_kwargs": {"strip_sep_token": True}}, r"kwargs.strip_sep_token = True is not"),
    ],
)
def test_openclips_own_tokenizers(
    words: Any, tmp_path: Path, said: dict[str, Any], message: str
) -> None:
    clip = grey_clip(words.vocab_size)
    make_processor(ImageSettings(8, (0.3,), (0.4,)), words, 6).save(tmp_path / "beside")
    config = tmp_path / "open_clip_config.json"
    config.write_text(json.dumps({"model_cfg": {"text_cfg": said}}))
    (tmp_path / "preprocessor_config.json").write_text(
        json.dumps(ImageSettings(8, (0.3,), (0.4,)).huggingface())
    )
    with pytest.raises(UserError, match=message):
        load_processor(tmp_path, clip)
    load_processor(tmp_path, clip, tokenizer=tmp_path / "beside")
    usual = {"hf_tokenizer_name": "mine", "tokenizer_kwargs": {"clean": "whitespace"}}
    config.write_text(json.dumps({"model_cfg": {"text_cfg": usual}}))
    shutil.copyfile(config, tmp_path / "beside" / config.name)
    load_processor(tmp_path / "beside", clip)


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
