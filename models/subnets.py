"""Subnets of a CLIP: which kernels are pruned, the masked CLIP, and the packed family.

    specs = subnet_specs(clip)
    masks = subnet_masks(nnx.state(clip, nnx.Param), specs, (0.5, 0.8, 0.9))
    pack_clip(clip, masks, specs, (0.5, 0.8, 0.9)).save("family.safetensors")
    family = load_family("family.safetensors")
    clip = family.at(1)  # runs the 80 % subnet on the packed weights, see `packed_clip.py`
    clip = family.clip(1)  # the same with zeros in place: to save, prune or train

What a row is, is read off the axis letters of each parameter (see `transformer.py`). In a tower
whose layers differ (see `dialect.py`) the zeros of the units a layer lacks count as weights.
"""

from __future__ import annotations

import dataclasses
import functools
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from codesign.architecture import Architecture
from codesign.dress.masks import Masks, apply
from codesign.dress.packed import PackedFamily, load_packed, pack
from codesign.dress.rows import RowSpec, chosen
from codesign.errors import UserError
from codesign.models.clip import CLIP
from codesign.models.dialect import Dialect, from_fields
from codesign.models.formats.assemble import (
    abstract_clip,
    assemble,
    parameter_axes,
    variables,
)
from codesign.models.packed_clip import PackedClip, packed_clip

MODEL = "clip"
# The family's file where it lies in a folder with its tokenizer.
FAMILY = "family.safetensors"
# Attention and MLP of both towers.
BLOCK_KERNELS = ("*.blocks.*",)

# Layers, weights of a row and rows, of every kernel by its axes.
_ROWS = {
    "LDHK": ("L", "D", "HK"),  # query, key, value
    "LHKD": ("L", "HK", "D"),  # out
    "LDF": ("L", "D", "F"),  # fc1
    "LFD": ("L", "F", "D"),  # fc2
    "PQCD": ("", "PQC", "D"),  # patches
    "DE": ("", "D", "E"),  # projections
}


def subnet_specs(
    model: CLIP, include: Sequence[str] = BLOCK_KERNELS, exclude: Sequence[str] = ()
) -> dict[str, RowSpec]:
    """The kernels to prune, by name.

    Kernels are "vision.blocks.query", key, value, out, fc1 and fc2 of either tower, besides
    "vision.patch_kernel" and the two projections. Tables, norms and biases are no kernels.

    Args:
      model: a CLIP, of arrays or of their shapes.
      include: shell patterns, such as "vision.blocks.fc?"; "*" takes all kernels.
      exclude: likewise.

    Raises:
      ValueError: a pattern that matches no kernel, or nothing left.
    """
    axes = {".".join(path): letters for path, letters in parameter_axes(model).items()}
    kernels = {name: letters for name, letters in axes.items() if letters in _ROWS}
    return {name: _spec(kernels[name]) for name in chosen(kernels, include, exclude)}


def subnet(model: CLIP, masks: Masks, k: int | jax.Array) -> CLIP:
    """The CLIP of subnet k, zeros in place; it has its own copy of the pruned kernels."""
    split: Any = nnx.split(model, nnx.Param, ...)
    graphdef, params, rest = split
    return nnx.merge(graphdef, apply(params, masks, k), rest)


def norm_parameters(model: CLIP) -> dict[str, Any]:
    """Scales and biases of every LayerNorm by name: what a subnet may have for itself."""
    return {
        ".".join(path): variable[...]
        for path, variable in variables(model).items()
        if any(part.startswith("ln_") for part in path)
    }


def pack_clip(
    model: CLIP,
    masks: Masks,
    specs: Mapping[str, RowSpec],
    sparsities: Sequence[float],
    *,
    norms: Sequence[Mapping[str, Any]] | None = None,
    dtype: str = "float32",
) -> PackedFamily:
    """The packed family of a CLIP; `save` writes it.

    Args:
      model: with the weights of all subnets.
      masks: of the subnets.
      specs: of the pruned kernels, as the masks were made with.
      sparsities: of the subnets, as they were asked for.
      norms: each subnet's `norm_parameters`; None: all have the model's.
      dtype: "float32", "float16" or "bfloat16", of all weights but `norms`.

    Raises:
      ValueError: arguments that do not fit each other, values that the dtype cannot hold.
    """
    about: dict[str, Any] = {"architecture": dataclasses.asdict(model.architecture)}
    if model.dialect != Dialect():
        about["dialect"] = dataclasses.asdict(model.dialect)
    return pack(
        {".".join(path): np.asarray(v[...]) for path, v in variables(model).items()},
        masks.levels,
        specs,
        sparsities,
        own=norms,
        dtype=dtype,
        model=MODEL,
        about=about,
    )


@dataclasses.dataclass(frozen=True)
class NetworkFamily:
    """A packed family as networks, of any kind.

    Attributes:
      packed: the family's arrays.
    """

    packed: PackedFamily

    def __len__(self) -> int:
        return len(self.packed.sparsities)

    @property
    def sparsities(self) -> tuple[float, ...]:
        """Of the subnets, the densest first."""
        return self.packed.sparsities


@dataclasses.dataclass(frozen=True)
class ClipFamily(NetworkFamily):
    """A packed family as CLIPs: `at` for speed, `clip` for everything else.

    Attributes:
      packed: the family's arrays.
      architecture: of every subnet.
      dialect: likewise.
    """

    architecture: Architecture
    dialect: Dialect

    def at(self, k: int | jax.Array) -> PackedClip:
        """Subnet k on the packed weights, which are loaded once: to switch copies nothing.

        Args:
          k: 0 is the densest subnet; may be traced.

        Raises:
          ValueError: there is no such subnet.
        """
        return self._loaded.at(k)

    @functools.cached_property
    def _loaded(self) -> PackedClip:
        return packed_clip(self.packed, self.architecture, self.dialect)

    def clip(self, k: int, *, dtype: Any = jnp.float32, remat: bool = False) -> CLIP:
        """Subnet k as a CLIP with zeros in place, which `save_clip` writes in every format.

        Args:
          k: 0 is the densest subnet.
          dtype: compute dtype, see `CLIP`. Parameters are float32.
          remat: see `CLIP`.

        Raises:
          ValueError: there is no such subnet.
        """
        abstract = abstract_clip(self.architecture, self.dialect, dtype=dtype, remat=remat)
        stored = self.packed.to_dense(k)
        return assemble(
            abstract,
            {
                path: np.asarray(stored[".".join(path)], variable.dtype)
                for path, variable in variables(abstract).items()
            },
        )


def family_file(path: str | os.PathLike[str]) -> Path:
    """The file of a family: the path itself, or family.safetensors in the folder that it is."""
    path = Path(os.path.expanduser(path))
    return path / FAMILY if path.is_dir() else path


def load_family(path: str | os.PathLike[str]) -> ClipFamily:
    """Reads the family of a CLIP.

    Args:
      path: the file, or a folder with one called family.safetensors.

    Raises:
      UserError: no such file, one cut off or damaged, or a family of another model.
    """
    packed = load_packed(family_file(path), MODEL)
    about, where = packed.about, f"{path} does not describe a CLIP of ours"
    dialect_fields = about.get("dialect", dataclasses.asdict(Dialect()))
    architecture, dialect = from_fields(
        about.get("architecture"), dialect_fields, where, "architecture"
    )
    try:
        abstract = abstract_clip(architecture, dialect, dtype=jnp.float32, remat=False)
    except ValueError as error:
        raise UserError(f"{where}: {error}") from None
    wanted = {".".join(path): variable for path, variable in variables(abstract).items()}
    check_parameters(path, packed, wanted)
    axes = {".".join(path): letters for path, letters in parameter_axes(abstract).items()}
    for name, kernel in packed.kernels.items():
        # Packed blocks have their rows by the name, dense ones by the file.
        if axes.get(name) not in _ROWS or kernel.spec != _spec(axes[name]):
            raise UserError(f"{where}: the rows of '{name}' are not those of a CLIP")
    return ClipFamily(packed, architecture, dialect)


def check_parameters(
    path: str | os.PathLike[str], packed: PackedFamily, wanted: Mapping[str, Any]
) -> None:
    """Checks a family against the network that it describes.

    Args:
      path: of the file, for messages.
      packed: the family.
      wanted: every variable by name, or its shape and dtype.

    Raises:
      UserError: names the parameter that is missing, left over, of another shape or type.
    """

    there = packed.dense | packed.own[0]
    kinds = {name: _kind(values) for name, values in there.items()}
    kinds |= {name: _kind(kernel.values[0]) for name, kernel in packed.kernels.items()}
    shapes = {name: tuple(v.shape) for name, v in (there | packed.kernels).items()}
    for what, found, right in (
        ("has shape", shapes, {name: tuple(v.shape) for name, v in wanted.items()}),
        ("is", kinds, {name: _kind(v) for name, v in wanted.items()}),
    ):
        odd = [name for name in right.keys() | found.keys() if right.get(name) != found.get(name)]
        if odd:
            name = min(odd)
            raise UserError(
                f"{path} is of another network than it describes: '{name}' {what} "
                f"{found.get(name)}, expected {right.get(name)}"
            )


def _kind(values: Any) -> str:
    """Floats may be stored in fewer bits than they are computed with; nothing else may."""
    return "floating" if jnp.issubdtype(values.dtype, jnp.floating) else str(values.dtype)


def _spec(letters: str) -> RowSpec:
    stacked, inputs, outputs = (tuple(map(letters.index, group)) for group in _ROWS[letters])
    return RowSpec(stacked, inputs, outputs)
