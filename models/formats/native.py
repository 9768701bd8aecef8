"""Our own format: a folder with architecture.json and the Orbax checkpoint weights/.

architecture.json holds the Architecture's fields and, where it is not the default, the
Dialect's under "dialect".
weights/ holds every variable under its path, such as "vision.blocks.query": names outlive
changes of a library's classes.
"""

from __future__ import annotations

import dataclasses
import logging
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
from flax import nnx

from codesign.architecture import TOWERS, Architecture, Tower
from codesign.errors import UserError
from codesign.models.clip import CLIP
from codesign.models.dialect import Dialect, TowerDialect
from codesign.models.formats.assemble import abstract_clip, assemble
from codesign.models.formats.files import NATIVE_CONFIG, NATIVE_WEIGHTS, Source
from codesign.runs import read_json, write_json


def is_native(source: Source) -> bool:
    """Whether the source is one of our own folders."""
    return source.weights.name == NATIVE_WEIGHTS and source.weights.is_dir()


def write_native(model: CLIP, folder: Path) -> None:
    """Writes a CLIP to an existing folder."""
    values = {".".join(p): np.asarray(v[...]) for p, v in nnx.to_flat_state(nnx.state(model))}
    with ocp.StandardCheckpointer() as checkpointer:
        checkpointer.save((folder / NATIVE_WEIGHTS).resolve(), values, force=True)
    config = dataclasses.asdict(model.architecture)
    if model.dialect != Dialect():
        config["dialect"] = dataclasses.asdict(model.dialect)
    write_json(folder / NATIVE_CONFIG, config)


def load_native(folder: Path, *, dtype: Any, remat: bool) -> CLIP:
    """Reads a CLIP from its folder.

    Raises:
      UserError: a damaged folder, or weights of another network than architecture.json's.
    """
    architecture, dialect = _read_config(folder / NATIVE_CONFIG)
    kept = jnp.float64 if np.dtype(dtype) == np.float64 else jnp.float32

    def wanted(variable: nnx.Variable) -> jax.ShapeDtypeStruct:
        floating = jnp.issubdtype(variable.dtype, jnp.floating)
        return jax.ShapeDtypeStruct(variable.shape, kept if floating else variable.dtype)

    try:
        abstract = abstract_clip(architecture, dialect, dtype=dtype, remat=remat)
    except ValueError as error:
        raise UserError(f"{folder / NATIVE_CONFIG}: {error}") from None
    targets = {".".join(p): wanted(v) for p, v in nnx.to_flat_state(nnx.state(abstract))}
    try:
        with ocp.StandardCheckpointer() as checkpointer:
            stored = checkpointer.restore((folder / NATIVE_WEIGHTS).resolve(), targets)
    except (ValueError, KeyError, OSError) as error:
        logging.getLogger(__name__).debug("restore failed", exc_info=True)
        reason = " ".join(str(error).split())[:200]
        raise UserError(
            f"{folder / NATIVE_WEIGHTS} is damaged or of another network than {NATIVE_CONFIG} "
            f"describes: {reason}"
        ) from None
    values = {tuple(name.split(".")): value for name, value in stored.items()}
    return assemble(abstract, values)


def _read_config(path: Path) -> tuple[Architecture, Dialect]:
    fields = read_json(path)
    try:
        own = fields.pop("dialect", {})
        towers = {tower: Tower(**fields.pop(tower)) for tower in TOWERS}
        dialects = {tower: TowerDialect(**own.pop(tower)) for tower in TOWERS if tower in own}
        return Architecture(**towers, **fields), Dialect(**dialects, **own)
    except (TypeError, KeyError, AttributeError) as error:
        raise UserError(f"{path} does not describe a CLIP of ours: {error}") from None
