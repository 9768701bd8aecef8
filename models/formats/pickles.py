"""Unpickling what PyTorch's programs save, without running anything that the pickle names.

A pickle is a program: it calls whatever Python function it names. Here a name stands for one
of a few callables of our own (rebuild a tensor, make an ordered dict), or for an `Inert` class
that takes whatever a pickle does to it and does nothing. So an optimizer, a scheduler, NumPy's
scalars and the arguments of a run may lie beside the weights, of whatever classes. A file that
names what only an attack wants is refused all the same, though nothing of it would have run.
"""

from __future__ import annotations

import collections
import lzma
import math
import pickle
import struct
import zipfile
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, ClassVar, NoReturn

import ml_dtypes
import numpy as np

from codesign.errors import UserError
from codesign.models.formats.tensor import Tensor
from codesign.printable import short_repr

DTYPES: dict[str, Any] = {
    "bool": np.bool_,
    "uint8": np.uint8,
    "int8": np.int8,
    "int16": np.int16,
    "int32": np.int32,
    "int64": np.int64,
    "uint16": np.uint16,
    "uint32": np.uint32,
    "uint64": np.uint64,
    "float16": np.float16,
    "bfloat16": ml_dtypes.bfloat16,
    "float32": np.float32,
    "float64": np.float64,
    "complex64": np.complex64,
    "complex128": np.complex128,
    "float8_e4m3fn": ml_dtypes.float8_e4m3fn,
    "float8_e5m2": ml_dtypes.float8_e5m2,
}
_STORAGES = {
    "BoolStorage": "bool",
    "ByteStorage": "uint8",
    "CharStorage": "int8",
    "ShortStorage": "int16",
    "IntStorage": "int32",
    "LongStorage": "int64",
    "HalfStorage": "float16",
    "BFloat16Storage": "bfloat16",
    "FloatStorage": "float32",
    "DoubleStorage": "float64",
    "ComplexFloatStorage": "complex64",
    "ComplexDoubleStorage": "complex128",
    "QInt8Storage": "int8",
    "QUInt8Storage": "uint8",
    "QInt32Storage": "int32",
    "QUInt4x2Storage": "uint8",
    "QUInt2x4Storage": "uint8",
    "UntypedStorage": "uint8",
}
# What a damaged pickle or archive makes its readers raise; RuntimeError: an encrypted member.
DAMAGE = (
    pickle.UnpicklingError,
    zipfile.BadZipFile,
    zlib.error,
    lzma.LZMAError,
    struct.error,
    EOFError,
    KeyError,
    IndexError,
    ValueError,
    TypeError,
    AttributeError,
    OverflowError,
    MemoryError,
    RuntimeError,
)
# Modules and built-in functions that run programs or code, or touch files and the network.
# Safety does not rest on this list, since no name is ever looked up: it tells who is attacked.
_HOSTILE_MODULES = frozenset(
    {
        "_ctypes",
        "_pickle",
        "_posixsubprocess",
        "_socket",
        "_thread",
        "asyncio",
        "bdb",
        "cProfile",
        "code",
        "codeop",
        "commands",
        "concurrent",
        "ctypes",
        "ftplib",
        "http",
        "imp",
        "importlib",
        "marshal",
        "multiprocessing",
        "nt",
        "os",
        "pdb",
        "pickle",
        "pip",
        "popen2",
        "posix",
        "profile",
        "pty",
        "runpy",
        "shelve",
        "shutil",
        "signal",
        "smtplib",
        "socket",
        "socketserver",
        "subprocess",
        "sys",
        "telnetlib",
        "tempfile",
        "threading",
        "timeit",
        "urllib",
        "webbrowser",
        "zipimport",
    }
)
_HOSTILE_BUILTINS = frozenset(
    {
        "__import__",
        "apply",
        "breakpoint",
        "compile",
        "eval",
        "exec",
        "execfile",
        "exit",
        "file",
        "globals",
        "input",
        "locals",
        "open",
        "quit",
        "raw_input",
    }
)
# Named classes cost memory: a file that names more than this many gets nameless ones.
_MOST_NAMES = 1000
# A tuple's hash visits all that it holds, each time it is there, however few bytes tell of that.
_DEEPEST_TUPLE, _LARGEST_TUPLE = 100, 1_000_000
# A few bytes may claim to be repeated to any size; weights that are so are a layer's vector or two.
_MOST_REPEATED_BYTES = 4 << 20


class Storage:
    """Numbers in the file: their dtype, count and how to fetch the bytes."""

    def __init__(self, dtype: np.dtype, count: int, fetch: Callable[[], bytes]) -> None:
        self.dtype, self.count, self.fetch = dtype, count, fetch

    def __setstate__(self, _: Any) -> NoReturn:
        raise pickle.UnpicklingError("the pickle alters a storage")


class ScriptModule:
    """An instance of a compiled TorchScript class; a pickle gives it attributes only."""


class Inert(dict[Any, Any]):
    """What stands for an instance of any class, and for the result of any function.

    Of all that a pickle does to it, it keeps its items: a state dict may be of a class of its
    own. It is equal to itself alone, so that it can be a key.

    Attributes:
      named: the class or function it stands for.
    """

    named = "an object"
    __hash__ = object.__hash__  # type: ignore[assignment]
    __eq__ = object.__eq__
    __ne__ = object.__ne__

    def __new__(cls, *_: Any, **__: Any) -> Inert:
        """Whatever it is made of is dropped."""
        return super().__new__(cls)

    def __init__(self, *_: Any, **__: Any) -> None:
        super().__init__()

    def __call__(self, *_: Any, **__: Any) -> Inert:
        """A result is inert too."""
        return Inert()

    def __setstate__(self, _: Any) -> None:
        """Whatever attributes it had are dropped."""

    def append(self, _: Any) -> None:
        """Dropped, as are `extend` and `add`: what a pickle does to lists and sets."""

    extend = add = append


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


def _tensor(
    storage: Any, offset: int, shape: Any, strides: Any, dtype: Any = None, marks: Any = None
) -> Any:
    """A strided window on a storage; strides and offset count elements of the tensor.

    Args:
      storage: a `Storage`, or an inert one.
      offset: of the first element.
      shape: of the tensor.
      strides: 0 along an axis that repeats its numbers, as `expand` makes it.
      dtype: name of another than the storage's.
      marks: what torch has noted to do to the numbers when they are used: "neg" and "conj".
    """
    if not isinstance(storage, Storage) or not (dtype is None or dtype in DTYPES):
        return Inert()  # of a dtype that we do not know
    dtype = storage.dtype if dtype is None else np.dtype(DTYPES[dtype])
    shape, strides = tuple(shape), tuple(strides)
    if any(type(n) is not int for n in (offset, *shape, *strides)):
        raise ValueError("a tensor's shape, strides or offset are no whole numbers")
    bytes_held, size = storage.count * storage.dtype.itemsize, math.prod(shape) * dtype.itemsize
    last = offset + sum((n - 1) * stride for n, stride in zip(shape, strides, strict=True))
    outside = min(offset, *shape, *strides, 0) < 0 or (last + 1) * dtype.itemsize > bytes_held
    if outside and size:
        raise ValueError(f"a tensor of shape {list(shape)} reaches outside its storage")
    noted = {key for key, on in marks.items() if on} if isinstance(marks, dict) else set()
    fault = ""
    if size > max(bytes_held, _MOST_REPEATED_BYTES):
        fault = f"{bytes_held:,} bytes repeated to {size:,}; save it with .contiguous()"
    elif not noted <= {"neg", "conj"} or ("neg" in noted and dtype == np.bool_):
        fault = f"marked {short_repr(sorted(map(str, noted)))}, which cannot be done to it"

    def read() -> np.ndarray:
        if fault:
            raise UserError(f"a tensor of the file is {fault}")
        if not size:
            return np.zeros(shape, dtype)
        buffer = storage.fetch()
        steps = tuple(stride * dtype.itemsize for stride in strides)
        values = np.ndarray(shape, dtype, buffer, offset * dtype.itemsize, steps)
        values = values.conj() if "conj" in noted and dtype.kind == "c" else values
        return -values if "neg" in noted else values

    return Tensor("", shape, read, fault)


def _of_type(rebuild: Any, _: Any, args: Any, __: Any) -> Any:
    """A tensor with Python attributes, or of a subclass, is the tensor it is made of."""
    return rebuild(*args) if isinstance(rebuild, _Harmless) else Inert()


def _reconstructed(kind: Any, *_: Any) -> Any:
    """copyreg's way, before protocol 2, to make an instance."""
    return kind() if isinstance(kind, type) and issubclass(kind, Inert) else Inert()


def _attribute(_: Any, name: Any, *__: Any) -> Any:
    """A nested class, or a method: a class again, since a pickle may instantiate it."""
    named = name[:100] if isinstance(name, str) else short_repr(name)
    return type("Inert", (Inert,), {"named": named})


def _size(shape: Any = ()) -> tuple[int, ...]:
    if any(type(n) is not int for n in shape):
        raise ValueError("a shape holds what is no whole number")
    return tuple(shape)


_CALLABLE: dict[str, Callable[..., Any]] = {
    "torch._utils._rebuild_tensor": lambda s, offset, shape, strides: _tensor(
        s, offset, shape, strides
    ),
    "torch._utils._rebuild_tensor_v2": (
        lambda s, offset, shape, strides, _=None, __=None, marks=None, *___: _tensor(
            s, offset, shape, strides, None, marks
        )
    ),
    "torch._utils._rebuild_tensor_v3": (
        lambda s, offset, shape, strides, _, __, dtype, marks=None, *___: _tensor(
            s, offset, shape, strides, dtype, marks
        )
    ),
    "torch._utils._rebuild_parameter": lambda data, *_: data,
    "torch._utils._rebuild_parameter_with_state": lambda data, *_: data,
    "torch._tensor._rebuild_from_type_v2": _of_type,
    "torch.Size": _size,
    "torch.device": lambda *_: None,
    "torch.jit._pickle.build_intlist": list,
    "torch.jit._pickle.build_doublelist": list,
    "torch.jit._pickle.build_boollist": list,
    "torch.jit._pickle.build_tensorlist": list,
    "torch.jit._pickle.restore_type_tag": lambda value, _: value,
    "copyreg._reconstructor": _reconstructed,
    "copy_reg._reconstructor": _reconstructed,
    "builtins.getattr": _attribute,
    "__builtin__.getattr": _attribute,
}
_HARMLESS = {name: _Harmless(call) for name, call in _CALLABLE.items()}


class Unpickler(pickle._Unpickler):
    """pickle.Unpickler to which nothing exists but the names above.

    The one in Python, because the one in C sets aside as much memory as the largest index of
    its memo wants, which two spoilt bytes make many gigabytes. Weights are not in the pickle.

    Args:
      file: the pickle.
      path: of the file, for messages.
      storage: (dtype, key, count) -> the storage of that key.
    """

    def __init__(
        self, file: IO[bytes], path: Path, storage: Callable[[str, Any, int], Storage]
    ) -> None:
        super().__init__(file, encoding="utf-8", errors="replace")
        self.path, self.storage, self.script = path, storage, False
        self.tuples: dict[int, tuple[Any, int, int]] = {}  # by id: itself, its depth and size
        self.inert: dict[str, type[Inert]] = {}

    def find_class(self, module: str, name: str) -> Any:
        """What a pickle gets for a name: an `Inert` class, or one of a few things of ours.

        Raises:
          UserError: a name that only an attack wants.
        """
        full = f"{module}.{name}"
        if full in _HARMLESS:
            return _HARMLESS[full]
        if full == "collections.OrderedDict":
            return collections.OrderedDict
        if module in ("torch", "torch.storage") and name in _STORAGES:
            return _STORAGES[name]
        if module == "torch" and name in DTYPES:
            return name
        if module.split(".")[0] == "__torch__":
            self.script = True
            return type("Script", (ScriptModule,), {})  # its own class: a pickle could alter it
        if _is_hostile(module, name):
            raise UserError(
                f"{self.path} asks to run '{full}', which a checkpoint of tensors does not need; "
                "nothing was run. Save its state dict alone, best as .safetensors"
            )
        if full not in self.inert and len(self.inert) < _MOST_NAMES:
            self.inert[full] = type("Inert", (Inert,), {"named": full})
        return self.inert.get(full, Inert)

    def persistent_load(self, pid: Any) -> Any:
        """The storage that a pickle refers to; inert where its dtype is unknown."""
        if pid[0] == "module":  # before torch 1.6: a class, with its source beside it
            return pid[1]
        kind, dtype, key, _, count = pid[:5]
        if kind != "storage" or (len(pid) > 5 and pid[5] is not None):
            raise pickle.UnpicklingError(f"unknown kind of storage {short_repr(kind)}")
        if type(count) is not int or count < 0:
            raise pickle.UnpicklingError(f"a storage of {short_repr(count)} numbers")
        if not isinstance(key, (str, int)):
            raise pickle.UnpicklingError(f"a storage called {short_repr(key)}")
        return self.storage(dtype, key, count) if isinstance(dtype, str) else Inert()

    # ---- opcodes that cost more than the bytes that they take ----

    if TYPE_CHECKING:  # of Python's own, of which the stubs tell nothing
        stack: list[Any]
        read: Callable[[int], bytes]
        append: Callable[[Any], None]
        pop_mark: Callable[[], list[Any]]

    def _tuple(self, members: Sequence[Any]) -> tuple[Any, ...]:
        """The tuple of some members; of tuples of tuples a few bytes make ever larger ones."""
        made = tuple(members)
        inner = [self.tuples.get(id(m), (m, 1, len(m))) for m in made if type(m) is tuple]
        depth = 1 + max((depth for _, depth, _ in inner), default=0)
        size = len(made) + sum(size for _, _, size in inner)
        if inner and (depth > _DEEPEST_TUPLE or size > _LARGEST_TUPLE):
            raise pickle.UnpicklingError("tuples within tuples without end")
        if inner:
            self.tuples[id(made)] = (made, depth, size)
        return made

    def load_tuple(self) -> None:
        """All since the mark as a tuple."""
        members = self.pop_mark()
        self.append(self._tuple(members))

    def _load_last(self, count: int) -> None:
        self.stack[-count:] = [self._tuple(self.stack[-count:])]

    def load_bytearray8(self) -> None:
        """Bytes, of as many as there are: pickle itself first sets aside what is claimed."""
        (size,) = struct.unpack("<Q", self.read(8))
        held = self.read(size)
        if len(held) != size:
            raise EOFError("bytes that are not there")
        self.append(bytearray(held))

    dispatch: ClassVar[dict[int, Callable[[Any], None]]] = {
        **pickle._Unpickler.dispatch,
        pickle.TUPLE[0]: load_tuple,
        pickle.TUPLE1[0]: lambda self: self._load_last(1),
        pickle.TUPLE2[0]: lambda self: self._load_last(2),
        pickle.TUPLE3[0]: lambda self: self._load_last(3),
        pickle.BYTEARRAY8[0]: load_bytearray8,
    }


def _is_hostile(module: str, name: str) -> bool:
    root, _, _ = module.partition(".")
    if root in ("builtins", "__builtin__"):
        return name.split(".")[0] in _HOSTILE_BUILTINS
    # A dotted name may walk from a class to what Python hides in it; no nested class is called so.
    _, *nested = name.split(".")
    return root in _HOSTILE_MODULES or any(part.startswith("__") for part in nested)
