"""Layouts: how HuggingFace and OpenCLIP name and shape the tensors of one and the same CLIP.

A layout is a table, one line per tensor: its name, the parameters of ours it holds and its
axes, in the letters of `transformer.py`. Letters in brackets are merged into one axis, and
several parameters are stacked along the first: "(HK)D" of query, key and value is torch's
fused in_proj_weight [3HK, D]. A parameter knows its own axes, so one reader and one writer
serve every layout, and reading undoes writing to the bit.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
import re
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from codesign.architecture import TOWERS
from codesign.errors import UserError
from codesign.models.formats.tensor import Tensor

Path = tuple[str, ...]


class Entry(NamedTuple):
    """One tensor of a layout.

    Attributes:
      name: within its tower or block.
      parameters: what it holds, as paths below the tower or block, joined by dots.
      axes: letters; those in brackets are one axis of the tensor.
    """

    name: str
    parameters: tuple[str, ...]
    axes: str


def _table(text: str) -> tuple[Entry, ...]:
    lines = (line.split() for line in text.strip().splitlines())
    return tuple(Entry(name, tuple(rest[:-1]), rest[-1]) for name, *rest in lines)


@dataclasses.dataclass(frozen=True)
class Layout:
    """Every tensor of a CLIP in one naming.

    Attributes:
      name: for messages.
      stems: per tower, its tensors outside the blocks.
      blocks: per tower, what stands before a layer's index.
      block: the tensors of a layer.
    """

    name: str
    stems: Mapping[str, tuple[Entry, ...]]
    blocks: Mapping[str, str]
    block: tuple[Entry, ...]


HUGGINGFACE = Layout(
    name="HuggingFace",
    stems={
        "vision": _table("""
            vision_model.embeddings.class_embedding             class_token     D
            vision_model.embeddings.patch_embedding.weight      patch_kernel    DCPQ
            vision_model.embeddings.position_embedding.weight   positions       TD
            vision_model.pre_layrnorm.weight                    ln_pre.scale    D
            vision_model.pre_layrnorm.bias                      ln_pre.bias     D
            vision_model.post_layernorm.weight                  ln_post.scale   D
            vision_model.post_layernorm.bias                    ln_post.bias    D
            visual_projection.weight                            projection      ED
        """),
        "text": _table("""
            text_model.embeddings.token_embedding.weight        token_table     VD
            text_model.embeddings.position_embedding.weight     positions       TD
            text_model.final_layer_norm.weight                  ln_final.scale  D
            text_model.final_layer_norm.bias                    ln_final.bias   D
            text_projection.weight                              projection      ED
        """),
    },
    blocks={"vision": "vision_model.encoder.layers.", "text": "text_model.encoder.layers."},
    block=_table("""
        layer_norm1.weight         ln_1_scale  D
        layer_norm1.bias           ln_1_bias   D
        self_attn.q_proj.weight    query       (HK)D
        self_attn.q_proj.bias      query_bias  (HK)
        self_attn.k_proj.weight    key         (HK)D
        self_attn.k_proj.bias      key_bias    (HK)
        self_attn.v_proj.weight    value       (HK)D
        self_attn.v_proj.bias      value_bias  (HK)
        self_attn.out_proj.weight  out         D(HK)
        self_attn.out_proj.bias    out_bias    D
        layer_norm2.weight         ln_2_scale  D
        layer_norm2.bias           ln_2_bias   D
        mlp.fc1.weight             fc1         FD
        mlp.fc1.bias               fc1_bias    F
        mlp.fc2.weight             fc2         DF
        mlp.fc2.bias               fc2_bias    D
    """),
)

OPENCLIP = Layout(
    name="OpenCLIP",
    stems={
        "vision": _table("""
            visual.class_embedding       class_token     D
            visual.positional_embedding  positions       TD
            visual.conv1.weight          patch_kernel    DCPQ
            visual.ln_pre.weight         ln_pre.scale    D
            visual.ln_pre.bias           ln_pre.bias     D
            visual.ln_post.weight        ln_post.scale   D
            visual.ln_post.bias          ln_post.bias    D
            visual.proj                  projection      DE
        """),
        "text": _table("""
            token_embedding.weight       token_table     VD
            positional_embedding         positions       TD
            ln_final.weight              ln_final.scale  D
            ln_final.bias                ln_final.bias   D
            text_projection              projection      DE
        """),
    },
    blocks={"vision": "visual.transformer.resblocks.", "text": "transformer.resblocks."},
    block=_table("""
        ln_1.weight           ln_1_scale                         D
        ln_1.bias             ln_1_bias                          D
        attn.in_proj_weight   query key value                    (HK)D
        attn.in_proj_bias     query_bias key_bias value_bias     (HK)
        attn.out_proj.weight  out                                D(HK)
        attn.out_proj.bias    out_bias                           D
        ln_2.weight           ln_2_scale                         D
        ln_2.bias             ln_2_bias                          D
        mlp.c_fc.weight       fc1                                FD
        mlp.c_fc.bias         fc1_bias                           F
        mlp.c_proj.weight     fc2                                DF
        mlp.c_proj.bias       fc2_bias                           D
    """),
)

LOGIT_SCALE = "logit_scale"  # [], spelt the same in every naming
_ATTENTION = {
    "ln_1_scale",
    "ln_1_bias",
    "query",
    "query_bias",
    "key",
    "key_bias",
    "value",
    "value_bias",
    "out",
    "out_bias",
}


@dataclasses.dataclass(frozen=True)
class TowerSizes:
    """What the tensors of one tower tell.

    Attributes:
      width: D.
      tokens: T, rows of the position table.
      projection: E.
      qkv: qkv width HK of each layer; 0: the layer has no attention.
      ffn: F of each layer.
    """

    width: int
    tokens: int
    projection: int
    qkv: tuple[int, ...]
    ffn: tuple[int, ...]


@dataclasses.dataclass(frozen=True)
class Sizes:
    """What the tensors of a CLIP tell; patch P and colours C of the image tower, vocabulary V."""

    vision: TowerSizes
    text: TowerSizes
    patch: int
    colours: int
    vocab: int

    def letters(self, tower: str, layer: int | None = None, head_dim: int = 1) -> dict[str, int]:
        """Sizes of the axis letters in one tower, and in one layer of it."""
        t: TowerSizes = getattr(self, tower)
        letters = {
            "D": t.width,
            "T": t.tokens,
            "E": t.projection,
            "V": self.vocab,
            "P": self.patch,
            "Q": self.patch,
            "C": self.colours,
            "K": head_dim,
        }
        if layer is not None:
            letters |= {"H": t.qkv[layer] // head_dim, "F": t.ffn[layer]}
        return letters


class Place(NamedTuple):
    """Where a tensor belongs: its entry, tower and layer (None: outside the blocks)."""

    entry: Entry
    tower: str
    layer: int | None

    def shape(self, sizes: Sizes) -> tuple[int, ...]:
        """The tensor's shape."""
        letters = sizes.letters(self.tower, self.layer)
        shape = [math.prod(letters[x] for x in axis) for axis in _axes(self.entry.axes)]
        return (shape[0] * len(self.entry.parameters), *shape[1:])

    def paths(self) -> list[Path]:
        """The parameters of a CLIP it holds, as paths in the model's state."""
        below = (self.tower,) if self.layer is None else (self.tower, "blocks")
        return [(*below, *name.split(".")) for name in self.entry.parameters]


def _axes(axes: str) -> list[str]:
    """'3(HK)D' -> ['3', 'HK', 'D']."""
    return [a.strip("()") for a in re.findall(r"\(\w+\)|\w", axes)]


def places(layout: Layout, sizes: Sizes) -> dict[str, Place]:
    """Every tensor of a CLIP of these sizes but the logit scale, by name."""
    found = {}
    for tower in TOWERS:
        for entry in layout.stems[tower]:
            found[entry.name] = Place(entry, tower, None)
        for layer, qkv in enumerate(getattr(sizes, tower).qkv):
            for entry in layout.block:
                if qkv or not _ATTENTION.intersection(entry.parameters):
                    name = f"{layout.blocks[tower]}{layer}.{entry.name}"
                    found[name] = Place(entry, tower, layer)
    return found


def measure(layout: Layout, tensors: Mapping[str, Tensor], where: str) -> Sizes:
    """Infers every size from the shapes alone.

    Raises:
      UserError: a tensor that the sizes are read from is missing or has another rank.
    """

    def size(name: str, axis: int, rank: int) -> int:
        tensor = tensors.get(name)
        if tensor is None:
            raise UserError(f"{where}: the tensor '{name}' is missing; is the checkpoint whole?")
        if len(tensor.shape) != rank:
            raise UserError(
                f"{where}: tensor '{tensor.name}' has shape {list(tensor.shape)}, "
                f"expected {rank} axes"
            )
        return tensor.shape[axis]

    def named(table: tuple[Entry, ...], parameter: str) -> Entry:
        return next(entry for entry in table if parameter in entry.parameters)

    def stem(tower: str, parameter: str, letter: str) -> int:
        entry = named(layout.stems[tower], parameter)
        return size(entry.name, entry.axes.index(letter), len(entry.axes))

    def block(tower: str, layer: int, parameter: str) -> int:
        entry = named(layout.block, parameter)
        name = f"{layout.blocks[tower]}{layer}.{entry.name}"
        return size(name, 0, 1) // len(entry.parameters)

    def tower_sizes(tower: str) -> TowerSizes:
        layers = _layers(layout.blocks[tower], tensors)
        if not layers:
            raise UserError(f"{where}: the {tower} tower has no layers; is the checkpoint whole?")
        attends = [_attends(layout, f"{layout.blocks[tower]}{i}.", tensors) for i in range(layers)]
        return TowerSizes(
            width=stem(tower, "positions", "D"),
            tokens=stem(tower, "positions", "T"),
            projection=stem(tower, "projection", "E"),
            qkv=tuple(block(tower, i, "query_bias") if has else 0 for i, has in enumerate(attends)),
            ffn=tuple(block(tower, i, "fc1_bias") for i in range(layers)),
        )

    return Sizes(
        vision=tower_sizes("vision"),
        text=tower_sizes("text"),
        patch=stem("vision", "patch_kernel", "P"),
        colours=stem("vision", "patch_kernel", "C"),
        vocab=stem("text", "token_table", "V"),
    )


def _layers(prefix: str, tensors: Mapping[str, Tensor]) -> int:
    pattern = re.compile(re.escape(prefix) + r"(\d+)\.")
    matches = map(pattern.match, tensors)
    return 1 + max((int(match[1]) for match in matches if match), default=-1)


def _attends(layout: Layout, prefix: str, tensors: Mapping[str, Tensor]) -> bool:
    """Whether a layer has any tensor of its attention; one alone will be reported by `check`."""
    entries = (entry for entry in layout.block if _ATTENTION.intersection(entry.parameters))
    return any(prefix + entry.name in tensors for entry in entries)


def check(
    layout: Layout, sizes: Sizes, tensors: Mapping[str, Tensor], where: str, told_by: str
) -> None:
    """Every tensor of these sizes is there, in its shape, and nothing else.

    Args:
      layout: the naming.
      sizes: what is expected.
      tensors: what came.
      where: the file, for messages.
      told_by: what the sizes were read from, for messages.

    Raises:
      UserError: naming the first tensors that are missing, unknown or misshapen, or cannot be read.
    """
    expected = {name: place.shape(sizes) for name, place in places(layout, sizes).items()}
    missing = [name for name in (*expected, LOGIT_SCALE) if name not in tensors]
    if missing:
        raise UserError(
            f"{where}: {_some(missing)} missing for a CLIP as {told_by} describes it; "
            "is the checkpoint whole?"
        )
    unknown = [t.name for name, t in tensors.items() if name not in expected | {LOGIT_SCALE: ()}]
    if unknown:
        raise UserError(f"{where}: {_some(unknown)} not part of a CLIP as {told_by} describes it")
    for name, shape in expected.items():
        if tensors[name].shape != shape:
            raise UserError(
                f"{where}: tensor '{tensors[name].name}' has shape {list(tensors[name].shape)}, "
                f"expected {list(shape)} (from {told_by})"
            )
    # Before anything of their shapes is made.
    for tensor in tensors.values():
        if tensor.fault:
            raise UserError(f"{where}: tensor '{tensor.name}' is {tensor.fault}")
    if math.prod(tensors[LOGIT_SCALE].shape) != 1:
        scale = tensors[LOGIT_SCALE]
        raise UserError(
            f"{where}: tensor '{scale.name}' has shape {list(scale.shape)}, expected []"
        )


def _some(names: list[str]) -> str:
    shown = ", ".join(f"'{name}'" for name in names[:3])
    if len(names) == 1:
        return f"the tensor {shown} is"
    return f"{len(names)} tensors ({shown}{', ...' if len(names) > 3 else ''}) are"


def to_parameters(
    layout: Layout,
    sizes: Sizes,
    head_dims: Mapping[str, int],
    tensors: Mapping[str, Tensor],
    axes: Mapping[Path, str],
    dtype: np.dtype,
    where: str,
) -> dict[Path, np.ndarray]:
    """The parameters of a CLIP from the tensors of a file, layers stacked and zero-padded.

    Args:
      layout: the naming.
      sizes: those of the file.
      head_dims: head width of each tower.
      tensors: checked before.
      axes: those of every parameter of ours.
      dtype: of the result.
      where: the file, for messages.

    Raises:
      UserError: integers, NaN or infinity.
    """
    scale = tensors[LOGIT_SCALE].finite_floats(where)
    parameters: dict[Path, np.ndarray] = {(LOGIT_SCALE,): np.array(scale.reshape(()), dtype)}
    for name, place in places(layout, sizes).items():
        values = tensors[name].finite_floats(where)
        letters = sizes.letters(place.tower, place.layer, head_dims[place.tower])
        merged = "".join(_axes(place.entry.axes))
        parts = np.split(values, len(place.entry.parameters))
        for path, part in zip(place.paths(), parts, strict=True):
            ours = axes[path].removeprefix("L") if place.layer is not None else axes[path]
            part = part.reshape([letters[x] for x in merged])
            part = part.transpose([merged.index(x) for x in ours])
            if path not in parameters:
                shape = _stacked_shape(sizes, place.tower, axes[path], head_dims[place.tower])
                parameters[path] = np.zeros(shape, dtype)
            target = parameters[path] if place.layer is None else parameters[path][place.layer]
            target[tuple(map(slice, part.shape))] = part
    return parameters


def _stacked_shape(sizes: Sizes, tower: str, axes: str, head_dim: int) -> list[int]:
    t: TowerSizes = getattr(sizes, tower)
    letters = sizes.letters(tower) | {
        "L": len(t.qkv),
        "K": head_dim,
        "H": max(1, max(t.qkv) // head_dim),
        "F": max(1, *t.ffn),
    }
    return [letters[x] for x in axes]


def to_tensors(
    layout: Layout,
    sizes: Sizes,
    head_dims: Mapping[str, int],
    parameters: Mapping[Path, np.ndarray],
    axes: Mapping[Path, str],
) -> dict[str, np.ndarray]:
    """The reverse of `to_parameters`: each layer's leading heads and FFN units, unpadded."""
    tensors = {LOGIT_SCALE: parameters[(LOGIT_SCALE,)]}
    for name, place in places(layout, sizes).items():
        letters = sizes.letters(place.tower, place.layer, head_dims[place.tower])
        merged = "".join(_axes(place.entry.axes))
        parts = []
        for path in place.paths():
            ours = axes[path].removeprefix("L") if place.layer is not None else axes[path]
            part = parameters[path] if place.layer is None else parameters[path][place.layer]
            part = part[tuple(slice(letters[x]) for x in ours)]
            parts.append(part.transpose([ours.index(x) for x in merged]))
        whole = np.concatenate(parts) if len(parts) > 1 else parts[0]
        tensors[name] = np.ascontiguousarray(whole.reshape(place.shape(sizes)))
    return tensors


def present(counts: tuple[int, ...], most: int) -> np.ndarray:
    """bool [L, most]: which units each layer has, the leading `counts`."""
    return np.arange(most)[None] < np.array(counts)[:, None]


def is_ragged(tower: TowerSizes) -> bool:
    """Whether the layers of a tower differ, or lack a part altogether."""
    uneven = any(a != b for sizes in (tower.qkv, tower.ffn) for a, b in itertools.pairwise(sizes))
    return uneven or 0 in (*tower.qkv, *tower.ffn)
