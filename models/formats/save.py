"""Saving: a `CLIP` as a HuggingFace folder, an OpenCLIP file or our own Orbax folder.

OpenCLIP's naming and our own hold every CLIP, pruned ones included. HuggingFace's config
has one number of heads and FFN units per tower, and its heads fill the width exactly;
a network that is otherwise is refused, or exported with zeros for what was pruned where
that is the same function.
"""

from __future__ import annotations

import dataclasses
import math
import os
import shutil
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np

from codesign.architecture import TOWERS, Tower
from codesign.errors import RunError, UserError
from codesign.models.clip import CLIP
from codesign.models.formats import layout as layouts
from codesign.models.formats.assemble import parameter_axes, variables
from codesign.models.formats.config_files import huggingface_config, openclip_config
from codesign.models.formats.files import (
    HF_CONFIG,
    HF_PREPROCESSOR,
    OPENCLIP_CONFIG,
    TOKENIZER_FILES,
    locate_side_files,
)
from codesign.models.formats.image_settings import image_settings
from codesign.models.formats.layout import HUGGINGFACE, OPENCLIP, Layout, Sizes, TowerSizes
from codesign.models.formats.native import write_native
from codesign.models.formats.safetensors_file import write_safetensors
from codesign.runs import write_json

Format = Literal["hf", "openclip", "native"]
FORMATS: tuple[Format, ...] = ("hf", "openclip", "native")

_HF_FILE = "model.safetensors"
_OPENCLIP_FILE = "open_clip_model.safetensors"


@dataclasses.dataclass(frozen=True)
class _Contents:
    """A CLIP as arrays: what a layout writes."""

    sizes: Sizes
    head_dims: dict[str, int]
    parameters: dict[layouts.Path, np.ndarray]
    axes: dict[layouts.Path, str]

    def tensors(self, layout: Layout) -> dict[str, np.ndarray]:
        return layouts.to_tensors(layout, self.sizes, self.head_dims, self.parameters, self.axes)


def save_clip(
    model: CLIP,
    path: str | os.PathLike[str],
    format: Format,
    *,
    pad: bool = False,
    overwrite: bool = False,
    like: str | os.PathLike[str] | None = None,
) -> None:
    """Writes a CLIP; `load_clip` reads it back to the bit, and so do the formats' own programs.

    Args:
      model: pruned or not.
      path: a new folder; for OpenCLIP also a new file NAME.safetensors.
      format: "hf" (for `transformers.CLIPModel`), "openclip" or "native" (Orbax).
      pad: for "hf": export a network its config cannot express with zeros for what was pruned.
        The function is the same, but pruning's savings are given up.
      overwrite: replace files of the same names in a folder that is there already.
      like: the checkpoint it came from, whose tokenizer and preprocessing of images are written
        too, the latter in the format's own spelling.

    Warns:
      UserWarning: where zeros were padded.

    Raises:
      UserError: something is there already, or the format cannot hold the network; nothing has
        been written then.
      RunError: where the disk refuses.
    """
    path = Path(os.path.expanduser(path))
    if format not in FORMATS:
        raise UserError(f"the format is {format!r}, expected one of {', '.join(FORMATS)}")
    single = format == "openclip" and path.suffix == ".safetensors"
    folder = path.parent if single else path
    check_free(path, single, overwrite)
    origin = None if like is None else locate_side_files(like)
    settings = None
    if origin is not None:
        settings = dataclasses.replace(image_settings(origin, like), size=model.architecture.image)

    def write_beside(aside: Path) -> None:
        if settings is not None and format != "openclip":
            write_json(aside / HF_PREPROCESSOR, settings.huggingface())
        if origin is not None and not single:
            for file in TOKENIZER_FILES:
                if (origin / file).is_file():
                    shutil.copyfile(origin / file, aside / file)

    if format == "native":

        def write_all(aside: Path) -> None:
            write_native(model, aside)
            write_beside(aside)

        publish(folder, write_all)
        return
    contents, architecture = _contents(model), model.architecture
    if format == "openclip":
        config = openclip_config(architecture, model.dialect)
        config |= {} if settings is None else {"preprocess_cfg": settings.openclip()}
        tensors, name = contents.tensors(OPENCLIP), path.name if single else _OPENCLIP_FILE
        config_name = OPENCLIP_CONFIG
    else:
        contents = _uniform(contents, pad)
        dtype = str(contents.parameters[("logit_scale",)].dtype)
        whole = dataclasses.replace(
            architecture, vision=_tower(contents, "vision"), text=_tower(contents, "text")
        )
        config = huggingface_config(whole, model.dialect, dtype)
        tensors, name, config_name = contents.tensors(HUGGINGFACE), _HF_FILE, HF_CONFIG

    def write(aside: Path) -> None:
        write_safetensors(aside / name, tensors)
        write_json(aside / config_name, config)
        write_beside(aside)

    publish(folder, write)


def checkpoint_tensors(model: CLIP, layout: Layout = OPENCLIP) -> dict[str, np.ndarray]:
    """The tensors of a CLIP in a format's names and shapes, pruned units left out."""
    return _contents(model).tensors(layout)


def check_free(path: Path, single: bool, overwrite: bool) -> None:
    """Raises UserError where something that may not be replaced is in the way."""
    if not overwrite:
        places = [path, path.parent / OPENCLIP_CONFIG] if single else [path]
        for place in places:
            if place.is_file() or (place.is_dir() and any(place.iterdir())):
                raise UserError(
                    f"{place} is there already; choose another place or overwrite it "
                    "(--overwrite, or from Python overwrite=True)"
                )
    elif path.exists() and path.is_dir() == single:
        kind = "folder" if single else "file"
        raise UserError(f"{path} is a {kind} and cannot be overwritten by the other kind")


def publish(folder: Path, write: Callable[[Path], None]) -> None:
    """Writes aside, then moves into place: a kill leaves no half of a checkpoint there."""
    folder = folder.resolve()
    new = not folder.exists()
    aside = (folder.parent if new else folder) / f".{folder.name}.{os.getpid()}.tmp"
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        (aside / "new").mkdir(parents=True)
        write(aside / "new")
        if new:
            (aside / "new").rename(folder)
            return
        for file in (aside / "new").iterdir():
            target = folder / file.name
            if target.is_dir():  # a rename does not replace a folder
                target.rename(aside / "old")
            os.replace(file, target)
    except OSError as error:
        blocking = [at for at in (folder, *folder.parents) if at.is_file()]
        why = f"{blocking[0]} is a file, not a folder" if blocking else error.strerror or error
        raise RunError(f"cannot write {folder}: {why}") from error
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def _contents(model: CLIP) -> _Contents:
    """The arrays of a CLIP with the units each layer has in front."""
    a, dialect = model.architecture, model.dialect
    found = variables(model)
    axes = parameter_axes(model)
    parameters = {p: np.asarray(found[p][...]) for p in axes}
    head_dims = {tower: getattr(dialect, tower).head_dim or a.head_dim for tower in TOWERS}

    def tower(name: str, tokens: int) -> TowerSizes:
        t: Tower = getattr(a, name)
        heads, ffn = (t.heads,) * t.layers, (t.ffn,) * t.layers
        if getattr(dialect, name).ragged:
            heads = _gather(found, parameters, axes, name, "present_heads", "H")
            ffn = _gather(found, parameters, axes, name, "present_ffn", "F")
        qkv = tuple(h * head_dims[name] for h in heads)
        return TowerSizes(t.width, tokens, a.projection, qkv, ffn)

    sizes = Sizes(
        tower("vision", a.vision_tokens), tower("text", a.context), a.patch, a.channels, a.vocab
    )
    return _Contents(sizes, head_dims, parameters, axes)


def _gather(
    found: Mapping[layouts.Path, Any],
    parameters: dict[layouts.Path, np.ndarray],
    axes: Mapping[layouts.Path, str],
    tower: str,
    name: str,
    letter: str,
) -> tuple[int, ...]:
    """Moves the present units of each layer to the front, in place; how many there are."""
    there = np.asarray(found[tower, "blocks", name][...])
    order = np.argsort(~there, axis=1, kind="stable")
    for path, its_axes in axes.items():
        if path[:2] == (tower, "blocks") and letter in its_axes:
            axis = its_axes.index(letter)
            shape = [len(order) if i == 0 else -1 if i == axis else 1 for i in range(len(its_axes))]
            parameters[path] = np.take_along_axis(parameters[path], order.reshape(shape), axis)
    return tuple(int(n) for n in there.sum(axis=1))


def _uniform(contents: _Contents, pad: bool) -> _Contents:
    """The same function with heads that fill the width and layers that are alike.

    Raises:
      UserError: it is not so already, and `pad` does not ask for zeros or zeros cannot do it.
    """
    for tower in TOWERS:
        t: TowerSizes = getattr(contents.sizes, tower)
        head_dim = contents.head_dims[tower]
        if set(t.qkv) == {t.width} and len(set(t.ffn)) == 1 and t.ffn[0]:
            continue
        heads = sorted({qkv // head_dim for qkv in t.qkv})
        network = f"the {tower} tower's heads ({_counts(heads)} of {head_dim} channels)"
        if not pad:
            raise UserError(
                f"HuggingFace's config cannot express {network} at width {t.width}"
                f" with FFNs of {_counts(sorted(set(t.ffn)))}; save as openclip, or pad with zeros"
            )
        contents = _padded(contents, tower, heads[-1], network)
    return contents


def _counts(numbers: list[int]) -> str:
    return str(numbers[0]) if len(numbers) == 1 else f"{numbers[0]} to {numbers[-1]}"


def _padded(contents: _Contents, tower: str, most_heads: int, network: str) -> _Contents:
    t: TowerSizes = getattr(contents.sizes, tower)
    head_dim = contents.head_dims[tower]
    # More and narrower heads first: at the network's own head width nothing is rescaled.
    able = [h for h in range(t.width // head_dim, max(most_heads, 1) - 1, -1) if t.width % h == 0]
    if not able:
        raise UserError(
            f"zeros cannot make {network} fill its width {t.width}: no number of heads, "
            f"{max(most_heads, 1)} or more, divides it into {head_dim} channels or more; "
            "save as openclip"
        )
    heads, wide, ffn = able[0], t.width // able[0], max(1, *t.ffn)
    warnings.warn(
        f"{network} are padded with zeros to {heads} heads of {wide}, and all its FFNs to {ffn}: "
        "the same function at the cost of the unpruned one",
        stacklevel=4,
    )
    target = {"H": heads, "K": wide, "F": ffn}
    parameters = dict(contents.parameters)
    for path, axes in contents.axes.items():
        if path[:2] != (tower, "blocks"):
            continue
        values = parameters[path]
        padding = [(0, target.get(x, n) - n) for x, n in zip(axes, values.shape, strict=True)]
        parameters[path] = np.pad(values, padding)
        if path[2] in ("query", "query_bias"):
            # Logits are divided by the root of the head width, zeros included.
            parameters[path] *= np.asarray(math.sqrt(wide / head_dim), values.dtype)
    layers = len(t.qkv)
    full: dict[str, Any] = {
        tower: dataclasses.replace(t, qkv=(t.width,) * layers, ffn=(ffn,) * layers)
    }
    return dataclasses.replace(
        contents,
        sizes=dataclasses.replace(contents.sizes, **full),
        head_dims=contents.head_dims | {tower: wide},
        parameters=parameters,
    )


def _tower(contents: _Contents, tower: str) -> Tower:
    t: TowerSizes = getattr(contents.sizes, tower)
    return Tower(len(t.qkv), t.width, t.qkv[0] // contents.head_dims[tower], t.ffn[0])
