"""A CLIP from its dimensions and the values of its variables."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
from flax import nnx

from codesign.architecture import Architecture
from codesign.models.clip import CLIP
from codesign.models.dialect import Dialect


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


def parameter_axes(model: CLIP) -> dict[tuple[str, ...], str]:
    """Axis letters of every parameter by its path."""
    return {path: v.axes for path, v in variables(model).items() if isinstance(v, nnx.Param)}
