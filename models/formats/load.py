"""Loading: any published CLIP, from its files to a `CLIP`.

The steps: find the files; read their tensors by name; recognise the naming; take the sizes
from HuggingFace's config or from the tensors' shapes; check every tensor against them; stack
the layers. What no tensor tells is taken from a config beside the file, else from an option,
else assumed aloud.
"""

from __future__ import annotations

import dataclasses
import math
import os
import typing
import warnings
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from codesign.architecture import ACTIVATIONS, TOWERS, Architecture, Tower
from codesign.errors import UserError
from codesign.models.clip import CLIP
from codesign.models.dialect import Activation, Dialect, TowerDialect
from codesign.models.formats.assemble import (
    abstract_clip,
    assemble,
    parameter_axes,
    variables,
)
from codesign.models.formats.config_files import StatedConfig, read_config
from codesign.models.formats.files import ADAPTER_CONFIG, Source, locate, read_tensors
from codesign.models.formats.layout import (
    HUGGINGFACE,
    Path,
    Sizes,
    TowerSizes,
    check,
    is_ragged,
    measure,
    present,
    to_parameters,
)
from codesign.models.formats.names import (
    Named,
    Weights,
    check_buffers,
    check_masks,
    recognise,
)
from codesign.models.formats.native import is_native, load_native
from codesign.models.formats.openclip_keys import USUAL_VOCAB
from codesign.models.formats.positions import Method, resize_positions
from codesign.models.formats.script_config import with_script

_USUAL_HEAD_DIM = 64
# Image towers of OpenCLIP's H, g and bigG: (width, layers) -> channels of a head.
_WIDE_HEADS = {(1280, 32): 80, (1408, 40): 88, (1664, 48): 104}


def load_clip(
    path: str | os.PathLike[str],
    *,
    image: int | None = None,
    dtype: Any = jnp.float32,
    remat: bool = False,
    activation: str | None = None,
    head_dim: int | tuple[int, int] | None = None,
    weights: Weights | None = None,
    revision: str | None = None,
) -> CLIP:
    """Loads a CLIP checkpoint of any of the known formats, which is detected.

        clip = codesign.load_clip("openai/clip-vit-base-patch16")
        embeddings, _ = clip.encode_image(images)  # [B, 224, 224, 3] -> [B, 512]

    Formats: HuggingFace folders and hub names; OpenCLIP state dicts, and the checkpoints that
    training programs make of them (.safetensors, .pt, .bin, .ckpt; whatever lies beside the
    weights, and under whatever prefix; pickled code is never run), also TorchScript such as
    OpenAI's own archives; TinyCLIP; pruned CLIPs, whose dimensions are inferred from the tensors
    alone; our own Orbax folders.
    A file's images and ids are prepared by `load_processor`.

    Args:
      path: a file, a folder, or the name of a hub repository.
      image: side of the input images in pixels, a multiple of the patch; another than the
        checkpoint's interpolates its position table bicubically, as its format's own tools do.
      dtype: compute dtype, see `CLIP`. Parameters are float32 (float64 for float64).
      remat: recompute each block in the backward pass, for memory.
      activation: "gelu" or "quick_gelu", for a file without a config beside it.
      head_dim: channels of a head, or (vision's, text's), for such a file.
      weights: "raw" or "averaged" (over the steps of a training), of a file that holds both;
        default: the averaged ones, which trainings evaluate and publish.
      revision: of the hub repository: a branch, tag or commit.

    Warns:
      UserWarning: an activation or a head width that had to be assumed; tensors beside the
        CLIP, or other weights of it, that are not used; a config that describes another network.

    Raises:
      UserError: no checkpoint there, one that is damaged or of another kind of model, or
        options that contradict it.
    """
    if np.dtype(dtype) == np.float64 and not jax.config.read("jax_enable_x64"):
        raise UserError("dtype float64 needs `with jax.enable_x64():` around it")
    source = locate(path, revision)
    notes: list[str] = []
    method: Method = "openclip"
    if is_native(source):
        model = load_native(source.folder, dtype=dtype, remat=remat)
        if activation is not None or head_dim is not None:
            raise UserError(f"{path} tells its activation and head width itself; leave them out")
        if weights is not None:
            raise UserError(f"{path} holds one set of weights; leave weights out")
    else:
        named = recognise(read_tensors(source.weights), str(source.weights), weights)
        model, notes, method = _load_file(source, named, dtype, remat, activation, head_dim)
    for note in notes:
        warnings.warn(note, stacklevel=2)
    return model if image is None else with_image_size(model, image, method)


def with_image_size(model: CLIP, image: int, method: Method = "openclip") -> CLIP:
    """The same CLIP for images of another size, its position table interpolated.

    Args:
      model: left as it is.
      image: side in pixels.
      method: whose interpolation, see `positions.py`.

    Raises:
      UserError: a size that is not a positive multiple of the patch.
    """
    a = model.architecture
    if type(image) is not int or image < 1 or image % a.patch:
        raise UserError(f"image is {image!r}, expected a positive multiple of the patch, {a.patch}")
    path = ("vision", "positions")
    values: dict[Path, Any] = {key: v[...] for key, v in variables(model).items()}
    values[path] = resize_positions(np.asarray(values[path]), image // a.patch, method)
    resized = dataclasses.replace(a, image=image)
    return assemble(
        abstract_clip(resized, model.dialect, dtype=model.dtype, remat=model.remat), values
    )


def _load_file(
    source: Source,
    named: Named,
    dtype: Any,
    remat: bool,
    activation: str | None,
    head_dim: int | tuple[int, int] | None,
) -> tuple[CLIP, list[str], Method]:
    where = str(source.weights)
    said = read_config(source.folder, named.layout is HUGGINGFACE)
    notes = [*named.notes, *said.notes]
    if (source.folder / ADAPTER_CONFIG).is_file():
        notes.append(
            f"{where}: an adapter lies beside it ({ADAPTER_CONFIG}), which transformers would "
            "apply; it is not applied here: merge it (peft: merge_and_unload) and save the result"
        )
    sizes = said.sizes or measure(named.layout, named.tensors, where)
    told_by = said.by if said.sizes else "its other tensors"
    check(named.layout, sizes, named.tensors, where, told_by)
    check_buffers(named, sizes, where)
    assumed: list[str] = []
    if named.script is not None:
        said = with_script(said, named.script, sizes, where, notes, assumed)
    head_dims = _head_dims(sizes, named, said, head_dim, where, assumed)
    activations = _activations(named, said, activation, assumed)
    notes += check_masks(named, sizes, head_dims, where)
    otherwise = said.otherwise(sizes)
    if otherwise:
        notes.append(
            f"{where}: {said.by} describes another network ({'; '.join(otherwise)}); taken from it "
            "is only what tensors do not tell, such as head widths, activation and epsilon"
        )
    if named.layout is HUGGINGFACE and not said.by and sizes.vocab != USUAL_VOCAB:
        assumed.append("texts that end with their largest id")
    if assumed:
        notes.append(
            f"{where}: no config beside it tells, so assumed are {', '.join(assumed)}; "
            "give head_dim or activation, or put its config there, where that is wrong"
        )
    architecture = _architecture(sizes, head_dims, activations, where)
    dialect = _dialect(sizes, head_dims, activations, said)
    abstract = abstract_clip(architecture, dialect, dtype=dtype, remat=remat)
    axes = parameter_axes(abstract)
    kept_dtype = np.dtype(np.float64 if np.dtype(dtype) == np.float64 else np.float32)
    values: dict[Path, Any] = dict(
        to_parameters(named.layout, sizes, head_dims, named.tensors, axes, kept_dtype, where)
    )
    for tower in TOWERS:
        t: TowerSizes = getattr(sizes, tower)
        values[tower, "blocks", "layer_rank"] = np.arange(len(t.qkv), dtype=np.int32)
        if getattr(dialect, tower).ragged:
            heads = tuple(qkv // head_dims[tower] for qkv in t.qkv)
            values[tower, "blocks", "present_heads"] = present(heads, max(1, *heads))
            values[tower, "blocks", "present_ffn"] = present(t.ffn, max(1, *t.ffn))
    method: Method = "huggingface" if named.layout is HUGGINGFACE else "openclip"
    return assemble(abstract, values), notes, "tinyclip" if named.tinyclip else method


def _head_dims(
    sizes: Sizes,
    named: Named,
    said: StatedConfig,
    option: int | tuple[int, int] | None,
    where: str,
    assumed: list[str],
) -> dict[str, int]:
    options = option if isinstance(option, tuple) else (option, option)
    if len(options) != 2 or any(o is not None and (type(o) is not int or o < 1) for o in options):
        raise UserError(f"head_dim is {option!r}, expected a positive int, or (vision's, text's)")
    found = {}
    for tower, given in zip(TOWERS, options, strict=True):
        t: TowerSizes = getattr(sizes, tower)
        told = getattr(said, tower).head_dim
        if told is None and named.tinyclip:
            told = _USUAL_HEAD_DIM
        _check_agree(f"heads of {{}} channels in the {tower} tower", told, given, said.by or where)
        width = told or given
        if width is None:
            width = _USUAL_HEAD_DIM
            if tower == "vision":
                width = _WIDE_HEADS.get((t.width, len(t.qkv)), _USUAL_HEAD_DIM)
            if any(qkv % width for qkv in t.qkv):
                raise UserError(
                    f"{where}: the {tower} tower's qkv width {max(t.qkv)} is no multiple of "
                    f"{width}, and no config is beside it; give head_dim, the channels of a head"
                )
            assumed.append(f"heads of {width} channels in the {tower} tower")
        odd = [qkv for qkv in t.qkv if qkv % width]
        if odd:
            raise UserError(
                f"{where}: heads of {width} channels do not fill the {tower} tower's "
                f"qkv width {odd[0]}"
            )
        found[tower] = width
    return found


def _activations(
    named: Named, said: StatedConfig, option: str | None, assumed: list[str]
) -> dict[str, str]:
    if option is not None and option not in ACTIVATIONS:
        known = " or ".join(sorted(ACTIVATIONS))
        raise UserError(f"activation is {option!r}, expected {known}")
    found: dict[str, str] = {}
    unsaid = False
    # Those of transformers' config by default, of OpenAI's archives, and of OpenCLIP's config.
    openai = named.script is not None
    usual = "quick_gelu" if named.layout is HUGGINGFACE or openai else "gelu"
    for tower in TOWERS:
        told = getattr(said, tower).activation
        if told is None and named.tinyclip:
            told = "gelu"
        _check_agree("the activation {}", told, option, said.by or "the checkpoint's format")
        found[tower] = told or option or usual
        unsaid |= told is None and option is None
    if unsaid:
        assumed.append(f"the activation {usual}")
    return found


def _check_agree(what: str, told: Any, given: Any, by: str) -> None:
    if told is not None and given is not None and told != given:
        raise UserError(f"{by} says {what.format(told)}, but {given} was given; leave it out")


def _architecture(
    sizes: Sizes, head_dims: Mapping[str, int], activations: Mapping[str, str], where: str
) -> Architecture:
    """The smallest uniform architecture that holds every layer."""
    vision, text = sizes.vision, sizes.text
    grid = math.isqrt(vision.tokens - 1)
    if grid * grid + 1 != vision.tokens:
        raise UserError(
            f"{where}: {vision.tokens} image positions are no class token and a square grid"
        )
    if vision.projection != text.projection:
        raise UserError(
            f"{where}: images are projected to {vision.projection} dimensions, texts to "
            f"{text.projection}"
        )

    def tower(name: str) -> Tower:
        t: TowerSizes = getattr(sizes, name)
        heads = max(1, max(t.qkv) // head_dims[name])
        return Tower(layers=len(t.qkv), width=t.width, heads=heads, ffn=max(1, *t.ffn))

    return Architecture(
        vision=tower("vision"),
        text=tower("text"),
        patch=sizes.patch,
        image=grid * sizes.patch,
        channels=sizes.colours,
        context=text.tokens,
        projection=text.projection,
        head_dim=head_dims["vision"],
        vocab=sizes.vocab,
        activation=activations["vision"],
    )


def _dialect(
    sizes: Sizes, head_dims: Mapping[str, int], activations: Mapping[str, str], said: StatedConfig
) -> Dialect:
    def tower(name: str) -> TowerDialect:
        # None where the architecture, which is the image tower's, says the same.
        own_head_dim = head_dims[name] != head_dims["vision"]
        own_activation = activations[name] != activations["vision"]
        return TowerDialect(
            head_dim=head_dims[name] if own_head_dim else None,
            activation=typing.cast(Activation, activations[name]) if own_activation else None,
            epsilon=getattr(said, name).epsilon,
            ragged=is_ragged(getattr(sizes, name)),
        )

    return Dialect(tower("vision"), tower("text"), said.end_of_text)
