"""JSON beside weights: every value of another kind or out of range is one line with its place."""

from __future__ import annotations

import json
import shutil
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from codesign.errors import UserError
from codesign.models.formats import load_clip, save_clip
from codesign.models.formats.image_settings import image_settings
from simulators.mutations import GONE, changed, mutations

pytestmark = pytest.mark.usefixtures("quick_compilation")

PREPROCESSOR = {
    "size": {"shortest_edge": 8},
    "crop_size": {"height": 8, "width": 8},
    "resample": 3,
    "do_resize": True,
    "do_center_crop": True,
    "do_rescale": True,
    "do_normalize": True,
    "rescale_factor": 1 / 255,
    "image_mean": [0.5, 0.4, 0.3],
    "image_std": [0.2, 0.3, 0.4],
}
# What of these is another network or preprocessing, but a possible one.
POSSIBLE: dict[str, tuple[Any, ...]] = {
    "eos_token_id": (0, 1, [1], GONE),
    "end_of_text": (0, 1, None),
    "num_attention_heads": (1, GONE),
    "head_width": (1,),
    "heads": (1, GONE),
    "head_dim": (1,),
    "hidden_act": (GONE,),
    "activation": (None,),
    "quick_gelu": (False, GONE),
    "layer_norm_eps": (GONE,),
    "image_mean": (GONE,),
    "image_std": (GONE,),
    "mean": (GONE,),
    "std": (GONE,),
    "size": (1, GONE),
    "preprocess_cfg": (None, {}, {"a": 1}, GONE),
    "[]": (0, 1, 1.5, -1, -1e-5),
}


@pytest.fixture(scope="module")
def folders(files: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A JSON file of each kind, beside the weights of the same network."""
    top = tmp_path_factory.mktemp("configs")
    for name in ("huggingface", "openclip"):
        shutil.copytree(files[name], top / name)
    clip = load_clip(files["huggingface"])
    save_clip(clip, top / "native", format="native")
    save_clip(clip, top / "ours", format="openclip")
    (top / "preprocessor").mkdir()
    (top / "preprocessor" / "preprocessor_config.json").write_text(json.dumps(PREPROCESSOR))
    return {
        "huggingface": top / "huggingface" / "config.json",
        "openclip": top / "openclip" / "open_clip_config.json",
        "ours": top / "ours" / "open_clip_config.json",
        "native": top / "native" / "architecture.json",
        "preprocessor": top / "preprocessor" / "preprocessor_config.json",
        "openclip pictures": top / "openclip" / "open_clip_config.json",
    }


def read(name: str, file: Path) -> Any:
    if name in ("preprocessor", "openclip pictures"):
        return image_settings(file.parent)
    clip = load_clip(file.parent)
    return clip.architecture, clip.dialect


CASES = [
    ("huggingface", "vision_config.hidden_act", ["gelu"], "is ['gelu'], expected text"),
    ("huggingface", "vision_config.layer_norm_eps", "1e-5", "is '1e-5', expected a finite number"),
    ("huggingface", "vision_config.layer_norm_eps", -1, "is -1, expected a finite number, above 0"),
    ("huggingface", "text_config.layer_norm_eps", 1e9, "is 1000000000.0, expected"),
    ("huggingface", "text_config", "x", "is 'x', expected an object"),
    ("huggingface", "vision_config.num_channels", 0, "is 0, expected a positive whole number"),
    ("huggingface", "vision_config.patch_size", "", "is '', expected a positive whole number"),
    ("huggingface", "vision_config.num_hidden_layers", 10**9, "is 1000000000, expected a pos"),
    ("huggingface", "projection_dim", None, "is None, expected a positive whole number"),
    ("huggingface", "text_config.eos_token_id", [1, 2], "is [1, 2], expected the id of a token"),
    ("huggingface", "text_config.eos_token_id", -1, "is -1, expected the id of a token"),
    ("openclip", "model_cfg.vision_cfg", None, "is None, expected an object"),
    ("openclip", "model_cfg.vision_cfg.head_width", 1.5, "is 1.5, expected a positive whole"),
    ("openclip", "model_cfg.text_cfg.norm_kwargs", {"eps": 0}, ".eps is 0, expected a finite"),
    ("openclip", "model_cfg.quick_gelu", "yes", "is 'yes', expected true or false"),
    ("ours", "codesign.text.epsilon", GONE, "is missing"),
    ("ours", "codesign.end_of_text", 1.5, "is 1.5, expected the id of a token"),
    ("native", "head_dim", 1.5, "is 1.5, expected a positive whole number"),
    ("native", "vision.layers", GONE, "is missing"),
    ("native", "dialect.end_of_text", "38", "is '38', expected the id of a token"),
    ("preprocessor", "image_std", [1, 0, 1], "[1] is 0, expected a finite number, at least"),
    ("preprocessor", "image_mean", [1, 1], "2 means and 3 deviations; give one of each, or three"),
    ("preprocessor", "size", {"shortest_edge": "8"}, ".shortest_edge is '8', expected a positive"),
    ("openclip pictures", "preprocess_cfg.fill_color", 256, "is 256, expected a whole number"),
    ("openclip pictures", "preprocess_cfg.size", [8, 4], "is [8, 4]; only squares"),
]


@pytest.mark.parametrize(("name", "place", "value", "message"), CASES)
def test_it_names_the_place(
    folders: dict[str, Path], name: str, place: str, value: Any, message: str
) -> None:
    file = folders[name]
    text = file.read_text()
    file.write_text(json.dumps(changed(json.loads(text), tuple(place.split(".")), value)))
    try:
        with pytest.raises(UserError) as caught:
            read(name, file)
    finally:
        file.write_text(text)
    told = str(caught.value)
    assert told.startswith(str(file)) and message in told and "\n" not in told
    assert place in told or "deviations" in told


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", ["huggingface", "openclip", "ours", "native", "preprocessor", "openclip pictures"]
)
@pytest.mark.filterwarnings("ignore")
def test_mutations(folders: dict[str, Path], name: str) -> None:
    """Of one value at a time: the same network, a possible one, or one line in little time."""
    file = folders[name]
    text, whole = file.read_text(), read(name, file)
    config = json.loads(text)
    wrong = []
    for place, value, mutated in mutations(config, 300):
        file.write_text(json.dumps(mutated))
        start, kind = time.perf_counter(), "[]" if isinstance(place[-1], int) else place[-1]
        possible = any(value is one or value == one for one in POSSIBLE.get(kind, ()))
        try:
            right = read(name, file) == whole or possible
        except UserError as error:
            right = len(str(error).splitlines()) == 1 and len(str(error)) < 500
        if not right or time.perf_counter() - start > 10:
            wrong.append((place, value))
    file.write_text(text)
    assert not wrong


@pytest.mark.slow
@pytest.mark.parametrize("name", ["huggingface", "openclip", "native", "preprocessor"])
def test_mutated_text(folders: dict[str, Path], name: str) -> None:
    """Any bytes: whatever loads was read as Python's own reader reads it, or is one line."""
    file = folders[name]
    data, rng, told = file.read_bytes(), np.random.default_rng(0), []
    for _ in range(200):
        place, length = (int(x) for x in rng.integers((len(data), 9)))
        file.write_bytes(data[:place] + rng.bytes(length) + data[place + length :])
        try:
            read(name, file)
        except UserError as error:
            told.append(str(error))
    file.write_bytes(data)
    assert len(told) > 100 and all(len(line.splitlines()) == 1 for line in told)
