"""From tensors to a CLIP: what is inferred, what is assumed, and what is refused."""

from __future__ import annotations

import json
import shutil
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
import transformers
from flax import nnx
from safetensors.numpy import save_file

from codesign.architecture import Architecture, Tower
from codesign.errors import UserError
from codesign.models.clip import CLIP
from codesign.models.dialect import Dialect, TowerDialect
from codesign.models.formats import load_clip, with_image_size
from codesign.models.formats.config_files import read_config
from codesign.models.formats.files import read_tensors
from codesign.models.formats.positions import bicubic_matrix, resize_positions

pytestmark = pytest.mark.usefixtures("quick_compilation")

Arrays = dict[str, np.ndarray]


def arrays(path: Path) -> Arrays:
    return {name: tensor.read() for name, tensor in read_tensors(path).tensors.items()}


def assert_same(a: CLIP, b: CLIP) -> None:
    assert (a.architecture, a.dialect) == (b.architecture, b.dialect)
    jax.tree.map(np.testing.assert_array_equal, nnx.state(a), nnx.state(b))


SHARED = dict(patch=4, image=8, context=7, projection=10, vocab=40)


def test_dimensions_are_inferred(files: dict[str, Path], quiet_load: Callable) -> None:
    carbon = quiet_load(files["carbonclip"])
    assert carbon.architecture == Architecture(
        Tower(2, 12, 1, 20), Tower(1, 70, 1, 9), head_dim=64, **SHARED
    )
    assert carbon.dialect == Dialect()
    tiny = quiet_load(files["tinyclip"])
    assert tiny.architecture == Architecture(
        Tower(3, 12, 2, 20), Tower(2, 10, 1, 12), head_dim=64, **SHARED
    )
    ragged = TowerDialect(ragged=True)
    assert tiny.dialect == Dialect(ragged, ragged)
    heads = tiny.vision.blocks.present_heads[...]
    np.testing.assert_array_equal(heads, [[True, False], [False, False], [True, True]])
    np.testing.assert_array_equal(tiny.vision.blocks.present_ffn[...].sum(1), [20, 8, 0])
    both = quiet_load(files["huggingface"])
    assert both.architecture == Architecture(
        Tower(2, 24, 3, 20), Tower(3, 18, 3, 28), head_dim=8, activation="quick_gelu", **SHARED
    )
    assert both.dialect == Dialect(
        TowerDialect(epsilon=2e-5), TowerDialect(head_dim=6, activation="gelu"), end_of_text=38
    )


def test_what_is_assumed_is_said(files: dict[str, Path]) -> None:
    with pytest.warns(UserWarning, match=r"64 channels in the vision tower.*activation gelu"):
        load_clip(files["carbonclip"])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        clip = load_clip(files["carbonclip"], head_dim=(32, 64), activation="quick_gelu")
        load_clip(files["openclip"])
    assert clip.architecture.vision.heads == 2 and clip.architecture.activation == "quick_gelu"
    assert clip.dialect.text == TowerDialect(head_dim=64)


def test_wide_heads_of_openclips_large_towers(write: Callable, plain: Arrays) -> None:
    """1664 = 26 x 64 = 16 x 104: OpenCLIP's bigG has the latter, which shapes do not tell."""
    from codesign.models.formats.config_files import StatedConfig
    from codesign.models.formats.layout import OPENCLIP, Sizes, TowerSizes
    from codesign.models.formats.load import _head_dims
    from codesign.models.formats.names import Named

    vision = TowerSizes(1664, 257, 1280, (1664,) * 48, (8192,) * 48)
    text = TowerSizes(1280, 77, 1280, (1280,) * 32, (5120,) * 32)
    named = Named(OPENCLIP, {}, {}, {}, tinyclip=False)
    assumed: list[str] = []
    sizes = Sizes(vision, text, 14, 3, 49408)
    found = _head_dims(sizes, named, StatedConfig(), None, "x", assumed)
    assert found == {"vision": 104, "text": 64}
    assert assumed[0] == "heads of 104 channels in the vision tower"


def linear_text(tensors: Arrays) -> Arrays:
    """OpenCLIP's separate text tower, its projection a Linear."""
    text = {n: v for n, v in tensors.items() if not n.startswith(("visual.", "logit_scale"))}
    rest = {n: v for n, v in tensors.items() if n not in text}
    rest["text.text_projection.weight"] = text.pop("text_projection").T
    return rest | {f"text.{name}": values for name, values in text.items()}


WRAPPED = {
    "compiled": lambda t: {f"module._orig_mod.{n}": v for n, v in t.items()},
    "text tower": linear_text,
    "buffers": lambda t: (
        t
        | {
            "attn_mask": np.triu(np.full((7, 7), -np.inf, np.float32), 1),
            "context_length": np.array(7),
            "logit_scale": t["logit_scale"].reshape(1),
        }
    ),
}


@pytest.mark.parametrize("wrapping", WRAPPED)
def test_wrapped_names(
    write: Callable, plain: Arrays, files: dict[str, Path], wrapping: str, quiet_load: Callable
) -> None:
    assert_same(load_clip(write(WRAPPED[wrapping](plain))), quiet_load(files["openclip"]))


def test_other_dtypes(write: Callable, plain: Arrays) -> None:
    half = {n: v.astype(ml_dtypes.bfloat16) for n, v in plain.items()}
    clip = load_clip(write(half), dtype=jnp.bfloat16)
    assert clip.dtype == jnp.bfloat16
    kernel = clip.text.blocks.fc1[...]
    assert kernel.dtype == jnp.float32
    stored = half["transformer.resblocks.1.mlp.c_fc.weight"]
    np.testing.assert_array_equal(kernel[1], stored.astype(np.float32).T)


def test_end_of_text_conventions(files: dict[str, Path], tmp_path: Path) -> None:
    folder = shutil.copytree(files["huggingface"], tmp_path / "x")
    config = json.loads((folder / "config.json").read_text())
    config["text_config"]["eos_token_id"] = 2
    # The legacy sections take the place of the plain ones, and may be null.
    legacy = config["vision_config"] | {"layer_norm_eps": 3e-5}
    config |= {"text_config_dict": None, "vision_config_dict": legacy}
    (folder / "config.json").write_text(json.dumps(config))
    clip = load_clip(folder)
    assert clip.dialect.end_of_text is None and clip.dialect.vision.epsilon == 3e-5


CASES: dict[str, tuple[Callable[[Arrays], Any], str]] = {
    "missing": (
        lambda t: t.pop("visual.ln_post.bias"),
        r"the tensor 'visual.ln_post.bias' is missing for a CLIP as its other tensors",
    ),
    "no positions": (lambda t: t.pop("positional_embedding"), r"'positional_embedding' is missing"),
    "hole": (
        lambda t: [t.pop(n) for n in list(t) if n.startswith("transformer.resblocks.1.")],
        r"'transformer.resblocks.1.mlp.c_fc.bias' is missing",
    ),
    "half an attention": (
        lambda t: t.pop("transformer.resblocks.1.attn.out_proj.bias"),
        r"'transformer.resblocks.1.attn.out_proj.bias' is missing",
    ),
    "unknown": (
        lambda t: t.update({"a.b": np.zeros(1), "c": np.zeros(1)}),
        r"2 tensors \('a.b', 'c'\) are not part of a CLIP",
    ),
    "shape": (
        lambda t: t.update({"visual.proj": t["visual.proj"][:20]}),
        r"'visual.proj' has shape \[20, 10\], expected \[24, 10\] \(from its other tensors\)",
    ),
    "rank": (
        lambda t: t.update({"positional_embedding": np.zeros(7)}),
        r"'positional_embedding' has shape \[7\], expected 2 axes",
    ),
    "nan": (
        lambda t: t["visual.conv1.weight"].__setitem__((0, 0, 0), np.nan),
        r"'visual.conv1.weight' holds 4 NaN or infinite values",
    ),
    "quantised": (
        lambda t: t.update({"visual.proj": t["visual.proj"].astype(np.int8)}),
        r"'visual.proj' is int8, not floating point",
    ),
    "projections": (
        lambda t: t.update({"text_projection": t["text_projection"][:, :9]}),
        r"projected to 10 dimensions, texts to 9",
    ),
    "grid": (
        lambda t: t.update({"visual.positional_embedding": np.zeros((6, 24), np.float16)}),
        r"6 image positions are no class token and a square grid",
    ),
    "siglip": (lambda t: t.update({"logit_bias": np.zeros(1)}), r"SigLIP-style logit bias"),
    "layerscale": (
        lambda t: t.update({"visual.transformer.resblocks.0.ls_1.gamma": np.zeros(24)}),
        r"uses LayerScale",
    ),
    "adapter": (
        lambda t: [
            t.update({f"base_model.model.{n.replace('c_fc.', 'c_fc.base_layer.')}": t.pop(n)})
            for n in list(t)
        ],
        r"adapter that is not merged into its network \('.*base_layer.*merge_and_unload",
    ),
    "adapter alone": (
        lambda t: (
            t.clear(),
            t.update({"base_model.model.visual.proj.lora_A.weight": np.zeros((2, 3))}),
        ),
        r"adapter that is not merged into its network \('.*lora_A.*merge_and_unload",
    ),
    "nothing": (lambda t: t.clear(), r"is no CLIP checkpoint: its tensors are none"),
    "resnet": (lambda t: t.update({"visual.layer1.0.conv1.weight": np.zeros(1)}), r"a ResNet"),
    "one tower": (
        lambda t: [t.pop(n) for n in list(t) if not n.startswith("visual.")],
        r"holds one tower only \('visual....'\)",
    ),
    "no clip": (
        lambda t: (t.clear(), t.update({"fc.weight": np.zeros(1)})),
        r"is no CLIP checkpoint: its tensors are 'fc.weight'",
    ),
    "mask": (
        lambda t: t.update({"attn_mask": np.zeros((7, 7))}),
        r"the values of 'attn_mask' are not those of a CLIP",
    ),
    "two versions": (
        lambda t: t.update({"module.visual.proj": t["visual.proj"] + 1}),
        r"are one tensor by name, but differ",
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_broken_checkpoints(write: Callable, plain: Arrays, case: str) -> None:
    change, message = CASES[case]
    tensors = {name: values.copy() for name, values in plain.items()}
    change(tensors)
    with pytest.raises(UserError, match=message):
        load_clip(write(tensors))


def test_an_adapter_beside_the_weights_is_told(files: dict[str, Path], tmp_path: Path) -> None:
    """transformers would apply it."""
    folder = shutil.copytree(files["huggingface"], tmp_path / "x")
    (folder / "adapter_config.json").write_text('{"peft_type": "LORA"}')
    with pytest.warns(UserWarning, match=r"adapter lies beside it.*not applied here: merge it"):
        load_clip(folder)


def test_a_config_of_another_network(files: dict[str, Path], tmp_path: Path) -> None:
    folder = shutil.copytree(files["huggingface"], tmp_path / "x")
    config = json.loads((folder / "config.json").read_text())

    def load_with(part: str, **change: Any) -> None:
        changed = config | ({part: config[part] | change} if part else change)
        (folder / "config.json").write_text(json.dumps(changed))
        load_clip(folder)

    shape = r"fc1.weight' has shape \[20, 24\], expected \[96, 24\] \(from config.json\)"
    with pytest.raises(UserError, match=shape):
        load_with("vision_config", intermediate_size=96)
    with pytest.raises(UserError, match=r"16 tensors \('text_model.encoder.layers.3.layer_norm1"):
        load_with("text_config", num_hidden_layers=4)
    with pytest.raises(UserError, match=r"token_embedding.weight' has shape \[40, 18\]"):
        load_with("text_config", vocab_size=49408)
    with pytest.raises(UserError, match=r"the activation is 'relu'; supported are gelu and quick"):
        load_with("text_config", hidden_act="relu")
    with pytest.raises(UserError, match=r"hidden_size 24 is not a multiple of 5 heads"):
        load_with("vision_config", num_attention_heads=5)
    with pytest.raises(UserError, match=r"patch_size is '4', expected a positive whole number"):
        load_with("vision_config", patch_size="4")
    with pytest.raises(UserError, match=r"describes a 'siglip' model; only 'clip'"):
        load_with("", model_type="siglip")
    (folder / "config.json").write_text("{")
    with pytest.raises(UserError, match="is not JSON"):
        load_clip(folder)
    (folder / "config.json").unlink()
    with pytest.raises(UserError, match=r"qkv width 24 is no multiple of 64.*give head_dim"):
        load_clip(folder)
    message = "assumed are the activation quick_gelu, texts that end with their largest id; give"
    with pytest.warns(UserWarning, match=message):
        assert load_clip(folder, head_dim=(8, 6)).dialect.text.head_dim == 6


@pytest.mark.parametrize("legacy", ["part", "whole", "empty", "null", "alone"])
def test_huggingfaces_old_configs_are_merged_as_transformers_does(
    tmp_path: Path, files: dict[str, Path], legacy: str
) -> None:
    """A text_config_dict takes the place of text_config, its own defaults included."""
    folder = shutil.copytree(files["huggingface"], tmp_path / "x")
    config = json.loads((folder / "config.json").read_text())
    config.pop("vision_config_dict", None), config.pop("text_config_dict", None)
    for tower in ("vision", "text"):
        plain = config[f"{tower}_config"] | {"layer_norm_eps": 1e-3, "hidden_act": "gelu"}
        config[f"{tower}_config"] = plain
        usual = ("layer_norm_eps", "hidden_act", "eos_token_id")
        config[f"{tower}_config_dict"] = {
            "part": {key: value for key, value in plain.items() if key not in usual},
            "whole": plain | {"layer_norm_eps": 1e-2},
            "empty": {},
            "null": None,
            "alone": plain,
        }[legacy]
        if legacy == "alone":
            del config[f"{tower}_config"]
    (folder / "config.json").write_text(json.dumps(config))
    theirs = transformers.CLIPConfig.from_pretrained(folder)
    said = read_config(folder, huggingface=True)
    for tower in ("vision", "text"):
        wanted, found = getattr(theirs, f"{tower}_config"), getattr(said, tower)
        assert found.epsilon == wanted.layer_norm_eps and found.activation == wanted.hidden_act
        assert found.head_dim == wanted.hidden_size // wanted.num_attention_heads
    assert said.sizes is not None and said.sizes.vocab == theirs.text_config.vocab_size
    assert said.end_of_text == theirs.text_config.eos_token_id


def test_a_config_of_another_network_beside_openclips_tensors(
    write: Callable, plain: Arrays, files: dict[str, Path]
) -> None:
    """As beside a pruned network: said, and only what tensors cannot tell is taken from it."""
    folder = write(plain)
    config = json.loads((folder / "open_clip_config.json").read_text())
    config["model_cfg"]["vision_cfg"] |= {"width": 48, "image_size": 32}
    (folder / "open_clip_config.json").write_text(json.dumps(config))
    message = r"another network \(vision width 48, not 24; image size 32, not 8\); taken from it is"
    with pytest.warns(UserWarning, match=message):
        assert load_clip(folder).architecture.vision.width == 24
    (folder / "open_clip_config.json").unlink()
    config = json.loads((files["huggingface"] / "config.json").read_text())
    config["text_config"]["num_attention_heads"] = 9  # whose width divides this network's too
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.warns(UserWarning, match=r"config.json describes another network \(text width 18,"):
        load_clip(folder)


def test_pixels_that_are_not_normalised_are_refused(
    files: dict[str, Path], quiet_load: Callable
) -> None:
    clip = quiet_load(files["huggingface"])
    for dtype in (jnp.uint8, jnp.int32, jnp.bool_):
        with pytest.raises(ValueError, match=r"not normalised yet; .* checkpoint's processor"):
            clip.encode_image(jnp.ones((1, 8, 8, 3), dtype))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"activation": "gelu"}, r"says the activation quick_gelu, but gelu was given"),
        ({"activation": "relu"}, r"activation is 'relu', expected gelu or quick_gelu"),
        ({"head_dim": 64}, r"says heads of 8 channels in the vision tower, but 64 was given"),
        ({"head_dim": 0}, r"head_dim is 0, expected a positive int"),
        ({"image": 10}, r"image is 10, expected a positive multiple of the patch, 4"),
        ({"dtype": jnp.float64}, r"float64 needs `with jax.enable_x64"),
    ],
)
def test_impossible_options(files: dict[str, Path], options: dict, message: str) -> None:
    with pytest.raises(UserError, match=message):
        load_clip(files["openclip"], **options)


def test_masks_that_were_not_applied(files: dict[str, Path], tmp_path: Path) -> None:
    tensors = arrays(files["tinyclip"])
    mask = "_image_encoder.module.l0_module.hidden_loga"
    tensors[mask] = np.array([5.0] * 11 + [-7.0], np.float32)
    save_file(
        {k: np.ascontiguousarray(v) if v.ndim else v for k, v in tensors.items()},
        tmp_path / "x.safetensors",
    )
    with pytest.raises(UserError, match=r"is not pruned yet: its mask '_image_encoder.*hidden_lo"):
        load_clip(tmp_path)
    with pytest.warns(UserWarning, match="not used are 1 pruning masks"):
        load_clip(files["tinyclip"])


def test_missing_units_stay_zero_in_training(
    files: dict[str, Path], quiet_load: Callable, differentiate: Callable
) -> None:
    """Stacking TinyCLIP's unequal layers pads them with zeros whose gradient is zero."""
    with jax.enable_x64(True):
        clip = quiet_load(files["tinyclip"], dtype=jnp.float64)
        gradient, _ = differentiate(clip, "tinyclip")
    absent = ~np.asarray(clip.vision.blocks.present_heads[...])
    g = {k: np.asarray(v) for k, v in nnx.to_pure_dict(nnx.state(gradient.vision.blocks)).items()}
    for name in ("query", "key", "value"):
        assert not np.any(np.moveaxis(g[name], 2, 1)[absent])
    assert not np.any(g["out"][absent]) and not np.any(g["out_bias"][1])
    assert np.any(g["out_bias"][0]) and np.any(g["fc2_bias"][2])
    absent = ~np.asarray(clip.vision.blocks.present_ffn[...])
    assert not np.any(np.moveaxis(g["fc1"], 2, 1)[absent]) and not np.any(g["fc2"][absent])


@pytest.mark.parametrize("method", ["huggingface", "openclip", "tinyclip"])
def test_position_interpolation(method: Any) -> None:
    rng = np.random.default_rng(0)
    table = rng.normal(size=(26, 3)).astype(np.float32)
    assert resize_positions(table, 5, method) is table
    for grid in (1, 3, 8):
        np.testing.assert_allclose(bicubic_matrix(5, grid, method).sum(1), 1, atol=1e-12)
        resized = resize_positions(table, grid, method)
        assert resized.shape == (grid**2 + 1, 3) and resized.dtype == np.float32
        np.testing.assert_array_equal(resized[0], table[0])


def test_position_interpolation_against_torch() -> None:
    torch = pytest.importorskip("torch")
    options = {
        "huggingface": {"align_corners": False},
        "openclip": {"align_corners": False, "antialias": True},
        "tinyclip": {"align_corners": True},
    }
    table = np.random.default_rng(0).normal(size=(50, 4))
    grid = torch.from_numpy(table[1:].reshape(1, 7, 7, 4)).permute(0, 3, 1, 2)
    for new in (1, 4, 7, 12, 14):
        for method, kind in options.items():
            expected = torch.nn.functional.interpolate(grid, (new, new), mode="bicubic", **kind)
            expected = expected[0].permute(1, 2, 0).reshape(new * new, 4).numpy()
            found = resize_positions(table, new, method)[1:]
            np.testing.assert_allclose(found, expected, atol=1e-12)


def test_another_image_size(files: dict[str, Path], quiet_load: Callable) -> None:
    clip = quiet_load(files["huggingface"])
    large = load_clip(files["huggingface"], image=20)
    assert large.architecture.image == 20
    expected = resize_positions(np.asarray(clip.vision.positions[...]), 5, "huggingface")
    np.testing.assert_array_equal(large.vision.positions[...], expected)
    assert large.encode_image(jnp.zeros((1, 20, 20, 3)))[0].shape == (1, 10)
    with pytest.raises(ValueError, match=r"images.transpose\(0, 2, 3, 1\) gives it"):
        large.encode_image(jnp.zeros((1, 3, 20, 20)))
    assert_same(with_image_size(clip, 8), clip)


def test_position_ids_of_older_files(files: dict[str, Path], tmp_path: Path) -> None:
    folder = shutil.copytree(files["huggingface"], tmp_path / "x")
    tensors = arrays(folder / "model.safetensors")
    tensors = {name: np.array(values) for name, values in tensors.items()}
    tensors["text_model.embeddings.position_ids"] = np.arange(7)[None]
    save_file(tensors, folder / "model.safetensors")
    assert_same(load_clip(folder), load_clip(files["huggingface"]))
    tensors["text_model.embeddings.position_ids"] = np.arange(7)[None, ::-1].copy()
    save_file(tensors, folder / "model.safetensors")
    with pytest.raises(UserError, match=r"'text_model.embeddings.position_ids' are not those"):
        load_clip(folder)
