"""Reading what torch.save and torch.jit.save write, without torch and without running it.

The pickle inside is read by `pickles.py`. Layouts of the file:

- zip archives (torch >= 1.6): NAME/data.pkl, and each storage in NAME/data/KEY;
- plain files (before 1.6): magic number, version, system, pickle, then the storages;
- TorchScript archives, such as OpenAI's own .pt files: the same zip whose pickle names the
  module's compiled classes; their attributes are read, their code is not run.
"""

from __future__ import annotations

import functools
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any

import numpy as np

from codesign.errors import UserError
from codesign.models.formats.pickles import DAMAGE, DTYPES, ScriptModule, Storage, Unpickler
from codesign.models.formats.script import read_script
from codesign.models.formats.tensor import read_span

_LEGACY_MAGIC = 0x1950A86A20F9469CFC6C
_LEGACY_VERSION = 1001
# torch compresses nothing but code; what is compressed may be a thousand times its size.
_MOST_INFLATED_BYTES = 64 << 20


def looks_like_torch(start: bytes) -> bool:
    """Whether a file with these first bytes is meant to be one of torch's."""
    return start.startswith((b"PK\x03\x04", b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05"))


def read_torch(path: Path) -> Any:
    """Reads a file.

    Returns:
      The saved object, with a `Tensor` for each tensor and an `Inert` for each object of a
      class we do not know; a `Script` of a TorchScript archive.

    Raises:
      UserError: a damaged file, or one that asks to run what no checkpoint needs.
    """
    try:
        if zipfile.is_zipfile(path):
            return _read_zip(path)
        with path.open("rb") as file:
            if file.read(4) == b"PK\x03\x04":
                raise UserError(f"{path} is cut off: its zip directory is missing; fetch it again")
            file.seek(0)
            return _read_legacy(file, path)
    except DAMAGE as error:
        why = _reason(error)
        raise UserError(f"{path}: damaged, cut off or not a torch checkpoint ({why})") from None


def _reason(error: BaseException) -> str:
    try:
        return " ".join(str(error).split())[:200] or type(error).__name__
    except ValueError:  # a number of thousands of digits
        return type(error).__name__


def _read_zip(path: Path) -> Any:
    with zipfile.ZipFile(path) as archive:
        names = {info.filename: info for info in archive.infolist()}
        if len(names) != len(archive.infolist()):
            raise ValueError("two members of the archive have one name")
        pickles = [name for name in names if name.count("/") <= 1 and name.endswith("data.pkl")]
        if len(pickles) != 1:
            raise UserError(f"{path}: a zip archive, but not one of torch's (no data.pkl)")
        root = pickles[0].removesuffix("data.pkl")
        order = names.get(f"{root}byteorder")
        big = order is not None and _small(archive, order).strip() == b"big"

        def storage(folder: str, dtype: str, key: Any, count: int) -> Storage:
            info = names[f"{root}{folder}/{key}"]
            kind = np.dtype(DTYPES[dtype]).newbyteorder(">" if big else "<")
            if info.compress_type != zipfile.ZIP_STORED:
                raise ValueError(f"storage {key} is compressed, which torch never does")
            if info.file_size < count * kind.itemsize:
                raise ValueError(f"storage {key} has {info.file_size} bytes for {count} numbers")
            return Storage(kind, count, functools.partial(_read_member, path, info))

        def load(member: str, folder: str) -> tuple[Any, bool]:
            _check_inflated(names[member])
            with archive.open(member) as file:
                unpickler = Unpickler(file, path, functools.partial(storage, folder))
                return unpickler.load(), unpickler.script

        obj, script = load(pickles[0], "data")
        if not script or not isinstance(obj, ScriptModule):
            return obj
        constants = f"{root}constants.pkl"
        return read_script(
            obj,
            _code(archive, f"{root}code/"),
            load(constants, "constants")[0] if constants in names else (),
        )


def _code(archive: zipfile.ZipFile, folder: str) -> list[str]:
    """The texts of an archive's code."""
    members = [
        info
        for info in archive.infolist()
        if info.filename.startswith(folder) and info.filename.endswith(".py")
    ]
    return [_small(archive, info).decode(errors="replace") for info in members]


def _check_inflated(info: zipfile.ZipInfo) -> None:
    if info.compress_type != zipfile.ZIP_STORED and info.file_size > _MOST_INFLATED_BYTES:
        raise ValueError(
            f"{info.filename} is compressed and claims {info.file_size:,} bytes; torch "
            "compresses nothing of that size"
        )


def _small(archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> bytes:
    _check_inflated(info)
    return archive.read(info)


def _read_member(path: Path, info: zipfile.ZipInfo) -> bytes:
    try:
        with zipfile.ZipFile(path) as archive:
            return archive.read(info)
    except (*DAMAGE, OSError) as error:
        raise UserError(f"{path} is damaged ({_reason(error)}); fetch it again") from None


def _read_legacy(file: IO[bytes], path: Path) -> Any:
    storages: dict[Any, tuple[np.dtype, int]] = {}
    positions: dict[Any, int] = {}

    def fetch(key: Any) -> bytes:
        dtype, count = storages[key]
        return read_span(path, positions[key], count * dtype.itemsize)

    def storage(dtype: str, key: Any, count: int) -> Storage:
        kind = np.dtype(DTYPES[dtype])
        storages[key] = (kind, count)
        return Storage(kind, count, functools.partial(fetch, key))

    def load() -> Any:
        return Unpickler(file, path, storage).load()

    if load() != _LEGACY_MAGIC:
        raise UserError(f"{path}: a pickle, but not one of torch's")
    version = load()
    if version != _LEGACY_VERSION:
        raise UserError(f"{path}: torch file of another version than {_LEGACY_VERSION}")
    system = load()
    if isinstance(system, Mapping) and system.get("little_endian") is False:
        raise UserError(f"{path}: written on a big-endian machine; save it again as .safetensors")
    obj = load()
    size = path.stat().st_size
    for key in load():
        count = int.from_bytes(file.read(8), "little")
        dtype, expected = storages[key]
        positions[key] = file.tell()
        end = file.seek(count * dtype.itemsize, 1)
        if count != expected or end > size:
            raise UserError(f"{path} is cut off: {size} bytes of at least {end}; fetch it again")
    return obj
