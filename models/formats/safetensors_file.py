"""Safetensors files. Tensors are read one by one: nothing is in memory before its use.

The safetensors library reads and checks the header: tensors neither overlap nor leave holes,
and they fill the file. So they lie one behind the other in its order of them; the values are
taken from there, because the library gives NumPy no bfloat16.
"""

from __future__ import annotations

import collections
import json
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NoReturn

import ml_dtypes
import numpy as np

from codesign.errors import UserError
from codesign.models.formats.tensor import Tensor, read_span

_DTYPES = {
    "BOOL": "?",
    "U8": "u1",
    "I8": "i1",
    "I16": "<i2",
    "U16": "<u2",
    "I32": "<i4",
    "U32": "<u4",
    "I64": "<i8",
    "U64": "<u8",
    "F16": "<f2",
    "BF16": ml_dtypes.bfloat16,
    "F32": "<f4",
    "F64": "<f8",
    "C64": "<c8",
    "F8_E4M3": ml_dtypes.float8_e4m3fn,
    "F8_E5M2": ml_dtypes.float8_e5m2,
}
_LENGTH_BYTES = 8  # of the header's length, little endian, before it


def looks_like_safetensors(start: bytes) -> bool:
    """Whether a file with these first 16 bytes is meant to be safetensors."""
    return len(start) > _LENGTH_BYTES and start[_LENGTH_BYTES : _LENGTH_BYTES + 1] == b"{"


def read_safetensors(path: Path) -> dict[str, Tensor]:
    """The tensors of a file by name.

    Raises:
      UserError: a file cut short, or whose header does not describe its data.
    """
    from safetensors import SafetensorError, safe_open

    with path.open("rb") as file:
        length = int.from_bytes(file.read(_LENGTH_BYTES), "little")
        size = os.fstat(file.fileno()).st_size
    place = _LENGTH_BYTES + length
    if place > size:
        raise UserError(f"{path} is cut off: {size} bytes of {place} or more; fetch it again")
    tensors: dict[str, Tensor] = {}
    try:
        with safe_open(path, framework="numpy") as file:
            header = _header(read_span(path, _LENGTH_BYTES, length), path)
            for name in file.offset_keys():
                entry = file.get_slice(name)
                kind, shape = entry.get_dtype(), tuple(entry.get_shape())
                if kind in _DTYPES:
                    dtype = np.dtype(_DTYPES[kind])
                    tensors[name] = _tensor(name, shape, dtype, path, place)
                    place += math.prod(shape) * dtype.itemsize
                else:
                    tensors[name] = _unknown(name, shape, kind, path)
                    begin, end = header[name]["data_offsets"]
                    place += end - begin
    except SafetensorError as error:
        raise UserError(f"{path}: {_reason(str(error))}") from None
    return tensors


def write_safetensors(path: Path, tensors: Mapping[str, np.ndarray]) -> None:
    """Writes a new file, readable by whom the umask lets read; OSError where the disk refuses."""
    from safetensors.numpy import save_file

    # The library writes a private temporary file and renames it.
    path.touch()
    mode = path.stat().st_mode
    # transformers below version 5 asks for this note.
    save_file(dict(tensors), path, metadata={"format": "pt"})
    path.chmod(mode)


def _reason(error: str) -> str:
    error = " ".join(error.split())[:200]
    if "not fully covered" in error:
        return "the data are not as long as the header says: cut off or appended to; fetch it again"
    return f"not a whole safetensors file ({error})"


def _header(text: bytes, path: Path) -> dict[str, Any]:
    """The header's JSON; refuses a name that stands twice, of which the library takes one."""

    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        names = dict(pairs)
        if len(names) != len(pairs):
            twice = collections.Counter(name for name, _ in pairs).most_common(1)[0][0]
            raise UserError(f"{path}: two tensors are named '{twice[:100]}'")
        return names

    header: dict[str, Any] = json.loads(text, object_pairs_hook=once)
    return header


def _tensor(name: str, shape: tuple[int, ...], dtype: np.dtype, path: Path, place: int) -> Tensor:
    length = math.prod(shape) * dtype.itemsize
    return Tensor(name, shape, lambda: np.ndarray(shape, dtype, read_span(path, place, length)))


def _unknown(name: str, shape: tuple[int, ...], kind: str, path: Path) -> Tensor:
    """A tensor that cannot be read, which matters where it is the network's."""
    fault = f"of the dtype {kind}, which cannot be read"

    def read() -> NoReturn:
        raise UserError(f"{path}: tensor '{name}' is {fault}")

    return Tensor(name, shape, read, fault)
