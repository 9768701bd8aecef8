"""A CLIP from its dimensions and the values of its variables."""

from __future__ import annotations

import math
from typing import Any

import jax.numpy as jnp
import numpy as np
from flax import nnx

from codesign.architecture import Architecture
from codesign.models.clip import CLIP
from codesign.models.dialect import Dialect

# What a layer without heads has none of; without FFN units its bias still counts.
_OF_HEADS = ("ln_1_scale", "ln_1_bias", "out_bias")


def abstract_clip(architecture: Architecture, dialect: Dialect, *, dtype: Any, remat: bool) -> CLIP:
    """A CLIP of shapes, without numbers."""
    return nnx.eval_shape(
        lambda: CLIP(architecture, rngs=nnx.Rngs(0), dtype=dtype, remat=remat, dialect=dialect)
    )


def assemble(abstract: CLIP, values: dict[tuple[str, ...], Any]) -> CLIP:
    """The CLIP of `abstract_clip` with these values of its variables, by path.

    The dict is emptied on the way: a large network is there once, and one of its arrays twice.
    """
    filled = [(p, v.replace(jnp.asarray(values.pop(p)))) for p, v in variables(abstract).items()]
    return nnx.merge(nnx.graphdef(abstract), nnx.from_flat_state(filled))


def variables(model: CLIP) -> dict[tuple[str, ...], nnx.Variable]:
    """Every variable of a CLIP by its path, such as ("vision", "blocks", "query")."""
    return {tuple(map(str, path)): v for path, v in nnx.to_flat_state(nnx.state(model))}


def parameter_count(model: CLIP) -> int:
    """How many parameters a CLIP has; where layers differ, without what only pads them."""
    found = variables(model)

    def of(path: tuple[str, ...], parameter: nnx.Variable) -> int:
        shape, axes = parameter.shape, parameter.axes
        for name, letter in (("present_heads", "H"), ("present_ffn", "F")):
            present = found.get((*path[:-1], name))
            if present is None:
                continue
            there = np.asarray(present[...])  # [L, units]
            if letter == "H" and path[-1] in _OF_HEADS:
                return math.prod(shape) // len(there) * int(there.any(axis=1).sum())
            if letter in axes:
                return math.prod(shape) // there.size * int(there.sum())
        return math.prod(shape)

    return sum(of(path, v) for path, v in found.items() if isinstance(v, nnx.Param))


def parameter_axes(model: CLIP) -> dict[tuple[str, ...], str]:
    """Axis letters of every parameter by its path."""
    return {path: v.axes for path, v in variables(model).items() if isinstance(v, nnx.Param)}
