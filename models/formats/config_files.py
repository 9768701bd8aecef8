"""What the config beside a checkpoint says that its tensors cannot; and writing such configs.

HuggingFace's config.json states everything. OpenCLIP's open_clip_config.json states an
unpruned model, so only widths per head, activation, epsilon and where a text is read are taken
from it: beside a pruned file it is that of its origin. Ours adds a section "codesign" that
OpenCLIP does not look at, for what OpenCLIP's own keys cannot say.
"""

from __future__ import annotations

import dataclasses
import math
import typing
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from codesign.architecture import ACTIVATIONS, TOWERS, Architecture, Tower
from codesign.decode import decode
from codesign.errors import UserError
from codesign.json_text import read_json
from codesign.models.dialect import (
    LAYER_NORM_EPSILON,
    Activation,
    Dialect,
    Epsilon,
    Layers,
    Size,
    TokenId,
    TowerDialect,
)
from codesign.models.formats.files import HF_CONFIG, OPENCLIP_CONFIG, is_clip_config
from codesign.models.formats.layout import Sizes, TowerSizes
from codesign.models.formats.openclip_keys import check_keys

# The end-of-text id by which HuggingFace means "the largest id", whatever it is.
HF_LARGEST_ID = 2


@dataclasses.dataclass(frozen=True)
class _HfVision:
    """A CLIPVisionConfig: transformers leaves defaults out of the file."""

    hidden_size: Size = 768
    intermediate_size: Size = 3072
    num_hidden_layers: Layers = 12
    num_attention_heads: Size = 12
    num_channels: Size = 3
    image_size: Size = 224
    patch_size: Size = 32
    hidden_act: str = "quick_gelu"
    layer_norm_eps: Epsilon = 1e-5


@dataclasses.dataclass(frozen=True)
class _HfText:
    """A CLIPTextConfig."""

    hidden_size: Size = 512
    intermediate_size: Size = 2048
    num_hidden_layers: Layers = 12
    num_attention_heads: Size = 8
    vocab_size: Size = 49408
    max_position_embeddings: Size = 77
    hidden_act: str = "quick_gelu"
    layer_norm_eps: Epsilon = 1e-5
    eos_token_id: TokenId | tuple[TokenId] = 49407


@dataclasses.dataclass(frozen=True)
class _HfConfig:
    """A CLIPConfig, its towers not yet looked at.

    The legacy *_config_dict wins where it is there, as in transformers: what it leaves out is as by
    default, whatever the other says.
    """

    vision_config: dict[str, Any] | None = None
    vision_config_dict: dict[str, Any] | None = None
    text_config: dict[str, Any] | None = None
    text_config_dict: dict[str, Any] | None = None
    projection_dim: Size = 512

    def tower(self, name: str) -> dict[str, Any]:
        plain, legacy = getattr(self, f"{name}_config"), getattr(self, f"{name}_config_dict")
        return (plain or {}) if legacy is None else legacy


@dataclasses.dataclass(frozen=True)
class _NormSettings:
    eps: Epsilon = LAYER_NORM_EPSILON


@dataclasses.dataclass(frozen=True)
class _OpenclipVision:
    """What is looked at in OpenCLIP's vision_cfg."""

    head_width: Size = 64
    image_size: Size | tuple[Size, Size] | None = None
    patch_size: Size | tuple[Size, Size] | None = None
    width: Size | None = None
    layers: Layers | None = None
    norm_kwargs: _NormSettings | None = None


@dataclasses.dataclass(frozen=True)
class _OpenclipText:
    """What is looked at in OpenCLIP's text_cfg."""

    width: Size = 512
    heads: Size = 8
    layers: Layers | None = None
    context_length: Size | None = None
    vocab_size: Size | None = None
    norm_kwargs: _NormSettings | None = None
    pool_type: str = "argmax"
    eos_id: TokenId = 2


@dataclasses.dataclass(frozen=True)
class _OpenclipModel:
    """OpenCLIP's model_cfg."""

    vision_cfg: _OpenclipVision
    text_cfg: _OpenclipText
    embed_dim: Size | None = None
    quick_gelu: bool = False


@dataclasses.dataclass(frozen=True)
class TowerConfig:
    """Of one tower; None: not said."""

    head_dim: Size | None = None
    activation: Activation | None = None
    epsilon: Epsilon = LAYER_NORM_EPSILON


@dataclasses.dataclass(frozen=True)
class _Ours:
    """Our section of an OpenCLIP config."""

    vision: TowerConfig
    text: TowerConfig
    end_of_text: TokenId | None


@dataclasses.dataclass(frozen=True)
class StatedConfig:
    """What a config says; the default says nothing.

    Attributes:
      by: the config's file name; "": there is none.
      vision: of the image tower.
      text: of the text tower.
      end_of_text: see `Dialect`.
      sizes: all dimensions, from HuggingFace's config beside its own tensors only.
      described: dimensions by name that are not taken from it, since beside a pruned network
        they are those of its origin.
      notes: what a user should know of it, a line each.
    """

    by: str = ""
    vision: TowerConfig = TowerConfig()
    text: TowerConfig = TowerConfig()
    end_of_text: int | None = None
    sizes: Sizes | None = None
    described: Mapping[str, int] = dataclasses.field(default_factory=dict)
    notes: tuple[str, ...] = ()

    def otherwise(self, sizes: Sizes) -> list[str]:
        """Dimensions of a network that are not as described, such as 'vision width 768, not 64'."""
        found = _dimensions(sizes)
        return [
            f"{name} {said}, not {found[name]}"
            for name, said in self.described.items()
            if said != found[name]
        ]


def _dimensions(sizes: Sizes) -> dict[str, int]:
    """Names that tell a user what differs."""
    vision, text = sizes.vision, sizes.text
    return {
        "vision width": vision.width,
        "vision layers": len(vision.qkv),
        "text width": text.width,
        "text layers": len(text.qkv),
        "image size": sizes.patch * math.isqrt(max(vision.tokens - 1, 0)),
        "patch": sizes.patch,
        "context": text.tokens,
        "vocabulary": sizes.vocab,
        "projection": vision.projection,
    }


def read_config(folder: Path, huggingface: bool) -> StatedConfig:
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
    if hf.is_file() and is_clip_config(config := _json(hf)):
        # Of the same network in another format: its sizes are not this file's to keep.
        said = _huggingface(config, hf)
        described = {} if said.sizes is None else _dimensions(said.sizes)
        return dataclasses.replace(said, sizes=None, end_of_text=None, described=described)
    return StatedConfig()


def _json(path: Path) -> Mapping[str, Any]:
    config = read_json(path)
    if not isinstance(config, dict):
        raise UserError(f"{path} is not a model's config: it holds no keys")
    return config


def _huggingface(config: Mapping[str, Any], path: Path) -> StatedConfig:
    if not is_clip_config(config):
        raise UserError(
            f"{path} describes a '{config.get('model_type')}' model; only 'clip' is supported"
        )
    whole = decode(_HfConfig, config, str(path))
    vision = decode(_HfVision, whole.tower("vision"), str(path), at="vision_config")
    text = decode(_HfText, whole.tower("text"), str(path), at="text_config")
    image, patch = vision.image_size, vision.patch_size
    if image % patch:
        raise UserError(f"{path}: image_size {image} is not a multiple of patch_size {patch}")
    vision_tokens = (image // patch) ** 2 + 1
    end = text.eos_token_id if isinstance(text.eos_token_id, int) else text.eos_token_id[0]
    return StatedConfig(
        by=path.name,
        vision=_tower_config(vision, path),
        text=_tower_config(text, path),
        end_of_text=None if end == HF_LARGEST_ID else end,
        sizes=Sizes(
            _tower_sizes(vision, vision_tokens, whole.projection_dim),
            _tower_sizes(text, text.max_position_embeddings, whole.projection_dim),
            patch,
            vision.num_channels,
            text.vocab_size,
        ),
    )


def _tower_config(tower: _HfVision | _HfText, path: Path) -> TowerConfig:
    width, heads = tower.hidden_size, tower.num_attention_heads
    if width % heads:
        raise UserError(f"{path}: hidden_size {width} is not a multiple of {heads} heads")
    activation = tower.hidden_act
    if activation not in ACTIVATIONS:
        known = " and ".join(sorted(ACTIVATIONS))
        raise UserError(f"{path}: the activation is {activation!r}; supported are {known}")
    return TowerConfig(width // heads, typing.cast(Activation, activation), tower.layer_norm_eps)


def _tower_sizes(tower: _HfVision | _HfText, tokens: int, projection: int) -> TowerSizes:
    width, layers = tower.hidden_size, tower.num_hidden_layers
    return TowerSizes(
        width, tokens, projection, (width,) * layers, (tower.intermediate_size,) * layers
    )


def _openclip(config: Mapping[str, Any], path: Path) -> StatedConfig:
    if "codesign" in config:
        ours = decode(_Ours, config["codesign"], str(path), at="codesign", exact=True)
        for tower in TOWERS:
            if getattr(ours, tower).activation is None:
                raise UserError(f"{path}: codesign.{tower}.activation is None, expected its name")
        return StatedConfig(path.name, ours.vision, ours.text, ours.end_of_text)
    at = "model_cfg" if "model_cfg" in config else ""
    stated = config.get("model_cfg", config)
    model = decode(_OpenclipModel, stated, str(path), at=at)
    notes = check_keys(stated, path)
    vision, text = model.vision_cfg, model.text_cfg
    for key in ("image_size", "patch_size"):
        sides = getattr(vision, key)
        if isinstance(sides, tuple) and sides[0] != sides[1]:
            raise UserError(
                f"{path}: vision_cfg.{key} is {list(sides)}; only square images and patches are "
                "supported"
            )
    if text.width % text.heads:
        raise UserError(
            f"{path}: text_cfg.width {text.width} is not a multiple of {text.heads} heads"
        )
    activation: Activation = "quick_gelu" if model.quick_gelu else "gelu"
    return StatedConfig(
        by=path.name,
        vision=TowerConfig(vision.head_width, activation, _epsilon(vision)),
        text=TowerConfig(text.width // text.heads, activation, _epsilon(text)),
        end_of_text=text.eos_id if text.pool_type == "eos" else None,
        described=_described(model),
        notes=notes,
    )


def _described(model: _OpenclipModel) -> dict[str, int]:
    """The dimensions that an OpenCLIP config states."""
    vision, text = model.vision_cfg, model.text_cfg
    stated = {
        "vision width": vision.width,
        "vision layers": vision.layers,
        "text width": text.width,
        "text layers": text.layers,
        "image size": _side(vision.image_size),
        "patch": _side(vision.patch_size),
        "context": text.context_length,
        "vocabulary": text.vocab_size,
        "projection": model.embed_dim,
    }
    return {name: number for name, number in stated.items() if type(number) is int}


def _side(size: Any) -> Any:
    """Of a square, which OpenCLIP may state as two sides."""
    return size[0] if isinstance(size, tuple) else size


def _epsilon(tower: _OpenclipVision | _OpenclipText) -> float:
    return (tower.norm_kwargs or _NormSettings()).eps


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
    """open_clip_config.json: OpenCLIP's own keys where they can tell the network, and ours.

    OpenCLIP reads a text at its largest id, or, as of version 3.1, at an id that is named; versions
    before refuse a config that names one.
    """
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
    end = dialect.end_of_text
    largest = end in (None, a.vocab - 1)
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
                **({} if largest else {"pool_type": "eos", "eos_id": end}),
            },
        }
    return config


def _told(architecture: Architecture, dialect: Dialect, tower: str) -> TowerConfig:
    own: TowerDialect = getattr(dialect, tower)
    return TowerConfig(
        own.head_dim or architecture.head_dim,
        typing.cast(Activation, own.activation or architecture.activation),
        own.epsilon,
    )


def _ratio(tower: Tower) -> float:
    """mlp_ratio with int(width * mlp_ratio) == ffn, which ffn / width may miss by rounding."""
    ratio = tower.ffn / tower.width
    return ratio if int(tower.width * ratio) == tower.ffn else (tower.ffn + 0.5) / tower.width
