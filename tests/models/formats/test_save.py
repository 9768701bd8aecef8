"""Saving: round trips to the bit, other programs' loaders, and what a format cannot hold."""

from __future__ import annotations

import dataclasses
import functools
import json
import math
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from codesign.architecture import Tower
from codesign.errors import UserError
from codesign.models import reorder, slice_to
from codesign.models.clip import CLIP
from codesign.models.formats import checkpoint_tensors, load_clip, save_clip
from codesign.models.formats.config_files import openclip_config
from codesign.models.formats.files import read_tensors
from codesign.models.gates import Gates, TowerGates

pytestmark = pytest.mark.usefixtures("quick_compilation")


def assert_same(a: CLIP, b: CLIP) -> None:
    assert (a.architecture, a.dialect, a.dtype) == (b.architecture, b.dialect, b.dtype)
    jax.tree.map(np.testing.assert_array_equal, nnx.state(a), nnx.state(b))


FORMATS_OF = [
    ("huggingface", "hf"),
    ("openclip", "hf"),
    *((name, "openclip") for name in ("huggingface", "openclip", "carbonclip", "tinyclip")),
    *((name, "native") for name in ("huggingface", "tinyclip")),
]


@pytest.mark.parametrize(("name", "format"), FORMATS_OF)
def test_round_trips(
    name: str, format: Any, tmp_path: Path, files: dict[str, Path], quiet_load: Callable
) -> None:
    clip = quiet_load(files[name])
    clip.vision.blocks.layer_rank[...] = jnp.array(range(clip.architecture.vision.layers)[::-1])
    save_clip(clip, tmp_path / "x", format, like=files[name])
    back = load_clip(tmp_path / "x")
    if format != "native":  # ranks of layers are ours alone
        back.vision.blocks.layer_rank[...] = clip.vision.blocks.layer_rank[...]
    assert_same(back, clip)
    assert not list(tmp_path.glob(".*"))


@pytest.mark.parametrize("umask", [0o022, 0o077, 0o002])
@pytest.mark.parametrize("format", ["hf", "openclip"])
def test_weights_are_as_readable_as_their_config(
    tmp_path: Path, files: dict[str, Path], quiet_load: Callable, format: Any, umask: int
) -> None:
    before = os.umask(umask)
    try:
        save_clip(quiet_load(files["openclip"]), tmp_path / "x", format)
    finally:
        os.umask(before)
    modes = {file.name: file.stat().st_mode & 0o777 for file in (tmp_path / "x").iterdir()}
    assert len(modes) == 2 and set(modes.values()) == {0o666 & ~umask}


def test_stored_tensors_come_back_to_the_bit(
    tmp_path: Path, files: dict[str, Path], quiet_load: Callable
) -> None:
    """File in, file out: each tensor of TinyCLIP's file is in ours, in its own shape."""
    clip = quiet_load(files["tinyclip"])
    save_clip(clip, tmp_path / "x.safetensors", "openclip")
    saved = read_tensors(tmp_path / "x.safetensors").tensors
    stored = {
        name.split("module.")[-1]: tensor
        for name, tensor in read_tensors(files["tinyclip"]).tensors.items()
        if "without_ddp" not in name and "l0_module" not in name
    }
    assert saved.keys() == stored.keys()
    for name, tensor in stored.items():
        assert saved[name].shape == tensor.shape
        np.testing.assert_array_equal(saved[name].read(), tensor.read().astype(np.float32))


def test_float64_is_kept(tmp_path: Path, files: dict[str, Path], quiet_load: Callable) -> None:
    with jax.enable_x64(True):
        clip = quiet_load(files["huggingface"], dtype=jnp.float64)
        clip.text.positions[...] = clip.text.positions[...] / 3
        for format in ("hf", "native"):
            save_clip(clip, tmp_path / format, format)
            assert_same(load_clip(tmp_path / format, dtype=jnp.float64), clip)


def pruned(clip: CLIP, vision: Tower, text: Tower) -> CLIP:
    architecture = clip.architecture
    return slice_to(
        clip,
        type(architecture)(
            vision,
            text,
            **{
                name: getattr(architecture, name)
                for name in (
                    "patch",
                    "image",
                    "channels",
                    "context",
                    "projection",
                    "head_dim",
                    "vocab",
                )
            },
            activation=architecture.activation,
        ),
    )


def test_pruning_a_ragged_clip_keeps_track_of_its_units(
    tmp_path: Path, files: dict[str, Path], quiet_load: Callable, compute: Callable
) -> None:
    """Reordered by importance, a unit that a layer lacks moves with its zeros, and is dropped."""
    clip = quiet_load(files["tinyclip"])
    rng = np.random.default_rng(0)

    def scores(t: Tower) -> TowerGates:
        shapes = ((t.layers,), (t.layers, t.heads), (t.layers, t.ffn), (t.width,))
        return TowerGates(*(jnp.asarray(rng.normal(size=shape)) for shape in shapes))

    a = clip.architecture
    shuffled = reorder(clip, Gates(scores(a.vision), scores(a.text)))
    before, after = (checkpoint_tensors(c) for c in (clip, shuffled))
    assert {k: v.shape for k, v in before.items()} == {k: v.shape for k, v in after.items()}
    found, expected = compute(shuffled, "tinyclip"), compute(clip, "tinyclip")
    np.testing.assert_allclose(found["logits"], expected["logits"], atol=1e-4)
    save_clip(shuffled, tmp_path / "x", "openclip")
    again = compute(load_clip(tmp_path / "x"), "tinyclip")
    np.testing.assert_allclose(again["logits"], expected["logits"], atol=1e-4)
    small = pruned(clip, Tower(2, 8, 1, 12), Tower(1, 10, 1, 5))
    shapes = {k: v.shape for k, v in checkpoint_tensors(small).items()}
    assert shapes["visual.transformer.resblocks.0.attn.in_proj_weight"] == (192, 8)
    assert "visual.transformer.resblocks.1.attn.in_proj_weight" not in shapes
    assert shapes["visual.transformer.resblocks.1.mlp.c_fc.weight"] == (8, 8)


def test_huggingface_reads_what_we_write(
    tmp_path: Path, files: dict[str, Path], golden: Callable, quiet_load: Callable
) -> None:
    torch = pytest.importorskip("torch")
    from transformers import CLIPModel

    expected = golden("openclip")
    save_clip(quiet_load(files["openclip"]), tmp_path / "x", "hf")
    model, told = CLIPModel.from_pretrained(
        tmp_path / "x", dtype=torch.float64, output_loading_info=True
    )
    assert not any(told[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    with torch.no_grad():
        pixels = torch.from_numpy(expected["pixels"]).double()
        out = model(input_ids=torch.from_numpy(expected["ids"]), pixel_values=pixels)
    np.testing.assert_allclose(out.logits_per_image.numpy(), expected["logits"], atol=1e-5)


@functools.partial(
    jax.jit, static_argnums=0, compiler_options={"xla_cpu_use_fusion_emitters": False}
)
def features(graphdef: Any, state: nnx.State, images: jax.Array, ids: jax.Array) -> list[jax.Array]:
    _, stages = nnx.merge(graphdef, state)(images, ids)
    return [stages[tower]["features"] for tower in ("vision", "text")]


def test_what_huggingface_cannot_express_is_refused_or_padded(
    tmp_path: Path, files: dict[str, Path], quiet_load: Callable, golden: Callable
) -> None:
    """One head of 8 at width 18 becomes two of 9, its queries times sqrt(9/8); one of 6, three."""
    clip = pruned(quiet_load(files["huggingface"]), Tower(2, 18, 1, 20), Tower(2, 18, 1, 11))
    with pytest.raises(UserError, match=r"vision tower's heads \(1 of 8 channels\) at width 18"):
        save_clip(clip, tmp_path / "x", "hf")
    assert not (tmp_path / "x").exists()
    with pytest.warns(UserWarning, match="padded with zeros") as told:
        save_clip(clip, tmp_path / "x", "hf", pad=True)
    for tower, note in zip(("vision", "text"), told, strict=True):
        assert str(note.message).startswith(f"the {tower} tower's heads")
    assert "padded with zeros to 2 heads of 9, and all its FFNs to 20" in str(told[0].message)
    back = load_clip(tmp_path / "x")
    assert back.architecture.vision == Tower(2, 18, 2, 20) and back.architecture.head_dim == 9
    assert back.architecture.text == Tower(2, 18, 3, 11) and back.dialect.text.head_dim == 6
    scaled, query = back.vision.blocks.query[...], clip.vision.blocks.query[...]
    np.testing.assert_allclose(scaled[:, :, :1, :8], query * math.sqrt(9 / 8), rtol=1e-6)
    assert not np.any(scaled[:, :, 1]) and not np.any(back.vision.blocks.out[:, 1])
    inputs = golden("huggingface")
    batch = (inputs["pixels"].transpose(0, 2, 3, 1), inputs["ids"])
    found, expected = (features(*nnx.split(model), *batch) for model in (back, clip))
    for a, b in zip(found, expected, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5)


def test_zeros_cannot_pad_everything(
    tmp_path: Path, files: dict[str, Path], quiet_load: Callable
) -> None:
    with pytest.raises(UserError, match=r"zeros cannot make.*fill its width 12.*save as openclip"):
        save_clip(quiet_load(files["carbonclip"]), tmp_path / "x", "hf", pad=True)
    assert not (tmp_path / "x").exists()


def test_nothing_is_overwritten_unasked(
    tmp_path: Path, files: dict[str, Path], quiet_load: Callable
) -> None:
    clip = quiet_load(files["huggingface"])
    out = tmp_path / "x"
    out.mkdir()
    (out / "notes.txt").write_text("mine")
    for format in ("hf", "native"):
        with pytest.raises(UserError, match="is there already"):
            save_clip(clip, out, format)
    save_clip(clip, out, "native", overwrite=True)
    clip.logit_scale[...] = jnp.float32(1.5)
    save_clip(clip, out, "native", overwrite=True)
    assert float(load_clip(out).logit_scale[...]) == 1.5
    names = sorted(file.name for file in out.iterdir())
    assert names == ["architecture.json", "notes.txt", "weights"]
    single = tmp_path / "y.safetensors"
    save_clip(clip, single, "openclip")
    with pytest.raises(UserError, match=r"y.safetensors is there already"):
        save_clip(clip, single, "openclip")
    with pytest.raises(UserError, match="the format is 'onnx', expected one of hf, openclip"):
        save_clip(clip, tmp_path / "z", "onnx")


def test_damaged_native_folders(
    tmp_path: Path, files: dict[str, Path], quiet_load: Callable
) -> None:
    out = tmp_path / "x"
    save_clip(quiet_load(files["openclip"]), out, "native")
    config = json.loads((out / "architecture.json").read_text())
    cases = [
        (config | {"vocab": 41}, r"'text.token_table' has shape \(40, 16\), expected \(41, 16\)"),
        (config | {"colour": 3}, "does not describe a CLIP of ours"),
        (config | {"activation": "relu"}, "activation is 'relu'"),
        (config | {"vision": config["vision"] | {"layers": 0}}, "vision.layers is 0"),
    ]
    for changed, message in cases:
        (out / "architecture.json").write_text(json.dumps(changed))
        with pytest.raises(UserError, match=message):
            load_clip(out)
    (out / "architecture.json").write_text(json.dumps(config))
    for file in (out / "weights").rglob("*"):
        if file.is_file() and file.stat().st_size > 1000:
            file.write_bytes(file.read_bytes()[:500])
    with pytest.raises(UserError, match="is damaged"):
        load_clip(out)


def test_openclip_config_tells_openclip_what_it_can_hold(
    files: dict[str, Path], quiet_load: Callable
) -> None:
    clip = quiet_load(files["openclip"])
    model = openclip_config(clip.architecture, clip.dialect)["model_cfg"]
    assert model["quick_gelu"] is True and model["embed_dim"] == 10
    vision, text = model["vision_cfg"], model["text_cfg"]
    assert (vision["head_width"], text["heads"]) == (8, 4)
    for part, ffn in ((vision, 20), (text, 28)):
        assert int(part["width"] * part["mlp_ratio"]) == ffn  # OpenCLIP's own rule
    carbon = quiet_load(files["carbonclip"])
    assert "model_cfg" not in openclip_config(carbon.architecture, carbon.dialect)


def test_openclip_is_told_where_texts_are_read(
    tmp_path: Path, files: dict[str, Path], quiet_load: Callable
) -> None:
    """Of a CLIP with words added after its end of text, whose largest id is often no end."""
    source = shutil.copytree(files["openclip"], tmp_path / "source")
    config = json.loads((source / "open_clip_config.json").read_text())
    config["model_cfg"]["text_cfg"] |= {"pool_type": "eos", "eos_id": 38}
    (source / "open_clip_config.json").write_text(json.dumps(config))
    clip = quiet_load(source)
    assert (clip.dialect.end_of_text, clip.architecture.vocab) == (38, 40)
    save_clip(clip, tmp_path / "x", "openclip")
    file = tmp_path / "x" / "open_clip_config.json"
    config = json.loads(file.read_text())
    text = config["model_cfg"]["text_cfg"]
    assert (text["pool_type"], text["eos_id"]) == ("eos", 38)
    del config["codesign"]  # what OpenCLIP sees
    file.write_text(json.dumps(config))
    assert_same(load_clip(tmp_path / "x"), clip)
    for end in (None, 39):  # the largest id, which versions before 3.1 read too
        dialect = dataclasses.replace(clip.dialect, end_of_text=end)
        text = openclip_config(clip.architecture, dialect)["model_cfg"]["text_cfg"]
        assert not {"pool_type", "eos_id"} & text.keys()
