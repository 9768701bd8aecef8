"""Which format a file's tensor names belong to, and the names without their wrappings.

Training programs wrap a model, and every wrapper puts a word before its tensors' names:
`module.` (distributed), `_orig_mod.` (compiled), `_image_encoder.` (TinyCLIP), `text.`
(OpenCLIP with a separate text tower). What remains is HuggingFace's or OpenCLIP's naming.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping

import numpy as np

from codesign.errors import UserError
from codesign.models.formats.files import Tensors
from codesign.models.formats.layout import HUGGINGFACE, OPENCLIP, Layout, Sizes
from codesign.models.formats.tensor import Tensor

_TRAINING = re.compile(r"^(?:module\.|_orig_mod\.)+")
_TINYCLIP = re.compile(
    r"^(?:_image_encoder|_text_encoder|_logit_scale"
    r"|image_encoder_without_ddp|text_encoder_without_ddp)\."
)
_TINYCLIP_MASKS = "l0_module."
# Buffers, and the scalars in OpenAI's archives: they repeat what other tensors or the code say.
_BUFFERS = re.compile(
    r".*position_ids$|(?:.*\.)?attn_mask$|input_resolution$|context_length$|vocab_size$"
)
# Names that tell a model of another kind, and what it is.
_FOREIGN = (
    ("visual.trunk.", "a timm image tower"),
    ("visual.layer1.", "a ResNet image tower"),
    ("visual.attnpool.", "a ResNet image tower"),
    ("visual.head.", "a timm image tower"),
    ("text_decoder.", "a CoCa captioner"),
    ("text.cls_emb", "a CoCa captioner"),
    ("text.transformer.embeddings.", "a HuggingFace text tower in OpenCLIP"),
    ("text.transformer.encoder.", "a HuggingFace text tower in OpenCLIP"),
    ("logit_bias", "a SigLIP-style logit bias"),
    ("vision_model.head.", "a SigLIP"),
    ("visual.attn_pool.", "an attention-pooled image tower"),
    ("text_projection.bias", "a text projection with a bias"),
    ("text.text_projection.bias", "a text projection with a bias"),
)
_LAYER_SCALE = re.compile(r"\.ls_[12]\.gamma$")


@dataclasses.dataclass(frozen=True)
class Named:
    """The tensors of a CLIP under the names of one layout.

    Attributes:
      layout: HUGGINGFACE or OPENCLIP.
      tensors: those of the network; each keeps the name it has in the file.
      buffers: what repeats other tensors, by the same names.
      masks: TinyCLIP's pruning logits.
      tinyclip: named as TinyCLIP does: exact GELU and heads of 64 channels.
      openai: from a TorchScript archive, which only OpenAI published: QuickGELU.
    """

    layout: Layout
    tensors: dict[str, Tensor]
    buffers: dict[str, Tensor]
    masks: dict[str, Tensor]
    tinyclip: bool
    openai: bool


def recognise(found: Tensors, where: str) -> Named:
    """Detects the format and unwraps the names.

    Raises:
      UserError: a model of another kind, or tensors that contradict each other.
    """
    named: dict[str, Tensor] = {}
    # The masks' names differ by their prefix alone, so they keep it.
    masks = {name: t for name, t in found.tensors.items() if _TINYCLIP_MASKS in name}
    tinyclip = bool(masks)
    for full, tensor in found.tensors.items():
        if full in masks:
            continue
        name = _TRAINING.sub("", full)
        inner = _TINYCLIP.sub("", name)
        tinyclip |= inner != name
        name = _TRAINING.sub("", inner)
        if name in named and not _same(named[name], tensor):
            raise UserError(
                f"{where}: '{named[name].name}' and '{full}' are one tensor by name, but differ"
            )
        named.setdefault(name, tensor)
    _refuse_foreign(named, where)
    named = _without_text_prefix(named)
    buffers = {n: named.pop(n) for n in list(named) if _BUFFERS.fullmatch(n)}
    return Named(_layout(named, where), named, buffers, masks, tinyclip, found.script)


def _same(a: Tensor, b: Tensor) -> bool:
    return a.shape == b.shape and a.read().tobytes() == b.read().tobytes()


def _refuse_foreign(named: Mapping[str, Tensor], where: str) -> None:
    for name, tensor in named.items():
        for start, kind in _FOREIGN:
            if name.startswith(start):
                raise UserError(f"{where} holds {kind} ('{tensor.name}'), which is not supported")
        if _LAYER_SCALE.search(name):
            raise UserError(f"{where} uses LayerScale ('{tensor.name}'), which is not supported")


def _without_text_prefix(named: Mapping[str, Tensor]) -> dict[str, Tensor]:
    plain = {}
    for name, tensor in named.items():
        if name == "text.text_projection.weight":  # a Linear there: [E, D]
            plain["text_projection"] = tensor.T
        else:
            plain[name.removeprefix("text.")] = tensor
    return plain


def _layout(named: Mapping[str, Tensor], where: str) -> Layout:
    has = {
        start: any(name.startswith(start) for name in named)
        for start in ("vision_model.", "text_model.", "visual.", "transformer.")
    }
    for layout, towers in (
        (HUGGINGFACE, ("vision_model.", "text_model.")),
        (OPENCLIP, ("visual.", "transformer.")),
    ):
        if all(has[tower] for tower in towers):
            return layout
        for tower in towers:
            if has[tower]:
                raise UserError(
                    f"{where} holds one tower only ('{tower}...'); a CLIP needs both towers"
                )
    tensors = ", ".join(f"'{tensor.name}'" for tensor in list(named.values())[:3])
    raise UserError(f"{where} is no CLIP checkpoint: its tensors are {tensors or 'none'}, ...")


def check_buffers(named: Named, sizes: Sizes, where: str) -> None:
    """Buffers say what a CLIP does anyway; a file where they say otherwise is refused.

    Raises:
      UserError: positions that are not 0, 1, 2, ...; an attention mask that is not causal; a
        context or vocabulary of another size.
    """
    told = {
        "context_length": sizes.text.tokens,
        "vocab_size": sizes.vocab,
        "input_resolution": sizes.patch * round((sizes.vision.tokens - 1) ** 0.5),
    }
    for name, tensor in named.buffers.items():
        values = tensor.read()
        if name.endswith("position_ids"):
            usual = np.array_equal(values.ravel(), np.arange(values.size))
        elif name.endswith("attn_mask"):
            rows, columns = np.indices(values.shape[-2:])
            usual = np.array_equal(values < 0, np.broadcast_to(columns > rows, values.shape))
        else:
            usual = values.size == 1 and int(values.ravel()[0]) == told[name]
        if not usual:
            raise UserError(f"{where}: the values of '{tensor.name}' are not those of a CLIP")


def check_masks(named: Named, sizes: Sizes, head_dims: Mapping[str, int], where: str) -> list[str]:
    """TinyCLIP's pruning masks have been applied: what they close is gone.

    Returns:
      What to tell the user of the masks, a line or none.

    Raises:
      UserError: a mask that closes units the file still has in full.
    """
    for name, mask in named.masks.items():
        for tower, word in (("vision", "image"), ("text", "text")):
            if word not in name:
                continue
            t = getattr(sizes, tower)
            whole = {
                "hidden_loga": t.width,
                "heads_loga": sum(t.qkv) // head_dims[tower],
                "intermediate_loga": sum(t.ffn),
            }.get(name.rsplit(".", 1)[-1])
            values = mask.read()
            if values.size == whole and np.any(values < 0):
                raise UserError(
                    f"{where} is not pruned yet: its mask '{mask.name}' closes units that the "
                    "file still holds; apply TinyCLIP's prune step first"
                )
    if not named.masks:
        return []
    first = next(iter(named.masks))
    return [
        f"{where}: not used are {len(named.masks)} pruning masks, such as '{first}', as the "
        "weights are pruned by them already"
    ]
