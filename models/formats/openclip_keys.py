"""The keys of OpenCLIP's model_cfg: what a value there means for a CLIP of ours.

As of open_clip 3.3 (CLIPVisionCfg, CLIPTextCfg and CLIP in its model.py) and the configs of
earlier versions. A key is read, or changes the network by every value but one, or changes nothing
that is computed; no key is passed over without a word.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from codesign.architecture import TOWERS
from codesign.decode import decode
from codesign.errors import UserError
from codesign.json_text import read_json
from codesign.models.formats.files import OPENCLIP_CONFIG
from codesign.printable import short_repr

# Has OpenAI's vocabulary, with which OpenCLIP's checkpoints are trained too.
USUAL_TOKENIZER = "openai/clip-vit-base-patch32"
USUAL_VOCAB = 49408  # whose last word is the end of text

_SHOWN = 5
# Of both towers: the values by which a layer is as ours.
_LAYERS: dict[str, tuple[Any, ...]] = {
    "final_ln_after_pool": (False,),
    "output_tokens": (False,),
    "ls_init_value": (None,),
    "act_kwargs": (None, {}),
    "block_type": (None, "default", "custom"),
    "qk_norm": (False,),
    "scaled_cosine_attn": (False,),
    "scale_heads": (False,),
    "scale_attn_inner": (False,),
    "scale_attn": (False,),
    "scale_fc": (False,),
}
_SUPPORTED: dict[str, dict[str, tuple[Any, ...]]] = {
    "vision_cfg": _LAYERS
    | {
        "pool_type": ("tok",),
        "global_average_pool": (False,),
        "attentional_pool": (False,),
        "no_ln_pre": (False,),
        "pos_embed_type": ("learnable", "sin_cos_2d"),  # whose table is among the tensors
        "input_patchnorm": (False,),
        "timm_model_name": (None, ""),
    },
    "text_cfg": _LAYERS
    | {
        "pool_type": ("argmax", "eos"),
        "no_causal_mask": (False,),
        "embed_cls": (False,),
        "proj_bias": (False,),
        "proj_type": ("linear",),
        "hf_model_name": (None, ""),
    },
    "": {"multimodal_cfg": (None,), "init_logit_bias": (None,)},
}
# Read where they tell what tensors do not, told by the tensors, of a training, or of a part that is
# not there by the above.
_OTHERS = {
    "vision_cfg": "layers width head_width mlp_ratio patch_size image_size norm_kwargs "
    "patch_dropout attn_pooler_queries attn_pooler_heads n_queries timm_model_pretrained timm_pool "
    "timm_proj timm_proj_bias timm_drop timm_drop_path",
    "text_cfg": "layers width heads mlp_ratio context_length vocab_size norm_kwargs eos_id pad_id "
    "hf_tokenizer_name tokenizer_mode tokenizer_kwargs hf_model_pretrained hf_proj_type "
    "hf_pooler_type proj pooler_type",
    "": "embed_dim quick_gelu vision_cfg text_cfg custom_text init_logit_scale cast_dtype "
    "nonscalar_logit_scale output_dict model_cfg preprocess_cfg codesign",
}


@dataclasses.dataclass(frozen=True)
class _Tokens:
    """What is looked at in a text_cfg for the tokenizer."""

    hf_tokenizer_name: str | None = None
    tokenizer_mode: str | None = None
    tokenizer_kwargs: dict[str, Any] | None = None


def check_tokenizer(folder: Path, beside: bool) -> None:
    """Refuses ways to make ids that neither OpenAI's tokenizer nor one beside the checkpoint has.

    Args:
      folder: where a config may be.
      beside: whether files of a tokenizer are there.

    Raises:
      UserError: another tokenizer, or settings of one.
    """
    path = folder / OPENCLIP_CONFIG
    config = read_json(path) if path.is_file() else {}
    for part in ("model_cfg", "text_cfg"):
        config = config.get(part, {} if part == "text_cfg" else config)
        if not isinstance(config, dict):  # told when the network is loaded
            return
    said = decode(_Tokens, config, str(path), at="text_cfg")
    other = said.hf_tokenizer_name or ""
    mend = "give the tokenizer it was trained with (--tokenizer), a folder or hub name"
    if other not in ("", USUAL_TOKENIZER) and not beside:
        raise UserError(
            f"{path}: the tokenizer is {short_repr(other)}, which is not beside it; {mend}"
        )
    usual = {
        "clean": "whitespace" if other else "lower",
        "strip_sep_token": False,
        "reduction_mask": "",
    }
    odd = {
        f"tokenizer_kwargs.{key}": value
        for key, value in (said.tokenizer_kwargs or {}).items()
        if key != "context_length" and (key not in usual or value != usual[key])
    }
    if said.tokenizer_mode:
        odd["tokenizer_mode"] = said.tokenizer_mode
    for key, value in odd.items():
        where = f"{path}: text_cfg.{key}" if key.isprintable() else f"{path}: text_cfg"
        raise UserError(f"{where} = {short_repr(value)} is not supported; {mend}")


def check_keys(model: Mapping[str, Any], path: Path) -> tuple[str, ...]:
    """Refuses what is another network than a CLIP of ours; a line on keys that are not known.

    Args:
      model: a model_cfg, its towers objects.
      path: of the config, for messages.

    Raises:
      UserError: a key with another value than the supported ones.
    """
    unknown = []
    for part in ("", *(f"{tower}_cfg" for tower in TOWERS)):
        keys, at = (model[part], f"{part}.") if part else (model, "")
        for key, value in keys.items():
            supported = _SUPPORTED[part].get(key)
            if supported is not None:
                _check_value(value, supported, f"{path}: {at}{key}")
            elif key == "norm_kwargs":
                _check_norm(value or {}, f"{path}: {at}{key}")
            elif key not in _OTHERS[part].split():
                unknown.append(at + (key if key.isprintable() else short_repr(key)))
    if not unknown:
        return ()
    shown = ", ".join([*unknown[:_SHOWN], *(["..."] if len(unknown) > _SHOWN else [])])
    return (
        f"{path}: not known, so not honoured: {shown}; where that changes what the network "
        "computes, its numbers are others",
    )


def _check_value(value: Any, supported: tuple[Any, ...], where: str) -> None:
    # By type too: Python's 0 equals False.
    if not any(type(value) is type(one) and value == one for one in supported):
        first, *more = (repr(one) for one in supported if one not in ("", {}))
        raise UserError(
            f"{where} = {short_repr(value)} is not supported, only {' or '.join([first, *more])} is"
        )


def _check_norm(settings: Mapping[str, Any], where: str) -> None:
    odd = next((key for key in settings if key != "eps"), None)
    if odd is not None:
        raise UserError(f"{where}: {short_repr(odd)} is not supported, only eps is")
