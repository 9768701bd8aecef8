"""Settings of open_clip_config.json: honoured, refused, or named."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from codesign.errors import UserError
from codesign.models.clip import CLIP
from codesign.models.formats import load_clip

pytestmark = pytest.mark.usefixtures("quick_compilation")

Arrays = dict[str, np.ndarray]


def with_openclip_keys(folder: Path, part: str, values: Mapping[str, Any]) -> None:
    file = folder / "open_clip_config.json"
    config = json.loads(file.read_text())
    (config["model_cfg"][part] if part else config["model_cfg"]).update(values)
    file.write_text(json.dumps(config))


@pytest.mark.parametrize(
    ("part", "key", "value"),
    [
        ("text_cfg", "no_causal_mask", True),
        ("text_cfg", "no_causal_mask", 0),
        ("text_cfg", "pool_type", "last"),
        ("text_cfg", "proj_type", "none"),
        ("text_cfg", "proj_bias", True),
        ("text_cfg", "embed_cls", True),
        ("text_cfg", "hf_model_name", "roberta-base"),
        ("vision_cfg", "global_average_pool", True),
        ("vision_cfg", "pool_type", "avg"),
        ("vision_cfg", "attentional_pool", True),
        ("vision_cfg", "pos_embed_type", "none"),
        ("vision_cfg", "qk_norm", True),
        ("vision_cfg", "block_type", "parallel"),
        ("vision_cfg", "timm_model_name", "vit_base"),
        ("vision_cfg", "act_kwargs", {"approximate": "tanh"}),
        ("vision_cfg", "norm_kwargs", {"eps": 1e-5, "bias": False}),
        ("", "multimodal_cfg", {"width": 8}),
    ],
)
def test_openclip_settings_that_are_not_supported(
    write: Callable, plain: Arrays, part: str, key: str, value: Any
) -> None:
    folder = write(plain)
    with_openclip_keys(folder, part, {key: value})
    with pytest.raises(UserError, match=rf"{part}.*{key}.* is not supported, only "):
        load_clip(folder)


def test_openclip_settings_that_change_nothing(
    write: Callable, plain: Arrays, recwarn: Any
) -> None:
    folder = write(plain)
    with_openclip_keys(folder, "", {"custom_text": True, "init_logit_scale": 4.6})
    vision = {"patch_dropout": 0.5, "timm_pool": "avg", "pool_type": "tok", "qk_norm": False}
    with_openclip_keys(folder, "vision_cfg", vision | {"act_kwargs": {}, "mlp_ratio": 0.9})
    same = {"pos_embed_type": "sin_cos_2d", "block_type": "custom"}  # as tensors tell
    with_openclip_keys(folder, "vision_cfg", same)
    text = {"pool_type": "argmax", "eos_id": 5, "pad_id": 1, "hf_model_name": ""}
    with_openclip_keys(folder, "text_cfg", text)
    assert load_clip(folder).dialect.end_of_text is None and not recwarn.list
    with_openclip_keys(folder, "text_cfg", {"new_norm": True, "a\nb": 1})
    message = r"not known, so not honoured: text_cfg.new_norm, text_cfg.'a\\nb'; where"
    with pytest.warns(UserWarning, match=message):
        load_clip(folder)


def test_openclip_reads_texts_at_the_id_it_names(write: Callable, plain: Arrays) -> None:
    folder = write(plain)
    with_openclip_keys(folder, "text_cfg", {"pool_type": "eos"})
    assert load_clip(folder).dialect.end_of_text == 2  # OpenCLIP's own default
    with_openclip_keys(folder, "text_cfg", {"eos_id": 31})
    assert load_clip(folder).dialect.end_of_text == 31


@pytest.mark.parametrize(("key", "side"), [("image_size", 8), ("patch_size", 4)])
def test_rectangles_are_refused(
    write: Callable, plain: Arrays, key: str, side: int, recwarn: Any
) -> None:
    """16 x 4 patches are as many as 8 x 8, so that tensors cannot tell them apart."""
    folder = write(plain)
    config = json.loads((folder / "open_clip_config.json").read_text())

    def load_with(sides: list[int]) -> CLIP:
        config["model_cfg"]["vision_cfg"][key] = sides
        (folder / "open_clip_config.json").write_text(json.dumps(config))
        return load_clip(folder)

    with pytest.raises(UserError, match=rf"vision_cfg.{key} is \[16, 4\]; only square"):
        load_with([16, 4])
    assert load_with([side, side]).architecture.image == 8 and not recwarn.list
