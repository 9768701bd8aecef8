"""What lies beside the weights is read as nothing, whatever it names, and nothing of it runs."""

from __future__ import annotations

import argparse
import collections
import datetime
import enum
import pathlib
import pickle
import resource
import sys
import types
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from codesign.errors import UserError
from codesign.models.formats import load_clip
from codesign.models.formats.files import read_tensors
from codesign.models.formats.pickles import Inert
from codesign.models.formats.torch_file import read_torch
from simulators.limits import bounded


class Colour(enum.Enum):
    RED = 1


class Settings:
    """A class of a training program, whose instances are pickled by their attributes."""

    def __init__(self) -> None:
        self.lr = 0.1

    class Inner:
        """And one in it."""


def beside() -> dict[str, Any]:
    """What training programs are seen to save; pickled by NumPy's names of today."""
    return {
        "learning rate": np.float64(1e-3),
        "step": np.int64(3),
        "flag": np.bool_(True),
        "array": np.arange(3.0),
        "objects": np.array([1, "a"], object),
        "dtype": np.dtype("float32"),
        "generator": np.random.default_rng(0),
        "numpy state": np.random.RandomState(0).get_state(),
        "arguments": argparse.Namespace(out=pathlib.PurePosixPath("/a"), lr=np.float32(1)),
        "counts": collections.Counter("aab"),
        "default": collections.defaultdict(list, {"a": [1]}),
        "queue": collections.deque([1, 2]),
        "set": {1, 2},
        "bytes": b"\xff\x00",
        "bytearray": bytearray(b"abc"),
        "complex": 1j,
        "slice": slice(1, 2),
        "enum": Colour.RED,
        "enum key": {Colour.RED: 1},
        "class": Settings,
        "instance": Settings(),
        "inner": Settings.Inner(),
        "function": beside,
        "time": datetime.datetime(2024, 1, 1),
        "error": ValueError("x"),
    }


def write_zip(path: Path, content: bytes) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("x/data.pkl", content)
    return path


@pytest.mark.parametrize("protocol", [2, 4])
@pytest.mark.parametrize("name", beside())
def test_anything_may_lie_beside(tmp_path: Path, name: str, protocol: int) -> None:
    content = pickle.dumps({"kept": 1, "other": beside()[name], "after": [2]}, protocol)
    found = read_torch(write_zip(tmp_path / "x.pt", content))
    assert found["kept"] == 1 and found["after"] == [2]


def test_names_of_numpy_1(tmp_path: Path) -> None:
    content = pickle.dumps({"lr": np.float64(1e-3), "array": np.ones(2)}, 2)
    assert content.count(b"numpy._core.") == 2
    found = read_torch(
        write_zip(tmp_path / "x.pt", content.replace(b"numpy._core.", b"numpy.core."))
    )
    assert all(isinstance(value, Inert) for value in found.values())


def test_nothing_named_is_run_or_imported(tmp_path: Path, monkeypatch: Any) -> None:
    ran: list[Any] = []

    class Probe:
        def __new__(cls, *args: Any) -> Probe:
            ran.append(args)
            return super().__new__(cls)

        def __setstate__(self, state: Any) -> None:
            ran.append(state)

    module = types.ModuleType("probe")
    module.call, module.Probe = ran.append, Probe
    monkeypatch.setitem(sys.modules, "probe", module)
    string = b"X\x04\x00\x00\x00true"
    pickles = {
        "REDUCE": b"\x80\x02cprobe\ncall\n" + string + b"\x85R.",
        "STACK_GLOBAL": b"\x80\x04\x8c\x05probe\x8c\x04call\x93" + string + b"\x85R.",
        "INST": b"\x80\x02(" + string + b"iprobe\ncall\n.",
        "OBJ": b"\x80\x02(cprobe\ncall\n" + string + b"o.",
        "NEWOBJ": b"\x80\x02cprobe\nProbe\n)\x81}" + string + b"I1\nsb.",
        "NEWOBJ_EX": b"\x80\x04cprobe\nProbe\n)}\x92.",
        "result": b"\x80\x02cprobe\ncall\n" + string + b"\x85R" + string + b"\x85R.",
        "getattr": b"\x80\x02c__builtin__\ngetattr\ncprobe\nProbe\n" + string + b"\x86R)R.",
        "reconstructor": b"\x80\x02ccopy_reg\n_reconstructor\ncprobe\nProbe\nc__builtin__\nobject\n"
        b"N\x87R.",
        "items": b"\x80\x02cprobe\nProbe\n)\x81" + string + b"I1\ns.",
        "append": b"\x80\x02cprobe\nProbe\n)\x81(I1\nI2\ne.",
        "unknown module": b"\x80\x02cno_such_module\nf\n)R.",
    }
    for content in pickles.values():
        found = read_torch(write_zip(tmp_path / "x.pt", content))
        assert isinstance(found, Inert)
    assert not ran and "no_such_module" not in sys.modules


HOSTILE = [
    "os.system",
    "posix.system",
    "nt.system",
    "subprocess.Popen",
    "builtins.eval",
    "__builtin__.exec",
    "builtins.__import__",
    "builtins.open",
    "importlib.import_module",
    "runpy.run_path",
    "shutil.rmtree",
    "socket.socket",
    "pickle.loads",
    "ctypes.CDLL",
]


@pytest.mark.parametrize("name", HOSTILE)
def test_an_attack_is_called_so(tmp_path: Path, name: str) -> None:
    content = b"\x80\x02}X\x01\x00\x00\x00ac%s\nX\x01\x00\x00\x00x\x85Rs."
    content %= "\n".join(name.rsplit(".", 1)).encode()
    with pytest.raises(UserError, match=f"asks to run '{name}'.*nothing was run"):
        read_torch(write_zip(tmp_path / "x.pt", content))


def altered(change: bytes) -> bytes:
    """A pickle that changes a tensor, or its storage, after it is checked."""
    storage = (
        b"(X\x07\x00\x00\x00storagectorch\nFloatStorage\n"
        b"X\x01\x00\x00\x000X\x03\x00\x00\x00cpuK\x02tQ"
    )
    if change == b"storage":
        return b"\x80\x02" + storage + b"}X\x05\x00\x00\x00countK\x63sb."
    return (
        b"\x80\x02}X\x01\x00\x00\x00actorch._utils\n_rebuild_tensor_v2\n("
        + storage
        + b"K\x00K\x02\x85K\x01\x85tR}X\x05\x00\x00\x00shapeK\x63\x85sbs."
    )


@pytest.mark.parametrize("what", [b"storage", b"tensor"])
def test_a_pickle_cannot_alter_what_was_checked(tmp_path: Path, what: bytes) -> None:
    write_zip(tmp_path / "x.pt", altered(what))
    with zipfile.ZipFile(tmp_path / "x.pt", "a") as archive:
        archive.writestr("x/data/0", bytes(8))
    with pytest.raises(UserError, match=r"not a torch checkpoint \(.*alters"):
        read_tensors(tmp_path / "x.pt")


def loop() -> dict[str, Any]:
    saved: dict[str, Any] = {"name": "x"}
    saved["model"] = saved
    return saved


def nest(depth: int) -> Any:
    saved: Any = {}
    for _ in range(depth):
        saved = {"model": saved}
    return saved


WITHOUT_WEIGHTS: dict[str, tuple[Callable[[], Any], str]] = {
    "a loop": (loop, "holds no state dict: its entries are name, model"),
    "a class": (lambda: Settings, "holds a class, not a state dict"),
    "an object": (Settings, r"a whole object \('.*Settings'\), not a state dict; save its"),
    "a model": (lambda: {"model": Settings()}, r"under 'model', not a state dict; save its"),
    "a list": (lambda: [1], "holds a list, not a state dict"),
    "no keys": (dict, "its entries are none"),
    "numbers": (lambda: {10**5000: 1, 3: 2}, "its entries are none"),
    "depth": (lambda: nest(300), "its entries are model"),
}


@pytest.mark.parametrize("case", WITHOUT_WEIGHTS)
def test_files_without_weights(tmp_path: Path, case: str) -> None:
    make, message = WITHOUT_WEIGHTS[case]
    write_zip(tmp_path / "x.pt", pickle.dumps(make(), 2))
    with pytest.raises(UserError, match=message) as told:
        read_tensors(tmp_path / "x.pt")
    assert "\n" not in str(told.value)


def test_damaged_and_foreign_zips(tmp_path: Path) -> None:
    """Compressed by each method and spoilt, encrypted, a name twice: one line each."""
    path = tmp_path / "x.pt"
    content = pickle.dumps({"a": list(range(1000))}, 2)
    for method in (zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA):
        with zipfile.ZipFile(path, "w", method) as archive:
            archive.writestr("x/data.pkl", content)
        spoilt = bytearray(path.read_bytes())
        spoilt[60:120] = bytes(60)
        path.write_bytes(spoilt)
        with pytest.raises(UserError, match=r"damaged|cannot read") as told:
            read_tensors(path)
        assert "\n" not in str(told.value) and "None" not in str(told.value)
    encrypted = bytearray(write_zip(path, content).read_bytes())
    for mark, offset in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        encrypted[encrypted.index(mark) + offset] |= 1
    path.write_bytes(encrypted)
    with pytest.raises(UserError, match="encrypted"):
        read_tensors(path)
    write_zip(path, content)
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("x/data.pkX", content)
    path.write_bytes(path.read_bytes().replace(b"data.pkX", b"data.pkl"))
    with pytest.raises(UserError, match="two members of the archive have one name"):
        read_tensors(path)


def test_a_memo_of_any_index_costs_nothing(tmp_path: Path) -> None:
    """Python's own reader in C sets 16 bytes aside for each index up to the largest."""
    index = (1 << 25).to_bytes(4, "little")
    write_zip(tmp_path / "x.pt", b"\x80\x02}r" + index + b"X\x01\x00\x00\x00aI1\ns.")
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert read_torch(tmp_path / "x.pt") == {"a": 1}
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100_000  # kB


def doubled(times: int) -> bytes:
    """Opcodes for a tuple of a tuple twice, and that twice, and so on."""
    steps = (b"h%ch%c\x86q%c0" % (i, i, i + 1) for i in range(times))
    return b"\x80\x02)q\x00" + b"".join(steps) + b"h" + bytes([times])


SIZE = b"ctorch\nSize\nq\xfa0"
EVER_LARGER = {
    "key": doubled(90) + b"}hZK\x01s.",
    "member of a set": doubled(90) + b"\x8f(hZ\x90.",
    "name": doubled(90) + b"0((X\x07\0\0\0storageX\x05\0\0\0floathZX\x03\0\0\0cpuK\x01tQ.",
    "deep": b"\x80\x02})" + b"\x85" * 1_000_000 + b"K\x01s.",
    "shape": b"\x80\x02" + SIZE + b")q\x00h\xfa](h\x00h\x00e\x85R.",
    "claimed": b"\x80\x05\x96" + (1 << 40).to_bytes(8, "little") + b".",
}


@pytest.mark.parametrize("case", EVER_LARGER)
def test_a_few_bytes_take_neither_long_nor_much(tmp_path: Path, case: str) -> None:
    with bounded(20), pytest.raises(UserError, match=r"damaged, cut off or not") as error:
        read_tensors(write_zip(tmp_path / "a.pt", EVER_LARGER[case]))
    assert len(str(error.value)) < 300


def test_tuples_may_be_keys_and_hold_tuples(tmp_path: Path) -> None:
    saved = {("a", (1, (2,))): 3, "b": bytearray(b"xyz"), "c": tuple([(1, 2)] * 9000)}
    assert read_torch(write_zip(tmp_path / "a.pt", pickle.dumps(saved, 5))) == saved
    del saved["b"]
    assert read_torch(write_zip(tmp_path / "a.pt", pickle.dumps(saved, 2))) == saved


def test_what_is_compressed_is_bounded_before_it_is_expanded(tmp_path: Path) -> None:
    path = tmp_path / "x.pt"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        archive.writestr("x/data.pkl", bytes(65 << 20))
    assert path.stat().st_size < 1 << 20
    with pytest.raises(UserError, match="compressed and claims 68,157,440 bytes"):
        read_tensors(path)


def saved_by_torch(tmp_path: Path, values: Any) -> dict[str, Any]:
    torch = pytest.importorskip("torch")
    torch.save(values(torch), tmp_path / "x.pt")
    return dict(read_torch(tmp_path / "x.pt"))


def test_tensors_that_repeat_their_numbers(tmp_path: Path) -> None:
    """By strides, as `expand` makes them; too many for a weight hinder only who reads them."""
    found = saved_by_torch(
        tmp_path,
        lambda torch: {
            "bias": torch.tensor([0.25]).expand(24),
            "table": torch.arange(3.0)[:, None].expand(3, 4),
            "windows": torch.arange(5.0).as_strided((3, 3), (1, 1)),
            "huge": torch.ones(1).expand(1 << 40),
        },
    )
    np.testing.assert_array_equal(found["bias"].read(), np.full(24, 0.25, np.float32))
    np.testing.assert_array_equal(found["table"].read(), np.arange(3)[:, None].repeat(4, 1))
    np.testing.assert_array_equal(found["windows"].read(), [[0, 1, 2], [1, 2, 3], [2, 3, 4]])
    with pytest.raises(UserError, match=r"4 bytes repeated to 4,398,.*; save it with .contiguous"):
        found["huge"].read()


def test_a_repeated_weight_of_any_size_costs_nothing(
    tmp_path: Path, files: dict[str, Path]
) -> None:
    torch = pytest.importorskip("torch")
    weights = {
        name.removeprefix("module."): torch.tensor(tensor.read())
        for name, tensor in read_tensors(files["openclip"] / "epoch_3.pt").tensors.items()
    }
    table = weights["token_embedding.weight"]
    weights["token_embedding.weight"] = table[:1].expand(900_000, table.shape[1])
    torch.save(weights, tmp_path / "x.pt")
    with bounded(20), pytest.raises(UserError, match=r"'token_embedding.weight' is .* repeated to"):
        load_clip(tmp_path / "x.pt", head_dim=(8, 4), activation="quick_gelu")


def test_signs_that_torch_has_only_noted(tmp_path: Path) -> None:
    found = saved_by_torch(
        tmp_path,
        lambda torch: {
            "negative": torch._neg_view(torch.arange(3.0)),
            "half": torch._neg_view(torch.arange(3.0).bfloat16()),
            "conjugate": torch.tensor([1 + 2j]).conj(),
            "imaginary": torch.tensor([1 + 2j]).conj().imag.clone(),
        },
    )
    np.testing.assert_array_equal(found["negative"].read(), [0, -1, -2])
    np.testing.assert_array_equal(found["half"].read().astype(np.float32), [0, -1, -2])
    np.testing.assert_array_equal(found["conjugate"].read(), [1 - 2j])
    np.testing.assert_array_equal(found["imaginary"].read(), [-2])


def test_marks_that_are_not_known(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    torch.save({"a": torch._neg_view(torch.ones(3)), "b": torch.ones(2)}, tmp_path / "x.pt")
    with (
        zipfile.ZipFile(tmp_path / "x.pt") as archive,
        zipfile.ZipFile(tmp_path / "y.pt", "w") as changed,
    ):
        for name in archive.namelist():
            changed.writestr(name, archive.read(name).replace(b"neg", b"odd"))
    found = read_torch(tmp_path / "y.pt")
    np.testing.assert_array_equal(found["b"].read(), [1, 1])
    with pytest.raises(UserError, match=r"marked \['odd'\], which cannot be done to it"):
        found["a"].read()
