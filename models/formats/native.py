"""Our own format: a folder with architecture.json and the Orbax checkpoint weights/.

architecture.json holds the Architecture's fields and, where it is not the default, the
Dialect's under "dialect".
weights/ holds every variable under its path, such as "vision.blocks.query": names outlive
changes of a library's classes.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp

from codesign.architecture import Architecture
from codesign.errors import UserError
from codesign.json_text import read_json
from codesign.models.clip import CLIP
from codesign.models.dialect import Dialect, from_fields
from codesign.models.formats.assemble import abstract_clip, assemble, variables
from codesign.models.formats.files import NATIVE_CONFIG, NATIVE_WEIGHTS, Source
from codesign.runs import write_json


def is_native(source: Source) -> bool:
    """Whether the source is one of our own folders."""
    return source.weights.name == NATIVE_WEIGHTS and source.weights.is_dir()


def write_native(model: CLIP, folder: Path) -> None:
    """Writes a CLIP to an existing folder."""
    values = {".".join(path): np.asarray(v[...]) for path, v in variables(model).items()}
    with _checkpointer() as checkpointer:
        checkpointer.save((folder / NATIVE_WEIGHTS).resolve(), values, force=True)
    config = dataclasses.asdict(model.architecture)
    if model.dialect != Dialect():
        config["dialect"] = dataclasses.asdict(model.dialect)
    write_json(folder / NATIVE_CONFIG, config)


def load_native(folder: Path, *, dtype: Any, remat: bool) -> CLIP:
    """Reads a CLIP from its folder.

    Raises:
      UserError: a damaged folder, weights of another network than architecture.json's, NaN.
    """
    architecture, dialect = _read_config(folder / NATIVE_CONFIG)
    try:
        abstract = abstract_clip(architecture, dialect, dtype=dtype, remat=remat)
    except ValueError as error:
        raise UserError(f"{folder / NATIVE_CONFIG}: {error}") from None
    stored = _restore(folder / NATIVE_WEIGHTS)
    wanted = {".".join(path): variable for path, variable in variables(abstract).items()}
    shapes = {name: tuple(variable.shape) for name, variable in wanted.items()}
    found = {name: values.shape for name, values in stored.items()}
    odd = [name for name in shapes.keys() | found.keys() if shapes.get(name) != found.get(name)]
    if odd:
        raise UserError(
            f"{folder / NATIVE_WEIGHTS} is of another network than {NATIVE_CONFIG} describes: "
            f"'{min(odd)}' has shape {found.get(min(odd))}, expected {shapes.get(min(odd))}"
        )
    broken = [
        name
        for name, values in stored.items()
        if np.issubdtype(values.dtype, np.floating) and not np.isfinite(values).all()
    ]
    if broken:
        raise UserError(
            f"{folder / NATIVE_WEIGHTS}: '{min(broken)}' holds NaN or infinite values; "
            "take an earlier checkpoint"
        )
    kept = np.float64 if np.dtype(dtype) == np.float64 else np.float32
    values = {
        tuple(name.split(".")): stored.pop(name).astype(
            kept if jnp.issubdtype(variable.dtype, jnp.floating) else variable.dtype, copy=False
        )
        for name, variable in wanted.items()
    }
    return assemble(abstract, values)


def _checkpointer() -> ocp.StandardCheckpointer:
    """One that waits for no other process: a folder is written, or read, by whoever asks."""
    me = jax.process_index()
    alone = ocp.options.MultiprocessingOptions(
        primary_host=me, active_processes={me}, barrier_sync_key_prefix=f"clip-{me}"
    )
    return ocp.StandardCheckpointer(multiprocessing_options=alone)


def _restore(weights: Path) -> dict[str, np.ndarray]:
    """Whatever was stored, in its own shapes: given wanted ones, Orbax cuts and pads silently."""
    try:
        with _checkpointer() as checkpointer:
            stored = checkpointer.restore(weights.resolve())
    except (ValueError, KeyError, OSError) as error:
        reason = " ".join(str(error).split())[:200]
        raise UserError(f"{weights} is damaged: {reason}") from None
    return {name: np.asarray(values) for name, values in stored.items()}


def _read_config(path: Path) -> tuple[Architecture, Dialect]:
    fields = read_json(path)
    dialect: Any = dataclasses.asdict(Dialect())
    if isinstance(fields, dict):
        dialect = fields.pop("dialect", dialect)
    return from_fields(fields, dialect, f"{path} does not describe a CLIP of ours")
