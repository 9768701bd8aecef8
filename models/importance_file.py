"""Importance files: scores on disk, and whose scores they are.

A safetensors file of eight arrays, "vision.heads" and so on. Its metadata hold the method, the
architecture as JSON and a fingerprint of the weights that were scored, so that scores are
never used on a network they are not of without a word.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import warnings
import zlib
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from codesign.architecture import TOWERS
from codesign.errors import UserError
from codesign.json_text import parse_json
from codesign.models.clip import CLIP
from codesign.models.gates import Gates, TowerGates, full_gates
from codesign.runs import write_bytes

_KIND = "codesign importance"


def save_importance(path: str | os.PathLike[str], scores: Gates, model: CLIP, method: str) -> None:
    """Writes scores as a whole: after a kill the old file or the new one is there.

    Args:
      path: of the file, NAME.safetensors; its folder exists.
      scores: of both towers.
      model: whose units they score.
      method: how, see `importance.score_units`.

    Raises:
      RunError: where the disk refuses.
    """
    from safetensors.numpy import save

    tensors = {
        f"{tower}.{name}": np.asarray(values, np.float32)
        for tower in TOWERS
        for name, values in vars(getattr(scores, tower)).items()
    }
    metadata = {
        "kind": _KIND,
        "method": method,
        "architecture": json.dumps(dataclasses.asdict(model.architecture)),
        "weights": fingerprint(model),
        "checksum": _checksum(tensors),
    }
    write_bytes(path, save(tensors, metadata))


def load_importance(path: str | os.PathLike[str], model: CLIP) -> Gates:
    """Reads the scores of a model's units.

    Args:
      path: of a file by `save_importance`.
      model: the model that was scored.

    Warns:
      UserWarning: the model's weights are not those that were scored, as after training or
        reordering.

    Raises:
      UserError: no such file, no importance file, or scores of another architecture.
    """
    path = Path(path)
    metadata, tensors = _read(path)
    stored = parse_json(metadata.get("architecture", ""), f"{path} is damaged: its architecture")
    if not isinstance(stored, dict):
        raise UserError(f"{path} is damaged: its architecture is no object; score the units again")
    _check_architecture(path, stored, model)
    _check_scores(path, tensors, model)
    # Files of before there were checksums have none.
    if metadata.get("checksum", _checksum(tensors)) != _checksum(tensors):
        raise UserError(f"{path} is damaged: its checksum is wrong; score the units again")
    if metadata.get("weights") != fingerprint(model):
        warnings.warn(
            f"{path}: scored were other weights of this architecture; score again unless they "
            "have hardly changed",
            stacklevel=2,
        )

    fields = [field.name for field in dataclasses.fields(TowerGates)]

    def tower(name: str) -> TowerGates:
        return TowerGates(**{f: jnp.asarray(tensors[f"{name}.{f}"]) for f in fields})

    return Gates(vision=tower("vision"), text=tower("text"))


def importance_method(path: str | os.PathLike[str]) -> str | None:
    """How the units of a file's scores were scored; None where the file does not say.

    Raises:
      UserError: no such file, or no importance file.
    """
    return _read(Path(path))[0].get("method")


def _read(path: Path) -> tuple[dict[str, str], dict[str, np.ndarray]]:
    """Metadata and arrays of a file."""
    from safetensors import SafetensorError, safe_open

    if not path.is_file():
        raise UserError(f"no file {path}; save_importance writes one")
    try:
        with safe_open(path, framework="numpy") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError, TypeError, ValueError, AttributeError) as error:
        reason = " ".join(str(error).split())
        raise UserError(f"{path} is damaged or no safetensors file: {reason}") from None
    if metadata.get("kind") != _KIND:
        raise UserError(f"{path} holds no importance scores; score the units first")
    return metadata, tensors


def fingerprint(model: CLIP) -> str:
    """SHA-256 of the weights: names, shapes and values, whatever they compute in."""
    digest = hashlib.sha256()
    parameters = nnx.to_flat_state(nnx.state(model, nnx.Param))
    for name, values in sorted((".".join(map(str, path)), v[...]) for path, v in parameters):
        digest.update(f"{name} {values.shape} {values.dtype};".encode())
        digest.update(np.asarray(values).tobytes())
    return digest.hexdigest()


def _checksum(scores: dict[str, np.ndarray]) -> str:
    """CRC-32 of all scores in the order of their names."""
    crc = 0
    for name in sorted(scores):
        crc = zlib.crc32(scores[name].tobytes(), zlib.crc32(name.encode(), crc))
    return f"{crc:08x}"


def _check_architecture(path: Path, stored: dict[str, Any], model: CLIP) -> None:
    """Raises UserError naming every dimension of the scores that the model has otherwise."""
    ours = _flat(dataclasses.asdict(model.architecture))
    differ = [
        f"{name} is {value}, the model's {ours.get(name)}"
        for name, value in _flat(stored).items()
        if value != ours.get(name)
    ]
    if differ:
        raise UserError(f"{path} scores another network: its {'; '.join(differ)}")


def _check_scores(path: Path, tensors: dict[str, np.ndarray], model: CLIP) -> None:
    """Raises UserError unless every unit of the model has a finite score, and nothing else has."""
    like = jax.eval_shape(lambda: full_gates(model.architecture))
    units = {
        f"{tower}.{name}": gates.shape
        for tower in TOWERS
        for name, gates in vars(getattr(like, tower)).items()
    }
    for name in sorted(units.keys() | tensors.keys()):
        scores = tensors.get(name)
        if scores is None or scores.shape != units.get(name) or scores.dtype != np.float32:
            found = "missing" if scores is None else f"{scores.dtype} {scores.shape}"
            raise UserError(f"{path} is damaged: '{name}' is {found}; score the units again")
        if not np.isfinite(scores).all():
            raise UserError(f"{path} is damaged: '{name}' holds NaN or infinity")


def _flat(architecture: dict[str, Any]) -> dict[str, Any]:
    """{"vision": {"heads": 2}, "patch": 4} as {"vision.heads": 2, "patch": 4}."""
    flat: dict[str, Any] = {}
    for name, value in architecture.items():
        inner = value if isinstance(value, dict) else {"": value}
        flat |= {f"{name}.{key}".rstrip("."): v for key, v in inner.items()}
    return flat
