"""Archives of arrays that are none, damaged, or larger than they look."""

from __future__ import annotations

import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from codesign.errors import UserError
from codesign.npz import read_npz
from codesign.search.proxy_file import PROXY, read_proxy
from simulators.limits import bounded


def array(shape: str, descr: str = "'<f4'", data: bytes = bytes(16)) -> bytes:
    header = f"{{'descr': {descr}, 'fortran_order': False, 'shape': {shape}}}".ljust(117) + "\n"
    return b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header.encode() + data


def archive(path: Path, compression: int = zipfile.ZIP_STORED, **members: bytes) -> None:
    with zipfile.ZipFile(path, "w", compression) as file:
        for name, data in members.items():
            file.writestr(f"{name}.npy", data)


def of_one(content: bytes, compression: int = zipfile.ZIP_STORED) -> Callable[[Path], None]:
    return lambda path: archive(path, compression, loss=content)


def changed(at: int, value: int, compression: int) -> Callable[[Path], None]:
    """A byte behind the beginnings of the member's two headers is another."""

    def write(path: Path) -> None:
        archive(path, compression, loss=array("(2, 2)"))
        data = bytearray(path.read_bytes())
        data[data.index(b"PK\x03\x04") + at] = data[data.index(b"PK\x01\x02") + at + 2] = value
        path.write_bytes(data)

    return write


def single_array(path: Path) -> None:
    with path.open("wb") as file:
        np.save(file, np.ones(3))


DAMAGED: dict[str, Callable[[Path], object]] = {
    "one array": single_array,
    "a pickle": lambda path: path.write_bytes(pickle.dumps({"loss": 1})),
    "empty": lambda path: path.write_bytes(b""),
    "objects": of_one(array("(1,)", "'|O'")),
    "no header": of_one(b"\x93NUMPY\x01\x00\x06\x00{((((\n"),
    "fewer numbers than its shape": of_one(array("(100000, 100000)")),
    "a shape beyond any memory": of_one(array("(999999999999, 999999)")),
    "a negative shape": of_one(array("(-1, 2)")),
    "no whole numbers for a shape": of_one(array("(1.5, 2)")),
    "encrypted": changed(6, 1, zipfile.ZIP_STORED),
    "of no known compression": changed(8, 77, zipfile.ZIP_STORED),
    "damaged as lzma": changed(8, 14, zipfile.ZIP_DEFLATED),
}


@pytest.mark.parametrize("case", DAMAGED)
def test_a_damaged_archive_is_a_line(case: str, tmp_path: Path) -> None:
    DAMAGED[case](tmp_path / PROXY)
    with bounded(20):
        with pytest.raises(ValueError) as error:  # noqa: PT011 -- whatever is wrong
            read_npz(tmp_path / PROXY)
        with pytest.raises(UserError, match=r"is damaged \(.*\): repeat the search"):
            read_proxy(tmp_path)
    assert len(str(error.value).splitlines()) == 1


def test_what_an_archive_claims_is_bounded_before_it_is_expanded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    archive(tmp_path / "a.npz", zipfile.ZIP_DEFLATED, loss=array("(512, 512)", data=bytes(1 << 20)))
    assert (tmp_path / "a.npz").stat().st_size < 1 << 14
    assert not read_npz(tmp_path / "a.npz")["loss"].any()
    monkeypatch.setattr("codesign.npz.MOST_BYTES", 1 << 20)
    with pytest.raises(ValueError, match="claim 1,048,704 bytes, 1,048,576 at most"):
        read_npz(tmp_path / "a.npz")
