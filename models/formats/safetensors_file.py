"""Reading .safetensors files as views of the mapped file: nothing is copied before its use.

The format (github.com/huggingface/safetensors): the header's length as 8 bytes little
endian, the header as JSON {name: {dtype, shape, data_offsets}}, then the data. Read here
rather than by the safetensors library because that gives NumPy no bfloat16.
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

from codesign.errors import UserError
from codesign.models.formats.tensor import Tensor

_DTYPES = {
    "BOOL": "?", "U8": "u1", "I8": "i1", "I16": "<i2", "U16": "<u2", "I32": "<i4", "U32": "<u4",
    "I64": "<i8", "U64": "<u8", "F16": "<f2", "BF16": ml_dtypes.bfloat16, "F32": "<f4",
    "F64": "<f8", "F8_E4M3": ml_dtypes.float8_e4m3fn, "F8_E5M2": ml_dtypes.float8_e5m2,
}  # fmt: skip


def looks_like_safetensors(start: bytes) -> bool:
    """Whether a file with these first 16 bytes is meant to be safetensors."""
    return len(start) > 8 and start[8:9] == b"{"


def read_safetensors(path: Path) -> dict[str, Tensor]:
    """The tensors of a file by name.

    Raises:
      UserError: a file cut short, or whose header does not describe its data.
    """
    data = np.memmap(path, np.uint8, mode="r")
    length = int.from_bytes(data[:8].tobytes(), "little")
    if length > data.size - 8:
        raise UserError(_cut_off(path, data.size, length + 8))
    try:
        header = json.loads(data[8 : 8 + length].tobytes())
        header.pop("__metadata__", None)
        end = 8 + length + max((entry["data_offsets"][1] for entry in header.values()), default=0)
        if end > data.size:
            raise UserError(_cut_off(path, data.size, end))
        return {
            name: _tensor(name, entry, data, 8 + length, path) for name, entry in header.items()
        }
    except (ValueError, KeyError, TypeError, AttributeError, IndexError) as error:
        raise UserError(f"{path}: not a safetensors file ({error})") from None


def _cut_off(path: Path, size: int, expected: int) -> str:
    return f"{path} is cut off: {size} bytes of {expected}; fetch it again"


def _tensor(name: str, entry: Any, data: np.ndarray, base: int, path: Path) -> Tensor:
    if entry["dtype"] not in _DTYPES:
        raise UserError(f"{path}: tensor '{name}' has the unknown dtype {entry['dtype']}")
    dtype, shape = np.dtype(_DTYPES[entry["dtype"]]), tuple(entry["shape"])
    begin, end = entry["data_offsets"]
    if begin < 0 or end - begin != math.prod(shape) * dtype.itemsize:
        raise UserError(f"{path}: tensor '{name}' of shape {list(shape)} has a wrong length")
    return Tensor(name, shape, lambda: np.ndarray(shape, dtype, data, base + begin))
