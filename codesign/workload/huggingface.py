"""HuggingFace configs as networks: CLIP, ViT, BERT and Llama.

What a config leaves out takes transformers' defaults, as it does when the model is built.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Sequence
from typing import Any

from codesign.architecture import Architecture, Tower
from codesign.errors import UserError, did_you_mean
from codesign.workload.bert import Bert
from codesign.workload.blocks import Block
from codesign.workload.clip import ClipNetwork
from codesign.workload.llama import Llama, llama_block
from codesign.workload.presets import Network
from codesign.workload.vit import Vit

# Past any real dimension, the longest context of ten million tokens included.
_LARGEST = 10**8
# Hidden activations by transformers' names. The vector unit looks a curve up in a table, so
# that the approximations of GELU cost what it costs.
_ACTIVATIONS = {
    "gelu": "gelu",
    "gelu_fast": "gelu",
    "gelu_new": "gelu",
    "gelu_pytorch_tanh": "gelu",
    "quick_gelu": "quick_gelu",
    "relu": "relu",
    "silu": "silu",
    "swish": "silu",
}


def check_model_type(model_type: Any, where: str) -> None:
    """Refuses a family that is not supported.

    Raises:
      UserError: names the families that are.
    """
    if not isinstance(model_type, str) or model_type not in _FAMILIES:
        supported = ", ".join(_FAMILIES)
        raise UserError(f"{where}: unsupported model_type '{model_type}'; supported: {supported}")


def read_config(source: str | os.PathLike[str]) -> Any:
    """A transformers config from its file, or by its name on the hub.

    Raises:
      UserError: one line that names the source and what is wrong with it.
    """
    from transformers import AutoConfig  # not above: seconds to import

    try:
        return AutoConfig.from_pretrained(os.fspath(source))
    except OSError as error:
        raise UserError(f"cannot get the config of {source}: {_one_line(error)}") from error
    except Exception as error:  # of the configs' own classes, which check little and raise anything
        raise UserError(f"{source}: {_one_line(error)}") from error


def _one_line(error: Exception) -> str:
    text = " ".join(str(error).split())
    return text if len(text) <= 160 else text[:157] + "..."


def describe(config: Any, where: str) -> Network:
    """The network of a transformers config.

    Args:
      config: a CLIPConfig, ViTConfig, BertConfig or LlamaConfig.
      where: what to call it in messages.

    Raises:
      UserError: one line that names the field and what it should be.
    """
    check_model_type(config.model_type, where)
    return _FAMILIES[config.model_type](config, where)


def _clip(config: Any, where: str) -> ClipNetwork:
    _class(config, where, ("CLIPModel",))
    v, t = config.vision_config, config.text_config
    _check_patch(v, f"{where}: vision_config")
    in_v, in_t = f"{where}: vision_config", f"{where}: text_config"
    vision, text = _encoder_block(v, in_v), _encoder_block(t, in_t)
    if vision.activation != text.activation:
        raise UserError(
            f"{in_t}: hidden_act: expected vision_config's '{v.hidden_act}', got '{t.hidden_act}'"
        )
    architecture = Architecture(
        vision=Tower(_whole(v, "num_hidden_layers", in_v), *_elastic(vision)),
        text=Tower(_whole(t, "num_hidden_layers", in_t), *_elastic(text)),
        patch=_whole(v, "patch_size", in_v),
        image=_whole(v, "image_size", in_v),
        channels=_whole(v, "num_channels", in_v),
        context=_whole(t, "max_position_embeddings", in_t),
        projection=_whole(config, "projection_dim", where),
        head_dim=vision.head_dim,
        vocab=_whole(t, "vocab_size", in_t),
        activation=vision.activation,
    )
    return ClipNetwork(architecture, text_head_dim=text.head_dim)


def _elastic(block: Block) -> tuple[int, int, int]:
    return block.width, block.heads, block.ffn


def _vit(config: Any, where: str) -> Vit:
    pools = _class(config, where, ("ViTModel", "ViTForImageClassification")) == "ViTModel"
    if pools and config.pooler_act != "tanh":
        raise UserError(f"{where}: pooler_act: expected 'tanh', got '{config.pooler_act}'")
    _check_patch(config, where)
    block = _encoder_block(config, where)
    return Vit(
        block=dataclasses.replace(block, qkv_bias=bool(config.qkv_bias)),
        layers=_whole(config, "num_hidden_layers", where),
        patch=_whole(config, "patch_size", where),
        image=_whole(config, "image_size", where),
        channels=_whole(config, "num_channels", where),
        classes=None if pools else _whole(config, "num_labels", where),
        pooled=_whole(config, "pooler_output_size", where) if pools else None,
    )


def _bert(config: Any, where: str) -> Bert:
    heads = {
        "BertModel": "pooler",
        "BertForMaskedLM": "tokens",
        "BertForSequenceClassification": "classes",
    }
    head = heads[_class(config, where, tuple(heads))]
    if head == "tokens" and not config.tie_word_embeddings:
        raise UserError(f"{where}: tie_word_embeddings: expected true for BertForMaskedLM")
    _encoder_only(config, where)
    return Bert(
        block=_encoder_block(config, where),
        layers=_whole(config, "num_hidden_layers", where),
        vocab=_whole(config, "vocab_size", where),
        positions=_whole(config, "max_position_embeddings", where),
        types=_whole(config, "type_vocab_size", where),
        head=head,
        classes=_whole(config, "num_labels", where),
    )


def _encoder_only(config: Any, where: str) -> None:
    """Refuses a BERT that is a decoder: neither its mask, its cache nor its second attention
    is modelled."""
    for field in ("add_cross_attention", "is_decoder"):
        if getattr(config, field, False):
            raise UserError(f"{where}: {field}: only BERT's encoder is modelled; expected false")


def _llama(config: Any, where: str) -> Llama:
    head = _class(config, where, ("LlamaForCausalLM", "LlamaModel"))
    width, heads = (
        _whole(config, "hidden_size", where),
        _whole(config, "num_attention_heads", where),
    )
    kv_heads = _whole(config, "num_key_value_heads", where)
    if heads % kv_heads:
        raise UserError(
            f"{where}: num_key_value_heads: expected a divisor of {heads} heads, got {kv_heads}"
        )
    block = llama_block(
        width,
        heads,
        _whole(config, "intermediate_size", where),
        kv_heads,
        _whole(config, "head_dim", where),
    )
    attention_bias = bool(config.attention_bias)
    return Llama(
        block=dataclasses.replace(
            block,
            activation=_activation(config, where),
            qkv_bias=attention_bias,
            out_bias=attention_bias,
            ffn_bias=bool(config.mlp_bias),
        ),
        layers=_whole(config, "num_hidden_layers", where),
        vocab=_whole(config, "vocab_size", where),
        positions=_whole(config, "max_position_embeddings", where),
        tied=bool(config.tie_word_embeddings),
        lm_head=head == "LlamaForCausalLM",
    )


_FAMILIES: dict[str, Callable[[Any, str], Network]] = {
    "clip": _clip,
    "vit": _vit,
    "bert": _bert,
    "llama": _llama,
}


def _class(config: Any, where: str, known: Sequence[str]) -> str:
    """Which of the `known` model classes the config is for; the first, if it does not say."""
    said = config.architectures or known
    if not isinstance(said, (list, tuple)) or not all(isinstance(name, str) for name in said):
        raise UserError(f"{where}: architectures: expected a list of names, got {said!r:.60}")
    name = said[0]
    if name not in known:
        hint = did_you_mean(name, known)
        raise UserError(f"{where}: unsupported architectures entry '{name}'; {hint}")
    return str(name)


def _check_patch(config: Any, where: str) -> None:
    """Refuses an image that holds no patch."""
    patch, image = (_whole(config, field, where) for field in ("patch_size", "image_size"))
    if patch > image:
        raise UserError(f"{where}: patch_size: expected at most image_size {image}, got {patch}")


def _encoder_block(config: Any, where: str) -> Block:
    """The block of a CLIP tower, a ViT or a BERT: heads share out the width."""
    width, heads = (
        _whole(config, "hidden_size", where),
        _whole(config, "num_attention_heads", where),
    )
    if width % heads:
        raise UserError(
            f"{where}: num_attention_heads: expected a divisor of hidden_size {width}, got {heads}"
        )
    # Some versions of transformers build a ViT by it; the others do not look at it.
    if getattr(config, "head_dim", None) not in (None, width // heads):
        raise UserError(
            f"{where}: head_dim: expected hidden_size / num_attention_heads, {width // heads}, "
            f"got {config.head_dim}"
        )
    ffn = _whole(config, "intermediate_size", where)
    return Block(width, heads, width // heads, ffn, activation=_activation(config, where))


def _activation(config: Any, where: str) -> str:
    name = config.hidden_act
    if not isinstance(name, str) or name not in _ACTIVATIONS:
        hint = did_you_mean(str(name), _ACTIVATIONS)
        raise UserError(f"{where}: hidden_act: unsupported '{name!s:.60}'; {hint}")
    return _ACTIVATIONS[name]


def _whole(config: Any, field: str, where: str) -> int:
    value = getattr(config, field, None)
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= _LARGEST:
        raise UserError(
            f"{where}: {field}: expected a whole number from 1 to {_LARGEST}, got {value!r:.60}"
        )
    return value
