"""What the config beside a checkpoint says that its tensors cannot; and writing such configs.

HuggingFace's config.json states everything. OpenCLIP's open_clip_config.json states an
unpruned model, so only widths per head, activation and epsilon are read from it: beside
a pruned file it is that of its origin. Ours adds a section "codesign" that
OpenCLIP does not look at, for what OpenCLIP's own keys cannot say.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from codesign.architecture import TOWERS, Architecture, Tower
from codesign.errors import UserError
from codesign.models.dialect import LAYER_NORM_EPSILON, Dialect, TowerDialect
from codesign.models.formats.files import HF_CONFIG, OPENCLIP_CONFIG
from codesign.models.formats.layout import Sizes, TowerSizes
from codesign.models.transformer import ACTIVATIONS
from codesign.runs import read_json

# Values of absent keys: transformers' CLIPConfig, which leaves defaults out of the file.
_HF_DEFAULTS: dict[str, dict[str, Any]] = {
    "vision": {
        "hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 12,
        "num_attention_heads": 12, "num_channels": 3, "image_size": 224, "patch_size": 32,
        "hidden_act": "quick_gelu", "layer_norm_eps": 1e-5,
    },
    "text": {
        "hidden_size": 512, "intermediate_size": 2048, "num_hidden_layers": 12,
        "num_attention_heads": 8, "vocab_size": 49408, "max_position_embeddings": 77,
        "hidden_act": "quick_gelu", "layer_norm_eps": 1e-5, "eos_token_id": 49407,
    },
}  # fmt: skip
_HF_PROJECTION = 512
# The end-of-text id by which HuggingFace means "the largest id", whatever it is.
HF_LARGEST_ID = 2

# Settings of OpenCLIP that change what a CLIP computes, and their only supported values.
_OPENCLIP_USUAL: dict[str, tuple[Any, ...]] = {
    "pool_type": ("tok", "argmax"),
    "no_causal_mask": (False,),
    "attentional_pool": (False,),
    "no_ln_pre": (False,),
    "input_patchnorm": (False,),
    "embed_cls": (False,),
    "ls_init_value": (None,),
    "proj_bias": (False,),
    "timm_model_name": (None,),
    "hf_model_name": (None,),
    "act_kwargs": (None, {}),
}


@dataclasses.dataclass(frozen=True)
class TowerSaid:
    """Of one tower; None: not said."""

    head_dim: int | None = None
    activation: str | None = None
    epsilon: float = LAYER_NORM_EPSILON


@dataclasses.dataclass(frozen=True)
class Said:
    """What a config says; the default says nothing.

    Attributes:
      by: the config's file name; "": there is none.
      vision: of the image tower.
      text: of the text tower.
      end_of_text: see `Dialect`.
      sizes: all dimensions, from HuggingFace's config only.
    """

    by: str = ""
    vision: TowerSaid = TowerSaid()
    text: TowerSaid = TowerSaid()
    end_of_text: int | None = None
    sizes: Sizes | None = None


def read_config(folder: Path, huggingface: bool) -> Said:
    """The config beside a checkpoint, that of its own format first.

    Args:
      folder: where the weights are.
      huggingface: whether the tensors are named as HuggingFace does.

    Raises:
      UserError: a config that is no CLIP's or holds impossible values.
    """
    openclip, hf = folder / OPENCLIP_CONFIG, folder / HF_CONFIG
    if huggingface and hf.is_file():
        return _huggingface(_json(hf), hf)
    if openclip.is_file():
        return _openclip(_json(openclip), openclip)
    if hf.is_file() and _is_clip(config := _json(hf)):
        # Of the same network in another format: its sizes are not this file's to keep.
        return dataclasses.replace(_huggingface(config, hf), sizes=None, end_of_text=None)
    return Said()


def _json(path: Path) -> Mapping[str, Any]:
    config = read_json(path)
    if not isinstance(config, dict):
        raise UserError(f"{path} is not a model's config: it holds no keys")
    return config


def _is_clip(config: Mapping[str, Any]) -> bool:
    return config.get("model_type", "clip") == "clip" and (
        "vision_config" in config or "text_config" in config
    )


def _huggingface(config: Mapping[str, Any], path: Path) -> Said:
    if not _is_clip(config):
        raise UserError(
            f"{path} describes a '{config.get('model_type')}' model; only 'clip' is supported"
        )
    parts: dict[str, dict[str, Any]] = {}
    for tower in TOWERS:
        # The legacy *_config_dict wins where it says anything, as in transformers.
        said = (config.get(f"{tower}_config") or {}) | (config.get(f"{tower}_config_dict") or {})
        parts[tower] = _HF_DEFAULTS[tower] | said
    projection = config.get("projection_dim", _HF_PROJECTION)
    vision, text = parts["vision"], parts["text"]

    def whole(part: Mapping[str, Any], key: str) -> int:
        if type(part[key]) is not int or part[key] < 1:
            raise UserError(f"{path}: {key} is {part[key]!r}, expected a positive whole number")
        return part[key]

    def of_tower(part: Mapping[str, Any], tokens: int) -> tuple[TowerSizes, TowerSaid]:
        width, heads = whole(part, "hidden_size"), whole(part, "num_attention_heads")
        if width % heads:
            raise UserError(f"{path}: hidden_size {width} is not a multiple of {heads} heads")
        layers = whole(part, "num_hidden_layers")
        sizes = TowerSizes(
            width, tokens, projection, (width,) * layers,
            (whole(part, "intermediate_size"),) * layers,
        )  # fmt: skip
        said = TowerSaid(
            width // heads, _activation(part["hidden_act"], path), float(part["layer_norm_eps"])
        )
        return sizes, said

    image, patch = whole(vision, "image_size"), whole(vision, "patch_size")
    if image % patch:
        raise UserError(f"{path}: image_size {image} is not a multiple of patch_size {patch}")
    vision_sizes, vision_said = of_tower(vision, (image // patch) ** 2 + 1)
    text_sizes, text_said = of_tower(text, whole(text, "max_position_embeddings"))
    end = text["eos_token_id"]
    if isinstance(end, list) and len(end) == 1:
        end = end[0]
    if type(end) is not int:
        raise UserError(f"{path}: text_config.eos_token_id is {end!r}, expected one id")
    return Said(
        by=path.name,
        vision=vision_said,
        text=text_said,
        end_of_text=None if end == HF_LARGEST_ID else end,
        sizes=Sizes(
            vision_sizes, text_sizes, patch, whole(vision, "num_channels"),
            whole(text, "vocab_size"),
        ),
    )  # fmt: skip


def _activation(name: Any, path: Path) -> str:
    if name not in ACTIVATIONS:
        known = " and ".join(sorted(ACTIVATIONS))
        raise UserError(f"{path}: the activation is {name!r}; supported are {known}")
    return str(name)


def _openclip(config: Mapping[str, Any], path: Path) -> Said:
    if "codesign" in config:
        return _ours(config["codesign"], path)
    model = config.get("model_cfg", config)
    parts = {tower: model.get(f"{tower}_cfg") for tower in TOWERS}
    if not all(isinstance(part, dict) for part in parts.values()):
        raise UserError(f"{path} is no OpenCLIP config: vision_cfg or text_cfg is missing")
    for tower, part in parts.items():
        for key, usual in _OPENCLIP_USUAL.items():
            if key in part and part[key] not in usual:
                raise UserError(
                    f"{path}: {tower}_cfg.{key} = {part[key]!r} is not supported, "
                    f"only {usual[0]!r} is"
                )
    activation = "quick_gelu" if model.get("quick_gelu") else "gelu"
    vision, text = parts["vision"], parts["text"]
    try:
        return Said(
            by=path.name,
            vision=TowerSaid(int(vision.get("head_width", 64)), activation, _epsilon(vision)),
            text=TowerSaid(
                int(text.get("width", 512)) // int(text.get("heads", 8)), activation, _epsilon(text)
            ),
        )
    except (TypeError, ValueError, ZeroDivisionError) as error:
        raise UserError(f"{path}: {error}") from None


def _epsilon(part: Mapping[str, Any]) -> float:
    return float((part.get("norm_kwargs") or {}).get("eps", LAYER_NORM_EPSILON))


def _ours(section: Mapping[str, Any], path: Path) -> Said:
    try:
        vision, text = (TowerSaid(**section[tower]) for tower in TOWERS)
        said = Said(path.name, vision, text, section["end_of_text"])
    except (TypeError, KeyError) as error:
        raise UserError(f"{path}: the section 'codesign' is not one of ours ({error})") from None
    for tower in (vision, text):
        _activation(tower.activation, path)
    return said


def huggingface_config(architecture: Architecture, dialect: Dialect, dtype: str) -> dict[str, Any]:
    """config.json of a CLIP whose heads fill the width of both towers."""
    a = architecture

    def tower(name: str) -> dict[str, Any]:
        t, own = getattr(a, name), getattr(dialect, name)
        return {
            "model_type": f"clip_{name}_model",
            "hidden_size": t.width,
            "intermediate_size": t.ffn,
            "num_hidden_layers": t.layers,
            "num_attention_heads": t.heads,
            "hidden_act": own.activation or a.activation,
            "layer_norm_eps": own.epsilon,
            "projection_dim": a.projection,
        }

    end = HF_LARGEST_ID if dialect.end_of_text is None else dialect.end_of_text
    return {
        "architectures": ["CLIPModel"],
        "model_type": "clip",
        "dtype": dtype,
        "projection_dim": a.projection,
        "logit_scale_init_value": 2.6592,
        "vision_config": tower("vision")
        | {"image_size": a.image, "patch_size": a.patch, "num_channels": a.channels},
        "text_config": tower("text")
        | {
            "vocab_size": a.vocab,
            "max_position_embeddings": a.context,
            "bos_token_id": max(a.vocab - 2, 0),
            "eos_token_id": end,
        },
    }


def openclip_config(architecture: Architecture, dialect: Dialect) -> dict[str, Any]:
    """open_clip_config.json: OpenCLIP's own keys where they can tell the network, and ours."""
    a = architecture
    towers = {name: _told(a, dialect, name) for name in TOWERS}
    ours = {name: dataclasses.asdict(told) for name, told in towers.items()}
    config: dict[str, Any] = {"codesign": ours | {"end_of_text": dialect.end_of_text}}
    vision, text = towers["vision"], towers["text"]
    usual = vision.activation == text.activation and all(
        told.epsilon == LAYER_NORM_EPSILON
        and getattr(a, name).heads * (told.head_dim or 0) == getattr(a, name).width
        and not getattr(dialect, name).ragged
        for name, told in towers.items()
    )
    if usual:
        config["model_cfg"] = {
            "embed_dim": a.projection,
            "quick_gelu": vision.activation == "quick_gelu",
            "vision_cfg": {
                "image_size": a.image,
                "patch_size": a.patch,
                "layers": a.vision.layers,
                "width": a.vision.width,
                "head_width": vision.head_dim,
                "mlp_ratio": _ratio(a.vision),
            },
            "text_cfg": {
                "context_length": a.context,
                "vocab_size": a.vocab,
                "layers": a.text.layers,
                "width": a.text.width,
                "heads": a.text.heads,
                "mlp_ratio": _ratio(a.text),
            },
        }
    return config


def _told(architecture: Architecture, dialect: Dialect, tower: str) -> TowerSaid:
    own: TowerDialect = getattr(dialect, tower)
    return TowerSaid(
        own.head_dim or architecture.head_dim,
        own.activation or architecture.activation,
        own.epsilon,
    )


def _ratio(tower: Tower) -> float:
    """mlp_ratio with int(width * mlp_ratio) == ffn, which ffn / width may miss by rounding."""
    ratio = tower.ffn / tower.width
    return ratio if int(tower.width * ratio) == tower.ffn else (tower.ffn + 0.5) / tower.width
