"""Which CLIP of a file is meant, in which format, and its names without their wrappings.

Training programs wrap a model, and every wrapper puts a word before its tensors' names:
`module.` (distributed), `_orig_mod.` (compiled), `_image_encoder.` (TinyCLIP), `text.`
(OpenCLIP with a separate text tower), `model.` or `clip_model.` (a model that holds a CLIP).
What remains is HuggingFace's or OpenCLIP's naming.
"""

from __future__ import annotations

import collections
import dataclasses
import re
from collections.abc import Mapping
from typing import Literal, get_args

import numpy as np

from codesign.errors import UserError
from codesign.models.formats.files import Tensors
from codesign.models.formats.layout import HUGGINGFACE, OPENCLIP, Layout, Sizes
from codesign.models.formats.script import Script
from codesign.models.formats.tensor import Tensor

Weights = Literal["raw", "averaged"]

_TINYCLIP = {
    "_image_encoder",
    "_text_encoder",
    "_logit_scale",
    "image_encoder_without_ddp",
    "text_encoder_without_ddp",
}
# Words that wrappers put anywhere in a name: of distributed training (DataParallel, FSDP,
# DeepSpeed), of torch.compile and of checkpointed activations.
_WRAPPERS = _TINYCLIP | {
    "module",
    "_orig_mod",
    "_fsdp_wrapped_module",
    "_checkpoint_wrapped_module",
    "_forward_module",
}
# First words of a CLIP's own names; what stands before them is whose part the CLIP is.
_VISION, _TEXT = {"visual", "vision_model"}, {"transformer", "text", "text_model"}
_FIRST = (
    _VISION
    | _TEXT
    | {
        "visual_projection",
        "token_embedding",
        "positional_embedding",
        "ln_final",
        "text_projection",
        "logit_scale",
        "logit_bias",
        "text_decoder",
    }
)
# How averages of the weights over the steps of a training are called.
_AVERAGED = re.compile(r"(?<![a-z])ema|ema(?![a-z])|averag|(?<![a-z])swa(?![a-z])|shadow|polyak")
_RAW = re.compile(r"online|(?<![a-z])raw(?![a-z])")  # where ema-pytorch keeps both together
_AVERAGE_COUNT = "n_averaged"  # of torch's AveragedModel
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
# What peft puts into a network beside, or in place of, its own layers.
_ADAPTER = re.compile(r"(^|\.)(lora_\w+|base_layer)(\.|$)")


@dataclasses.dataclass(frozen=True)
class Named:
    """The tensors of a CLIP under the names of one layout.

    Attributes:
      layout: HUGGINGFACE or OPENCLIP.
      tensors: those of the network; each keeps the name it has in the file.
      buffers: what repeats other tensors, by the same names.
      masks: TinyCLIP's pruning logits.
      tinyclip: named as TinyCLIP does: exact GELU and heads of 64 channels.
      script: of a TorchScript archive, what it tells beside its tensors.
      notes: what a user should know of the choice, a line each.
    """

    layout: Layout
    tensors: dict[str, Tensor]
    buffers: dict[str, Tensor]
    masks: dict[str, Tensor]
    tinyclip: bool
    script: Script | None = None
    notes: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True)
class _Found:
    """One CLIP in a file.

    Attributes:
      place: keys and prefix.
      tensors: by their names without wrappers.
      beside: names of the tensors of the same state dict that belong to no CLIP.
      averaged: whether they are averages over the steps of a training.
    """

    place: str
    tensors: dict[str, Tensor]
    beside: list[str]
    averaged: bool


def recognise(found: Tensors, where: str, weights: Weights | None = None) -> Named:
    """Detects the format and unwraps the names.

    Args:
      found: what the file holds.
      where: the file, for messages.
      weights: of a file with raw and averaged weights, which to take; None: the averaged ones,
        with a note.

    Raises:
      UserError: a model of another kind, tensors that contradict each other, several CLIPs of
        which none is meant, or none of the `weights` wanted.
    """
    by_place = {place: _clips(place, t, where) for place, t in found.dicts.items()}
    clips = [clip for clips_there in by_place.values() for clip in clips_there]
    lists = [place for place, tensors in found.lists.items() if any(map(_is_weight, tensors))]
    averages = [place for place in lists if _is_averaged(place)]
    if not clips:  # one that is named as a CLIP in part, so that the error tells what it is
        largest = max(found.dicts, key=lambda place: len(found.dicts[place]))
        there = found.dicts[largest]
        clips = [_Found(largest, _own(there, _usual_prefix(there), where), [], False)]
    chosen, notes = _choose(clips, where, weights, averages)
    masks = {name: t for name, t in chosen.tensors.items() if _TINYCLIP_MASKS in name}
    named = {name: t for name, t in chosen.tensors.items() if name not in masks}
    _refuse_foreign(named, where)
    named = _without_text_prefix(named)
    buffers = {n: named.pop(n) for n in list(named) if _BUFFERS.fullmatch(n)}
    tinyclip = bool(masks) or any(
        not _TINYCLIP.isdisjoint(t.name.split(".")) for t in chosen.tensors.values()
    )
    layout = _layout(named, where)
    unused = chosen.beside + _elsewhere(
        {place: tensors for place, tensors in found.dicts.items() if not by_place[place]},
        {p: found.lists[p] for p in lists if p not in averages or chosen.averaged},
    )
    if unused:
        which = f"the tensor '{unused[0]}'"
        if len(unused) > 1:
            which = f"{len(unused)} tensors, such as '{unused[0]}'"
        notes.append(f"{where}: not used, being no part of the CLIP: {which}")
    return Named(layout, named, buffers, masks, tinyclip, found.script, tuple(notes))


def _elsewhere(
    dicts: Mapping[str, Mapping[str, Tensor]], lists: Mapping[str, list[Tensor]]
) -> list[str]:
    """Places of the tensors of state dicts and lists that hold no CLIP."""
    named = [
        f"{place}.{name}" if place else name
        for place, tensors in dicts.items()
        for name, tensor in tensors.items()
        if _is_weight(tensor)
    ]
    numbered = [
        f"{place}[{i}]"
        for place, tensors in lists.items()
        for i, tensor in enumerate(tensors)
        if _is_weight(tensor)
    ]
    return named + numbered


def _is_weight(tensor: Tensor) -> bool:
    """No counter and no state of a generator."""
    return len(tensor.shape) > 1


def _clips(place: str, tensors: Mapping[str, Tensor], where: str) -> list[_Found]:
    """The CLIPs of a state dict: what stands before the names of both towers."""
    first_words: dict[str, set[str]] = collections.defaultdict(set)
    for name in tensors:
        prefix, own = _split(name)
        first_words[prefix].add(own.partition(".")[0])
    prefixes = [p for p, words in first_words.items() if words & _VISION and words & _TEXT]
    owners = {name: _owner(name, prefixes) for name in tensors}
    averages = any(name.rpartition(".")[2] == _AVERAGE_COUNT for name in tensors)
    beside = [
        name
        for name, owner in owners.items()
        if owner is None and not name.endswith(_AVERAGE_COUNT)
    ]
    clips = []
    for prefix in prefixes:
        mine = {
            name: tensors[name]
            for name, owner in owners.items()
            if owner == prefix and not name.endswith(_AVERAGE_COUNT)
        }
        whole = ".".join(filter(None, (place, prefix)))
        averaged = averages or _is_averaged(whole)
        clips.append(_Found(whole, _own(mine, prefix, where), beside, averaged))
    return clips


def _is_averaged(place: str) -> bool:
    """By the innermost word that tells."""
    for word in reversed(place.lower().split(".")):
        if _RAW.search(word):
            return False
        if _AVERAGED.search(word):
            return True
    return False


def _words(name: str) -> list[str]:
    return [word for word in name.split(".") if word not in _WRAPPERS]


def _split(name: str) -> tuple[str, str]:
    """'module.clip.visual.proj' -> ('clip', 'visual.proj')."""
    words = _words(name)
    start = next((i for i, word in enumerate(words) if word in _FIRST), 0)
    return ".".join(words[:start]), ".".join(words[start:])


def _owner(name: str, prefixes: list[str]) -> str | None:
    """The longest of the prefixes that a name has."""
    bare = ".".join(_words(name)) + "."
    own = [p for p in prefixes if not p or bare.startswith(f"{p}.")]
    return max(own, key=len, default=None)


def _usual_prefix(tensors: Mapping[str, Tensor]) -> str:
    prefixes = collections.Counter(_split(name)[0] for name in tensors)
    return max(prefixes, key=lambda prefix: prefixes[prefix], default="")


def _own(tensors: Mapping[str, Tensor], prefix: str, where: str) -> dict[str, Tensor]:
    """Tensors by their names without wrappers and the prefix.

    TinyCLIP's masks, which differ by their wrappers alone, keep their whole names.

    Raises:
      UserError: two tensors of one name that differ.
    """
    own: dict[str, Tensor] = {}
    for full, tensor in tensors.items():
        bare = ".".join(_words(full))
        name = bare[len(prefix) + 1 :] if prefix and bare.startswith(f"{prefix}.") else bare
        name = full if _TINYCLIP_MASKS in full else name
        if name in own and not _same(own[name], tensor):
            raise UserError(
                f"{where}: '{own[name].name}' and '{full}' are one tensor by name, but differ"
            )
        own.setdefault(name, tensor)
    return own


def _choose(
    clips: list[_Found], where: str, weights: Weights | None, nameless: list[str]
) -> tuple[_Found, list[str]]:
    """The CLIP that is meant, and what to say of it.

    Args:
      clips: those of the file.
      where: the file, for messages.
      weights: which are wanted.
      nameless: places of averaged weights that are lists, so that nothing tells which is which.
    """
    if weights is not None and weights not in get_args(Weights):
        raise UserError(f"weights is {weights!r}, expected {' or '.join(get_args(Weights))}")
    kinds: dict[str, list[_Found]] = {
        "raw": [c for c in clips if not c.averaged],
        "averaged": [c for c in clips if c.averaged],
    }
    wanted = weights or ("averaged" if kinds["averaged"] else "raw")
    listed = f"averaged ones are a list without names ('{nameless[0]}')" if nameless else ""
    if not kinds[wanted]:
        why = f"; its {listed}" if listed and wanted == "averaged" else ""
        raise UserError(f"{where} holds no {wanted} weights, only those {_place(clips[0])}{why}")
    chosen, *others = kinds[wanted]
    differing = next((o for o in others if not _same_network(chosen, o)), None)
    if differing is not None:
        raise UserError(
            f"{where} holds several CLIPs, {_place(chosen)} and {_place(differing)}; save the "
            "state dict of one alone"
        )
    if weights is None and kinds["raw"] and kinds["averaged"]:
        return chosen, [
            f"{where} holds raw weights ({_place(kinds['raw'][0])}) and averaged ones "
            f"({_place(chosen)}): taken are the averaged, which trainings "
            "publish; weights='raw' (--weights raw) takes the others"
        ]
    if weights is None and listed and not chosen.averaged:
        return chosen, [
            f"{where}: taken are the raw weights ({_place(chosen)}); its {listed}, which are not "
            "used. For those, load them into the model there and save its state dict"
        ]
    return chosen, []


def _place(clip: _Found) -> str:
    return f"under '{clip.place}'" if clip.place else "at its top"


def _same_network(a: _Found, b: _Found) -> bool:
    return a.tensors.keys() == b.tensors.keys() and all(
        _same(tensor, b.tensors[name]) for name, tensor in a.tensors.items()
    )


def _same(a: Tensor, b: Tensor) -> bool:
    return a.shape == b.shape and a.read().tobytes() == b.read().tobytes()


def _refuse_foreign(named: Mapping[str, Tensor], where: str) -> None:
    for name, tensor in named.items():
        for start, kind in _FOREIGN:
            if name.startswith(start):
                raise UserError(f"{where} holds {kind} ('{tensor.name}'), which is not supported")
        if _LAYER_SCALE.search(name):
            raise UserError(f"{where} uses LayerScale ('{tensor.name}'), which is not supported")
        if _ADAPTER.search(name):
            raise UserError(
                f"{where} holds an adapter that is not merged into its network ('{tensor.name}'); "
                "merge it (peft: merge_and_unload) and save the result"
            )


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
