"""Reading what torch.save and torch.jit.save write, without torch and without running it.

Such a file is a pickle, and a pickle is a program: it calls whatever Python function it
names. Here a name is looked up in a closed list of harmless stand-ins of our own (rebuild
a tensor, make an ordered dict), and a file that asks for any other is refused before
anything of it has run. Layouts understood:

- zip archives (torch >= 1.6): NAME/data.pkl, and each storage in NAME/data/KEY;
- plain files (before 1.6): magic number, version, system, pickle, then the storages;
- TorchScript archives, such as OpenAI's own .pt files: the same zip whose pickle names the
  module's compiled classes; their attributes are read, their code is not.
"""

from __future__ import annotations

import collections
import functools
import math
import pickle
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import IO, Any, NoReturn

import ml_dtypes
import numpy as np

from codesign.errors import UserError
from codesign.models.formats.tensor import Tensor

_LEGACY_MAGIC = 0x1950A86A20F9469CFC6C
_LEGACY_VERSION = 1001
_DTYPES: dict[str, Any] = {
    "bool": np.bool_, "uint8": np.uint8, "int8": np.int8, "int16": np.int16, "int32": np.int32,
    "int64": np.int64, "float16": np.float16, "bfloat16": ml_dtypes.bfloat16,
    "float32": np.float32, "float64": np.float64,
}  # fmt: skip
_STORAGES = {
    "BoolStorage": "bool", "ByteStorage": "uint8", "CharStorage": "int8", "ShortStorage": "int16",
    "IntStorage": "int32", "LongStorage": "int64", "HalfStorage": "float16",
    "BFloat16Storage": "bfloat16", "FloatStorage": "float32", "DoubleStorage": "float64",
    "UntypedStorage": "uint8",
}  # fmt: skip
# What a damaged pickle or archive can make its reader raise.
_DAMAGE = (
    pickle.UnpicklingError, zipfile.BadZipFile, EOFError, KeyError, IndexError, ValueError,
    TypeError, AttributeError, OverflowError, RecursionError, MemoryError, NotImplementedError,
)  # fmt: skip


def looks_like_torch(start: bytes) -> bool:
    """Whether a file with these first bytes is meant to be one of torch's."""
    return start.startswith((b"PK\x03\x04", b"\x80\x02"))


def read_torch(path: Path) -> tuple[Any, bool]:
    """Reads a file.

    Returns:
      (The saved object, with a `Tensor` for each tensor; whether it was TorchScript, whose
      object is then the nested dicts of its modules' attributes.)

    Raises:
      UserError: a damaged file, or one that asks for anything but tensors and containers.
    """
    try:
        if zipfile.is_zipfile(path):
            return _read_zip(path)
        with path.open("rb") as file:
            if file.read(4) == b"PK\x03\x04":
                raise UserError(f"{path} is cut off: its zip directory is missing; fetch it again")
            file.seek(0)
            return _read_legacy(file, path), False
    except _DAMAGE as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise UserError(f"{path}: damaged, cut off or not a torch checkpoint ({reason})") from None


class _Storage:
    """Numbers in the file: their dtype, count and how to fetch the bytes."""

    def __init__(self, dtype: np.dtype, count: int, fetch: Callable[[], bytes]) -> None:
        self.dtype, self.count, self.fetch = dtype, count, fetch


class _Script:
    """An instance of a compiled TorchScript class; a pickle gives it attributes only."""


class _Harmless:
    """A callable a pickle may name: it cannot be altered by one (no BUILD on it)."""

    __slots__ = ("_call",)
    _call: Callable[..., Any]

    def __init__(self, call: Callable[..., Any]) -> None:
        object.__setattr__(self, "_call", call)

    def __call__(self, *args: Any) -> Any:
        return self._call(*args)

    def __setattr__(self, name: str, value: Any) -> NoReturn:
        raise pickle.UnpicklingError("the pickle alters what it calls")


def _tensor(storage: Any, offset: int, shape: Any, strides: Any, dtype: Any = None) -> Tensor:
    """A strided window on a storage; strides and offset count elements of the tensor."""
    dtype = storage.dtype if dtype is None else np.dtype(_DTYPES[dtype])
    shape, strides = tuple(shape), tuple(strides)
    bytes_held = storage.count * storage.dtype.itemsize
    last = offset + sum((n - 1) * stride for n, stride in zip(shape, strides, strict=True))
    outside = min(offset, *shape, *strides, 0) < 0 or (last + 1) * dtype.itemsize > bytes_held
    if math.prod(shape) * dtype.itemsize > bytes_held or (outside and math.prod(shape)):
        raise ValueError(f"a tensor of shape {list(shape)} reaches outside its storage")

    def read() -> np.ndarray:
        if not math.prod(shape):
            return np.zeros(shape, dtype)
        buffer = storage.fetch()
        steps = tuple(stride * dtype.itemsize for stride in strides)
        return np.ndarray(shape, dtype, buffer, offset * dtype.itemsize, steps)

    return Tensor("", shape, read)


_CALLABLE: dict[str, Callable[..., Any]] = {
    "torch._utils._rebuild_tensor": lambda s, offset, shape, strides: _tensor(
        s, offset, shape, strides
    ),
    "torch._utils._rebuild_tensor_v2": lambda s, offset, shape, strides, *_: _tensor(
        s, offset, shape, strides
    ),
    "torch._utils._rebuild_tensor_v3": lambda s, offset, shape, strides, _, __, dtype, *___: (
        _tensor(s, offset, shape, strides, dtype)
    ),
    "torch._utils._rebuild_parameter": lambda data, *_: data,
    "torch._utils._rebuild_parameter_with_state": lambda data, *_: data,
    "torch.Size": lambda shape=(): tuple(shape),
    "torch.device": lambda *_: None,
    "torch.jit._pickle.build_intlist": list,
    "torch.jit._pickle.build_doublelist": list,
    "torch.jit._pickle.build_boollist": list,
    "torch.jit._pickle.build_tensorlist": list,
    "torch.jit._pickle.restore_type_tag": lambda value, _: value,
}
_HARMLESS = {name: _Harmless(call) for name, call in _CALLABLE.items()}


class _Unpickler(pickle.Unpickler):
    """pickle.Unpickler to which nothing exists but the names above."""

    def __init__(
        self, file: IO[bytes], path: Path, storage: Callable[[Any, Any, int], _Storage]
    ) -> None:
        super().__init__(file, encoding="utf-8")
        self.path, self.storage, self.script = path, storage, False

    def find_class(self, module: str, name: str) -> Any:
        full = f"{module}.{name}"
        if full in _HARMLESS:
            return _HARMLESS[full]
        if full == "collections.OrderedDict":
            return collections.OrderedDict
        if module in ("torch", "torch.storage") and name in _STORAGES:
            return _STORAGES[name]
        if module == "torch" and name in _DTYPES:
            return name
        if module.split(".")[0] == "__torch__":
            self.script = True
            return type("Script", (_Script,), {})  # its own class: a pickle could alter it
        raise UserError(
            f"{self.path} asks to run '{full}', which a checkpoint of tensors does not need; "
            "nothing was run. Save its state dict alone, best as .safetensors"
        )

    def persistent_load(self, pid: Any) -> _Storage:
        kind, dtype, key, _, count = pid[:5]
        if kind != "storage" or (len(pid) > 5 and pid[5] is not None):
            raise pickle.UnpicklingError(f"unknown kind of storage {kind!r}")
        return self.storage(dtype, key, count)


def _read_zip(path: Path) -> tuple[Any, bool]:
    with zipfile.ZipFile(path) as archive:
        names = {info.filename: info for info in archive.infolist()}
        pickles = [name for name in names if name.count("/") <= 1 and name.endswith("data.pkl")]
        if len(pickles) != 1:
            raise UserError(f"{path}: a zip archive, but not one of torch's (no data.pkl)")
        root = pickles[0].removesuffix("data.pkl")
        order = names.get(f"{root}byteorder")
        big = order is not None and archive.read(order).strip() == b"big"

        def storage(dtype: Any, key: Any, count: int) -> _Storage:
            info = names[f"{root}data/{key}"]
            dtype = np.dtype(_DTYPES[dtype]).newbyteorder(">" if big else "<")
            if info.compress_type != zipfile.ZIP_STORED or info.file_size < count * dtype.itemsize:
                raise ValueError(f"storage {key} has {info.file_size} bytes for {count} numbers")
            fetch = functools.partial(_read_member, path, info)
            return _Storage(dtype, count, fetch)

        with archive.open(pickles[0]) as file:
            unpickler = _Unpickler(file, path, storage)
            obj = unpickler.load()
    return (_attributes(obj), True) if unpickler.script else (obj, False)


def _read_member(path: Path, info: zipfile.ZipInfo) -> bytes:
    try:
        with zipfile.ZipFile(path) as archive:
            return archive.read(info)
    except (*_DAMAGE, OSError) as error:
        raise UserError(f"{path} is damaged ({error}); fetch it again") from None


def _attributes(obj: Any) -> Any:
    """A tree of TorchScript modules as nested dicts of what tensors and modules they hold."""
    if not isinstance(obj, _Script):
        return obj
    children = {name: _attributes(value) for name, value in vars(obj).items()}
    return {name: c for name, c in children.items() if isinstance(c, (dict, Tensor, int))}


def _read_legacy(file: IO[bytes], path: Path) -> Any:
    storages: dict[Any, tuple[np.dtype, int]] = {}
    positions: dict[Any, int] = {}

    def fetch(key: Any) -> bytes:
        dtype, count = storages[key]
        with path.open("rb") as data:
            data.seek(positions[key])
            return data.read(count * dtype.itemsize)

    def storage(dtype: Any, key: Any, count: int) -> _Storage:
        dtype = np.dtype(_DTYPES[dtype])
        storages[key] = (dtype, count)
        return _Storage(dtype, count, functools.partial(fetch, key))

    def load() -> Any:
        return _Unpickler(file, path, storage).load()

    if load() != _LEGACY_MAGIC:
        raise UserError(f"{path}: a pickle, but not one of torch's")
    version = load()
    if version != _LEGACY_VERSION:
        raise UserError(f"{path}: torch file version {version}, expected {_LEGACY_VERSION}")
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
